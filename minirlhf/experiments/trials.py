"""What the experiments of many runs share: numbers from words, results that are kept, PPO on a generated task.

Each run is kept as a JSON file when it is done. Called again, an experiment makes what is missing. All results in a
folder have the same settings. Proved by tests/experiments/test_trials.py.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from pathlib import Path

import torch

from minirlhf.evaluation.ask import Policy, Protocol, sample_items
from minirlhf.harness.files import Interrupted, UserError, read_json, write_atomic
from minirlhf.harness.loop import Run
from minirlhf.lm.batches import Mixture
from minirlhf.rl.config import PPOConfig
from minirlhf.rl.critic import start_critic
from minirlhf.rl.ppo import models_of, train
from minirlhf.rl.rewards import RewardOf
from minirlhf.rl.watch import Description
from minirlhf.tasks import TASKS, reward_of_task


def numbers(words: Sequence[str], name: str, kind: type, least: float, most: float = inf) -> list:
    """The words of an option as numbers, each once. Raises UserError unless all are from least to most."""
    try:
        values = list(dict.fromkeys(kind(word) for word in words))
    except ValueError:
        values = []
    if not values or not all(least <= x <= most and x < inf for x in values):
        ends = f"from {least:g} to {most:g}" if most < inf else f"of {least:g} or more"
        raise UserError(f"--{name} {' '.join(words)}: give numbers {ends}")
    return values


def kept(path: Path, make: Callable[[], dict]) -> dict:
    """The JSON object in the file, first written with what `make` returns if there is none. Raises UserError."""
    if not path.exists():
        write_atomic(path, json.dumps(make()).encode())
    try:
        return read_json(path)
    except UserError as error:
        raise UserError(f"{error}; delete it, and it is made again") from None


def begun_with(out: Path, settings: dict) -> None:
    """Compare the settings with those that the folder was begun with. Raises UserError where one has changed."""
    before = kept(out / "settings.json", lambda: settings)
    if changed := [k for k in settings if before.get(k) != settings[k]]:
        what = f"{changed[0]} {before.get(changed[0])}, not {settings[changed[0]]}"
        raise UserError(f"{out}: was begun with {what}; choose another --out")


@contextmanager
def begun_anew() -> Iterator[None]:
    """A run that is stopped in here begins anew, though the loop names --resume. Raises Interrupted, which says so."""
    try:
        yield
    except Interrupted:
        raise Interrupted("stopped; call the tool again: it keeps the runs done and begins this one anew") from None


def optimise(
    policy: Policy, task: str, reward_of: RewardOf, config: PPOConfig, seed: int, dtype: torch.dtype,
    out: Path | None = None,
) -> dict:  # fmt: skip
    """Train the policy's model in place on the task's training prompts, without their responses. Returns the cost.

    A round has `config.batch` responses.  out: folder of the log; None: a folder that is gone afterwards.
    Raises Interrupted, as `begun_anew` does.
    """
    prompts = [{k: v for k, v in r.items() if k != "response"} for r in TASKS[task].records("train", 20_000, seed)]
    sets = {task: (prompts, config.batch / config.algorithm.group)}
    torch.manual_seed(seed)
    config, records_of = replace(config, max_new=TASKS[task].MAX_NEW), Mixture(sets, seed).step
    with begun_anew(), tempfile.TemporaryDirectory() as folder:
        run = Run(out or Path(folder, config.algo), seed, dtype, overwrite=True)
        models = models_of(policy.model, policy.tokenizer, config.algorithm, dtype)
        start_critic(models, records_of, reward_of, config, run)
        return train(models, records_of, reward_of, config, run, [Description(config.algorithm)])


def task_items(policy: Policy, reference: Policy, task: str, prompts: int, samples: int, seed: int = 0) -> list[dict]:
    """`samples` items per held-out prompt of the task, with the task's reward and the KL to the reference."""
    protocol = Protocol(reward_of_task, TASKS[task].MAX_NEW, samples, seed)
    items = sample_items(policy, reference, TASKS[task].records("test", prompts, 0), protocol)
    return [x for x in items if x["sample"] >= 0]


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table: `left` columns of words, then right-aligned numbers."""
    rule = ["---"] * left + ["--:"] * (len(head) - left)
    lines = [" | ".join(row) for row in (head, rule, *rows)]
    return "\n".join(f"| {x} |" for x in lines)
