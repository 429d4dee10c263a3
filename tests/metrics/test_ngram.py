"""Kneser-Ney: the recursive definition, a case worked by hand, nltk, and what the method is known for."""

import math
from collections import Counter, defaultdict
from dataclasses import replace
from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from minirlhf.metrics.ngram import FALLBACK, KneserNey, chen_goodman, fit_ngram
from minirlhf.metrics.scores import perplexity

START = "<s>"


def random_sequences(seed: int, V: int, sizes: list[int]) -> list[list[int]]:
    """Sequences of tokens below V, the small ones frequent, so that there are counts of 1 to many."""
    rng = np.random.default_rng(seed)
    p = 0.6 ** np.arange(V)
    return [rng.choice(V, size, p=p / p.sum()).tolist() for size in sizes]


def distribution(model: KneserNey, context: list[int]) -> np.ndarray:
    """p(w | context) of every w."""
    return np.exp([model.log_prob([*context, w])[-1] for w in range(model.vocab_size)])


class Twin:
    """The definition read aloud: counts in dictionaries of tuples, probabilities by recursion."""

    def __init__(self, sequences, order, V):
        self.order, self.V = order, V
        grams = Counter()
        for s in sequences:
            line = [START] * (order - 1) + list(s)
            grams.update(tuple(line[t - order + 1 : t + 1]) for t in range(order - 1, len(line)))
        self.counts = {order: grams}
        for k in range(order - 1, 0, -1):
            preceding = defaultdict(set)
            for gram in self.counts[k + 1]:
                preceding[gram[1:]].add(gram[0])
            self.counts[k] = {gram: len(before) for gram, before in preceding.items()}
        self.discounts = {}
        for k, counts in self.counts.items():
            n = [sum(c == r for c in counts.values()) for r in (1, 2, 3, 4)]
            self.discounts[k] = [0, *chen_goodman(n)]

    def p(self, w, context):
        k = len(context) + 1
        lower = 1 / self.V if k == 1 else self.p(w, context[1:])
        followers = {g[-1]: c for g, c in self.counts[k].items() if g[:-1] == context}
        if not followers:
            return lower
        total, D = sum(followers.values()), self.discounts[k]
        gamma = sum(D[min(c, 3)] for c in followers.values()) / total
        c = followers.get(w, 0)
        return max(c - D[min(c, 3)], 0) / total + gamma * lower

    def log_prob(self, tokens):
        line = (START,) * (self.order - 1) + tuple(tokens)
        places = range(self.order - 1, len(line))
        return [math.log(self.p(line[t], line[t - self.order + 1 : t])) for t in places]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_probabilities_equal_the_recursive_definition(order):
    sequences = random_sequences(order, 7, [40, 3, 0, 90, 1])
    model, twin = fit_ngram(sequences, order, 7), Twin(sequences, order, 7)
    assert model.discounts == pytest.approx(np.array([twin.discounts[k][1:] for k in range(1, order + 1)]))
    for tokens in [*random_sequences(9, 7, [0, 1, 2, 60]), [6, 6, 6, 6, 6, 0]]:
        assert list(model.log_prob(tokens)) == pytest.approx(twin.log_prob(tokens), abs=1e-12)


def test_discounts_of_enough_data_are_estimated_and_not_the_fallback():
    model = fit_ngram(random_sequences(0, 30, [3000]), 3, 30)
    assert (model.discounts[1:] != FALLBACK).any(axis=1).all()


@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_sum_to_1_behind_every_context_seen_or_not(order):
    model = fit_ngram(random_sequences(1, 4, [30, 7]), order, 5)  # token 4 never occurs
    for length in range(4):
        for context in product(range(5), repeat=length):
            p = distribution(model, list(context))
            assert p.sum() == pytest.approx(1, abs=1e-12) and (p > 0).all()


def test_a_case_worked_by_hand():
    """Of 0 1 0 1, with n = 2 and the fallback discounts (too few counts to estimate them).

    Bigrams: <s>0 once, 01 twice, 10 once. Contexts: 0 has 2 (<s> and 1), 1 has 1 (0), of 3 in all.
    p(0) = (2 − 1)/3 + γ/3 with γ = (1/2 + 1)/3 = 1/2; p(1) = (1 − 1/2)/3 + γ/3; p(2) = γ/3.
    p(1 | 0) = (2 − 1)/2 + 1/2 · p(1), since 0 was followed by 1 alone, twice.
    """
    model = fit_ngram([[0, 1, 0, 1]], 2, 3)
    F = Fraction
    unigram = [F(1, 2), F(1, 3), F(1, 6)]
    expected = {
        (): [F(1, 2) + F(1, 2) * unigram[0], F(1, 2) * unigram[1], F(1, 2) * unigram[2]],  # behind <s>
        (0,): [F(1, 2) * unigram[0], F(1, 2) + F(1, 2) * unigram[1], F(1, 2) * unigram[2]],
        (1,): [F(1, 2) + F(1, 2) * unigram[0], F(1, 2) * unigram[1], F(1, 2) * unigram[2]],
        (2,): unigram,  # never seen
    }
    for context, p in expected.items():
        assert list(distribution(model, list(context))) == pytest.approx([float(x) for x in p], abs=1e-12)
    assert list(np.exp(model.log_prob([0, 1, 0, 1]))) == pytest.approx([3 / 4, 2 / 3, 3 / 4, 2 / 3])


def test_discounts_worked_by_hand():
    """n = 10, 5, 2, 1: Y = 10/20, so D = 1 − 2·½·5/10, 2 − 3·½·2/5, 3 − 4·½·1/2."""
    assert chen_goodman([10, 5, 2, 1]) == pytest.approx((0.5, 1.4, 2.0))


@pytest.mark.parametrize("n", [[0, 0, 0, 0], [5, 0, 3, 1], [5, 3, 0, 0], [2, 1, 9, 1]])
def test_discounts_that_cannot_be_estimated_are_the_fallback(n):
    """The last one would give D_2 = 2 − 3 · ½ · 9 < 0."""
    assert chen_goodman(n) == FALLBACK


@pytest.mark.parametrize("sequences", [[[3]], [[0, 1, 2, 3, 4]], [[0] * 50], [[0], [0], [1]]])
@pytest.mark.parametrize("order", [1, 2, 5])
def test_data_without_the_usual_counts_of_counts_stay_finite_and_normalised(sequences, order):
    model = fit_ngram(sequences, order, 5)
    for context in ([], [0], [4, 3, 2], sequences[0]):
        p = distribution(model, context)
        assert np.isfinite(np.log(p)).all() and p.sum() == pytest.approx(1)


def test_francisco_follows_san_and_hardly_anything_else():
    """Behind a word never seen, a word of many contexts beats a more frequent one of a single context."""
    words = "san francisco glasses my your her new old unseen".split()
    ids = {word: i for i, word in enumerate(words)}
    text = "san francisco " * 9 + "my glasses your glasses her glasses new glasses old glasses"
    model = fit_ngram([[ids[word] for word in text.split()]], 2, len(words))
    unseen = distribution(model, [ids["unseen"]])
    assert text.count("francisco") > text.count("glasses")
    assert unseen[ids["glasses"]] > 2 * unseen[ids["francisco"]]
    assert distribution(model, [ids["san"]])[ids["francisco"]] > 0.7


def test_perplexity_of_what_is_uniform_is_the_vocabulary_size():
    """Every token once: (1 − D)/V + D/V."""
    logp = fit_ngram([range(50)], 1, 50).log_prob([3, 3, 49])
    assert perplexity(-logp.sum(), len(logp)) == pytest.approx(50)


def test_perplexity_of_a_markov_chain_is_near_its_entropy_rate():
    """Three states that stay with probability 0.8 and else move to either other one."""
    rng = np.random.default_rng(0)
    moves = rng.choice(3, 40_000, p=[0.8, 0.1, 0.1])
    chain = np.cumsum(moves) % 3
    H = -(0.8 * math.log(0.8) + 0.2 * math.log(0.1))
    nll = {n: -fit_ngram([chain[:20_000]], n, 3).log_prob(chain[20_000:]).mean() for n in (1, 2, 3)}
    assert nll[2] == pytest.approx(H, abs=0.02) and nll[3] == pytest.approx(H, abs=0.02)
    assert nll[1] == pytest.approx(math.log(3), abs=0.02)


def test_each_sequence_starts_anew_and_the_start_is_no_token():
    sequences = [[0, 1], [0, 1], [0, 2]]
    model = fit_ngram(sequences, 3, 4)
    assert np.exp(model.log_prob([0]))[0] > 0.6  # all begin with 0
    shuffled = fit_ngram(sequences[::-1], 3, 4)
    assert list(model.log_prob([0, 1, 2])) == pytest.approx(list(shuffled.log_prob([0, 1, 2])))
    joined = fit_ngram([sum(sequences, [])], 3, 4)
    assert joined.log_prob([0, 1, 0])[2] > model.log_prob([0, 1, 0])[2]


def test_end_of_sequence_is_a_token_like_any_other():
    """EOS = 3 ends each sequence: behind 1 it is all but certain, and it is scored."""
    model = fit_ngram([[0, 1, 3]] * 4, 2, 4)
    assert len(model.log_prob([0, 1, 3])) == 3
    assert np.exp(model.log_prob([0, 1, 3]))[2] > 0.6


def test_nothing_scored_is_nothing_and_arrays_serve_as_lists():
    model = fit_ngram([np.array([0, 1, 1], dtype=np.uint8)], 3, 2)
    assert len(model.log_prob([])) == 0
    assert list(model.log_prob(np.array([1, 0], dtype=np.uint8))) == list(model.log_prob([1, 0]))


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("discount", [0.1, 0.75])
def test_plain_kneser_ney_equals_nltks(order, discount):
    """nltk has one discount for all counts and orders, and does not interpolate the lowest."""
    nltk_lm = pytest.importorskip("nltk.lm")
    sequences = random_sequences(order, 6, [50, 4, 20])
    grams = []
    for s in sequences:
        line = [START] * (order - 1) + [str(w) for w in s]
        ends = range(order, len(line) + 1)
        grams.append([tuple(line[t - k : t]) for t in ends for k in range(1, order + 1)])
    theirs = nltk_lm.KneserNeyInterpolated(order, discount)
    theirs.fit(grams, vocabulary_text=[str(w) for w in range(6)])
    model = fit_ngram(sequences, order, 6)
    ours = replace(model, discounts=np.array([[0.0] * 3] + [[discount] * 3] * (order - 1)))
    seen = sorted(set(sum(sequences, [])))
    for context in product(range(6), repeat=order - 1):
        p = distribution(ours, list(context))
        expected = [theirs.unmasked_score(str(w), tuple(map(str, context))) for w in seen]
        assert list(p[seen]) == pytest.approx(expected, abs=1e-12)
