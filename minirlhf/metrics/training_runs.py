"""Several training runs: is the method better, or was the one run lucky?

A run is a draw from the luck of training, a prompt a draw from the prompts, and the same prompts are put to
every run. With d_si the paired difference of run s on prompt i, S runs, n prompts,

    d_si = μ + A_s + P_i + E_si            Var(d̄) = σ_A² / S + σ_P² / n + σ_E² / (S n)
    MS_A = n Σ_s (d̄_s − d̄)² / (S − 1)      MS_P = S Σ_i (d̄_i − d̄)² / (n − 1)
    MS_E = Σ_si (d_si − d̄_s − d̄_i + d̄)² / ((S − 1)(n − 1))

A test over the prompts of one run leaves σ_A out and tells how good that run is, not the method; a t interval over
runs leaves σ_P out and holds for these prompts. Two or three runs know σ_A badly, prompts σ_P well: each part gets
the t of its own degrees of freedom, for with Satterthwaite's, one for both, two runs reject in 12 % at 5 %.
Source: Searle, Casella and McCulloch 1992 (the mean squares); Howe 1974 (a t for each part). Proved by
tests/metrics/test_training_runs.py.
"""

import math
from collections.abc import Sequence

import numpy as np

from minirlhf.metrics.intervals import beta_cdf, bisect, standard_error, t_quantile

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

        d̄ ± h        h² S n = t²_{S−1} MS_A + t²_{n−1} max(MS_P − MS_E, 0)

    p is where h is |d̄|. nan where unlike runs agree in the mean by chance, and where a difference is not finite.
    differences: (S, n), 2 or more of each.
    """
    runs, prompts = differences.shape
    if not np.isfinite(differences).all():
        return (math.nan, math.nan), math.nan
    a, p, e = mean_squares(differences)
    mean = float(differences.mean())

    def half(level: float) -> float:
        t_runs, t_prompts = (t_quantile(1 - level / 2, n - 1) ** 2 for n in (runs, prompts))
        return math.sqrt((t_runs * a + t_prompts * max(p - e, 0.0)) / differences.size)

    h, rounding = half(0.05), 1e-12 * float(np.abs(differences).max())
    if h <= rounding or a <= rounding**2 < e:
        return nothing_varies(mean)
    return (mean - h, mean + h), bisect(lambda level: abs(mean) - half(level), 1e-12, 1.0)


def independent_t(by_run: Sequence[float]) -> IntervalAndP:
    """Student's interval and p-value for the mean of independent runs, (S,); nan for fewer than two."""
    x = np.asarray(by_run, dtype=float)
    if len(x) < 2:
        return (math.nan, math.nan), math.nan
    mean, error, freedom = float(x.mean()), standard_error(x), len(x) - 1
    if error == 0:
        return nothing_varies(mean)
    half, t = t_quantile(0.975, freedom) * error, mean / error
    return (mean - half, mean + half), beta_cdf(freedom / (freedom + t * t), freedom / 2, 0.5)


def nothing_varies(mean: float) -> IntervalAndP:
    """Of differences that are all equal: no interval and no p, but p = 1 for methods that never differ.

    Few runs of a coarse metric often agree by chance, and t knows no noise then.
    """
    return (math.nan, math.nan), math.nan if mean else 1.0
