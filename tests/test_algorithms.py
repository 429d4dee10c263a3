"""The comparison of the algorithms: fair, resumable, and judged against one optimum."""

import json
import signal
import sys
from math import exp, log

import numpy as np
import pytest
import torch

from minirlhf import checkpoint
from minirlhf.data import Mixture
from minirlhf.files import UserError
from minirlhf.matrix import ALGORITHMS
from minirlhf.ppo import PPOConfig
from minirlhf.runtime import run_script
from minirlhf.tasks import TASKS
from minirlhf.tools import algorithms
from minirlhf.tools.algorithms import (
    TUNING_SEED,
    VARIANTS,
    Comparison,
    answers,
    chosen,
    markdown,
    plan,
    run,
    shares,
    yardstick,
)


def made(algo: str, lr: float, seed: int, objective: float) -> dict:
    """A line of results."""
    return {"algo": algo, "lr": lr, "seed": seed, "objective": objective, "reward": 0.9, "kl": 2.0, "seconds": 3.0}


KNOWN = {"reference": 0.5, "optimum": 0.9, "effective_size": 500.0}


def test_the_rate_is_chosen_on_a_seed_that_is_not_reported():
    """The best of the tuning runs, not the best of the runs in the table."""
    options = Comparison(algos=("ppo",), lrs=("1e-4", "1e-3"), seeds=2)
    done = []
    for name, lr, seed in plan(options, done):
        done.append(made(name, lr, seed, {1e-4: 0.7, 1e-3: 0.6}[lr]))
    assert [(x["lr"], x["seed"]) for x in done] == [(1e-4, TUNING_SEED), (1e-3, TUNING_SEED), (1e-4, 0), (1e-4, 1)]
    assert chosen("ppo", done + [made("ppo", 1e-3, 0, 0.99)]) == 1e-4
    assert not {x["seed"] for x in shares(done, KNOWN)["ppo"]} & {TUNING_SEED}


def test_what_is_done_is_not_done_again():
    options = Comparison(algos=("ppo", "rloo"), lrs=("1e-3",), seeds=1)
    done = [made("ppo", 1e-3, TUNING_SEED, 0.5), made("ppo", 1e-3, 0, 0.5), made("rloo", 1e-3, TUNING_SEED, 0.5)]
    assert list(plan(options, done)) == [("rloo", 1e-3, 0)]


def test_all_runs_are_measured_by_one_yardstick():
    """J_ref 0.5 and J* 0.9."""
    done = [made(a, 1e-3, TUNING_SEED, 0.5) for a in ("ppo", "rloo")]
    table = shares(done + [made("ppo", 1e-3, 0, 0.8), made("rloo", 1e-3, 0, 0.6)], KNOWN)
    assert table["ppo"][0]["share"] == pytest.approx(0.75) and table["rloo"][0]["share"] == pytest.approx(0.25)


def test_an_optimum_on_few_effective_samples_is_refused():
    done = [made("ppo", 1e-3, TUNING_SEED, 0.5), made("ppo", 1e-3, 0, 0.8)]
    with pytest.raises(UserError, match="J.* rests on 74 effective samples, fewer than 200"):
        shares(done, KNOWN | {"effective_size": 74.0})


def test_the_yardstick_is_that_of_samples_of_the_reference(make_policy, tokenizer, monkeypatch):
    """Of rewards 1 and 0: J_ref is the share p of ones, J* = β log(1 − p + p exp(1 / β))."""
    monkeypatch.setattr(algorithms, "reward_of_task", lambda record: lambda p, r, x: float(len(r) > 2))
    options = Comparison(prompts=10, reference_samples=20, beta=0.5)
    known = yardstick((make_policy(0, context=64), tokenizer), "arithmetic", options)
    p = known["reference"]
    assert 0 < p < 1 and p * 200 == pytest.approx(round(p * 200))
    assert known["optimum"] == pytest.approx(0.5 * log(1 - p + p * exp(2)))
    assert 1 < known["effective_size"] < 200


@pytest.fixture
def trained(make_policy, monkeypatch):
    """The arguments of each call of `train`, which in its place puts another policy's weights in."""
    calls = []

    def train(policy, *rest):
        calls.append((policy, *rest))
        policy.load_state_dict(make_policy(1, context=64).state_dict())
        return None, {"seconds": 3.0, "tokens": 9}

    monkeypatch.setattr(algorithms, "train", train)
    return calls


def test_every_algorithm_trains_on_as_many_responses(make_policy, tokenizer, trained, monkeypatch):
    """Those of a group count one by one; and nothing else differs but the choices of the algorithm."""
    monkeypatch.setattr(algorithms, "answers", lambda *_: [{"scores": {"reward": 0.0}, "kl": 0.0}])
    start, options = (make_policy(0, context=64), tokenizer), Comparison(batch=24, iterations=9)
    for name in VARIANTS:
        run(name, 1e-3, 5, "arithmetic", start, options, torch.float32)
    for name, (_, _, records_of, _, config, *_) in zip(VARIANTS, trained, strict=True):
        assert [len(records_of(step)) * config.row.group for step in range(9)] == [24] * 9
        assert config == PPOConfig(
            **VARIANTS[name], iterations=9, batch=24, lr=1e-3, beta=options.beta, minibatches=4, warmup=1, save_every=9
        )


def test_a_run_is_judged_by_j_on_prompts_that_it_was_not_trained_on(make_policy, tokenizer, trained, monkeypatch):
    """Two sampled answers to each of 30: the mean reward minus β times the mean KL, β not 1."""
    monkeypatch.setattr(algorithms, "reward_of_task", lambda record: lambda p, r, x: float(len(r)))
    judged, sample_items = [], algorithms.sample_items
    monkeypatch.setattr(algorithms, "sample_items", lambda *a: judged.append(a[3]) or sample_items(*a))
    start, options = (make_policy(0, context=64), tokenizer), Comparison(prompts=30, samples=2, batch=64, beta=0.5)
    figures = run("rloo", 1e-3, 5, "arithmetic", start, options, torch.float32)
    ((policy, _, records_of, _, _, max_new, seed, *_),) = trained
    assert judged == [TASKS["arithmetic"].records("test", 30, 0)] and seed == 5
    assert max_new == TASKS["arithmetic"].MAX_NEW
    seen = {record["prompt"] for step in range(100) for record in records_of(step)}
    assert len(seen) > 500 and not seen & {record["prompt"] for record in judged[0]}
    items = answers(policy, start, "arithmetic", 30, 2)
    reward, kl = (sum(x) / 60 for x in zip(*((x["scores"]["reward"], x["kl"]) for x in items), strict=True))
    assert len(items) == 60 and reward > 0 and kl > 1 and policy is not start[0]
    assert figures == pytest.approx(
        {"seconds": 3.0, "tokens": 9, "reward": reward, "kl": kl, "objective": reward - 0.5 * kl}
    )


def test_the_table_shows_mean_spread_and_worst_seed_best_first():
    done = [made(a, 1e-3, TUNING_SEED, 0.5) for a in ("ppo", "rloo")]
    done += [made("rloo", 1e-3, s, x) for s, x in enumerate((0.6, 0.62))]
    done += [made("ppo", 1e-3, s, x) for s, x in enumerate((0.7, 0.8))]
    lines = markdown(shares(done, KNOWN)).splitlines()
    mean, sd = 0.625, np.std([0.5, 0.75], ddof=1)
    assert lines[2].startswith(f"| ppo | 0.001 | {mean:.3f} ±{sd:.3f} |") and "| 0.500 | 3 |" in lines[2]
    assert lines[3].startswith("| rloo |") and len(lines) == 4


def test_every_algorithm_is_compared():
    assert set(ALGORITHMS) <= set(VARIANTS)
    rows = [PPOConfig(**choices).row for choices in VARIANTS.values()]
    assert len(set(rows)) == len(VARIANTS)


def test_without_a_better_response_there_is_nothing_to_compare():
    done = [made("ppo", 1e-3, TUNING_SEED, 0.5), made("ppo", 1e-3, 0, 0.5)]
    with pytest.raises(UserError, match="nothing to tell them apart by"):
        shares(done, KNOWN | {"optimum": 0.5})


def test_it_runs_and_goes_on_where_it_stopped(make_policy, tokenizer, tmp_path, monkeypatch, capsys):
    """Two algorithms on a small model: a line a run, a table, a figure; the second call runs nothing."""
    checkpoint.save(tmp_path / "sft", make_policy(0, context=64), tokenizer, {})
    command = f"algorithms --init {tmp_path}/sft --task arithmetic --algos rloo ppo --lrs 1e-3 --seeds 1 --iterations 1"
    command += f" --batch 8 --prompts 8 --samples 4 --reference-samples 80 --beta 5 --out {tmp_path}/out"
    monkeypatch.setattr(algorithms, "reward_of_task", lambda record: lambda p, r, x: float(len(r)))
    monkeypatch.setattr(sys, "argv", command.split())
    algorithms.main()
    said = capsys.readouterr().out
    lines = (tmp_path / "out/results.arithmetic.jsonl").read_text().splitlines()
    assert [(x["algo"], x["seed"]) for x in map(json.loads, lines)] == [
        ("rloo", TUNING_SEED), ("rloo", 0), ("ppo", TUNING_SEED), ("ppo", 0)
    ]  # fmt: skip
    assert "arithmetic: rloo, lr 0.001, seed 0" in said and said.count("| ppo |") == 1
    assert (tmp_path / "out/algorithms.arithmetic.svg").read_text().count("<circle") == 2
    algorithms.main()
    again = capsys.readouterr().out
    assert "seed 0" not in again and again.split("\n\n")[-1] == said.split("\n\n")[-1]
    assert (tmp_path / "out/results.arithmetic.jsonl").read_text().splitlines() == lines


def test_a_run_that_is_stopped_is_begun_anew_when_the_tool_is_called_again(
    make_policy, tokenizer, tmp_path, monkeypatch, capsys
):
    """On SIGTERM in the second run the line of the first is kept, and no option is named that is not there."""
    checkpoint.save(tmp_path / "sft", make_policy(0, context=64), tokenizer, {})
    command = f"algorithms --init {tmp_path}/sft --task arithmetic --algos rloo --lrs 1e-3 --seeds 1 --iterations 2"
    command += f" --batch 8 --prompts 8 --samples 4 --reference-samples 80 --beta 5 --out {tmp_path}/out"
    path, sent, step_of = tmp_path / "out/results.arithmetic.jsonl", [], Mixture.step

    def step(mixture, number):
        if path.exists() and not sent:
            sent.append(number)
            signal.raise_signal(signal.SIGTERM)
        return step_of(mixture, number)

    monkeypatch.setattr(Mixture, "step", step)
    monkeypatch.setattr(algorithms, "reward_of_task", lambda record: lambda p, r, x: float(len(r)))
    monkeypatch.setattr(sys, "argv", command.split())
    with pytest.raises(SystemExit) as stop:
        run_script(algorithms.main)
    said = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 130 and "called again, the tool begins this run anew" in said
    assert "--resume" not in said and len(path.read_text().splitlines()) == 1
    algorithms.main()
    assert [json.loads(line)["seed"] for line in path.read_text().splitlines()] == [TUNING_SEED, 0]


def test_runs_with_other_settings_are_not_mixed_in(make_policy, tokenizer, tmp_path, monkeypatch, capsys):
    checkpoint.save(tmp_path / "sft", make_policy(0, context=64), tokenizer, {})
    command = f"algorithms --init {tmp_path}/sft --task arithmetic --algos reinforce --lrs 1e-3 --seeds 1 --batch 8"
    command += f" --prompts 8 --samples 4 --reference-samples 80 --beta 5 --out {tmp_path}/out --iterations"
    monkeypatch.setattr(algorithms, "reward_of_task", lambda record: lambda p, r, x: float(len(r)))
    for iterations in ("1", "2"):
        monkeypatch.setattr(sys, "argv", [*command.split(), iterations])
        algorithms.main()
    lines = [json.loads(x) for x in (tmp_path / "out/results.arithmetic.jsonl").read_text().splitlines()]
    assert [(x["seed"], x["settings"]["training"]["iterations"]) for x in lines] == [
        (TUNING_SEED, 1), (0, 1), (TUNING_SEED, 2), (0, 2)
    ]  # fmt: skip
