"""From responses to metrics: each quantity as sufficient statistics, one row a prompt.

A metric is a table of sums for every model and a function of their total: so means, ratios such as perplexity,
and corpus metrics such as BLEU and F1 get their intervals and paired tests from the same bootstrap over
prompts (`stats.py`). `quantities.py` has the metrics themselves; the share of what can be achieved is here.
Proved by tests/test_analysis.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from minirlhf.data import prompt_of
from minirlhf.intervals import corpus_interval
from minirlhf.metrics import divide
from minirlhf.regret import LEAST, best_of_n, effective_size, mixture_weights, optimal_objective, worth


@dataclass(frozen=True)
class Metric:
    """One quantity of several models on the same prompts."""

    name: str
    direction: int  # 1: higher is better, −1: lower is better, 0: neither, it describes
    combine: Callable[[np.ndarray], np.ndarray]  # sums of statistics (B, d) -> values (B,)
    statistics: dict[str, np.ndarray]  # model -> (n units, d)
    group: str = "quality"  # or drift, diversity, calibration
    primary: bool = False  # one of the few that the evaluation was made for
    note: str = ""  # what its value depends on


@dataclass(frozen=True)
class View:
    """What the metrics of one set of prompts are made of: all that its models said, by kind."""

    records: Sequence[dict]
    unit: np.ndarray  # (prompts,) which unit of analysis each belongs to
    sampled: dict[str, list[dict]]  # model -> items of `evaluation.sample_items`
    greedy: dict[str, list[dict]]
    texts: dict[str, list[dict]]  # model -> items of `evaluation.text_items`
    reward: str = ""  # what the reward measures
    vocabulary: int = 0
    temperatures: dict[str, float] = field(default_factory=dict)  # model -> T of `evaluation.fitted_temperature`

    def mean(
        self, name: str, direction: int, value: Callable[[dict], float], rows: dict[str, list[dict]] | None = None,
        per: Callable[[dict], float] = lambda x: 1, group: str = "quality", primary: bool = False,
    ) -> Metric:  # fmt: skip
        """Σ value / Σ per, over the sampled responses unless other rows are given."""
        statistics = per_unit(rows or self.sampled, self.unit, lambda x: (value(x), per(x)))
        return Metric(name, direction, ratio, statistics, group, primary)


def units(records: Sequence[dict]) -> np.ndarray:
    """(n,): the unit of analysis of each prompt. Turns of a conversation are one, and so are equal prompts."""
    keys = [("conversation", str(r["conversation"])) if "conversation" in r else prompt_of(r) for r in records]
    known: dict = {}
    return np.array([known.setdefault(key, len(known)) for key in keys], dtype=int)


def view_of(
    records: Sequence[dict], items: dict[str, list[dict]], texts: dict[str, list[dict]], reward: str = "",
    vocabulary: int = 0, temperatures: dict[str, float] | None = None,
) -> View:  # fmt: skip
    """The items of one set, sorted by kind."""
    sampled = {m: [x for x in rows if x["sample"] >= 0] for m, rows in items.items()}
    greedy = {m: [x for x in rows if x["sample"] < 0] for m, rows in items.items()}
    return View(records, units(records), sampled, greedy, texts, reward, vocabulary, temperatures or {})


def ratio(sums: np.ndarray) -> np.ndarray:
    """First column over second, NaN for 0/0: a mean, from sums and counts. (B, 2) -> (B,)."""
    return divide(sums[:, 0], sums[:, 1])


def plain(x: float) -> float | None:
    """The number, or None where it is undefined, for JSON."""
    return float(x) if np.isfinite(x) else None


def per_unit(
    rows: dict[str, list[dict]], unit: np.ndarray, statistic: Callable[[dict], Sequence[float]]
) -> dict[str, np.ndarray]:
    """model -> (n units, d): the statistics of the rows that belong to each unit, summed."""
    tables = {}
    for model, responses in rows.items():
        values = np.array([statistic(x) for x in responses], dtype=float)  # (responses, d)
        tables[model] = np.zeros((unit.max() + 1, values.shape[1]))  # (n, d)
        np.add.at(tables[model], unit[[x["index"] for x in responses]], values)
    return tables


def together(rows: dict[str, list[dict]], value: Callable[[list[dict]], float]) -> dict[str, list[dict]]:
    """One row a prompt: a value of all its samples, and whether it is defined."""
    out: dict[str, list[dict]] = {}
    for model, responses in rows.items():
        by_prompt: dict[int, list[dict]] = {}
        for x in responses:
            by_prompt.setdefault(x["index"], []).append(x)
        values = {i: value(xs) for i, xs in by_prompt.items()}
        out[model] = [{"index": i, "value": np.nan_to_num(v), "known": v == v} for i, v in values.items()]
    return out


def soft_optimum(
    items: Sequence[dict], weights: np.ndarray, beta: float, unit: np.ndarray
) -> tuple[dict, np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """J* from sampled items: its value with 95 % interval, None if too few; sums of each unit; J* of such sums.

    weights: (N,) how many samples of the reference each stands for.  unit: (prompts,) of `units`.
    """
    rewards = np.array([x["scores"]["reward"] for x in items])  # (N,)
    top = rewards.max()
    lifted = [{"index": x["index"], "v": v} for x, v in zip(items, weights * np.exp((rewards - top) / beta))]
    Z = per_unit({"": lifted}, unit, lambda x: (x["v"], 1))[""]  # (n, 2)

    def J_star(sums: np.ndarray) -> np.ndarray:
        return top + beta * np.log(ratio(sums))

    known = {"effective_size": effective_size(rewards, weights, beta), "value": None}
    if known["effective_size"] >= LEAST:
        low, high = corpus_interval(Z, J_star)
        known |= {"value": optimal_objective(rewards, weights, beta), "low": plain(low), "high": plain(high)}
    return known, Z, J_star


def reference_optimum(items: Sequence[dict], beta: float, unit: np.ndarray) -> dict:
    """J* from sampled items of the reference alone, with its 95 % interval, or no value if too few."""
    return soft_optimum(items, np.ones(len(items)), beta, unit)[0]


def regret_metrics(
    items: dict[str, list[dict]], reference: str, policy: str, beta: float, unit: np.ndarray,
    known: dict | None = None,
) -> tuple[list[Metric], dict]:
    """J = E r − β KL of every model, the share of (J* − J_ref) it reaches, and what is known of the optimum.

    J* is that of training, `known` of `Achieved.optimum`, or else rests on the sampled items of `reference` and
    `policy` together, which hold their log_ratio, as best-of-n does. The share is left out where J* rests on
    fewer than LEAST effective samples or leaves less to gain than a tenth of a nat of KL costs.
    """
    sampled = {m: [x for x in rows if x["sample"] >= 0] for m, rows in items.items()}
    pooled = sampled[reference] + sampled[policy]
    rewards, log_ratio = (np.array(x) for x in zip(*((x["scores"]["reward"], x["log_ratio"]) for x in pooled)))
    weights = mixture_weights(log_ratio, len(sampled[reference]) / len(pooled))  # (N,)
    J = per_unit(sampled, unit, lambda x: (x["scores"]["reward"] - beta * x["kl"], 1))  # (n, 2) each
    optimum, Z, J_star = soft_optimum(pooled, weights, beta, unit)
    if known:
        optimum, J_star = dict(known), lambda sums: np.full(len(sums), known["value"])

    def share(sums: np.ndarray) -> np.ndarray:
        own, ref, best = ratio(sums[:, :2]), ratio(sums[:, 2:4]), J_star(sums[:, 4:])
        return 100 * divide(own - ref, np.where(best - ref > beta / 10, best - ref, 0.0))

    metrics = [Metric(f"J = reward - {beta:g} KL", 1, ratio, J)]
    if optimum["effective_size"] >= LEAST:
        metrics.append(Metric("share of J* - J(ref), %", 1, share, {m: np.hstack([J[m], J[reference], Z]) for m in J}))
    own = float(np.mean([x["scores"]["reward"] for x in sampled[policy]]))
    tokens = {m: float(np.mean([x["tokens"] for x in sampled[m]])) for m in (reference, policy)}
    optimum |= {"best_of": {str(k): best_of_n(rewards, weights, k) for k in (1, 2, 4, 8, 16, 32, 64, 128)}}
    return metrics, optimum | {"beta": beta, "reward": own, "worth": worth(own, rewards, weights), "tokens": tokens}
