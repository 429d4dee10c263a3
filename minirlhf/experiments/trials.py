"""What the experiments of many runs share: numbers from words, results that are kept, prompts, PPO on them.

Each run is kept as a JSON file when it is done. Called again, an experiment makes what is missing. All results in a
folder have the same settings. Proved by tests/experiments/test_trials.py.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from pathlib import Path
from random import Random

import torch

from minirlhf.evaluation.ask import Policy, Protocol, sample_items
from minirlhf.experiments.config import HELD_OUT, OwnPrompts
from minirlhf.harness.files import Diverged, Interrupted, UserError, read_json, write_atomic
from minirlhf.harness.folders import read_log
from minirlhf.harness.loop import Run, Unharmed
from minirlhf.lm.batches import Mixture
from minirlhf.lm.reading import read_records
from minirlhf.lm.records import prompt_key, split_by_prompt
from minirlhf.rl.config import PPOConfig
from minirlhf.rl.options import RewardOptions, Turns
from minirlhf.rl.critic import start_critic
from minirlhf.rl.ppo import models_of, train
from minirlhf.rl.reward_files import load_rewards, reward_hash
from minirlhf.rl.rewards import Reward, RewardOf
from minirlhf.rl.watch import Description
from minirlhf.tasks import TASKS, prompts
from minirlhf.tasks.sources import OWN, data_hash, parse_tasks, with_room
from minirlhf.tasks.splits import draw_items


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
    if changed := [k for k in settings | before if before.get(k) != settings.get(k)]:
        what = f"{changed[0]} {before.get(changed[0])}, not {settings.get(changed[0])}"
        raise UserError(f"{out}: was begun with {what}; choose another --out")


@contextmanager
def begun_anew() -> Iterator[None]:
    """A run that is stopped in here, or fails, begins anew, though the loop names --resume: it is not spoken of."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        raise Interrupted("stopped; call the tool again: it keeps the runs done and begins this one anew") from None
    except (Unharmed, Diverged) as error:
        raise type(error)(error.__context__ or error) from None


@dataclass(frozen=True)
class Questions:
    """What is asked and how it is rewarded, with a task module's names (tasks/__init__.py) also for a user's own."""

    NAME: str
    MAX_NEW: int
    reward: Reward
    records: Callable[[str, int, int], list[dict]]  # (split, n, seed); of a user's held-out prompts at most n
    about: dict = field(default_factory=dict)  # what of it decides a result, for `begun_with`


def questions(
    words: str, own: OwnPrompts, judged: RewardOptions, start: Policy, talk: Turns = Turns()
) -> list[Questions]:  # fmt: skip
    """Those of the generated tasks in `words`, or of the user's own prompts. Raises UserError."""
    reward = load_rewards(judged, start.model.wte.weight.device)
    about = {"reward": list(map(reward_hash, judged.reward))}
    if talk != Turns():
        about["conversations"] = [talk.environment and reward_hash(talk.environment), talk.turns]
    if not own.prompts:
        tasks = {name: TASKS[name] for name in parse_tasks(words)}
        return [Questions(name, t.MAX_NEW, reward or t.reward, partial(prompts, t), about) for name, t in tasks.items()]
    if not reward:
        raise UserError("--prompts without --reward: say what is good, FILE.py:FUNCTION or model:DIR")
    sides = sides_of(own, start)

    def records(split: str, n: int, seed: int) -> list[dict]:
        return draw_items(sides[split], n if split == "train" else min(n, len(sides[split])), Random(seed), split)

    about |= {"prompts": data_hash([sides])[:12], "max_new": own.max_new}
    return [Questions(OWN, own.max_new, reward, records, about)]


def sides_of(own: OwnPrompts, start: Policy) -> dict[str, list[dict]]:
    """The user's prompts to train on, and distinct ones to judge on, none of them on both sides. Raises UserError."""
    def read(files: Sequence[str]) -> list[dict]:
        found = read_records(files, own.map, "left to the reward")
        return with_room(found, [start.prompt], start.model.config.context, " ".join(files))

    records = read(own.prompts)
    others = read(own.eval_prompts) if own.eval_prompts else split_by_prompt(records, HELD_OUT)["validation"]
    test = {prompt_key(record): record for record in others}
    train = [record for record in records if prompt_key(record) not in test]
    said = f"{len(train):,} of {len(records):,} records to train on, {len(test):,} other prompts held out"
    if not train or len(test) < 2:
        raise UserError(f"--prompts: {said}: give more, or --eval-prompts with two or more others")
    print(said)
    return {"train": train, "test": list(test.values())}


def optimise(
    policy: Policy, task: Questions, reward_of: RewardOf, config: PPOConfig, seed: int, dtype: torch.dtype,
    out: Path | None = None,
) -> dict:  # fmt: skip
    """Train the policy's model in place on the task's training prompts. Returns the cost, its CPU seconds, the log.

    A round has `config.batch` responses.  out: folder of the log; None: a folder that is gone afterwards.
    Raises Interrupted, as `begun_anew` does.
    """
    sets = {task.NAME: (task.records("train", 20_000, seed), config.batch / config.algorithm.group)}
    torch.manual_seed(seed)
    config, records_of = replace(config, max_new=task.MAX_NEW), Mixture(sets, seed).step
    with begun_anew(), tempfile.TemporaryDirectory() as folder:
        run = Run(out or Path(folder, config.algo), seed, dtype, overwrite=True)
        models = replace(models_of(policy.model, policy.tokenizer, config.algorithm, dtype), speak=policy.speak)
        start_critic(models, records_of, reward_of, config, run)
        watchers = [Description(config.algorithm), lambda *_: {"cpu": time.process_time() - begun}]
        begun = time.process_time()
        cost = train(models, records_of, reward_of, config, run, watchers)
        cost["cpu"] = time.process_time() - begun
        return cost | {"log": [x for _, x in read_log(run.out / "log.jsonl")]}


def task_items(
    policy: Policy, reference: Policy, task: Questions, prompts: int, samples: int, seed: int = 0, split: str = "test"
) -> list[dict]:
    """`samples` items per prompt of the split, with the task's reward and the KL to the reference."""
    protocol = Protocol(lambda record: task.reward, task.MAX_NEW, samples, seed)
    items = sample_items(policy, reference, task.records(split, prompts, 0), protocol)
    return [x for x in items if x["sample"] >= 0]
