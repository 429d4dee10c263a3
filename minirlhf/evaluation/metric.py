"""A metric as sums of statistics, one row a unit of analysis, so that it can be resampled: the frame of all of them.

    value = combine(Σ over units of (d,) statistics)        a mean is the ratio of two sums

Units are prompts; the turns of a conversation are one. Proved by tests/evaluation/test_metric.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from minirlhf.lm.records import prompt_of
from minirlhf.metrics.scores import divide


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
    sampled: dict[str, list[dict]]  # model -> items of `ask.sample_items`
    greedy: dict[str, list[dict]]
    texts: dict[str, list[dict]]  # model -> items of `ask.text_items`
    reward: str = ""  # what the reward measures
    vocabulary: int = 0
    temperatures: dict[str, float] = field(default_factory=dict)  # model -> T of `ask.fitted_temperature`

    def mean(
        self, name: str, direction: int, value: Callable[[dict], float], rows: dict[str, list[dict]] | None = None,
        per: Callable[[dict], float] = lambda x: 1, group: str = "quality", primary: bool = False,
    ) -> Metric:  # fmt: skip
        """Σ value / Σ per, over the sampled responses unless other rows are given."""
        return Metric(name, direction, ratio, self.sums(lambda x: (value(x), per(x)), rows), group, primary)

    def sums(
        self, statistic: Callable[[dict], Sequence[float]], rows: dict[str, list[dict]] | None = None
    ) -> dict[str, np.ndarray]:
        """`per_unit` of the sampled responses, unless other rows are given."""
        return per_unit(rows or self.sampled, self.unit, statistic)


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
