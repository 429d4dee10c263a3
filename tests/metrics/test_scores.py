"""Perplexity, classification, diversity, best-of-n against published and exact values."""

import json
import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from minirlhf.metrics import overlap, scores as metrics

GOLDEN = json.loads((Path(__file__).parents[1] / "golden.json").read_text(encoding="utf-8"))
KIRK = [text.split() for text in ("i am going", "i am going", "lets go i i")]


def nll(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, dtype=float)
    return np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]


@pytest.mark.parametrize("scored, expected", [(3, 1.8925808106), (2, 1.5032147244)])
def test_perplexity_of_known_logits(scored, expected):
    losses = nll([[0, 1, 2], [2, 1, 0], [0, 0, 0]], [2, 0, 1])[:scored]
    assert metrics.perplexity(losses.sum(), scored) == pytest.approx(expected, abs=1e-9)


def test_each_token_of_known_logits_costs_its_nll():
    losses = nll([[0, 1, 2], [2, 1, 0], [0, 0, 0]], [2, 0, 1])
    assert list(losses) == pytest.approx([0.4076059644, 0.4076059644, 1.0986122887], abs=1e-9)


def test_perplexity_of_a_classifier_is_exp_of_sklearns_log_loss():
    y, s = np.array(GOLDEN["prob"]["y"]), np.array(GOLDEN["prob"]["s"])
    nll_sum = -np.log(np.where(y == 1, s, 1 - s)).sum()
    assert metrics.perplexity(nll_sum, len(y)) == pytest.approx(math.exp(GOLDEN["prob"]["logloss"]), abs=1e-9)


def test_uniform_model_has_the_vocabulary_size_as_perplexity():
    assert metrics.perplexity(7 * math.log(50), 7) == pytest.approx(50)


@pytest.mark.parametrize(
    "nll_sums, tokens, expected", [([10, 12], [10, 4], 4.8135197411), ([8, 6], [8, 2], 4.055200)]
)
def test_corpus_perplexity_divides_sums_and_is_no_mean_over_texts_or_batches(nll_sums, tokens, expected):
    assert metrics.perplexity(sum(nll_sums), sum(tokens)) == pytest.approx(expected, abs=1e-6)
    per_text = metrics.perplexity(np.array(nll_sums), np.array(tokens))
    assert list(per_text) == pytest.approx([math.exp(s / t) for s, t in zip(nll_sums, tokens)])
    assert np.mean(per_text) > expected + 0.5


def test_bits_per_byte_counts_utf8_bytes():
    text = "今天天气很好。 The cat sat."
    n_bytes = len(text.encode())
    assert metrics.bits_per_byte(20, n_bytes) == pytest.approx(0.8486441417, abs=1e-9)
    assert metrics.bits_per_byte(20, len(text)) == pytest.approx(1.4426950409, abs=1e-9)
    assert metrics.perplexity(20, n_bytes) == pytest.approx(1.8008077138, abs=1e-9)


def test_perplexity_without_tokens_is_nan_and_of_the_impossible_is_inf():
    assert math.isnan(metrics.perplexity(0.0, 0)) and math.isnan(metrics.perplexity(1.0, 0))
    assert math.isnan(metrics.bits_per_byte(1.0, 0))
    assert metrics.perplexity(math.inf, 3) == metrics.perplexity(1e6, 1) == math.inf


def summed(y_true, y_pred, labels) -> np.ndarray:
    """Statistics of all items together, (3C,); a prediction that is none of the labels is none."""
    pairs = zip(y_true, (y if y in labels else None for y in y_pred))
    return sum(metrics.classification_statistics(*pair, labels) for pair in pairs)


def classes(case: dict) -> list:
    """Those that sklearn's averages are over: by default all that occur."""
    return case["labels"] or sorted({*case["y_true"], *case["y_pred"]})


@pytest.mark.parametrize("name", GOLDEN["clf"])
def test_macro_and_micro_f1_equal_sklearn(name):
    case = GOLDEN["clf"][name]
    counts = summed(case["y_true"], case["y_pred"], classes(case))
    assert metrics.macro_f1(counts) == pytest.approx(case["macro_zd0"][2], abs=1e-9)
    assert metrics.micro_f1(counts) == pytest.approx(case["micro_zd0"][2], abs=1e-9)


@pytest.mark.parametrize("name", GOLDEN["clf"])
def test_precision_and_recall_of_the_classes_average_to_sklearns(name):
    """Which takes 0 where one is undefined."""
    case = GOLDEN["clf"][name]
    each = metrics.precision_recall_f1(summed(case["y_true"], case["y_pred"], classes(case)))
    assert [np.nan_to_num(x).mean() for x in each] == pytest.approx(case["macro_zd0"], abs=1e-9)


def test_binary_class_scores_equal_sklearn():
    case = GOLDEN["clf"]["bin"]
    each = metrics.precision_recall_f1(summed(case["y_true"], case["y_pred"], [0, 1]))
    assert [x[1] for x in each] == pytest.approx([case["precision"], case["recall"], case["f1"]], abs=1e-9)


def test_a_score_whose_denominator_is_0_is_nan_and_f1_of_a_class_predicted_but_never_true_is_0():
    precision, recall, f1 = metrics.precision_recall_f1(summed([0, 0, 1, 1], [0, 2, 1, 1], [0, 1, 2, 3]))
    assert (precision[2], f1[2]) == (0, 0) and np.isnan([recall[2], precision[3], recall[3], f1[3]]).all()


def test_an_answer_that_is_no_label_lowers_recall_alone():
    counts = summed(["no", "yes", "yes", "no"], ["no", "yes", None, None], ["no", "yes"])
    precision, recall, _ = metrics.precision_recall_f1(counts)
    assert list(precision) == [1, 1] and list(recall) == [0.5, 0.5]
    assert metrics.micro_f1(counts) == pytest.approx(2 / 3)


def test_f1_of_many_rows_equals_f1_of_each():
    rng = np.random.default_rng(1)
    y_true, y_pred = rng.integers(0, 3, (2, 40))
    parts = [summed(y_true[part], y_pred[part], [0, 1, 2]) for part in (slice(20), slice(20, 40), slice(40))]
    for f1 in (metrics.macro_f1, metrics.micro_f1):
        assert list(f1(np.stack(parts))) == pytest.approx([float(f1(part)) for part in parts])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zero_division", [0.0, math.nan])
def test_random_labels_have_sklearns_scores(zero_division):
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for trial in range(100):
        n_classes = rng.integers(2, 6)
        y_true, y_pred = rng.integers(0, n_classes, (2, rng.integers(1, 12)))
        labels = [[0, 1, 2, 3, 4], [0, 1], [4, 1, 0]][trial % 3]
        ours = metrics.precision_recall_f1(summed(y_true, y_pred, labels))
        theirs = sklearn_metrics.precision_recall_fscore_support(
            y_true, y_pred, labels=labels, average=None, zero_division=zero_division
        )[:3]
        np.testing.assert_allclose(np.nan_to_num(ours, nan=zero_division), theirs, atol=1e-12)


@pytest.mark.parametrize("n, expected", [(1, 0.5), (2, 5 / 7), (3, 0.75), (4, 1.0)])
def test_distinct_n_is_unique_over_all_ngrams(n, expected):
    assert metrics.distinct_n(KIRK, n) == pytest.approx(expected)


def test_an_order_without_ngrams_is_nan_and_not_zero():
    """Counting it as 0 turns the mean over n = 1..5 of these texts from 0.741 into 0.593."""
    scores = [metrics.distinct_n(KIRK, n) for n in range(1, 6)]
    assert math.isnan(scores[-1])
    assert np.nanmean(scores) == pytest.approx(0.7410714286)
    assert math.isnan(metrics.expectation_adjusted_distinct(KIRK, 5, 20))
    assert math.isnan(metrics.expectation_adjusted_distinct(KIRK, 1, 0))  # the vocabulary is unknown
    assert math.isnan(metrics.self_bleu(["alone"]))
    assert math.isnan(metrics.duplicate_rate([]))


@pytest.mark.parametrize("n, expected", [(1, 0.6230326797), (2, 0.8287401683)])
def test_expectation_adjusted_distinct_of_known_texts(n, expected):
    assert metrics.expectation_adjusted_distinct(KIRK, n, 20) == pytest.approx(expected, abs=1e-9)


def test_expectation_adjusted_distinct_of_uniform_tokens_is_one_at_every_length():
    rng = np.random.default_rng(0)
    for length in (50, 500):
        samples = [list(rng.integers(0, 100, length)) for _ in range(400)]
        scores = [metrics.expectation_adjusted_distinct([tokens], 1, 100) for tokens in samples]
        assert np.mean(scores) == pytest.approx(1, abs=0.02)


def test_self_bleu_is_the_mean_of_each_text_against_the_others():
    texts = ["the cat sat on the mat", "the cat sat on a mat", "a dog ran in the park"]
    scores = [overlap.sentence_bleu(text, texts[:i] + texts[i + 1 :]) for i, text in enumerate(texts)]
    assert scores == pytest.approx([53.7284965912, 56.2341325190, 9.6524348774], abs=1e-9)
    assert metrics.self_bleu(texts) == pytest.approx(39.8716879959, abs=1e-9) == sum(scores) / 3


def test_self_bleu_of_equal_texts_is_100_in_any_script():
    assert metrics.self_bleu(["the cat sat on the mat"] * 3) == pytest.approx(100)
    assert metrics.self_bleu(["我喜欢机器学习"] * 2) == pytest.approx(100)


def test_duplicates_of_known_texts():
    assert metrics.duplicate_rate(["a", "b", "a", "a"]) == pytest.approx(0.5)


def test_expected_best_of_n_shows_over_optimisation():
    proxy, gold = [0.1, 0.9, 0.4, 0.7, 0.3], [1, 2, 5, 4, 3]
    scores = [metrics.expected_best_of_n(proxy, gold, n) for n in range(1, 6)]
    assert scores == pytest.approx([3.0, 3.3, 2.9, 2.4, 2.0])


def test_expected_best_of_n_is_the_mean_over_all_subsets_with_ties_broken_evenly():
    rng = np.random.default_rng(0)
    proxy, gold = rng.integers(0, 3, 7), rng.normal(size=7)
    for n in range(1, 8):
        favourites = []
        for subset in map(list, combinations(range(7), n)):
            best = proxy[subset].max()
            favourites.append(np.mean(gold[[i for i in subset if proxy[i] == best]]))
        assert metrics.expected_best_of_n(proxy, gold, n) == pytest.approx(np.mean(favourites))


def test_best_of_more_than_the_samples_is_an_error():
    for n in (0, 3):
        with pytest.raises(ValueError):
            metrics.expected_best_of_n([1, 2], [1, 2], n)


@pytest.mark.parametrize(
    "n, bound, exact",
    [(2, 0.1931471806, 0.1406384674), (4, 0.6362943611, 0.5597505604), (16, 1.8350887222, 1.4696447797)]
    + [(64, 3.1745080834, None), (1, 0.0, 0.0)],
)
def test_best_of_n_kl_bound_lies_above_the_exact_kl_of_a_discrete_reward(n, bound, exact):
    """Exact: for p = (.5, .3, .2) in rising order of reward, the best of n has the cdf F^n."""
    assert metrics.best_of_n_kl_bound(n) == pytest.approx(bound, abs=1e-9)
    p = np.array([0.5, 0.3, 0.2])
    best = np.diff(p.cumsum() ** n, prepend=0)
    kl = (best * np.log(best / p)).sum()
    assert kl <= metrics.best_of_n_kl_bound(n) + 1e-12
    if exact is not None:
        assert kl == pytest.approx(exact, abs=1e-9)
