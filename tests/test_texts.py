"""Whole texts: the sums over texts and windows, beside an n-gram model of what the first model read."""

from math import log

import pytest
import torch

from minirlhf.files import UserError
from minirlhf.metrics import perplexity
from minirlhf.model import GPT, GPTConfig
from minirlhf.perplexity import TextScore, text_score
from minirlhf.texts import lines, read_texts, score_texts, texts_of_training, total

TEXTS = ["aa bb aa bb aa bb aa bb aa bb", "bb aa 今天"]


@pytest.fixture
def models(tokenizer) -> dict:
    """Two random models of one tokenizer, with contexts of 16 and 8."""
    made = {}
    for seed, (name, context) in enumerate((("long", 16), ("short", 8))):
        torch.manual_seed(seed)
        made[name] = (GPT(GPTConfig(tokenizer.vocab_size, context, 1, 1, 8)).eval(), tokenizer)
    return made


RUNS = {"long": {}, "short": {}}


def test_scores_are_sums_over_the_texts(models):
    scores = score_texts(TEXTS, models, RUNS, 4)
    for name, (model, tokenizer) in models.items():
        parts = [text_score(model, tokenizer, text, 4) for text in TEXTS]
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


def test_text_is_read_from_txt_and_jsonl(tmp_path):
    (tmp_path / "a.txt").write_text("one", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "two"}\n{"prompt": "x"}\n', encoding="utf-8")
    assert read_texts([str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl")]) == ["one", "two"]


def test_files_without_text_are_refused(tmp_path):
    (tmp_path / "b.jsonl").write_text('{"prompt": "x"}\n', encoding="utf-8")
    with pytest.raises(UserError, match="no text in it"):
        read_texts([str(tmp_path / "b.jsonl")])


def test_the_table_names_window_and_stride_and_what_each_figure_is():
    score = total([TextScore(3 * log(8), 3, 2, 16, 8), TextScore(log(8), 1, 1, 16, 8)])
    head, line = lines({"sft": score})
    assert head.split() == ["tokens", "perplexity", "bits/byte", "window", "stride"]
    assert line.split() == ["sft", "4", "8", "4.0000", "16", "8"]  # 4 tokens of 3 bits, on 3 bytes
