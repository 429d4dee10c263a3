"""The command that compares algorithms: on tasks and on a user's own prompts, resumable, refused before any work."""

import json
import re
import signal
import sys

import pytest

from minirlhf.experiments import comparison
from minirlhf.harness.files import UserError
from minirlhf.harness.options import run_script
from minirlhf.lm import checkpoint
from minirlhf.lm.batches import Mixture
from minirlhf.tools import compare_algorithms

WORDS = ["ab", "cd", "ef", "gh", "ij", "kl", "mn", "op", "qr", "st"]


@pytest.fixture
def command(make_policy, tokenizer, tmp_path, monkeypatch):
    """A function that runs the tool on a small model, whose reward is the length of the answer, with more words."""
    checkpoint.save(tmp_path / "sft", make_policy(0, context=64), tokenizer, {})
    (tmp_path / "mine.py").write_text("def long(prompt, response, record):\n    return float(len(response))\ndef reply(conversation, rng):\n    return 'u'\n")
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": w}) + "\n" for w in WORDS + WORDS[:3]))
    (tmp_path / "q.jsonl").write_text("".join(json.dumps({"prompt": w}) + "\n" for w in ["ab", "ab", "uv", "wx"]))
    monkeypatch.chdir(tmp_path)

    def run(words: str, own: bool = False) -> None:
        what = "--prompts p.jsonl --max-new 8" if own else "--task arithmetic"
        sizes = "--batch 8 --held-out 8 --samples 4 --reference-samples 80 --beta 5 --lrs 1e-3 --seeds 1"
        said = f"compare --init sft --out out --reward mine.py:long {what} {sizes} {words}"
        monkeypatch.setattr(sys, "argv", said.split())
        compare_algorithms.main()

    return run


def files(out) -> dict[str, dict]:
    """Row and seed of each run -> its result."""
    found = {p.stem.replace(", lr 0.001, seed", ""): json.loads(p.read_text()) for p in out.glob("*/*seed*.json")}
    return dict(sorted(found.items()))


def test_it_runs_and_goes_on_where_it_stopped(command, tmp_path, capsys):
    """A file a run, tables by one yardstick, the best first, figures; the second call runs nothing."""
    words = "--iterations 2 --algos rloo ppo:whiten=no"
    command(words)
    said, out = capsys.readouterr().out, tmp_path / "out"
    made = files(out)
    assert list(made) == ["ppo whiten=no 0", "rloo 0"]
    assert all(len(x["means"]["reward"]) == 8 and [y["step"] for y in x["log"]] == [1, 2] for x in made.values())
    J = {name: sum(r - 5 * k for r, k in zip(x["means"]["reward"], x["means"]["kl"])) / 8 for name, x in made.items()}
    rows = re.findall(r"^\| (rloo|ppo:whiten=no) \| ([-\d.]+) \| .*?\| ([-\d.]+) \| 0.001", said, re.M)
    assert [float(x) for *_, x in rows] == pytest.approx(sorted(J.values(), reverse=True), abs=1e-3)
    assert "ppo:whiten=no − rloo" in said and "ppo:whiten=no − SFT" in said
    table = (out / "algorithms.arithmetic.md").read_text()
    assert table in said and (out / "algorithms.arithmetic.svg").read_text().count("<circle") == 2
    assert "ppo:whiten=no" in (out / "curves.arithmetic.svg").read_text()
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*.json")}
    command(words)
    assert table in capsys.readouterr().out and before == {path: path.stat().st_mtime_ns for path in before}


def test_own_prompts_are_trained_on_and_others_judge(command, tmp_path, monkeypatch, capsys):
    """--eval-prompts in both files leave training; each is judged on once; without a beta there is no J*."""
    asked, step_of = set(), Mixture.step
    monkeypatch.setattr(Mixture, "step", lambda mixture, n: [asked.add(x["prompt"]) or x for x in step_of(mixture, n)])
    command("--iterations 9 --algos rloo --eval-prompts q.jsonl --beta 0", own=True)
    said = capsys.readouterr().out
    assert "11 of 13 records to train on, 3 other prompts held out" in said and "there is none without a beta" in said
    assert asked and asked <= set(WORDS) - {"ab"}
    (run,) = files(tmp_path / "out").values()
    assert len(run["means"]["reward"]) == 3 and not list(tmp_path.glob("out/algorithms*.svg"))
    assert (tmp_path / "out/curves.data.svg").exists()


def test_a_run_that_is_stopped_is_begun_anew_when_the_tool_is_called_again(command, tmp_path, monkeypatch, capsys):
    """On SIGTERM in the second run the result of the first is kept, and no option is named that is not there."""
    sent, step_of, words = [], Mixture.step, "--iterations 2 --algos rloo --seeds 2"

    def step(mixture, number):
        if files(tmp_path / "out") and not sent:
            sent.append(number)
            signal.raise_signal(signal.SIGTERM)
        return step_of(mixture, number)

    monkeypatch.setattr(Mixture, "step", step)
    with pytest.raises(SystemExit) as stop:
        run_script(lambda: command(words))
    said = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 130 and "it keeps the runs done and begins this one anew" in said
    assert "--resume" not in said and list(files(tmp_path / "out")) == ["rloo 0"]
    command(words)
    assert list(files(tmp_path / "out")) == ["rloo 0", "rloo 1"]


def test_a_reward_that_fails_in_a_run_ends_it_in_one_line_and_the_runs_done_stay(command, tmp_path):
    """The loop's word on --resume is left out: the tool has none."""
    text = "calls = []\ndef late(prompts, responses, records):\n    calls.append(1)\n    return [1 / (4 - len(calls))]"
    (tmp_path / "mine.py").write_text(f"{text} * len(prompts)\n")
    with pytest.raises(UserError, match="the reward raised ZeroDivisionError") as end:
        command("--iterations 9 --algos rloo --reward mine.py:late", own=True)
    assert "--resume" not in str(end.value) and list(tmp_path.glob("out/data/SFT*.json"))


@pytest.mark.parametrize("words, changed", [
    ("--iterations 2", "iterations"), ("--batch 16", "batch"), ("--samples 3", "samples"), ("--beta 6", "beta"),
    ("--held-out 9", "held_out"), ("--cpu-seconds 3", "cpu_seconds"), ("--max-new 9", "max_new"),
    ("--environment mine.py:reply", "conversations"), ("--turns 2", "conversations"), ("--reward mine.py:long:2", "reward"), ("--eval-prompts q.jsonl", "prompts"), ("--dtype bfloat16", "dtype"),
])  # fmt: skip
def test_other_settings_want_another_folder(command, words, changed, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("minirlhf.experiments.trials.begun_with", lambda out, settings: seen.append(settings) or 1 / 0)
    for more in ("--seeds 2 --algos ppo --lrs 1 --reference-samples 90", words):
        with pytest.raises(ZeroDivisionError):
            command(f"--dtype float32 {more}", own=True)
    plain, other = seen
    assert plain["init"] == checkpoint.fingerprint(checkpoint.load(tmp_path / "sft")[0])
    assert [k for k in other if plain.get(k) != other[k]] == [changed]


@pytest.mark.parametrize("words, message", [
    ("--algos ppo sarsa", "--algos sarsa: "), ("--algos", "--algos: expected"), ("--algos ppo:lam=9", "at most"),
    ("--algos ppo --against grpo", "--against grpo: not one of the rows ppo"), ("--task reviews", "--task can do"),
    ("--lrs", "--lrs: expected"), ("--lrs 0", "--lrs 0: give numbers"), ("--lrs x", "--lrs x: give numbers"),
    ("--cpu-seconds 9 --iterations 3", "--iterations can do nothing beside --cpu-seconds"),
])  # fmt: skip
def test_options_that_make_no_comparison_are_refused_before_any_work(words, message, command, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "task_items", lambda *_, **__: 1 / 0)
    with pytest.raises(UserError, match=message):
        command(words, own=True)
    assert not (tmp_path / "out").exists()
