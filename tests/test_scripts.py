"""The three scripts from end to end, on generated tasks and a user's own data, and wrong uses of them."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest
import torch

from minirlhf.evaluation import collect
from minirlhf.evaluation.answer import answer_lines, chief_rows
from minirlhf.evaluation.cite import cite
from minirlhf.evaluation.items import write_items
from minirlhf.evaluation.report import build
from minirlhf.harness.folders import load_state
from minirlhf.harness.loop import Loop
from minirlhf.lm import checkpoint
from minirlhf.lm.tokenizer import PAD
from minirlhf.rl.reward_model import RewardModel, save_reward_model

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("train_sft.py", "train_ppo.py", "evaluate.py")
SHAPE = "--layers 1 --heads 2 --width 16 --context 128 --vocab 300 --threads 1".split()
BASE = "--base-steps 6 --base-lr 0.02".split()
STEPS = "--steps 12 --batch 4 --lr 0.02 --warmup 2".split()
STEPS += "--eval-every 3 --save-every 4".split()
SFT = ["--task", "sentiment,arithmetic:2", "--examples", "60", *SHAPE, *BASE, *STEPS]
PPO = "--iterations 3 --batch 8 --minibatches 2 --lr 0.02 --missing-eos -1".split()
PPO += "--save-every 2 --threads 1".split()
FEW = ["--examples", "40"]  # of generated prompts
PAIRS = [{"prompt": f"say {c}", "response": 2 * c, "hint": i} for i, c in enumerate("abcdefgh")]
CHAT = {
    "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "two?"},
        {"role": "assistant", "content": "2"},
    ]
}
REWARDS = """
def length(prompt, response, record):
    assert prompt == f"say {'abcdefgh'[record['hint']]}"
    return len(response) / 10
def nan(prompt, response, record):
    return float("nan")
def none(prompt, response, record):
    return None
def fails(prompt, response, record):
    raise KeyError("label")
def talks(prompt, response, record):
    return len(record.get("messages", ())) // 2
def reply(conversation, rng):
    return f"and? {rng.randint(0, 9)}" if conversation["hint"] % 2 else None
def silent(conversation, rng):
    return 7
"""


RESUMED_SFT = [
    ("lr", "0.01", "lr = 0.02, now 0.01"),
    ("seed", "1", "seed = 0, now 1"),
    ("batch", "5", "data = 4 rows"),
    ("width", "32", "width = 16, now 32"),
    ("examples", "61", "data = "),
]
RESUMED_PPO = [
    ("beta", "0.5", "beta = 0.025, now 0.5"),
    ("seed", "1", "seed = 0, now 1"),
    ("examples", "41", "data = "),
    ("task", "sentiment", "data = "),
    ("init", "", "init = "),
]


def start(name, *argv, cwd):
    """A script as a user starts it, in a process of its own."""
    command = [sys.executable, str(ROOT / name), *map(str, argv)]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder in which each script has run once: out/base, out/sft, out/ppo, out/eval, what they said."""
    folder = tmp_path_factory.mktemp("trained")
    for name, argv in zip(SCRIPTS, (SFT, PPO + FEW, "--prompts 4 --samples 2 --threads 1".split())):
        process = start(name, *argv, cwd=folder)
        out, err = process.communicate()
        assert process.returncode == 0 and "Traceback" not in err, err
        (folder / f"{name}.txt").write_text(out)
        (folder / f"{name}.err").write_text(err)
    return folder


@pytest.fixture
def call(run_main, monkeypatch, tmp_path):
    """A function that runs a script in this process, in tmp_path; returns (exit status, stdout, stderr).

    What is no clean exit comes through and fails the test.
    """
    monkeypatch.chdir(tmp_path)

    def call(name, *argv):
        spec = importlib.util.spec_from_file_location(name.removesuffix(".py"), ROOT / name)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return run_main(module.main, name, *argv)

    return call


@pytest.fixture
def files(tmp_path):
    """The user's own files, good ones and bad ones."""

    def jsonl(name, records):
        (tmp_path / name).write_text("".join(json.dumps(r) + "\n" for r in records))

    jsonl("pairs.jsonl", PAIRS)
    jsonl("chat.jsonl", [CHAT] * 3)
    jsonl("prompts.jsonl", [{"prompt": r["prompt"], "hint": r["hint"]} for r in PAIRS])
    jsonl("long.jsonl", [{"prompt": "much " * 200, "response": "too long"}])
    jsonl("nobody.jsonl", [{"messages": [{"role": "assistant", "content": "hello"}]}])
    (tmp_path / "corpus.txt").write_text("to be or not to be " * 40)
    (tmp_path / "broken.jsonl").write_text('{"prompt": "a", "response": "b"}\n' * 16 + '{"prompt"\n')
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "caf\xe9", "response": "b"}\n')
    (tmp_path / "mine.py").write_text(REWARDS)
    return tmp_path


@pytest.fixture
def folders(trained, tmp_path):
    """Checkpoint folders beside the files: a good one, and ones that are damaged in one way each."""
    for name in ("good", "cut", "shape", "other"):
        shutil.copytree(trained / "out" / "sft", tmp_path / name)
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    config = tmp_path / "shape" / "config.json"
    config.write_text(config.read_text().replace('"n_embd": 16', '"n_embd": 18'))
    model, tokenizer = checkpoint.load(tmp_path / "other")
    tokenizer.add_specials(["<|more|>"])
    checkpoint.resize_vocabulary(model, tokenizer.vocab_size)
    checkpoint.save(tmp_path / "other", model, tokenizer, {"stage": "sft"})
    return tmp_path


def weights_of(folder):
    """The bytes of a checkpoint's weights."""
    return (Path(folder) / "model.safetensors").read_bytes()


def steps_of(folder):
    """The steps in a log, in order."""
    return [json.loads(line)["step"] for line in (Path(folder) / "log.jsonl").read_text().splitlines()]


def strict(text):
    """JSON without the NaN and Infinity that only Python reads."""

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def responses_in(folder):
    """The responses in an evaluation's items."""
    lines = (folder / "items.jsonl").read_text("utf-8").split("\n")[:-1]
    return [x for x in map(strict, lines) if x["kind"] == "response"]


def watch(monkeypatch, stop=None):
    """The (folder, step) of each step that is done from now on; in the step `stop` a SIGTERM arrives."""
    original, done = Loop.record, []

    def logged(self, *arguments):
        original(self, *arguments)
        done.append((self.run.out.name, self.step + 1))
        if done[-1] == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Loop, "record", logged)
    return done


def test_the_three_scripts_leave_whole_checkpoints(trained):
    for name, steps in (("base", 6), ("sft", 12), ("ppo", 3)):
        folder = trained / "out" / name
        model, tokenizer = checkpoint.load(folder)
        assert model.config.vocab_size == tokenizer.vocab_size and model.config.width == 16
        assert all(p.isfinite().all() for p in model.parameters())
        assert steps_of(folder) == list(range(1, steps + 1))
        run = strict((folder / "run.json").read_text())
        assert run["seed"] == 0 and run["stage"] == name and run["cost"]["steps"] == steps
        assert run["tasks"] == {"sentiment": 0.5 if name == "ppo" else 1.0, "arithmetic": 2.0}
    assert set(run["optimum"]) == {"sentiment", "arithmetic"}
    assert run["reference"] == checkpoint.fingerprint(checkpoint.load(trained / "out" / "sft")[0])
    assert len({weights_of(trained / "out" / name) for name in ("base", "sft", "ppo")}) == 3


def test_a_training_shows_how_it_went(trained):
    """A page in each folder, which no longer reloads itself; blocks on the terminal; answers of the first round."""
    for name, words in (("base", "loss"), ("sft", "validation"), ("ppo", "KL")):
        html = (trained / "out" / name / "log.html").read_text()
        assert "<svg" in html and "http-equiv=\"refresh\"" not in html
        said = (trained / ("train_ppo.py.txt" if name == "ppo" else "train_sft.py.txt")).read_text().splitlines()
        assert any(line.startswith(f"{name}  {words} ") and "▁" in line and " -> " in line for line in said)
    first, *later = (strict(line) for line in (trained / "out" / "ppo" / "log.jsonl").read_text().splitlines())
    assert {x["task"] for x in first["samples"]} == {"sentiment", "arithmetic"}
    assert not any("samples" in x for x in later) and first["samples"][0]["response"] in html


def test_what_is_shown_measured_and_kept_changes_neither_weights_nor_other_figures(call, files, folders):
    """With several rewards, each of which tells its mean."""
    (files / "two.py").write_text("def f(prompt, response, record):\n    return len(response) / 10\n"
                                  "def g(prompts, responses, records):\n    return [len(r) % 2 for r in responses]\n")
    (files / "unseen.jsonl").write_text('{"prompt": "say it\\u202e\\u0007"}\n' * 3)
    argv = "--init good --prompts prompts.jsonl --reward two.py:f two.py:g:0.5 --max-new 6".split() + [*PPO, "--iterations", "2"]
    more = "--show-every 1 --eval-every 1 --eval-prompts unseen.jsonl --keep-every 1 --keep-best".split()
    assert call("train_ppo.py", *argv, "--out", "plain", "--show-every", "0")[0] == 0
    status, said, _ = call("train_ppo.py", *argv, "--out", "watched", *more)
    assert status == 0 and said.count("round 2: ") > 3 and all(line.isprintable() for line in said.splitlines())
    assert weights_of("plain") == weights_of("watched") != weights_of("watched/round-1")
    assert checkpoint.load("watched/round-1")[0].config == checkpoint.load("good")[0].config
    for a, b in zip(*((strict(x) for x in (files / out / "log.jsonl").read_text().splitlines()) for out in ("plain", "watched"))):
        assert {k: v for k, v in a.items() if k != "seconds"}.items() <= b.items() and "held_out" in b and "score/two.py:f" in a


def test_training_lowers_the_loss(trained):
    for name in ("base", "sft"):
        lines = (trained / "out" / name / "log.jsonl").read_text().splitlines()
        losses = [strict(line)["loss"] for line in lines]
        assert losses[-1] < losses[0] - 0.5


def test_the_report_has_every_model_and_a_verdict_for_every_metric(trained):
    report = strict((trained / "out" / "eval" / "report.json").read_text())
    assert list(report["models"]) == ["base", "sft", "ppo"] and report["reference"] == "sft"
    for entry in report["models"].values():
        assert entry["cost"]["steps"] > 0 and len(entry["sha256"]) == 64
    assert list(report["tasks"]) == ["sentiment", "arithmetic", "arithmetic, range", "arithmetic, long"]
    for task in report["tasks"].values():
        assert task["prompts"] == 4 and len(task["metrics"]) >= 8
        for row in task["metrics"]:
            assert list(row["models"]) == ["base", "sft", "ppo"]
            assert set(row["differences"]) == {"base", "ppo"}
            for difference in row["differences"].values():
                assert difference["verdict"]


def test_models_that_are_asked_in_other_ids_have_no_optimum_in_common(trained, call, monkeypatch, tmp_path):
    """A base model knows no roles: no mixture of answers to one prompt."""
    monkeypatch.chdir(trained)
    argv = "--models base=out/base ppo=out/ppo --reference base --task sentiment --prompts 4 --samples 2 --threads 1"
    status, _, err = call("evaluate.py", *argv.split(), "--out", tmp_path)
    assert status == 0, err
    for path, told in ((trained / "out" / "eval", True), (tmp_path, False)):
        task = strict((path / "report.json").read_text())["tasks"]["sentiment"]
        assert ("optimum" in task) is told
        assert any(row["metric"].startswith("J = reward") for row in task["metrics"]) is told


def test_the_reference_is_at_distance_zero_from_itself_and_the_others_are_not(trained):
    report = strict((trained / "out" / "eval" / "report.json").read_text())
    for task in report["tasks"].values():
        (row,) = [row for row in task["metrics"] if row["metric"].startswith("KL")]
        assert [row["models"]["sft"][key] for key in ("value", "low", "high")] == [0.0, 0.0, 0.0]
        assert row["models"]["base"]["value"] > 0 and row["models"]["ppo"]["value"] > 0


def test_the_items_rebuild_the_report(trained):
    """Every response of every model to every prompt, two samples and a greedy one."""
    items = responses_in(trained / "out" / "eval")
    report = strict((trained / "out" / "eval" / "report.json").read_text())
    assert len(items) == 4 * 3 * 4 * 3
    for title, task in report["tasks"].items():
        (length,) = [row for row in task["metrics"] if row["metric"].startswith("length")]
        for model, cell in length["models"].items():
            mine = [x for x in items if (x["set"], x["model"]) == (title, model)]
            assert len({(x["index"], x["sample"]) for x in mine}) == len(mine) == 12
            sampled = [x["tokens"] for x in mine if x["sample"] >= 0]
            assert sum(sampled) / len(sampled) == pytest.approx(cell["value"])


def test_the_report_can_be_made_again_without_the_models(trained, call, tmp_path):
    """Every number and text of it, and the page, but for the seconds it took; and the items byte for byte."""
    items = trained / "out" / "eval" / "items.jsonl"
    status, _, err = call("evaluate.py", "--from", items)
    made = tmp_path / "out" / "eval"
    assert status == 0 and (made / "items.jsonl").read_bytes() == items.read_bytes(), err
    old, new = (strict((path / "report.json").read_text("utf-8")) for path in (items.parent, made))
    seconds = [f"{report.pop('seconds'):.1f} s</dd>" for report in (old, new)]
    assert new == old
    pages = [(path / "report.html").read_text("utf-8") for path in (items.parent, made)]
    assert pages[0].replace(*seconds) == pages[1]


def test_more_can_be_measured_on_what_was_said(trained, call, tmp_path):
    """All metrics, among them the default ones with the same figures."""
    items = trained / "out" / "eval" / "items.jsonl"
    assert call("evaluate.py", "--from", items, "--metrics", "all")[0] == 0
    paths = items.parent, tmp_path / "out" / "eval"
    old, new = (strict((path / "report.json").read_text("utf-8"))["tasks"] for path in paths)
    for title, task in old.items():
        rows = {row["metric"]: row for row in new[title]["metrics"]}
        assert all(rows[row["metric"]] == row for row in task["metrics"])
        assert {"reward, best of 2", "rouge1 F", "adjusted distinct-1", "KL by k3, nats"} <= rows.keys()


def test_evidence_that_lacks_what_a_metric_needs_or_was_cut_off_is_refused(trained, call, tmp_path):
    folder = trained / "out" / "eval"
    items = (folder / "items.jsonl").read_text("utf-8")
    (tmp_path / "cut.jsonl").write_text(items[: len(items) // 2], "utf-8")
    (tmp_path / "torn.jsonl").write_text(items.replace('"kind": "text"', '"kind": ', 1), "utf-8")
    line = 1 + [strict(x)["kind"] for x in items.split("\n")[:-1]].index("text")
    for argv, message in (
        (["cut.jsonl"], "cut.jsonl, line "), (["torn.jsonl"], f"torn.jsonl, line {line}: not JSON"),
        (["gone.jsonl"], "gone.jsonl: No such file"),
        ([folder / "report.json"], "report.json, line 1: not JSON"),
        ([folder / "items.jsonl", "--metrics", "kl,f1"], "--metrics f1 needs a label in some records"),
    ):
        status, out, err = call("evaluate.py", "--from", *argv)
        assert status == 2 and message in err and err.count("\n") == 1
        assert not list(tmp_path.glob("out/eval/report.*"))


def test_the_answer_is_the_last_thing_that_is_printed_and_at_most_eight_rows_a_set_stand_above_it(trained):
    """Then one line per set, with gain and price. What was written, and the alarms, stand between."""
    text = (trained / "evaluate.py.txt").read_text()
    report = strict((trained / "out" / "eval" / "report.json").read_text())
    assert text.endswith("\n\n" + "\n".join(answer_lines(report)) + "\n")
    assert text.index("out/eval/report.html, report.json, items.jsonl\n") < text.index("ALARM") < text.index("price:")
    for title, task in report["tasks"].items():
        rows = text.partition(f"\n{title} ")[2].partition("\n\n")[0].splitlines()[2:]
        names = [row["metric"] for row in task["metrics"] if any(line.startswith(row["metric"]) for line in rows)]
        assert names == [row["metric"] for row in chief_rows(task["metrics"])] and len(names) == 8 < len(task["metrics"])


def test_a_bar_counts_the_answers_on_stderr_while_an_evaluation_works(trained):
    """Four sets of four prompts, three answers to each, of three models. In a log file it keeps quiet, and it goes."""
    err = (trained / "evaluate.py.err").read_text()
    assert "asking:   0%" in err and "/144 [" in err and "verdicts:   0%" in err and "100%" not in err
    assert "asking" not in (trained / "evaluate.py.txt").read_text()


def test_all_prints_every_row_and_what_it_rests_on(trained, call, tmp_path):
    status, out, err = call("evaluate.py", "--from", trained / "out" / "eval" / "items.jsonl", "--all", "--show", "0")
    assert status == 0, err
    for task in strict((tmp_path / "out" / "eval" / "report.json").read_text())["tasks"].values():
        assert all(row["metric"] in out for row in task["metrics"])
    assert out.count("\nJ* ") == 4 and "(Kneser-Ney)" in out and "--all" not in out


@pytest.mark.parametrize("kind, name", [("markdown", "table.md"), ("latex", "table.tex"), ("csv", "table.csv")])
def test_a_table_to_cite_is_written_also_without_the_models(kind, name, trained, call, tmp_path):
    items = trained / "out" / "eval" / "items.jsonl"
    status, out, err = call("evaluate.py", "--from", items, "--format", kind, "--metrics", "reward,kl", "--show", "0")
    report = strict((tmp_path / "out" / "eval" / "report.json").read_text())
    assert status == 0 and f"items.jsonl, {name}\n" in out, err
    assert (tmp_path / "out" / "eval" / name).read_text("utf-8") == cite(report, kind, chief_rows)


def kinds_of(x, path="", found=None) -> dict[str, set[str]]:
    """path -> the types of what stands there: names of models, sets and scores are *, members of a list []."""
    found = {} if found is None else found
    key = path.rpartition(".")[2]
    if isinstance(x, dict) and key not in ("settings", "environment", "record"):
        for name, value in x.items():
            word = "*" if key in NAMES and "*" not in path.rpartition(".")[2] else name
            kinds_of(value, f"{path}.{word}" if path else name, found)
    elif isinstance(x, list):
        for value in x:
            kinds_of(value, path + "[]", found)
        found.setdefault(path + "[]", set()) if not x else None
    else:
        kind = {type(None): "none", bool: "yes or no", str: "text", int: "whole", float: "number", dict: "object"}[type(x)]
        found.setdefault(path, set()).add(kind)
    return found


NAMES = "models tasks differences scores temperatures answers lengths calibration best_of tokens".split()


def fields_of_the_chapter() -> dict[tuple[str, str], set[str]]:
    """(kind of line or "report", path) -> types, of the table in the evaluation chapter."""
    text = (ROOT / "minirlhf" / "evaluation" / "README.md").read_text("utf-8")
    fields = {}
    for places, names, types, _ in re.findall(r"^\| ([^|]+) \| (`[^|]+`) \| ([^|]+) \| ([^|]+) \|$", text, re.M):
        for place in places.split("; "):
            kinds, _, path = place.partition(": ")
            for kind, name in product(kinds.split(", "), re.findall("`([^`]+)`", names)):
                assert (kind, full := f"{path}.{name}".lstrip(".")) not in fields
                fields[kind, full] = {*types.split(", ")}
    return fields


def test_the_chapter_has_each_field_that_an_evaluation_writes_and_no_other(trained, make_evaluation):
    """Of a real one, and of one with an optimum; each with its type."""
    folder, fields, seen = trained / "out" / "eval", fields_of_the_chapter(), {}
    many = make_evaluation([{"prompt": f"p{i}", "response": "x y"} for i in range(90)], lambda m, i, k: "some words", beta=5.0)
    many[1][0].about["optimum"] = {"value": 9.0, "low": 8.5, "high": None, "effective_size": 300.0}  # of training
    write_items(folder / "more.jsonl", *many)
    parts = [("report", strict((folder / "report.json").read_text("utf-8"))), ("report", build(*many, ["bleu", "reward"]))]
    for name in ("items.jsonl", "more.jsonl"):
        parts += [(x["kind"], x) for x in map(strict, (folder / name).read_text("utf-8").split("\n")[:-1])]
    for kind, x in parts:
        for path, types in kinds_of(x).items():
            seen.setdefault((kind, path), set()).update(types)
    unknown = {place: types for place, types in seen.items() if place not in fields}
    assert all(types <= {"none"} and any(f[1].startswith(f"{path}.") for f in fields) for (_, path), types in unknown.items()), unknown
    assert fields.keys() <= seen.keys(), fields.keys() - seen.keys()
    for place, types in fields.items():
        assert seen[place] <= types | ({"whole"} if "number" in types else set()), (place, seen[place])


def test_the_same_seed_gives_the_same_bytes_and_another_others(trained, call):
    for seed, equal in ((0, True), (1, False)):
        assert call("train_sft.py", *SFT, "--seed", seed)[0] == 0
        for name in ("base", "sft"):
            assert (weights_of(f"out/{name}") == weights_of(trained / "out" / name)) == equal
        argv = [*PPO, *FEW, "--init", trained / "out" / "sft", "--seed", seed]
        assert call("train_ppo.py", *argv)[0] == 0
        assert (weights_of("out/ppo") == weights_of(trained / "out" / "ppo")) == equal


@pytest.mark.parametrize("stage, step", [("base", 3), ("base", 6), ("sft", 5)])
def test_sft_resumed_equals_sft_uninterrupted(stage, step, trained, call, monkeypatch):
    done = watch(monkeypatch, (stage, step))
    status, _, err = call("train_sft.py", *SFT)
    assert status == 130 and "--resume" in err.splitlines()[-1] and done[-1] == (stage, step)
    assert call("train_sft.py", *SFT, "--resume")[0] == 0
    assert done == [("base", s) for s in range(1, 7)] + [("sft", s) for s in range(1, 13)]
    for name, steps in (("base", 6), ("sft", 12)):
        assert weights_of(f"out/{name}") == weights_of(trained / "out" / name)
        assert steps_of(f"out/{name}") == list(range(1, steps + 1))


def test_ppo_resumed_equals_ppo_uninterrupted(files, folders, call, monkeypatch):
    """Policy, value head and the β that adapts, all of which the first round has moved."""
    argv = "--init good --prompts prompts.jsonl --reward mine.py:length --max-new 6".split()
    argv += [*PPO, "--warmup", "0", "--kl-target", "0.5", "--kl-horizon", "20"]
    assert call("train_ppo.py", *argv, "--out", "straight")[0] == 0
    done = watch(monkeypatch, ("stopped", 1))
    status, _, err = call("train_ppo.py", *argv, "--out", "stopped")
    assert status == 130 and "--resume" in err.splitlines()[-1] and done == [("stopped", 1)]
    state = load_state("stopped/train_state.pt")
    assert state["kept"]["beta"] != 0.025 and state["parts"]["value_head"]["weight"].count_nonzero() == 16
    assert call("train_ppo.py", *argv, "--out", "stopped", "--resume")[0] == 0
    assert done == [("stopped", step) for step in (1, 2, 3)]
    assert weights_of("stopped") == weights_of("straight") != weights_of("good")
    assert steps_of("stopped") == [1, 2, 3]
    heads = [Path(name, "value_head.safetensors").read_bytes() for name in ("stopped", "straight")]
    assert heads[0] == heads[1]


def test_an_environment_of_the_users_replies_in_training_after_a_resume_and_in_evaluation(files, folders, call, monkeypatch):
    argv = "--init good --prompts prompts.jsonl --reward mine.py:talks --environment mine.py:reply --turns 3 --max-new 6".split()
    argv += [*PPO, "--warmup", "0", "--out"]
    assert call("train_ppo.py", *argv, "straight")[0] == 0
    watch(monkeypatch, ("stopped", 1))
    assert call("train_ppo.py", *argv, "stopped")[0] == 130
    assert call("train_ppo.py", "--resume", "--out", "stopped")[0] == 0
    assert weights_of("stopped") == weights_of("straight") != weights_of("good")
    assert max(json.loads(line)["reward"] for line in Path("straight/log.jsonl").read_text().splitlines()) > 0
    how = "--reward mine.py:talks --environment mine.py:reply --max-new 6 --threads 1".split()
    assert call("evaluate.py", "--models", "a=good", "b=straight", "--data", "prompts.jsonl", *how)[0] == 0
    assert all(x["scores"]["reward"] == x["response"].count("‹and") for x in responses_in(Path("out/eval")) if x["stop"] == "eos")
    Path("mine.py").write_text(REWARDS.replace("and?", "or?"))
    status, _, err = call("train_ppo.py", *argv, "straight", "--resume")
    assert status == 2 and "saved with data = " in err.splitlines()[-1]


def test_a_new_run_forgets_the_state_of_an_older_one(trained, call, monkeypatch):
    """An old out/sft must not pass for what the run that is resumed had reached."""
    assert call("train_sft.py", *SFT, "--base-lr", "0.001")[0] == 0
    watch(monkeypatch, ("base", 3))
    assert call("train_sft.py", *SFT)[0] == 130
    assert call("train_sft.py", *SFT, "--resume")[0] == 0
    assert weights_of("out/sft") == weights_of(trained / "out" / "sft")


@pytest.mark.parametrize("option, value, message", RESUMED_SFT)
def test_resuming_sft_with_another_option_is_refused_by_its_name(option, value, message, call):
    assert call("train_sft.py", *SFT)[0] == 0
    before = weights_of("out/sft")
    status, _, err = call("train_sft.py", *SFT, "--resume", f"--{option}", value)
    assert status == 2 and message in err.splitlines()[-1]
    assert weights_of("out/sft") == before


@pytest.mark.parametrize("option, value, message", RESUMED_PPO)
def test_resuming_ppo_with_another_option_is_refused_by_its_name(option, value, message, trained, call):
    argv = [*PPO, *FEW, "--init", trained / "out" / "sft"]
    assert call("train_ppo.py", *argv)[0] == 0
    value = trained / "out" / "base" if option == "init" else value
    status, _, err = call("train_ppo.py", *argv, "--resume", f"--{option}", value)
    assert status == 2 and message in err.splitlines()[-1]


def test_resuming_with_a_reward_that_was_edited_is_refused(folders, files, call):
    argv = ["--init", "good", "--prompts", "prompts.jsonl", "--reward", "mine.py:length", "--max-new", "6", *PPO]
    assert call("train_ppo.py", *argv)[0] == 0
    assert call("train_ppo.py", *argv, "--resume")[0] == 0
    with Path("mine.py").open("a", encoding="utf-8") as file:
        file.write("BONUS = 1\n")
    status, _, err = call("train_ppo.py", *argv, "--resume")
    assert status == 2 and "saved with data = " in err.splitlines()[-1]


def test_a_sigterm_saves_and_exits(tmp_path):
    process = start("train_sft.py", *SFT, "--base-steps", 10**6, "--save-every", 10**6, cwd=tmp_path)
    log = tmp_path / "out" / "base" / "log.jsonl"
    while process.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err.splitlines()[-1].startswith("train_sft.py: out/base: stopped after step ") and "Traceback" not in err
    assert load_state(log.parent / "train_state.pt")["step"] == steps_of(log.parent)[-1] > 0


def test_own_pairs_and_text_are_trained_on(files, call):
    (files / "options.json").write_text(json.dumps({"data": ["pairs.jsonl", "corpus.txt"], "out": "own"}))
    status, out, _ = call("train_sft.py", *SHAPE, *BASE, *STEPS, "--vocab", "264", "--config", "options.json")
    assert status == 0 and "own/sft" in out
    run = strict((files / "own" / "sft" / "run.json").read_text())
    assert run["tasks"] == {} and run["data"]["data"] == ["pairs.jsonl", "corpus.txt"]
    base = [strict(line) for line in (files / "own" / "base" / "log.jsonl").read_text().splitlines()]
    sft = [strict(line) for line in (files / "own" / "sft" / "log.jsonl").read_text().splitlines()]
    assert base[-1]["loss"] < base[0]["loss"] - 0.5
    assert sft[0]["tokens"] == 4 * 3  # two letters, bytes still, and EOS


def test_conversations_are_fine_tuned_from_a_checkpoint_without_pretraining(files, folders, call):
    assert call("train_sft.py", "--data", "chat.jsonl", "--init", "good", *STEPS, "--threads", "1")[0] == 0
    assert not (files / "out" / "base").exists()
    assert weights_of("out/sft") != weights_of("good")
    first = strict((files / "out" / "sft" / "log.jsonl").read_text().splitlines()[0])
    assert first["tokens"] == 4 * 4  # "1", EOS, "2", EOS in each of four rows


def test_own_prompts_and_reward_drive_ppo(files, folders, call):
    argv = "--prompts prompts.jsonl --reward mine.py:length --init good --max-new 6".split()
    status, _, err = call("train_ppo.py", *argv, *PPO)
    assert status == 0, err
    assert weights_of("out/ppo") != weights_of("good")
    log = [strict(line) for line in (files / "out" / "ppo" / "log.jsonl").read_text().splitlines()]
    assert any(record["ended"] > 0 and record["reward"] > -1 for record in log)


@pytest.fixture
def judge(files, folders):
    """A reward model `rm` of the good checkpoint, with a head of random numbers."""
    trunk, tokenizer = checkpoint.load(folders / "good")
    tokenizer.add_specials([PAD])
    checkpoint.resize_vocabulary(trunk, tokenizer.vocab_size)
    model = RewardModel(trunk)
    torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(0))
    save_reward_model(folders / "rm", model, tokenizer, {})
    return folders


def test_a_reward_model_drives_ppo_with_the_tasks_own_reward_logged_beside_it(judge, call):
    argv = "--init good --reward model:rm --task arithmetic,sentiment".split()
    status, _, err = call("train_ppo.py", *argv, *PPO)
    assert status == 0, err
    for record in map(strict, (judge / "out" / "ppo" / "log.jsonl").read_text().splitlines()):
        assert {"reward/arithmetic", "reward/sentiment", "gold/arithmetic", "gold/sentiment"} <= set(record)
        assert 0 <= record["gold/arithmetic"] <= 1 and record["reward"] not in (0.0, 1.0, -1.0)


@pytest.mark.parametrize("missing, said", [("0", True), ("-3", False)])
def test_a_learnt_reward_that_pays_for_answers_without_end_is_pointed_out(missing, said, judge, call):
    """Its mean is 0, which is what missing_eos is where nobody says otherwise."""
    argv = ["--init", "good", "--reward", "model:rm", "--task", "sentiment", *PPO, *FEW, "--missing-eos", missing]
    status, out, _ = call("train_ppo.py", *argv)
    assert status == 0 and ("an answer that never ends pays" in out) == said


def test_a_reward_model_judges_own_prompts_too_and_gold_is_what_a_task_says_alone(judge, call):
    argv = "--init good --reward model:rm --prompts prompts.jsonl --max-new 6".split()
    status, _, err = call("train_ppo.py", *argv, *PPO)
    assert status == 0, err
    assert call("train_ppo.py", "--init", "good", "--task", "sentiment", "--out", "plain", *PPO, *FEW)[0] == 0
    for name in ("out/ppo", "plain"):
        log = (judge / name / "log.jsonl").read_text()
        assert '"reward"' in log and "gold" not in log


def test_what_the_models_said_is_kept_where_a_metric_cannot_be_measured(files, folders, call, tmp_path):
    """Sampling is the long part: --from goes on with it."""
    argv = "--models a=good --data pairs.jsonl --max-new 4 --samples 1 --threads 1 --out kept".split()
    status, _, err = call("evaluate.py", *argv, "--metrics", "f1")
    assert status == 2 and "needs a label" in err
    assert call("evaluate.py", "--from", "kept/items.jsonl", "--metrics", "kl", "--out", "kept")[0] == 0
    assert (tmp_path / "kept" / "report.html").exists()


def test_own_prompts_are_evaluated_beside_their_references(files, folders, call):
    models = ["--models", "a=good", "b=good", "--reference", "a"]
    argv = ["--data", "pairs.jsonl", "chat.jsonl", "--samples", "2", "--max-new", "5", *models]
    status, out, err = call("evaluate.py", *argv, "--threads", "1")
    assert status == 0, err
    report = strict((files / "out" / "eval" / "report.json").read_text())
    rows = {row["metric"].split()[0]: row for row in report["tasks"]["data"]["metrics"]}
    task = report["tasks"]["data"]
    assert (task["prompts"], task["units"]) == (8 + 3 * 2, 8 + 1) and "chrF" in rows  # three equal conversations
    assert rows["KL"]["models"]["b"]["value"] == 0.0
    for row in rows.values():
        assert row["differences"]["b"]["value"] in (0.0, None)


def test_own_reward_is_evaluated(files, folders, call):
    argv = ["--data", "pairs.jsonl", "--reward", "mine.py:length", "--models", "a=good", "--samples", "3"]
    status, _, err = call("evaluate.py", *argv, "--threads", "1")
    assert status == 0, err
    items = responses_in(files / "out" / "eval")
    assert len(items) == 8 * 4
    for x in items:
        assert x["scores"]["reward"] == (len(x["response"]) / 10 if x["stop"] == "eos" else 0.0)


def test_a_prompt_is_answered_by_each_model_on_a_line(trained, call, monkeypatch):
    monkeypatch.chdir(trained)
    """The models are those of out/, which are named."""
    status, out, _ = call("evaluate.py", "--prompt", "12+34=", "--max-new", "5")
    first, *lines = out.splitlines()
    assert status == 0 and first == "--models base=out/base sft=out/sft ppo=out/ppo"
    assert [line.split(":")[0] for line in lines] == ["base", "sft", "ppo"]


@pytest.mark.parametrize("data, gap", [({}, ""), ({"task": "arithmetic"}, ""), ({"data": ["x.csv"]}, "\n")], ids=str)
def test_a_base_model_goes_on_with_a_prompt_as_its_documents_do(data, gap, trained, tmp_path, run_main, monkeypatch):
    """A stranger and one of generated tasks where it ends; one of own records on the next line."""
    shutil.copytree(trained / "out" / "base", tmp_path / "base")
    (tmp_path / "base" / "run.json").write_text(json.dumps({"stage": "base", "data": data}))
    asked = []
    spec = importlib.util.spec_from_file_location("evaluate", ROOT / "evaluate.py")
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    monkeypatch.setattr(collect, "generate", lambda model, prompts, *rest: asked.append(prompts) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_main(module.main, "evaluate.py", "--prompt", "12+34=", "--models", f"base={tmp_path / 'base'}")
    tokenizer = checkpoint.load(tmp_path / "base")[1]
    assert asked == [[[tokenizer.eos_id, *tokenizer.encode("12+34="), *tokenizer.encode(gap)]]]


CHECKED = [
    ("train_sft.py --data named.csv more.txt", "⟦aa<|endoftext|>⟧"), ("train_sft.py --data named.csv --init good", "data, train"),
    ("train_ppo.py --init good --prompts named.csv --reward mine.py:none", "|  <|user|>say a\n"),
    ("evaluate.py --models good=good --data named.csv", "prompts also stand in training, but for case"),
    ("train_reward --init good --data compared.tsv", "train: 6 records"),
    ("train_dpo --init good --data compared.tsv --held-out 50", "validation: 0 of "),
]  # fmt: skip


@pytest.mark.parametrize("command, said", CHECKED, ids=lambda x: x.split(" -")[0])
def test_check_data_shows_the_data_under_the_users_names_and_touches_nothing(command, said, files, folders, call, run_main):
    (files / "named.csv").write_text("question,answer,id\n" + "".join(f"say {c},{2 * c},7\n" for c in "abcdefgh"))
    (files / "compared.tsv").write_text("question\tchosen\trejected\n" + "".join(f"{c}\ta\tb\n" for c in "abcdefgh"))
    (files / "more.txt").write_text("some raw text " * 30)
    before = {path: path.read_bytes() for path in files.rglob("*") if path.is_file()}
    name, *argv = command.split()
    names = "prompt=question" + ",response=answer" * ("named.csv" in argv)
    argv += ["--map", names, "--check-data", "--threads", "1"]
    tool = None if name.endswith(".py") else importlib.import_module(f"minirlhf.tools.{name}")
    status, out, err = run_main(tool.main, name, *argv) if tool else call(name, *argv)
    assert status == 0 and said in out and out.count("\n|  ") >= 3, err
    assert f"{argv[argv.index('named.csv' if 'named.csv' in argv else 'compared.tsv')]}: 8 records of prompt" in out
    assert {path: path.read_bytes() for path in files.rglob("*") if path.is_file()} == before


def test_an_output_that_cannot_be_written_is_refused_before_a_model_is_asked(call, tmp_path):
    (tmp_path / "taken").write_text("")
    status, _, err = call("evaluate.py", "--models", "a=nowhere", "--out", str(tmp_path / "taken"))
    assert status == 2 and "taken is no folder that can be written" in err
    (tmp_path / "unmounted").symlink_to(tmp_path / "nowhere")
    status, _, err = call("evaluate.py", "--models", "a=nowhere", "--out", str(tmp_path / "unmounted"))
    assert status == 2 and "unmounted is no folder that can be written" in err
    (tmp_path / "out").write_text("")  # what only prints needs none
    status, _, err = call("evaluate.py", "--models", "a=nowhere", "--prompt", "a")
    assert status == 2 and "nowhere" in err and "can be written" not in err


def test_a_map_is_taken_beside_a_text(call, tmp_path):
    status, _, err = call("evaluate.py", "--models", "a=nowhere", "--text", "t.jsonl", "--map", "text=body")
    assert status == 2 and "can do nothing" not in err and "nowhere" in err


def test_check_data_of_an_evaluation_shows_the_generated_test_sets(trained, call, monkeypatch):
    monkeypatch.chdir(trained)
    status, out, err = call("evaluate.py", "--check-data", "--prompts", "4", "--threads", "1")
    assert status == 0 and "0 of 4 prompts also stand in training" in out, err


def test_check_data_of_generated_tasks_shows_each_test_set_beside_what_was_trained_on(folders, call):
    status, out, err = call("evaluate.py", "--models", "good=good", "--check-data", "--prompts", "3", "--threads", "1")
    assert status == 0 and out.startswith("training: ") and "\narithmetic, long: 3 records; tokens" in out, err


def test_names_of_fields_reach_run_json_and_what_was_trained_on_is_known_by_them(files, folders, call):
    (files / "named.csv").write_text("q,response\n" + "".join(f"say {c},{2 * c}\n" for c in "abcdefgh"))
    argv = ["--data", "named.csv", "--map", "prompt=q", "--threads", "1"]
    assert call("train_sft.py", "--init", "good", "--out", "own", *STEPS, *argv)[0] == 0
    assert strict((files / "own" / "sft" / "run.json").read_text())["data"]["map"] == "prompt=q"
    _, out, _ = call("evaluate.py", "--models", "sft=own/sft", "--samples", "2", *argv)
    assert "ALARM train/test overlap: 8 of 8 prompts of data" in out


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_lists_the_options(name, call):
    status, out, err = call(name, "--help")
    assert status == 0 and err == ""
    for words in ("--config FILE", "--task STR", "--out STR", "--seed INT", "--device STR"):
        assert words in out


WRONG = [
    ("train_sft.py --data missing.jsonl", "missing.jsonl: No such file"),
    ("train_sft.py --data chat.jsonl --init good --seed -1", "--seed -1: must be at least 0"),
    ("train_sft.py --data broken.jsonl", "broken.jsonl, line 17: not JSON"),
    ("train_sft.py --data empty.jsonl", "empty.jsonl: no data"),
    ("train_sft.py --data latin.jsonl", "latin.jsonl: byte 15 is not UTF-8"),
    ("train_sft.py --data prompts.jsonl", "prompts.jsonl: prompts without responses"),
    ("train_sft.py --data long.jsonl --init good", "context"),
    ("train_sft.py --data corpus.txt --init good", "corpus.txt"),
    ("train_sft.py --task revews", "no task 'revews'"),
    ("train_sft.py --task reviews:0", "weight"),
    ("train_sft.py --batch-size 3", "no option --batch-size: it is --batch here"),
    ("train_sft.py --steps many", "--steps: invalid int value: 'many'"),
    ("train_sft.py --steps -1", "--steps -1"),
    ("train_sft.py --batch 0", "--batch 0"),
    ("train_sft.py --examples 0", "--examples 0"),
    ("train_sft.py --eval-every 0", "--eval-every 0"),
    ("train_sft.py --save-every 0", "--save-every 0"),
    ("train_sft.py --lr nan", "--lr nan"),
    ("train_sft.py --heads 3 --examples 5", "width 128 cannot be split among 3 heads"),
    ("train_sft.py --vocab 100 --examples 5", "vocab_size 100 cannot hold"),
    ("train_sft.py --context 1 --examples 5 --vocab 260", "--context"),
    ("train_sft.py --attention flash --examples 5 --vocab 260", "attention 'flash'"),
    ("train_sft.py --device tpu", "--device tpu"),
    ("train_sft.py --dtype float16", "--dtype float16"),
    ("train_sft.py --config missing.json", "--config missing.json: No such file"),
    ("train_sft.py --config broken.jsonl", "--config broken.jsonl: not JSON"),
    ("train_sft.py --init nowhere --data pairs.jsonl", "nowhere: no such checkpoint folder"),
    ("train_sft.py --init cut --data pairs.jsonl", "cut/model.safetensors"),
    ("train_sft.py --out corpus.txt --data pairs.jsonl --init good", "corpus.txt"),
    ("train_ppo.py --init nowhere", "nowhere: no such checkpoint folder"),
    ("train_ppo.py --init .", ".: no checkpoint itself, it holds"),
    ("train_ppo.py --init cut", "cut/model.safetensors"),
    ("train_ppo.py --init shape", "config.json and weights are of two models"),
    ("train_ppo.py --init other", "give --task, or --prompts and --reward"),
    ("train_ppo.py --init good --prompts prompts.jsonl", "--prompts without --reward"),
    ("train_ppo.py --init good --prompts prompts.jsonl --task reviews", "--task can do nothing beside --prompts"),
    ("train_ppo.py --init good --prompts prompts.jsonl --reward mine.py:length --eval-every 2", "without --eval-prompts"),
    ("train_ppo.py --init good --keep-best", "--keep-best can do nothing without --eval-every: give both, or leave it out"),
    ("train_ppo.py --init good --prompts missing.jsonl --reward mine.py:none", "missing.jsonl: No such file"),
    ("train_ppo.py --init good --prompts long.jsonl --reward mine.py:length", "context of 128"),
    ("train_ppo.py --init good --prompts nobody.jsonl --reward mine.py:length", "nobody.jsonl, line 1"),
    ("train_ppo.py --init good --prompts prompts.jsonl --reward mine.py:missing", "no function 'missing'"),
    ("train_ppo.py --init good --prompts prompts.jsonl --reward yours.py:f", "there is no file 'yours.py'"),
    ("train_ppo.py --init good --examples 20 --reward mine.py:nan --batch 64", "the reward is nan, no finite"),
    ("train_ppo.py --init good --examples 20 --reward mine.py:none --batch 64", "the reward is None, no finite"),
    ("train_ppo.py --init good --examples 20 --reward mine.py:fails --batch 64", "the reward raised KeyError"),
    ("train_ppo.py --init good --examples 20 --reward model:nowhere", "nowhere: no such checkpoint folder"),
    ("train_ppo.py --init good --examples 20 --reward model:good", "good: not a reward model of ours"),
    ("train_ppo.py --init good --prompts prompts.jsonl --reward mine.py:talks --environment yours.py:f", "no file 'yours.py'"),
    ("train_ppo.py --init good --prompts prompts.jsonl --reward mine.py:talks --environment mine.py:f", "no function 'f'"),
    ("train_ppo.py --init good --prompts prompts.jsonl --reward mine.py:talks --environment mine.py", "the FUNCTION is missing"),
    ("train_ppo.py --init good --turns 0", "--turns 0"),
    ("train_ppo.py --init good --algo dpo", "--algo dpo: not one of ppo, reinforce"),
    ("train_ppo.py --init good --iterations 0", "--iterations 0"),
    ("train_ppo.py --init good --examples 0", "--examples 0: must be at least 1"),
    ("train_ppo.py --init good --max-new -1", "--max-new -1"),
    ("train_ppo.py --init good --task revews", "no task 'revews'"),
    ("train_ppo.py --init good --examples 20 --resume", "there is nothing to resume"),
    ("evaluate.py --models good", "name=PATH"),
    ("evaluate.py --models a=good a=good", "each name once"),
    ("evaluate.py --models", "--models"),
    ("evaluate.py --models a=nowhere", "nowhere: no such checkpoint folder"),
    ("evaluate.py --models a=cut", "cut/model.safetensors"),
    ("evaluate.py --models a=shape", "config.json and weights are of two models"),
    ("evaluate.py --models a=good b=other --data pairs.jsonl", "tokenizer"),
    ("evaluate.py --models a=good --reference b --data pairs.jsonl", "--reference b"),
    ("evaluate.py --models a=other", "give --task, or --data"),
    ("evaluate.py --models a=good --data corpus.txt", "corpus.txt: no prompts"),
    ("evaluate.py --models a=good --data missing.jsonl", "missing.jsonl: No such file"),
    ("evaluate.py --models a=good --data long.jsonl", "context of 128"),
    ("evaluate.py --models a=good --data nobody.jsonl", "nobody.jsonl, line 1"),
    ("evaluate.py --models a=good --prompt " + "x" * 300, "context of 128"),
    ("evaluate.py --models a=good --task revews", "no task 'revews'"),
    ("evaluate.py --models a=good --samples 0", "--samples 0"),
    ("evaluate.py --models a=good --prompts 0", "--prompts 0"),
    ("evaluate.py --models a=good --data pairs.jsonl --max-new 0", "--max-new 0"),
    ("evaluate.py --models a=good --data pairs.jsonl --reward mine.py:nan", "the reward is nan, no finite"),
    ("evaluate.py --models a=good --data pairs.jsonl --metrics belu", "--metrics belu: there are all, reward,"),
    ("evaluate.py --models a=good --data pairs.jsonl --metrics f1", "--metrics f1 needs a label"),
    ("evaluate.py --from missing.jsonl", "missing.jsonl: No such file"),
    ("evaluate.py --from broken.jsonl", "broken.jsonl, line 17: not JSON"),
    ("evaluate.py --from empty.jsonl", "empty.jsonl: not the items of an evaluation of version 3"),
    ("evaluate.py --models a=good --promt x", "no option --promt; did you mean --prompt"),
]
if not torch.cuda.is_available():
    WRONG += [(f"{name} --device cuda", "--device cuda: torch sees 0 CUDA devices") for name in SCRIPTS]


@pytest.mark.parametrize("command, message", WRONG, ids=[command[:70] for command, _ in WRONG])
def test_wrong_use_ends_in_one_line_and_status_2(command, message, files, folders, call):
    name, *argv = command.split()
    status, _, err = call(name, *argv, "--threads", "1")
    lines = [line for line in err.splitlines() if line.startswith(f"{name}: ")]
    assert status == 2 and len(lines) == 1 and err.endswith(lines[0] + "\n")
    assert message in lines[0]
    assert not [line for line in err.splitlines() if line.strip() and line not in lines and "/s" not in line]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_wrong_use_leaves_the_shell_one_line_and_status_2(name, tmp_path):
    process = start(name, "--sed", "3", cwd=tmp_path)
    out, err = process.communicate()
    assert process.returncode == 2 and out == ""
    assert err == f"{name}: no option --sed; did you mean --seed?\n"
