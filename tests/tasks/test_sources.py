"""Tasks by name and weight, the user's own files, and rewards from the user's own code."""

import json

import pytest

from minirlhf.harness.files import UserError
from minirlhf.lm.chat import render
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.tasks import TASKS
from minirlhf.tasks.sources import (
    Source, data_hash, file_source, held_out_of, parse_tasks, prompts_of, task_sources, text_sets, texts_of, with_room,
)  # fmt: skip


def jsonl(path, records):
    """The name of a file of these records."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return str(path)


def pairs(n):
    """n records of a prompt and response."""
    return [{"prompt": f"prompt {i}", "response": f"response {i}"} for i in range(n)]


@pytest.mark.parametrize(
    "words, weights",
    [
        ("reviews", {"reviews": 1.0}),
        ("reviews,arithmetic:2", {"reviews": 1.0, "arithmetic": 2.0}),
        (" sentiment:0.5 , translation ", {"sentiment": 0.5, "translation": 1.0}),
    ],
)
def test_tasks_are_given_by_name_and_weight(words, weights):
    assert parse_tasks(words) == weights


@pytest.mark.parametrize(
    "words, message",
    [
        ("revews", "no task 'revews'; there are reviews, sentiment, arithmetic, translation"),
        ("", "no task ''"),
        ("reviews,", "no task ''"),
        ("reviews:x", "weight 'x' of reviews is not a number"),
        ("reviews:0", "weight 0 of reviews must be above 0"),
        ("reviews:-1", "must be above 0"),
        ("reviews:nan", "must be above 0"),
        ("reviews:inf", "must be above 0"),
    ],
)
def test_unknown_tasks_and_weights_are_refused_with_what_there_is(words, message):
    with pytest.raises(UserError) as error:
        parse_tasks(words)
    assert message in str(error.value)


def test_task_sources_are_the_training_side_of_each_task():
    first, second = task_sources({"arithmetic": 2.0, "sentiment": 1.0}, 30, 5)
    task = TASKS["arithmetic"]
    assert (first.name, first.weight, second.name) == ("arithmetic", 2.0, "sentiment")
    assert first.train == task.records("train", 30, 5) and first.documents == task.documents(30, 5)
    assert first.validation == task.records("validation", 200, 5)


def test_own_pairs_are_split_by_prompt_for_good(tmp_path):
    """No prompt on both sides, whatever else is in the file and in whatever order."""
    records = pairs(400) + [{"prompt": f"prompt {i}", "response": "another"} for i in range(400)]
    source = file_source([jsonl(tmp_path / "a.jsonl", records)])
    train, validation = ({r["prompt"] for r in part} for part in (source.train, source.validation))
    assert len(source.train) + len(source.validation) == 800
    assert not train & validation and 10 <= len(validation) <= 32
    fewer = file_source([jsonl(tmp_path / "b.jsonl", records[::-3])])
    assert {r["prompt"] for r in fewer.validation} <= validation


def test_own_text_is_what_is_pretrained_on_and_pairs_what_is_fine_tuned(tmp_path):
    (tmp_path / "corpus.txt").write_text("raw text", "utf-8")
    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    mixed = jsonl(tmp_path / "x.jsonl", [{"text": "one"}, *pairs(3), chat, {"prompt": "no response"}])
    source = file_source([mixed, str(tmp_path / "corpus.txt")])
    assert source.documents == ["one", "raw text"]
    found = source.train + source.validation
    assert sorted(map(str, found)) == sorted(map(str, [*pairs(3), chat]))
    assert (source.name, source.weight) == ("data", 1.0)


def test_without_raw_text_the_training_pairs_stand_in_for_it(tmp_path):
    """Those of validation must not: a model would be validated on what it was pretrained on."""
    source = file_source([jsonl(tmp_path / "x.jsonl", pairs(300))])
    assert source.validation and not source.documents
    tokenizer = Tokenizer()
    sets, held_out = text_sets([source], tokenizer, 64, 8)
    learnt = held_out + sets["data"][0]
    assert [e.ids for e in learnt] == [render(r, tokenizer, chat=False).ids for r in source.train]
    assert tokenizer.decode(learnt[0].ids[1:-1]) == f"{source.train[0]['prompt']}\n{source.train[0]['response']}"
    assert all(e.mask == [False] + [True] * len(e.ids[1:]) for e in learnt)


@pytest.mark.parametrize("n", [1, 2])
def test_however_few_the_pairs_some_are_trained_on(n, tmp_path):
    for start in range(60):
        records = pairs(start + n)[start:]
        source = file_source([jsonl(tmp_path / "x.jsonl", records)])
        assert source.train


def test_prompts_alone_cannot_be_trained_on(tmp_path):
    path = jsonl(tmp_path / "x.jsonl", [{"prompt": "a"}])
    with pytest.raises(UserError, match="x.jsonl: prompts without responses"):
        file_source([path])


def test_a_tokenizer_learns_from_all_training_text_and_no_validation():
    record = {"prompt": "p", "response": "r"}
    source = Source("x", 1.0, ["d"], [record], [{"prompt": "secret", "response": "secret"}])
    assert sorted(texts_of([source, source])) == ["d", "d", "p", "p", "r", "r"]


def test_the_hash_of_data_is_of_what_is_in_it():
    records = [{"prompt": "p", "response": "\ud800"}]
    assert data_hash(records) == data_hash([{"response": "\ud800", "prompt": "p"}])
    others = ([], records * 2, [{"prompt": "p"}], [{"prompt": "r", "response": "p"}], records)
    assert len({data_hash(other) for other in others}) == 5


def test_a_prompt_that_is_too_long_for_one_of_the_models_is_asked_of_none(capsys):
    """The other one renders it in fewer tokens; a prompt as long as the context leaves no room for an answer."""
    records = [{"prompt": "a" * n} for n in (2, 3, 4)]
    brief, wordy = (lambda record: record["prompt"]), (lambda record: "<>" + record["prompt"])
    assert with_room(records, [brief, wordy], 5, "x") == records[:1]
    assert with_room(records, [wordy, brief], 5, "x") == records[:1]
    assert "x: 2 of 3 prompts left out, longer than the context of 5 tokens" in capsys.readouterr().out


def test_rl_is_measured_on_prompts_that_it_does_not_ask(tmp_path):
    """Of tasks, of which none is asked in training; or all of a file. What does not fit is left out."""
    fit = lambda records, name: [record for record in records if name != "arithmetic"]
    held_out = held_out_of("", "reviews,arithmetic", (), 0, "", fit)
    asked = {record["prompt"] for record in prompts_of("", "reviews", (), 5000, 0)[0]["reviews"]}
    assert len(held_out) == 128 and {record["task"] for record in held_out} == {"reviews"}
    assert asked.isdisjoint(record["prompt"] for record in held_out)
    (tmp_path / "own.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    own = held_out_of("", "", (str(tmp_path / "own.jsonl"),), 0, "", fit)
    assert [record["prompt"] for record in own] == ["a", "b"]
