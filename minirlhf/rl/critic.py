"""The critic's start: the value head is fitted to the returns of a first round. A first reader of PPO can skip this.

A critic that starts at zero calls every answer to an easy prompt good and every answer to a hard one bad. The first
rounds would teach the policy just that. `ppo.train` runs without this step, too, and then learns the critic in its
first rounds. Proved by tests/rl/test_critic.py.
Source: critic warm-up, Yuan et al. 2025 (VC-PPO), section 3.2; here in closed form.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch

from minirlhf.harness.loop import Run
from minirlhf.harness.device import autocast
from minirlhf.lm.model import GPT, ScalarHead
from minirlhf.rl.algorithms import advantages_of
from minirlhf.rl.config import PPOConfig
from minirlhf.rl.ppo import sample_round
from minirlhf.rl.rewards import RewardOf
from minirlhf.rl.rollout import Models, Rollout, parts_of, response_hidden


def start_critic(
    models: Models, records_of: Callable[[int], list[dict]], reward_of: RewardOf, config: PPOConfig, run: Run
) -> None:
    """Fit the value head to the Monte Carlo returns of a round of its own, on whose responses nothing is trained.

    No response is then judged by a critic that has seen its return. Does nothing without a critic, or on a resume.
    The cost of the training does not count this round.
    """
    if models.value_head is None or run.resume:
        return
    rng = np.random.default_rng([run.seed, config.iterations])
    _, rollout = sample_round(models, records_of(config.iterations), reward_of, config, rng)
    rollout = advantages_of(rollout, dataclasses.replace(config.algorithm, lam=1.0), config.beta, config.gamma)
    with autocast(rollout.ids.device, models.dtype):  # on the hidden states that training sees
        fit_value_head(models.policy, models.value_head, rollout, config.micro_rows)


@torch.no_grad()
def fit_value_head(model: GPT, head: ScalarHead, rollout: Rollout, micro_rows: int = 64, ridge: float = 1e-3) -> None:
    """Set the head to the rollout's returns on the hidden states, by least squares; `ridge` shrinks the weights.

        w = (XᵀX + λ N I)⁻¹ Xᵀ (y − ȳ),    b = ȳ − x̄ w        X: hidden states less their mean x̄,  λ: ridge
    """
    features, targets = [], []
    for index in parts_of(rollout, micro_rows, model):
        part = rollout.rows(index)
        hidden, n = response_hidden(model, part)  # (N', C)
        features.append(hidden[:n].double())  # (N, C)
        targets.append(part.returns[part.mask].double())  # (N,)
    X, y = torch.cat(features), torch.cat(targets)  # (N, C), (N,)
    mean = X.mean(0)  # (C,)
    X = X - mean
    gram = X.T @ X + ridge * len(X) * torch.eye(X.shape[1], dtype=X.dtype, device=X.device)  # (C, C)
    weight = torch.linalg.solve(gram, X.T @ (y - y.mean()))  # (C,)
    head.weight.copy_(weight[None])
    head.bias.copy_((y.mean() - mean @ weight)[None])
