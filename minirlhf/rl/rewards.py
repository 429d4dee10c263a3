"""Rewards: functions of (prompt, response, record), and how they are called.

    def reward(prompt: str, response: str, record: dict) -> float

A reward may have `many(cases)` for a whole batch, as a reward model has. What it returns is checked: NaN, or an
exception, ends in one line that names the case. Proved by tests/rl/test_rewards.py.
"""

from collections.abc import Callable, Sequence
from math import isfinite

from minirlhf.harness.files import UserError
from minirlhf.lm.records import messages_of

Reward = Callable[[str, str, dict], float]
RewardOf = Callable[[dict], Reward]  # of a record: its reward


def call_reward(reward: Reward, prompt: str, response: str, record: dict) -> float:
    """The reward as a finite float. Raises UserError naming the prompt where the function raises or returns none."""
    try:
        value = float(reward(prompt, response, record))
    except Exception as error:  # a user's function may raise anything
        where = f"for prompt {prompt[-60:]!r} and response {response[:60]!r}"
        raise UserError(f"the reward raised {type(error).__name__}: {error} {where}") from error
    return finite(value, prompt, response)


def finite(value: float, prompt: str, response: str) -> float:
    """The value. Raises UserError for NaN and infinity."""
    if not isfinite(value):
        where = f"for prompt {prompt[-60:]!r} and response {response[:60]!r}"
        raise UserError(f"the reward is {value} {where}: return a finite number")
    return value


def prompt_text(record: dict) -> str:
    """What the user said last: the prompt as a reward function sees it."""
    return [m["content"] for m in messages_of(record) if m["role"] == "user"][-1]


def call_rewards(reward_of: RewardOf, cases: Sequence[tuple[str, str, dict]]) -> list[float]:
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
    return [finite(value, prompt, response) for value, (prompt, response, _) in zip(values, cases)]
