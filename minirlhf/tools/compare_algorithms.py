"""Compare the algorithms on equal samples: python -m minirlhf.tools.compare_algorithms --init out/sft

Each gets as many responses and rounds, with one round more where a critic must be fitted first. Its learning rate is
chosen from the same few on a separate seed. Then it runs on `seeds` seeds. A run is judged on held-out prompts, by its
share of the achievable objective, (J − J_ref) / (J* − J_ref). J is reward − β KL. Every run is kept when it is done.
Called again, the tool goes on where it stopped. Proved by tests/tools/test_compare_algorithms.py.
"""

from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from minirlhf.evaluation.ask import Policy
from minirlhf.evaluation.optimum import reference_optimum
from minirlhf.experiments.trials import begun_with, kept, markdown_table, numbers, optimise, task_items
from minirlhf.harness.files import UserError, write_atomic
from minirlhf.harness.machine import Machine
from minirlhf.harness.options import option, parse, run_script
from minirlhf.html.svg import strip_plot
from minirlhf.lm import checkpoint
from minirlhf.rl.config import ALGORITHMS, PPOConfig
from minirlhf.rl.optimum import LEAST
from minirlhf.tasks import reward_of_task
from minirlhf.tasks.sources import parse_tasks

# What GRPO does differently from the rest, undone one choice at a time.
UNDONE = {"no std": {"baseline": "group"}, "k2 in the loss": {"kl": "k2"}, "KL in the reward": {"kl_in": "reward"}}
VARIANTS = {name: {"algo": name} for name in ALGORITHMS} | {
    f"grpo, {name}": {"algo": "grpo"} | choice for name, choice in UNDONE.items()}  # fmt: skip
TUNING_SEED = 1000


@dataclass(frozen=True)
class Comparison:
    """Comparison."""

    init: str = option("out/sft", "checkpoint folder: all start from it, and the KL is measured to it")
    task: str = option("reviews,arithmetic", "generated tasks, separated by commas; each is compared by itself")
    algos: tuple[str, ...] = option(tuple(VARIANTS), "algorithms to compare; put a name with spaces in quotes")
    lrs: tuple[str, ...] = option(("4e-4", "8e-4"), "learning rates to choose from")
    seeds: int = option(5, "runs per algorithm, with the chosen learning rate", least=1)
    iterations: int = option(30, "rounds per run", least=1)
    batch: int = option(128, "responses per round", least=1)
    beta: float = option(0.025, "KL coefficient: reward given up for a nat of KL")
    prompts: int = option(200, "held-out prompts to judge on", least=1)
    samples: int = option(4, "responses per held-out prompt", least=1)
    reference_samples: int = option(100, "responses of the reference per held-out prompt, for J*", least=1)
    out: str = option("out/algorithms", "folder for TASK/*.json, one file per run, and algorithms.TASK.svg")


def yardstick(start: Policy, task: str, options: Comparison) -> dict:
    """J_ref, and J* by `optimum.reference_optimum`, on held-out prompts. Raises UserError where they tell nothing."""
    items = task_items(start, start, task, options.prompts, options.reference_samples)
    known = reference_optimum(items, options.beta, np.arange(options.prompts))
    known["reference"] = float(np.mean([x["scores"]["reward"] for x in items]))
    if known["value"] is None:
        said = f"J* rests on {known['effective_size']:.0f} effective samples, fewer than {LEAST}"
        raise UserError(f"{said}: more --reference-samples, or a larger --beta")
    if known["value"] <= known["reference"]:
        raise UserError("no response earned more than the reference does on average, so nothing tells algorithms apart")
    return known


def config_of(name: str, lr: float, options: Comparison) -> PPOConfig:
    """The settings that all share, and the choices of this one."""
    alike = {key: getattr(options, key) for key in ("iterations", "batch", "beta")}
    alike |= {"minibatches": 4, "warmup": max(1, options.iterations // 8), "save_every": options.iterations}
    return PPOConfig(**VARIANTS[name], **alike, lr=lr)


def one_run(name: str, lr: float, seed: int, task: str, start: Policy, options: Comparison, dtype: torch.dtype) -> dict:
    """One training run and its judgement."""
    print(f"{task}: {name}, lr {lr:g}, seed {seed}")
    policy = replace(start, model=deepcopy(start.model))
    cost = optimise(policy, task, reward_of_task, config_of(name, lr, options), seed, dtype)
    items = task_items(policy, start, task, options.prompts, options.samples)
    reward, kl = (float(np.mean(x)) for x in zip(*((x["scores"]["reward"], x["kl"]) for x in items)))
    figures = {"reward": reward, "kl": kl, "objective": reward - options.beta * kl}
    return {"lr": lr, "seconds": cost["seconds"], "tokens": cost["tokens"]} | figures


def runs_of(name: str, rates: list[float], task: str, start: Policy, options: Comparison, dtype: torch.dtype) -> list:
    """The runs of one algorithm, with the learning rate that reached the highest J on TUNING_SEED."""
    def made(lr: float, seed: int) -> dict:
        path = Path(options.out) / task / f"{name}, lr {lr}, seed {seed}.json"
        return kept(path, lambda: one_run(name, lr, seed, task, start, options, dtype))

    tuned = [made(lr, TUNING_SEED) for lr in rates]
    best = max((x["objective"], x["lr"]) for x in tuned)[1]
    return [made(best, seed) for seed in range(options.seeds)]


def algorithm_table(found: dict[str, list[dict]]) -> str:
    """One row per algorithm: mean ± standard deviation over seeds."""
    def cell(runs: list[dict], key: str, digits: int) -> str:
        values = [x[key] for x in runs]
        spread = f" ±{np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
        return f"{np.mean(values):.{digits}f}{spread}"

    rows = []
    for name, runs in found.items():
        row = [name, f"{runs[0]['lr']:g}", *(cell(runs, *x) for x in (("share", 3), ("reward", 3), ("kl", 2)))]
        rows.append([*row, f"{min(x['share'] for x in runs):.3f}", f"{np.mean([x['seconds'] for x in runs]):.0f}"])
    return markdown_table(["algorithm", "lr", "share of the optimum", "reward", "KL, nats", "worst seed", "s"], rows)


def main() -> None:
    """Run what is not yet run, then print the tables and draw the figures."""
    options, machine = parse(__doc__, Comparison, Machine, without=("seed",))
    device, dtype = machine.set_up()
    if not options.algos or not set(options.algos) <= set(VARIANTS):
        raise UserError(f"--algos {' '.join(options.algos)}: there are {', '.join(VARIANTS)}")
    rates = numbers(options.lrs, "lrs", float, 1e-9, 1)
    if options.beta <= 0:
        raise UserError(f"--beta {options.beta}: must be above 0, or there is no J* to measure against")
    out, start = Path(options.out), Policy(*checkpoint.load(options.init))
    start.model.to(device).eval()
    settings = {k: getattr(options, k) for k in ("iterations", "batch", "beta", "prompts", "samples")}
    settings["init"] = checkpoint.fingerprint(start.model)
    for task in parse_tasks(options.task):
        known = yardstick(start, task, options)
        begun_with(out, settings)  # behind what may ask for another --beta
        room = known["value"] - known["reference"]
        found = {name: runs_of(name, rates, task, start, options, dtype) for name in options.algos}
        for x in sum(found.values(), []):
            x["share"] = (x["objective"] - known["reference"]) / room
        found = dict(sorted(found.items(), key=lambda row: -np.mean([x["share"] for x in row[1]])))
        rows = [(name, [x["share"] for x in runs]) for name, runs in found.items()]
        plot = strip_plot(f"{task}: what each algorithm reaches of the optimum", "share of J* − J(ref)", rows)
        write_atomic(out / f"algorithms.{task}.svg", plot.encode())
        print(f"\n{task}, {options.iterations} rounds of {options.batch} responses, beta {options.beta:g}, J(ref) = "
              f"{known['reference']:.3f}, J* = {known['value']:.3f} on {known['effective_size']:.0f} samples\n")
        print(algorithm_table(found))


if __name__ == "__main__":
    run_script(main)
