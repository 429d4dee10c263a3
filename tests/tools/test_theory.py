"""What `python -m minirlhf.tools.theory` prints is true."""

import re
import sys
from math import inf
from statistics import median

import pytest
import torch

from minirlhf.harness.options import run_script
from minirlhf.theory import demonstration
from minirlhf.tools import theory

MDP = demonstration.MDP
TINY = ("--steps", "160", "--answers", "48", "--runs", "1")


@pytest.fixture
def run(monkeypatch, capsys):
    def command(*argv: str) -> str:
        monkeypatch.setattr(sys, "argv", ["theory", *argv])
        theory.main()
        return capsys.readouterr().out

    return command


def table(seed: int) -> torch.Tensor:
    """Log-probs of a random policy, (X, S, V)."""
    size = len(MDP.prompts), len(MDP.prefixes), MDP.vocab_size
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).log_softmax(-1)


def test_four_ways_to_the_gradient_are_one():
    """The theorem, autograd and the exact mean of REINFORCE to rounding; differences to their own error."""
    ways = demonstration.gradients(table(0), table(1))
    exact = ways.pop("policy-gradient theorem")
    bounds = {"autograd": 1e-14, "finite differences": 1e-9, "REINFORCE, in the mean": 1e-14}
    assert ways.keys() == bounds.keys() and exact.norm() > 0.01
    for name, gradient in ways.items():
        assert (gradient - exact).abs().max() < bounds[name], name


def test_both_rewards_pay_an_answer_its_score():
    """The sparse one on its last token alone; the dense one in sum, before the end too, and nothing behind it."""
    sparse, dense = (demonstration.token_pay(kind) for kind in (False, True))
    last = MDP.mask.sum(1) - 1  # (N,)
    for n, y in enumerate(MDP.responses):
        assert torch.equal(sparse[:, n, last[n]], MDP.scores[:, n]) and sparse[:, n].count_nonzero(-1).max() <= 1
        assert not dense[:, n, len(y) :].any()
    assert torch.allclose(dense.sum(-1), MDP.scores, rtol=0, atol=1e-15)
    assert dense[0, MDP.responses.index((1, 2, 2, 0))].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])


def test_tables_reach_the_oracle_each_its_own_value():
    """Planning is exact; Q-learning ends at Q*, and SARSA at the Q of the policy that it follows, far from Q*."""
    rows = {(name, n): errors for name, n, *errors in demonstration.tabular_errors(32_000, seed=0)}
    assert rows["value iteration, V*", 0][0] == 0.0
    assert rows["Q-learning, replay", 32_000][0] < 1e-9 < rows["Q-learning, replay", 2_000][0]
    star, own = rows["SARSA", 32_000]
    assert own < 0.1 < 0.3 < star


def test_replay_needs_fewer_steps():
    rows = {(name, n): errors[0] for name, n, *errors in demonstration.tabular_errors(8_000, seed=0)}
    assert rows["Q-learning, replay", 8_000] < 1e-9 < 0.1 < rows["Q-learning, no replay", 8_000]


def test_a_dense_reward_needs_fewer_samples_where_the_critic_is_trusted_and_lambda_makes_up_for_a_sparse_one():
    """γ = 1, the median of 5: λ = 0 against λ = 1, sparse and dense."""
    def needed(dense: bool, lam: float) -> float:
        pay = demonstration.token_pay(dense)
        return median(demonstration.answers_needed(pay, 1.0, lam, 4_000, seed) for seed in range(5))

    assert needed(True, 0.0) < 0.8 * needed(False, 0.0)
    assert needed(False, 1.0) < 0.8 * needed(False, 0.0)


def test_without_a_future_a_score_at_the_end_is_not_learnt():
    """γ = 0: a word is never paid when only the last token is, and at once where each one is."""
    sparse, dense = (demonstration.answers_needed(demonstration.token_pay(d), 0.0, 0.0, 3_000, 0) for d in (False, True))
    assert dense < sparse == inf


def test_what_is_printed_is_what_is_computed(run):
    """J* − J = β KL(π ‖ π*) to the last digit, small deviations, and an entry of the table from its function."""
    out = run("--steps", "160", "--answers", "1200", "--runs", "1")
    gap, price = re.search(r"= (\S+), and beta x KL\(policy \|\| pi\*\) = (\S+)", out).groups()
    assert gap == price and float(gap) > 0.1
    assert all(float(x) < 1e-9 for x in re.findall(r"largest deviation of .* (\S+)\n", out))
    again = demonstration.answers_needed(demonstration.token_pay(True), 1.0, 0.9, 1_200, 0)
    assert re.search(r"\n +1 +0.9 +\S+ +(\d+)\n", out)[1] == str(again)
    assert re.search(r"\n +0 +any +> 1,200 ", out)
    assert len(re.findall(r"\n +[\d.]+ +(?:any|[\d.]+) +(?:> )?[\d,]+ +(?:> )?[\d,]+", out)) == len(demonstration.GRID)


def test_the_seed_decides_the_output(run):
    first, again, other = run(*TINY), run(*TINY), run(*TINY, "--seed", "1")
    assert first == again != other
    assert first.split("1.")[0] == other.split("1.")[0]  # the world is the same


@pytest.mark.parametrize("argv, message", [
    (["--runs", "0"], "--runs 0: must be at least 1"),
    (["--seed", str(2**63)], "must be below 2"),
    (["--tokens", "9"], "--tokens"),
])  # fmt: skip
def test_wrong_use_is_one_line(monkeypatch, capsys, argv, message):
    monkeypatch.setattr(sys, "argv", ["theory", *argv])
    with pytest.raises(SystemExit) as caught:
        run_script(theory.main)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
