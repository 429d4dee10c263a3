"""Scores of a model's output: perplexity, classification, diversity, best-of-n.

    perplexity = exp(NLL / T)        F1 = 2 TP / (2 TP + FP + FN)        distinct-n = unique / all n-grams

Pure functions of numbers, labels and token lists, in float64. Undefined input (no tokens, no items) gives
nan, never a silent 0; malformed input (unequal lengths) raises ValueError. Overlap with references is in
`overlap.py`, calibration in `calibration.py`. Proved by tests/test_metrics.py.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from minirlhf.overlap import ngram_counts, sentence_bleu

UNPARSABLE = "∅"  # the class of an answer that could not be parsed


def divide(numerator: np.ndarray, denominator: np.ndarray, undefined: float = math.nan) -> np.ndarray:
    """numerator / denominator in float64, `undefined` where the denominator is 0."""
    numerator, denominator = np.asarray(numerator, dtype=float), np.asarray(denominator, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator == 0, undefined, numerator / denominator)[()]


def mean_within_ties(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Each value replaced by the mean over the items with the same key, so that the order of tied items
    has no influence on what is computed after a sort by key."""
    _, group = np.unique(keys, return_inverse=True)
    return (np.bincount(group, values) / np.bincount(group))[group]


def perplexity(nll_sum: float | np.ndarray, n_tokens: int | np.ndarray) -> float | np.ndarray:
    """Perplexity exp(NLL / T) of a corpus; elementwise for arrays.

    nll_sum: −Σ log p(x_t | x_<t) in nats over all scored tokens of the corpus, n_tokens: their number T.
    Sum first, then divide once: neither a mean of batch means nor a mean of per-text perplexities is the
    perplexity of the corpus. nan for T = 0, inf for an impossible token.
    """
    with np.errstate(over="ignore"):
        return np.exp(divide(nll_sum, n_tokens))


def bits_per_byte(nll_sum: float | np.ndarray, n_bytes: int | np.ndarray) -> float | np.ndarray:
    """Bits per UTF-8 byte, NLL / (ln 2 · bytes) of the scored text; comparable across tokenizers, as
    perplexity is not. Elementwise for arrays; with characters for bytes it is bits per character."""
    return divide(nll_sum, np.multiply(n_bytes, math.log(2)))


def exact_match(prediction: str | None, references: Sequence[str]) -> bool:
    """Whether the answer equals one of the references, outer whitespace apart; None (no answer) is wrong."""
    return prediction is not None and prediction.strip() in {reference.strip() for reference in references}


def _parsed(y_true: Sequence, y_pred: Sequence) -> tuple[list, list]:
    """Both label lists, checked, with UNPARSABLE for the predictions that are None."""
    y_true, y_pred = list(y_true), [UNPARSABLE if label is None else label for label in y_pred]
    if len(y_true) != len(y_pred):
        raise ValueError(f"{len(y_true)} true labels but {len(y_pred)} predictions")
    if None in y_true or UNPARSABLE in y_true:
        raise ValueError(f"true labels must not be None or {UNPARSABLE!r}")
    return y_true, y_pred


def _label_set(y_true: list, y_pred: list) -> list:
    """Every label that occurs, sorted, UNPARSABLE last."""
    found = {*y_true, *y_pred}
    return sorted(found - {UNPARSABLE}) + [UNPARSABLE] * (UNPARSABLE in found)


def accuracy(y_true: Sequence[Hashable], y_pred: Sequence[Hashable | None]) -> float:
    """Share of predictions that are right; None (unparsable) is wrong and stays in the denominator."""
    y_true, y_pred = _parsed(y_true, y_pred)
    return divide(sum(t == p for t, p in zip(y_true, y_pred)), len(y_true))


def confusion_matrix(
    y_true: Sequence[Hashable], y_pred: Sequence[Hashable | None], labels: Sequence[Hashable] | None = None
) -> tuple[list[Hashable], np.ndarray]:
    """Labels, by default all that occur, sorted, ∅ last; and the (C, C) int matrix whose [i, j] counts the
    items of class labels[i] that were called labels[j]."""
    y_true, y_pred = _parsed(y_true, y_pred)
    labels = _label_set(y_true, y_pred) if labels is None else list(labels)
    counts = Counter(zip(y_true, y_pred))
    return labels, np.array([[counts[t, p] for p in labels] for t in labels])


def classification_statistics(
    y_true: Sequence[Hashable], y_pred: Sequence[Hashable | None], labels: Sequence[Hashable]
) -> np.ndarray:
    """Sufficient statistics of precision, recall and F1, one row per item, to be summed over items.

    Returns (n, 3C) int: per label whether it is a true positive, was predicted, is the true label.
    """
    y_true, y_pred = _parsed(y_true, y_pred)
    shape = len(y_true), len(labels)  # (n, C)
    true, pred = (
        np.array([y == label for y in column for label in labels], dtype=bool).reshape(shape)
        for column in (y_true, y_pred)
    )
    return np.hstack([true & pred, pred, true]).astype(int)  # (n, 3C)


def _prf(statistics: np.ndarray, zero_division: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    tp, pred, true = np.split(np.asarray(statistics), 3, axis=-1)  # (..., C)
    return (
        divide(tp, pred, zero_division),
        divide(tp, true, zero_division),
        divide(2 * tp, pred + true, zero_division),
    )


def macro_f1_from_statistics(statistics: np.ndarray, zero_division: float = 0.0) -> float | np.ndarray:
    """Macro-F1, the mean of the classes' F1, from summed statistics: (..., 3C) -> (...)."""
    return _prf(statistics, zero_division)[2].mean(axis=-1)


@dataclass(frozen=True)
class ClassificationReport:
    """Precision, recall and F1: per label (arrays in the order of labels), and averaged (P, R, F1)."""

    labels: list[Hashable]
    precision: np.ndarray  # (C,)
    recall: np.ndarray  # (C,)
    f1: np.ndarray  # (C,)
    support: np.ndarray  # (C,) number of items of this class
    micro: tuple[float, float, float]
    macro: tuple[float, float, float]
    weighted: tuple[float, float, float]
    unparsable_rate: float


def precision_recall_f1(
    y_true: Sequence[Hashable],
    y_pred: Sequence[Hashable | None],
    labels: Sequence[Hashable] | None = None,
    zero_division: float = 0.0,
) -> ClassificationReport:
    """Precision, recall and F1 per class, micro, macro and weighted by support, as scikit-learn has them.

        P = TP / (TP + FP)        R = TP / (TP + FN)        F1 = 2 TP / (2 TP + FP + FN)

    micro: from the counts summed over classes. macro: the mean of the classes' P, R and F1; macro-F1 is
    not the F1 of macro-P and macro-R. labels: the classes to report, by default all that occur in either
    list. A prediction of None is the class ∅: always a false negative of the true class, and itself a
    class of the average unless labels leaves it out.
    zero_division (0, 1 or nan) stands for each of P, R, F1 whose denominator is 0; averages pass over nan.
    """
    y_true, y_pred = _parsed(y_true, y_pred)
    labels = _label_set(y_true, y_pred) if labels is None else list(labels)
    if not y_true:
        zero_division = math.nan  # nothing was measured, which no convention turns into a score
    totals = classification_statistics(y_true, y_pred, labels).sum(axis=0)  # (3C,)
    per_class = _prf(totals, zero_division)
    support = totals[2 * len(labels) :]  # (C,)

    def average(values: np.ndarray, weights: np.ndarray) -> float:
        kept = ~np.isnan(values)
        if not weights[kept].any():
            weights = np.ones_like(weights)  # no item of any of these classes: scikit-learn's plain mean
        return float(divide((values * weights)[kept].sum(), weights[kept].sum()))

    return ClassificationReport(
        labels,
        *per_class,
        support,
        micro=tuple(float(x[0]) for x in _prf(totals.reshape(3, -1).sum(axis=1), zero_division)),
        macro=tuple(average(values, np.ones_like(support)) for values in per_class),
        weighted=tuple(average(values, support) for values in per_class),
        unparsable_rate=divide(y_pred.count(UNPARSABLE), len(y_pred)),
    )


def balanced_accuracy(y_true: Sequence[Hashable], y_pred: Sequence[Hashable | None]) -> float:
    """Mean recall of the classes that occur in y_true: of a constant answer 1/C, however common its class."""
    return precision_recall_f1(y_true, y_pred, sorted(set(y_true))).macro[1]


def matthews_correlation(y_true: Sequence[Hashable], y_pred: Sequence[Hashable | None]) -> float:
    """Correlation of answer and truth, in [−1, 1]; 0 for a constant answer, nan without items.

        R = (s Σ_k c_kk − Σ_k t_k p_k) / √((s² − Σ_k t_k²)(s² − Σ_k p_k²))

    with c the confusion matrix, t and p its row and column sums, s the number of items.
    Source: Matthews 1975; for several classes Gorodkin 2004.
    """
    _, c = confusion_matrix(y_true, y_pred)  # (C, C)
    if not c.size:
        return math.nan
    t, p, s = c.sum(axis=1), c.sum(axis=0), int(c.sum())
    return float(divide(s * np.trace(c) - t @ p, math.sqrt((s * s - t @ t) * (s * s - p @ p)), undefined=0.0))


def roc_auc(labels: Sequence[bool], scores: Sequence[float]) -> float:
    """P(a positive outscores a negative), a tie as one half: the area under the ROC curve.

        (Σ_{i positive} rank_i − n₊ (n₊ + 1) / 2) / (n₊ n₋)        with mean ranks for ties

    labels: (N,) 0 or 1.  scores: (N,). nan unless both classes occur.
    Source: Hanley and McNeil 1982; the statistic is Mann and Whitney's.
    """
    labels, scores = np.asarray(labels, dtype=bool), np.asarray(scores, dtype=float)
    rank = np.empty(len(scores))
    rank[np.argsort(scores)] = np.arange(1, len(scores) + 1)
    positive = int(labels.sum())
    surplus = mean_within_ties(scores, rank)[labels].sum() - positive * (positive + 1) / 2
    return float(divide(surplus, positive * (len(labels) - positive)))


def _pooled_counts(samples: Sequence[Sequence[Hashable]], n: int) -> Counter:
    return sum((ngram_counts(tokens, n) for tokens in samples), Counter())


def distinct_n(samples: Sequence[Sequence[Hashable]], n: int) -> float:
    """Unique n-grams / all n-grams, pooled over the samples (token lists); nan without any n-gram.

    Falls with the amount of text: compare at equal token budgets.  Source: Li et al. 2016.
    """
    counts = _pooled_counts(samples, n)
    return divide(len(counts), counts.total())


def expectation_adjusted_distinct(samples: Sequence[Sequence[Hashable]], n: int, vocab_size: int) -> float:
    """distinct-n against its expectation for uniform tokens, so that length matters less.

        EAD = N / (V (1 − ((V − 1) / V)^C))    with N unique n-grams, C all n-grams, V = vocab_size

    Source: Liu et al. 2022.
    """
    counts = _pooled_counts(samples, n)
    return divide(len(counts), vocab_size * (1 - (1 - 1 / vocab_size) ** counts.total()))


def self_bleu(texts: Sequence[str], tokenize: str | None = None, max_order: int = 4) -> float:
    """Mean sentence BLEU of each text against all the others; 100 when all are equal, nan below 2 texts.

    Grows with the number of texts: compare at equal numbers. Costs O(K²).  Source: Zhu et al. 2018.
    """
    others = ([*texts[:i], *texts[i + 1 :]] for i in range(len(texts)))
    scores = [
        sentence_bleu(text, rest, tokenize, max_order=max_order) for text, rest in zip(texts, others) if rest
    ]
    return divide(sum(scores), len(scores))


def unigram_entropy(samples: Sequence[Sequence[Hashable]], miller_madow: bool = False) -> float:
    """Entropy −Σ p̂ ln p̂ of the pooled tokens in nats; Miller–Madow adds (types − 1) / (2 tokens)
    against the downward bias of the plug-in estimate. nan without tokens."""
    counts = np.array(list(_pooled_counts(samples, 1).values()), dtype=float)
    if not len(counts):
        return math.nan
    p = counts / counts.sum()
    correction = (len(counts) - 1) / (2 * counts.sum()) if miller_madow else 0.0
    return float(-(p * np.log(p)).sum() + correction)


def seq_rep_n(tokens: Sequence[Hashable], n: int = 4) -> float:
    """Share of repeated n-grams within one output, 1 − unique / all; nan if it is shorter than n.
    Source: Welleck et al. 2020."""
    return 1 - distinct_n([tokens], n)


def duplicate_rate(texts: Sequence[str]) -> float:
    """Share of texts that repeat another one exactly, 1 − unique / all."""
    return 1 - divide(len(set(texts)), len(texts))


def pass_at_k(n: int, c: int, k: int) -> float:
    """P(at least one of k samples is right), unbiased, from n samples of which c are right.

        pass@k = 1 − C(n − c, k) / C(n, k)

    Source: Chen et al. 2021, eq. 1.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, got n={n}, c={c}, k={k}")
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def expected_best_of_n(proxy: Sequence[float], gold: Sequence[float], n: int) -> float:
    """E[gold reward of the proxy's favourite among n samples], unbiased, from N >= n samples of a prompt.

        Σ_i C(i − 1, n − 1) / C(N, n) · g_(i)    with g_(i) the gold reward of the i-th smallest proxy

    Proxy ties are broken at random (in expectation).  Source: Nakano et al. 2021, appendix I.
    """
    proxy, gold = np.asarray(proxy, dtype=float), np.asarray(gold, dtype=float)
    if proxy.shape != gold.shape or not 1 <= n <= len(proxy):
        raise ValueError(f"best-of-{n} needs as many proxy as gold rewards and at least {max(n, 1)} of them")
    weights = [math.comb(i, n - 1) / math.comb(len(proxy), n) for i in range(len(proxy))]
    return float(np.dot(weights, mean_within_ties(proxy, gold)[np.argsort(proxy)]))


def best_of_n_kl_bound(n: int) -> float:
    """ln n − (n − 1)/n nats: an upper bound on KL(best-of-n ‖ reference), not the KL itself, which is
    smaller for tied or discrete rewards.  Source: Stiennon et al. 2020, app. G; Beirami et al. 2024."""
    return math.log(n) - (n - 1) / n
