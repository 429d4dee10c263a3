"""Rewards: functions of (prompt, response, record), how they are found and how they are called.

    def reward(prompt: str, response: str, record: dict) -> float

A reward may have `many(cases)` for a whole batch, as a reward model has. What it returns is checked: NaN, or an
exception, ends in one line that names the case. Proved by tests/rl/test_rewards.py.
"""

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from minirlhf.harness.files import UserError
from minirlhf.lm.records import messages_of
from minirlhf.rl.reward_model import load_reward_model

Reward = Callable[[str, str, dict], float]


def call_reward(reward: Reward, prompt: str, response: str, record: dict) -> float:
    """The reward as a finite float. Raises UserError naming the prompt where the function raises or returns none."""
    where = f"for prompt {prompt[-60:]!r} and response {response[:60]!r}"
    try:
        value = float(reward(prompt, response, record))
    except Exception as error:  # a user's function may raise anything
        raise UserError(f"the reward raised {type(error).__name__}: {error} {where}") from error
    if value - value != 0:
        raise UserError(f"the reward is {value} {where}: return a finite number")
    return value


def prompt_text(record: dict) -> str:
    """What the user said last: the prompt as a reward function sees it."""
    return [m["content"] for m in messages_of(record) if m["role"] == "user"][-1]


def call_rewards(reward_of: Callable[[dict], Reward], cases: Sequence[tuple[str, str, dict]]) -> list[float]:
    """The reward of each (prompt, response, record). reward_of(record) is the record's reward function.

    One with a method `many`, from a list of cases to a list of floats, as a network has it, is asked for all
    its cases at once; any other for one after another. Raises UserError as `call_reward` does.
    """
    rewards = [reward_of(record) for _, _, record in cases]
    scores = [0.0] * len(cases)
    for reward in {id(reward): reward for reward in rewards}.values():
        rows = [i for i, other in enumerate(rewards) if other is reward]
        some = [cases[i] for i in rows]
        values = call_many(reward, some) if hasattr(reward, "many") else [call_reward(reward, *case) for case in some]
        for i, value in zip(rows, values):
            scores[i] = value
    return scores


def call_many(reward: Reward, cases: list[tuple[str, str, dict]]) -> list[float]:
    """reward.many(cases) as finite floats, one for each. Raises UserError."""
    try:
        values = [float(value) for value in reward.many(cases)]
    except Exception as error:  # a user's function may raise anything
        raise UserError(f"the reward's many() raised {type(error).__name__}: {error} for {len(cases)} cases") from error
    if len(values) != len(cases):
        raise UserError(f"the reward's many() returned {len(values)} numbers for {len(cases)} cases")
    for case, value in zip(cases, values):
        call_reward(lambda *_: value, *case)  # says for which it is not finite
    return values


def reward_hash(spec: str) -> str:
    """SHA-256 of the file behind a reward of `load_reward`, so that a resume can say that it has changed; "" of none."""
    if not spec:
        return ""
    folder, path = spec.removeprefix("model:"), spec.rpartition(":")[0]
    file = Path(folder) / "model.safetensors" if folder != spec else Path(path)
    return hashlib.sha256(file.read_bytes()).hexdigest()


def load_reward(spec: str, device: torch.device | str = "cpu") -> Reward:
    """The function `fn` of the Python file in "my_reward.py:fn", or the reward model in "model:DIR".

    device: of a reward model.  Raises UserError.
    """
    if spec.startswith("model:"):
        return load_reward_model(spec.removeprefix("model:"), device)
    path, _, name = spec.rpartition(":")
    if not path or not Path(path).is_file():
        missing = "the FUNCTION is missing" if Path(spec).is_file() else f"there is no file {path or spec!r}"
        raise UserError(f"--reward {spec}: give FILE.py:FUNCTION or model:DIR; {missing}")
    module_spec = importlib.util.spec_from_file_location(f"reward_{Path(path).stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"--reward {spec}: {path} is not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # dataclasses look their module up there
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:  # a user's file may raise anything
        raise UserError(f"--reward {spec}: {path} raised {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        found = [k for k, v in vars(module).items() if callable(v) and not k.startswith("_")]
        raise UserError(f"--reward {spec}: no function {name!r} in {path}; found {', '.join(found) or 'none'}")
    return function
