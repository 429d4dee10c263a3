"""The comparison of the algorithms: fair, resumable, and judged against one optimum."""

import json
import re
import signal
import sys
from dataclasses import replace
from math import exp, log

import numpy as np
import pytest
import torch

from minirlhf.evaluation.ask import Policy
from minirlhf.experiments.trials import task_items
from minirlhf.harness.files import UserError
from minirlhf.harness.options import run_script
from minirlhf.lm import checkpoint
from minirlhf.lm.batches import Mixture
from minirlhf.rl.config import ALGORITHMS, PPOConfig
from minirlhf.tools import compare_algorithms
from minirlhf.tools.compare_algorithms import (
    TUNING_SEED, VARIANTS, Comparison, algorithm_table, one_run, runs_of, yardstick,
)

OPTIONS = Comparison(algos=("ppo",), lrs=("1e-4", "1e-3"), seeds=2)


@pytest.fixture
def ran(monkeypatch) -> list[tuple[str, float, int]]:
    """(name, lr, seed) of each run, which takes no time: the lower rate is better in tuning, and worse after it."""
    calls = []

    def run(name, lr, seed, *_):
        calls.append((name, lr, seed))
        return {"lr": lr, "objective": -lr if seed == TUNING_SEED else lr, "seed": seed}

    monkeypatch.setattr(compare_algorithms, "one_run", run)
    return calls


def test_the_rate_is_chosen_on_a_seed_that_is_not_reported(ran, tmp_path):
    """The best of the tuning runs, not the best of the runs in the table."""
    runs = runs_of("ppo", [1e-3, 1e-4], "arithmetic", None, replace(OPTIONS, out=str(tmp_path)), None)
    assert ran == [("ppo", 1e-3, TUNING_SEED), ("ppo", 1e-4, TUNING_SEED), ("ppo", 1e-4, 0), ("ppo", 1e-4, 1)]
    assert [(x["lr"], x["seed"]) for x in runs] == [(1e-4, 0), (1e-4, 1)]


def test_what_is_done_is_not_done_again(ran, tmp_path):
    """More rates and more seeds make what is missing; every algorithm and task has runs of its own."""
    options = replace(OPTIONS, out=str(tmp_path))
    runs_of("ppo", [1e-3], "arithmetic", None, options, None)
    ran.clear()
    runs_of("ppo", [1e-3], "arithmetic", None, options, None)
    assert not ran
    runs_of("ppo", [1e-3, 1e-2], "arithmetic", None, replace(options, seeds=3), None)
    assert ran == [("ppo", 1e-2, TUNING_SEED), ("ppo", 1e-3, 2)]
    for name, task in (("rloo", "arithmetic"), ("ppo", "reviews")):
        ran.clear()
        runs_of(name, [1e-3], task, None, options, None)
        assert len(ran) == 3


def test_an_optimum_on_few_effective_samples_is_refused(make_policy, tokenizer, monkeypatch):
    monkeypatch.setattr("minirlhf.experiments.trials.reward_of_task", lambda record: lambda p, r, x: float(len(r) > 2))
    with pytest.raises(UserError, match=r"J.* rests on \d+ effective samples, fewer than 200"):
        start = Policy(make_policy(0, context=64), tokenizer)
        yardstick(start, "arithmetic", Comparison(prompts=10, reference_samples=15))


def test_the_yardstick_is_that_of_samples_of_the_reference(make_policy, tokenizer, monkeypatch):
    """Of rewards 1 and 0: J_ref is the share p of ones, J* = β log(1 − p + p exp(1 / β))."""
    monkeypatch.setattr("minirlhf.experiments.trials.reward_of_task", lambda record: lambda p, r, x: float(len(r) > 2))
    options = Comparison(prompts=10, reference_samples=80, beta=0.5)
    known = yardstick(Policy(make_policy(0, context=64), tokenizer), "arithmetic", options)
    p = known["reference"]
    assert 0 < p < 1 and p * 800 == pytest.approx(round(p * 800))
    assert known["value"] == pytest.approx(0.5 * log(1 - p + p * exp(2)))
    assert 200 < known["effective_size"] < 800


@pytest.fixture
def trained(make_policy, monkeypatch):
    """The arguments of each call of `optimise`, which in its place puts another policy's weights in."""
    calls = []

    def optimise(policy, *rest):
        calls.append((policy, *rest))
        policy.model.load_state_dict(make_policy(1, context=64).state_dict())
        return {"seconds": 3.0, "tokens": 9}

    monkeypatch.setattr(compare_algorithms, "optimise", optimise)
    return calls


def test_every_algorithm_is_trained_alike(make_policy, tokenizer, trained, monkeypatch):
    """Nothing differs but the choices of the algorithm."""
    monkeypatch.setattr(compare_algorithms, "task_items", lambda *_: [{"scores": {"reward": 0.0}, "kl": 0.0}])
    start, options = Policy(make_policy(0, context=64), tokenizer), Comparison(batch=24, iterations=9)
    for name in VARIANTS:
        one_run(name, 1e-3, 5, "arithmetic", start, options, torch.float32)
    for name, (_, task, _, config, seed, _) in zip(VARIANTS, trained, strict=True):
        assert (task, seed) == ("arithmetic", 5)
        assert config == PPOConfig(
            **VARIANTS[name], iterations=9, batch=24, lr=1e-3, beta=options.beta, minibatches=4, warmup=1, save_every=9
        )


def test_a_run_is_judged_by_j(make_policy, tokenizer, trained, monkeypatch):
    """Two sampled answers to each of 30: the mean reward minus β times the mean KL, β not 1."""
    monkeypatch.setattr("minirlhf.experiments.trials.reward_of_task", lambda record: lambda p, r, x: float(len(r)))
    start = Policy(make_policy(0, context=64), tokenizer)
    options = Comparison(prompts=30, samples=2, batch=64, beta=0.5)
    figures = one_run("rloo", 1e-3, 5, "arithmetic", start, options, torch.float32)
    items = task_items(trained[0][0], start, "arithmetic", 30, 2)
    reward, kl = (sum(x) / 60 for x in zip(*((x["scores"]["reward"], x["kl"]) for x in items), strict=True))
    assert len(items) == 60 and reward > 0 and kl > 1 and trained[0][0].model is not start.model
    assert figures == pytest.approx(
        {"lr": 1e-3, "seconds": 3.0, "tokens": 9, "reward": reward, "kl": kl, "objective": reward - 0.5 * kl}
    )


def test_the_table_shows_mean_spread_and_worst_seed():
    runs = [{"lr": 1e-3, "share": x, "reward": 0.9, "kl": 2.0, "seconds": 3.0} for x in (0.5, 0.75)]
    lines = algorithm_table({"ppo": runs, "rloo": runs[:1]}).splitlines()
    mean, sd = 0.625, np.std([0.5, 0.75], ddof=1)
    assert lines[2] == f"| ppo | 0.001 | {mean:.3f} ±{sd:.3f} | 0.900 ±0.000 | 2.00 ±0.00 | 0.500 | 3 |"
    assert lines[3] == "| rloo | 0.001 | 0.500 | 0.900 | 2.00 | 0.500 | 3 |" and len(lines) == 4


def test_every_algorithm_is_compared():
    assert set(ALGORITHMS) <= set(VARIANTS)
    rows = [PPOConfig(**choices).algorithm for choices in VARIANTS.values()]
    assert len(set(rows)) == len(VARIANTS)


def test_without_a_better_response_there_is_nothing_to_compare(make_policy, tokenizer, monkeypatch):
    monkeypatch.setattr("minirlhf.experiments.trials.reward_of_task", lambda record: lambda p, r, x: 0.0)
    monkeypatch.setattr("minirlhf.experiments.trials.sample_items", lambda *a: [
        {"index": i, "sample": k, "scores": {"reward": 0.5}} for i in range(10) for k in range(30)
    ])  # fmt: skip
    with pytest.raises(UserError, match="nothing tells algorithms apart"):
        start = Policy(make_policy(0, context=64), tokenizer)
        yardstick(start, "arithmetic", Comparison(prompts=10, reference_samples=30))


@pytest.fixture
def command(make_policy, tokenizer, tmp_path, monkeypatch) -> str:
    """The command on a small model, whose reward is the length of the answer."""
    checkpoint.save(tmp_path / "sft", make_policy(0, context=64), tokenizer, {})
    for module in ("tools.compare_algorithms", "experiments.trials"):
        name = f"minirlhf.{module}.reward_of_task"
        monkeypatch.setattr(name, lambda record: lambda p, r, x: float(len(r)))
    words = f"algorithms --init {tmp_path}/sft --task arithmetic --lrs 1e-3 --seeds 1 --out {tmp_path}/out"
    return f"{words} --batch 8 --prompts 8 --samples 4 --reference-samples 80 --beta 5"


def files(out) -> dict[str, dict]:
    """Algorithm and seed of each run -> its result."""
    found = {path.stem.replace(", lr 0.001, seed", ""): json.loads(path.read_text()) for path in out.glob("*/*.json")}
    return dict(sorted(found.items()))


def test_it_runs_and_goes_on_where_it_stopped(command, tmp_path, monkeypatch, capsys):
    """A file a run, a table by one yardstick, the best first, a figure; the second call runs nothing."""
    monkeypatch.setattr(sys, "argv", f"{command} --iterations 1 --algos rloo ppo".split())
    compare_algorithms.main()
    said = capsys.readouterr().out
    made = files(tmp_path / "out")
    assert list(made) == ["ppo 0", f"ppo {TUNING_SEED}", "rloo 0", f"rloo {TUNING_SEED}"]
    assert "arithmetic: rloo, lr 0.001, seed 0" in said
    J = {name: float(x) for name, x in re.findall(r"(J\(ref\)|J\*) = ([\d.]+)", said)}
    gained = {name: made[f"{name} 0"]["objective"] - J["J(ref)"] for name in ("ppo", "rloo")}
    shares = {name: x / (J["J*"] - J["J(ref)"]) for name, x in gained.items()}
    rows = re.findall(r"^\| (\w+) \| 0.001 \| (\S+)", said, re.M)
    assert [shares[name] for name, _ in rows] == sorted(shares.values(), reverse=True)
    assert {name: float(x) for name, x in rows} == pytest.approx(shares, abs=0.02)
    assert (tmp_path / "out/algorithms.arithmetic.svg").read_text().count("<circle") == 2
    compare_algorithms.main()
    again = capsys.readouterr().out
    assert "seed 0" not in again and again.split("\n\n")[-1] == said.split("\n\n")[-1]
    assert files(tmp_path / "out") == made


def test_a_run_that_is_stopped_is_begun_anew_when_the_tool_is_called_again(command, tmp_path, monkeypatch, capsys):
    """On SIGTERM in the second run the result of the first is kept, and no option is named that is not there."""
    sent, step_of = [], Mixture.step

    def step(mixture, number):
        if files(tmp_path / "out") and not sent:
            sent.append(number)
            signal.raise_signal(signal.SIGTERM)
        return step_of(mixture, number)

    monkeypatch.setattr(Mixture, "step", step)
    monkeypatch.setattr(sys, "argv", f"{command} --iterations 2 --algos rloo".split())
    with pytest.raises(SystemExit) as stop:
        run_script(compare_algorithms.main)
    said = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 130 and "it keeps the runs done and begins this one anew" in said
    assert "--resume" not in said and list(files(tmp_path / "out")) == [f"rloo {TUNING_SEED}"]
    compare_algorithms.main()
    assert list(files(tmp_path / "out")) == ["rloo 0", f"rloo {TUNING_SEED}"]


@pytest.mark.parametrize("words", ["--iterations 2", "--batch 16", "--samples 3", "--prompts 9", "--beta 6"])
def test_other_settings_want_another_folder(command, words, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(compare_algorithms, "begun_with", lambda out, settings: seen.append(settings) or 1 / 0)
    for more in ("--seeds 2 --algos ppo --lrs 1 --reference-samples 90", words):
        monkeypatch.setattr(sys, "argv", f"{command} {more}".split())
        with pytest.raises(ZeroDivisionError):
            compare_algorithms.main()
    plain, other = seen
    assert plain["init"] == checkpoint.fingerprint(checkpoint.load(tmp_path / "sft")[0])
    assert set(plain) == {"init", "iterations", "batch", "beta", "prompts", "samples"}
    assert [k for k in plain if plain[k] != other[k]] == [words.split()[0][2:]]


@pytest.mark.parametrize("words, message", [
    ("--algos sarsa", "--algos sarsa: there are"), ("--algos", "--algos: expected"),
    ("--lrs", "--lrs: expected"), ("--lrs 0", "--lrs 0: give numbers"), ("--lrs x", "--lrs x: give numbers"),
    ("--beta 0", "--beta 0.0: must be above"),
])  # fmt: skip
def test_options_that_make_no_comparison_are_refused(words, message, command, monkeypatch):
    monkeypatch.setattr(sys, "argv", f"{command} {words}".split())
    with pytest.raises(UserError, match=message):
        compare_algorithms.main()
