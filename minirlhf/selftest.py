"""The evaluator put to the test: does it measure what it says, on this machine? (evaluate.py --selftest)

    goldens        scores, intervals and tests against closed forms and published values
    known policy   a GPT so small that all it can say is listed: estimates from samples against the truth
    error rates    true nulls are rejected in 5 %, intervals miss in 5 %, a detectable effect is found in 80 %
    alarms         each rings on evidence that deserves it, and none on healthy evidence

Nothing is read from disk, and all of it is a function of the seed. What rests on chance may be ERRORS
standard errors off. Proved by tests/test_selftest.py, with planted defects.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy

import numpy as np
import torch

from minirlhf import intervals, metrics, oracle, regret, stats
from minirlhf.alarms import alarms
from minirlhf.analysis import ratio, regret_metrics
from minirlhf.checks import Finding
from minirlhf.evaluation import token_statistics
from minirlhf.files import UserError
from minirlhf.generation import generate
from minirlhf.goldens import GOLDENS
from minirlhf.model import GPT, GPTConfig
from minirlhf.overlap import bleu_from_statistics

ERRORS = 4  # one check in 16,000 is further off by chance
BETA = 0.3


def finding(name: str, ok: bool, seen: str, expected: str, why: str) -> Finding:
    remedy = "trust no figure that rests on it; restore minirlhf/ and numpy, or report it with this line"
    return Finding(name, bool(ok), f"seen {seen}, expected {expected}", why, remedy)


def goldens() -> Iterator[Finding]:
    """Every row of GOLDENS; a function that raises is broken as well."""
    for name, compute, expected, tolerance in GOLDENS:
        wanted = " ".join(f"{x:.10g}" for x in np.atleast_1d(expected))
        try:
            seen = np.asarray(compute(), dtype=float)
            ok = seen.shape == np.shape(expected) and bool((np.abs(seen - expected) <= tolerance).all())
            shown = " ".join(f"{x:.10g}" for x in np.atleast_1d(seen))
        except Exception as error:  # whatever a broken installation raises
            ok, shown = False, f"{type(error).__name__}: {error}"
        yield finding(name, ok, shown, wanted, "a figure of that name is not what others call so")


def estimated(name: str, exact: float, statistic: Callable, x: np.ndarray) -> Finding:
    """statistic(x) against the exact value, by its bootstrap standard error. x: (n,)."""
    rng = np.random.default_rng(0)
    again = [statistic(rng.choice(x, len(x))) for _ in range(100)]
    return close(name, float(statistic(x)), float(exact), float(np.std(again)))


def close(name: str, seen: float, exact: float, error: float) -> Finding:
    why = "what is estimated from samples is not what it is said to be"
    return finding(name, abs(seen - exact) <= ERRORS * error, f"{seen:.4f} ±{error:.4f}", f"{exact:.4f}", why)


def known_models() -> tuple[oracle.TokenMDP, GPT, GPT]:
    """A random GPT as reference, and what 30 exact gradient steps on J make of it as policy."""
    mdp = oracle.TokenMDP(4, 0, 4, ((2,), (3, 1, 2)), lambda prompt, said: min(said.count(1), 2) / 2)
    noise = torch.Generator().manual_seed(1)
    ref = GPT(GPTConfig(mdp.vocab_size, context=8, layers=1, heads=2, width=16)).eval()
    for p in ref.parameters():
        p.data = 1.0 * (p.data.mean() > 0.5) + 0.2 * torch.randn(p.shape, generator=noise)
    policy, log_ref = deepcopy(ref), oracle.gpt_table(ref, mdp).detach()
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        (-oracle.objective(oracle.gpt_table(policy, mdp), log_ref, mdp, BETA)).backward()
        optimizer.step()
    return mdp, ref, policy


@torch.no_grad()
def known_policy(seed: int = 0, n: int = 2000) -> Iterator[Finding]:
    """What the evaluator makes of n samples to each of two prompts, against all that `oracle.py` knows."""
    with torch.enable_grad():
        mdp, ref, policy = known_models()
    log_pi, log_ref = (oracle.gpt_table(model, mdp) for model in (policy, ref))  # (X, S, V) each
    pi, q = (oracle.response_logprobs(table, mdp).exp() for table in (log_pi, log_ref))  # (X, N) each
    place = {said: i for i, said in enumerate(mdp.responses)}
    asked = np.arange(2).repeat(n)  # (2 n,) the prompt of each response
    rng = np.random.default_rng(seed)

    def sample(model: GPT) -> dict[str, np.ndarray]:
        """Of each response, (2 n,), its statistics, reward and length; self: its worst KL to itself."""
        seeds = rng.integers(2**62, size=2 * n).tolist()
        g = generate(model, [mdp.prompts[x] for x in asked], mdp.max_new, mdp.eos_id, seeds)
        said = [place[tuple(ids[:end])] for ids, end in zip(g.ids.tolist(), g.mask.sum(1).tolist())]
        found = {k: x.double().sum(1).numpy() for k, x in token_statistics(model, ref, g).items()}
        found["log_ratio"] = token_statistics(policy, ref, g)["k1"].double().sum(1).numpy()
        itself = token_statistics(model, deepcopy(model), g)
        found["self"] = np.array([float(itself[k].abs().max()) for k in ("kl", "k1", "k3")])
        return found | {"reward": mdp.scores[asked, said].numpy(), "tokens": mdp.mask[said].sum(1).numpy()}

    S, R = sample(policy), sample(ref)
    KL = oracle.kl(log_pi, log_ref, mdp)  # (X,)
    H = oracle.expectation(log_pi.exp(), -log_pi)  # (X, S)
    for name, kind in (("KL, exact a position", "kl"), ("KL, k1", "k1"), ("KL, k3", "k3")):
        yield estimated(name, KL.mean(), np.mean, S[kind])
    yield estimated("entropy", (oracle.visits(log_pi, mdp) * H).sum(1).mean(), np.mean, S["entropy"])
    yield estimated("reward", oracle.expectation(pi, mdp.scores).mean(), np.mean, S["reward"])
    exact, k1, why = S["kl"].var(), S["k1"].var(), "Rao-Blackwell must remove noise"
    yield finding("KL, variance", exact < k1, f"{exact:.4f}", f"below {k1:.4f}, that of k1", why)
    worst = max(S["self"].max(), R["self"].max())
    yield finding("KL to itself", worst == 0, f"{worst:g}", "0", "a model is apart from itself")

    items = {"ref": R, "policy": S}  # from here on, of the first prompt alone: each sample a unit
    for name, rows in items.items():
        items[name] = [{"index": i, "sample": 0, "scores": {"reward": rows["reward"][i]}, "kl": rows["kl"][i],
                        "tokens": rows["tokens"][i], "log_ratio": rows["log_ratio"][i]} for i in range(n)]
    (objective, share), optimum = regret_metrics(items, "ref", "policy", BETA, np.arange(n))
    before, after = (float(oracle.expectation(law[0], mdp.scores[0])) for law in (q, pi))
    J, J_star = after - BETA * float(KL[0]), float(oracle.optimum(log_ref, mdp, BETA)[1][0, 0])
    reached = 100 * (J - before) / (J_star - before)
    for name, metric, truth in (("J", objective, J), ("share of J*, %", share, reached)):
        rows = metric.statistics["policy"]  # (n, d)
        low, high = intervals.corpus_interval(rows, metric.combine, 500, seed)
        yield close(name, float(metric.combine(rows.sum(0)[None])[0]), truth, (high - low) / 3.92)
    yield close("J*", optimum["value"], J_star, (optimum["high"] - optimum["low"]) / 3.92)
    best = oracle.best_of_n(log_ref, mdp, 4)[0]  # (N,)
    proxy, gold = R["reward"][:n], R["tokens"][:n]  # (n,) each
    yield estimated("best-of-4", best @ mdp.scores[0], lambda x: regret.best_of_n(x, np.ones(n), 4), proxy)
    pairs = zip(proxy.reshape(-1, 8), gold.reshape(-1, 8))
    length = mdp.mask.sum(1).double()  # (N,)
    of_eight = np.array([metrics.expected_best_of_n(*pair, 4) for pair in pairs])  # (n / 8,)
    yield estimated("best-of-4, by a proxy", best @ length, np.mean, of_eight)


def rate(name: str, hits: int, n: int, nominal: float, why: str, least: bool = False) -> Finding:
    """A share of n trials against its nominal value, within its binomial error; `least`: it may be more."""
    seen, band = hits / n, ERRORS * np.sqrt(nominal * (1 - nominal) / n)
    ok = seen >= nominal - band and (least or seen <= nominal + band)
    return finding(name, ok, f"{seen:.1%} of {n}", f"{'>= ' * least}{nominal:.0%} ±{band:.1%}", why)


def bleu_rows(rng: np.random.Generator, n: int) -> np.ndarray:
    """Statistics of n segments of 4 to 12 tokens whose n-gram matches fall off geometrically, (n, 10)."""
    length = rng.integers(4, 13, n)
    totals = length[:, None] - np.arange(4)  # (n, 4)
    return np.column_stack([length, length, rng.binomial(totals, 0.6 ** np.arange(1, 5)), totals])


def error_rates(seed: int = 0, n: int = 2000) -> Iterator[Finding]:
    """Tests on true nulls, intervals of known quantities, and the power of the detectable effect."""
    rng = np.random.default_rng(seed)
    false, missed = "it calls noise a difference more often than it says, or less", "it is no 95 % interval"

    def scores(prompts: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Two systems on prompts of unequal difficulty: scores as sums and counts, (prompts, 2) each."""
        a, b = rng.exponential(2, prompts) + rng.normal(0, 0.5**0.5, (2, prompts))  # a − b has variance 1
        return np.column_stack([a + shift, a * 0 + 1]), np.column_stack([b, b * 0 + 1])

    def rejected(systems: Callable[[], tuple], metric: Callable, resamples: int = 199) -> int:
        return sum(stats.paired_corpus(*systems(), metric, t, resamples).p_value <= 0.05 for t in range(n))

    yield rate("sign-flip, nulls", rejected(lambda: scores(25), ratio), n, 0.05, false)
    yield rate("sign-flip, all 2^n", rejected(lambda: scores(9), ratio), n, 0.05, false)
    bleu = rejected(lambda: (bleu_rows(rng, 30), bleu_rows(rng, 30)), bleu_from_statistics)
    yield rate("BLEU by swaps, nulls", bleu, n, 0.05, false)
    family = [stats.holm([0.0, *rng.random(4)])[1:].min() <= 0.05 for _ in range(n)]  # one effect, four nulls
    yield rate("Holm, any of 4 nulls", sum(family), n, 0.05, false)
    effect = stats.minimum_detectable_effect(1.0, 200)
    why = "an effect of the size said is found more or less often"
    yield rate("power at the MDE", rejected(lambda: scores(200, effect), ratio, 399), n, 0.8, why)

    def covers(interval: tuple[float, float], truth: float) -> bool:
        return interval[0] <= truth <= interval[1]

    of_means = sum(covers(intervals.bootstrap_interval(rng.normal(3, 1, 100), 400, t), 3) for t in range(n))
    yield rate("bootstrap covers", of_means, n, 0.95, missed)
    truths = rng.uniform(0.05, 0.95, n)
    counts = rng.binomial(50, truths)
    for name, interval in (("Wilson", intervals.wilson), ("Clopper-Pearson", intervals.clopper_pearson)):
        of = [interval(k, 50) for k in range(51)]
        hits = sum(covers(of[k], p) for k, p in zip(counts, truths))
        yield rate(f"{name} covers", hits, n, 0.95, missed, least=name != "Wilson")


def evidence() -> dict:
    """Healthy evidence of two models: the arguments of `alarms`."""
    items: dict[str, list[dict]] = {"sft": [], "rl": []}
    for model, rows in items.items():
        for i, k in ((i, k) for i in range(40) for k in range(-1, 3)):
            right, kl = i % 5 < (2 if model == "sft" else 3), 0.5 * (model == "rl")
            row = {"index": i, "sample": k, "prompt": f"prompt {i}", "reference": f"answer {i}"}
            row |= {"response": f"answer {i}" if right else f"{model} {i}", "tokens": 3, "stop": "eos"}
            row |= {"scores": {"reward": float(right), "unparsable": 0.0}}
            rows.append(row | {"kl": kl, "k1": 2 * kl * ((i + k) % 2)})
    models = {name: {"sha256": name, "stage": name} for name in items}
    return {"models": models, "items": {"task": items}, "train_prompts": {"another"}}


def spoil(e: dict, share: float = 1.0, models: tuple[str, ...] = ("rl",), **change: object) -> None:
    """The first share of what the models said gets what `change` holds."""
    for rows in (e["items"]["task"][m] for m in models):
        for row in rows[: round(share * len(rows))]:
            row |= change


DEFECTS: dict[str, Callable[[dict], object]] = {  # how each alarm begins, and what makes it ring
    "no alarm": lambda e: None,
    "same weights": lambda e: e["models"]["rl"].update(sha256="sft"),
    "same answers": lambda e: [
        rl.update(response=sft["response"]) for sft, rl in zip(*e["items"]["task"].values())],
    "train/test overlap": lambda e: e.update(train_prompts={"prompt 7", "another"}),
    "constant reward": lambda e: spoil(e, models=("sft", "rl"), scores={"reward": 0.5}),
    "negative KL": lambda e: spoil(e, kl=-0.1, k1=-0.1),
    "wrong KL": lambda e: spoil(e, k1=1.2),
    "no end": lambda e: spoil(e, 0.1, stop="length"),
    "unparsable": lambda e: spoil(e, 0.1, scores={"reward": 0.0, "unparsable": 1.0}),
    "one answer": lambda e: spoil(e, 0.8, response="yes"),
}  # fmt: skip


def alarms_ring() -> Iterator[Finding]:
    """Each defect rings its alarm and no other; healthy evidence rings none."""
    for name, defect in DEFECTS.items():
        spoilt = evidence()
        defect(spoilt)
        heard = " and ".join(alarm["what"].partition(":")[0] for alarm in alarms(**spoilt)) or "no alarm"
        yield finding(name, heard == name, heard, name, "a worthless comparison would look sound")


def findings(seed: int = 0) -> Iterator[Finding]:
    """All checks; a part that raises is broken, and what comes after it is checked all the same."""
    for part in (goldens(), known_policy(seed), error_rates(seed), alarms_ring()):
        try:
            yield from part
        except Exception as error:  # whatever a broken installation raises
            said = f"{type(error).__name__}: {error}"
            yield finding(part.__name__, False, said, "no error", "its other checks were not made")


def run(seed: int = 0) -> None:
    """Print a line a check. Raises UserError, naming what is broken, if anything is."""
    made = []
    for check in findings(seed):
        print(check, flush=True)
        made.append(check)
    if broken := [check.name for check in made if not check.ok]:
        raise UserError(f"{len(broken)} of {len(made)} checks are broken: {', '.join(broken)}")
    print(f"all {len(made)} checks are ok")
