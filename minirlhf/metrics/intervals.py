"""Intervals of one score: how far from the truth may it be?

    proportion    Wilson, Clopper-Pearson           mean    x̄ ± t_{n−1} s/√n, or the percentile bootstrap
    clusters      SE² = Σ_c (Σ_{i∈c} (x_i − x̄))² / n²
    corpus metric percentile bootstrap of f(Σ_i statistics_i)

The unit is the prompt: average several samples of one prompt first, or name the clusters. Everything random
is a function of `seed`. Undefined results are nan; an item that is not finite makes the result undefined
and is never dropped. Units that all say the same do not show how sure they are: no interval has a width of 0,
it is a bound (`unseen`) or nan. Proved by tests/metrics/test_intervals.py.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np

CHUNK = 2**20  # resampled items held in memory at once
TAILS = (1 - 0.95) / 2, (1 + 0.95) / 2  # every interval is one of 95 %


def beta_cdf(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function I_x(a, b).

    Continued fraction of Numerical Recipes, section 6.4, evaluated by Lentz's method; it converges fast
    for x below (a + 1)/(a + b + 2), and I_x(a, b) = 1 − I_{1−x}(b, a) serves the rest.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_cdf(1 - x, b, a)
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 100_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for numerator in (even, odd):
            c, d = 1 + numerator / c, 1 / (1 + numerator * d)
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return math.exp(a * math.log(x) + b * math.log1p(-x) - log_beta) * fraction / a


def bisect(increasing: Callable[[float], float], low: float, high: float) -> float:
    """The root of an increasing function between low and high, to the last bit."""
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if increasing(middle) < 0 else (low, middle)
    return middle


@lru_cache(maxsize=256)
def t_quantile(p: float, df: float) -> float:
    """Quantile of Student's t for 0.5 <= p < 1, by bisection on P(|t| > q) = I_{df/(df+q²)}(df/2, 1/2)."""

    def excess(q: float) -> float:
        return 2 * (1 - p) - beta_cdf(df / (df + q * q), df / 2, 0.5)

    high = 1.0
    while excess(high) < 0:
        high *= 2
    return bisect(excess, 0.0, high)


def wilson(k: float, n: int) -> tuple[float, float]:
    """Wilson's score interval for a proportion k/n; k may count a tie as a half. nan for n = 0.

        (p̂ + z²/2n ± z √(p̂(1−p̂)/n + z²/4n²)) / (1 + z²/n)        Source: Wilson 1927.
    """
    if n == 0:
        return math.nan, math.nan
    z = NormalDist().inv_cdf(TAILS[1])
    p = k / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At p = 0 and 1 the bound is exact; rounding must not leave 1e-18 or less than 1 there.
    low = 0.0 if k == 0 else (centre - half) / (1 + z * z / n)
    high = 1.0 if k == n else (centre + half) / (1 + z * z / n)
    return low, high


def unseen(value: float, n: int, low: float, high: float) -> tuple[float, float]:
    """95 % bounds of a mean over units in [low, high], where all of n units had this value: ±∞ for ends of ±∞.

        value − ε (value − low)   to   value + ε (high − value)        ε = 1 − .025^(1/n)

    A share above ε of other units would have shown itself, but for a chance of .025. With a value and an end of 0
    or 1 this is the exact interval of a proportion. Source: Clopper and Pearson 1934.
    """
    share = 1 - TAILS[0] ** (1 / n)
    return value - share * (value - low), value + share * (high - value)


def varies(x: np.ndarray, scale: float = 0.0) -> bool:
    """Whether the numbers differ by more than rounding does, as nan does. scale: of what they are differences of."""
    return not np.ptp(x) <= 1e-12 * max(np.abs(x).max(), scale)


def standard_error(x: Sequence[float]) -> float:
    """s / √n with the unbiased variance (n − 1), 0 for what is equal but for rounding; nan for n < 2."""
    x = np.asarray(x, dtype=float)
    if len(x) < 2:
        return math.nan
    return float(x.std(ddof=1) / math.sqrt(len(x))) if varies(x) else 0.0


def clustered_se(x: Sequence[float], clusters: Sequence) -> float:
    """Standard error of the mean of items that come in clusters (samples of one prompt).

        SE² = Σ_c (Σ_{i∈c} (x_i − x̄))² / n²

    x: (n,).  clusters: (n,) the cluster of each item. nan for fewer than two clusters.
    Source: Miller 2024, section 2.2.
    """
    x = np.asarray(x, dtype=float)
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(index, x - x.mean())  # (C,)
    if len(sums) < 2:
        return math.nan
    return float(np.sqrt((sums**2).sum()) / len(x))


def t_interval(x: Sequence[float]) -> tuple[float, float]:
    """Student's interval for a mean, x̄ ± t_{n−1} s/√n; nan for n < 2, and for numbers that are all equal."""
    x = np.asarray(x, dtype=float)
    if len(x) < 2 or not varies(x):
        return math.nan, math.nan
    half = t_quantile(TAILS[1], len(x) - 1) * standard_error(x)
    return float(x.mean() - half), float(x.mean() + half)


def resample_counts(n: int, n_resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Bootstrap weights in chunks (b, n): how often each of n items is drawn in n draws with replacement."""
    rows = max(1, CHUNK // n)
    for start in range(0, n_resamples, rows):
        b = min(rows, n_resamples - start)
        draws = rng.integers(0, n, (b, n)) + n * np.arange(b)[:, None]  # (b, n)
        yield np.bincount(draws.ravel(), minlength=b * n).reshape(b, n).astype(float)


def percentiles(values: np.ndarray, scale: float = 0.0) -> tuple[float, float]:
    """The ends of the middle 95 % of the values; nan where no two differ. scale: as for `varies`."""
    low, high = np.quantile(values, TAILS) if varies(values, scale) else (math.nan, math.nan)
    return float(low), float(high)


def corpus_interval(
    statistics: np.ndarray, metric: Callable[[np.ndarray], np.ndarray], n_resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval, over prompts, of a metric of summed sufficient statistics.

    statistics: (n, d), a row per prompt.  metric: (B, d) sums -> (B,), as in paired_tests.paired_corpus. nan for
    n < 2 or where the metric is undefined on some resample. Source: Efron and Tibshirani 1993, section 13.3.
    """
    statistics = np.asarray(statistics, dtype=float)
    if len(statistics) < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    values = [metric(weights @ statistics) for weights in resample_counts(len(statistics), n_resamples, rng)]
    return percentiles(np.concatenate(values))


def pseudo_values(statistics: np.ndarray, metric: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """What each prompt adds to a metric of summed statistics: the jackknife's pseudo-values, (n,).

        p_i = n f(Σ s) − (n − 1) f(Σ s − s_i)

    Of a mean they are the prompts' own values; of other metrics their mean is the metric, less its bias to first order.
    statistics: (n, d), n of 2 or more.  metric: (B, d) sums -> (B,). Source: Tukey 1958; Efron and Tibshirani 1993,
    section 11.4.
    """
    n, total = len(statistics), statistics.sum(axis=0, keepdims=True)  # (1, d)
    return n * metric(total) - (n - 1) * metric(total - statistics)


def pivot(value: float, low: float, high: float) -> tuple[float, float]:
    """The bootstrap's interval turned round its estimate, 2 v − high to 2 v − low, kept above 0 and about v.

    An error that is never below 0 is estimated too high, and its resamples again as much higher: the percentile
    interval of an ECE near 0 never covers. Source: Davison and Hinkley 1997, section 5.2 (basic bootstrap).
    """
    return max(2 * value - high, 0.0), max(2 * value - low, value)
