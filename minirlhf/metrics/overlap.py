"""Overlap of generated text with references: BLEU, chrF and ROUGE.

A corpus BLEU or chrF is not a mean of sentence scores. It is a function of counts, summed over the segments
(single texts). Each therefore comes in two halves: `*_statistics` (texts in, counts out) and `*_from_statistics`
(summed counts in, score out). So paired_tests.paired_corpus can resample prompts: it sums the rows drawn.
Empty text scores 0, as in the reference libraries.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import reduce
from operator import or_

import numpy as np

BLEU_ORDER = 4
CHRF_CHAR_ORDER = 6
CHRF_BETA = 2

# The rules that mteval-v13a applies to every language, in this order.
_PUNCTUATION = (
    (re.compile(r"([{-~\[-` -&(-+:-@/])"), r" \1 "),  # symbols, but neither ' nor - nor . nor ,
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),  # . and , unless a digit precedes
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),  # . and , unless a digit follows
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),  # - after a digit
)
# The range U+2001–U+2A6D is a slip in sacreBLEU, where '\u20000' is two characters. Dashes, curly quotes and
# arrows count as Chinese, real Extension B ideographs do not. Its scores depend on the slip, so it stays.
_SACREBLEU_CHINESE = re.compile(
    "[\u2001-\u2a6d\u2e80-\u2fdf\u2ff0-\u303f\u3100-\u312f\u31a0-\u31bf\u31c0-\u31ef\u3200-\u4db5"
    "\u4e00-\u9fbb\uf900-\ufa2d\ufa30-\ufa6a\ufa70-\ufad9\ufe10-\ufe1f\ufe30-\ufe4f\uff00-\uffef]"
)
# Han, kana, CJK punctuation and full-width forms: text without spaces between words.
_CJK = re.compile("[\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")


def ngram_counts(tokens: Sequence, n: int) -> Counter:
    """Counts of the n-grams of a list of tokens, or of the characters of a string."""
    return Counter(zip(*(tokens[i:] for i in range(n))))


def default_tokenizer(references: Sequence[str]) -> str:
    """The BLEU tokeniser: "zh" if more than half of the references' characters (without spaces) are CJK, else "13a".
    Under "13a" a perfect Chinese answer is one token and scores 0."""
    characters = "".join("".join(references).split())
    return "zh" if 2 * len(_CJK.findall(characters)) > len(characters) else "13a"


def bleu_tokens(text: str, tokenize: str) -> list[str]:
    """Tokens of one segment as sacreBLEU 2.6.0 cuts them; tokenize is "13a" or "zh"."""
    text = text.rstrip()
    if tokenize == "zh":
        text = _SACREBLEU_CHINESE.sub(r" \g<0> ", text.strip())
    else:
        text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
        for entity, character in (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")):
            text = text.replace(entity, character)
        text = f" {text} "  # lets the rules for . and , see the ends of the line; "zh" does not pad
    for pattern, replacement in _PUNCTUATION:
        text = pattern.sub(replacement, text)
    return text.split()


def bleu_statistics(hypothesis: str, references: Sequence[str], tokenize: str) -> np.ndarray:
    """Sufficient statistics of BLEU for one segment: sum them over segments, then call bleu_from_statistics.

        c_n = Σ_g min(count_hyp(g), max_ref count_ref(g))        t_n = Σ_g count_hyp(g)

    over the n-grams g of order n. The reference length is the one closest to the hypothesis length, the shorter of two.
    Returns (10,) int: hypothesis length, reference length, c_1..c_4, t_1..t_4.
    Source: Papineni et al. 2002, section 2.
    """
    _check_references(references)
    hyp, *refs = (bleu_tokens(text, tokenize) for text in (hypothesis, *references))
    _, ref_len = min((abs(len(ref) - len(hyp)), len(ref)) for ref in refs)
    matches, totals = [], []
    for n in range(1, BLEU_ORDER + 1):
        counts = ngram_counts(hyp, n)
        ref_counts = reduce(or_, (ngram_counts(ref, n) for ref in refs))  # Counter | is the maximum
        matches.append((counts & ref_counts).total())  # Counter & is the minimum
        totals.append(counts.total())
    return np.array([len(hyp), ref_len, *matches, *totals])  # (10,)


def bleu_from_statistics(statistics: np.ndarray, effective_order: bool = False) -> float | np.ndarray:
    """BLEU in [0, 100] from summed statistics, equal to sacreBLEU 2.6.0 with its default smoothing, "exp".

        BLEU = 100 · BP · exp(1/N Σ_n ln c_n/t_n)        BP = exp(min(0, 1 − ref_len/hyp_len))

    Without a match of any order the score is 0, and nothing is smoothed. Otherwise the k-th order with c_n = 0
    counts as c_n = 1/2^k. From the first t_n = 0 on there is no precision, and the score is 0. With
    effective_order the mean is over the orders before it instead; single sentences need that.

    statistics: (..., 10).  Returns (...), a float for one row.
    Source: Papineni et al. 2002, section 2.3; smoothing: Chen and Cherry 2014, method 3.
    """
    statistics = np.asarray(statistics, dtype=float)
    hyp_len, ref_len = statistics[..., 0], statistics[..., 1]  # (...)
    matches, totals = np.split(statistics[..., 2:], 2, axis=-1)  # (..., N)
    any_match = matches.any(axis=-1)  # (...)
    zero = matches == 0
    matches = np.where(zero, 0.5 ** zero.cumsum(axis=-1), matches)
    seen = totals > 0  # (..., N); t_n never grows with n
    with np.errstate(divide="ignore", invalid="ignore"):  # ln 0 = −∞ gives the 0 that is meant
        log_p = np.where(seen, np.log(matches / totals), 0.0 if effective_order else -np.inf)
        orders = np.maximum(seen.sum(axis=-1), 1) if effective_order else seen.shape[-1]
        log_bp = np.where(hyp_len < ref_len, 1 - ref_len / hyp_len, 0.0)
    return np.where(any_match, 100 * np.exp(log_bp + log_p.sum(axis=-1) / orders), 0.0)[()]


def sentence_bleu(hypothesis: str, references: Sequence[str]) -> float:
    """BLEU of one segment, in [0, 100], with effective order and the tokenisation that suits the references."""
    rows = bleu_statistics(hypothesis, references, default_tokenizer(references))
    return bleu_from_statistics(rows, effective_order=True)


def bleu_signature(references: Sequence[Sequence[str]], tokenize: str) -> str:
    """What a corpus BLEU depends on, in sacreBLEU's notation, to be printed beside it."""
    n_refs = {len(refs) for refs in references}
    count = n_refs.pop() if len(n_refs) == 1 else "var"
    return f"nrefs:{count}|case:mixed|eff:no|tok:{tokenize}|smooth:exp|version:minirlhf"


def _chrf_ngrams(text: str, word_order: int) -> list[Counter]:
    """N-gram counts per order, characters (without whitespace) first, then words."""
    words = []
    for word in text.split():
        if len(word) > 1 and word[-1] in string.punctuation:
            words += [word[:-1], word[-1]]
        elif len(word) > 1 and word[0] in string.punctuation:
            words += [word[0], word[1:]]
        else:
            words.append(word)
    characters = "".join(text.split())
    counts = [ngram_counts(characters, n) for n in range(1, CHRF_CHAR_ORDER + 1)]
    return counts + [ngram_counts(words, n) for n in range(1, word_order + 1)]


def chrf_statistics(hypothesis: str, references: Sequence[str], word_order: int = 0) -> np.ndarray:
    """Sufficient statistics of chrF (word_order 0) or chrF++ (word_order 2) for one segment.

    Returns (3N,) int, N = 6 + word_order. Each order has three counts of n-grams: in the hypothesis, in the
    reference, and in both (clipped). The reference is the one with the best score.  Source: Popović 2015, 2017.
    """
    _check_references(references)
    hyp, *refs = (_chrf_ngrams(text, word_order) for text in (hypothesis, *references))
    # sacreBLEU does not count the hypothesis in an order for which the reference is too short.
    candidates = [np.array([(h.total() if r else 0, r.total(), (h & r).total()) for h, r in zip(hyp, ref)]).ravel()
                  for ref in refs]  # fmt: skip
    return max(candidates, key=chrf_from_statistics)  # (3N,)


def chrf_from_statistics(statistics: np.ndarray) -> float | np.ndarray:
    """chrF in [0, 100] from summed statistics, equal to sacreBLEU 2.6.0.

        chrF = 100 · (1 + β²) · P R / (β² P + R),  β = 2

    P and R are the means of the n-gram precisions and recalls, over the orders that both sides have.
    statistics: (..., 3N).  Returns (...), a float for one row.  Source: Popović 2015, eq. 1; β: 2016.
    """
    statistics = np.asarray(statistics, dtype=float)
    triples = statistics.reshape(*statistics.shape[:-1], -1, 3)  # (..., N, 3)
    n_hyp, n_ref, n_match = np.moveaxis(triples, -1, 0)  # (..., N)
    orders = np.maximum(((n_hyp > 0) & (n_ref > 0)).sum(axis=-1), 1)  # (...)
    precision = (n_match / np.maximum(n_hyp, 1)).sum(axis=-1) / orders  # (...)
    recall = (n_match / np.maximum(n_ref, 1)).sum(axis=-1) / orders  # (...)
    weighted = CHRF_BETA**2 * precision + recall
    return (100 * (1 + CHRF_BETA**2) * precision * recall / np.where(weighted > 0, weighted, 1))[()]


def sentence_chrf(hypothesis: str, references: Sequence[str]) -> float:
    """chrF of one segment in [0, 100]."""
    return chrf_from_statistics(chrf_statistics(hypothesis, references))


def _f1(n_match: int, n_hyp: int, n_ref: int) -> float:
    """2PR / (P + R) with P = n_match / n_hyp and R = n_match / n_ref."""
    return 2 * n_match / (n_hyp + n_ref) if n_match else 0.0


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """SQuAD's F1 of one answer in [0, 1]: of the words that it shares with the reference that suits it best. Case,
    ASCII punctuation, and a, an, the do not count.  Source: Rajpurkar et al. 2016, section 6.1."""
    _check_references(references)
    bare = (text.lower().translate(dict.fromkeys(map(ord, string.punctuation))) for text in (prediction, *references))
    said, *refs = (Counter(re.sub(r"\b(a|an|the)\b", " ", text).split()) for text in bare)
    return max(_f1((said & ref).total(), said.total(), ref.total()) for ref in refs)


def _lcs_positions(ref: list[str], hyp: list[str]) -> set[int]:
    """Positions in ref of one longest common subsequence. If there are several, rouge_score's choice."""
    length = [[0] * (len(hyp) + 1) for _ in range(len(ref) + 1)]
    for i, r in enumerate(ref, 1):
        for j, h in enumerate(hyp, 1):
            length[i][j] = length[i - 1][j - 1] + 1 if r == h else max(length[i - 1][j], length[i][j - 1])
    positions, i, j = set(), len(ref), len(hyp)
    while i and j:
        if ref[i - 1] == hyp[j - 1]:
            i, j = i - 1, j - 1
            positions.add(i)
        elif length[i][j - 1] > length[i - 1][j]:
            j -= 1
        else:
            i -= 1
    return positions


def _rouge_lcs(ref_sentences: list[list[str]], hyp_sentences: list[list[str]]) -> float:
    """F of ROUGE-L for summaries: the union of each reference sentence's LCSs. A token is used at most once."""
    hyp_counts = Counter(token for sentence in hyp_sentences for token in sentence)
    union = Counter()
    for ref in ref_sentences:
        positions = set().union(*(_lcs_positions(ref, hyp) for hyp in hyp_sentences))
        union.update(ref[i] for i in positions)
    n_ref = sum(map(len, ref_sentences))
    return _f1((union & hyp_counts).total(), hyp_counts.total(), n_ref)


def rouge(hypothesis: str, references: Sequence[str]) -> dict[str, float]:
    """F of ROUGE-1, 2, L and Lsum of one text, each in [0, 1], equal to rouge_score 0.1.2 without stemmer.

        P = overlap / hyp        R = overlap / ref        F = 2PR / (P + R)

    overlap: clipped n-grams for 1 and 2; the longest common subsequence for L; for Lsum its union over the
    sentences, which newlines separate. With several references, each kind of ROUGE takes its best one.
    Tokens are [a-z0-9]+ after lower-casing, so text in other scripts has none and scores 0. Where the
    references are mostly CJK, every character except white space is a token.
    Returns a dict with keys rouge1, rouge2, rougeL, rougeLsum.  Source: Lin 2004, sections 2 and 3.
    """
    _check_references(references)
    pattern = re.compile(r"\S" if default_tokenizer(references) == "zh" else r"[a-z0-9]+")

    def score(reference: str) -> dict[str, float]:
        ref_lines, hyp_lines = (
            [pattern.findall(line) for line in text.lower().split("\n")] for text in (reference, hypothesis)
        )
        ref, hyp = sum(ref_lines, []), sum(hyp_lines, [])
        scores = {}
        for n in (1, 2):
            r, h = ngram_counts(ref, n), ngram_counts(hyp, n)
            scores[f"rouge{n}"] = _f1((r & h).total(), h.total(), r.total())
        return scores | {"rougeL": _rouge_lcs([ref], [hyp]), "rougeLsum": _rouge_lcs(ref_lines, hyp_lines)}

    per_reference = [score(reference) for reference in references]
    return {kind: max(s[kind] for s in per_reference) for kind in per_reference[0]}


def _check_references(references: Sequence[str]) -> None:
    if isinstance(references, str) or not references:
        raise ValueError("references must be a non-empty list of strings, one list per hypothesis")
