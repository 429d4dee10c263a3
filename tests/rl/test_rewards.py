"""Rewards: found, called, and refused where they give no number."""

from math import inf, nan

import pytest
import torch

from minirlhf.harness.files import UserError
from minirlhf.harness.options import run_script
from minirlhf.rl.rewards import call_reward, call_rewards, load_reward, reward_hash


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


def test_a_reward_is_a_function_of_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from math import pi\ndef score(prompt, response, record): return pi + len(response)")
    assert load_reward(f"{path}:score")("p", "four", {}) == pytest.approx(7.14159, abs=1e-5)


def test_a_reward_file_may_hold_dataclasses(tmp_path):
    """With annotations as strings they look their module up by name."""
    path = tmp_path / "mine.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass Rule:\n"
        "    weight: float = 2.0\ndef score(prompt, response, record):\n    return Rule().weight\n"
    )
    assert load_reward(f"{path}:score")("p", "r", {}) == 2.0


@pytest.mark.parametrize(
    "content, name, message",
    [
        (None, "score", "there is no file"),
        ("def score(p, r, x): return 1", "scor", "no function 'scor' in .*; found score"),
        ("score = 3", "score", "no function 'score' in .*; found none"),
        ("import nothing_of_that_name", "score", "raised ModuleNotFoundError"),
        ("def score(:", "score", "raised SyntaxError"),
        ("1 / 0", "score", "raised ZeroDivisionError: division by zero"),
    ],
)
def test_a_reward_that_cannot_be_had_is_refused_with_the_reason(content, name, message, tmp_path):
    path = tmp_path / "mine.py"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=f"(?s)--reward {path}:{name}: .*{message}"):
        load_reward(f"{path}:{name}")


@pytest.mark.parametrize("spec", ["mine.py", "", ":score", "length"])
def test_a_reward_without_file_or_function_is_refused(spec):
    with pytest.raises(UserError, match="give FILE.py:FUNCTION"):
        load_reward(spec)


def test_of_a_file_alone_the_function_is_missing(tmp_path):
    (tmp_path / "mine.py").write_text("def score(prompt, response, record): return 1")
    with pytest.raises(UserError, match="give FILE.py:FUNCTION or model:DIR; the FUNCTION is missing"):
        load_reward(str(tmp_path / "mine.py"))


@pytest.mark.parametrize("spec, file", [("mine.py:fn", "mine.py"), ("model:rm", "rm/model.safetensors")])
def test_the_hash_of_a_reward_is_of_its_file(spec, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    hashes = {reward_hash("")}
    for content in (b"one", b"two"):
        path.write_bytes(content)
        hashes |= {reward_hash(spec), reward_hash(spec)}
    assert len(hashes) == 3
