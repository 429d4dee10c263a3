"""Several training runs: tables worked by hand, and how often each interval errs."""

import math

import numpy as np
import pytest

from minirlhf.metrics import training_runs
from minirlhf.metrics.intervals import t_interval

TABLE = np.array([[1.0, 2, 3], [3, 4, 8]])  # 2 runs on 3 prompts


def table(rng, runs: int, prompts: int, training: float, prompt: float, rest: float) -> np.ndarray:
    """Differences with a true mean of 0 and noise of three kinds, by their standard deviations. (S, n)"""
    by_run = training * rng.normal(size=(runs, 1))
    return by_run + prompt * rng.normal(size=(1, prompts)) + rest * rng.normal(size=(runs, prompts))


def test_mean_squares_of_a_table_worked_by_hand():
    """Means: 3.5 in all, runs 2 and 5, prompts 2, 3, 5.5; what is left is ±(.5, .5, −1) in the two runs."""
    assert training_runs.mean_squares(TABLE) == pytest.approx((3 * 4.5 / 1, 2 * 6.5 / 2, 2 * 1.5 / 2))


def test_mean_squares_find_the_noise_that_was_put_in():
    rng = np.random.default_rng(0)
    runs, prompts, sd = 6, 40, (0.5, 1.0, 0.8)
    tables = [table(rng, runs, prompts, *sd) for _ in range(600)]
    a, p, e = np.mean([training_runs.mean_squares(d) for d in tables], axis=0)
    true = np.square(sd) / (runs, prompts, runs * prompts)
    assert np.array([a - e, p - e, e]) / (runs * prompts) == pytest.approx(true, rel=0.1)
    assert np.var([d.mean() for d in tables]) == pytest.approx(true.sum(), rel=0.15)


def test_three_runs_need_a_t_of_4_30():
    by_run = np.random.default_rng(0).normal(size=3)
    half = 4.30265273 * by_run.std(ddof=1) / math.sqrt(3)
    interval, _ = training_runs.independent_t(by_run)
    assert interval == pytest.approx((by_run.mean() - half, by_run.mean() + half), abs=1e-8)
    assert interval == pytest.approx(t_interval(by_run))


def test_without_noise_of_training_the_interval_is_that_of_one_run():
    """All runs alike: MS_A = MS_E = 0, and what is left is a t interval over prompts."""
    d = np.random.default_rng(0).normal(size=20)
    assert training_runs.crossed_t(np.tile(d, (4, 1)))[0] == pytest.approx(t_interval(d))


def test_without_noise_of_prompts_the_interval_is_the_t_over_runs():
    by_run = np.array([0.1, 0.5, 0.3, 0.2])
    assert training_runs.crossed_t(np.tile(by_run[:, None], (1, 9)))[0] == pytest.approx(t_interval(by_run))


def test_p_value_is_below_5_percent_exactly_where_the_interval_excludes_0():
    rng = np.random.default_rng(0)
    results = [training_runs.crossed_t(0.4 + table(rng, 4, 15, 0.3, 0.5, 0.5)) for _ in range(30)]
    outside = [not low <= 0 <= high for (low, high), _ in results]
    assert outside == [p <= 0.05 for _, p in results] and 3 < sum(outside) < 27


def misses(interval, runs: int, training: float, prompt: float, trials: int = 600) -> float:
    """How often interval(differences) excludes the true 0. Of 600 trials the standard error is 0.009."""
    rng = np.random.default_rng(runs)
    ends = [interval(table(rng, runs, 40, training, prompt, rest=1.0)) for _ in range(trials)]
    return float(np.mean([not low <= 0 <= high for low, high in ends]))


def both(d: np.ndarray) -> tuple[float, float]:
    """The interval of `crossed_t`, without its p, which takes a hundred times longer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_runs, "bisect", lambda *_: math.nan)
        return training_runs.crossed_t(d)[0]


@pytest.mark.parametrize(
    "runs, training, prompt", [(3, 0.4, 0.0), (3, 0.4, 1.0), (8, 0.4, 1.0), (5, 0.0, 1.0), (5, 0.4, 0.5)]
)
def test_the_interval_misses_in_5_percent_whatever_the_noise(runs, training, prompt):
    assert 0.02 <= misses(both, runs, training, prompt) <= 0.085


def test_ignoring_the_luck_of_training_rejects_far_too_often():
    """One run tested over its prompts, or the prompts of all runs as if they were so many prompts."""
    assert misses(lambda d: t_interval(d[0]), 5, 0.4, 0.5, 200) > 0.3
    assert misses(lambda d: t_interval(d.ravel()), 5, 0.4, 0.5, 200) > 0.3


def test_ignoring_that_prompts_are_a_sample_rejects_far_too_often():
    assert misses(lambda d: t_interval(d.mean(axis=1)), 8, 0.05, 1.0, 200) > 0.3
    assert misses(both, 8, 0.05, 1.0) <= 0.085


def test_swapping_the_methods_mirrors_the_result_and_order_has_no_influence():
    d = np.random.default_rng(1).normal(0.4, 1, (4, 10))
    (low, high), p = training_runs.crossed_t(d)
    assert training_runs.crossed_t(-d)[0] == pytest.approx((-high, -low)) and training_runs.crossed_t(-d)[1] == pytest.approx(p)
    assert training_runs.crossed_t(d[::-1, ::-1])[0] == pytest.approx((low, high))


@pytest.mark.parametrize("function, shape", [(training_runs.crossed_t, (3, 10)), (training_runs.independent_t, (3,))])
def test_identical_methods_differ_by_exactly_nothing_and_other_equal_differences_say_nothing(function, shape):
    assert str(function(np.zeros(shape))) == "((nan, nan), 1.0)"
    (low, high), p = function(np.full(shape, 0.3))
    assert math.isnan(low) and math.isnan(high) and math.isnan(p)


def test_a_difference_that_is_not_finite_shows_nothing():
    d = np.random.default_rng(0).normal(1.0, 0.1, (3, 20))
    d[1, 2] = math.nan
    assert str(training_runs.crossed_t(d)) == "((nan, nan), nan)"


def test_one_run_is_undefined():
    (low, high), p = training_runs.independent_t([1.0])
    assert math.isnan(low) and math.isnan(high) and math.isnan(p)
