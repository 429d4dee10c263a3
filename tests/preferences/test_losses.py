"""The losses of learning from comparisons."""

from math import exp, log

import pytest
import torch

from minirlhf.preferences.losses import implicit_reward, preference_loss


@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 1.0])
def test_two_answers_of_one_reward_cost_log_2_whatever_was_preferred(p):
    assert float(preference_loss(torch.zeros(3, dtype=torch.float64), p)) == pytest.approx(log(2), abs=1e-15)


def test_the_preference_loss_is_minus_the_log_probability_of_the_choice():
    """σ(1) = .731: chosen with certainty, rejected with certainty, and half of the time."""
    margins, sigma = torch.ones(1, dtype=torch.float64), 1 / (1 + exp(-1))
    assert float(preference_loss(margins)) == pytest.approx(-log(sigma))
    assert float(preference_loss(margins, 0.0)) == pytest.approx(-log(1 - sigma))
    assert float(preference_loss(margins, 0.5)) == pytest.approx(-(log(sigma) + log(1 - sigma)) / 2)


def test_the_reward_of_dpo_is_beta_times_the_log_ratio():
    got = implicit_reward(torch.tensor([-3.0, -6.0]), torch.tensor([-4.0, -5.0]), 0.1)
    assert got.tolist() == pytest.approx([0.1, -0.1])


def test_the_preference_loss_and_dpo_gradcheck():
    def loss(chosen: torch.Tensor, ref_chosen: torch.Tensor, rejected: torch.Tensor, ref_rejected: torch.Tensor):
        margins = implicit_reward(chosen, ref_chosen, 0.3) - implicit_reward(rejected, ref_rejected, 0.3)
        return preference_loss(margins, p)

    x = [torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    p = torch.tensor([1, 0.2, 0.7, 0.5], dtype=torch.float64)
    assert torch.autograd.gradcheck(loss, x)
