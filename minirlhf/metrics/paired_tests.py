"""Paired comparisons: is model B better than model A, by how much, and how sure is that?

    Δ = metric(Σ a) − metric(Σ b)        d_i = what prompt i adds to Δ        p = (1 + #{|Σ ± d_i| >= |Σ d_i|}) / (B + 1)

For a mean d_i is a_i − b_i. The unit is the prompt: average several samples of one prompt first, and compare both models
on the same prompts. Everything random is a function of `seed`. Undefined results are nan and say why; an item that is
not finite makes the result undefined and is never dropped. One trained model says nothing about the luck
of training: for that see `training_runs.py`. Proved by tests/metrics/test_paired_tests.py.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from minirlhf.metrics.intervals import (
    CHUNK, beta_cdf, percentiles, pseudo_values, resample_counts, standard_error, varies, wilson,
)

LEAST = 6  # prompts: with fewer, no test reaches 5%: 2 of the 2^n ways to choose signs are as extreme as what was seen
EXACT_LIMIT = 16  # up to this many prompts all 2^n ways are enumerated


def _signs(n: int, n_resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Signs for n differences, in chunks (b, n) of −1 and 1: every one of the 2^n ways if n <= EXACT_LIMIT, else
    n_resamples random ones."""
    total = 2**n if n <= EXACT_LIMIT else n_resamples
    rows = max(1, CHUNK // n)
    for start in range(0, total, rows):
        b = min(rows, total - start)
        if n <= EXACT_LIMIT:
            yield 1.0 - 2.0 * ((start + np.arange(b))[:, None] >> np.arange(n) & 1)
        else:
            yield 1.0 - 2.0 * rng.integers(0, 2, (b, n))


@dataclass(frozen=True)
class Difference:
    """A paired comparison: metric(a) − metric(b) over n prompts. nan, with the reason, where undefined."""

    n: int
    difference: float = math.nan
    bootstrap_interval: tuple[float, float] = (math.nan, math.nan)
    p_value: float = math.nan  # two-sided permutation test of signs
    minimum_detectable_effect: float = math.nan  # at this n, 5% two-sided, 80% power
    prompts_needed: float = math.nan  # to detect a true difference of the size seen; inf if none was seen
    undefined: str = ""  # the reason, if the comparison is undefined


def power_factor(alpha: float = 0.05) -> float:
    """z(1 − alpha/2) + z(0.8): the shift, in standard errors, that a two-sided test detects 80% of the time; 2.80."""
    return NormalDist().inv_cdf(1 - alpha / 2) + NormalDist().inv_cdf(0.8)


def minimum_detectable_effect(sd: float, n: int) -> float:
    """The true mean difference found 80% of the time at 5% two-sided: 2.80 sd / √n, sd of the differences.
    nan for sd = 0: differences that are all equal tell nothing about the next one; and for n below LEAST."""
    return power_factor() * sd / math.sqrt(n) if sd > 0 and n >= LEAST else math.nan


def prompts_needed(sd: float, effect: float) -> float:
    """Prompts for a minimum detectable effect of |effect|: (2.80 sd / effect)², rounded up, LEAST or more; inf for
    an effect of 0, else nan for sd = 0."""
    if effect == 0:
        return math.inf
    return float(max(math.ceil((power_factor() * sd / effect) ** 2), LEAST)) if sd > 0 else math.nan


def paired_corpus(
    stats_a: np.ndarray, stats_b: np.ndarray, metric: Callable[[np.ndarray], np.ndarray], seed: int = 0,
    n_resamples: int = 10_000, chance: float = 0.0,
) -> Difference:
    """Compares two systems on a corpus metric that is a function of summed sufficient statistics.

    Interval: percentile bootstrap, both systems on the same resampled prompts; nan where no resample differs. p-value:
    under the null what a prompt adds to Δ, the difference d_i of `pseudo_values` about Δ, is as likely to be −d_i, so

        p = (1 + #{|Σ ± d_i| >= |Σ d_i|}) / (B + 1)        or, for n <= 16, the exact share over all 2^n signs.

    For a mean that is to swap the two systems' values at random. To swap whole rows elsewhere tests whether the systems
    are alike in all: of two equal means per token, of answers of 4 and of 23 tokens, it rejects 16 % at 5 %. The
    bootstrap's |Δ*| less its mean is no substitute: tests built on it reject 10 %.
    stats_a, stats_b: (n, d), a row per prompt, the same prompts.  metric: (B, d) sums -> (B,) scores.
    chance: what Δ would be of two faultless systems. Δ and Δ − chance must both be shown, in one direction: p is the
    larger of theirs, and so is what it takes to see a difference.
    Source: Koehn 2004 (bootstrap); Fisher 1935, section 21 (signs); Tukey 1958 (pseudo-values).
    """
    a, b = np.asarray(stats_a, dtype=float), np.asarray(stats_b, dtype=float)
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"paired statistics must be two (n, d) arrays, got {a.shape} and {b.shape}")
    n = len(a)
    bad = int((~np.isfinite(a) | ~np.isfinite(b)).any(axis=1).sum())
    if n < 2:
        return Difference(n, undefined="fewer than 2 prompts")
    if not np.isfinite(chance):
        return Difference(n, undefined="what chance makes of the difference is not finite")
    if bad:
        return Difference(n, undefined=f"{bad} of {n} prompts have a value that is not finite")
    rng = np.random.default_rng(seed)
    sum_a, sum_b = a.sum(axis=0, keepdims=True), b.sum(axis=0, keepdims=True)  # (1, d)
    difference = float((metric(sum_a) - metric(sum_b))[0])
    both = np.concatenate([[metric(w @ a), metric(w @ b)] for w in resample_counts(n, n_resamples, rng)], 1)  # (2, B)
    bootstrap, scale = both[0] - both[1], float(np.abs(both).max())  # (B,)
    added = pseudo_values(a, metric) - pseudo_values(b, metric)  # (n,)
    added += difference - added.mean()  # p is of the difference that is shown, and not of one less its bias
    if not (np.isfinite(difference) and np.isfinite(bootstrap).all() and np.isfinite(added).all()):
        return Difference(n, undefined="the metric is not finite on the corpus or on some resample of it")
    beside = np.stack([added, added - chance], 1)  # (n, 2)
    flipped = np.abs(np.concatenate([signs @ beside for signs in _signs(n, n_resamples, rng)]))  # (B, 2)
    # Equal differences reached by another order of summation differ in the last bits: they must count.
    tolerance = 1e-9 * np.abs(beside).sum() + 1e-12 * n * scale
    difference = difference if abs(difference) > 1e-12 * scale else 0.0
    extreme = int((flipped >= np.abs(beside.sum(0)) - tolerance).sum(0).max())
    p_value = extreme / len(flipped) if n <= EXACT_LIMIT else (1 + extreme) / (1 + len(flipped))
    if difference * (difference - chance) < 0:
        p_value = 1.0
    sd = standard_error(added) * math.sqrt(n) * varies(bootstrap, scale)
    smaller = min(difference, difference - chance, key=abs)
    power = minimum_detectable_effect(sd, n) + abs(chance), prompts_needed(sd, smaller)
    return Difference(n, difference, percentiles(bootstrap, scale), p_value, *power)


def verdict(difference: Difference, direction: int = 1, alpha: float = 0.05) -> str:
    """What the comparison shows of a against b: "better", "worse", "no difference shown" or "undefined".

    The p-value alone decides and the sign of the difference says which way. direction: 1 where higher is better, −1
    where lower is, 0 where it is "higher" or "lower". "No difference shown" is not "equal": print the minimum
    detectable effect beside it.
    """
    if math.isnan(difference.p_value):
        return "undefined"
    if difference.p_value > alpha or difference.difference == 0:
        return "no difference shown"
    words = ("better", "worse") if direction else ("higher", "lower")
    return words[(difference.difference > 0) != (direction >= 0)]


def sign_test(wins: int, losses: int) -> float:
    """Exact two-sided p-value of the sign test; on the discordant pairs of two classifiers it is McNemar's
    exact test. Ties do not enter. 2 P(X <= min) for X ~ Binomial(wins + losses, 1/2), at most 1."""
    k, n = min(wins, losses), wins + losses
    return min(1.0, 2 * beta_cdf(0.5, n - k, k + 1)) if n else 1.0


def win_rate(wins: int, ties: int, losses: int) -> dict[str, float]:
    """The three, rate (W + T/2)/N, its interval from low to high, and p of the sign test, which leaves out ties.

    Wilson's interval, which the ties make conservative and which, unlike ± SE, stays inside [0, 1] and does not
    shrink to a point when one side wins every time. nan for N = 0.
    """
    n = wins + ties + losses
    low, high = wilson(wins + ties / 2, n)
    rate, p = ((wins + ties / 2) / n, sign_test(wins, losses)) if n else (math.nan, math.nan)
    return {"wins": wins, "ties": ties, "losses": losses, "rate": rate, "low": low, "high": high, "p": p}


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's adjusted p-values, in the order given: max over j <= i of min(1, (m − j + 1) p_(j)).

    Reject where the adjusted value is at most alpha: the chance of any false rejection in the family is
    then at most alpha. An undefined p (nan) stays nan and still counts in m.  Source: Holm 1979.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)  # nan last
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(np.minimum(1, (len(p) - np.arange(len(p))) * p[order]))
    return adjusted
