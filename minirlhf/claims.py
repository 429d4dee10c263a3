"""What people say of SFT and RL, and what the runs of `tools/study.py` say to it.

    effect   d = 1/S Σ_s Σ_k c_k m_k(seed s)       m_k: a measure of one arm on one set of prompts, c_k = ±1
    its p    the larger of t's over the seeds and the bootstrap's, 2 (1 + #{d* d <= 0}) / (B + 1)
    claim    of K effects: the largest p if all are above 0, else K times the smallest p of those below
    verdict  holds here, or does not hold here (an effect is below 0), where the claim's p, adjusted by Holm
             over all claims of the task, is at most 5 %; else not shown

The interval shown is the plain 95 % one, the wider of the two. Bootstrap: seeds, then prompts within each,
both arms on the same resample; with three seeds it alone misses in 13 to 15 %. Student's t: each seed has
its own data, models and prompts, so that their spread holds all the noise there is. What was not run is "not
run"; a diverged run counts as it ended. Proved by tests/test_claims.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan, nan

import numpy as np

from minirlhf.analysis import ratio
from minirlhf.calibration import calibration_statistics, ece_from_statistics
from minirlhf.intervals import bootstrap_interval, percentiles, resample_counts
from minirlhf.metrics import expected_best_of_n
from minirlhf.seeds import independent_t
from minirlhf.stats import holm, sign_test

Cells = dict[tuple[str, int, str], dict]  # (task, seed, arm) -> a line of results
BEST_OF = (1, 2, 4, 8, 16)
FLOOR = 0.1  # reward
ALPHA = 0.05  # the chance of any false verdict on a task


@dataclass(frozen=True)
class Measure:
    """A quantity as sufficient statistics of each prompt and a function of their sum."""

    statistics: Callable[[dict], np.ndarray]  # a set's part of a line -> (n, d)
    value: Callable[[np.ndarray], np.ndarray]  # sums (B, d) -> (B,)
    yes_or_no: bool = False  # 1 or 0 of a whole run: it gets the exact sign test over seeds, and no interval


@dataclass(frozen=True)
class Term:
    """± a measure of an arm on a set of prompts."""

    sign: int
    arm: str
    set: str = "test"
    measure: str = "reward"


@dataclass(frozen=True)
class Effect:
    """A sum of terms that a claim says is above 0."""

    name: str
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Claim:
    """What is said, and the effects that must all be above 0 for it to hold.

    It is not shown where none of `need` reaches FLOOR: who earns nothing on a set of prompts cannot fall, and the
    loss of who earned more inside of training is the larger for that alone.
    """

    topic: str
    text: str
    effects: tuple[Effect, ...]
    need: tuple[Term, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """An effect over the seeds that have all its arms. nan where there are none."""

    value: float
    low: float
    high: float
    p_value: float  # two-sided, of this effect alone; nan for one seed
    seeds: dict[int, float]


@dataclass(frozen=True)
class Finding:
    """A claim with what was found."""

    claim: Claim
    effects: tuple[Estimate, ...]
    floor: bool  # none of its `need` reaches FLOOR
    p_value: float  # adjusted; nan where undefined, not run or at the floor
    verdict: str


def mean(key: str, per: str = "") -> Measure:
    """Mean over prompts, or the ratio of two sums. A prompt on which it is not defined (None) is left out."""
    def statistics(part: dict) -> np.ndarray:
        over = part[per] if per else [1.0] * len(part[key])
        return np.array([(0.0, 0.0) if x is None else (x, w) for x, w in zip(part[key], over)])  # (n, 2)

    return Measure(statistics, ratio)


def best_of(n: int) -> Measure:
    """Mean over prompts of the best reward among n samples, unbiased from all that were drawn."""
    def statistics(part: dict) -> np.ndarray:
        best = [expected_best_of_n(x, x, n) if n <= len(x) else None for x in part["rewards"]]
        return mean("best").statistics({"best": best})  # (n, 2)

    return Measure(statistics, ratio)


def calibration(part: dict) -> np.ndarray:
    """(n, M + 1): what the calibration error is made of, prompt by prompt."""
    return np.array([calibration_statistics(*pair) for pair in zip(part["confidence"], part["correct"])])


MEASURES = {
    "reward": Measure(lambda part: np.array([(np.mean(x), 1.0) for x in part["rewards"]]), ratio),
    "greedy": mean("greedy"),
    "KL": mean("kl"),
    "length": mean("length"),
    "entropy": mean("entropy", "tokens"),
    "distinct answers": mean("distinct"),
    "distinct-2": mean("distinct2"),
    "EAD-2": mean("ead2"),
    "self-BLEU": mean("self_bleu"),
    "perplexity": Measure(mean("nll", "nll_tokens").statistics, lambda sums: np.exp(ratio(sums))),
    "ECE": Measure(calibration, ece_from_statistics),
    "cpu": mean("cpu"),
    "trained": mean("trained"),
    "us a token": mean("us_a_token"),
    "diverged": Measure(mean("diverged").statistics, ratio, yes_or_no=True),
} | {f"best of {n}": best_of(n) for n in BEST_OF}
PROSE_DRIFT = {"distinct-2": -1, "EAD-2": -1, "self-BLEU": 1}
DRIFT = {"entropy": -1, "distinct answers": -1} | PROSE_DRIFT | {"perplexity": 1, "ECE": 1}  # where RL is said to go


def nested_bootstrap(
    runs: Sequence[Sequence[np.ndarray]], value: Callable[[list[np.ndarray]], np.ndarray], n: int = 10_000
) -> np.ndarray:
    """n resampled means over seeds of a function of each seed's sums: (n,).

    runs: each seed's tables, (prompts, d), of its sets of prompts.  value: sums (B, d) of each -> (B,).
    Draw S seeds with replacement; of each that is drawn, and anew each time, its prompts with replacement.
    Source: Davison and Hinkley 1997, section 3.8.
    """
    rng = np.random.default_rng(0)
    S, total = len(runs), np.zeros(n)
    for drawn in rng.integers(0, S, (S, n)):  # (n,)
        for s, tables in enumerate(runs):
            rows = drawn == s
            weights = [resample_counts(len(table), int(rows.sum()), rng) for table in tables]
            sums = [np.concatenate([w @ table for w in ws]) for ws, table in zip(weights, tables)]  # (B, d)
            total[rows] += value(sums) / S
    return total


def estimate(cells: Cells, task: str, terms: Sequence[Term]) -> Estimate:
    """The effect, its interval and p-value, and its value for every seed that has all the arms."""
    sets = sorted({term.set for term in terms})
    seeds = sorted({s for t, s, _ in cells if t == task and all((t, s, term.arm) in cells for term in terms)})
    parts = [[(term, MEASURES[term.measure]) for term in terms if term.set == name] for name in sets]
    if not seeds:
        return Estimate(nan, nan, nan, nan, {})
    runs = []
    for s in seeds:
        tables = [[m.statistics(cells[task, s, t.arm]["sets"][t.set]) for t, m in part] for part in parts]
        runs.append([np.hstack(columns) for columns in tables])  # (n, Σ d) a set
    widths = [[x.shape[1] for x in columns] for columns in tables]

    def value(sums: list[np.ndarray]) -> np.ndarray:
        total = 0.0
        for part, columns, width in zip(parts, sums, widths):
            pieces = np.split(columns, np.cumsum(width)[:-1], axis=1)
            total = total + sum(t.sign * m.value(piece) for (t, m), piece in zip(part, pieces))
        return total  # (B,)

    each = {s: float(value([table.sum(0, keepdims=True) for table in run])[0]) for s, run in zip(seeds, runs)}
    d = np.array(list(each.values()))  # (S,)
    average = float(d.mean())
    if any(m.yes_or_no for part in parts for _, m in part):
        return Estimate(average, nan, nan, sign_test(int((d > 0).sum()), int((d < 0).sum())), each)
    resampled = nested_bootstrap(runs, value)  # (B,)
    low, high = percentiles(resampled, 0.95)
    over_seeds, p_value = independent_t(d)
    if len(d) > 1:
        low, high = float(np.minimum(low, over_seeds[0])), float(np.maximum(high, over_seeds[1]))
    against = int((~(resampled * average > 0)).sum())  # 0 and nan count as well
    p_value = float(np.maximum(p_value, min(1.0, 2 * (1 + against) / (1 + len(resampled)))))
    return Estimate(average, low, high, p_value, each)


def decisive(effects: Sequence[Estimate]) -> Estimate:
    """The effect a claim stands or falls with: the surest of those below 0, or else the least sure of all."""
    def key(x: Estimate) -> tuple[float, float]:
        return x.p_value, -abs(x.value)

    below = [x for x in effects if x.value < 0]
    return min(below, key=key) if below else max(effects, key=key)


def claim_p_value(effects: Sequence[Estimate]) -> float:
    """Two-sided: the largest p if all are above 0, else K times the smallest of those below. nan if one is."""
    x = decisive(effects)
    chances = len(effects) if x.value < 0 else 1
    return nan if any(isnan(e.p_value) for e in effects) else min(1.0, chances * x.p_value)


def verdict(effects: Sequence[Estimate], p_value: float) -> str:
    """The rule of this file's head. p_value: the claim's, adjusted; nan shows nothing."""
    if any(not x.seeds for x in effects):
        return "not run"
    if not p_value <= ALPHA:
        return "not shown"
    return "does not hold here" if decisive(effects).value < 0 else "holds here"


def findings(cells: Cells, task: str, all_claims: Sequence[Claim]) -> list[Finding]:
    """What the results say to each claim. all_claims: all that are tested on the task, the family of Holm."""
    effects = [tuple(estimate(cells, task, e.terms) for e in claim.effects) for claim in all_claims]
    needed = [[estimate(cells, task, [term]).value for term in claim.need] for claim in all_claims]
    floors = [bool(values) and max(values) < FLOOR for values in needed]
    adjusted = holm([nan if floor else claim_p_value(found) for found, floor in zip(effects, floors)])
    rows = zip(all_claims, effects, floors, adjusted.tolist())
    return [Finding(claim, found, floor, p, verdict(found, p)) for claim, found, floor, p in rows]


def with_divergence(cells: Cells) -> Cells:
    """Every line with `diverged` in its set "run": 1 for a run that diverged, else 0.

    It did if training was cut off because losses or gradients were not finite, or if it ended worse than it
    started: if the 95 % interval, over prompts, of its reward less that of the arm it started from is below 0.
    """
    out = {}
    for (task, seed, arm), line in cells.items():
        bad, start = bool(line["failed"]), cells.get((task, seed, line["start"]))
        if start is not None:
            after, before = (np.array(x["sets"]["test"]["rewards"]).mean(1) for x in (line, start))  # (n,) each
            bad |= bootstrap_interval(after - before)[1] < 0
        run = line["sets"]["run"] | {"diverged": [float(bad)]}
        out[task, seed, arm] = line | {"sets": line["sets"] | {"run": run}}
    return out


def difference(name: str, up: Term | str, down: Term | str) -> Effect:
    """up − down; a word is an arm, by its reward on the test prompts."""
    a, b = (x if isinstance(x, Term) else Term(1, x) for x in (up, down))
    return Effect(name, (a, Term(-1, b.arm, b.set, b.measure)))


def claims(labels: Sequence[int], sets: Sequence[str], prose: bool) -> list[Claim]:
    """All that is tested on a task. labels: numbers of examples, rising.  sets: those outside of training.

    prose: answers are texts, and some demonstrations earn more than others.
    """
    few, most = min(labels), max(labels)
    sft, ppo, more = f"sft{most}", f"ppo{most}", f"more{most}"
    drift = {k: v for k, v in DRIFT.items() if prose or k not in PROSE_DRIFT}

    def moved(by: str, beyond: str, key: str) -> Effect:
        pair = (by, beyond) if drift[key] > 0 else (beyond, by)
        return difference(f"{pair[0]} - {pair[1]}", *(Term(1, arm, "test", key) for arm in pair))

    def gap(arm: str, name: str, sign: int) -> tuple[Term, Term]:
        return Term(sign, arm), Term(-sign, arm, name)

    return [
        Claim("labels", "SFT needs labels", (difference(f"{sft} - sft{few}", sft, f"sft{few}"),)),
        *(Claim("labels", f"after SFT on {n:,} labels, PPO without labels adds more than SFT continued", (
            difference(f"ppo{n} - sft{n}", f"ppo{n}", f"sft{n}"),
            difference(f"ppo{n} - more{n}", f"ppo{n}", f"more{n}"))) for n in labels),
        *(Claim("labels", f"PPO and {n:,} labels do better than SFT on {most:,}", (
            difference(f"ppo{n} - {sft}", f"ppo{n}", sft),)) for n in labels if n < most),
        Claim("labels", "RL needs no labels at all", (
            difference("ppo0 - base", "ppo0", "base"), difference(f"ppo0 - {sft}", "ppo0", sft))),
        Claim("arms", "RL needs SFT first", (difference(f"{ppo} - ppo0", ppo, "ppo0"),)),
        Claim("arms", "what PPO gains is the reward's doing", (
            difference(f"{ppo} - {sft}", ppo, sft), difference(f"{ppo} - random", ppo, "random"),
            difference(f"{ppo} - longest", ppo, "longest"))),
        *(Claim("arms", f"PPO does better than the best of {n} samples of SFT", (
            difference(f"{ppo} - best of {n}", ppo, Term(1, sft, "test", f"best of {n}")),)) for n in BEST_OF[1:]),
        *(Claim("generalisation", f"RL generalises better: it loses less from test to {name}", (
            Effect(f"loss of {more} - loss of {ppo}", (*gap(more, name, 1), *gap(ppo, name, -1))),),
            need=tuple(Term(1, arm, name) for arm in (more, ppo))) for name in sets),
        *(Claim("generalisation", f"RL does better on {name} prompts", (
            difference(f"{ppo} - {more}", Term(1, ppo, name), Term(1, more, name)),)) for name in sets),
        Claim("cost", "RL is expensive: SFT for the same CPU time does better", (
            difference(f"{more} - {ppo}", more, ppo),)),
        *([Claim("cost", "RL is not needed: SFT on the best-rewarded labels, for the same CPU time, does better", (
            difference(f"picked - {ppo}", "picked", ppo),))] if prose else []),
        Claim("cost", "a token of PPO takes longer than one of SFT", (difference(
            f"{ppo} - {more}, microseconds", Term(1, ppo, "run", "us a token"), Term(1, more, "run", "us a token")),)),
        Claim("stability", "RL is unstable: 5 times the learning rate costs PPO more than SFT", (Effect(
            f"({ppo} - ppo-hot) - ({more} - sft-hot)",
            (Term(1, ppo), Term(-1, "ppo-hot"), Term(-1, more), Term(1, "sft-hot"))),)),
        Claim("stability", "RL is unstable: at 5 times the learning rate more runs of PPO than of SFT diverge", (
            difference("share of runs, ppo-hot - sft-hot", Term(1, "ppo-hot", "run", "diverged"),
                       Term(1, "sft-hot", "run", "diverged")),)),
        *(Claim("drift", f"RL {'raises' if drift[key] > 0 else 'lowers'} {key}, more than with a random reward", (
            moved(ppo, sft, key), moved(ppo, "random", key))) for key in drift),
    ]  # fmt: skip
