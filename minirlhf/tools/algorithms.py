"""Compare the algorithms on equal samples: python -m minirlhf.tools.algorithms --init out/sft

Each gets as many responses and rounds (one round more where a critic is to be fitted), a learning rate chosen
among the same few on a seed of its own, and then `seeds` runs. A run is judged on held-out prompts by the share
of the achievable objective that it reached, (J − J_ref) / (J* − J_ref). Every run is a line in the results as
soon as it is done; called again, the tool goes on where it stopped. Proved by tests/test_algorithms.py.
"""

import json
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from math import inf
from pathlib import Path

import numpy as np
import torch

from minirlhf import checkpoint
from minirlhf.data import Mixture
from minirlhf.evaluation import sample_items
from minirlhf.files import UserError, write_atomic
from minirlhf.matrix import ALGORITHMS
from minirlhf.model import GPT
from minirlhf.ppo import PPOConfig, train
from minirlhf.regret import LEAST, effective_size, optimal_objective
from minirlhf.loop import Interrupted, Run
from minirlhf.runtime import Machine, option, parse, run_script
from minirlhf.sources import parse_tasks, reward_of_task
from minirlhf.svg import strip_plot
from minirlhf.tasks import TASKS
from minirlhf.tokenizer import Tokenizer
from minirlhf.watch import Description

# What GRPO does otherwise than the rest, undone one choice at a time.
UNDONE = {
    "grpo, no std": {"algo": "grpo", "baseline": "group"},
    "grpo, k2 in the loss": {"algo": "grpo", "kl": "k2"},
    "grpo, KL in the reward": {"algo": "grpo", "kl_in": "reward", "kl": "k1"},
}
VARIANTS = {name: {"algo": name} for name in ALGORITHMS} | UNDONE
TUNING_SEED = 1000


@dataclass(frozen=True)
class Comparison:
    """Comparison."""

    init: str = option("out/sft", "checkpoint folder that all start from, and the reference of the KL")
    task: str = option("reviews,arithmetic", "generated tasks, each compared by itself")
    algos: tuple[str, ...] = option(tuple(VARIANTS), "what to compare; in quotes where the name has spaces")
    lrs: tuple[str, ...] = option(("4e-4", "8e-4"), "learning rates to choose among")
    seeds: int = option(5, "runs of each with the rate chosen", least=1)
    iterations: int = option(30, "rounds", least=1)
    batch: int = option(128, "responses a round", least=1)
    beta: float = option(0.025, "KL coefficient")
    prompts: int = option(200, "held-out prompts to judge on", least=1)
    samples: int = option(4, "responses to each", least=1)
    reference_samples: int = option(100, "responses of the reference to each, for J*", least=1)
    out: str = option("out/algorithms", "folder for results.TASK.jsonl and algorithms.TASK.svg")


def answers(model: GPT, start: tuple[GPT, Tokenizer], task: str, prompts: int, samples: int) -> list[dict]:
    """Sampled items of a model on the held-out prompts, with reward and KL."""
    reference, tokenizer = start
    records = TASKS[task].records("test", prompts, 0)
    items = sample_items(
        model, reference, tokenizer, records, reward_of_task, TASKS[task].MAX_NEW, samples, 0
    )
    return [x for x in items if x["sample"] >= 0]


def yardstick(start: tuple[GPT, Tokenizer], task: str, options: Comparison) -> dict[str, float]:
    """J_ref and J* of the held-out prompts, from samples of the reference alone, and how many they are worth."""
    items = answers(start[0], start, task, options.prompts, options.reference_samples)
    rewards = np.array([x["scores"]["reward"] for x in items])
    ones = np.ones(len(rewards))
    return {
        "reference": float(rewards.mean()),
        "optimum": optimal_objective(rewards, ones, options.beta),
        "effective_size": effective_size(rewards, ones, options.beta),
    }


def config_of(name: str, lr: float, options: Comparison) -> PPOConfig:
    """What is the same for all, and the choices of the one."""
    return PPOConfig(
        **VARIANTS[name], iterations=options.iterations, batch=options.batch, lr=lr, beta=options.beta,
        minibatches=4, warmup=max(1, options.iterations // 8), save_every=options.iterations,
    )  # fmt: skip


def run(name: str, lr: float, seed: int, task: str, start: tuple[GPT, Tokenizer], options: Comparison, dtype) -> dict:
    """One training run and its judgement."""
    reference, tokenizer = start
    config = replace(config_of(name, lr, options), max_new=TASKS[task].MAX_NEW)
    sets = {task: (TASKS[task].records("train", 20_000, seed), options.batch / config.row.group)}
    policy = deepcopy(reference)
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        _, cost = train(
            policy, tokenizer, Mixture(sets, seed).step, reward_of_task, config, Run(Path(folder), seed, dtype),
            [Description(config.row)],
        )  # fmt: skip
    items = answers(policy, start, task, options.prompts, options.samples)
    reward, kl = (float(np.mean(x)) for x in zip(*((x["scores"]["reward"], x["kl"]) for x in items)))
    figures = {"reward": reward, "kl": kl, "objective": reward - options.beta * kl}
    return {"seconds": cost["seconds"], "tokens": cost["tokens"]} | figures


def plan(options: Comparison, done: list[dict]) -> Iterator[tuple[str, float, int]]:
    """(name, lr, seed) of the runs that are still to be made, given those done when it is asked for the next."""
    def made(name: str, lr: float, seed: int) -> bool:
        return any((x["algo"], x["lr"], x["seed"]) == (name, lr, seed) for x in done)

    for name in options.algos:
        rates = [float(lr) for lr in options.lrs]
        for lr in rates:
            if not made(name, lr, TUNING_SEED):
                yield name, lr, TUNING_SEED
        best = chosen(name, done)
        for seed in range(options.seeds):
            if not made(name, best, seed):
                yield name, best, seed


def chosen(name: str, done: list[dict]) -> float:
    """The learning rate with which the tuning run reached the highest J."""
    return max((x["objective"], x["lr"]) for x in done if x["algo"] == name and x["seed"] == TUNING_SEED)[1]


def shares(done: list[dict], known: dict[str, float]) -> dict[str, list[dict]]:
    """name -> its runs at the rate chosen, each with `share`, (J − J_ref) / (J* − J_ref) by one yardstick.

    Raises UserError where J* is not known well enough, or nothing is better than the reference.
    """
    room = known["optimum"] - known["reference"]
    if known["effective_size"] < LEAST:
        size = f"{known['effective_size']:.0f} effective samples"
        raise UserError(f"J* rests on {size}, fewer than {LEAST}: more --reference-samples, or a larger --beta")
    if room <= 0:
        raise UserError("no response earned more than the reference does on average: nothing to tell them apart by")
    table: dict[str, list[dict]] = {}
    for x in done:
        if x["seed"] != TUNING_SEED and x["lr"] == chosen(x["algo"], done):
            table.setdefault(x["algo"], []).append(x | {"share": (x["objective"] - known["reference"]) / room})
    return table


def is_rate(word: str) -> bool:
    """Whether it is a finite number above 0."""
    try:
        return 0 < float(word) < inf
    except ValueError:
        return False


def markdown(table: dict[str, list[dict]]) -> str:
    """A row an algorithm: mean ± standard deviation over seeds."""
    def cell(runs: list[dict], key: str, digits: int) -> str:
        values = [x[key] for x in runs]
        spread = f" ±{np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
        return f"{np.mean(values):.{digits}f}{spread}"

    lines = ["| algorithm | lr | share of the optimum | reward | KL, nats | worst seed | s |", "|---|" + "---|" * 6]
    for name, runs in sorted(table.items(), key=lambda row: -np.mean([x["share"] for x in row[1]])):
        worst = min(x["share"] for x in runs)
        lines.append(f"| {name} | {runs[0]['lr']:g} | {cell(runs, 'share', 3)} | {cell(runs, 'reward', 3)} "
                     f"| {cell(runs, 'kl', 2)} | {worst:.3f} | {np.mean([x['seconds'] for x in runs]):.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is not yet run, then print the tables and draw the figures."""
    options, machine = parse(__doc__.splitlines()[0], Comparison, Machine)
    device, dtype = machine.set_up()
    if not options.algos or not set(options.algos) <= set(VARIANTS):
        raise UserError(f"--algos {' '.join(options.algos)}: there are {', '.join(VARIANTS)}")
    if not options.lrs or not all(map(is_rate, options.lrs)):
        raise UserError(f"--lrs {' '.join(options.lrs)}: give numbers above 0")
    if options.beta <= 0:
        raise UserError(f"--beta {options.beta}: must be above 0, or there is no J* to measure against")
    reference, tokenizer = checkpoint.load(options.init)
    reference.to(device).eval()
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    for task in parse_tasks(options.task):
        path = out / f"results.{task}.jsonl"
        settings = {"init": checkpoint.fingerprint(reference), "prompts": options.prompts, "samples": options.samples}
        settings["training"] = asdict(config_of("ppo", 1.0, options))
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        done = [x for x in map(json.loads, lines) if x["settings"] == settings]
        for name, lr, seed in plan(options, done):
            print(f"{task}: {name}, lr {lr:g}, seed {seed}")
            try:
                figures = run(name, lr, seed, task, (reference, tokenizer), options, dtype)
            except Interrupted:  # what `train` saved is gone with its folder
                raise Interrupted("stopped; called again, the tool begins this run anew, behind those done") from None
            done.append({"algo": name, "lr": lr, "seed": seed} | figures | {"settings": settings})
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(done[-1]) + "\n")
        known = yardstick((reference, tokenizer), task, options)
        table = {name: runs for name, runs in shares(done, known).items() if name in options.algos}
        print(f"\n{task}, {options.iterations} rounds of {options.batch} responses, beta {options.beta:g}, J(ref) = "
              f"{known['reference']:.3f}, J* = {known['optimum']:.3f} on {known['effective_size']:.0f} samples\n")
        print(markdown(table))
        rows = [(name, [x["share"] for x in runs]) for name, runs in table.items()]
        rows.sort(key=lambda row: -np.mean(row[1]))
        plot = strip_plot(f"{task}: what each algorithm reaches of the optimum", "share of J* − J(ref)", rows, 0.0, 1.0)
        write_atomic(out / f"algorithms.{task}.svg", plot.encode())


if __name__ == "__main__":
    run_script(main)
