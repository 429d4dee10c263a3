"""What the benchmark times is what its figures are called, and its shares follow the law."""

import json
import sys

import pytest
import torch

from minirlhf.harness.options import run_script
from minirlhf.lm import checkpoint
from minirlhf.lm.config import LoRAOptions
from minirlhf.lm.generation import generate
from minirlhf.lm.model import GPT, GPTConfig
from minirlhf.lm.optim import Stepper
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.rl.ppo import update
from minirlhf.tools import bench, measure

TINY = measure.Load(GPTConfig(vocab_size=20, context=80, layers=2, heads=1, width=8), 3, 6, 16, 48)
CPU = torch.device("cpu")


class Here:
    """A pool of processes that is this process."""

    def __init__(self, *settings) -> None:
        self.result = None

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *error) -> None:
        pass

    def submit(self, run, *args) -> "Here":
        found = run(*args)
        self.result = lambda: found
        return self


BLOCKS, HEAD, LC = 12 * 2 * 8**2, 20 * 8, 2 * 8  # parameters in products; layers x width


def flops_of(make, load: measure.Load = TINY) -> float:
    return measure.measure(lambda: make(load), "s", CPU, 1)["flops"]


def test_median_and_range_are_of_the_runs_after_the_first(monkeypatch):
    ticks, runs = iter([0, 7, 10, 13, 20, 25]), []
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(ticks))
    row = measure.measure(lambda: lambda: runs.append(1) or 70, "tokens/s", CPU, 3)
    assert len(runs) == 4 and row["amount"] == 70 and row["seconds"] == 5
    assert (row["median"], row["min"], row["max"]) == (70 / 5, 70 / 7, 70 / 3)
    assert row["peak_gb"] >= row["start_gb"] > 0.01


def test_the_share_is_that_of_the_peak():
    x = torch.ones(50, 50)
    row = measure.measure(lambda: lambda: len(x @ x), "s", CPU, 3, peak=1e6)
    assert row["flops"] == 2 * 50**3 and row["share"] == pytest.approx(2 * 50**3 / row["seconds"] / 1e6)


def test_training_is_a_step_over_full_rows(monkeypatch):
    steps, step = [], Stepper.step
    monkeypatch.setattr(Stepper, "step", lambda self, lr: steps.append(step(self, lr)))
    assert measure.training(TINY)() == 3 * 80
    assert len(steps) == 1 and steps[0] > 0


def test_a_trained_token_costs_what_the_law_says():
    # 3 rows of 80 tokens are computed in 80 columns. The head is put on their 79 targets each, rounded up to 256.
    assert flops_of(measure.training) == 6 * BLOCKS * 240 + 6 * HEAD * 256 + 12 * LC * 80 * 240


def test_frozen_weights_have_no_gradient():
    lora = measure.replace(TINY, lora=LoRAOptions(lora=1))
    whole, adapted = flops_of(measure.training), flops_of(measure.training, lora)
    adapters = 2 * (8 + 24 + 8 + 8 + 8 + 32 + 32 + 8)  # their parameters: rank 1 beside 4 layers in 2 blocks
    saved = 2 * BLOCKS * 240 + 2 * HEAD * 256 - 6 * adapters * 240
    first = 2 * 240 * (8 * 24 + 8)  # no gradient flows into what the first layer reads
    assert whole - adapted == saved + first


def test_a_sampled_token_costs_what_the_law_says():
    columns = 16 * 16 + sum(range(17, 16 + 48))  # of a prompt, in one pass, and of each step behind it
    least = 6 * (2 * BLOCKS * (16 + 47) + 2 * HEAD * 48 + 4 * LC * columns)
    assert least <= flops_of(measure.sampling) < 1.1 * least  # a cache may grow by several columns at once


def test_every_sampled_row_runs_to_its_end(monkeypatch):
    made = []
    keep = lambda *a: made.extend((torch.is_autocast_enabled("cpu"), generate(*a))) or made[1]
    monkeypatch.setattr(measure, "generate", keep)
    assert measure.sampling(measure.replace(TINY, dtype=torch.bfloat16))() == 6 * 48
    autocast, rows = made
    assert autocast and rows.mask.shape == (6, 48) and rows.mask.all() and rows.prompt_mask.all()


@pytest.mark.parametrize("algo, P, responses, steps, group", [
    ("ppo", 16, (6, 48), 4, 1),
    ("grpo", 48, (32, 32), 1, 8),  # the context of 80 leaves 32
])  # fmt: skip
def test_a_round_samples_full_rows_and_learns(algo, P, responses, steps, group, monkeypatch):
    seen, stepped, step = [], [], Stepper.step
    monkeypatch.setattr(Stepper, "step", lambda self, lr: stepped.append(lr) or step(self, lr))
    learn = lambda models, rollout, *a: seen.append(rollout) or update(models, rollout, *a)
    monkeypatch.setattr(measure, "update", learn)
    assert measure.rl(TINY, algo)() == responses[0] * responses[1]
    (rollout,) = seen
    assert rollout.prompt_mask.shape == (responses[0], P) and rollout.prompt_mask.all()
    assert rollout.mask.shape == responses and rollout.mask.all() and len(stepped) == steps
    # Rows with one prompt may share its pass, so prompts differ as those of a real run do.
    assert len({tuple(row) for row in rollout.prompt_ids.tolist()}) == responses[0] // group


def test_a_model_in_a_folder_is_measured(tmp_path):
    tokenizer = Tokenizer([])
    checkpoint.save(tmp_path, GPT(GPTConfig(tokenizer.vocab_size, 300, 1, 1, 8)), tokenizer, {})
    assert measure.training(measure.Load(tmp_path, 2))() == 2 * 128


@pytest.mark.parametrize("argv, status, words", [
    ("--sizes tiny", 0, ["tiny      training", "tiny      sampling", "tiny      ppo", "tiny      grpo",
                         "tokenizer learn", "tokenizer encode", "tokens/s", "of the peak", " GB"]),
    ("--sizes tiny --rows ppo --lora 2", 0, ["tiny      ppo"]),
    ("--scaling", 0, ["context   training 8 ", "; time x 1.00, law 1.00; memory x 1.00, law 1.00\n", "training 16",
                      ", law 1.06\n"]),
    ("--scaling --lora 2", 2, ["--lora can do nothing beside --scaling"]),
    ("--sizes huge", 2, ["--sizes huge: there are tiny"]),
    ("--rows all", 2, ["--rows all: there are training, sampling, ppo, grpo, tokenizer"]),
    ("--sizes tiny --repeats 0", 2, ["--repeats 0: must be at least 1"]),
])  # fmt: skip
def test_each_figure_has_a_line(argv, status, words, tiny_bench, capsys):
    out, err = called(argv, status, tiny_bench, capsys)
    assert all(word in out + err for word in words) and err.count("\n") == (status == 2)
    assert not [line for line in out.splitlines() if line.startswith("tokenizer") and "peak" in line]


def test_json_is_one_object_with_the_machine_and_the_rows(tiny_bench, capsys):
    told = json.loads(called("--sizes tiny --rows training --json", 0, tiny_bench, capsys)[0])
    assert {"device", "dtype", "threads", "torch", "peak", "rows"} <= set(told)
    assert [(row["size"], row["row"], row["unit"]) for row in told["rows"]] == [("tiny", "training", "tokens/s")]


@pytest.fixture
def tiny_bench(monkeypatch):
    """The tool with a tiny size, a tiny ladder and no processes."""
    monkeypatch.setattr(measure, "SIZES", dict.fromkeys(("tiny", "small", "baby"), TINY))
    monkeypatch.setattr(measure, "SQUARE", {"cpu": 64})
    ladder = {T: measure.Load(GPTConfig(5, T, 1, 1, 8), 64 // T) for T in (8, 16)}
    monkeypatch.setattr(measure, "LADDERS", {"context": ("training", ladder)})
    monkeypatch.setattr(measure, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(measure, "BPE", {name: (lambda load: lambda: 1.0, "MB/s") for name in measure.BPE})
    return monkeypatch


def called(argv: str, status: int, monkeypatch, capsys) -> tuple[str, str]:
    """What the tool prints to stdout and stderr."""
    few = "" if "--repeats" in argv else "--repeats 1"
    monkeypatch.setattr(sys, "argv", ["bench", *f"{argv} {few} --threads 1".split()])
    if status:
        with pytest.raises(SystemExit) as stop:
            run_script(bench.main)
        assert stop.value.code == status
    else:
        run_script(bench.main)
    return capsys.readouterr()
