"""Rewards by name: found in a file or a folder, or refused with the reason."""

import time

import pytest

from minirlhf.harness.files import UserError
from minirlhf.lm.tokenizer import PAD, SPECIALS, Tokenizer
from minirlhf.rl.options import RewardOptions
from minirlhf.rl.reward_files import Rewards, load_reward, load_rewards, reward_hash, split_weight
from minirlhf.rl.reward_model import LearnedReward, RewardModel, save_reward_model
from minirlhf.rl.rewards import ask


def test_a_reward_is_a_function_of_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from math import pi\ndef score(prompt, response, record): return pi + len(response)")
    assert load_reward(f"{path}:score")[0]("p", "four", {}) == pytest.approx(7.14159, abs=1e-5)


def test_a_reward_file_may_hold_dataclasses(tmp_path):
    """With annotations as strings they look their module up by name."""
    path = tmp_path / "mine.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass Rule:\n"
        "    weight: float = 2.0\ndef score(prompt, response, record):\n    return Rule().weight\n"
    )
    assert load_reward(f"{path}:score")[0]("p", "r", {}) == 2.0


@pytest.mark.parametrize(
    "content, name, message",
    [
        (None, "score", "there is no file"),
        ("def score(p, r, x): return 1", "scor", "no function 'scor' in .*; found score"),
        ("score = 3", "score", "no function 'score' in .*; found none"),
        ("import nothing_of_that_name", "score", "mine.py:1 raised ModuleNotFoundError"),
        ("pass\n\ndef score(:", "score", "mine.py:3 raised SyntaxError"),
        ("pass\n1 / 0", "score", "mine.py:2 raised ZeroDivisionError: division by zero"),
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
    with pytest.raises(UserError, match="give FILE.py:FUNCTION .*; the FUNCTION is missing"):
        load_reward(str(tmp_path / "mine.py"))


@pytest.mark.parametrize("spec, file", [
    ("mine.py:fn", "mine.py"), ("mine.py:fn:0.5", "mine.py"), ("model:rm", "rm/model.safetensors"),
    ("model:rm:pos:2", "rm/model.safetensors"),
])
def test_the_hash_of_a_reward_is_of_its_file(spec, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    hashes = set()
    for content in (b"one", b"two"):
        path.write_bytes(content)
        hashes |= {reward_hash(spec), reward_hash(spec)}
    assert len(hashes) == 2


# Several, with weights


FILE = """
import random, threading, time
asked = []
def length(prompt, response, record):
    asked.append((prompt, response, record["id"]))
    return len(response)
def lists(prompts, responses, records):
    asked.append(len(prompts))
    return [response.count("e") for response in responses]
def noise(prompt, response, record):
    return random.random()
def slow(prompt, response, record):
    time.sleep(9)
def huge(prompt, response, record):
    return 3e38
"""
CASES = [("p", "eel", {"id": 1}), ("q", "e", {"id": 2}), ("p", "eel", {"id": 1}), ("p", "eel", {"id": 3})]


@pytest.fixture
def rewards(tmp_path, monkeypatch):
    """A function that loads rewards of FILE, mine.py."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FILE)
    return lambda *specs, **options: load_rewards(RewardOptions(specs, **options))


def asked_by(rewards, which=0):
    """What the functions of one of the rewards were asked."""
    return [*rewards.parts.values()][which][0].__globals__["asked"]


def test_no_reward_is_none(rewards):
    assert rewards() is None


def test_several_rewards_are_summed_by_their_weights_and_the_mean_of_each_is_told(rewards):
    reward = rewards("mine.py:length", "mine.py:lists:-0.5", "mine.py:noise:0")
    assert ask(reward, CASES) == [3 - 1.0, 1 - 0.5, 3 - 1.0, 3 - 1.0]
    told = reward.watch(None, [], 0.0)
    assert {k: told[k] for k in list(told)[:2]} == {"score/mine.py:length": 2.5, "score/mine.py:lists:-0.5": 1.75}
    assert set(told) - {"score/mine.py:noise:0"} == {"score/mine.py:length", "score/mine.py:lists:-0.5"}
    assert reward.watch(None, [], 0.0) == {}  # a round in which nothing ended


def test_one_reward_is_its_own_mean(rewards):
    reward = rewards("mine.py:length:2")
    assert ask(reward, CASES) == [6.0, 2.0, 6.0, 6.0] and reward.watch() == {}


def test_equal_cases_are_asked_once_a_round_and_each_again_in_the_next(rewards):
    reward = rewards("mine.py:length", "mine.py:lists")
    for rounds in (1, 2):
        ask(reward, CASES)
        assert asked_by(reward) == [("p", "eel", 1), ("q", "e", 2), ("p", "eel", 3)] * rounds
        assert asked_by(reward, 1) == [3] * rounds


@pytest.mark.parametrize("other", [("p", "eel ", {"id": 1}), ("p ", "eel", {"id": 1}), ("p", "eel", {"id": 1.0}),
                                   ("p", "eel", {"id": True}), ("p", "eel", {"id": 1, "x": None})])
def test_what_differs_in_anything_is_asked_apart(other, rewards):
    reward = rewards("mine.py:length")
    ask(reward, [CASES[0], other])
    assert len(asked_by(reward)) == 2


def test_a_random_reward_is_asked_for_each(rewards):
    once, again = (ask(rewards("mine.py:noise", reward_once=once), CASES) for once in (True, False))
    assert len(set(once)) == 3 and len(set(again)) == 4


@pytest.mark.parametrize("threads", [1, 5])
def test_a_reward_that_takes_too_long_is_told_with_prompt_and_place(threads, rewards):
    what = r"took longer than the 0.1 s of --reward-timeout \(.*mine.py:12\) for prompt '"
    with pytest.raises(UserError, match=what):
        ask(rewards("mine.py:slow", reward_timeout=0.1, reward_threads=threads), CASES)


def test_a_sum_is_a_finite_float32_number_too(rewards):
    with pytest.raises(UserError, match="is 6e\\+38, no finite float32 number"):
        ask(rewards("mine.py:huge:2"), CASES)


def test_the_same_reward_twice_is_refused(rewards):
    with pytest.raises(UserError, match="one is there twice"):
        rewards("mine.py:noise", "mine.py:noise")


@pytest.mark.parametrize("names", [
    "prompts, response, record", "prompts, responses, record", "records, prompts, responses",
])  # fmt: skip
def test_a_mixture_of_both_forms_is_refused(names, tmp_path):
    (tmp_path / "mine.py").write_text(f"def f({names}): return 1")
    with pytest.raises(UserError, match=r"for lists it is f\(prompts, responses, records\)"):
        load_reward(f"{tmp_path / 'mine.py'}:f")


@pytest.mark.parametrize("spec, parts", [
    ("a.py:f", ("a.py:f", 1.0)), ("a.py:f:0.5", ("a.py:f", 0.5)), ("a.py:f:-2", ("a.py:f", -2.0)),
    ("x:y/a.py:f:.25", ("x:y/a.py:f", 0.25)), ("a.py:nan", ("a.py:nan", 1.0)), ("a.py:f:inf", ("a.py:f:inf", 1.0)),
    ("a.py", ("a.py", 1.0)), ("", ("", 1.0)), ("3", ("", 3.0)),
])  # fmt: skip
def test_a_weight_is_a_number_at_the_end(spec, parts):
    assert split_weight(spec) == parts


@pytest.mark.parametrize("classes, spec, label, weight", [
    ((), "", "", 1.0), ((), ":2", "", 2.0),
    (("neg", "pos"), ":pos", "pos", 1.0), (("neg", "pos"), ":pos:0.5", "pos", 0.5),
    (("0", "1"), ":1", "1", 1.0), (("0", "1"), ":1:0.5", "1", 0.5), (("a:1", "a"), ":a:1", "a:1", 1.0),
])  # fmt: skip
def test_a_class_comes_before_a_weight(classes, spec, label, weight, make_gpt, tmp_path):
    tokenizer = Tokenizer(specials=(*SPECIALS, PAD))
    save_reward_model(tmp_path / "rm", RewardModel(make_gpt(vocab_size=261), classes), tokenizer, {})
    judge, found = load_reward(f"model:{tmp_path / 'rm'}{spec}")
    assert (judge.label, found) == (label, weight)
    for wrong in (":other", ":other:2", *(["", ":3"] if classes else [])):
        with pytest.raises(UserError, match="give model:.*CLASS, one of" if classes else "give model:"):
            load_reward(f"model:{tmp_path / 'rm'}{wrong}")


def test_a_reward_model_may_take_its_time(make_gpt):
    """It does not hang as a user's function can, and on a CPU a thousand texts take a large one ten minutes."""
    class Slow(LearnedReward):
        def __call__(self, prompts, responses, records):
            time.sleep(0.3)
            return [1.0] * len(prompts)

    judge = Slow(RewardModel(make_gpt()), Tokenizer())
    assert ask(Rewards({"model:rm": (judge, 1.0)}, RewardOptions(reward_timeout=0.1)), CASES) == [1.0] * len(CASES)


@pytest.mark.parametrize("names", ["response, prompt, record", "record, prompt, response", "prompt, record, response"])
def test_known_names_in_another_order_are_refused(names, tmp_path):
    """The arguments are given by place: it would score prompts as responses, without a word."""
    (tmp_path / "mine.py").write_text(f"def f({names}): return 1.0\ndef g(prompt, response, x): return 1.0")
    with pytest.raises(UserError, match=r"make that f\(prompt, response, record\)"):
        load_reward(f"{tmp_path / 'mine.py'}:f")
    assert load_reward(f"{tmp_path / 'mine.py'}:g")[1] == 1
