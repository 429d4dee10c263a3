"""The experiment end to end on a tiny model, resumed and refused."""

import importlib
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from minirlhf import checkpoint
from minirlhf.files import UserError
from minirlhf.tasks import TASKS
from minirlhf.tools import overoptimise
from minirlhf.tools.overoptimise import UNFINISHED, check_settings, command, numbers, scored


@pytest.fixture
def experiment(make_policy, tokenizer, tmp_path, monkeypatch, capsys):
    """A function that runs the tool on a tiny model, gold being length: what it said, and what it ran."""
    policy = make_policy(0, context=64)
    with torch.no_grad():
        policy.ln_f.bias.add_(2 * policy.wte.weight[tokenizer.eos_id])
    checkpoint.save(tmp_path / "sft", policy, tokenizer, {})
    monkeypatch.setattr(TASKS["arithmetic"], "MAX_NEW", 16)
    monkeypatch.setattr(TASKS["arithmetic"], "reward", lambda prompt, response, record: len(response) / 8)
    monkeypatch.setattr("minirlhf.preferences.PROMPTS", 16)
    monkeypatch.setattr("minirlhf.reward_model.REFERENCE", 16)
    ran: list[str] = []

    def in_process(module: str, **options) -> None:
        ran.append(f"{module} {options['out'].name}")
        words = [word for k, v in options.items() for word in (f"--{k}", str(v))]
        monkeypatch.setattr(sys, "argv", [module, *words])
        importlib.import_module(module).main()

    monkeypatch.setattr(overoptimise, "command", in_process)

    def run(*words: str) -> tuple[str, list[str]]:
        ran.clear()
        sizes = "--iterations 1 --batch 8 --prompts 6 --best-of 8 --samples 2 --epochs 1 --task arithmetic"
        folders = f"--init {tmp_path}/sft --out {tmp_path}/out --threads 1"
        monkeypatch.setattr(sys, "argv", ["overoptimise", *sizes.split(), *folders.split(), *words])
        overoptimise.main()
        return capsys.readouterr().out, list(ran)

    return run


def test_it_runs_and_goes_on_where_it_stopped(experiment, tmp_path):
    """Two reward models, two policies of each; more betas make only what is missing."""
    said, ran = experiment("--pairs", "8", "16", "--betas", "0.5", "0")
    out = tmp_path / "out"
    assert [x.split()[1] for x in ran] == ["prefs.8.jsonl", "rm.8", "prefs.16.jsonl", "rm.16"]
    lines = (out / "results.jsonl").read_text().splitlines()
    made = [(x["pairs"], x["beta"]) for x in map(json.loads, lines)]
    assert made == [(8, 0.5), (8, 0.0), (16, 0.5), (16, 0.0)]
    assert all(len(json.loads(x)[k]) == 6 for x in lines for k in ("gold", "kl", "proxy"))
    few, many = ((out / f"prefs.{n}.jsonl").read_text().splitlines() for n in (8, 16))
    assert few == many[:8] and len(many) == 16
    assert said.count("| PPO |") == said.count("| best-of-n |") == 2 * (1 + 2)
    assert "16 comparisons" in (out / "overoptimise.svg").read_text()
    again, ran = experiment("--pairs", "8", "16", "--betas", "0.5", "0")
    assert not ran and "PPO on" not in again and again.split("\n\n")[-3:] == said.split("\n\n")[-3:]
    more, ran = experiment("--pairs", "8", "--betas", "0.5", "0.1", "0")
    assert not ran and more.count("PPO on") == 1 and "beta 0.1" in more
    assert (out / "results.jsonl").read_text().splitlines()[:4] == lines


def test_other_settings_want_another_folder(experiment, tmp_path, monkeypatch):
    """Whatever decides a result: the checkpoint's content too, but not which sizes and betas are wanted."""
    seen = []
    monkeypatch.setattr(overoptimise, "check_settings", lambda path, settings: seen.append(settings) or 1 / 0)
    for words in ("--pairs 8", "--betas 1", "--epochs 2", "--seed 1", "--temperature 0.2"):
        with pytest.raises(ZeroDivisionError):
            experiment(*words.split())
    assert seen[0] == seen[1] and all(seen[0] != x for x in seen[2:])
    policy, _ = checkpoint.load(tmp_path / "sft")
    assert seen[0]["init"] == checkpoint.fingerprint(policy)


def test_settings_are_those_that_the_folder_was_begun_with(tmp_path):
    check_settings(tmp_path / "settings.json", {"epochs": 1})
    check_settings(tmp_path / "settings.json", {"epochs": 1})
    with pytest.raises(UserError, match="begun with epochs 1, not 2; choose another --out"):
        check_settings(tmp_path / "settings.json", {"epochs": 2})


def test_an_answer_without_an_end_gets_the_low_reward_unread():
    asked = []
    proxy = SimpleNamespace(many=lambda cases: asked.extend(cases) or [float(len(r)) for _, r, _ in cases])
    records = [{"prompt": "p"}, {"prompt": "q"}]
    values = scored(proxy, records, [(1, "abc"), (0, None), (0, "a")])
    assert values.tolist() == [3.0, UNFINISHED, 1.0]
    assert asked == [("q", "abc", records[1]), ("p", "a", records[0])]


@pytest.mark.parametrize("words, kind", [("", int), ("x", float), ("-1", float), ("0", int), ("nan", float)])
def test_numbers_that_are_none_are_refused(words, kind):
    with pytest.raises(UserError, match="--pairs"):
        numbers(tuple(words.split()), "pairs", kind)


def test_numbers_stand_once():
    assert numbers(("0.1", "0", "0.10"), "betas", float) == [0.1, 0.0]


def test_a_command_that_fails_ends_it(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda words: SimpleNamespace(returncode=2, words=words))
    with pytest.raises(UserError, match="minirlhf.preferences failed"):
        command("minirlhf.preferences", pairs=3)


def test_an_unknown_task_is_refused(experiment):
    with pytest.raises(UserError, match="--task poems"):
        experiment("--task", "poems")


def test_the_gold_and_the_proxy_are_of_the_same_answers(experiment, tmp_path):
    """What the table calls the reference's gold is the mean of the samples kept."""
    said, _ = experiment("--pairs", "8", "--betas", "1")
    samples = [json.loads(x) for x in (tmp_path / "out/samples.jsonl").read_text().splitlines()]
    assert [x["index"] for x in samples] == [i for i in range(6) for _ in range(8)]
    gold = [len(x["response"]) / 8 if x["response"] is not None else 0 for x in samples]
    assert [x["gold"] for x in samples] == gold
    assert f"gold reward of the reference {np.mean(gold):.3f}" in said
    policy = json.loads((tmp_path / "out/results.jsonl").read_text())
    halves = [16 * x for x in policy["gold"]]  # two sampled answers each, the greedy one left out
    assert any(halves) and halves == [round(x) for x in halves]
