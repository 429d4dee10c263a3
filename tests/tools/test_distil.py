"""The command that distils."""

import json
from pathlib import Path

import pytest

from minirlhf.harness.files import read_run
from minirlhf.lm import checkpoint
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.tools.distil import main


@pytest.fixture
def call(run_main, monkeypatch, tmp_path, make_gpt, make_policy, tokenizer):
    """A function that runs the command in a folder with a teacher, a student of half its context, and data."""
    monkeypatch.chdir(tmp_path)
    checkpoint.save("teacher", make_policy(0, context=48), tokenizer, {"stage": "sft"})
    checkpoint.save("student", make_policy(1, context=24, width=8, layers=1), tokenizer, {})
    other = Tokenizer(merges=[(97, 98)])
    checkpoint.save("other", make_gpt(1, vocab_size=other.vocab_size), other, {})
    files = {"pairs": [{"prompt": f"p{i}", "response": "yes" * (1 + i % 2)} for i in range(40)],
             "asked": [{"prompt": f"p{i}"} for i in range(40)], "texts": [{"text": "a text"}],
             "long": [{"prompt": "p" * 30, "response": "yes"}, {"prompt": "p", "response": "no"}],
             "longer": [{"prompt": "p" * 30, "response": "yes"}]}  # fmt: skip
    for name, rows in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = "--teacher teacher --init student --out out --steps 2 --batch 4 --dtype float32 --threads 1"
    return lambda argv: run_main(main, "distil", *common.split(), *argv.split())


@pytest.mark.parametrize("argv", ["--data asked.jsonl --max-new 40", "--data pairs.jsonl --on text --loss forward",
                                  "--data asked.jsonl --on teacher --loss hard --max-new 40",
                                  "--data asked.jsonl --lora 2 --steps 3"])  # fmt: skip
def test_the_command_writes_a_student_that_names_its_teacher(argv, call):
    status, out, _ = call(argv)
    assert status == 0 and "s of CPU" in out
    run, (model, tokenizer) = read_run("out"), checkpoint.load("out")
    assert run["stage"] == "distil" and run["reference"] == checkpoint.fingerprint(checkpoint.load("teacher")[0])
    start, names = checkpoint.load("student")
    assert model.config == start.config and tokenizer.special_ids == names.special_ids
    assert checkpoint.fingerprint(model) != checkpoint.fingerprint(start)


def test_a_task_is_distilled_with_its_weight(call):
    assert call("--task arithmetic:2 --examples 30 --max-new 1")[0] == 0
    run = read_run("out")
    assert run["tasks"] == {"arithmetic": 2.0} and run["data"]["examples"] == 30
    assert run["cost"]["tokens"] == 2 * 2 * 4  # steps, weight, batch


def test_what_the_student_cannot_read_is_left_out(call):
    assert "1 of 2 prompts left out" in call("--data long.jsonl")[1]
    assert "data: 1 of" in call("--data long.jsonl --on text --overwrite")[1]


def test_no_run_replaces_the_teacher(call):
    for argv in ("--out teacher", "--out teacher --overwrite"):
        status, _, error = call(f"--data asked.jsonl {argv}")
        assert status == 2 and "--out teacher: holds --teacher teacher" in error
    assert checkpoint.read_run("teacher") == {"stage": "sft"}


def test_a_folder_that_only_contains_the_teachers_is_no_run_that_is_replaced(call):
    Path("models").mkdir()
    Path("teacher").rename("models/teacher")
    assert call("--data asked.jsonl --teacher models/teacher --out models")[0] == 0 and Path("models/teacher/run.json").exists()


def test_a_run_is_extended_and_another_teacher_refused(call):
    assert call("--data asked.jsonl")[0] == 0
    assert call("--resume --steps 3")[0] == 0 and read_run("out")["cost"]["steps"] == 3
    assert "saved with teacher = " in call("--resume --steps 4 --teacher student")[2]


@pytest.mark.parametrize("argv, message", [
    ("--data asked.jsonl --init other", "--init other: its tokenizer is not that of teacher"),
    ("--data texts.jsonl --on text", "texts.jsonl: text alone"),
    ("--data asked.jsonl --on text", "prompts without responses"),
    ("--data longer.jsonl --on text", "none of 1 records fits the context of 24 tokens: shorten them"),
    ("--data pairs.jsonl --loss hard", "--loss can do nothing where --on is own and where --loss is hard"),
    ("--data pairs.jsonl --on text --loss hard --temperature 2", "--temperature can do nothing where --loss is hard"),
    ("--data pairs.jsonl --on text --max-new 8", "--max-new can do nothing where --on is text"),
    ("--data pairs.jsonl --temperature 0", "--temperature 0.0: must be above 0"),
])  # fmt: skip
def test_wrong_use_ends_in_one_line(argv, message, call):
    status, _, error = call(argv)
    assert status == 2 and message in error and "\n" not in error.strip()
