"""Several training runs: is the method better, or was the one run lucky?

A run is a draw from the luck of training, a prompt a draw from the prompts, and the same prompts are put to
every run. With d_si the paired difference of run s on prompt i, S runs, n prompts,

    d_si = μ + A_s + P_i + E_si            Var(d̄) = σ_A² / S + σ_P² / n + σ_E² / (S n)
    MS_A = n Σ_s (d̄_s − d̄)² / (S − 1)      MS_P = S Σ_i (d̄_i − d̄)² / (n − 1)
    MS_E = Σ_si (d_si − d̄_s − d̄_i + d̄)² / ((S − 1)(n − 1))

which estimate Var(d̄) by (MS_A + MS_P − MS_E) / (S n). A test over the prompts of one run leaves σ_A out and
tells how good that run is, not the method; a t interval over runs leaves σ_P out and holds for these prompts.
A run that failed is counted: it makes the mean undefined, and is never skipped.
Source: Clark 1973 (both at random); Searle, Casella and McCulloch 1992. Proved by tests/test_seeds.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minirlhf.intervals import beta_cdf, percentiles, resample_counts, standard_error, t_interval, t_quantile

IQM_RUNS = 8  # with fewer, a quarter of the runs is too few to cut off


@dataclass(frozen=True)
class RunsComparison:
    """Mean of a − b over runs and prompts. nan, with the reason, where undefined."""

    runs: int
    failed: int  # runs with a score that is not finite
    prompts: int
    by_run: tuple[float, ...]  # the mean difference of every run, nan of one that failed
    better: int  # runs whose difference is above 0; one that failed is not
    difference: float
    interval: tuple[float, float]  # for new runs on new prompts: the one to print
    p_value: float  # two-sided, of that interval's t
    bootstrap_interval: tuple[float, float]  # by resampling runs, then prompts; too narrow for 3 runs
    run_interval: tuple[float, float]  # t over the S means, for new runs on these prompts
    from_training: float  # σ_A² / S, the share of Var(d̄) that more runs would lower
    from_prompts: float  # σ_P² / n, what more prompts would lower
    from_both: float  # σ_E² / (S n)
    iqm: float  # interquartile mean of by_run, a failed run the worst of all; nan below IQM_RUNS
    undefined: str = ""  # the reason, if the comparison is undefined


def interquartile_mean(x: Sequence[float]) -> float:
    """Mean of the middle half: a quarter of the values, rounded down, is cut off at either end.

    −inf is the score of a run that failed: a quarter of them costs nothing but a place, more make the mean
    −inf. nan without values or with a nan.  Source: Agarwal et al. 2021, section 4.3.
    """
    x = np.sort(np.asarray(x, dtype=float))  # nan last
    cut = len(x) // 4
    return math.nan if not len(x) or np.isnan(x[-1]) else float(x[cut : len(x) - cut].mean())


def hierarchical_bootstrap(
    differences: np.ndarray, n_resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean: draw S runs with replacement, then n prompts, the same for all runs.

    Prompts drawn anew for each run would average out the noise that all runs share. Of the runs no resample
    reaches beyond the best and the worst: where training is all the noise, 3 runs miss a quarter of the time
    (S runs 2^(1 − S)), so for few runs use the t. differences: (S, n).
    Source: Owen 2007 (rows and columns resampled).
    """
    runs, prompts = differences.shape
    rng = np.random.default_rng(seed)
    drawn = np.concatenate([w @ differences.T for w in resample_counts(prompts, n_resamples, rng)])  # (B, S)
    weights = np.concatenate(list(resample_counts(runs, n_resamples, rng)))  # (B, S)
    return percentiles((weights * drawn).sum(axis=1) / (runs * prompts), level)


def mean_squares(differences: np.ndarray) -> tuple[float, float, float]:
    """(MS_A, MS_P, MS_E) of the two-way table. differences: (S, n)."""
    runs, prompts = differences.shape
    mean, by_run = differences.mean(), differences.mean(axis=1, keepdims=True)  # (S, 1)
    by_prompt = differences.mean(axis=0, keepdims=True)  # (1, n)
    rest = differences - by_run - by_prompt + mean  # (S, n)
    sums = prompts * ((by_run - mean) ** 2).sum(), runs * ((by_prompt - mean) ** 2).sum(), (rest**2).sum()
    freedom = runs - 1, prompts - 1, (runs - 1) * (prompts - 1)
    return tuple(float(s / f) for s, f in zip(sums, freedom))


def all_equal(x: np.ndarray) -> bool:
    """Whether all are the same number but for rounding."""
    return bool(np.ptp(x) <= 1e-12 * np.abs(x).max())


def without_spread(x: np.ndarray) -> tuple[tuple[float, float], float]:
    """Interval and p-value of differences that do not vary: none, but for methods that never differ."""
    return ((math.nan, math.nan), math.nan) if x.any() else ((0.0, 0.0), 1.0)


def crossed_t(differences: np.ndarray, level: float = 0.95) -> tuple[tuple[float, float], float]:
    """Interval and two-sided p-value for the mean where both runs and prompts are a sample.

        d̄ ± t_ν √(V / (S n))        V = MS_A + MS_P − MS_E        ν = V² / Σ_j MS_j² / ν_j

    V is held at the larger of MS_A and MS_P, below which it falls by chance alone. nan where all differences are
    equal and not 0: then nothing says how much the next may differ. differences: (S, n).
    Source: Clark 1973 (quasi-F); ν: Satterthwaite 1946.
    """
    runs, prompts = differences.shape
    a, p, e = mean_squares(differences)
    mean, V = float(differences.mean()), max(a + p - e, a, p)
    if all_equal(differences):
        return without_spread(differences)
    freedom = V**2 / (a**2 / (runs - 1) + p**2 / (prompts - 1) + e**2 / ((runs - 1) * (prompts - 1)))
    se = math.sqrt(V / differences.size)
    half = t_quantile((1 + level) / 2, freedom) * se
    t = mean / se
    return (mean - half, mean + half), beta_cdf(freedom / (freedom + t * t), freedom / 2, 0.5)


def independent_t(by_run: Sequence[float], level: float = 0.95) -> tuple[tuple[float, float], float]:
    """Student's interval and two-sided p-value for the mean of independent runs, each on prompts of its own.

    by_run: the difference of each. nan for fewer than two, and for equal ones: few runs of a coarse metric often
    agree by chance, and t knows no noise then. p = 1 where all are 0.
    """
    x = np.asarray(by_run, dtype=float)
    if len(x) < 2:
        return (math.nan, math.nan), math.nan
    if all_equal(x):
        return without_spread(x)
    freedom, t = len(x) - 1, x.mean() / standard_error(x)
    return t_interval(x, level), beta_cdf(freedom / (freedom + t * t), freedom / 2, 0.5)


def compare_runs(
    a: np.ndarray, b: np.ndarray, seed: int = 0, n_resamples: int = 10_000, level: float = 0.95
) -> RunsComparison:
    """Compare two methods by several training runs of each, or of a with one model b.

    a: (S, n), a row for each run, failed ones too (nan where there is no score), higher is better.
    b: (S, n), row s the run that a's run s is paired with (same seed, or what it was trained from), or (n,).
    Raises ValueError for other shapes.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.ndim != 2 or b.shape not in (a.shape, a.shape[1:]):
        raise ValueError(f"runs must be (S, n) and (S, n) or (n,) scores, got {a.shape} and {b.shape}")
    with np.errstate(invalid="ignore"):  # inf − inf is nan, and counted as failed
        d = a - b  # (S, n)
    runs, prompts = d.shape
    failed = ~np.isfinite(d).all(axis=1)  # (S,)
    by_run = np.where(failed, math.nan, np.where(failed[:, None], 0, d).sum(axis=1) / max(prompts, 1))  # (S,)
    iqm = interquartile_mean(np.where(failed, -math.inf, by_run)) if runs >= IQM_RUNS else math.nan
    seen = runs, int(failed.sum()), prompts, tuple(by_run.tolist()), int((by_run > 0).sum())
    reasons = {
        "fewer than 2 training runs": runs < 2,
        "fewer than 2 prompts": prompts < 2,
        f"{failed.sum()} of {runs} training runs failed": failed.any(),
    }
    if reason := next((reason for reason, holds in reasons.items() if holds), ""):
        nan, none = math.nan, (math.nan, math.nan)
        return RunsComparison(*seen, nan, none, nan, none, none, nan, nan, nan, iqm, reason)
    interval, p_value = crossed_t(d, level)
    ms_a, ms_p, ms_e = mean_squares(d)
    return RunsComparison(
        *seen,
        difference=float(d.mean()),
        interval=interval,
        p_value=p_value,
        bootstrap_interval=hierarchical_bootstrap(d, n_resamples, seed, level),
        run_interval=t_interval(by_run, level),
        from_training=max(ms_a - ms_e, 0.0) / d.size,
        from_prompts=max(ms_p - ms_e, 0.0) / d.size,
        from_both=ms_e / d.size,
        iqm=iqm,
    )
