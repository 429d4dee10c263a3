"""Paired comparisons: published values, exact enumeration, metamorphic properties, error rates."""

import json
import math
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from minirlhf.metrics import intervals, paired_tests
from minirlhf.metrics.overlap import bleu_from_statistics, bleu_statistics
from minirlhf.metrics.scores import classification_statistics, macro_f1, perplexity

GOLDEN = json.loads((Path(__file__).parents[1] / "golden.json").read_text(encoding="utf-8"))
PAIRED_A, PAIRED_B = (np.array(GOLDEN["paired"][name]) for name in "ab")
PROMPTS = GOLDEN["bleu"]["corpus5"]["hyps"]
TARGETS = GOLDEN["bleu"]["corpus5"]["ref_streams"][0]


def corpus_perplexity(sums: np.ndarray) -> np.ndarray:
    """Metric on statistics (NLL, tokens)."""
    return perplexity(sums[:, 0], sums[:, 1])


def total(sums: np.ndarray) -> np.ndarray:
    """Metric on statistics (value,)."""
    return sums[:, 0]


def paired_means(a, b, seed: int = 0, n_resamples: int = 10_000) -> paired_tests.Difference:
    """The means of two systems compared, from the statistics (value, 1) of each prompt."""
    rows = (np.column_stack([x, np.ones(len(x))]) for x in (a, b))
    return paired_tests.paired_corpus(*rows, lambda sums: sums[:, 0] / sums[:, 1], seed, n_resamples)


def bleu_rows(hypotheses: list[str], targets: list[str]) -> np.ndarray:
    return np.array([bleu_statistics(hyp, [target], "13a") for hyp, target in zip(hypotheses, targets)])


def random_bleu_rows(rng: np.random.Generator, n: int) -> np.ndarray:
    """Statistics of n segments of 4 to 12 tokens whose n-gram matches fall off geometrically."""
    length = rng.integers(4, 13, n)
    totals = length[:, None] - np.arange(4)
    matches = [rng.binomial(total, 0.6 ** np.arange(1, 5)) for total in totals]
    return np.column_stack([length, length, matches, totals])


def test_results_are_a_function_of_the_seed():
    x = np.random.default_rng(0).normal(size=40)
    assert intervals.corpus_interval(x[:, None], total, seed=1) == intervals.corpus_interval(x[:, None], total, seed=1)
    assert intervals.corpus_interval(x[:, None], total, seed=1) != intervals.corpus_interval(x[:, None], total, seed=2)
    assert paired_means(x, 0 * x, seed=1) == paired_means(x, 0 * x, seed=1)


def test_chunks_of_resamples_do_not_change_the_result(monkeypatch):
    x = np.random.default_rng(0).normal(size=40)
    whole = intervals.corpus_interval(x[:, None], total), paired_means(x, 0 * x)
    for module in (intervals, paired_tests):
        monkeypatch.setattr(module, "CHUNK", 1000)
    assert intervals.corpus_interval(x[:, None], total) == pytest.approx(whole[0], abs=1e-12)
    assert paired_means(x, 0 * x).p_value == whole[1].p_value


def test_paired_comparison_of_the_golden():
    result = paired_means(PAIRED_A, PAIRED_B)
    golden = GOLDEN["paired"]
    assert result.n == 8 and result.undefined == ""
    assert result.difference == pytest.approx(golden["mean_diff"], abs=1e-12)
    assert result.p_value == 28 / 256 == golden["p_signflip_exact"]
    assert result.minimum_detectable_effect == pytest.approx(2.8015852181 * golden["se"])
    assert result.prompts_needed == math.ceil(8 * (2.8015852181 * golden["se"] / golden["mean_diff"]) ** 2)


def test_exact_p_value_is_the_share_of_all_sign_flips():
    rng = np.random.default_rng(0)
    for n in (2, 5, 9):
        d = rng.integers(-3, 4, n) / 10  # many exact ties, which rounding must not break
        flipped = [abs(np.dot(signs, 10 * d)) for signs in product([-1, 1], repeat=n)]
        expected = np.mean(np.array(flipped) >= abs((10 * d).sum()) - 1e-6)
        assert paired_means(d + 0.7, 0 * d + 0.7, n_resamples=10).p_value == expected


def test_exact_p_value_equals_scipys_permutation_test():
    scipy_stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for n in (4, 7, 10):
        d = rng.normal(0.3, 1, n)
        theirs = scipy_stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert paired_means(d, 0 * d, n_resamples=10).p_value == pytest.approx(theirs.pvalue)


def test_sampled_p_value_agrees_with_the_exact_one(monkeypatch):
    d = np.random.default_rng(3).normal(0.4, 1, 14)
    exact = paired_means(d, 0 * d).p_value
    monkeypatch.setattr(paired_tests, "EXACT_LIMIT", 0)
    assert paired_means(d, 0 * d).p_value == pytest.approx(exact, abs=0.015)


def test_sampled_p_value_is_never_zero():
    one = np.ones(40)
    assert paired_means(one, 0 * one, n_resamples=99).p_value == 1 / 100


@pytest.mark.parametrize("n", [5, 40])
def test_identical_systems_differ_by_exactly_nothing(n):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=n)
    ppl_rows = np.column_stack([rng.exponential(30, n), rng.integers(5, 40, n)])
    for result in (
        paired_means(scores, scores.copy()),
        paired_tests.paired_corpus(ppl_rows, ppl_rows.copy(), corpus_perplexity),
        paired_tests.paired_corpus(random_bleu_rows(np.random.default_rng(1), n),
                            random_bleu_rows(np.random.default_rng(1), n), bleu_from_statistics),
    ):
        assert (result.difference, result.p_value) == (0, 1) and np.isnan(result.bootstrap_interval).all()
        assert paired_tests.verdict(result) == "no difference shown"
        assert result.prompts_needed == math.inf and math.isnan(result.minimum_detectable_effect)


@pytest.mark.parametrize("n", [8, 30])
def test_swapping_the_systems_mirrors_the_result(n):
    rng = np.random.default_rng(n)
    a, b = rng.normal(0.3, 1, n), rng.normal(size=n)
    rows_a, rows_b = random_bleu_rows(rng, n), random_bleu_rows(rng, n)
    for there, back in (
        (paired_means(a, b), paired_means(b, a)),
        (paired_tests.paired_corpus(rows_a, rows_b, bleu_from_statistics),
         paired_tests.paired_corpus(rows_b, rows_a, bleu_from_statistics)),
    ):
        assert back.difference == pytest.approx(-there.difference)
        assert back.bootstrap_interval == pytest.approx([-end for end in there.bootstrap_interval[::-1]])
        assert back.p_value == there.p_value
        assert back.minimum_detectable_effect == pytest.approx(there.minimum_detectable_effect)


def test_what_differs_by_rounding_alone_is_no_difference():
    x = np.random.default_rng(0).normal(size=40)
    result = paired_means(x * 3, x + x + x * (1 + 2e-16))
    assert result.p_value > 0.9 and paired_tests.verdict(result) == "no difference shown"
    one = np.ones(40)
    assert paired_means(one / 3 + 1e-16 * np.arange(40), one / 3).p_value == 1


def test_a_difference_of_large_values_is_seen():
    x = 1e9 + np.random.default_rng(0).normal(size=30) / 3
    assert paired_means(x + 0.8 + np.arange(30) % 2 / 10, x).p_value == pytest.approx(1e-4, rel=0.01)


@pytest.mark.parametrize("chance, undefined", [(0.5, False), (1.0, False), (math.nan, True)])
def test_what_lies_on_different_sides_of_0_and_of_chance_is_not_shown(chance, undefined):
    """0.56 is more than 0 and more than 0.5, but less than 1, though each is far from it."""
    rows = np.column_stack([0.56 + np.random.default_rng(0).normal(0, 0.02, 40), np.ones(40)])
    result = paired_tests.paired_corpus(rows, rows * [0, 1], lambda s: s[:, 0] / s[:, 1], 0, 999, chance)
    assert result.p_value == pytest.approx({0.5: 0.001, 1.0: 1}.get(chance, math.nan), nan_ok=True)
    assert bool(result.undefined) == undefined


def test_order_of_prompts_and_common_offset_have_no_influence():
    order = np.array([3, 1, 7, 0, 5, 2, 6, 4])
    result = paired_means(PAIRED_A, PAIRED_B)
    shuffled = paired_means(PAIRED_A[order] + 5, PAIRED_B[order] + 5)
    assert shuffled.difference == pytest.approx(result.difference)
    assert shuffled.p_value == result.p_value


def test_corpus_difference_is_that_of_the_corpus_metric_and_not_a_mean_over_segments():
    worse = ["the the the", *PROMPTS[1:]]
    result = paired_tests.paired_corpus(
        bleu_rows(PROMPTS, TARGETS), bleu_rows(worse, TARGETS), bleu_from_statistics
    )
    expected = [bleu_from_statistics(bleu_rows(said, TARGETS).sum(0)) for said in (PROMPTS, worse)]
    assert result.difference == pytest.approx(expected[0] - expected[1])
    rows = np.array([[10.0, 10], [12, 4]]), np.array([[0.0, 10], [0, 4]])
    result = paired_tests.paired_corpus(*rows, corpus_perplexity)
    assert result.difference == pytest.approx(4.8135197411 - 1, abs=1e-9)


def test_corpus_p_value_is_the_share_of_all_signs_of_what_each_prompt_adds():
    """With and without the prompt, slowly; moved so that all add up to the difference."""
    rng = np.random.default_rng(5)
    a, b = (np.column_stack([rng.exponential(mean, 7), rng.integers(5, 40, 7)]) for mean in (30, 40))

    def of(rows: list[int]) -> float:
        return corpus_perplexity(a[rows].sum(0)[None])[0] - corpus_perplexity(b[rows].sum(0)[None])[0]

    whole = of(list(range(7)))
    added = np.array([7 * whole - 6 * of([j for j in range(7) if j != i]) for i in range(7)])
    added += whole - added.mean()
    extreme = [abs(np.dot(signs, added)) >= 7 * abs(whole) * (1 - 1e-9) for signs in product([-1, 1], repeat=7)]
    assert paired_tests.paired_corpus(a, b, corpus_perplexity).p_value == np.mean(extreme)


def test_corpus_bootstrap_resamples_the_same_prompts_for_both_systems():
    """Systems that differ by a constant on prompts of very unequal difficulty have a narrow interval."""
    nll = np.random.default_rng(0).exponential(20, 60)
    more = 1 + np.random.default_rng(1).normal(0, 1e-3, 60)
    rows_a, rows_b = np.column_stack([nll + more, 0 * nll + 10]), np.column_stack([nll, 0 * nll + 10])
    result = paired_tests.paired_corpus(rows_a, rows_b, lambda sums: sums[:, 0] / sums[:, 1])
    assert result.bootstrap_interval == pytest.approx((0.1, 0.1), abs=1e-3)


def test_macro_f1_of_two_classifiers_is_compared_through_its_statistics():
    truth = ["a", "b", "c"] * 20
    good, bad = list(truth), ["a"] * 50 + [None] * 10
    rows = [
        np.array([classification_statistics(*pair, ["a", "b", "c"]) for pair in zip(truth, answers)])
        for answers in (good, bad)
    ]
    result = paired_tests.paired_corpus(*rows, macro_f1, n_resamples=500)
    assert paired_tests.verdict(result) == "better" and result.difference > 0.5


@pytest.mark.parametrize(
    "a, b, reason",
    [
        ([], [], "fewer than 2"),
        ([1.0], [0.0], "fewer than 2"),
        ([1.0, math.nan, 2.0], [0.0, 0.0, 0.0], "1 of 3"),
        ([1.0, math.inf, 2.0], [0.0, math.inf, 0.0], "1 of 3"),
    ],
)
def test_undefined_comparisons_say_so_and_drop_nothing(a, b, reason):
    result = paired_means(a, b)
    assert reason in result.undefined and result.n == len(a)
    assert math.isnan(result.difference) and math.isnan(result.p_value)
    assert paired_tests.verdict(result) == "undefined"


def test_corpus_metric_undefined_on_a_resample_is_undefined():
    rows = np.array([[1.0, 1], [0, 0], [0, 0]])
    result = paired_tests.paired_corpus(rows, rows, corpus_perplexity)
    assert "resample" in result.undefined and paired_tests.verdict(result) == "undefined"


@pytest.mark.parametrize("a, b", [([[1.0], [2.0]], [[1.0]]), ([1.0, 2.0], [1.0, 2.0])])
def test_unpaired_input_is_an_error(a, b):
    with pytest.raises(ValueError, match="paired"):
        paired_tests.paired_corpus(a, b, total)


@pytest.mark.parametrize(
    "difference, p_value, higher_is_better, expected",
    [
        (1.0, 0.01, True, "better"),
        (-1.0, 0.01, True, "worse"),
        (1.0, 0.01, False, "worse"),
        (-1.0, 0.01, False, "better"),
        (1.0, 0.06, True, "no difference shown"),
        (1.0, math.nan, True, "undefined"),
    ],
)
def test_verdict_needs_significance_and_reads_the_sign(difference, p_value, higher_is_better, expected):
    result = replace(paired_means(PAIRED_A, PAIRED_B), difference=difference, p_value=p_value)
    assert paired_tests.verdict(result, 1 if higher_is_better else -1) == expected


def rejection_rate(compare, n_trials: int) -> float:
    return float(np.mean([compare(trial).p_value <= 0.05 for trial in range(n_trials)]))


@pytest.mark.parametrize("n", [9, 25])
def test_sign_flip_test_rejects_a_true_null_in_5_percent(n):
    """Skewed paired scores, exchangeable within a prompt; 2000 trials have a standard error of 0.005.

    Of few prompts all swaps are enumerated, of many some are drawn.
    """
    rng = np.random.default_rng(0)

    def compare(trial: int) -> paired_tests.Difference:
        difficulty = rng.exponential(2, n)
        a, b = difficulty + rng.exponential(1, (2, n))
        return paired_means(a, b, seed=trial, n_resamples=199)

    assert 0.03 <= rejection_rate(compare, 2000) <= 0.07


def test_corpus_bleu_test_rejects_a_true_null_in_5_percent():
    rng = np.random.default_rng(1)

    def compare(trial: int) -> paired_tests.Difference:
        return paired_tests.paired_corpus(
            random_bleu_rows(rng, 30), random_bleu_rows(rng, 30), bleu_from_statistics, trial, n_resamples=199
        )

    assert 0.03 <= rejection_rate(compare, 1000) <= 0.07


@pytest.mark.parametrize("lengths", [(10, 10), (4, 23), (10, 100)])
def test_equal_means_per_token_are_told_apart_in_5_percent_whatever_the_lengths(lengths):
    """Swaps of whole rows test more than that, and reject 16 % of the second case, 29 % of the third."""
    rng = np.random.default_rng(2)

    def compare(trial: int) -> paired_tests.Difference:
        tokens = [1 + rng.poisson(length - 1, 40) for length in lengths]
        rows = (np.column_stack([n + np.sqrt(n) * rng.normal(size=40), n]) for n in tokens)
        return paired_tests.paired_corpus(*rows, lambda sums: sums[:, 0] / sums[:, 1], trial, n_resamples=199)

    assert 0.03 <= rejection_rate(compare, 600) <= 0.08


def test_minimum_detectable_effect_is_found_80_percent_of_the_time():
    effect = paired_tests.minimum_detectable_effect(sd=1.0, n=40)
    rng = np.random.default_rng(3)
    found = [0 < intervals.t_interval(x)[0] for x in rng.normal(effect, 1, (1000, 40))]
    assert np.mean(found) == pytest.approx(0.8, abs=0.04)


def test_minimum_detectable_effect_and_prompts_needed_of_known_cases():
    assert paired_tests.minimum_detectable_effect(0.5, 100) == pytest.approx(0.1400792609, abs=1e-9)
    assert paired_tests.prompts_needed(0.5, 0.1) == paired_tests.prompts_needed(0.5, -0.1) == 197
    assert paired_tests.prompts_needed(0.5, 0) == math.inf
    assert math.isnan(paired_tests.minimum_detectable_effect(0.5, 5)) and paired_tests.prompts_needed(0.01, 1) == 6
    assert math.isnan(paired_tests.prompts_needed(0, 0.1)) and math.isnan(paired_tests.minimum_detectable_effect(0, 9))


@pytest.mark.parametrize(
    "wins, losses, expected", [(15, 5, 0.0413894653), (8, 2, 0.109375), (3, 0, 0.25), (0, 0, 1)]
)
def test_sign_test_equals_exact_mcnemar(wins, losses, expected):
    assert paired_tests.sign_test(wins, losses) == paired_tests.sign_test(losses, wins)
    assert paired_tests.sign_test(wins, losses) == pytest.approx(expected, abs=1e-9)


def test_sign_test_is_the_binomial_sum():
    for n in (1, 2, 9, 40, 400):
        for k in {0, 1, n // 3, n // 2}:
            expected = min(1, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)
            assert paired_tests.sign_test(k, n - k) == pytest.approx(expected, rel=1e-9)


def test_win_rate_counts_a_tie_as_half_a_win():
    result = paired_tests.win_rate(30, 10, 20)
    assert result["rate"] == pytest.approx(0.5833333333)
    assert (result["low"], result["high"]) == intervals.wilson(35, 60)
    assert result["p"] == paired_tests.sign_test(30, 20)


def test_win_rate_mirrors_and_keeps_an_interval_when_one_side_wins_every_time():
    there, back = paired_tests.win_rate(9, 4, 2), paired_tests.win_rate(2, 4, 9)
    assert there["rate"] == pytest.approx(1 - back["rate"])
    assert (there["low"], there["high"]) == pytest.approx((1 - back["high"], 1 - back["low"]))
    assert paired_tests.win_rate(10, 0, 0)["low"] == pytest.approx(0.7224672001)
    nothing = paired_tests.win_rate(0, 0, 0)
    assert all(math.isnan(nothing[name]) for name in ("rate", "p", "low", "high"))


def test_holm_of_known_p_values_in_the_order_given():
    assert list(paired_tests.holm([0.001, 0.02, 0.03, 0.2])) == pytest.approx([0.004, 0.06, 0.06, 0.2])
    assert list(paired_tests.holm([0.2, 0.03, 0.001, 0.02])) == pytest.approx([0.2, 0.06, 0.004, 0.06])
    assert list(paired_tests.holm([0.9, 0.8])) == [1, 1]
    assert len(paired_tests.holm([])) == 0


def test_holm_rejects_any_of_four_true_nulls_beside_an_effect_in_5_percent():
    rng = np.random.default_rng(0)
    rejected = [paired_tests.holm([0.0, *rng.random(4)])[1:].min() <= 0.05 for _ in range(4000)]
    assert np.mean(rejected) == pytest.approx(0.05, abs=0.014)


def test_an_undefined_p_value_stays_nan_and_counts_in_the_family():
    adjusted = paired_tests.holm([0.01, math.nan, 0.04])
    assert list(adjusted) == pytest.approx([0.03, math.nan, 0.08], nan_ok=True)


def test_accuracy_of_a_reward_model_counts_an_equal_margin_as_half_right():
    margins = np.array([2, -1, 0, 0.5, 3, -0.2])
    result = paired_tests.win_rate(int((margins > 0).sum()), int((margins == 0).sum()), int((margins < 0).sum()))
    assert result["rate"] == pytest.approx(0.5833333333) and result["wins"] / 6 == 0.5


def test_sign_test_equals_scipy():
    scipy_stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for _ in range(200):
        n = int(rng.integers(1, 500))
        k = int(rng.integers(0, n + 1))
        assert paired_tests.sign_test(k, n - k) == pytest.approx(scipy_stats.binomtest(k, n).pvalue, rel=1e-9)
