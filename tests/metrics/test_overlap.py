"""BLEU, chrF and ROUGE against sacreBLEU 2.6.0 and rouge_score 0.1.2: goldens, and fuzz where installed."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest

from minirlhf.metrics import overlap

GOLDEN = json.loads((Path(__file__).parents[1] / "golden.json").read_text(encoding="utf-8"))
BLEU = {name: case for name, case in GOLDEN["bleu"].items() if "score" in case}
WORDS = "a b cat The 3.5 x-1 (hi) it's end. 1,000, .5 &amp; - “q” 我们 好。".split()


def references(case: dict) -> list[tuple[str, ...]]:
    return list(zip(*case["ref_streams"]))


def corpus_bleu(hyps, refs, tokenize: str = "13a", effective_order: bool = False) -> float:
    """Of summed statistics, as an evaluation has it."""
    rows = [overlap.bleu_statistics(hyp, ref, tokenize) for hyp, ref in zip(hyps, refs, strict=True)]
    return overlap.bleu_from_statistics(sum(rows), effective_order)


def corpus_chrf(hyps, refs, word_order: int = 0) -> float:
    rows = [overlap.chrf_statistics(hyp, ref, word_order) for hyp, ref in zip(hyps, refs, strict=True)]
    return overlap.chrf_from_statistics(sum(rows))


def random_text(rng: random.Random, longest: int = 9) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(0, longest)))


def random_corpus(rng: random.Random) -> tuple[list[str], list[list[str]]]:
    n_refs = rng.randint(1, 3)
    size = rng.randint(1, 5)
    refs = [[random_text(rng) for _ in range(n_refs)] for _ in range(size)]
    # Half of the hypotheses are a reference with a word changed, so that long n-grams do match.
    hyps = [
        rng.choice(ref).replace(rng.choice(WORDS), "b") if rng.random() < 0.5 else random_text(rng)
        for ref in refs
    ]
    return hyps, refs


@pytest.mark.parametrize("name", BLEU)
def test_corpus_bleu_equals_sacrebleu(name):
    case = BLEU[name]
    assert corpus_bleu(case["hyps"], references(case), **case["kwargs"]) == pytest.approx(case["score"], abs=1e-9)


@pytest.mark.parametrize("name", BLEU)
def test_bleu_statistics_equal_sacrebleu_counts(name):
    case = BLEU[name]
    pairs = zip(case["hyps"], references(case))
    rows = [overlap.bleu_statistics(hyp, refs, case["kwargs"].get("tokenize", "13a")) for hyp, refs in pairs]
    assert list(sum(rows)) == [case["sys_len"], case["ref_len"], *case["counts"], *case["totals"]]


@pytest.mark.parametrize("name", [name for name in BLEU if not BLEU[name]["kwargs"].get("effective_order")])
def test_bleu_signature_is_sacrebleus_with_our_version(name):
    case = BLEU[name]
    expected = case["signature"].replace("version:2.6.0", "version:minirlhf")
    assert overlap.bleu_signature(references(case), case["kwargs"].get("tokenize", "13a")) == expected


def test_signature_says_when_the_number_of_references_varies():
    assert overlap.bleu_signature([["a"], ["a", "b"]], "13a").startswith("nrefs:var|")


@pytest.mark.parametrize(
    "tokenize, text", [(tok, text) for tok, cases in GOLDEN["tok"].items() for text in cases]
)
def test_tokenizers_equal_sacrebleu(tokenize, text):
    assert " ".join(overlap.bleu_tokens(text, tokenize)) == GOLDEN["tok"][tokenize][text]


def test_trailing_whitespace_is_removed_before_tokenizing():
    """Otherwise a line that ends in "-\\n" would lose its dash to the rule that joins lines."""
    assert overlap.bleu_tokens("end-\n", "13a") == ["end-"]


def test_only_13a_pads_the_line_so_that_a_leading_point_is_split_off():
    assert overlap.bleu_tokens(".5", "13a") == [".", "5"]
    assert overlap.bleu_tokens(".5", "zh") == [".5"]
    assert overlap.bleu_tokens("v1.0,", "zh") == ["v1.0,"]


def test_sentence_bleu_equals_sacrebleu_and_its_mean_is_not_corpus_bleu():
    case = GOLDEN["bleu"]["sentence5_eff"]
    scores = [overlap.sentence_bleu(hyp, [ref]) for hyp, ref in zip(case["hyps"], case["refs"])]
    assert scores == pytest.approx(case["scores"], abs=1e-9)
    assert np.mean(scores) == pytest.approx(41.3276003523)
    corpus = corpus_bleu(case["hyps"], [[ref] for ref in case["refs"]])
    assert corpus == pytest.approx(37.9774735199)


def test_perfect_chinese_answer_scores_full_marks_by_default():
    text = "我喜欢机器学习"
    assert overlap.sentence_bleu(text, [text]) == pytest.approx(100)
    assert overlap.rouge(text, [text])["rouge2"] == 1
    assert overlap.sentence_chrf(text, [text]) == pytest.approx(100)


@pytest.mark.parametrize(
    "text, tokenizer",
    [("the cat", "13a"), ("我喜欢机器学习", "zh"), ("今天很好。", "zh"), ("用 GPT-2 模型", "13a"), ("好a", "13a")]
    + [("日本語のテスト", "zh"), ("我  a  我", "zh"), ("", "13a"), ("“…—”", "13a")],
)
def test_default_tokenizer_is_chinese_above_half_of_the_characters(text, tokenizer):
    assert overlap.default_tokenizer([text]) == tokenizer


def test_no_match_is_zero_before_any_smoothing():
    assert overlap.sentence_bleu("x y z w", ["a b c d"]) == 0


def bleu_by_the_rules(row: np.ndarray, effective_order: bool) -> float:
    """BLEU of one row of statistics, order by order, as the definition reads."""
    hyp_len, ref_len, counts = row[0], row[1], row[2:]
    order = len(counts) // 2
    matches, totals = counts[:order], counts[order:]
    if not any(matches):
        return 0.0
    logs, zeros = [], 0
    for match, total in zip(matches, totals):
        if total == 0:
            if not effective_order:
                return 0.0
            break
        if match == 0:
            zeros += 1
            match = 0.5**zeros
        logs.append(math.log(match / total))
    penalty = math.exp(min(0.0, 1 - ref_len / hyp_len))
    return 100 * penalty * math.exp(sum(logs) / len(logs))


@pytest.mark.parametrize("effective_order", [False, True])
def test_bleu_of_many_rows_equals_the_definition_row_by_row(effective_order):
    rng = np.random.default_rng(0)
    hyp_len, ref_len = rng.integers(0, 8, (2, 400))
    totals = np.maximum(hyp_len[:, None] - np.arange(4), 0)
    matches = rng.integers(0, totals + 1)
    matches *= np.logical_and.accumulate(matches > 0, axis=1)
    rows = np.column_stack([hyp_len, ref_len, matches, totals])
    expected = [bleu_by_the_rules(row, effective_order) for row in rows]
    assert overlap.bleu_from_statistics(rows, effective_order) == pytest.approx(expected)
    twice = overlap.bleu_from_statistics(rows.reshape(2, 200, 10), effective_order)
    assert twice.ravel() == pytest.approx(expected)


@pytest.mark.parametrize("name", GOLDEN["chrf"])
def test_chrf_equals_sacrebleu(name):
    case = GOLDEN["chrf"][name]
    score = corpus_chrf(case["hyps"], references(case), **case["kwargs"])
    assert score == pytest.approx(case["score"], abs=1e-9)


def test_chrf_averages_over_the_orders_that_both_sides_have():
    """By hand: orders 1 and 2 have P = 3/5, 1 and R = 1, 1; the bigrams of "abc" have nothing to match."""
    assert overlap.sentence_chrf("ab", ["ab"]) == pytest.approx(100)
    assert corpus_chrf(["abc", "ab"], [["a"], ["ab"]]) == pytest.approx(100 * 5 * 0.8 / (4 * 0.8 + 1))


def test_chrf_of_many_rows_equals_chrf_of_each():
    rng = random.Random(0)
    rows = np.array([overlap.chrf_statistics(random_text(rng), [random_text(rng)], 2) for _ in range(20)])
    one_by_one = [overlap.chrf_from_statistics(row) for row in rows]
    assert list(overlap.chrf_from_statistics(rows)) == one_by_one


@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL", "rougeLsum"])
@pytest.mark.parametrize("name", GOLDEN["rouge"])
def test_rouge_equals_rouge_score(name, kind):
    case = GOLDEN["rouge"][name]
    score = overlap.rouge(case["prediction"], [case["target"]])[kind]
    assert score == pytest.approx(case[kind]["f"], abs=1e-9)


def test_union_lcs_takes_rouge_scores_choice_among_equally_long_subsequences():
    """Of "c a" against "a c" rouge_score keeps "c", so the union over both lines is 1 token and not 2."""
    assert overlap.rouge("c\na c", ["c a"])["rougeLsum"] == pytest.approx(2 * 1 / (3 + 2))


def test_rouge_takes_the_best_reference_of_each_kind():
    best = overlap.rouge("a b c", ["c b a", "a b x y z"])
    assert best["rouge1"] == 1  # first reference
    assert best["rouge2"] == pytest.approx(2 * 1 / (2 + 4))  # second reference


@pytest.mark.parametrize("said, references, f1", [
    ("rome", ["rome"], 1), ("The Rome.", ["rome"], 1), ("a cat, an owl", ["cat owl"], 1), ("theatre", ["atre"], 0),
    ("in rome", ["rome"], 2 / 3), ("rome rome", ["rome"], 2 / 3), ("new york city", ["york city hall"], 2 / 3),
    ("old rome", ["paris", "rome"], 2 / 3), ("paris", ["rome"], 0), ("", ["rome"], 0), ("the", ["a"], 0),
    ("it's", ["its"], 1), ("well-known", ["well known"], 0),
])  # fmt: skip
def test_token_f1_is_squads(said, references, f1):
    """By hand, after the rules of the data set's evaluate-v1.1.py."""
    assert overlap.token_f1(said, references) == pytest.approx(f1)


def test_order_of_segments_and_of_references_has_no_influence():
    rng = random.Random(1)
    for _ in range(20):
        hyps, refs = random_corpus(rng)
        order = rng.sample(range(len(hyps)), len(hyps))
        shuffled = [hyps[i] for i in order], [refs[i][::-1] for i in order]
        assert corpus_bleu(*shuffled) == corpus_bleu(hyps, refs)
        flat = [ref[:1] for ref in refs]  # chrF keeps the first of two equally good references
        assert corpus_chrf([hyps[i] for i in order], [flat[i] for i in order]) == corpus_chrf(hyps, flat)


@pytest.mark.parametrize("score", [overlap.sentence_bleu, overlap.sentence_chrf, overlap.rouge, overlap.token_f1])
@pytest.mark.parametrize("refs", ["a", []], ids=["string-for-list", "no-reference"])
def test_misshapen_references_are_an_error(score, refs):
    with pytest.raises(ValueError):
        score("a", refs)


@pytest.mark.parametrize("tokenize", ["13a", "zh"])
def test_random_corpora_have_sacrebleus_bleu(tokenize):
    sacrebleu = pytest.importorskip("sacrebleu")
    rng = random.Random(tokenize)
    for trial in range(120):
        hyps, refs = random_corpus(rng)
        theirs = sacrebleu.BLEU(tokenize=tokenize, effective_order=trial % 3 == 0)
        expected = theirs.corpus_score(hyps, list(zip(*refs))).score
        assert corpus_bleu(hyps, refs, tokenize, trial % 3 == 0) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("tokenize", ["13a", "zh"])
def test_every_character_is_tokenized_as_in_sacrebleu(tokenize):
    sacrebleu = pytest.importorskip("sacrebleu")
    theirs = sacrebleu.BLEU(tokenize=tokenize).tokenizer
    rng = random.Random(0)
    characters = [chr(c) for c in range(0x30000) if not 0xD800 <= c < 0xE000]
    rng.shuffle(characters)
    for start in range(0, len(characters), 50):
        text = "".join(c + rng.choice(["", "a", "1", " ", ".", "-"]) for c in characters[start : start + 50])
        assert overlap.bleu_tokens(text, tokenize) == theirs(text.rstrip()).split()


@pytest.mark.parametrize("word_order", [0, 2])
def test_random_corpora_have_sacrebleus_chrf(word_order):
    sacrebleu = pytest.importorskip("sacrebleu")
    rng = random.Random(word_order)
    for _ in range(150):
        hyps, refs = random_corpus(rng)
        expected = sacrebleu.CHRF(word_order=word_order).corpus_score(hyps, list(zip(*refs))).score
        assert corpus_chrf(hyps, refs, word_order) == pytest.approx(expected, abs=1e-9)


def test_random_texts_have_rouge_scores_rouge():
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"])
    rng = random.Random(0)
    for _ in range(300):
        lines = rng.choices(["a b", "b a c", "c c.", "", "A-b x", "d e f a", "é1"], k=rng.randint(1, 12))
        split = rng.randint(0, len(lines))
        hyp, refs = "\n".join(lines[:split]), ["\n".join(lines[split:]), " ".join(lines[::2])]
        ours = overlap.rouge(hyp, refs)
        for kind, theirs in scorer.score_multi(refs, hyp).items():
            assert ours[kind] == pytest.approx(theirs.fmeasure, abs=1e-12)
