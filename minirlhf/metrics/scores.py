"""Scores of a model's output: perplexity, classification, diversity, best-of-n.

    perplexity = exp(NLL / T)        F1 = 2 TP / (2 TP + FP + FN)        distinct-n = unique / all n-grams

Pure functions of numbers, labels and token lists, in float64. Undefined input (no tokens, no items) gives
nan, never a silent 0; malformed input (unequal lengths) raises ValueError. Overlap with references is in
`overlap.py`, calibration in `calibration.py`. Proved by tests/metrics/test_scores.py.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from minirlhf.metrics.overlap import ngram_counts, sentence_bleu


def divide(numerator: np.ndarray, denominator: np.ndarray, tiny: float = 0.0) -> np.ndarray:
    """numerator / denominator in float64; nan where |denominator| <= tiny."""
    numerator, denominator = np.asarray(numerator, dtype=float), np.asarray(denominator, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.abs(denominator) <= tiny, math.nan, numerator / denominator)[()]


def perplexity(nll_sum: float | np.ndarray, n_tokens: int | np.ndarray) -> float | np.ndarray:
    """Perplexity exp(NLL / T) of a corpus; elementwise for arrays.

    nll_sum: −Σ log p(x_t | x_<t) in nats over all scored tokens of the corpus.  n_tokens: their number T.
    Sum first, then divide once. A mean of batch means, or of perplexities per text, is not the perplexity of
    the corpus. The result is nan for T = 0 and inf for an impossible token.
    """
    with np.errstate(over="ignore"):
        return np.exp(divide(nll_sum, n_tokens))


def bits_per_byte(nll_sum: float | np.ndarray, n_bytes: int | np.ndarray) -> float | np.ndarray:
    """Bits per UTF-8 byte of the scored text, NLL / (ln 2 · bytes). Unlike perplexity, it compares across tokenizers.
    Elementwise for arrays. With a number of characters as n_bytes the result is bits per character."""
    return divide(nll_sum, np.multiply(n_bytes, math.log(2)))


def classification_statistics(true: str, predicted: str | None, labels: Sequence[str]) -> np.ndarray:
    """Sufficient statistics of precision, recall and F1 of one item, to be summed over items.

    Returns (3C,) int, three blocks of C labels: whether each is a true positive, was predicted, is the true label.
    A prediction of None means that the answer is no label. It lowers recall and not precision.
    """
    is_true, is_predicted = (np.array([y == label for label in labels]) for y in (true, predicted))  # (C,) each
    return np.concatenate([is_true & is_predicted, is_predicted, is_true]).astype(int)


def precision_recall_f1(statistics: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 of each class, from summed statistics: (..., 3C) -> three of (..., C).

        P = TP / (TP + FP)        R = TP / (TP + FN)        F1 = 2 TP / (2 TP + FP + FN)

    A value is nan where its denominator is 0: precision if a class is never predicted, recall if it never occurs.
    """
    tp, predicted, true = np.split(np.asarray(statistics), 3, axis=-1)  # (..., C)
    return divide(tp, predicted), divide(tp, true), divide(2 * tp, predicted + true)


def macro_f1(statistics: np.ndarray) -> np.ndarray:
    """The mean F1 of the classes: (..., 3C) -> (...). A class that neither occurs nor is predicted counts as 0."""
    return np.nan_to_num(precision_recall_f1(statistics)[2]).mean(axis=-1)


def micro_f1(statistics: np.ndarray) -> np.ndarray:
    """F1 of the counts summed over classes: (..., 3C) -> (...)."""
    counts = np.reshape(statistics, (*np.shape(statistics)[:-1], 3, -1)).sum(axis=-1)  # (..., 3)
    return precision_recall_f1(counts)[2][..., 0]


def _pooled_counts(samples: Sequence[Sequence[Hashable]], n: int) -> Counter:
    return sum((ngram_counts(tokens, n) for tokens in samples), Counter())


def distinct_n(samples: Sequence[Sequence[Hashable]], n: int) -> float:
    """Unique n-grams / all n-grams, pooled over the samples (token lists); nan without any n-gram.

    It falls with the amount of text, so compare at equal token budgets.  Source: Li et al. 2016, over tokens.
    """
    counts = _pooled_counts(samples, n)
    return divide(len(counts), counts.total())


def expectation_adjusted_distinct(samples: Sequence[Sequence[Hashable]], n: int, vocab_size: int) -> float:
    """distinct-n, divided for n = 1 by its expectation for uniform random tokens, so that length matters less.

        EAD = N / (V (1 − ((V − 1) / V)^C))    with N unique n-grams, C all n-grams, V = vocab_size

    Source: Liu et al. 2022, of n = 1; Kirk et al. 2024 divide by the same for every n, which is no expectation there.
    """
    counts = _pooled_counts(samples, n)
    return divide(len(counts), vocab_size * (1 - (1 - divide(1, vocab_size)) ** counts.total()))


def self_bleu(texts: Sequence[str]) -> float:
    """Mean sentence BLEU of each text against all the others; 100 when all are equal, nan below 2 texts.

    It grows with the number K of texts, so compare at equal K. The cost is O(K²).  Source: Zhu et al. 2018.
    """
    others = ([*texts[:i], *texts[i + 1 :]] for i in range(len(texts)))
    scores = [sentence_bleu(text, rest) for text, rest in zip(texts, others) if rest]
    return divide(sum(scores), len(scores))


def duplicate_rate(texts: Sequence[str]) -> float:
    """Share of texts that repeat another one exactly, 1 − unique / all."""
    return 1 - divide(len(set(texts)), len(texts))


def expected_best_of_n(proxy: Sequence[float], gold: Sequence[float], n: int) -> float:
    """E[gold reward of the proxy's favourite among n samples], unbiased, from N >= n samples for one prompt.

        Σ_i C(i − 1, n − 1) / C(N, n) · g_(i)    g_(i): gold reward of the sample with the i-th smallest proxy reward

    Proxy ties are broken at random (in expectation).  Source: Nakano et al. 2021, appendix I.
    """
    proxy, gold = np.asarray(proxy, dtype=float), np.asarray(gold, dtype=float)
    if proxy.shape != gold.shape or not 1 <= n <= len(proxy):
        raise ValueError(f"best-of-{n} needs equally many proxy and gold rewards, at least {max(n, 1)} of each")
    weights = [math.comb(i, n - 1) / math.comb(len(proxy), n) for i in range(len(proxy))]
    _, tied = np.unique(proxy, return_inverse=True)
    gold = (np.bincount(tied, gold) / np.bincount(tied))[tied]  # ties get their mean: their order says nothing
    return float(np.dot(weights, gold[np.argsort(proxy)]))


def best_of_n_kl_bound(n: int) -> float:
    """ln n − (n − 1)/n nats: an upper bound on KL(best-of-n ‖ reference), and not the KL itself. The KL is
    smaller where rewards are tied or discrete.  Source: Stiennon et al. 2020, app. G; Beirami et al. 2025."""
    return math.log(n) - (n - 1) / n
