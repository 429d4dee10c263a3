"""A run's folder: refused runs, older runs, two runs at once, kills, resumes, and files of ours with wrong content."""

import copy
import fcntl
import importlib.util
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import torch

from minirlhf.annotation import log, rows
from minirlhf.evaluation import items, panels, reports
from minirlhf.evaluation.collect import training_records
from minirlhf.evaluation.report import build
from minirlhf.harness import folders
from minirlhf.harness.device import choose_dtype
from minirlhf.harness.files import TEMPORARY, Interrupted, UserError, read_json, write_atomic
from minirlhf.harness.folders import load_state, save_state
from minirlhf.harness.loop import Loop, Run
from minirlhf.harness.machine import Machine
from minirlhf.harness.options import options_of_run
from minirlhf.html.page import page
from minirlhf.lm import checkpoint
from minirlhf.lm.batches import Mixture
from minirlhf.lm.chat import render
from minirlhf.lm.config import FitConfig
from minirlhf.lm.model import GPT, GPTConfig
from minirlhf.lm.sft import fit
from minirlhf.lm.tokenizer import SPECIALS, Tokenizer
from minirlhf.rl.config import PPOConfig
from minirlhf.rl.ppo import models_of, train
from minirlhf.rl.watch import Optimum
from minirlhf.tools import train_dpo, train_reward

ROOT = Path(__file__).resolve().parents[2]
TUNE = "--data pairs.jsonl --batch 2 --steps 4 --save-every 2 --warmup 1 --threads 1".split()
SFT = [*TUNE, *"--layers 1 --heads 2 --width 16 --context 32 --vocab 262 --base-steps 3".split()]
TUNE += ["--init", "start"]
PPO = "--prompts pairs.jsonl --reward mine.py:length --iterations 3 --batch 4 --minibatches 1 --max-new 4".split()
PPO += "--save-every 2 --threads 1 --init start".split()
LEARN = "--data prefs.jsonl --init start --epochs 1 --batch 2 --held-out 20 --threads 1".split()
REWARDS = """
def length(prompt, response, record): return len(response) / 10
def none(prompt, response, record): return None
def nan(prompt, response, record): return float("nan")
def fails(prompt, response, record): raise KeyError("label")
"""


@pytest.fixture
def call(run_main, monkeypatch, tmp_path):
    """A function that runs a script or a tool's main here, among files: (status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    pairs = [{"prompt": f"say {c}", "response": 2 * c} for c in "abcdefgh"]
    Path("pairs.jsonl").write_text("".join(json.dumps(x) + "\n" for x in pairs))
    prefs = [{"prompt": f"say {i}", "chosen": "yes" + "s" * (i % 3), "rejected": "no"} for i in range(12)]
    Path("prefs.jsonl").write_text("".join(json.dumps(x) + "\n" for x in prefs))
    Path("mine.py").write_text(REWARDS)
    checkpoint.save("start", gpt(), Tokenizer(), {"stage": "sft"})
    checkpoint.save("other", gpt(1), Tokenizer(), {"stage": "sft"})

    def call(name, *argv):
        if not isinstance(name, str):
            return run_main(name.main, name.__name__, *argv)
        spec = importlib.util.spec_from_file_location(name, ROOT / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return run_main(module.main, name, *argv)

    return call


def gpt(seed=0, dropout=0.0) -> GPT:
    """A small GPT over bytes, which likes to end."""
    torch.manual_seed(seed)
    model = GPT(GPTConfig(Tokenizer().vocab_size, context=32, layers=1, heads=2, width=16, dropout=dropout))
    with torch.no_grad():
        model.ln_f.bias.add_(20 * model.wte.weight[Tokenizer().eos_id] / 0.02)
    return model


def content(folder) -> dict:
    """File -> bytes, of all below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def stop_in(monkeypatch, folder, step) -> None:
    """From now on a SIGTERM arrives in that step of the run in the folder of that name."""
    original = Loop.record

    def record(self, *given):
        original(self, *given)
        if (self.run.out.name, self.step + 1) == (folder, step):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Loop, "record", record)


# Refused runs


REFUSED = [
    ("train_sft", [*TUNE, "--init", "nowhere"]), ("train_sft", [*SFT, "--data", "gone.jsonl"]),
    ("train_sft", [*SFT, "--heads", "3"]), ("train_sft", [*SFT, "--dtype", "int8"]),
    *(("train_ppo", [*PPO, "--reward", f"mine.py:{bad}", "--algo", algo, "--out", "out/ppo"])
      for bad in ("none", "nan", "fails") for algo in ("ppo", "rloo")),
    ("train_ppo", [*PPO, "--init", "nowhere"]), ("train_ppo", [*PPO, "--beta", "0", "--kl-target", "1"]),
    ("train_ppo", [*PPO, "--batch", "1", "--algo", "grpo", "--out", "out/ppo"]),
    (train_dpo, [*LEARN, "--data", "gone.jsonl"]), (train_reward, [*LEARN, "--init", "nowhere"]),
]  # fmt: skip


@pytest.fixture
def standing(call):
    """An older run in each folder, finished or stopped; and whatever else a user keeps there."""
    for name in ("base", "sft", "ppo", "dpo", "rm"):
        shutil.copytree("start", Path("out", name))
        for file, text in (("log.jsonl", '{"step": 1}\n'), ("train_state.pt", "state"), ("notes.txt", "mine")):
            Path("out", name, file).write_text(text)
    return Path("out")


@pytest.mark.parametrize("name, argv", REFUSED)
@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_fault_14_a_refused_run_changes_no_byte_of_an_earlier_one(name, argv, overwrite, call, standing):
    before = content(standing)
    status, _, err = call(name, *argv, *overwrite)
    assert status == 2 and "Traceback" not in err and content(standing) == before


# A run that stands in the folder


@pytest.mark.parametrize("name, argv, folder", [
    ("train_sft", TUNE, "sft"), ("train_ppo", PPO, "ppo"),
    ("train_ppo", [*PPO, "--algo", "rloo", "--batch", "8"], "rloo"), (train_dpo, LEARN, "dpo"),
    (train_reward, LEARN, "rm"),
])  # fmt: skip
def test_fault_15_an_earlier_run_is_moved_aside_and_nothing_of_it_is_lost(name, argv, folder, call, tmp_path):
    """Called three times; --overwrite then replaces the last, and --out that is --init, or holds it, is refused."""
    out, seen = tmp_path / "out" / folder, []
    for n in range(3):
        status, said, err = call(name, *argv)
        assert status == 0, err
        assert (f"out/{folder} -> out/{folder}.{n}" in said) == (n > 0) and said.count("moved aside") == (n > 0)
        seen.append(content(out))
        assert [content(f"{out}.{k}") for k in range(1, n + 1)] == seen[:n]
    assert call(name, *argv, "--overwrite")[0] == 0
    assert sorted(p.name for p in out.parent.iterdir()) == sorted([folder, f"{folder}.1", f"{folder}.2"])
    before = content(tmp_path)
    for given in (["--init", "other", "--out", "other"], ["--init", "start", "--out", "start"]):
        shutil.copytree("start", "start/sft", dirs_exist_ok=True) if name == "train_sft" else None
        given[1] += "/sft" * (name == "train_sft" and given[1] == "start")
        if name == "train_sft" and given[1] == "other":
            continue  # out/sft is another folder than out
        status, _, err = call(name, *argv, *given)
        assert status == 2 and "--init" in err and "which a new run would replace" in err
    assert {k: v for k, v in content(tmp_path).items() if not k.startswith("start/sft")} == before


def test_fault_15_pretraining_moves_what_was_made_from_its_model_along(call, tmp_path):
    """No new base stands beside an older SFT, at no step; the README's commands work again and again."""
    Path("out/sft.1").mkdir(parents=True)  # the number is free for both
    for n in (0, 2, 3):
        status, said, err = call("train_sft", *SFT)
        assert status == 0, err
        assert ("out/base -> out/base.%d, out/sft -> out/sft.%d" % (n, n) in said) == (n > 0)
    assert {p.name for p in Path("out").iterdir()} == {"base", "base.2", "base.3", "sft", "sft.1", "sft.2", "sft.3"}


@pytest.mark.parametrize("inner", ["out", "out/deep/er"])
def test_fault_15_a_folder_that_holds_the_start_or_the_user_stays_where_it_is(inner, tmp_path, monkeypatch):
    (tmp_path / inner).mkdir(parents=True)
    (tmp_path / "out" / "run.json").write_text("{}")
    with pytest.raises(UserError, match="holds --init .*, which a new run would replace"):
        Run(tmp_path / "out", start=str(tmp_path / inner))
    monkeypatch.chdir(tmp_path / inner)
    with pytest.raises(UserError, match="holds the working directory"):
        Run(tmp_path / "out")
    (tmp_path / "out" / "run.json").unlink()
    assert Run(tmp_path / "out", start=str(tmp_path / inner))  # nothing stands there


# Two runs at once


@pytest.mark.parametrize("given", [[], ["--resume"], ["--overwrite"]])
@pytest.mark.parametrize("name, argv, folder", [
    ("train_sft", SFT, "base"), ("train_sft", SFT, "sft"), ("train_ppo", PPO, "ppo"), (train_dpo, LEARN, "dpo"),
    (train_reward, LEARN, "rm"),
])  # fmt: skip
def test_fault_16_a_second_run_into_a_folder_is_refused(name, argv, folder, given, call, tmp_path):
    """And changes nothing, whichever of its folders is taken; when the first is gone it may."""
    assert call(name, *argv)[0] == 0
    with (tmp_path / "out" / folder / "log.jsonl").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = content("out")
        status, _, err = call(name, *argv, *given)
        assert status == 2 and f"out/{folder}: another run is writing into it" in err and content("out") == before
    assert call(name, *argv, *given)[0] == 0


def test_fault_16_the_lock_is_held_from_the_first_to_the_last_step_and_not_longer(tmp_path):
    with Loop(Run(tmp_path / "out"), 3, 1, {}) as loop:
        for _ in loop:
            loop.record({}, 1)
            with pytest.raises(UserError, match="another run"):
                Run(tmp_path / "out", resume=True)
    assert Run(tmp_path / "out", resume=True)


def test_fault_16_of_two_runs_that_begin_at_once_one_is_refused(tmp_path):
    """Both find an empty place; who is the first to have done a step has it."""
    first, second = (Loop(Run(tmp_path / "out"), 2, 1, {}) for _ in range(2))
    with first, second:
        next(iter(first)), next(iter(second))
        first.record({}, 1)
        with pytest.raises(UserError, match="another run"):
            second.record({}, 1)
    assert [json.loads(x)["step"] for x in (tmp_path / "out" / "log.jsonl").read_text().splitlines()] == [1]


# Kills


def killed_at(moment: int, function, seed: int) -> bool:
    """Run the function in a process that dies at the n-th touch of the disk, before or behind it; False: it ended."""
    child = os.fork()
    if child == 0:
        calls = []

        def dying(original):
            def touch(*given, **named):
                calls.append(1)
                now = len(calls) == moment
                if now and seed % 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                try:
                    return original(*given, **named)
                finally:
                    if now:
                        os.kill(os.getpid(), signal.SIGKILL)
            return touch

        for name in ("rename", "replace", "unlink", "fsync"):
            setattr(os, name, dying(getattr(os, name)))
        for name in ("rename", "unlink", "mkdir"):
            setattr(Path, name, dying(getattr(Path, name)))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1), os.dup2(1, 2)
        try:
            function()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def small_run(out: Path, width: int, **told) -> None:
    """A run of three steps whose model, tokenizer, value head and run.json all tell the run by `width`."""
    torch.manual_seed(width)
    tokenizer = Tokenizer(specials=(*SPECIALS, f"<|{width}|>"))
    model, head = GPT(GPTConfig(tokenizer.vocab_size, 8, 1, 1, width)), torch.nn.Linear(width, 1)

    def save(run, parts):
        checkpoint.save(out, model, tokenizer, run, value_head=head)

    told = Run(out, data=str(width), about={"stage": str(width)}, save=save, load=lambda parts: None, **told)
    with Loop(told, 3, 2, {}, model=model) as loop:
        for step in loop:
            loop.record({}, 1)


def width_of(folder: Path) -> int:
    """The run whose checkpoint stands in a folder: its files are all of one run. Raises UserError."""
    model, tokenizer = checkpoint.load(folder)
    n = model.config.width
    assert f"<|{n}|>" in tokenizer.special_ids and checkpoint.read_run(folder)["stage"] == str(n)
    checkpoint.load_value_head(folder, torch.nn.Linear(n, 1))
    return n


def killed_at_each(moments: Iterator[int], overwrite: bool, side: int, tmp_path: Path) -> set:
    """What a folder holds that was killed then; it can be begun again, or resumed if it had a state."""
    outcomes = set()
    small_run(tmp_path / "old", 2)
    for moment in moments:
        out = tmp_path / str(moment) / "run"
        shutil.copytree(tmp_path / "old", out)
        if not killed_at(moment, lambda: small_run(out, 4, overwrite=overwrite), side):
            break
        try:
            outcomes.add(width_of(out))
        except UserError as error:
            words = "no config.json, not whole", "no such checkpoint folder", "config.json: No such file"
            assert any(said in str(error) for said in words)
            outcomes.add("refused")
        if not overwrite:
            assert 2 in [width_of(path) for path in (out, Path(f"{out}.1")) if (path / "config.json").exists()]
        small_run(out, 4, resume=(out / "train_state.pt").exists() and load_state(out / "train_state.pt")["settings"][
            "data"] == "4", overwrite=overwrite)  # fmt: skip
        assert width_of(out) == 4 and not list(out.glob(f".*{TEMPORARY}")) and not (out / "train_state.pt").exists()
    assert moment > 12
    return outcomes


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("side", [0, 1])
def test_fault_17_killed_at_a_touch_of_the_disk_a_folder_is_old_new_or_no_checkpoint(overwrite, side, tmp_path):
    """Moved aside, the old one is always there."""
    assert len(killed_at_each(count(1, 3), overwrite, side, tmp_path)) > 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("side", [0, 1])
def test_fault_17_so_is_it_at_any_touch(overwrite, side, tmp_path, at_length):
    assert killed_at_each(count(1), overwrite, side, tmp_path) == {4, "refused", *[2] * side}


def test_fault_17_a_checkpoint_of_each_kind_is_unmarked_before_it_is_written(tmp_path):
    """Language model or reward model, over one of the other kind and of another shape; each error leaves no mark."""
    for before, after in [(2, 4), (4, 2), (2, 2)]:
        for n in range(5):
            out = tmp_path / f"{before}{after}{n}"
            small_run(out, before)
            replace, left = os.replace, [n]

            def full(source, target):
                left[0] -= 1
                if left[0] < 0:
                    raise OSError("disk full")
                replace(source, target)

            with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError):
                patch.setattr(os, "replace", full)
                model, tokenizer = checkpoint.load(out)
                checkpoint.save(out, model, tokenizer, {}, {"score.weight": torch.zeros(1, before)})
            with pytest.raises(UserError, match="not whole"):
                checkpoint.load(out)


# Resumes


def test_fault_18_what_a_run_starts_from_is_weights_and_tokenizer(call, tmp_path, monkeypatch):
    """Of the same shape, each of the two alone makes it another start, for each training that has an --init."""
    checkpoint.save("again", gpt(), Tokenizer(), {"stage": "sft"})
    auto = choose_dtype("auto", torch.device("cpu"))
    dtype = "bfloat16" if auto == torch.float32 else "float32"
    checkpoint.save("twin", gpt(), Tokenizer(specials=("<|user|>", *[s for s in SPECIALS if s != "<|user|>"])), {})
    for name, argv, folder in (
        ("train_sft", TUNE, "sft"), ("train_ppo", PPO, "ppo"), (train_dpo, LEARN, "dpo"),
        (train_reward, LEARN, "rm"),
    ):  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            stop_in(patch, folder, 1)
            assert call(name, *argv)[0] == 130
        before = content("out")
        for given, message in (
            (["--init", "other"], "init = "), (["--init", "twin"], "init = "), (["--dtype", dtype], "dtype = "),
            (["--seed", "3"], " = "),
        ):
            status, _, err = call(name, *argv, "--resume", *given)
            assert status == 2 and "saved with " in err and message in err, (name, given, err)
        assert content("out") == before
        assert call(name, *argv, "--resume", "--init", "again")[0] == 0  # another name of the same


def test_fault_18_a_resume_without_a_state_is_refused_everywhere(call, tmp_path, monkeypatch):
    for name, argv in (("train_sft", SFT), ("train_sft", TUNE), ("train_ppo", PPO),
                       (train_dpo, LEARN), (train_reward, LEARN)):  # fmt: skip
        status, _, err = call(name, *argv, "--resume")
        assert status == 2 and "there is nothing to resume" in err and not Path("out").exists()
    stop_in(monkeypatch, "base", 3)  # but not where a run was stopped in pretraining, at its last step even
    assert call("train_sft", *SFT)[0] == 130 and not Path("out/sft").exists()
    assert call("train_sft", "--resume")[0] == 0 and checkpoint.load("out/sft")


@pytest.mark.parametrize("given", [[], ["--overwrite"]])
def test_fault_18_an_older_sft_is_not_taken_for_that_of_a_run_stopped_in_pretraining(given, call, monkeypatch):
    assert call("train_sft", *SFT, "--out", "whole")[0] == 0
    assert call("train_sft", *SFT, "--lr", "0.01")[0] == 0
    with pytest.MonkeyPatch.context() as patch:
        stop_in(patch, "base", 1)
        assert call("train_sft", *SFT, *given)[0] == 130
    assert call("train_sft", "--resume")[0] == 0
    assert content("out/sft")["model.safetensors"] == content("whole/sft")["model.safetensors"]


def test_fault_18_killed_in_sft_before_its_first_state_the_finished_base_is_gone_on_from(call, monkeypatch):
    argv = [*SFT, "--dropout", "0.3"]  # whose random numbers depend on nothing but the seed
    assert call("train_sft", *argv)[0] == 0
    whole, original = content("out/sft")["model.safetensors"], Loop.record

    def die(self, *given):
        original(self, *given)
        if self.run.out.name == "sft":
            raise ZeroDivisionError

    with pytest.MonkeyPatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(Loop, "record", die)
        call("train_sft", *argv)
    assert call("train_sft", "--resume")[0] == 0 and content("out/sft")["model.safetensors"] == whole


@pytest.mark.parametrize("name, argv, folder", [
    ("train_sft", [*SFT, "--lr", "0.01"], "sft"), ("train_ppo", [*PPO, "--lr", "0.01", "--algo", "a2c"], "a2c"),
    (train_dpo, [*LEARN, "--lr", "0.01"], "dpo"), (train_reward, [*LEARN, "--lr", "0.01"], "rm"),
])  # fmt: skip
def test_users_10_a_stopped_run_is_a_checkpoint_and_is_resumed_by_its_folder_alone(name, argv, folder, call):
    """To the same bits as if it had not been stopped."""
    assert call(name, *argv, "--out", "whole")[0] == 0
    with pytest.MonkeyPatch.context() as patch:
        stop_in(patch, "here" if name != "train_sft" else "sft", 1)
        assert call(name, *argv, "--out", "here")[0] == 130
    at = Path("here", "sft" if name == "train_sft" else "")
    model, _, _ = checkpoint.load_with(at, "score.weight")
    assert checkpoint.read_run(at)["cost"]["steps"] == 1 and all(p.isfinite().all() for p in model.parameters())
    assert call(name, "--resume", "--out", "here")[0] == 0
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (at / file).read_bytes() == Path("whole", at.relative_to("here"), file).read_bytes()


def test_users_10_a_run_of_another_command_is_not_resumed(call):
    assert call("train_sft", *SFT)[0] == 0 and call("train_ppo", *PPO, "--out", "p")[0] == 0
    for name, folder in (("train_ppo", "out/sft"), (train_dpo, "p"), ("train_sft", "p")):
        before = content(folder)
        status, _, err = call(name, "--resume", "--out", folder)
        assert status == 2 and "the run of another command" in err and content(folder) == before


@pytest.mark.parametrize("name, argv, folder, longer", [
    ("train_sft", SFT, "sft", ["--steps", "6"]), ("train_ppo", PPO, "ppo", ["--iterations", "5"]),
    (train_dpo, LEARN, "dpo", ["--epochs", "2"]), (train_reward, LEARN, "rm", ["--epochs", "2"]),
])  # fmt: skip
def test_users_10_a_finished_run_is_extended(name, argv, folder, longer, call):
    assert call(name, *argv)[0] == 0
    out = Path("out", folder)
    before, steps = content(out), checkpoint.read_run(out)["cost"]["steps"]
    assert call(name, "--resume")[0] == 0 and content(out) == before  # nothing left to do
    status, said, _ = call(name, "--resume", *longer)
    run = checkpoint.read_run(out)
    assert status == 0 and f"out/{folder}: finished after {steps} steps; goes on to" in said and "fresh opt" in said
    assert content(out)["model.safetensors"] != before["model.safetensors"] and run["cost"]["steps"] > steps
    assert [json.loads(x)["step"] for x in (out / "log.jsonl").read_text().splitlines()] == [
        *range(1, run["cost"]["steps"] + 1)]  # fmt: skip
    status, _, err = call(name, "--resume", longer[0], "1" if name in ("train_sft", "train_ppo") else "0.2")
    assert status == 2 and "saved with steps in all" in err


def test_users_10_an_extended_ppo_keeps_reference_beta_and_optimum(call):
    assert call("train_ppo", *PPO, "--kl-target", "0.01", "--kl-horizon", "20")[0] == 0
    lines = [json.loads(x) for x in Path("out/ppo/log.jsonl").read_text().splitlines()]
    kept = checkpoint.read_run("out/ppo")["resume"]["kept"]
    assert call("train_ppo", "--resume", "--iterations", "4")[0] == 0
    more = [json.loads(x) for x in Path("out/ppo/log.jsonl").read_text().splitlines()]
    assert more[:3] == lines and more[3]["beta"] == kept["beta"] != 0.025 and more[3]["kl"] > 0
    assert checkpoint.read_run("out/ppo")["reference"] == checkpoint.fingerprint(checkpoint.load("start")[0])
    optimum = Optimum(0.1)
    optimum.load_state_dict({"all": {"reward": 0.5, "n": 4, "first": 1.5, "second": 2.0}})
    assert not folders.tensors_of({"x": optimum.state_dict()}) and folders.tensors_of({"x": {"y": torch.zeros(1)}})


# Files of ours with wrong content


VALUES = [None, True, -1, 0, 3, 10**13, 10**400, 1e300, float("nan"), "", "x", "\ud800"]
VALUES += [[], [1], ["a"], {}, {"a": 1}, [[]]]


def places(x, path=()):
    """The paths to all entries of nested dicts and lists, the first three of each list."""
    for key in x if isinstance(x, dict) else range(min(len(x), 3)) if isinstance(x, list) else ():
        yield (*path, key)
        yield from places(x[key], (*path, key))


def mutated(document, rng: random.Random):
    """A copy in which one or two entries are gone, or something else."""
    document = copy.deepcopy(document)
    for _ in range(rng.choice([1, 1, 1, 2])):
        *path, last = rng.choice(list(places(document)))
        at = document
        for key in path:
            at = at[key]
        if rng.random() < 0.25:
            del at[last]
        else:
            at[last] = rng.choice(VALUES)
    return document


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes of which some are others, are gone, or are nested deeply."""
    at = rng.randrange(len(data))
    return rng.choice([
        data[:at], data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :], data[:at] + b"\xff" + data[at:],
        data[:at] + b"[" * 100_000 + data[at:], data[:at] + b"9" * 5000 + data[at:], b"", b"[]", b"null",
    ])  # fmt: skip


def survives(read, path: Path, good, seeds, write=lambda x: json.dumps(x).encode()) -> None:
    """Whatever stands in the file: read, or refused in a line that names it; each within seconds."""
    read()
    refused, begun = 0, time.perf_counter()
    for seed in range(seeds):
        rng = random.Random(seed)
        data = damaged(write(good), rng) if seed % 4 == 3 else write(mutated(good, rng))
        path.write_bytes(data)
        try:
            read()
        except UserError as error:
            refused += 1
            assert str(path.parent) in str(error) and "\n" not in str(error)
    assert refused > seeds / 5 and time.perf_counter() - begun < 60


def lines(objects) -> bytes:
    return "".join(json.dumps(x) + "\n" for x in objects).encode()


def tiny(out, total=3, **told):
    """A PPO run with a critic, and all that a state can hold."""
    config = PPOConfig(iterations=total, batch=2, minibatches=1, max_new=3, save_every=1, lr=1e-2)
    models, optimum = models_of(gpt(), Tokenizer(), config.algorithm), Optimum(0.1)
    told = Run(out, save=lambda run, parts: checkpoint.save(
        out, models.policy, Tokenizer(), run, value_head=models.value_head),
        load=lambda parts: checkpoint.restore(out, models.policy, models.value_head), **told)  # fmt: skip
    return train(models, lambda step: [{"prompt": "ab"}] * 2, lambda record: lambda *case: 0.5, config, told, [optimum])


def test_fault_19_a_state_with_wrong_content_is_refused(tmp_path, monkeypatch):
    """Of the right sort, with each entry changed: it is refused before it is used, or gone on with to the end."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        stop_in(patch, "run", 1)
        tiny(tmp_path / "run", about={"stage": "ppo"})
    path, good = tmp_path / "run" / "train_state.pt", load_state(tmp_path / "run" / "train_state.pt")
    rng, refused, before = random.Random(0), 0, content(tmp_path / "run")
    tensors = [torch.zeros(0), torch.zeros(2, 3), torch.zeros(5056, dtype=torch.uint8), torch.arange(3)]
    monkeypatch.setattr(f"{__name__}.VALUES", [*VALUES, *tensors])
    for _ in range(40):
        shutil.rmtree(tmp_path / "run")
        for name, data in before.items():
            write_atomic(tmp_path / "run" / name, data)
        save_state(path, mutated(good, rng))
        try:
            tiny(tmp_path / "run", resume=True)
        except UserError as error:
            refused += 1
            assert "train_state.pt" in str(error)
    assert 10 < refused < 40


def test_fault_19_a_run_json_with_wrong_content_is_refused_wherever_it_is_read(tmp_path):
    """Also where it says that 10^13 examples were made: an evaluation would make them again."""
    tiny(tmp_path / "run", 1, about={"stage": "ppo"})
    path = tmp_path / "run" / "run.json"
    good = json.loads(path.read_text()) | {
        "tasks": {"arithmetic": 1.0}, "seed": 0, "data": {"examples": 5, "init": "x", "prompts": [], "reward": ""},
        "training": {"beta": 0.1, "temperature": 1.0, "missing_eos": 0.0, "lr": 0.1}, "reference": "a", "max_new": 3,
        "optimum": {"arithmetic": {"effective_size": 2.0, "value": None}}, "options": {"lr": 0.1, "seed": 1},
    }  # fmt: skip

    def read():
        run = checkpoint.read_run(tmp_path / "run")
        training_records({"a": run | {"data": run.get("data", {}) | {
            "examples": min(run.get("data", {}).get("examples", 0), 5)}}})  # fmt: skip
        spec = PPOConfig.__dataclass_fields__ | {"seed": Machine.__dataclass_fields__["seed"]}
        options_of_run(tmp_path / "run", spec)
        if "resume" in run:
            tiny(tmp_path / "run", 1, resume=True)

    path.write_text(json.dumps(good))
    survives(read, path, good, 150)
    path.write_text(json.dumps(good | {"data": {"examples": 10**13}}))
    with pytest.raises(UserError, match="run.json: damaged, data.examples"):
        checkpoint.read_run(tmp_path / "run")


def test_fault_19_a_log_with_wrong_content_is_refused_by_a_resume_and_drawn_by_nobody(tmp_path):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        stop_in(patch, "run", 2)
        tiny(tmp_path / "run", about={"stage": "ppo"})
    path, state = tmp_path / "run" / "log.jsonl", (tmp_path / "run" / "train_state.pt").read_bytes()

    def read():
        panels.read_curves(tmp_path / "run")
        (tmp_path / "run" / "train_state.pt").write_bytes(state)
        tiny(tmp_path / "run", resume=True)

    good = [json.loads(x) for x in path.read_text().splitlines()]
    survives(read, path, good, 40, lines)


def test_fault_19_items_and_reports_with_wrong_content_are_refused(tmp_path, make_evaluation):
    run, sets = make_evaluation([{"prompt": p, "response": p} for p in "abc"], lambda m, i, k: f"{m}{i}{k}", beta=0.1)
    sets[0].about |= {
        "temperatures": dict.fromkeys(run["models"], 1.0), "trained_on": [], "ngram": None,
        "attention": {"model": "ppo", "index": 0, "pieces": ["a", "b"], "maps": [
            {"layer": 0, "head": None, "weights": [[1.0, 0.0], [0.5, 0.5]]}]},
    }  # fmt: skip
    for table in (sets[0].texts,):
        for rows_of_model in table.values():
            for x in rows_of_model:
                x["tempered"] = x["confidence"]
    run["models"]["ppo"]["curves"] = [{"name": "loss", "x": "step", "points": [[1, 2.0], [2, 1.0]]}]
    run["models"]["ppo"]["cost"] = {"steps": 2, "tokens": 3, "seconds": 1.0}
    path = tmp_path / "items.jsonl"
    items.write_items(path, run, sets)
    good = [json.loads(x) for x in path.read_text().splitlines()]
    (tmp_path / "report.json").write_text(json.dumps({"version": items.VERSION}))

    def read():
        made = build(*items.read_items(path), ())
        page(made | {"seconds": 1.0})
        reports.read_report(str(tmp_path / "report.json"))

    survives(read, path, good, 120, lines)
    items.write_items(path, run, sets)
    survives(lambda: reports.read_report(str(tmp_path / "report.json")), tmp_path / "report.json",
             {"version": items.VERSION, "models": {}}, 40)  # fmt: skip


def test_fault_19_judgements_and_keys_with_wrong_content_are_refused(tmp_path):
    shown = {"left": "l", "right": "r", "messages": [{"role": "user", "content": "p"}]}
    places_ = [{"prompt": f"p{i}"} | shown for i in range(4)]
    key = {"models": ["sft", "ppo"], "identical": {}, "source": "x", "places": [
        {"item": f"i{i}", "kind": "pair", "left": "a", "good": None} for i in range(4)]}  # fmt: skip
    log.create(tmp_path, {"question": "?", "places": places_}, key)
    with log.Session(tmp_path, "ann") as session:
        for i in range(4):
            session.act("left", i, 1.5)
    log.close(tmp_path)
    for name in ("key.json", "study.json", "ann.log"):
        path = tmp_path / name
        data = path.read_bytes()
        good = [json.loads(x) for x in data.splitlines()] if name == "ann.log" else json.loads(data)
        write = lines if name == "ann.log" else lambda x: json.dumps(x, indent=1).encode()
        survives(lambda: rows.read_studies([str(tmp_path)]), path, good, 120, write)
        path.write_bytes(data)


# What stays


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_fault_20_temporary_files_of_killed_writers_are_removed_and_those_of_living_ones_stay(tmp_path):
    names = ["model.safetensors", "train_state.pt", "run.json", "x y.json"]
    for name in names:
        assert killed_at(2, lambda: write_atomic(tmp_path / name, b"half"), 1)  # at fsync
    left = list(tmp_path.glob(f".*{TEMPORARY}"))
    assert len(left) >= 1 and all(path.name.startswith(".") for path in left)
    users = tmp_path / ".notes.tmp"
    users.write_text("mine")
    living = tmp_path / f".other.1{TEMPORARY}"
    with living.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_atomic(tmp_path / "a.json", b"new")
        assert {p.name for p in tmp_path.iterdir()} == {"a.json", users.name, living.name}
    write_atomic(tmp_path / "a.json", b"newer")
    assert {p.name for p in tmp_path.iterdir()} == {"a.json", users.name}


@pytest.mark.parametrize("name, argv, folder", [
    ("train_sft", SFT, "sft"), ("train_sft", SFT, "base"), ("train_ppo", PPO, "ppo"),
    (train_dpo, LEARN, "dpo"), (train_reward, LEARN, "rm"),
])  # fmt: skip
def test_fault_20_a_finished_run_leaves_no_state_and_a_stopped_one_does(name, argv, folder, call, monkeypatch):
    assert call(name, *argv)[0] == 0
    files = content(Path("out", folder))
    assert "train_state.pt" not in files and not [x for x in files if x.endswith(TEMPORARY)]
    assert read_json(Path("out", folder, "run.json"))["resume"]["step"] == len(files["log.jsonl"].splitlines())
    stop_in(monkeypatch, folder, 1)
    assert call(name, *argv)[0] == 130 and Path("out", folder, "train_state.pt").exists()


def test_fault_20_a_run_without_steps_and_one_that_nobody_saves_end_well(tmp_path):
    """Of the latter the state is all there is: it stays."""
    for total in (0, 2):
        with Loop(Run(tmp_path / str(total)), total, 1, {}) as loop:
            for _ in loop:
                loop.record({}, 1)
        assert (tmp_path / str(total) / "train_state.pt").exists() == (total > 0)
    model = gpt()
    batch = Mixture({"a": ([render({"prompt": "a", "response": "b"}, Tokenizer())], 2)}, 0).step
    told = Run(tmp_path / "none", save=lambda run, parts: checkpoint.save(tmp_path / "none", model, Tokenizer(), run))
    assert fit(model, batch, [], FitConfig(steps=0), told)["steps"] == 0 and checkpoint.load(tmp_path / "none")
