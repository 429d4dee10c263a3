"""An n-gram language model with interpolated modified Kneser-Ney smoothing: what a transformer must beat.

For a token w after a context h = w_{t−k+1} … w_{t−1} of k − 1 tokens, k = n … 1,

    p_k(w | h) = max(c_k(h w) − D_k(c_k(h w)), 0) / Σ_v c_k(h v) + γ_k(h) p_{k−1}(w | h′)
    γ_k(h) = (D_k1 N_1(h ·) + D_k2 N_2(h ·) + D_k3 N_3+(h ·)) / Σ_v c_k(h v)        p_0(w | ·) = 1 / V

h′ is the context without its first token. N_r(h ·) is the number of tokens that followed h r times. The highest
order counts occurrences. The lower orders count contexts, c_k(g) = |{u: c_{k+1}(u g) > 0}|: "Francisco" may be
frequent, but it follows "San" alone. Where nothing ever followed h, p_k = p_{k−1}.
Source: Chen and Goodman 1998 (modified Kneser-Ney); continuation counts: Kneser and Ney 1995.
Proved by tests/metrics/test_ngram.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# The discounts for counts 1, 2 and 3+ if the data do not determine them, as in KenLM's --discount_fallback.
FALLBACK = (0.5, 1.0, 1.5)


@dataclass(frozen=True)
class Level:
    """The counts of one order k. A (k−1)-gram h is its row number in the level below; the empty one is 0."""

    keys: np.ndarray  # (K,) int64, sorted, one per k-gram: row of its first k − 1 tokens · (V + 1) + the last
    counts: np.ndarray  # (K,) c_k; 0 for a k-gram that ends with a start symbol
    totals: np.ndarray  # (K',) Σ_v c_k(h v) for each (k−1)-gram h
    kinds: np.ndarray  # (K', 3) N_1(h ·), N_2(h ·), N_3+(h ·)


@dataclass(frozen=True)
class KneserNey:
    """A fitted model. `log_prob` scores; `dataclasses.replace` with other discounts gives the plain form."""

    vocab_size: int
    levels: tuple[Level, ...]  # orders 1 to n
    discounts: np.ndarray  # (n, 3): for each order those of counts 1, 2 and 3+

    def log_prob(self, tokens: Sequence[int]) -> np.ndarray:
        """log p(w_t | w_<t) in nats of every token of one sequence, (T,) float64.

        tokens: the sequence to score, with EOS if it ends there. The start is implied and not scored.
        perplexity = scores.perplexity(−sum, T).
        """
        order = len(self.levels)
        ids, _ = padded([tokens], order, self.vocab_size)  # (n − 1 + T,)
        rows = np.zeros(len(ids), dtype=np.int64)  # row of the k-gram that ends here, −1 if never seen
        p = np.full(len(ids), 1 / self.vocab_size)
        for level, discounts in zip(self.levels, self.discounts):
            context = np.append(np.int64(0), rows)[:-1]  # (n − 1 + T,) the (k−1)-gram that ended one place earlier
            wanted = np.where(context >= 0, context * (self.vocab_size + 1) + ids, -1)  # (n − 1 + T,)
            rows = np.minimum(np.searchsorted(level.keys, wanted), len(level.keys) - 1)  # (n − 1 + T,)
            rows = np.where(level.keys[rows] == wanted, rows, -1)  # (n − 1 + T,)
            count = np.where(rows >= 0, level.counts[rows], 0)  # (n − 1 + T,)
            total = np.where(context >= 0, level.totals[context], 0)  # (n − 1 + T,)
            spared = level.kinds[context] @ discounts  # (n − 1 + T,) all that discounts took from h
            kept = count - np.append(0.0, discounts)[np.minimum(count, 3)]  # (n − 1 + T,)
            seen = total > 0
            p[seen] = (np.maximum(kept, 0) + spared * p)[seen] / total[seen]
        return np.log(p[order - 1 :])  # (T,)


def fit_ngram(sequences: Sequence[Sequence[int]], order: int, vocab_size: int) -> KneserNey:
    """Count the n-grams of the sequences, each of which starts anew, and choose the discounts.

    sequences: token ids in [0, V), with EOS where a sequence ends. Each gets n − 1 start symbols before it, which
    have no probability.
    """
    ids, real = padded(sequences, order, vocab_size)  # (N,) each
    rows = np.zeros(len(ids), dtype=np.int64)  # (N,)
    keys, rows_of = [], [rows]
    for k in range(order):
        context = np.append(np.int64(0), rows)[:-1]  # (N,) the first token is a start symbol and needs none
        found, rows = np.unique(context * (vocab_size + 1) + ids, return_inverse=True)  # (K,), (N,)
        keys.append(found)
        rows_of.append(rows)
    levels, discounts = [], []
    places = np.flatnonzero(real)  # (T,) where the k-grams to count end: at the highest order anywhere ...
    for k in reversed(range(order)):
        counts = np.bincount(rows_of[k + 1][places], minlength=len(keys[k]))  # (K,)
        context = keys[k] // (vocab_size + 1)  # (K,)
        size = 1 if k == 0 else len(keys[k - 1])
        kinds = [np.bincount(context[x], minlength=size) for x in (counts == 1, counts == 2, counts > 2)]
        totals = np.bincount(context, counts, size)  # (K',)
        levels.insert(0, Level(keys[k], counts, totals, np.column_stack(kinds)))
        discounts.insert(0, chen_goodman(np.bincount(counts, minlength=5)[1:5]))
        # ... and below it one for each distinct (k+1)-gram, so that contexts are counted.
        places = places[np.unique(rows_of[k + 1][places], return_index=True)[1]]
    return KneserNey(vocab_size, tuple(levels), np.array(discounts))


def chen_goodman(n: Sequence[int]) -> tuple[float, float, float]:
    """The discounts for counts 1, 2 and 3+. n: the numbers n_1 to n_4 of k-grams with counts 1 to 4.

        Y = n_1 / (n_1 + 2 n_2)        D_r = r − (r + 1) Y n_{r+1} / n_r

    The result is FALLBACK if one of them is undefined or outside (0, r]. That happens with small or artificial data,
    such as a text without repetition.  Source: Chen and Goodman 1998; Y for one discount: Ney, Essen and Kneser 1994.
    """
    if min(n[:3]) == 0:
        return FALLBACK
    Y = n[0] / (n[0] + 2 * n[1])
    D = tuple(float(r - (r + 1) * Y * n[r] / n[r - 1]) for r in (1, 2, 3))
    return D if all(0 < d <= r for r, d in enumerate(D, 1)) else FALLBACK


def padded(sequences: Sequence[Sequence[int]], order: int, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """All sequences in a row, each after n − 1 start symbols (id V), and which places are tokens: (N,) each."""
    parts = [np.append(np.full(order - 1, vocab_size), np.asarray(s, dtype=np.int64)) for s in sequences]
    return np.concatenate(parts), np.concatenate([np.arange(len(p)) >= order - 1 for p in parts])
