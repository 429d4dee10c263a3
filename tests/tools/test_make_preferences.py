"""The command that makes comparisons."""


import pytest

from minirlhf.lm import checkpoint
from minirlhf.lm.model import GPT, GPTConfig
from minirlhf.lm.reading import read_records
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.preferences import simulated
from minirlhf.preferences.comparisons import read_preferences
from minirlhf.tools.make_preferences import main


@pytest.fixture
def call(run_main, monkeypatch, tmp_path, make_policy, tokenizer):
    """A function that runs the command in a folder with a checkpoint `good` and one that knows no roles, `base`."""
    monkeypatch.chdir(tmp_path)
    checkpoint.save("good", make_policy(0, context=96), tokenizer, {})
    bare = Tokenizer(specials=("<|endoftext|>",))
    checkpoint.save("base", GPT(GPTConfig(bare.vocab_size, 8, 1, 1, 4)), bare, {})

    def call(*argv):
        return run_main(main, "preferences", *argv, "--threads", "1")

    return call


def test_the_file_is_read_back_as_comparisons(call):
    status, out, _ = call("--init", "good", "--pairs", 20, "--out", "p.jsonl")
    assert status == 0 and "p.jsonl: 20 comparisons" in out
    lines = read_preferences(["p.jsonl"])
    assert [line | {"of_file": True} for line in lines] == read_records(["p.jsonl"]) and len(lines) == 20


def test_half_a_character_is_written_so_that_the_reader_takes_it(call, monkeypatch):
    line = {"prompt": "half \ud800", "chosen": "a", "rejected": "b", "gold_chosen": 1.0, "gold_rejected": 0.0}
    monkeypatch.setattr(simulated, "make_pairs", lambda *_: ([line], {}))
    assert call("--init", "good", "--out", "p.jsonl")[0] == 0
    assert read_preferences(["p.jsonl"])[0]["prompt"] == "half \ud800"


@pytest.mark.parametrize("argv, message", [
    ("--init nowhere", "nowhere: no such checkpoint folder"),
    ("--init base", "base: its tokenizer has no <|user|>"),
    ("--init good --task revews", "--task revews: not one of reviews"),
    ("--init good --temperature 0", "--temperature 0.0: must be above 0"),
    ("--init good --out good", "--out good: a folder; give a file's name"),
    ("--init good --pairs 0", "--pairs 0: must be at least 1"),
    ("--init good --responses 1", "--responses 1: must be at least 2"),
])  # fmt: skip
def test_wrong_use_ends_in_one_line(call, argv, message):
    status, _, err = call(*argv.split())
    assert status == 2 and err.count("\n") == 1 and message in err
