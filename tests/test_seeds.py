"""Several training runs: tables worked by hand, slow twins, and how often each interval errs."""

import math

import numpy as np
import pytest

from minirlhf import seeds
from minirlhf.intervals import t_interval
from minirlhf.stats import paired_difference

TABLE = np.array([[1.0, 2, 3], [3, 4, 8]])  # 2 runs on 3 prompts


def table(rng, runs: int, prompts: int, training: float, prompt: float, rest: float) -> np.ndarray:
    """Differences with a true mean of 0 and noise of three kinds, by their standard deviations. (S, n)"""
    by_run = training * rng.normal(size=(runs, 1))
    return by_run + prompt * rng.normal(size=(1, prompts)) + rest * rng.normal(size=(runs, prompts))


def test_mean_squares_of_a_table_worked_by_hand():
    """Means: 3.5 in all, runs 2 and 5, prompts 2, 3, 5.5; what is left is ±(.5, .5, −1) in the two runs."""
    assert seeds.mean_squares(TABLE) == pytest.approx((3 * 4.5 / 1, 2 * 6.5 / 2, 2 * 1.5 / 2))


def test_split_of_the_variance_of_a_table_worked_by_hand():
    result = seeds.compare_runs(TABLE, np.zeros(3))
    split = result.from_training, result.from_prompts, result.from_both
    assert split == pytest.approx(((13.5 - 1.5) / 6, (6.5 - 1.5) / 6, 1.5 / 6))
    assert (result.runs, result.failed, result.prompts, result.better) == (2, 0, 3, 2)
    assert result.by_run == pytest.approx((2, 5)) and result.difference == pytest.approx(3.5)


def test_split_of_the_variance_finds_the_noise_that_was_put_in():
    rng = np.random.default_rng(0)
    runs, prompts, sd = 6, 40, (0.5, 1.0, 0.8)
    results = [seeds.compare_runs(table(rng, runs, prompts, *sd), np.zeros(prompts), n_resamples=2)
               for _ in range(600)]  # fmt: skip
    split = np.mean([(r.from_training, r.from_prompts, r.from_both) for r in results], axis=0)
    true = np.square(sd) / (runs, prompts, runs * prompts)
    assert split == pytest.approx(true, rel=0.1)
    assert np.var([r.difference for r in results]) == pytest.approx(true.sum(), rel=0.15)


def test_three_runs_need_a_t_of_4_30():
    d = np.random.default_rng(0).normal(size=(3, 20))
    result = seeds.compare_runs(d, np.zeros(20))
    means = d.mean(axis=1)
    half = 4.30265273 * means.std(ddof=1) / math.sqrt(3)
    assert result.run_interval == pytest.approx((means.mean() - half, means.mean() + half), abs=1e-8)
    assert result.run_interval == pytest.approx(t_interval(means))


def test_without_noise_of_training_the_interval_is_that_of_one_run():
    """All runs alike: MS_A = MS_E = 0, and what is left is a t interval over prompts."""
    d = np.random.default_rng(0).normal(size=20)
    result = seeds.compare_runs(np.tile(d, (4, 1)), np.zeros(20))
    one = paired_difference(d, np.zeros(20))
    assert result.interval == pytest.approx(t_interval(d))
    assert (result.from_training, result.from_both) == pytest.approx((0, 0), abs=1e-12)
    assert result.bootstrap_interval == pytest.approx(one.bootstrap_interval, abs=0.05)


def test_without_noise_of_prompts_the_interval_is_the_t_over_runs():
    by_run = np.array([0.1, 0.5, 0.3, 0.2])
    result = seeds.compare_runs(np.tile(by_run[:, None], (1, 9)), np.zeros(9))
    assert result.interval == pytest.approx(result.run_interval)
    assert result.interval == pytest.approx(t_interval(by_run))


def test_p_value_is_below_5_percent_exactly_where_the_interval_excludes_0():
    rng = np.random.default_rng(0)
    results = [seeds.compare_runs(0.4 + table(rng, 4, 15, 0.3, 0.5, 0.5), np.zeros(15), n_resamples=2)
               for _ in range(60)]  # fmt: skip
    outside = [not r.interval[0] <= 0 <= r.interval[1] for r in results]
    assert outside == [r.p_value <= 0.05 for r in results] and 5 < sum(outside) < 55


def test_bootstrap_equals_resampling_runs_and_then_one_set_of_prompts():
    rng = np.random.default_rng(0)
    d = table(rng, 5, 8, 1, 1, 1)
    draws = []
    for _ in range(20_000):
        runs, prompts = rng.integers(0, 5, 5), rng.integers(0, 8, 8)
        draws.append(np.mean([[d[s, i] for i in prompts] for s in runs]))
    expected = np.quantile(draws, [0.025, 0.975])
    assert seeds.hierarchical_bootstrap(d, 20_000) == pytest.approx(expected, abs=0.05)


def misses(interval, runs: int, training: float, prompt: float, trials: int = 600) -> float:
    """How often interval(differences) excludes the true 0. Of 600 trials the standard error is 0.009."""
    rng = np.random.default_rng(runs)
    ends = [interval(table(rng, runs, 40, training, prompt, rest=1.0)) for _ in range(trials)]
    return float(np.mean([not low <= 0 <= high for low, high in ends]))


def both(d: np.ndarray) -> tuple[float, float]:
    return seeds.crossed_t(d)[0]


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


def test_hierarchical_bootstrap_errs_in_5_percent_with_ten_runs_and_too_often_with_three():
    def bootstrap(d: np.ndarray) -> tuple[float, float]:
        return seeds.hierarchical_bootstrap(d, 400)

    assert 0.02 <= misses(bootstrap, 10, 0.4, 0.5) <= 0.085
    assert misses(bootstrap, 3, 1.0, 0.0, 200) > 0.15


def test_resampling_prompts_anew_for_each_run_would_be_too_narrow():
    """Eight runs that agree on prompts that differ: the noise of prompts does not average out over runs."""
    d = table(np.random.default_rng(0), 8, 40, 0, 1, 0)
    half = np.ptp(seeds.hierarchical_bootstrap(d)) / 2
    assert half == pytest.approx(1.96 * d[0].std() / math.sqrt(40), rel=0.05)


def test_both_methods_may_have_runs_and_are_paired_by_run_and_prompt():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4, 10)), rng.normal(size=(4, 10))
    paired = seeds.compare_runs(a, b)
    assert paired == seeds.compare_runs(a - b, np.zeros(10))
    assert paired.by_run == pytest.approx([np.mean(x - y) for x, y in zip(a, b)])
    one = seeds.compare_runs(a, b[0])
    assert one.by_run == pytest.approx([np.mean(x - b[0]) for x in a])


def test_swapping_the_methods_mirrors_the_result_and_order_has_no_influence():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.4, 1, (4, 10)), rng.normal(size=(4, 10))
    there, back = seeds.compare_runs(a, b), seeds.compare_runs(b, a)
    assert back.interval == pytest.approx([-end for end in there.interval[::-1]])
    assert back.bootstrap_interval == pytest.approx([-end for end in there.bootstrap_interval[::-1]])
    assert back.p_value == pytest.approx(there.p_value)
    shuffled = seeds.compare_runs(a[::-1, ::-1], b[::-1, ::-1])
    assert shuffled.interval == pytest.approx(there.interval)
    assert shuffled.by_run == pytest.approx(there.by_run[::-1])


def test_identical_methods_differ_by_exactly_nothing():
    a = np.random.default_rng(0).normal(size=(3, 10))
    result = seeds.compare_runs(a, a.copy())
    assert (result.difference, result.interval, result.p_value, result.better) == (0, (0, 0), 1, 0)
    assert result.bootstrap_interval == result.run_interval == (0, 0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_failed_run_is_counted_shown_and_never_skipped(bad):
    a = np.ones((4, 6))
    a[2, 3] = bad
    result = seeds.compare_runs(a, np.zeros(6))
    assert (result.runs, result.failed, result.better) == (4, 1, 3)
    assert result.by_run == pytest.approx((1, 1, math.nan, 1), nan_ok=True)
    assert result.undefined == "1 of 4 training runs failed"
    assert math.isnan(result.difference) and math.isnan(result.p_value)
    assert all(map(math.isnan, result.interval + result.bootstrap_interval + result.run_interval))


@pytest.mark.parametrize(
    "shape, reason", [((1, 5), "2 training runs"), ((3, 1), "2 prompts"), ((0, 4), "2 training runs")]
)
def test_too_few_runs_or_prompts_are_undefined_and_say_so(shape, reason):
    result = seeds.compare_runs(np.ones(shape), np.zeros(shape[1]))
    assert reason in result.undefined and math.isnan(result.difference)
    assert len(result.by_run) == result.runs == shape[0]


@pytest.mark.parametrize("a, b", [((4,), (4,)), ((2, 4), (3, 4)), ((2, 4), (5,)), ((2, 4), (2,))])
def test_runs_that_cannot_be_paired_are_an_error(a, b):
    with pytest.raises(ValueError, match="runs must be"):
        seeds.compare_runs(np.ones(a), np.ones(b))


def test_interquartile_mean_of_known_values():
    assert seeds.interquartile_mean([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]) == pytest.approx(0.45)
    assert seeds.interquartile_mean([9, 1, 2, -50, 3, 4, 2, 3]) == pytest.approx((2 + 2 + 3 + 3) / 4)
    assert seeds.interquartile_mean([5, 1, 3]) == pytest.approx(3)
    assert math.isnan(seeds.interquartile_mean([])) and math.isnan(seeds.interquartile_mean([1, math.nan]))


def test_failed_runs_take_places_in_the_interquartile_mean():
    values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    a = np.tile(np.array(values)[:, None], (1, 3))
    assert seeds.compare_runs(a, np.zeros(3)).iqm == pytest.approx(0.45)
    a[:2] = math.nan  # the two worst: as bad as they were
    assert seeds.compare_runs(a, np.zeros(3)).iqm == pytest.approx(0.45)
    a[7] = math.nan  # of three, one stays in the middle half
    assert seeds.compare_runs(a, np.zeros(3)).iqm == -math.inf
    assert math.isnan(seeds.compare_runs(a[:7], np.zeros(3)).iqm)


def test_interquartile_mean_equals_scipys_trimmed_mean():
    scipy_stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for n in range(1, 30):
        x = rng.normal(size=n)
        assert seeds.interquartile_mean(x) == pytest.approx(scipy_stats.trim_mean(x, 0.25))


def test_the_result_is_a_function_of_the_seed():
    d, zero = np.random.default_rng(0).normal(size=(4, 10)), np.zeros(10)
    assert seeds.compare_runs(d, zero, seed=1) == seeds.compare_runs(d, zero, seed=1)
    one, two = (seeds.compare_runs(d, zero, seed=s).bootstrap_interval for s in (1, 2))
    assert one != two
