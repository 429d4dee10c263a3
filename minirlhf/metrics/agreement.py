"""Do people agree more than chance would make them? Krippendorff's alpha, and Cohen's kappa for two raters.

    α = 1 − D_o / D_e                D_o: disagreement seen.  D_e: expected if the same labels were dealt at random
    κ = (P_o − P_e) / (1 − P_e)      P_o: agreement seen.  P_e: expected if each rater dealt their labels at random

Alpha takes any number of raters, and gaps. If all labels are of one category, both are 0 / 0: nan.
Source: Krippendorff 2004, section 11.3, nominal data; Cohen 1960. Proved by tests/metrics/test_agreement.py.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from minirlhf.metrics.intervals import corpus_interval
from minirlhf.metrics.scores import divide

ROUNDING = 1e-12  # a sum of shares that should be 0 may differ from it by this much


@dataclass(frozen=True)
class Measure:
    """A number with its 95 % interval, nan where undefined."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: int = 0  # how many items it was measured on
    note: str = ""  # why it is undefined, or what was done to define it


def krippendorff_alpha(items: Sequence[Sequence[Hashable]], seed: int = 0) -> Measure:
    """α of the labels of each item, with its bootstrap interval over items. An item with fewer than 2 is left out."""
    items = [item for item in items if len(item) >= 2]
    if not items:
        return Measure(note="no item was labelled twice")
    labels = list(dict.fromkeys(label for item in items for label in item))
    # How often one rater said c and another k about an item, over its raters minus 1: each label counts once.
    seen = np.zeros((len(items), len(labels), len(labels)))  # (n, L, L)
    for table, item in zip(seen, items):
        for c, k in permutations(map(labels.index, item), 2):
            table[c, k] += 1 / (len(item) - 1)

    def alpha(O: np.ndarray) -> np.ndarray:
        n_c = O.sum(2)  # (B, L)
        n = n_c.sum(1)  # (B,)
        differ, expected = n - np.trace(O, axis1=1, axis2=2), (n_c * (n[:, None] - n_c)).sum(1)  # (B,) each
        return 1 - divide((n - 1) * differ, expected, ROUNDING)

    return measured(seen, alpha, seed)


def cohen_kappa(items: Sequence[tuple[Hashable, Hashable]], seed: int = 0) -> Measure:
    """κ of two raters. Each item is a pair: the first rater's label and the second's."""
    if not items:
        return Measure(note="no item was labelled by both")
    labels = list(dict.fromkeys(label for item in items for label in item))
    seen = np.zeros((len(items), len(labels), len(labels)))  # (n, L, L)
    for table, (one, other) in zip(seen, items):
        table[labels.index(one), labels.index(other)] = 1

    def kappa(C: np.ndarray) -> np.ndarray:
        n = C.sum((1, 2))  # (B,)
        agreed, chance = np.trace(C, axis1=1, axis2=2) / n, (C.sum(1) * C.sum(2)).sum(1) / n**2  # (B,) each
        return divide(agreed - chance, 1 - chance, ROUNDING)

    return measured(seen, kappa, seed)


def measured(tables: np.ndarray, measure: Callable[[np.ndarray], np.ndarray], seed: int) -> Measure:
    """measure, (B, L, L) -> (B,), of the sum of the tables, (n, L, L), with its bootstrap interval over items."""
    value = float(measure(tables.sum(0, keepdims=True))[0])
    note = "all labels are of one category" if math.isnan(value) else ""
    rows, shape = tables.reshape(len(tables), -1), (-1, *tables.shape[1:])  # (n, L²)
    interval = corpus_interval(rows, lambda sums: measure(sums.reshape(shape)), seed=seed)
    return Measure(value, *interval, len(rows), note)
