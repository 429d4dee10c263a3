"""Rewards by name: found in a file or a folder, or refused with the reason."""

import pytest

from minirlhf.harness.files import UserError
from minirlhf.rl.reward_files import load_reward, reward_hash


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
