"""The policy-gradient algorithms as rows of one table of choices.

    row                 baseline       λ    loss sums by  ratio     KL to the reference
    reinforce           none           1    sum           none      k1 in the reward
    reinforce-baseline  value          1    sum           none      k1 in the reward
    a2c                 value          .95  token         none      k1 in the reward
    rloo                leave_one_out       sum           none      k1 in the reward
    grpo                group_std           sequence      clipped   k3 in the loss
    dr-grpo             group               constant      clipped   k3 in the loss
    dapo                group_std           token         clip-high k3 in the loss
    ppo                 value, whiten  .95  token         clipped   k1 in the reward

The papers of Dr. GRPO and DAPO set β to 0, which --beta 0 does; DAPO's dynamic sampling is not here.
An algorithm is data: two functions read the row, one for the advantages and one for the loss, and every
mixture of choices runs through the same loop. What is said of an update's expectation holds on-policy, for the
first optimizer step of a round: of --minibatches 8, the last is seven steps old, which only the ratio knows.
Which rows are unbiased, and how far off the others are, is computed exactly in tests/rl/test_algorithms.py.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from minirlhf.rl.losses import (
    gae, group_relative, kl_estimate, kl_loss, leave_one_out, masked_sum, policy_loss, reinforce_loss, token_rewards,
    value_loss, whiten,
)
from minirlhf.rl.rollout import Rollout


@dataclass(frozen=True)
class Algorithm:
    """One row: how a reward becomes a gradient."""

    baseline: str  # none, value, leave_one_out, group, group_std
    aggregate: str  # sum, token, sequence, constant: `losses.token_weights`
    ratio: str = "none"  # none: ∇ log π;  clipped: PPO's surrogate
    kl_in: str = "reward"  # reward, or loss
    kl: str = "k1"  # the estimator: k1, k2, k3
    lam: float = 1.0  # GAE's λ, where the baseline is none or value
    whiten: bool = False  # of the advantages, over the round
    clip: float = 0.2  # ε
    clip_high: float = 0.2  # ε above 1
    group: int = 1  # responses to each prompt


GROUP = {"ratio": "clipped", "kl_in": "loss", "kl": "k3", "group": 8}
ALGORITHMS = {
    "ppo": Algorithm("value", "token", ratio="clipped", lam=0.95, whiten=True),
    "reinforce": Algorithm("none", "sum"),
    "reinforce-baseline": Algorithm("value", "sum"),
    "a2c": Algorithm("value", "token", lam=0.95),
    "rloo": Algorithm("leave_one_out", "sum", group=8),
    "grpo": Algorithm("group_std", "sequence", **GROUP),
    "dr-grpo": Algorithm("group", "constant", **GROUP),
    "dapo": Algorithm("group_std", "token", clip_high=0.28, **GROUP),
}
CHOICES = {
    "baseline": ("none", "value", "leave_one_out", "group", "group_std"),
    "aggregate": ("sum", "token", "sequence", "constant"),
    "ratio": ("none", "clipped"),
    "kl_in": ("reward", "loss"),
    "kl": ("k1", "k2", "k3"),
}


def rewards_of(rollout: Rollout, row: Algorithm, beta: float) -> tuple[Tensor, Tensor, float]:
    """(r_t, kl_t, β), (B, R) each: r_t = −β kl_t + score on the last token; β = 0 here where the KL is in the loss."""
    kl, beta = kl_estimate(rollout.logprobs, rollout.ref_logprobs, row.kl), beta if row.kl_in == "reward" else 0.0
    return token_rewards(rollout.scores, kl, rollout.mask, beta), kl, beta


def advantages_of(rollout: Rollout, row: Algorithm, beta: float, gamma: float = 1.0) -> tuple[Tensor, Tensor]:
    """(Advantages, returns), (B, R) each.

        none, value         GAE of r_t with V = 0, or V of the critic
        leave_one_out, …    a response is one action: R = Σ_t r_t, compared within its group, for every token

    Groups are `row.group` rows one after the other. What the loss takes is detached from the policy.
    """
    rewards, _, _ = rewards_of(rollout, row, beta)  # (B, R)
    values = rollout.values if row.baseline == "value" else torch.zeros_like(rollout.values)  # (B, R)
    advantages, returns = gae(rewards, values, rollout.mask, gamma, row.lam)  # (B, R)
    if row.baseline not in ("none", "value"):
        totals = masked_sum(rewards, rollout.mask, 1)  # (B,)
        if row.baseline == "leave_one_out":
            relative = leave_one_out(totals, row.group)  # (B,)
        else:
            relative = group_relative(totals, row.group, row.baseline == "group_std")  # (B,)
        advantages = torch.where(rollout.mask, relative[:, None], 0.0)  # (B, R)
    return whiten(advantages, rollout.mask) if row.whiten else advantages, returns


def surrogate(
    logprobs: Tensor,
    values: Tensor,
    rows: Rollout,
    advantages: Tensor,
    returns: Tensor,
    weights: Tensor,
    row: Algorithm,
    beta: float,
    value_clip: float,
    value_coefficient: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss whose gradient is minus the row's policy gradient, and what to log: its parts, and sums over tokens.

    logprobs, values: (B, R) of the policy as it is now, with their graph; `rows` knows them as they were.
    weights: (B, R) of `losses.token_weights`.  With a critic, its loss is added by the same weights.
    """
    loss, watch = policy_loss(logprobs, rows.logprobs, advantages, weights, row.clip, row.clip_high)
    if row.ratio == "none":
        loss, watch["clip_frac"] = reinforce_loss(logprobs, advantages, weights), torch.zeros(())
    watch["policy_loss"] = loss.detach()
    if row.kl_in == "loss":
        distance = kl_loss(logprobs, rows.ref_logprobs, weights, row.kl)
        loss = loss + beta * distance
        watch["kl_loss"] = distance.detach()
    if row.baseline == "value":
        v_loss = value_loss(values, rows.values, returns, weights, value_clip)
        loss = loss + value_coefficient * v_loss
        watch["value_loss"] = v_loss.detach()
    return loss, watch
