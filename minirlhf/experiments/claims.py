"""What people say of SFT and RL, and what the runs of `tools/sft_against_rl.py` say to it.

    effect   d = 1/S Σ_s Σ_k c_k m_k(seed s)       m_k: a measure of one arm on one set of prompts, c_k = ±1
    its p    the larger of two: t's over the seeds, and the bootstrap's 2 (1 + #{d* d <= 0}) / (B + 1)
    claim    its p, with K effects: the largest p if all are above 0, else K times the smallest p of those below
    verdict  "holds here", or "does not hold here" if an effect is below 0, where the claim's p, adjusted by
             Holm over all claims of the task, is at most 5 %; else "not shown"

The interval shown is the plain 95 % one, the wider of the two. The bootstrap draws seeds, then prompts within each;
both arms share the resample. With three seeds it alone misses in 13 to 15 % of cases. Student's t takes the spread of
the seeds. Each seed has its own data, models and prompts, so this spread holds all the noise. A claim without its runs
is "not run". A diverged run counts as it ended. Proved by tests/experiments/test_claims.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isnan, nan

import numpy as np

from minirlhf.evaluation.metric import ratio
from minirlhf.metrics.calibration import ece_from_statistics
from minirlhf.metrics.intervals import corpus_interval, percentiles, resample_counts
from minirlhf.metrics.paired_tests import holm, sign_test
from minirlhf.metrics.scores import perplexity
from minirlhf.metrics.training_runs import independent_t

Cells = dict[tuple[str, int, str], dict]  # (task, seed, arm) -> a line of results
BEST_OF = (2, 4, 8, 16)
FLOOR = 0.1  # reward
ALPHA = 0.05  # the chance of any false verdict on a task
COMBINE = {  # measure -> its value from the sums of its statistics, where it is not their ratio
    "reference perplexity": lambda sums: perplexity(sums[:, 0], sums[:, 1]), "calibration error": ece_from_statistics,
}  # fmt: skip


@dataclass(frozen=True)
class Term:
    """A measure of one arm on one set of prompts, with a sign."""

    sign: int
    arm: str
    set: str = "test"
    measure: str = "reward"  # a metric of `questions.measure_model`

    def combine(self, sums: np.ndarray) -> np.ndarray:
        """The measure from sums of its statistics: (B, d) -> (B,)."""
        return COMBINE.get(self.measure, ratio)(sums)


@dataclass(frozen=True)
class Effect:
    """A sum of terms that a claim says is above 0."""

    name: str
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Claim:
    """What is said, and the effects that must all be above 0 for it to hold.

    It is not shown where no arm of `need` reaches FLOOR: an arm that earns nothing on a set of prompts cannot fall.
    """

    topic: str
    text: str
    effects: tuple[Effect, ...]
    need: tuple[Term, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """An effect over the seeds that have all its arms; nan if there are none."""

    value: float
    low: float
    high: float
    p_value: float  # two-sided, of this effect alone; nan for one seed
    seeds: dict[int, float]


@dataclass(frozen=True)
class ClaimResult:
    """A claim with what was found."""

    claim: Claim
    effects: tuple[Estimate, ...]
    floor: bool  # no arm of its `need` reaches FLOOR
    p_value: float  # adjusted; nan where undefined, not run or at the floor
    verdict: str


def drift_measures(prose: bool) -> dict[str, tuple[str, int]]:
    """What RL is said to change -> the measure, and the sign of the change. prose: answers are texts."""
    found = {"entropy": ("entropy, nats/token", -1), "distinct answers": ("distinct answers", -1)}
    if prose:
        found |= {"distinct-2": ("distinct-2 per prompt", -1), "EAD-2": ("EAD-2", -1)}
        found |= {"self-BLEU": ("self-BLEU per prompt", 1)}
    return found | {"perplexity": ("reference perplexity", 1), "ECE": ("calibration error", 1)}


def nested_bootstrap(
    runs: Sequence[Sequence[Sequence[np.ndarray]]], value: Callable[[list[np.ndarray]], np.ndarray], n: int = 10_000
) -> np.ndarray:
    """n resampled means over seeds of `value`, a function of one seed's sums: (n,).

    runs[seed][set of prompts] is a list of tables (prompts, d).  value: the sums (B, d) of all its tables -> (B,).
    Each resample draws S seeds with replacement. Each time that a seed is drawn, its prompts are drawn anew.
    Source: Davison and Hinkley 1997, section 3.8, strategy 2. They prefer the narrower one, which keeps a seed whole.
    """
    S, total = len(runs), np.zeros(n)
    for s, rows, draws in draws_of(tuple(tuple(len(tables[0]) for tables in sets) for sets in runs), n):
        # The tables of one set share the draw of prompts.
        pairs = [(weights, table) for weights, tables in zip(draws, runs[s]) for table in tables]
        sums = [np.concatenate([w @ table for w in weights]) for weights, table in pairs]  # (B, d) each
        total[rows] += value(sums) / S
    return total


@lru_cache(maxsize=1)
def draws_of(sizes: tuple[tuple[int, ...], ...], n: int) -> list[tuple[int, np.ndarray, list[list[np.ndarray]]]]:
    """(seed, the resamples that draw it (n,), how often each of its prompts, per set and chunk), over S draws.

    All effects on runs of the same sizes[seed][set] share the draws: they are half the time of a report.
    """
    rng, S, found = np.random.default_rng(0), len(sizes), []
    for drawn in rng.integers(0, S, (S, n)):  # (n,)
        for s, prompts in enumerate(sizes):
            rows = drawn == s
            found.append((s, rows, [list(resample_counts(P, int(rows.sum()), rng)) for P in prompts]))
    return found


def estimate(cells: Cells, task: str, terms: Sequence[Term]) -> Estimate:
    """The effect, its interval and p-value, and its value for every seed that has all the arms."""
    seeds = sorted({s for t, s, _ in cells if t == task and all((t, s, term.arm) in cells for term in terms)})
    parts = [[t for t in terms if t.set == name] for name in sorted({t.set for t in terms})]
    if not seeds:
        return Estimate(nan, nan, nan, nan, {})
    found = {s: {arm: cells[task, s, arm]["sets"] for arm in {t.arm for t in terms}} for s in seeds}
    runs = [[[np.array(found[s][t.arm][t.set][t.measure]) for t in part] for part in parts] for s in seeds]

    def value(sums: Sequence[np.ndarray]) -> np.ndarray:
        return sum(t.sign * t.combine(x) for t, x in zip(sum(parts, []), sums))  # (B,)

    each = {s: float(value([x.sum(0, keepdims=True) for x in sum(run, [])])[0]) for s, run in zip(seeds, runs)}
    d = np.array(list(each.values()))  # (S,)
    average = float(d.mean())
    if any(term.measure == "diverged" for term in terms):  # 1 or 0 per run
        return Estimate(average, nan, nan, sign_test(int((d > 0).sum()), int((d < 0).sum())), each)
    resampled = nested_bootstrap(runs, value)  # (B,)
    low, high = percentiles(resampled)
    over_seeds, p_value = independent_t(d)
    if len(d) > 1:
        low, high = float(np.minimum(low, over_seeds[0])), float(np.maximum(high, over_seeds[1]))
    against = int((~(resampled * average > 0)).sum())  # 0 and nan count as against
    p_value = float(np.maximum(p_value, min(1.0, 2 * (1 + against) / (1 + len(resampled)))))
    return Estimate(average, low, high, p_value, each)


def decisive(effects: Sequence[Estimate]) -> Estimate:
    """The effect that decides a claim: the surest of those below 0; if none is, the least sure of all."""
    def key(x: Estimate) -> tuple[float, float]:
        return x.p_value, -abs(x.value)

    below = [x for x in effects if x.value < 0]
    return min(below, key=key) if below else max(effects, key=key)


def claim_p_value(effects: Sequence[Estimate]) -> float:
    """Two-sided: the largest p if all are above 0, else K times the smallest p of those below; nan if any p is."""
    x = decisive(effects)
    chances = len(effects) if x.value < 0 else 1
    return nan if any(isnan(e.p_value) for e in effects) else min(1.0, chances * x.p_value)


def claim_verdict(effects: Sequence[Estimate], p_value: float) -> str:
    """The rule of this file's head. p_value: the claim's, adjusted; nan shows nothing."""
    if any(not x.seeds for x in effects):
        return "not run"
    if not p_value <= ALPHA:
        return "not shown"
    return "does not hold here" if decisive(effects).value < 0 else "holds here"


def claim_results(cells: Cells, task: str, all_claims: Sequence[Claim]) -> list[ClaimResult]:
    """What the results say to each claim. all_claims: all that are tested on the task; Holm adjusts over them."""
    effects = [tuple(estimate(cells, task, e.terms) for e in claim.effects) for claim in all_claims]
    needed = [[estimate(cells, task, [term]).value for term in claim.need] for claim in all_claims]
    floors = [bool(values) and max(values) < FLOOR for values in needed]
    adjusted = holm([nan if floor else claim_p_value(found) for found, floor in zip(effects, floors)])
    rows = zip(all_claims, effects, floors, adjusted.tolist())
    return [ClaimResult(claim, found, floor, p, claim_verdict(found, p)) for claim, found, floor, p in rows]


def with_divergence(cells: Cells) -> Cells:
    """Every line with `diverged` in its set "run": 1 for a run that diverged, else 0.

    A run diverged if training was cut off, or if the 95 % interval of what it gained, over prompts, is below 0.
    """
    out = {}
    for (task, seed, arm), line in cells.items():
        bad, start = bool(line["failed"]), cells.get((task, seed, line["start"]))
        if start is not None:
            after, before = (ratio(np.array(x["sets"]["test"]["reward"])) for x in (line, start))  # (n,) each
            gain = after - before  # (n,)
            bad |= gain.max() < 0 or corpus_interval(gain[:, None], lambda sums: sums[:, 0])[1] < 0
        run = line["sets"]["run"] | {"diverged": [[float(bad), 1.0]]}
        out[task, seed, arm] = line | {"sets": line["sets"] | {"run": run}}
    return out


def difference(up: Term | str, down: Term | str, name: str = "") -> Effect:
    """up − down. A str is an arm, by its reward on the test prompts.  name: "up - down" by their arms, if not given."""
    a, b = (x if isinstance(x, Term) else Term(1, x) for x in (up, down))
    return Effect(name or f"{a.arm} - {b.arm}", (a, Term(-1, b.arm, b.set, b.measure)))


def claims(labels: Sequence[int], sets: Sequence[str], prose: bool) -> list[Claim]:
    """All claims of a task.  labels: rising.  sets: of prompts unlike those of training.  prose: answers are texts."""
    few, most = min(labels), max(labels)
    sft, ppo, more = f"sft{most}", f"ppo{most}", f"more{most}"

    def moved(beyond: str, measure: str, sign: int) -> Effect:
        return difference(*(Term(1, arm, "test", measure) for arm in (ppo, beyond)[::sign]))

    def gap(arm: str, name: str, sign: int) -> tuple[Term, Term]:
        return Term(sign, arm), Term(-sign, arm, name)

    return [
        Claim("labels", "SFT needs labels", (difference(sft, f"sft{few}"),)),
        *(Claim("labels", f"after SFT on {n:,} labels, PPO without labels adds more than SFT continued", (
            difference(f"ppo{n}", f"sft{n}"), difference(f"ppo{n}", f"more{n}"))) for n in labels),
        *(Claim("labels", f"PPO and {n:,} labels do better than SFT on {most:,}", (
            difference(f"ppo{n}", sft),)) for n in labels if n < most),
        Claim("labels", "RL needs no labels at all", (difference("ppo0", "base"), difference("ppo0", sft))),
        Claim("arms", "RL needs SFT first", (difference(ppo, "ppo0"),)),
        Claim("arms", "what PPO gains is the reward's doing", (
            difference(ppo, sft), difference(ppo, "random"), difference(ppo, "longest"))),
        *(Claim("arms", f"PPO does better than the best of {n} samples of SFT", (difference(
            ppo, Term(1, sft, "test", f"reward, best of {n}"), f"{ppo} - best of {n}"),)) for n in BEST_OF),
        *(Claim("generalisation", f"RL generalises better: it loses less from test to {name}", (
            Effect(f"loss of {more} - loss of {ppo}", (*gap(more, name, 1), *gap(ppo, name, -1))),),
            need=tuple(Term(1, arm, name) for arm in (more, ppo))) for name in sets),
        *(Claim("generalisation", f"RL does better on {name} prompts", (
            difference(Term(1, ppo, name), Term(1, more, name)),)) for name in sets),
        Claim("cost", "RL is expensive: SFT for the same CPU time does better", (difference(more, ppo),)),
        *([Claim("cost", "RL is not needed: SFT on the best-rewarded labels, for the same CPU time, does better", (
            difference("picked", ppo),))] if prose else []),
        Claim("cost", "a token of PPO takes longer than one of SFT", (difference(*(
            Term(1, arm, "run", "us a token") for arm in (ppo, more)), f"{ppo} - {more}, microseconds"),)),
        Claim("stability", "RL is unstable: 5 times the learning rate costs PPO more than SFT", (Effect(
            f"({ppo} - ppo-hot) - ({more} - sft-hot)",
            (Term(1, ppo), Term(-1, "ppo-hot"), Term(-1, more), Term(1, "sft-hot"))),)),
        Claim("stability", "RL is unstable: at 5 times the learning rate more runs of PPO than of SFT diverge", (
            difference(*(Term(1, arm, "run", "diverged") for arm in ("ppo-hot", "sft-hot")),
                       "share of runs, ppo-hot - sft-hot"),)),
        *(Claim("drift", f"RL {'raises' if sign > 0 else 'lowers'} {name}, more than with a random reward", (
            moved(sft, measure, sign), moved("random", measure, sign)))
          for name, (measure, sign) in drift_measures(prose).items()),
    ]  # fmt: skip
