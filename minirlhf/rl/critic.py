"""The critic's start: the value head is fitted to the returns of a first round. A first reader of PPO can skip this.

A critic that starts at zero calls every answer to an easy prompt good and every answer to a hard one bad. The first
rounds would teach the policy just that. `ppo.train` runs without this step, too, and then learns the critic in its
first rounds. Proved by tests/rl/test_critic.py.
Source: value pretraining, Yuan et al. 2025 (VC-PPO), section 3.2; here in closed form, the ridge by cross-validation.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from minirlhf.harness.device import autocast
from minirlhf.harness.loop import Run
from minirlhf.lm.model import GPT, ScalarHead
from minirlhf.rl.algorithms import advantages_of
from minirlhf.rl.config import PPOConfig
from minirlhf.rl.ppo import sample_round
from minirlhf.rl.rewards import RewardOf
from minirlhf.rl.rollout import Models, Rollout, parts_of, response_hidden

RIDGES = tuple(10.0**k for k in range(-4, 4))  # from next to none to next to a constant
FOLDS = 5  # parts of the prompts, each left out once


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
        fit_value_head(models.policy, models.value_head, rollout, config.micro_rows, config.algorithm.group)


@torch.no_grad()
def fit_value_head(
    model: GPT, head: ScalarHead, rollout: Rollout, micro_rows: int = 64, group: int = 1,
    ridges: Sequence[float] = RIDGES,
) -> None:  # fmt: skip
    """Set the head to the rollout's returns on the hidden states. group: rows to a prompt, one after the other."""
    features, targets, places = [], [], []
    for index in parts_of(rollout, micro_rows, model):
        part = rollout.rows(index)
        hidden, n = response_hidden(model, part)  # (N', C)
        features.append(hidden[:n].double())  # (N, C)
        targets.append(part.returns[part.mask].double())  # (N,)
        rows = torch.as_tensor(index, device=part.mask.device)  # (b,)
        places.append((rows // group % FOLDS)[:, None].expand_as(part.mask)[part.mask])  # (N,)
    X, y, fold = torch.cat(features), torch.cat(targets), torch.cat(places)  # (N, C), (N,), (N,)
    weight, bias = best_fit(X, y, fold, ridges)
    head.weight.copy_(weight[None])
    head.bias.copy_(bias[None])


def best_fit(X: Tensor, y: Tensor, fold: Tensor, ridges: Sequence[float]) -> tuple[Tensor, Tensor]:
    """The fit (w (C,), b) whose ridge errs least where it was not fitted: on each fold (N,), from all the others.

    Few answers would else be learnt by heart. With 577 numbers for 64 answers of SmolLM2, a critic of a fixed, small
    ridge had five times the squared error of a constant on the next answers. With one fold the last ridge is taken.
    """
    errors, folds = torch.zeros(len(ridges), dtype=X.dtype, device=X.device), fold.unique().tolist()  # (L,)
    for k in folds if len(folds) > 1 else ():
        W, b = ridge_fits(X[fold != k], y[fold != k], ridges)  # (C, L), (L,)
        errors += ((X[fold == k] @ W + b - y[fold == k, None]) ** 2).sum(0)
    W, b = ridge_fits(X, y, ridges)
    best = int(errors.argmin()) if len(folds) > 1 else len(ridges) - 1
    return W[:, best], b[best]


def ridge_fits(X: Tensor, y: Tensor, ridges: Sequence[float]) -> tuple[Tensor, Tensor]:
    """The linear fits of y (N,) on X (N, C), one per ridge λ: weights (C, L) and biases (L,); the bias is not shrunk.

        w = (XᵀX / N + λ v I)⁻¹ Xᵀ (y − ȳ) / N,    b = ȳ − x̄ w        X: less its mean x̄,  v: the mean variance of X
    """
    mean, level, strengths = X.mean(0), y.mean(), torch.tensor(ridges, dtype=X.dtype, device=X.device)
    X = X - mean
    variances, axes = torch.linalg.eigh(X.T @ X / len(X))  # (C,), (C, C)
    along = axes.T @ (X.T @ (y - level)) / len(X)  # (C,)
    shrunk = variances.clamp(min=0)[:, None] + strengths * variances.mean().clamp(min=1e-12)  # (C, L)
    W = axes @ (along[:, None] / shrunk)  # (C, L)
    return W, level - mean @ W
