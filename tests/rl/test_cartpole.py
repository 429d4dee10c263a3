"""The textbook's own example: the formulas that train language models balance a pole, too.

An episode is a row, as a response is: its states are prefixes, its pushes tokens, `mask` is True on the steps taken.
"""

from math import inf

import numpy as np
import torch
from torch import Tensor, nn

from minirlhf.rl.losses import gae, policy_loss, token_rewards, token_weights, value_loss, whiten

T = 500  # the most steps of an episode
GAMMA, LAM, CLIP = 0.99, 0.95, 0.2


def push(state: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(B, 4), position, speed, angle and angular speed, after 0.02 s of 10 N to the left or to the `right`, (B,).

    Source: Barto, Sutton and Anderson 1983, appendix, without friction; an Euler step, as Gymnasium's CartPole-v1.
    """
    gravity, cart, pole, half_length = 9.8, 1.0, 0.1, 0.5  # m/s², kg, kg, m
    _, speed, angle, turn = state.T  # (B,) each
    sin, cos = np.sin(angle), np.cos(angle)  # (B,) each
    thrust = (np.where(right, 10.0, -10.0) + pole * half_length * turn**2 * sin) / (cart + pole)  # (B,)
    torque = (gravity * sin - cos * thrust) / (half_length * (4 / 3 - pole * cos**2 / (cart + pole)))  # (B,)
    return state + 0.02 * np.stack([speed, thrust - pole * half_length * torque * cos / (cart + pole), turn, torque], 1)


def fallen(state: np.ndarray) -> np.ndarray:
    """(B,) bool: the cart is more than 2.4 m from the middle, or the pole more than 12 degrees from upright."""
    return (np.abs(state[:, 0]) > 2.4) | (np.abs(state[:, 2]) > np.radians(12))


def episodes(policy: nn.Module, B: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """B episodes side by side: states, (B, T + 1, 4), actions, their log-probs and the mask, (B, T) each."""
    states, actions = np.zeros((B, T + 1, 4), np.float32), np.zeros((B, T), np.int64)
    mask, logprobs = np.zeros((B, T), bool), torch.zeros(B, T)
    states[:, 0], alive = rng.uniform(-0.05, 0.05, (B, 4)), np.arange(B)
    for t in range(T):
        log_pi = policy(torch.from_numpy(states[alive, t])).log_softmax(-1)  # (alive, 2)
        right = rng.random(len(alive)) < log_pi[:, 1].exp().numpy()  # (alive,)
        actions[alive, t], mask[alive, t] = right, True
        logprobs[alive, t] = log_pi.gather(1, torch.from_numpy(actions[alive, t, None]))[:, 0]
        states[alive, t + 1] = push(states[alive, t], right)
        alive = alive[~fallen(states[alive, t + 1])]
        if not len(alive):
            break
    return torch.from_numpy(states), torch.from_numpy(actions), logprobs, torch.from_numpy(mask)


def ppo(seed: int, B: int = 16, rounds: int = 60, epochs: int = 4) -> nn.Module:
    """A policy, trained until all episodes of a round reach the time limit."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    policy = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2))
    value = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 1), nn.Flatten(-2))
    optimizer = torch.optim.Adam([*policy.parameters(), *value.parameters()], lr=1e-2)
    for _ in range(rounds):
        with torch.no_grad():
            states, actions, old_logprobs, mask = episodes(policy, B, rng)
            values = value(states)  # (B, T + 1)
        if mask.all():
            break
        # A reward of 1 for each step. `gae` takes the value behind the last step as 0, which is right where the pole
        # fell. The clock says nothing of the state: an episode that it stops is worth γ V(s_T) more. That amount
        # stands on the last step, where the score of a response stands: δ_T = 1 + γ V(s_T) − V(s_{T−1}).
        stopped = mask[:, -1] & ~torch.from_numpy(fallen(states[:, -1].numpy()))  # (B,)
        rewards = mask + token_rewards(stopped * GAMMA * values[:, -1], torch.zeros(B, T), mask, beta=0.0)  # (B, T)
        states, old_values = states[:, :-1], values[:, :-1]  # (B, T, 4), (B, T)
        advantages, returns = gae(rewards, old_values, mask, GAMMA, LAM)  # (B, T) each
        advantages = whiten(advantages, mask)  # (B, T)
        for rows in (rows for _ in range(epochs) for rows in torch.randperm(B).split(B // 4)):
            weights = token_weights(mask[rows], "token", T)  # (b, T)
            logprobs = policy(states[rows]).log_softmax(-1).gather(-1, actions[rows, :, None])[:, :, 0]  # (b, T)
            loss, _ = policy_loss(logprobs, old_logprobs[rows], advantages[rows], weights, CLIP, CLIP)
            loss += 0.5 * value_loss(value(states[rows]), old_values[rows], returns[rows], weights, inf)
            optimizer.zero_grad()
            loss.backward()
            for network in (policy, value):
                nn.utils.clip_grad_norm_(network.parameters(), 0.5)
            optimizer.step()
    return policy


def test_a_step_is_that_of_gymnasium():
    """The step after `reset(seed=42)` that the documentation of Gymnasium prints, for both pushes."""
    state = np.tile([0.0273956, -0.00611216, 0.03585979, 0.0197368], (2, 1))
    want = [[0.02727336, -0.20172954, 0.03625453, 0.32351476], [0.02727336, 0.18847767, 0.03625453, -0.26141977]]
    np.testing.assert_allclose(push(state, np.array([False, True])), want, atol=2e-8)


def test_ppo_of_these_losses_solves_cartpole():
    """A return of 475 on average over 100 new episodes is what Gymnasium calls solved; one at random is worth 22."""
    policy = ppo(seed=0)
    with torch.no_grad():
        *_, mask = episodes(policy, 100, np.random.default_rng(1))
    assert mask.sum(1).float().mean() >= 475
