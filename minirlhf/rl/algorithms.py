"""What an algorithm's choices do: from rewards to advantages, and the loss of a step.

`advantages_of` and `surrogate` read the choices, and every mixture of them runs through the loop of ppo.py. The table
of algorithms is in `config.py`. tests/rl/test_algorithms.py computes exactly which algorithms are unbiased, and how
far off the others are, for the first optimizer step of a round. By the eighth the policy has moved seven steps, and
only a ratio corrects for that.
"""

import dataclasses

import torch
from torch import Tensor

from minirlhf.rl.config import Algorithm
from minirlhf.rl.losses import (
    gae, group_relative, kl_estimate, kl_loss, leave_one_out, masked_sum, policy_loss, reinforce_loss, token_rewards,
    value_loss, whiten,
)
from minirlhf.rl.rollout import Rollout


def rewards_and_kl(rollout: Rollout, algorithm: Algorithm, beta: float) -> tuple[Tensor, Tensor, float]:
    """(r_t (B, R), kl_t (B, R), β): r_t = −β kl_t + score on the last token. β is 0 here for a KL in the loss."""
    kl = kl_estimate(rollout.logprobs, rollout.ref_logprobs, algorithm.kl)  # (B, R)
    beta = beta if algorithm.kl_in == "reward" else 0.0
    return token_rewards(rollout.scores, kl, rollout.mask, beta), kl, beta


def advantages_of(rollout: Rollout, algorithm: Algorithm, beta: float, gamma: float = 1.0) -> Rollout:
    """The rollout with its advantages and returns, (B, R) each.

        none, value         GAE of r_t with V = 0, or V of the critic
        leave_one_out, …    a response is one action: R = Σ_t r_t, compared within its group, for every token

    Groups are `algorithm.group` rows one after the other; gamma is for GAE alone. No gradient flows through the result.
    """
    rewards, _, _ = rewards_and_kl(rollout, algorithm, beta)  # (B, R)
    values = rollout.values if algorithm.baseline == "value" else torch.zeros_like(rollout.values)  # (B, R)
    advantages, returns = gae(rewards, values, rollout.mask, gamma, algorithm.lam)  # (B, R)
    if algorithm.baseline not in ("none", "value"):
        totals = masked_sum(rewards, rollout.mask, 1)  # (B,)
        if algorithm.baseline == "leave_one_out":
            relative = leave_one_out(totals, algorithm.group)  # (B,)
        else:
            relative = group_relative(totals, algorithm.group, algorithm.baseline == "group_std")  # (B,)
        advantages = torch.where(rollout.mask, relative[:, None], 0.0)  # (B, R)
    advantages = whiten(advantages, rollout.mask) if algorithm.whiten else advantages  # (B, R)
    return dataclasses.replace(rollout, advantages=advantages, returns=returns)


def surrogate(
    logprobs: Tensor, values: Tensor, rows: Rollout, weights: Tensor, algorithm: Algorithm, beta: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The whole loss of a step, policy + β KL + c_v value, and what to log: its parts, and sums over tokens.

    logprobs, values: (B, R) of the policy as it is now, with gradient.  rows: with advantages and returns.
    weights: (B, R) of `losses.token_weights`.  `policy_loss` runs for every algorithm: its ratio and KL are logged.
    """
    loss, watch = policy_loss(logprobs, rows.logprobs, rows.advantages, weights, algorithm.clip, algorithm.clip_high)
    if algorithm.ratio == "none":
        loss, watch["clip_frac"] = reinforce_loss(logprobs, rows.advantages, weights), torch.zeros(())
    watch["policy_loss"] = loss.detach()
    if algorithm.kl_in == "loss":
        distance = kl_loss(logprobs, rows.ref_logprobs, weights, algorithm.kl)
        loss = loss + beta * distance
        watch["kl_loss"] = distance.detach()
    if algorithm.baseline == "value":
        v_loss = value_loss(values, rows.values, rows.returns, weights, algorithm.value_clip)
        loss = loss + algorithm.value_coefficient * v_loss
        watch["value_loss"] = v_loss.detach()
    return loss, watch
