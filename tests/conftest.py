"""What tests of several modules share: a byte tokenizer and a tiny model of its vocabulary; --mutants and --fuzz."""

import dataclasses
import gc
import os
import sys
from itertools import product
from math import nan
from pathlib import Path

import numpy as np
import pytest
import torch
from bad_inputs import care, world

from minirlhf.evaluation.items import TestSet
from minirlhf.harness import device
from minirlhf.harness.options import run_script
from minirlhf.lm.generation import Generation, pad_left
from minirlhf.lm.model import GPT, GPTConfig
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.rl.rollout import Rollout

SYNC = os.fsync
ALONE = {"--mutants": "mutant", "--fuzz": "at_length"}  # option -> the argument of the tests that it runs


def pytest_addoption(parser):
    parser.addoption("--mutants", action="store_true", help="run tests/mutants.py and nothing else")
    parser.addoption("--fuzz", action="store_true", help="damage inputs at random for minutes, and nothing else")


def pytest_collection_modifyitems(config, items):
    """With --mutants nothing but the mutants, with --fuzz the long fuzz, without them everything but these."""
    wanted = {argument for option, argument in ALONE.items() if config.getoption(option)}
    kept, left = [], []
    for item in items:
        (kept if {*ALONE.values()} & {*item.fixturenames} == wanted else left).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left)


def pytest_collection_finish():
    """What is imported by now lives to the end: the collector of garbage need not look at it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def at_length():
    """Marks a test that takes long: --fuzz runs it."""


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Products this small are many times slower on several threads, above all on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def float64():
    """Weights are made of masks and counts, and so have the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session", autouse=True)
def plain_memory():
    """A script in this process would change how memory is measured in the tests behind it."""
    device.keep_memory = lambda: None


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_disks():
    """It took half of the time of some modules. A kill of a process, unlike one of the machine, loses nothing by it."""
    os.fsync = lambda file: None


@pytest.fixture
def real_sync(monkeypatch):
    """For a test that counts on the time it takes."""
    monkeypatch.setattr(os, "fsync", SYNC)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """One token a byte, and the special tokens: 260 ids."""
    return Tokenizer()


@pytest.fixture
def model(tokenizer) -> GPT:
    """A fresh GPT of two layers, the same weights every time."""
    torch.manual_seed(0)
    return GPT(GPTConfig(tokenizer.vocab_size, context=32, layers=2, heads=2, width=16))


@pytest.fixture
def make_gpt():
    """A function that builds a small GPT in eval mode; equal arguments give equal parameters.

    They are large and random, biases and LayerNorms included, so that every one of them, every
    position and every token has an influence that a test can see.
    """
    def make(seed: int = 0, **shape) -> GPT:
        torch.manual_seed(seed)
        tiny = {"vocab_size": 50, "context": 32, "layers": 2, "heads": 2, "width": 16}
        model = GPT(GPTConfig(**{**tiny, **shape}))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                centre = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
                parameter.copy_(centre + 0.3 * torch.randn(parameter.shape))
        return model.eval()

    return make


@pytest.fixture
def make_policy(make_gpt, tokenizer):
    """A function that builds a GPT over bytes whose responses are ragged: it likes to end soon."""
    def make(seed: int = 0, **shape) -> GPT:
        policy = make_gpt(seed, vocab_size=tokenizer.vocab_size, **shape)
        with torch.no_grad():
            policy.ln_f.bias.add_(0.8 * policy.wte.weight[tokenizer.eos_id])
        return policy

    return make


@pytest.fixture
def every_response():
    """A function that lists all responses of at most R tokens below V to a prompt, 0 being EOS.

    With EOS they may be shorter; without, all V^R strings count as running on.
    """
    def enumerate_all(prompt: list[int], V: int, R: int, eos: bool = True) -> Generation:
        rows = list(product(range(V), repeat=R))
        if eos:
            rows = sorted({row[: row.index(0) + 1] if 0 in row else row for row in rows})
        lengths = torch.tensor([len(row) for row in rows])  # (B,)
        ids = torch.tensor([list(row) + [0] * (R - len(row)) for row in rows])  # (B, R)
        prompt_ids, prompt_mask = pad_left([prompt] * len(rows), 0)  # (B, P) each
        ended = torch.tensor([eos and row[-1] == 0 for row in rows])  # (B,)
        mask = torch.arange(R) < lengths[:, None]  # (B, R)
        return Generation(prompt_ids, prompt_mask, ids, mask, torch.zeros(ids.shape), ended)

    return enumerate_all


@pytest.fixture
def pad_rollout():
    """A function that adds padding columns to a Rollout; at all padding stand other ids and NaN."""
    def pad(r: Rollout, left: int, right: int) -> Rollout:
        wide = {}
        for f in dataclasses.fields(r):
            x, prompt = getattr(r, f.name), f.name.startswith("prompt")
            if x.dim() == 2:
                bad = {torch.bool: False, torch.int64: 41}.get(x.dtype, nan)
                x = torch.where(r.prompt_mask if prompt else r.mask, x, bad)
                x = torch.nn.functional.pad(x, (left, 0) if prompt else (0, right), value=bad)
            wide[f.name] = x
        return Rollout(**wide)

    return pad


@pytest.fixture
def run_main(monkeypatch, capsys):
    """run_main(main, name, *argv): a script as the command line runs it -> (exit status, stdout, stderr)."""
    def run(main, name, *argv):
        monkeypatch.setattr(sys, "argv", [name, *map(str, argv)])
        status = 0
        try:
            run_script(main)
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def user_files(tmp_path_factory) -> tuple[Path, dict[str, object]]:
    """(The folder of `bad_inputs/world.py`, what is in it.)"""
    folder, here = tmp_path_factory.mktemp("user"), Path.cwd()
    os.chdir(folder)
    try:
        world.build(folder)
    finally:
        os.chdir(here)
    return folder, care.contents(folder)


@pytest.fixture
def user_folder(user_files, monkeypatch):
    """The folder in which a user has done everything once, as the current one; afterwards it is as before."""
    folder, before = user_files
    monkeypatch.chdir(folder)
    yield folder
    care.restore(folder, before)


@pytest.fixture
def damage(user_files, user_folder):
    """A function that gives a file of that folder, old or new, the content that a function makes of the old one."""
    def damage(name, change):
        old = user_files[1].get(name, b"")
        care.put(user_folder / name, change(old if isinstance(old, bytes) else b""))

    return damage


@pytest.fixture
def make_evaluation():
    """A function that makes up what an evaluation saw, without models: (run, sets) of `evaluation/items.py`.

    say(model, index, sample) is the response, which ends but where it is "…"; reward(response) is its reward.
    """
    def make(records, say, reward=len, models=("base", "sft", "ppo"), samples=2, beta=0.0) -> tuple:
        rng, reference = np.random.default_rng(0), "sft"
        s = TestSet("made", records, about={"reward": "merit" if reward else ""})
        if beta:
            s.about["beta"] = beta
        for model in models:
            s.items[model], s.texts[model] = [], []
            for i, record in enumerate(records):
                n = len(record.get("response", "").encode())
                p = rng.uniform(0.1, 1, n + 1)  # (tokens,)
                s.texts[model].append(
                    {"index": i, "nll": float(-np.log(p).sum()), "tokens": n + 1, "bytes": n,
                     "confidence": p.round(6).tolist(), "correct": rng.integers(0, 2, n + 1).tolist()}
                    if "response" in record else
                    {"index": i, "nll": None, "tokens": 0, "bytes": 0, "confidence": [], "correct": []}
                )  # fmt: skip
                for k in range(-1, samples):
                    text, moved = say(model, i, k), model != reference
                    ids, stop = list(text.encode("utf-8", "replace")), "length" if text == "…" else "eos"
                    x = {"index": i, "sample": k, "prompt": record.get("prompt", "talk"), "response": text}
                    x |= {"reference": record.get("response", ""), "stop": stop, "ids": ids}
                    x |= {"tokens": len(ids) + (stop == "eos"), "entropy": float(rng.uniform(0, 1 + len(ids)))}
                    x |= {name: float(moved * rng.uniform(0, 2)) for name in ("kl", "k1", "k3", "log_ratio")}
                    if k == 0 and moved:
                        n = len(text)
                        x |= {"pieces": [*text], "token_kl": [0.25] * n, "token_log_ratio": [-0.5] * n}
                    s.items[model].append(x | {"scores": {"reward": float(reward(text))} if reward else {}})
        run = {"reference": reference, "against": reference, "seed": 0, "vocabulary": 260, "settings": {}, "environment": {}}
        known = {"folder": "", "reference": reference, "trained_against": None, "stage": None, "cost": None, "curves": []}
        return run | {"models": {m: known | {"sha256": m} for m in models}}, [s]

    return make
