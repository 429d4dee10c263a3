"""What the benchmark times is what its figures are called."""

import sys

import pytest
import torch

from minirlhf.harness.options import run_script
from minirlhf.lm.generation import generate
from minirlhf.lm.model import GPTConfig
from minirlhf.lm.optim import Stepper
from minirlhf.rl.ppo import update
from minirlhf.tools import bench

TINY = GPTConfig(vocab_size=20, context=80, layers=1, heads=1, width=8)
CPU = torch.device("cpu")


@pytest.fixture
def two_seconds(monkeypatch):
    """Whatever is measured is run once and said to take two seconds."""
    monkeypatch.setattr(bench, "best_seconds", lambda run, repeats: (run(), 2.0)[1])


def test_the_best_time_counts_and_the_first_run_does_not(monkeypatch):
    ticks, runs = iter([0, 7, 10, 13, 20, 25]), []
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(ticks))
    assert bench.best_seconds(lambda: runs.append(1), 3) == 3 and len(runs) == 4


def test_training_is_a_step_over_full_rows(two_seconds, monkeypatch):
    steps = []
    monkeypatch.setattr(bench, "Stepper", lambda *a: spy(Stepper(*a), steps))
    assert bench.training_speed(TINY, 3, CPU, torch.float32, 1) == 3 * 80 / 2
    assert len(steps) == 1 and steps[0] > 0


def spy(stepper: Stepper, norms: list[float]) -> Stepper:
    """The stepper, which also tells the norms of its gradients."""
    step = stepper.step
    stepper.step = lambda lr: norms.append(step(lr))
    return stepper


def test_every_sampled_row_runs_to_its_end(two_seconds, monkeypatch):
    made = []
    monkeypatch.setattr(bench, "generate", lambda *a: made.append(generate(*a)))
    assert bench.sampling_speed(TINY, CPU, 1) == bench.PROMPTS * bench.NEW / 2
    assert made[0].mask.shape == (bench.PROMPTS, bench.NEW) and made[0].mask.all() and made[0].prompt_mask.all()


def test_an_iteration_of_ppo_samples_full_rows_and_makes_4_steps(two_seconds, monkeypatch):
    seen, stepped, step = [], [], Stepper.step
    monkeypatch.setattr(Stepper, "step", lambda self, lr: stepped.append(lr) or step(self, lr))
    monkeypatch.setattr(bench, "update", lambda models, rollout, *a: seen.append(rollout) or update(models, rollout, *a))
    assert bench.ppo_iteration(TINY, CPU, torch.float32, 1) == 2
    rollout = seen[0]
    assert rollout.prompt_mask.shape == (bench.PROMPTS, bench.PROMPT) and rollout.prompt_mask.all()
    assert rollout.mask.shape == (bench.PROMPTS, bench.NEW) and rollout.mask.all()
    assert len(stepped) == 4 * len(seen)


@pytest.mark.parametrize("argv, status, words", [
    ("--sizes tiny --repeats 1", 0, [
        "tiny    training", "tiny    sampling", "tiny    PPO iteration", " GB so far", "tokenizer, 1.0 MB",
    ]),
    ("--sizes tiny --repeats 1 --lora 2", 0, ["tiny    training", "tiny    PPO iteration"]),
    ("--sizes huge", 2, ["--sizes huge: there are tiny"]),
    ("--sizes tiny --repeats 0", 2, ["--repeats 0: must be at least 1"]),
])  # fmt: skip
def test_each_size_has_a_line_for_each_figure(argv, status, words, monkeypatch, capsys):
    monkeypatch.setattr(bench, "SIZES", {"tiny": (TINY, 3)})
    monkeypatch.setattr(bench, "tokenizer_speed", lambda repeats: (1.0, 2.0, 3.0))
    monkeypatch.setattr(sys, "argv", ["bench", *argv.split(), "--threads", "1"])
    if status:
        with pytest.raises(SystemExit) as stop:
            run_script(bench.main)
        assert stop.value.code == status
    else:
        run_script(bench.main)
    out, err = capsys.readouterr()
    assert all(word in out + err for word in words) and err.count("\n") == (status == 2)
