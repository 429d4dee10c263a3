"""The loss of comparisons, and what is measured on those held out."""

from math import exp, log, sqrt

import numpy as np
import pytest
import torch

from minirlhf.preferences.comparisons import Pair
from minirlhf.preferences.measure import agreement, measure, preference_loss

MARGINS = [2.0, -1.0, 0.0, 0.5, 3.0, -0.2]  # differences of rewards of published figures


def pairs_with(**lists):
    """Pairs whose fields are given by lists; chosen and rejected have the lengths given, or 3 and 2."""
    n = len(next(iter(lists.values())))
    lengths = lists.pop("lengths", [(3, 2)] * n)
    rows = [dict(zip(lists, values)) for values in zip(*lists.values())] or [{}] * n
    return [Pair((1,) * a, (2,) * b, **row) for (a, b), row in zip(lengths, rows)]


@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 1.0])
def test_two_answers_of_one_reward_cost_log_2_whatever_was_preferred(p):
    assert float(preference_loss(torch.zeros(3, dtype=torch.float64), p)) == pytest.approx(log(2), abs=1e-15)


def test_the_preference_loss_is_minus_the_log_probability_of_the_choice():
    """σ(1) = .731: chosen with certainty, rejected with certainty, and half of the time."""
    delta, sigma = torch.ones(1, dtype=torch.float64), 1 / (1 + exp(-1))
    assert float(preference_loss(delta)) == pytest.approx(-log(sigma))
    assert float(preference_loss(delta, 0.0)) == pytest.approx(-log(1 - sigma))
    assert float(preference_loss(delta, 0.5)) == pytest.approx(-(log(sigma) + log(1 - sigma)) / 2)


def test_accuracy_counts_a_tie_as_a_half_and_has_wilsons_interval():
    figures = measure(np.array(MARGINS), pairs_with(p=[1.0] * 6))
    assert figures["accuracy"] == pytest.approx(3.5 / 6, abs=1e-12) and figures["pairs"] == 6
    assert figures["loss"] == pytest.approx(0.5756900140, abs=1e-9)
    z, k, n = 1.959963984540054, 3.5, 6
    centre, half = (k + z * z / 2) / (n + z * z), z * sqrt(k * (n - k) / n + z * z / 4) / (n + z * z)
    assert figures["interval"] == pytest.approx((centre - half, centre + half), abs=1e-9)


def test_the_measured_loss_is_the_one_that_is_trained():
    figures = measure(np.array([1.0]), pairs_with(p=[0.75]))
    assert figures["loss"] == pytest.approx(0.75 * log(1 + exp(-1)) + 0.25 * log(1 + exp(1)), abs=1e-9)


def test_agreement_with_a_soft_label_is_the_probability_of_the_side_taken():
    got = agreement(np.array([2.0, -2.0, 0.0, -1.0]), np.array([0.8, 0.8, 0.8, 0.0]))
    assert got.tolist() == pytest.approx([0.8, 0.2, 0.5, 1.0])


def test_the_baseline_chooses_the_longer_whatever_the_rewards_say():
    figures = measure(np.array([1.0, 1.0, -1.0, 1.0]), pairs_with(lengths=[(5, 2), (2, 5), (4, 4), (6, 1)]))
    assert figures["longer"] == 2.5 / 4 and figures["accuracy"] == 3 / 4


def test_calibration_holds_what_is_said_against_how_often_it_is_so():
    """σ(|log 3|) = 0.75, of which 2 in 4 are right, and σ(|log 9|) = 0.9, of which 1 in 1."""
    delta = np.array([log(3), -log(3), log(3), -log(3), log(9) - 1e-9])
    figures = measure(delta, pairs_with(p=[1.0] * 5))
    assert np.array(figures["calibration"]) == pytest.approx(np.array([[0.75, 0.5, 4], [0.9, 1.0, 1]]), abs=1e-6)
    assert figures["ece"] == pytest.approx((4 * 0.25 + 0.1) / 5, abs=1e-6)


def test_the_order_of_the_gold_rewards_is_counted_where_they_differ():
    figures = measure(np.array([1.0, 1.0, 1.0, 0.0]), pairs_with(gold=[0.5, -0.5, 0.0, 0.25]))
    assert figures["gold"] == 1.5 / 3
    assert "gold" not in measure(np.array([1.0]), pairs_with(gold=[0.0]))
