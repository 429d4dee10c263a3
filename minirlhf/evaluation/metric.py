"""What every metric is: sums of statistics, one row per unit of analysis, so that it can be resampled.

    value = combine(Σ over units of (d,) statistics)        a mean is the ratio of two sums

A unit is one prompt, or all turns of one conversation. Proved by tests/evaluation/test_metric.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from minirlhf.evaluation.items import TestSet
from minirlhf.lm.records import prompt_of
from minirlhf.metrics.scores import divide

Items = dict[str, list[dict]]  # model -> what it said, or how it predicts what people said
LOWER = "unparsable", "needless"  # scores that are better if lower, and count in an answer that never ended, too


@dataclass(frozen=True)
class Metric:
    """One quantity of several models on the same prompts."""

    name: str
    direction: int  # 1: higher is better, −1: lower is better, 0: neither, it describes
    combine: Callable[[np.ndarray], np.ndarray]  # sums of statistics (B, d) -> values (B,)
    statistics: dict[str, np.ndarray]  # model -> (n units, d)
    group: str = "quality"  # or "drift", "diversity", "calibration"
    primary: bool = False  # one of the few that the evaluation was made for
    note: str = ""  # what its value depends on
    fixed: str = ""  # the model whose value is so by definition: it has an interval of no width
    floor: dict[str, float] = field(default_factory=dict)  # model -> what chance makes of it where nothing is wrong
    bounded: bool = True  # whether what lies in [0, 1] can lie nowhere else: not so what a reward of the user's gives


@dataclass(frozen=True)
class View:
    """What the metrics of one set of prompts are made from: all that its models said, by kind."""

    records: Sequence[dict]
    unit: np.ndarray  # (prompts,) the unit of analysis of each
    sampled: Items  # items of `ask.sample_items`
    greedy: Items
    texts: Items  # items of `ask.text_items`
    reward: str  # what the reward measures
    vocabulary: int
    temperatures: dict[str, float]  # model -> T of `ask.fitted_temperature`; {} if unknown
    reference: str = ""  # the model whose KL is to itself

    def sums(self, statistic: Callable[[dict], Sequence[float]], rows: Items | None = None) -> dict[str, np.ndarray]:
        """`per_unit` of the sampled responses, unless other rows are given."""
        return per_unit(rows or self.sampled, self.unit, statistic)

    def mean(
        self, name: str, direction: int, value: Callable[[dict], float], rows: Items | None = None,
        per: Callable[[dict], float] = lambda x: 1, **more,
    ) -> Metric:  # fmt: skip
        """Σ value / Σ per, over the sampled responses unless other rows are given. more: fields of the Metric."""
        return Metric(name, direction, ratio, self.sums(lambda x: (value(x), per(x)), rows), **more)

    def mean_of_prompts(self, name: str, direction: int, value: Callable[[list[dict]], float], **more) -> Metric:
        """The mean over prompts of a value of all samples of a prompt. A prompt of undefined value is left out."""
        rows = {}
        for model, responses in self.sampled.items():
            by_prompt: dict[int, list[dict]] = {}
            for x in responses:
                by_prompt.setdefault(x["index"], []).append(x)
            values = {i: value(xs) for i, xs in by_prompt.items()}
            rows[model] = [{"index": i, "value": np.nan_to_num(v), "known": v == v} for i, v in values.items()]
        return self.mean(name, direction, lambda x: x["value"], rows, lambda x: x["known"], **more)


def units(records: Sequence[dict]) -> np.ndarray:
    """(n,): the unit of analysis of each prompt. Turns of one conversation share a unit, and so do equal prompts."""
    keys = [("conversation", str(r["conversation"])) if "conversation" in r else prompt_of(r) for r in records]
    known: dict = {}
    return np.array([known.setdefault(key, len(known)) for key in keys], dtype=int)


def view_of(s: TestSet, vocabulary: int = 0, reference: str = "") -> View:
    """The items of one set, sorted by kind."""
    sampled, greedy = (
        {m: [x for x in rows if (x["sample"] < 0) == wanted] for m, rows in s.items.items()} for wanted in (False, True)
    )
    reward, temperatures = s.about.get("reward", ""), s.about.get("temperatures") or {}
    return View(s.records, units(s.records), sampled, greedy, s.texts, reward, vocabulary, temperatures, reference)


def ratio(sums: np.ndarray) -> np.ndarray:
    """First column over second, NaN for 0/0: a mean, from sums and counts. (B, 2) -> (B,)."""
    return divide(sums[:, 0], sums[:, 1])


def or_none(x: float) -> float | None:
    """The number, or None where it is undefined, for JSON."""
    return float(x) if np.isfinite(x) else None


def per_unit(rows: Items, unit: np.ndarray, statistic: Callable[[dict], Sequence[float]]) -> dict[str, np.ndarray]:
    """model -> (n units, d): the statistics of the rows that belong to each unit, summed."""
    tables = {}
    for model, responses in rows.items():
        values = np.array([statistic(x) for x in responses], dtype=float)  # (responses, d)
        tables[model] = np.zeros((unit.max() + 1, values.shape[1]))  # (n, d)
        np.add.at(tables[model], unit[[x["index"] for x in responses]], values)
    return tables
