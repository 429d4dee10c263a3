"""The options of reinforcement learning, and which are refused."""

import dataclasses

import pytest

from minirlhf.harness.files import UserError
from minirlhf.rl.config import ALGORITHMS, PPOConfig


def test_a_rows_choices_are_replaced_one_by_one():
    config = PPOConfig("grpo", kl_in="reward", kl="k1", whiten=True)
    assert config.algorithm == dataclasses.replace(ALGORITHMS["grpo"], kl_in="reward", kl="k1", whiten=True)
    assert PPOConfig("grpo").algorithm == ALGORITHMS["grpo"]
    assert dataclasses.replace(config, algo="ppo").algorithm.group == 1


@pytest.mark.parametrize("bad", [
    {"algo": "dpo"}, {"minibatches": 0}, {"lr": -1.0}, {"temperature": 0.0}, {"clip": -0.1}, {"baseline": "mean"},
    {"ratio": "clip"}, {"kl": "k4"}, {"max_norm": 0.0}, {"value_coefficient": -0.5}, {"kl_horizon": 0.0},
])
def test_a_setting_that_makes_no_sense_is_refused_by_name(bad):
    (name,) = bad
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} "):
        PPOConfig(**bad)


@pytest.mark.parametrize("algo, kl_in, kl, row", [
    ("ppo", "loss", None, "k3"), ("ppo", "loss", "k2", "k2"), ("ppo", "reward", None, "k1"),
    ("grpo", "reward", None, "k1"), ("grpo", "reward", "k3", "k3"), ("grpo", "loss", None, "k3"),
])
def test_a_kl_that_moves_takes_the_estimator_that_is_right_there(algo, kl_in, kl, row):
    assert PPOConfig(algo, kl_in=kl_in, kl=kl).algorithm.kl == row


@pytest.mark.parametrize("algo, given, both", [
    ("ppo", {"clip": 0.1}, (0.1, 0.1)), ("grpo", {"clip": 0.3}, (0.3, 0.3)), ("ppo", {}, (0.2, 0.2)),
    ("dapo", {"clip": 0.1}, (0.1, 0.28)), ("ppo", {"clip": 0.1, "clip_high": 0.4}, (0.1, 0.4)),
    ("ppo", {"clip_high": 0.4}, (0.2, 0.4)),
])
def test_one_clip_range_bounds_the_ratio_on_both_sides_unless_the_algorithm_has_two(algo, given, both):
    algorithm = PPOConfig(algo, **given).algorithm
    assert (algorithm.clip, algorithm.clip_high) == both


@pytest.mark.parametrize("bad, message", [
    ({"kl_in": "loss", "kl": "k1"}, "--kl k1 in the loss: its gradient is 0"),
    ({"algo": "grpo", "kl": "k1"}, "--kl k1 in the loss"),
    ({"gamma": 1.5}, "--gamma 1.5: must be at most 1"), ({"lam": 3.0}, "--lam 3.0: must be at most 1"),
])
def test_a_penalty_that_is_none_and_a_discount_that_grows_are_refused(bad, message):
    with pytest.raises(UserError, match=message):
        PPOConfig(**bad)
    assert PPOConfig(kl_in="loss", kl="k1", beta=0.0).algorithm.kl == "k1"


def test_a_beta_that_cannot_adapt_is_refused():
    """It is multiplied by a factor: 0 stays 0."""
    with pytest.raises(UserError, match="--kl-target 3.0: a beta of 0 stays 0"):
        PPOConfig(kl_target=3.0, beta=0.0)


def test_a_group_of_one_is_refused():
    with pytest.raises(UserError, match="--group 1: baseline group_std compares at least 2"):
        PPOConfig("grpo", group=1)
