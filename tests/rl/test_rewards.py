"""Rewards: called, and refused where they give no number."""

from math import inf, nan

import pytest
import torch

from minirlhf.harness.files import UserError
from minirlhf.harness.options import run_script
from minirlhf.rl.rewards import call_reward, call_rewards


@pytest.mark.parametrize("reward, message", [
    (lambda p, r, record: nan, "the reward is nan"),
    (lambda p, r, record: inf, "the reward is inf"),
    (lambda p, r, record: -inf, "the reward is -inf"),
    (lambda p, r, record: torch.tensor(nan), "the reward is nan"),
    (lambda p, r, record: None, "the reward raised TypeError"),
    (lambda p, r, record: {}["score"], "the reward raised KeyError: 'score'"),
    (lambda p, r: 1.0, "the reward raised TypeError"),
    (lambda p, r, record: int("one\ntwo"), "the reward raised ValueError"),
])
def test_a_reward_that_is_no_finite_number_is_refused_in_one_line(reward, message, capsys):
    """The line names what was wrong, the prompt and the response; the exit status is 2."""
    with pytest.raises(SystemExit) as exit_status:
        run_script(lambda: call_reward(reward, "the\nprompt", "the\nresponse", {}))
    line = capsys.readouterr().err
    assert exit_status.value.code == 2 and line.count("\n") == 1 and "Traceback" not in line
    assert message in line and r"the\nprompt" in line and r"the\nresponse" in line


@pytest.mark.parametrize("value", [1, True, 0.5, torch.tensor(2.0), -3])
def test_a_reward_that_is_a_number_of_any_kind_is_a_float(value):
    got = call_reward(lambda p, r, record: value, "p", "r", {})
    assert type(got) is float and got == float(value)


def test_a_keyboard_interrupt_inside_a_reward_is_no_error_of_the_reward():
    def interrupted(prompt, response, record):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call_reward(interrupted, "p", "r", {})


@pytest.mark.parametrize("many, message", [
    (lambda cases: [nan] * len(cases), "the reward is nan for prompt 'pp'"),
    (lambda cases: cases[0][2]["gone"], r"many\(\) raised KeyError: 'gone'"),
    (lambda cases: [1.0], r"many\(\) returned 1 numbers for 2 cases"), (lambda cases: None, "raised TypeError"),
], ids=["nan", "raises", "short", "none"])
def test_a_reward_that_takes_many_is_held_to_what_any_other_is(many, message):
    reward = type("Mine", (), {"many": staticmethod(many)})()
    with pytest.raises(UserError, match=message) as error:
        call_rewards(lambda record: reward, [("pp", "r", {}), ("q", "s", {})])
    assert "\n" not in str(error.value)
