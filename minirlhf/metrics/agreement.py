"""Do people agree, beyond what chance would bring about? Raw agreement, Cohen's kappa and Krippendorff's alpha.

    κ = (P_o − P_e) / (1 − P_e)        P_o agreement seen, P_e expected of the same labels dealt at random
    α = 1 − D_o / D_e                  disagreement δ² seen and expected; any number of raters, gaps allowed

`items` has a list of labels for each item, a label a rater, None where a rater gave none. Each measure is a
function of statistics summed over items, so its interval is the bootstrap over items of `paired_tests.py`. Where all
labels are of one category P_e is 1 and D_e is 0: κ and α are 0 / 0, nan, and raw agreement is all there is.
Proved by tests/metrics/test_agreement.py.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from minirlhf.metrics.intervals import corpus_interval

Items = Sequence[Sequence[Hashable]]


@dataclass(frozen=True)
class Measure:
    """A number with its 95 % interval; nan, with the reason, where undefined."""

    value: float
    interval: tuple[float, float]
    n: int  # what it was measured on: of agreement, items that were labelled at least twice
    undefined: str = ""


def undefined(n: int, reason: str) -> Measure:
    """What cannot be had."""
    return Measure(math.nan, (math.nan, math.nan), n, reason)


def quotient(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, nan where below is 0."""
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below > 1e-12)


def coincidences(items: Items, labels: Sequence[Hashable]) -> np.ndarray:
    """How often one rater said c and another k of the same item, over its raters less one: (items, L, L).

    items: without gaps, as `paired` gives them. One with m labels adds m in all: each label counts once.
    """
    O = np.zeros((len(items), len(labels), len(labels)))  # (n, L, L)
    for row, item in zip(O, items):
        for c, k in permutations(map(labels.index, item), 2):
            row[c, k] += 1 / (len(item) - 1)
    return O


def raw_from_coincidences(O: np.ndarray) -> np.ndarray:
    """The share of coincidences that are matches: (B, L, L) -> (B,)."""
    return quotient(np.trace(O, axis1=1, axis2=2), O.sum((1, 2)))


def alpha_from_coincidences(O: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """α = 1 − (n − 1) Σ O_ck δ²_ck / Σ n_c n_k δ²_ck.  O: (B, L, L).  distance: (L, L) δ².  Returns (B,)."""
    n_c, n = O.sum(2), O.sum((1, 2))  # (B, L), (B,)
    expected = np.einsum("bc,bk,ck->b", n_c, n_c, distance)  # (B,)
    return 1 - quotient((n - 1) * (O * distance).sum((1, 2)), expected)


def cohen_from_confusion(C: np.ndarray) -> np.ndarray:
    """κ of two raters from how often the one said c and the other k: (B, L, L) -> (B,)."""
    n = C.sum((1, 2))  # (B,)
    seen = quotient(np.trace(C, axis1=1, axis2=2), n)  # (B,)
    chance = quotient((C.sum(1) * C.sum(2)).sum(1), n * n)  # (B,)
    return quotient(seen - chance, 1 - chance)


def raw_agreement(items: Items, seed: int = 0) -> Measure:
    """The chance that two different raters of an item agree, each label counting once."""
    kept, labels = paired(items)
    return measured(coincidences(kept, labels), raw_from_coincidences, seed)


def cohen_kappa(items: Items, seed: int = 0) -> Measure:
    """Cohen's κ of two raters: P_e = Σ_c (share of c with the one) (share of c with the other).

    Raises ValueError where an item has not two places.  Source: Cohen 1960.
    """
    if any(len(item) != 2 for item in items):
        raise ValueError("Cohen's kappa is of two raters: give two labels an item, None where one is missing")
    kept, labels = paired(items)
    C = np.zeros((len(kept), len(labels), len(labels)))  # (n, L, L)
    for row, (a, b) in zip(C, kept):
        row[labels.index(a), labels.index(b)] = 1
    return measured(C, cohen_from_confusion, seed)


def krippendorff_alpha(items: Items, level: str = "nominal", seed: int = 0) -> Measure:
    """Krippendorff's α. level: "nominal", δ = 1 for different labels; "interval", δ = their difference.

    Source: Krippendorff 2004, section 11.3.
    """
    kept, labels = paired(items)
    if level == "interval":
        x = np.array(labels, dtype=float)  # (L,)
        distance = (x[:, None] - x[None]) ** 2  # (L, L)
    else:
        distance = 1 - np.eye(len(labels))  # (L, L)
    return measured(coincidences(kept, labels), lambda O: alpha_from_coincidences(O, distance), seed)


def paired(items: Items) -> tuple[list[list[Hashable]], list[Hashable]]:
    """The items labelled at least twice, without gaps, and the labels they have."""
    given = [[x for x in item if x is not None] for item in items]
    kept = [item for item in given if len(item) >= 2]
    return kept, list(dict.fromkeys(x for item in kept for x in item))


def measured(statistics: np.ndarray, measure: Callable[[np.ndarray], np.ndarray], seed: int) -> Measure:
    """The measure of the statistics' sum, (n, ...) a row an item, with its bootstrap interval over items."""
    n, shape = len(statistics), statistics.shape[1:]
    if n == 0:
        return undefined(0, "no item was labelled twice")
    value = float(measure(statistics.sum(0, keepdims=True))[0])
    flat = statistics.reshape(n, -1)
    interval = corpus_interval(flat, lambda sums: measure(sums.reshape(-1, *shape)), seed=seed)
    return Measure(value, interval, n, "all labels are of one category" if math.isnan(value) else "")
