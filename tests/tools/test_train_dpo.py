"""The command that trains by DPO."""

import json
import sys

import pytest
import torch

from minirlhf.harness.options import run_script
from minirlhf.lm import checkpoint
from minirlhf.lm.model import GPT, GPTConfig
from minirlhf.lm.tokenizer import SPECIALS, Tokenizer
from minirlhf.tools.train_dpo import main


@pytest.fixture
def start(tmp_path, monkeypatch):
    """A folder with a checkpoint, comparisons of 40 prompts, and a way to call the command there."""
    tokenizer = Tokenizer()
    tokenizer.add_specials([name for name in SPECIALS if name not in tokenizer.special_ids])
    torch.manual_seed(0)
    model = GPT(GPTConfig(tokenizer.vocab_size, context=32, layers=1, heads=2, width=16))
    checkpoint.save(tmp_path / "sft", model, tokenizer, {"stage": "sft", "tasks": {"reviews": 1.0}})
    rows = [{"prompt": f"p{i}", "chosen": "yes", "rejected": "no"} for i in range(40)]
    (tmp_path / "prefs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)

    def call(*argv: str) -> int:
        monkeypatch.setattr(sys, "argv", ["dpo.py", *argv])
        try:
            run_script(main)
        except SystemExit as end:
            return end.code or 0
        return 0

    return call


def test_the_command_writes_a_checkpoint_that_prefers_what_people_chose(start, tmp_path, capsys):
    argv = "--data prefs.jsonl --init sft --out dpo --epochs 20 --lr 0.003 --dtype float32 --threads 1".split()
    assert start(*argv) == 0
    run = json.loads((tmp_path / "dpo" / "run.json").read_text())
    assert run["stage"] == "dpo" and run["tasks"] == {"reviews": 1.0} and run["held_out"]["accuracy"] > 0.9
    assert run["reference"] == checkpoint.fingerprint(checkpoint.load(tmp_path / "sft")[0])
    assert checkpoint.fingerprint(checkpoint.load(tmp_path / "dpo")[0]) != run["reference"]
    assert "held-out comparisons: accuracy" in capsys.readouterr().out


def test_what_exceeds_the_context_is_left_out_and_counted(start, tmp_path, capsys):
    rows = [{"prompt": f"q{i}", "chosen": "yes" * 20, "rejected": "no"} for i in range(3)]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = "--init sft --out dpo --epochs 0.1 --held-out 0 --threads 1".split()
    assert start("--data", "prefs.jsonl", "long.jsonl", *common) == 0
    assert "3 of 43 comparisons dropped: longer than the context of 32 tokens" in capsys.readouterr().out
    run = json.loads((tmp_path / "dpo" / "run.json").read_text())
    assert (run["pairs"], run["dropped"], run["cut"]) == (43, 3, 0)
    assert start("--data", "long.jsonl", *common) == 2
    assert "of 3, 0 are of equals, 3 too long, 0 held out; give others, or a model of a longer" in capsys.readouterr().err


def test_a_resume_with_another_beta_is_refused_by_name(start, capsys):
    argv = "--data prefs.jsonl --init sft --out dpo --epochs 0.1 --threads 1".split()
    assert start(*argv) == 0 and start(*argv, "--resume") == 0
    assert start(*argv, "--resume", "--beta", "0.2") == 2
    assert "saved with beta = 0.1, now 0.2" in capsys.readouterr().err


@pytest.mark.parametrize("argv, message", [
    ("", "--data: name a file of comparisons"),
    ("--data gone.jsonl", "gone.jsonl: No such file"),
    ("--data prefs.jsonl --init gone", "gone: no such checkpoint folder"),
    ("--data prefs.jsonl --beta 0", "--beta 0"),
])
def test_wrong_use_ends_in_one_line(argv, message, start, capsys):
    assert start(*f"--init sft --out dpo {argv}".split()) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
