"""One metric of several models: each value with its 95 % interval, each difference with its interval, p and verdict.

The unit of resampling is the prompt, or the conversation. Primary metrics, one a set, are a family: their verdicts
go by Holm's adjusted p. Proved by tests/evaluation/test_verdicts.py.
"""

import math
from collections.abc import Sequence

import numpy as np

from minirlhf.evaluation.metric import Metric, or_none, ratio
from minirlhf.metrics.intervals import clopper_pearson, corpus_interval, pivot, t_interval
from minirlhf.metrics.paired_tests import Difference, holm, paired_corpus, verdict

RESAMPLES = 2000
FEW = 30  # units, below which a mean's bootstrap interval is too narrow: it covers 49 % at 2, 73 % at 3, 87 % at 8


def compare_models(metrics: Sequence[Metric], reference: str, seed: int = 0) -> list[dict]:
    """Each metric as a plain dict: values and intervals of all models, each one's difference from the reference.

    NaN becomes None, so that the JSON is JSON.
    """
    rows = []
    for metric in metrics:
        row: dict = {"metric": metric.name, "group": metric.group, "direction": metric.direction}
        row |= {"primary": metric.primary, "models": {}, "differences": {}}
        row |= {"note": metric.note} if metric.note else {}
        for model, statistics in metric.statistics.items():
            value = float(metric.combine(statistics.sum(0, keepdims=True))[0])
            low, high = metric_interval(metric, statistics, seed)
            row["models"][model] = {"value": or_none(value), "low": or_none(low), "high": or_none(high)}
            if model == reference or reference not in metric.statistics:
                continue
            d = paired_corpus(statistics, metric.statistics[reference], metric.combine, seed, RESAMPLES)
            low, high = difference_interval(metric, statistics, metric.statistics[reference], d)
            row["differences"][model] = {
                "value": or_none(d.difference), "low": or_none(low), "high": or_none(high), "p": or_none(d.p_value),
                "n": d.n, "minimum_detectable": or_none(d.minimum_detectable_effect),
                "prompts_needed": or_none(d.prompts_needed), "verdict": verdict_word(d, metric.direction),
            } | ({"undefined": d.undefined} if d.undefined else {})  # fmt: skip
        rows.append(row)
    return rows


def metric_interval(metric: Metric, statistics: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % interval of one model's metric, by the bootstrap over units; but where that is known not to cover:

    of a mean over fewer than FEW units Student's, and of a share that is 0 or 1 in all units Clopper and
    Pearson's, since a resample of equal values has no width. statistics: (n, d).
    """
    value = metric.combine(statistics.sum(0, keepdims=True))[0]
    means = unit_means(metric, statistics)
    share = metric.direction != 0 and means is not None and (0 <= means).all() and (means <= 1).all()
    if share and len(means) > 1 and value in (0, 1):
        return clopper_pearson(int(value) * len(means), len(means))
    if means is not None and 1 < len(means) < FEW:
        low, high = t_interval(means)
        return (max(low, 0.0), min(high, 1.0)) if share else (low, high)
    low, high = corpus_interval(statistics, metric.combine, RESAMPLES, seed)
    return pivot(value, low, high) if metric.group == "calibration" and metric.combine is not ratio else (low, high)


def difference_interval(metric: Metric, a: np.ndarray, b: np.ndarray, d: Difference) -> tuple[float, float]:
    """95 % interval of metric(a) − metric(b): Student's for a mean over fewer than FEW units, else the bootstrap's."""
    first, second = unit_means(metric, a), unit_means(metric, b)
    if d.undefined or first is None or second is None or len(first) >= FEW:
        return d.bootstrap_interval
    return t_interval(first - second)


def unit_means(metric: Metric, statistics: np.ndarray) -> np.ndarray | None:
    """The metric of each unit, (n,), where it is a mean over units of equal size; else None."""
    if metric.combine is not ratio or (statistics[:, 1] != statistics[0, 1]).any() or not statistics[0, 1]:
        return None
    return ratio(statistics)


def adjust(rows: Sequence[dict], alpha: float = 0.05) -> None:
    """Give each difference Holm's p over these rows, model by model, and take back verdicts that do not survive it."""
    for model in {model for row in rows for model in row["differences"]}:
        family = [row["differences"][model] for row in rows if model in row["differences"]]
        adjusted = holm([math.nan if d["p"] is None else d["p"] for d in family])
        for d, p in zip(family, adjusted):
            d["p_holm"] = or_none(p)
            if p > alpha:
                d["verdict"] = "no difference shown"


def verdict_word(d: Difference, direction: int) -> str:
    """The verdict on a difference; on that of a quantity that is neither good nor bad it says higher or lower."""
    said = verdict(d, direction >= 0)
    return {"better": "higher", "worse": "lower"}.get(said, said) if direction == 0 else said
