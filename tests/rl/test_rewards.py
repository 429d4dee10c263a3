"""Rewards: called in either form, and refused where they give no number."""

from decimal import Decimal
from fractions import Fraction
from functools import partial
from math import inf, nan

import numpy as np
import pytest
import torch

from minirlhf.harness.files import UserError
from minirlhf.harness.options import run_script
from minirlhf.rl.rewards import ask, call_rewards

CASE = ("the\nprompt", "the\nresponse", {})


@pytest.mark.parametrize("reward, message", [
    (lambda p, r, record: nan, "the reward is nan"),
    (lambda p, r, record: -inf, "the reward is -inf"),
    (lambda p, r, record: torch.tensor(nan), "the reward is tensor(nan)"),
    (lambda p, r, record: None, "the reward is None"),
    (lambda p, r, record: {}["score"], "the reward raised KeyError: 'score'"),
    (lambda p, r: 1.0, "the reward raised TypeError"),
    (lambda p, r, record: int("one\ntwo"), "the reward raised ValueError"),
])
def test_a_reward_that_is_no_finite_number_is_refused_in_one_line(reward, message, capsys):
    """The line names what was wrong, the prompt, the response and this file; the exit status is 2."""
    with pytest.raises(SystemExit) as exit_status:
        run_script(lambda: ask(reward, [CASE]))
    line = capsys.readouterr().err
    assert exit_status.value.code == 2 and line.count("\n") == 1 and "Traceback" not in line
    assert message in line and r"the\nprompt" in line and r"the\nresponse" in line
    assert f"({__file__}:{reward.__code__.co_firstlineno})" in line


NUMBERS = [1, True, 0.5, -3, Fraction(1, 2), np.float32(2), np.int64(3), np.array(2.5), 3.4028234663852886e38, 5e-324,
           *(torch.tensor(2, dtype=x) for x in (torch.float64, torch.bfloat16, torch.int8, torch.bool))]


@pytest.mark.parametrize("value", NUMBERS, ids=repr)
def test_a_reward_that_is_a_number_of_any_kind_is_a_float(value):
    (got,) = ask(lambda p, r, record: value, [CASE])
    assert type(got) is float and got == float(value)


@pytest.mark.parametrize("many", [False, True])
def test_a_keyboard_interrupt_inside_a_reward_is_no_error_of_the_reward(many):
    def interrupted(prompts, responses, records):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(interrupted if many else lambda p, r, x: interrupted(p, r, x), [CASE])


def lists(answer):
    """A reward of lists that answers so."""
    def reward(prompts, responses, records):
        return answer(list(zip(prompts, responses, records)))

    return reward


@pytest.mark.parametrize("answer, message", [
    (lambda cases: [1.0, nan], "the reward is nan.* for prompt 'q' and response 's'"),
    (lambda cases: cases[0][2]["gone"], "raised KeyError: 'gone'.* for prompt 'pp' and response 'r', the first of 2"),
    (lambda cases: [1.0], "gave 1 numbers for 2 responses"), (lambda cases: None, "raised TypeError"),
], ids=["nan", "raises", "short", "none"])
def test_a_reward_of_lists_is_held_to_what_any_other_is(answer, message):
    reward = lists(answer)
    with pytest.raises(UserError, match=message) as error:
        call_rewards(lambda record: reward, [("pp", "r", {}), ("q", "s", {})])
    assert "\n" not in str(error.value)


def of_lists(prompts, responses, records, scale=2.0):
    return np.array([scale * len(response) for response in responses])


class Judge:
    def __call__(self, prompts, responses, records):
        yield from (2.0 * len(response) for response in responses)


@pytest.mark.parametrize("reward", [
    of_lists, partial(of_lists, scale=2), Judge(), lambda prompts, responses, records: torch.tensor([6.0, 2.0]),
    lambda prompt, response, record: 2 * len(response), lambda *case: Fraction(2 * len(case[1])),
])
def test_the_names_of_the_parameters_tell_what_a_reward_is_of(reward):
    assert ask(reward, [("p", "abc", {}), ("q", "d", {})]) == [6.0, 2.0] and ask(reward, []) == []


@pytest.mark.parametrize("many", [False, True])
def test_a_reward_is_given_copies_of_the_records(many):
    """Those of equal responses to one prompt are several, too."""
    seen, record = [], {"prompt": "p", "label": "x", "messages": [{"role": "user", "content": "p"}]}
    before = repr(record)

    def spoil(prompt, response, record):
        seen.append(repr(record))
        record.pop("label")
        record["messages"].clear()
        return 1.0

    def spoil_all(prompts, responses, records):
        return list(map(spoil, prompts, responses, records))

    cases = [("p", "r", record), ("p", "r", record)]
    assert ask(spoil_all if many else spoil, cases) == [1.0, 1.0]
    assert seen == [before, before] and repr(record) == before


def test_a_decimal_is_refused_by_its_name():
    with pytest.raises(UserError, match=r"is Decimal\('0.5'\), no finite float32 number"):
        ask(lambda p, r, x: Decimal("0.5"), [CASE])
