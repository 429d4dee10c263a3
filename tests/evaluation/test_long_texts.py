"""Windows over long texts: the golden, every token once, and the slow way of scoring each token by itself."""

import math
from math import log

import pytest
import torch

from minirlhf.evaluation.ask import Policy
from minirlhf.evaluation.long_texts import (
    TextScore, document_ids, ngram_text_score, read_texts, score_lines, score_texts, text_score, texts_of_training,
    windows,
)
from minirlhf.harness.files import UserError
from minirlhf.lm.examples import document_examples
from minirlhf.lm.model import GPT, GPTConfig
from minirlhf.lm.sft import evaluate_loss
from minirlhf.metrics.ngram import fit_ngram
from minirlhf.metrics.scores import bits_per_byte, perplexity

TEXT = "今天天气很好。 The cat sat on the mat, and that is where it sat."
BYTES = len(TEXT) + 2 * len("今天天气很好。")  # three for each of those


@pytest.fixture
def gpt(make_gpt, tokenizer):
    return make_gpt(vocab_size=tokenizer.vocab_size, context=16)


def read(ids: list[int], context: int, stride: int) -> list[tuple[list[int], list[int]]]:
    """(inputs, predictions) of each window."""
    return [(ids[s:e], ids[f : e + 1]) for s, f, e in windows(len(ids) - 1, context, stride)]


@torch.no_grad()
def log_prob(model, ids: list[int], t: int, start: int) -> float:
    """log p(ids[t] | ids[start:t]) by a pass of its own."""
    hidden = model(torch.tensor([ids[start:t]]))
    return float(model.logits(hidden[0, -1]).double().log_softmax(-1)[ids[t]])


def test_windows_of_the_golden():
    ids = list(range(11))
    assert read(ids, 4, stride=4) == [
        ([0, 1, 2, 3], [1, 2, 3, 4]),
        ([4, 5, 6, 7], [5, 6, 7, 8]),
        ([6, 7, 8, 9], [9, 10]),
    ]
    assert read(ids, 4, stride=2) == [
        ([0, 1, 2, 3], [1, 2, 3, 4]),
        ([2, 3, 4, 5], [5, 6]),
        ([4, 5, 6, 7], [7, 8]),
        ([6, 7, 8, 9], [9, 10]),
    ]


@pytest.mark.parametrize("context", [1, 2, 3, 5])
def test_every_token_is_predicted_exactly_once_from_as_much_context_as_promised(context):
    for n in range(14):
        for stride in range(1, context + 1):
            parts = windows(n, context, stride)
            assert [t for _, first, end in parts for t in range(first, end + 1)] == list(range(1, n + 1))
            for start, first, end in parts:
                assert 0 <= start < first <= end and end - start <= context
                assert first - start >= min(first, context - stride + 1)
                assert end - start == min(context, n)  # all full, so side by side in one batch


@pytest.mark.parametrize("text", ["", "a", "a short text"])
@pytest.mark.parametrize("stride", [1, 7, 16])
def test_a_text_within_the_context_scores_as_in_training(gpt, tokenizer, text, stride):
    score = text_score(gpt, tokenizer, [text], stride)
    nll, tokens = evaluate_loss(gpt, document_examples({"text": text}, tokenizer, 16))
    assert (score.nll, score.tokens) == (pytest.approx(nll, rel=1e-6), tokens)


def test_stride_1_is_every_token_behind_its_longest_context(gpt, tokenizer):
    ids = document_ids(TEXT, tokenizer)
    expected = -sum(log_prob(gpt, ids, t, max(0, t - 16)) for t in range(1, len(ids)))
    score = text_score(gpt, tokenizer, [TEXT], 1)
    assert score.nll == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("stride", [3, 8, 15, 16])
def test_a_window_begins_where_its_stride_says(gpt, tokenizer, stride):
    """Behind the first window, token t is scored by window ⌈(t − context)/stride⌉."""
    ids = document_ids(TEXT, tokenizer)
    n, expected = len(ids) - 1, 0.0
    for t in range(1, n + 1):
        number = max(0, math.ceil((t - 16) / stride))
        expected -= log_prob(gpt, ids, t, min(n, 16 + number * stride) - 16)
    assert text_score(gpt, tokenizer, [TEXT], stride).nll == pytest.approx(expected, rel=1e-5)


def test_windows_side_by_side_see_less_and_stride_matters(gpt, tokenizer):
    """So that a perplexity without its stride means nothing."""
    nlls = [text_score(gpt, tokenizer, [TEXT], stride).nll for stride in (1, 8, 16)]
    assert len({round(nll, 3) for nll in nlls}) == 3


def test_the_first_token_is_conditioned_on_the_end_of_a_text_and_the_end_is_scored(gpt, tokenizer):
    score = text_score(gpt, tokenizer, ["a"], 16)
    first = log_prob(gpt, [tokenizer.eos_id, *tokenizer.encode("a")], 1, 0)
    last = log_prob(gpt, [tokenizer.eos_id, *tokenizer.encode("a"), tokenizer.eos_id], 2, 0)
    assert score.nll == pytest.approx(-first - last, rel=1e-5) and score.tokens == 2


def test_a_score_names_its_window_and_stride_and_counts_bytes_without_the_end(gpt, tokenizer):
    score = text_score(gpt, tokenizer, [TEXT], 5)
    assert (score.window, score.stride) == (16, 5)
    assert score.bytes == BYTES and score.tokens == BYTES + 1  # a token a byte


def test_a_uniform_model_has_the_vocabulary_size_as_perplexity(gpt, tokenizer):
    with torch.no_grad():
        gpt.wte.weight.zero_()
    score = text_score(gpt, tokenizer, [TEXT], 4)
    assert perplexity(score.nll, score.tokens) == pytest.approx(tokenizer.vocab_size, rel=1e-5)
    bits = (BYTES + 1) / BYTES * math.log2(tokenizer.vocab_size)
    assert bits_per_byte(score.nll, score.bytes) == pytest.approx(bits, rel=1e-5)


def test_scoring_leaves_a_model_in_training_as_it_was_and_uses_no_dropout(make_gpt, tokenizer):
    plain, dropping = (make_gpt(vocab_size=tokenizer.vocab_size, context=16, dropout=d) for d in (0.0, 0.9))
    dropping.train()
    assert text_score(dropping, tokenizer, [TEXT], 4) == text_score(plain, tokenizer, [TEXT], 4)
    assert dropping.training


def test_an_ngram_model_is_scored_on_the_same_tokens_and_bytes(gpt, tokenizer):
    ngram = fit_ngram([document_ids("The cat sat. " * 9, tokenizer)[1:]], 3, tokenizer.vocab_size)
    score, neural = ngram_text_score(ngram, tokenizer, [TEXT]), text_score(gpt, tokenizer, [TEXT], 4)
    assert (score.tokens, score.bytes) == (neural.tokens, neural.bytes)
    assert (score.window, score.stride) == (2, 1)
    ids = [*tokenizer.encode(TEXT), tokenizer.eos_id]
    assert score.nll == pytest.approx(-ngram.log_prob(ids).sum())


TEXTS = ["aa bb aa bb aa bb aa bb aa bb", "bb aa 今天"]


@pytest.fixture
def models(tokenizer) -> dict:
    """Two random models of one tokenizer, with contexts of 16 and 8."""
    made = {}
    for seed, (name, context) in enumerate((("long", 16), ("short", 8))):
        torch.manual_seed(seed)
        made[name] = Policy(GPT(GPTConfig(tokenizer.vocab_size, context, 1, 1, 8)).eval(), tokenizer)
    return made


RUNS = {"long": {}, "short": {}}


def test_scores_are_sums_over_the_texts(models, tmp_path):
    (tmp_path / "corpus.txt").write_text(TEXTS[0] * 20, encoding="utf-8")
    scores = score_texts(TEXTS, models, RUNS | {"long": {"data": {"data": [str(tmp_path / "corpus.txt")]}}}, 4)
    tokenizer = models["long"].tokenizer
    ngram = fit_ngram([document_ids(TEXTS[0] * 20, tokenizer)[1:]], 5, tokenizer.vocab_size)
    each = [ngram_text_score(ngram, models["long"].tokenizer, [text]).nll for text in TEXTS]
    assert scores["5-gram"].nll == pytest.approx(sum(each))
    tokenizer = models["long"].tokenizer
    for name, policy in models.items():
        parts = [text_score(policy.model, tokenizer, [text], 4) for text in TEXTS]
        assert scores[name].nll == pytest.approx(sum(p.nll for p in parts))
        assert scores[name].tokens == sum(len(tokenizer.encode(text)) + 1 for text in TEXTS)
        assert scores[name].bytes == sum(len(text.encode()) for text in TEXTS)


def test_the_stride_is_half_of_each_models_context_unless_given(models):
    assert {n: (s.window, s.stride) for n, s in score_texts(TEXTS, models, RUNS, 0).items()} == {
        "long": (16, 8), "short": (8, 4)
    }


def test_a_stride_beyond_the_context_is_refused_in_one_line(models):
    with pytest.raises(UserError, match="--stride 9: short has a context of 8 tokens"):
        score_texts(TEXTS, models, RUNS, 9)


def test_an_ngram_of_the_training_text_knows_it_better_than_random_models(models, tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text(TEXTS[0] * 20, encoding="utf-8")
    runs = {"long": {"data": {"data": [str(path)]}}, "short": {}}
    scores = score_texts([TEXTS[0]], models, runs, 0)
    assert list(scores) == ["long", "short", "5-gram"]
    nats = {name: log(perplexity(s.nll, s.tokens)) for name, s in scores.items()}
    assert nats["5-gram"] < 0.5 * min(nats["long"], nats["short"])


def test_where_the_training_text_is_not_known_there_is_no_ngram(models):
    assert list(score_texts(TEXTS, models, {"long": {"data": {"data": ["gone.txt"]}}, "short": {}}, 0)) == list(models)


def test_the_training_text_of_a_task_is_made_again():
    run = {"tasks": {"arithmetic": 1.0}, "data": {"examples": 5}, "seed": 3}
    assert len(texts_of_training(run)) == 5 and all("=" in text for text in texts_of_training(run))


def test_text_is_read_from_files_and_what_is_none_is_counted(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("one", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "two"}\n{"prompt": "x"}\n', encoding="utf-8")
    assert read_texts([str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl")]) == ["one", "two"]
    (tmp_path / "c.csv").write_text("review,prompt,response\nthree,,\n,p,r\n")
    assert read_texts([str(tmp_path / "c.csv")], "text=review") == ["three"]
    assert "--text: 1 of 2 records left out: no text" in capsys.readouterr().out


def test_files_without_text_are_refused(tmp_path):
    (tmp_path / "b.jsonl").write_text('{"prompt": "x"}\n', encoding="utf-8")
    with pytest.raises(UserError, match="no text in it"):
        read_texts([str(tmp_path / "b.jsonl")])


def test_the_table_names_window_and_stride_and_what_each_figure_is():
    head, line = score_lines({"sft": TextScore(4 * log(8), 4, 3, 16, 8)})
    assert head.split() == ["tokens", "perplexity", "bits/byte", "window", "stride"]
    assert line.split() == ["sft", "4", "8", "4.0000", "16", "8"]  # 4 tokens of 3 bits, on 3 bytes
