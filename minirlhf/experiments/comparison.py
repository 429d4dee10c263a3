"""Rows of algorithms compared on equal budgets, from one SFT model: what a row is, its runs, the tables.

    grpo    grpo:kl_in=reward    ppo:lam=0.9,whiten=no        an algorithm, perhaps with choices replaced

A run is judged on held-out prompts by reward, KL and J = reward − β KL, and where J* is known by its share of the
achievable objective, (J − J_ref) / (J* − J_ref). Proved by tests/experiments/test_comparison.py.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from minirlhf.evaluation.ask import Policy
from minirlhf.evaluation.optimum import reference_optimum
from minirlhf.evaluation.reports import mean_over_runs
from minirlhf.evaluation.table import SHORT, markdown_table, number
from minirlhf.evaluation.verdicts import adjust
from minirlhf.experiments.config import Comparison
from minirlhf.experiments.trials import Questions, kept, optimise, task_items
from minirlhf.harness.files import UserError
from minirlhf.harness.options import parse
from minirlhf.rl.config import PPOConfig
from minirlhf.rl.optimum import LEAST

SHARED = "algo", "iterations", "batch", "max_new", "save_every"  # what no row can choose
CHOICES = [f.name for f in fields(PPOConfig) if f.name not in SHARED]
TUNING_SEED, START = 1000, "SFT"
CALIBRATION = 5  # rounds whose CPU time says how many fit --cpu-seconds
Means = dict[str, np.ndarray]  # reward, kl, J -> (P,): what a run reached on each held-out prompt


@dataclass(frozen=True)
class Contest:
    """What all runs of a table share."""

    task: Questions
    start: Policy
    options: Comparison
    dtype: torch.dtype

    def kept(self, name: str, make: Callable[[], dict]) -> dict:
        """`trials.kept` by that name; not everywhere may a file's name have a colon."""
        return kept(Path(self.options.out) / self.task.NAME / f"{name.replace(':', ' ')}.json", make)

    def train(self, config: PPOConfig, seed: int) -> tuple[Policy, dict]:
        """A policy that began at the start, and its cost."""
        policy = replace(self.start, model=deepcopy(self.start.model))
        return policy, optimise(policy, self.task, lambda record: self.task.reward, config, seed, self.dtype)

    def judge(self, policy: Policy, samples: int, split: str = "test") -> tuple[list[dict], dict]:
        """A policy's items, and what it reached on each prompt; as many of training as are held out."""
        items = task_items(policy, self.start, self.task, self.options.held_out, samples, split=split)
        columns = {"reward": [x["scores"]["reward"] for x in items], "kl": [x["kl"] for x in items]}
        return items, {name: np.reshape(x, (-1, samples)).mean(1).tolist() for name, x in columns.items()}


def config_of(row: str, lr: float, rounds: int, options: Comparison) -> PPOConfig:
    """The settings that all share, and a row's own in their place. Raises UserError."""
    algo, colon, choices = row.partition(":")
    shared = {"batch": options.batch, "beta": options.beta, "lr": lr, "minibatches": 4, "iterations": rounds}
    shared |= {"warmup": max(1, rounds // 8), "save_every": rounds}
    words = [f"--algo={algo}", *(f"--{key.replace('_', '-')}={value!r}" for key, value in shared.items())]
    try:
        for key, _, value in (choice.partition("=") for choice in choices.split(",") if colon):
            if key.replace("-", "_") not in CHOICES:
                raise UserError(f"no choice {key!r}; there are {', '.join(CHOICES)}")
            flag = key.replace("_", "-")
            words.append({"yes": f"--{flag}", "no": f"--no-{flag}"}.get(value, f"--{flag}={value}"))
        (config,) = parse("", PPOConfig, argv=words)
        if config.batch < config.algorithm.group:
            raise UserError(f"--batch {config.batch}: less than a group of {config.algorithm.group} responses")
    except UserError as error:
        raise UserError(f"--algos {row}: {error}") from None
    return config


def rounds_of(row: str, lr: float, contest: Contest) -> int:
    """Rounds of each run of a row: --iterations, or as many as fit --cpu-seconds, one fewer where a critic is started.

    A round costs the median of CALIBRATION that TUNING_SEED begins with. It is kept, so all seeds have as many rounds.
    """
    if not contest.options.cpu_seconds:
        return contest.options.iterations
    config = config_of(row, lr, CALIBRATION + 1, contest.options)

    def measure() -> dict:
        log = contest.train(config, TUNING_SEED)[1]["log"]
        return {"cpu": float(np.median(np.diff([x["cpu"] for x in log])))}

    rounds = int(contest.options.cpu_seconds / contest.kept(f"{row}, a round", measure)["cpu"])
    return max(1, rounds - (config.algorithm.baseline == "value"))


def runs_of(row: str, rates: Sequence[float], contest: Contest, bar: tqdm) -> list[dict]:
    """The runs of one row. Of several learning rates the highest J chooses: of TUNING_SEED, on prompts of training."""
    rounds, options = rounds_of(row, rates[0], contest), contest.options
    configs = {c.lr: c for c in (config_of(row, lr, rounds, options) for lr in rates)}  # one, of a row's own lr

    def made(lr: float, seed: int) -> dict:
        # What is reported has chosen nothing.
        split, called = ("train", "tuning") if seed == TUNING_SEED else ("test", f"seed {seed}")

        def make() -> dict:
            policy, cost = contest.train(configs[lr], seed)
            return {"lr": lr, "rounds": rounds, "means": contest.judge(policy, options.samples, split)[1]} | cost

        bar.set_postfix_str(name := f"{row}, lr {lr:g}, {called}")
        run = contest.kept(name, make)
        bar.update()
        return run

    best = next(iter(configs))
    if len(configs) > 1:
        best = max(configs, key=lambda lr: (means_of(made(lr, TUNING_SEED), options.beta)["J"].mean(), lr))
    return [made(best, seed) for seed in range(options.seeds)]


def start_of(contest: Contest) -> dict:
    """What the start reached on each prompt; room: J* − J(start), None where no share of it can be told; and why."""
    samples, beta = contest.options.reference_samples, contest.options.beta

    def measure() -> dict:
        items, means = contest.judge(contest.start, samples)
        found = reference_optimum(items, beta, np.arange(len(means["kl"]))) if beta else {"value": None}
        best, J, n = found["value"], float(np.mean(means["reward"])), found.get("effective_size", 0)
        few = f"it rests on {n:.0f} effective samples, fewer than {LEAST}: more --reference-samples, or a larger --beta"
        known = f"J* is not known: {few if beta else 'there is none without a beta'}"
        if best is not None:
            known = f"J* = {best:.3f} on {n:.0f} effective samples{', no more than the start has' * (best <= J)}"
        return {"means": means, "room": best - J if best is not None and best > J else None, "known": known}

    return contest.kept(f"{START}, {samples} samples", measure)


def means_of(run: dict, beta: float) -> Means:
    """What a run, or the start, reached on each prompt."""
    reward, kl = (np.array(run["means"][name]) for name in ("reward", "kl"))  # (P,) each
    return {"reward": reward, "kl": kl, "J": reward - beta * kl}


def tables(found: Mapping[str, list[dict]], start: dict, contest: Contest, against: str) -> tuple[str, dict]:
    """(The tables in Markdown, the best J first; row -> share of the optimum of each run, {} where J* is not known)."""
    options, origin = contest.options, means_of(start, contest.options.beta)
    means = {row: [means_of(run, options.beta) for run in runs] for row, runs in found.items()}
    means = dict(sorted(means.items(), key=lambda row: -np.mean([x["J"] for x in row[1]])))
    shares = {row: [float((x["J"] - origin["J"]).mean() / start["room"]) for x in runs]
              for row, runs in means.items() if start["room"]}  # fmt: skip

    def cell(values: Sequence[float], digits: int = 3) -> str:
        spread = f" ±{np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
        return f"{np.mean(values):.{digits}f}{spread}"

    lines = []
    for row, runs in [*means.items(), (START, [origin])]:
        reward, kl, J = ([x[name].mean() for x in runs] for name in origin)
        line = [row, *[cell(shares.get(row, [0.0]))] * bool(shares), cell(reward), cell(kl, 2), cell(J)]
        own = found.get(row, [])
        lines.append(line + ([f"{own[0]['lr']:g}", str(own[0]["rounds"]), cell([x["cpu"] for x in own], 1)] if own
                             else [""] * 3))  # fmt: skip
    head = ["row", *["share of the optimum"] * bool(shares), "reward", "KL, nats", "J", "lr", "rounds", "CPU s"]
    top = (f"{contest.task.NAME}: {options.batch} responses per round, beta {options.beta:g}, seeds: {options.seeds}, "
           f"{len(origin['J'])} held-out prompts; {start['known']}")  # fmt: skip
    paired = paired_table(means, [origin] * options.seeds, against)
    notes = ("±: standard deviation over seeds. [ ]: 95 %, for new training runs on new prompts, of two seeds or more. "
             "Verdicts: Holm's p over the rows of one comparison.")  # fmt: skip
    return "\n\n".join([top, markdown_table(head, lines), paired, notes]), shares


def paired_table(rows: Mapping[str, Sequence[Means]], starts: Sequence[Means], against: str) -> str:
    """Each row less the start, and less the row `against`, run by run and prompt by prompt: `mean_over_runs`."""
    lines = []
    for other, theirs in {START: starts, against: rows[against]}.items():
        cells = {row: [f"{row} − {other}"] for row in rows if row != other}
        for name, direction in {"reward": 1, "kl": 0, "J": 1}.items():
            gains = [[a[name] - b[name] for a, b in zip(rows[row], theirs)] for row in cells]
            family = [{"differences": {other: mean_over_runs(x, True, direction)}} for x in gains]
            adjust(family)
            for line, d in zip(cells.values(), (x["differences"][other] for x in family)):
                ends = f" [{number(d['low'], True)}, {number(d['high'], True)}]" if d["low"] is not None else ""
                line.append(f"{number(d['value'], True)}{ends} {SHORT.get(d['verdict'], d['verdict'])}")
        lines += cells.values()
    return markdown_table(["difference", "reward", "KL, nats", "J"], lines)
