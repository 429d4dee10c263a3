"""Several training runs: is the method better, or was the one run lucky?

A run is a draw from the luck of training, a prompt a draw from the prompts, and the same prompts are put to
every run. With d_si the paired difference of run s on prompt i, S runs, n prompts,

    d_si = μ + A_s + P_i + E_si            Var(d̄) = σ_A² / S + σ_P² / n + σ_E² / (S n)
    MS_A = n Σ_s (d̄_s − d̄)² / (S − 1)      MS_P = S Σ_i (d̄_i − d̄)² / (n − 1)
    MS_E = Σ_si (d_si − d̄_s − d̄_i + d̄)² / ((S − 1)(n − 1))

which estimate Var(d̄) by (MS_A + MS_P − MS_E) / (S n). A test over the prompts of one run leaves σ_A out and
tells how good that run is, not the method; a t interval over runs leaves σ_P out and holds for these prompts.
Source: Clark 1973 (both at random); Searle, Casella and McCulloch 1992. Proved by tests/metrics/test_training_runs.py.
"""

import math
from collections.abc import Sequence

import numpy as np

from minirlhf.metrics.intervals import beta_cdf, standard_error, t_quantile

IntervalAndP = tuple[tuple[float, float], float]  # 95 % interval, two-sided p-value


def mean_squares(differences: np.ndarray) -> tuple[float, float, float]:
    """(MS_A, MS_P, MS_E) of the two-way table. differences: (S, n)."""
    runs, prompts = differences.shape
    mean, by_run = differences.mean(), differences.mean(axis=1, keepdims=True)  # (S, 1)
    by_prompt = differences.mean(axis=0, keepdims=True)  # (1, n)
    rest = differences - by_run - by_prompt + mean  # (S, n)
    sums = prompts * ((by_run - mean) ** 2).sum(), runs * ((by_prompt - mean) ** 2).sum(), (rest**2).sum()
    freedom = runs - 1, prompts - 1, (runs - 1) * (prompts - 1)
    return tuple(float(s / f) for s, f in zip(sums, freedom))


def crossed_t(differences: np.ndarray) -> IntervalAndP:
    """Interval and p-value for the mean where both runs and prompts are a sample.

        d̄ ± t_ν √(V / (S n))        V = MS_A + MS_P − MS_E        ν = V² / Σ_j MS_j² / ν_j

    V is held at the larger of MS_A and MS_P, below which it falls by chance alone. differences: (S, n), 2 or more of
    each. Source: Clark 1973 (quasi-F); ν: Satterthwaite 1946.
    """
    runs, prompts = differences.shape
    a, p, e = mean_squares(differences)
    V = max(a + p - e, a, p)
    if known := without_spread(differences):
        return known
    freedom = V**2 / (a**2 / (runs - 1) + p**2 / (prompts - 1) + e**2 / ((runs - 1) * (prompts - 1)))
    return students(float(differences.mean()), math.sqrt(V / differences.size), freedom)


def independent_t(by_run: Sequence[float]) -> IntervalAndP:
    """Student's interval and p-value for the mean of independent runs, each on prompts of its own.

    by_run: the difference of each. nan for fewer than two.
    """
    x = np.asarray(by_run, dtype=float)
    if len(x) < 2:
        return (math.nan, math.nan), math.nan
    return without_spread(x) or students(float(x.mean()), standard_error(x), len(x) - 1)


def students(mean: float, error: float, freedom: float) -> IntervalAndP:
    """Interval and p-value of a mean with a standard error of so many degrees of freedom."""
    half, t = t_quantile(0.975, freedom) * error, mean / error
    return (mean - half, mean + half), beta_cdf(freedom / (freedom + t * t), freedom / 2, 0.5)


def without_spread(x: np.ndarray) -> IntervalAndP | None:
    """Of differences that are all equal but for rounding: nan, but p = 1 for methods that never differ. Else None.

    Few runs of a coarse metric often agree by chance, and t knows no noise then.
    """
    if np.ptp(x) > 1e-12 * np.abs(x).max():
        return None
    return ((math.nan, math.nan), math.nan) if x.any() else ((0.0, 0.0), 1.0)
