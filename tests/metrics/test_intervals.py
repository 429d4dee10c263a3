"""Intervals of one score: published values, closed forms, coverage by simulation."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from minirlhf.metrics import intervals

GOLDEN = json.loads((Path(__file__).parents[1] / "golden.json").read_text(encoding="utf-8"))
PAIRED_A, PAIRED_B = (np.array(GOLDEN["paired"][name]) for name in "ab")


def bootstrap_interval(x, **settings) -> tuple[float, float]:
    """The bootstrap's interval of a mean, from (value, 1) of each item."""
    rows = np.column_stack([x, np.ones(len(x))])
    return intervals.corpus_interval(rows, lambda sums: sums[:, 0] / sums[:, 1], **settings)


@pytest.mark.parametrize("df", GOLDEN["t975"])
def test_t_quantile_equals_published_table(df):
    assert intervals.t_quantile(0.975, int(df)) == pytest.approx(GOLDEN["t975"][df], abs=1e-8)


def test_t_quantile_is_the_closed_form_for_1_and_2_degrees_and_normal_for_many():
    for p in (0.5, 0.6, 0.9, 0.995, 0.99999):
        assert intervals.t_quantile(p, 1) == pytest.approx(math.tan(math.pi * (p - 0.5)), rel=1e-9, abs=1e-9)
        expected = (2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p)))
        assert intervals.t_quantile(p, 2) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert intervals.t_quantile(0.975, 10**7) == pytest.approx(1.959963984540054, abs=1e-6)


@pytest.mark.parametrize("name", GOLDEN["wilson"])
def test_wilson_interval_equals_published_values(name):
    k, n = map(int, name.split("/"))
    assert intervals.wilson(k, n) == pytest.approx(GOLDEN["wilson"][name], abs=1e-9)


def test_no_event_in_300_leaves_the_closed_form_of_clopper_and_pearson():
    """The p with which there is none in 2.5 %: (1 − p)^n = 0.025; of 84 prompts that are all wrong .043 may be right."""
    assert intervals.unseen(0.0, 300, 0.0, 1.0) == (0, pytest.approx(1 - 0.025 ** (1 / 300), abs=1e-9))
    assert intervals.unseen(0.0, 84, 0.0, 1.0)[1] == pytest.approx(0.0430, abs=1e-4)


def test_the_wilson_interval_mirrors_and_stays_within_0_and_1():
    for n in (1, 7, 40):
        for k in range(n + 1):
            low, high = intervals.wilson(k, n)
            assert 0 <= low <= k / n <= high <= 1
            assert intervals.wilson(n - k, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)
    assert all(map(math.isnan, intervals.wilson(0, 0)))


@pytest.mark.parametrize("value", [0.0, 1 / 6, 0.5, 1.0])
def test_what_is_unseen_is_covered_where_another_value_is_as_frequent_as_can_be(value):
    """At the end of the bound a sample that shows none of it has a chance of 2.5 %; without an end nothing is known."""
    low, high = intervals.unseen(value, 20, 0.0, 1.0)
    for end, reached in ((0.0, low), (1.0, high)):
        share = (reached - value) / (end - value) if end != value else None
        assert share is None or (1 - share) ** 20 == pytest.approx(0.025)
    assert intervals.unseen(value, 20, -math.inf, math.inf) == (-math.inf, math.inf)


@pytest.mark.parametrize("interval", [intervals.t_interval, bootstrap_interval])
@pytest.mark.parametrize("value", [0.0, 1 / 6, 0.1 + 0.2, -1e6])
def test_items_that_are_all_equal_have_no_interval(interval, value):
    assert all(map(math.isnan, interval(np.full(50, value))))
    assert intervals.standard_error(np.full(50, value)) == 0


def test_t_interval_of_the_paired_golden():
    d = PAIRED_A - PAIRED_B
    half = GOLDEN["t975"]["7"] * GOLDEN["paired"]["se"]
    mean = GOLDEN["paired"]["mean_diff"]
    assert intervals.t_interval(d) == pytest.approx((mean - half, mean + half), abs=1e-9)
    assert intervals.standard_error(d) == pytest.approx(GOLDEN["paired"]["se"], abs=1e-12)


@pytest.mark.parametrize(
    "x, independent, clustered",
    [
        ([1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0], 0.1507556723, 0.25),
        ([1, 1, 0, 1, 0, 0, 1, 1, 1, 0, 0, 1], 0.1486470975, 0.1381926996),
    ],
)
def test_clustered_standard_error_of_known_data(x, independent, clustered):
    assert intervals.standard_error(x) == pytest.approx(independent, abs=1e-9)
    clusters = np.repeat(["a", "b", "c", "d"], 3)
    assert intervals.clustered_se(x, clusters) == pytest.approx(clustered, abs=1e-9)


def test_two_sided_p_of_the_golden_t_is_the_incomplete_beta():
    """P(|t| > q) = I_{df/(df+q²)}(df/2, 1/2); the unpaired test of the same data sees nothing."""
    t = GOLDEN["paired"]["t"]
    assert np.mean(PAIRED_A - PAIRED_B) / intervals.standard_error(PAIRED_A - PAIRED_B) == pytest.approx(t)
    assert intervals.beta_cdf(7 / (7 + t * t), 3.5, 0.5) == pytest.approx(GOLDEN["paired"]["p_t"], abs=1e-12)
    pooled = math.hypot(intervals.standard_error(PAIRED_A), intervals.standard_error(PAIRED_B))
    t = (PAIRED_A.mean() - PAIRED_B.mean()) / pooled
    unpaired = intervals.beta_cdf(14 / (14 + t * t), 7, 0.5)
    assert unpaired == pytest.approx(GOLDEN["paired"]["p_unpaired_t"], abs=1e-12)


def test_clustered_standard_error_of_clusters_of_one_is_the_ordinary_one():
    """Less the correction n / (n − 1) of the variance."""
    x = np.random.default_rng(0).normal(size=30)
    assert intervals.clustered_se(x, range(30)) == pytest.approx(intervals.standard_error(x) * math.sqrt(29 / 30))
    order = np.random.default_rng(1).permutation(30)
    clusters = np.arange(30) // 3
    shuffled = intervals.clustered_se(x[order], clusters[order])
    assert shuffled == pytest.approx(intervals.clustered_se(x, clusters))


def test_fewer_than_two_items_have_no_spread():
    assert math.isnan(intervals.standard_error([1.0]))
    assert math.isnan(intervals.clustered_se([1.0, 2.0], ["a", "a"]))
    for interval in (intervals.t_interval, bootstrap_interval):
        assert all(map(math.isnan, interval([1.0]))) and all(map(math.isnan, interval([])))


@pytest.mark.parametrize("interval", [intervals.t_interval, bootstrap_interval])
def test_an_item_that_is_nan_makes_the_interval_nan(interval):
    assert all(map(math.isnan, interval([1.0, 2.0, math.nan])))


def test_bootstrap_interval_of_a_large_sample_is_the_normal_one():
    """And so it has not shrunk with the number of resamples (a standard error of the wrong thing)."""
    x = np.random.default_rng(0).exponential(size=500)
    half = 1.96 * intervals.standard_error(x)
    low, high = bootstrap_interval(x)
    assert (low, high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.1 * half)


def test_pseudo_values_of_a_mean_are_its_items_and_of_a_variance_sum_to_the_unbiased_one():
    x = np.random.default_rng(0).normal(size=9)
    rows = np.column_stack([x, x**2, np.ones(9)])
    mean, variance = (lambda s: s[:, 0] / s[:, 2]), (lambda s: s[:, 1] / s[:, 2] - (s[:, 0] / s[:, 2]) ** 2)
    assert intervals.pseudo_values(rows, mean) == pytest.approx(x)
    assert intervals.pseudo_values(rows, variance).mean() == pytest.approx(x.var(ddof=1))


def test_bootstrap_interval_of_two_items_is_their_range():
    """Of the resamples of {0, 1} a quarter are all 0 and a quarter all 1."""
    assert bootstrap_interval([0.0, 1.0]) == (0, 1)


def test_intervals_miss_the_true_mean_in_5_percent():
    rng = np.random.default_rng(2)
    missed = np.zeros(2)
    for trial in range(1000):
        x = rng.normal(3, 1, 40)
        both = intervals.t_interval(x), bootstrap_interval(x, n_resamples=400, seed=trial)
        missed += [not low <= 3 <= high for low, high in both]
    assert all(0.03 <= count / 1000 <= 0.08 for count in missed)


def test_the_proportion_interval_covers_in_95_percent():
    rng = np.random.default_rng(0)
    truths = rng.uniform(0.05, 0.95, 2000)
    counts = rng.binomial(50, truths)
    ends = np.array([intervals.wilson(k, 50) for k in range(51)])[counts]  # (2000, 2)
    assert ((ends[:, 0] <= truths) & (truths <= ends[:, 1])).mean() == pytest.approx(0.95, abs=0.02)


def test_quantiles_and_proportion_intervals_equal_scipy():
    scipy_stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for _ in range(200):
        p, df = rng.uniform(0.5, 0.99999), float(rng.uniform(1, 2000))
        assert intervals.t_quantile(p, df) == pytest.approx(scipy_stats.t.ppf(p, df), rel=1e-8, abs=1e-8)
        n = int(rng.integers(1, 500))
        k = int(rng.integers(0, n + 1))
        binomial = scipy_stats.binomtest(k, n)
        theirs = binomial.proportion_ci(0.95, method="wilson")
        assert intervals.wilson(k, n) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@pytest.mark.parametrize("value, low, high, turned", [
    (0.5, 0.4, 0.7, (0.3, 0.6)), (0.01, 0.012, 0.03, (0, 0.01)), (0.1, 0.12, 0.16, (0.04, 0.1)),
])
def test_a_pivoted_interval_is_turned_round_its_estimate_and_holds_it(value, low, high, turned):
    assert intervals.pivot(value, low, high) == pytest.approx(turned)
