"""Rewards: functions of a prompt, a response and its record, and how they are called.

    def reward(prompt: str, response: str, record: dict) -> float                              of one response
    def reward(prompts: list[str], responses: list[str], records: list[dict]) -> list[float]   of many

The names of the parameters tell the two apart. Proved by tests/rl/test_rewards.py.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from inspect import iscoroutine

from minirlhf.harness.files import UserError
from minirlhf.harness.loop import Unharmed
from minirlhf.harness.user_code import number, parameters_of, place_of, shown
from minirlhf.lm.records import messages_of

Reward = Callable[[str, str, dict], float] | Callable[[list[str], list[str], list[dict]], list[float]]
RewardOf = Callable[[dict], Reward]  # of a record: its reward
Case = tuple[str, str, dict]  # prompt, response, record
LISTS = ["prompts", "responses", "records"]  # the parameters of a reward of many


def prompt_text(record: dict) -> str:
    """What the user said last: the prompt as a reward function sees it. The whole conversation is in the record."""
    return [m["content"] for m in messages_of(record) if m["role"] == "user"][-1]


def call_rewards(reward_of: RewardOf, cases: Sequence[Case]) -> list[float]:
    """`ask` of each case, where reward_of(record) is the record's reward function."""
    rewards, scores = [reward_of(record) for _, _, record in cases], {}
    for reward in {id(reward): reward for reward in rewards}.values():
        rows = [i for i, other in enumerate(rewards) if other is reward]
        scores |= zip(rows, ask(reward, [cases[i] for i in rows]))
    return [scores[i] for i in range(len(cases))]


def ask(reward: Reward, cases: Sequence[Case]) -> list[float]:
    """The reward of each case, with a copy of its record. Raises UserError for anything but finite float32 numbers."""
    many = parameters_of(reward)[:3] == LISTS
    if not cases or not many and len(cases) != 1:
        return [value for case in cases for value in ask(reward, [case])]
    try:
        copies = [(prompt, response, deepcopy(record)) for prompt, response, record in cases]
        said = reward(*map(list, zip(*copies))) if many else reward(*copies[0])
        if iscoroutine(said):
            said.close()  # or Python warns that nobody awaited it
            raise TypeError("it is async, give a plain function")
        said = list(said) if many else [said]
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a user's function may raise anything, SystemExit too
        what = f"raised {type(error).__name__}: {shown(error, str, 300)}"
        raise refusal(what, place_of(reward, error), cases) from error
    numbers = [number(x) for x in said]
    if len(numbers) != len(cases):
        raise refusal(f"gave {len(numbers)} numbers for {len(cases)} responses", place_of(reward), cases)
    if None in numbers:
        i = numbers.index(None)
        raise refusal(f"is {shown(said[i])}, no finite float32 number", place_of(reward), [cases[i]])
    return numbers


def refusal(what: str, place: str, cases: Sequence[Case]) -> Unharmed:
    """The error of a reward, which names its prompt and response: of many, the first."""
    (prompt, response, _), more = cases[0], f", the first of {len(cases)}" if len(cases) > 1 else ""
    return Unharmed(f"the reward {what} ({place}) for prompt {prompt[-60:]!r} and response {response[:60]!r}{more}")
