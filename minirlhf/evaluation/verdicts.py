"""One metric of several models: each value with its 95 % interval, each difference with its interval, p and verdict.

The unit of resampling is the prompt, or the conversation. A verdict goes by p alone, that of the permutation test;
primary metrics, one a set, are a family, and theirs go by Holm's adjusted p, each model's by itself. Proved by
tests/evaluation/test_verdicts.py.
"""

import math
from collections.abc import Sequence
from math import inf

import numpy as np

from minirlhf.evaluation.metric import Metric, or_none, ratio
from minirlhf.metrics.intervals import corpus_interval, pivot, pseudo_values, t_interval, unseen, varies, wilson
from minirlhf.metrics.paired_tests import Difference, holm, paired_corpus, power_factor, verdict

RESAMPLES = 2000
FEW = 30  # units, below which a mean's bootstrap interval is too narrow: it covers 49 % at 2, 73 % at 3, 87 % at 8


def compare_models(metrics: Sequence[Metric], against: str, seed: int = 0, resamples: int = RESAMPLES) -> list[dict]:
    """Each metric as a plain dict: values and intervals of all models, each one's difference from `against`.

    decided_by is the key of the number that the verdict goes by, at 5 %. NaN becomes None, so that the JSON is JSON.
    """
    rows = []
    for metric in metrics:
        row: dict = {"metric": metric.name, "group": metric.group, "direction": metric.direction}
        row |= {"primary": metric.primary, "models": {}, "differences": {}}
        row |= {"note": metric.note} if metric.note else {}
        for model, statistics in metric.statistics.items():
            value = float(metric.combine(statistics.sum(0, keepdims=True))[0])
            low, high = (value, value) if model == metric.fixed else metric_interval(metric, statistics, seed)
            row["models"][model] = {"value": or_none(value), "low": or_none(low), "high": or_none(high)}
            if model == against or against not in metric.statistics:
                continue
            chance = metric.floor.get(model, 0.0) - metric.floor.get(against, 0.0)
            d = paired_corpus(statistics, metric.statistics[against], metric.combine, seed, resamples, chance)
            low, high = difference_interval(metric, statistics, metric.statistics[against], d)
            row["differences"][model] = {
                "value": or_none(d.difference), "low": or_none(low), "high": or_none(high), "p": or_none(d.p_value),
                "n": d.n, "minimum_detectable": or_none(d.minimum_detectable_effect),
                "prompts_needed": or_none(d.prompts_needed), "verdict": verdict(d, metric.direction),
                "decided_by": "p",
            } | ({"undefined": d.undefined} if d.undefined else {})  # fmt: skip
        rows.append(row)
    return rows


def metric_interval(metric: Metric, statistics: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % interval of one model's metric: `interval_of_means` or the bootstrap over units. statistics: (n, d)."""
    means = unit_means(metric, statistics)
    if known := interval_of_means(means, (0.0, 1.0) if is_share(metric, statistics) else (-inf, inf)):
        return known
    value = metric.combine(statistics.sum(0, keepdims=True))[0]
    low, high = corpus_interval(statistics, metric.combine, RESAMPLES, seed)
    return pivot(value, low, high) if metric.group == "calibration" and metric.combine is not ratio else (low, high)


def difference_interval(metric: Metric, a: np.ndarray, b: np.ndarray, d: Difference) -> tuple[float, float]:
    """95 % interval of metric(a) − metric(b): `interval_of_means` of the differences, or the bootstrap's."""
    first, second = unit_means(metric, a), unit_means(metric, b)
    if d.undefined or first is None or second is None:
        return d.bootstrap_interval
    ends = (-1.0, 1.0) if is_share(metric, a) and is_share(metric, b) else (-inf, inf)
    return interval_of_means(first - second, ends, np.abs(first).max()) or d.bootstrap_interval


def interval_of_means(
    means: np.ndarray | None, ends: tuple[float, float], scale: float = 0.0
) -> tuple[float, float] | None:
    """95 % interval of the mean of units, (n,), where the bootstrap is known not to cover; else None.

    Of fewer than FEW units it is Student's. Of units that are 0 or 1 it is Wilson's: a bootstrap of few ones covers 85 %.
    Of units that all say the same it is what they cannot exclude, for a resample of equal values has no width. ends:
    between which a unit must lie, ±∞ where that is not known; scale: as for `intervals.varies`.
    """
    if means is not None and len(means) > 1 and ends == (0.0, 1.0) and set(np.unique(means)) == {0.0, 1.0}:
        return wilson(float(means.sum()), len(means))
    if means is None or len(means) < 2 or (len(means) >= FEW and varies(means, scale)):
        return None
    low, high = t_interval(means) if varies(means, scale) else unseen(float(means[0]), len(means), *ends)
    return max(low, ends[0]), min(high, ends[1])


def is_share(metric: Metric, statistics: np.ndarray) -> bool:
    """Whether each unit's mean is a good or bad thing that lies in [0, 1]."""
    if metric.combine is not ratio or not metric.bounded or metric.direction == 0:
        return False
    means = ratio(statistics)
    return bool(((0 <= means) & (means <= 1)).all())


def unit_means(metric: Metric, statistics: np.ndarray) -> np.ndarray | None:
    """The metric of each unit, (n,), where it is a mean over units. Of units of unequal size, what each adds to it.
    Else None."""
    if metric.combine is not ratio or not statistics[:, 1].all():
        return None
    if (statistics[:, 1] == statistics[0, 1]).all():
        return ratio(statistics)
    return pseudo_values(statistics, ratio) if len(statistics) > 1 else None


def adjust(rows: Sequence[dict], alpha: float = 0.05) -> None:
    """Give each difference Holm's p over these rows, model by model, which decides; take back what does not survive.
    What could be seen, and how many prompts it takes, are those of Holm's first step, which asks the most: of n prompts
    that all say the same, p is 2^(1 − n)."""
    for model in {model for row in rows for model in row["differences"]}:
        family = [row["differences"][model] for row in rows if model in row["differences"]]
        adjusted = holm([math.nan if d["p"] is None else d["p"] for d in family])
        more = power_factor(alpha / len(family)) / power_factor()
        least = math.ceil(1 - math.log2(alpha / len(family)))
        for d, p in zip(family, adjusted):
            d |= {"p_holm": or_none(p), "decided_by": "p_holm"}
            if d.get("minimum_detectable"):
                d["minimum_detectable"] = d["minimum_detectable"] * more if d["n"] >= least else None
            if d.get("prompts_needed"):
                d["prompts_needed"] = max(math.ceil(d["prompts_needed"] * more**2), least)
            if p > alpha:
                d["verdict"] = "no difference shown"
