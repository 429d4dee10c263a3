"""How far from the optimum: against the enumerated optimum of the oracle, and by brute force."""

import json
from math import exp, inf, log

import numpy as np
import pytest
import torch

from minirlhf.lm import checkpoint
from minirlhf.rl.optimum import (
    LEAST, Achieved, best_of_n, effective_size, equivalent_n, mixture_weights, optimal_objective,
)
from minirlhf.theory.oracle import TokenMDP, best_of_n_law as exact_best_of_n, kl, objective, optimum, response_logprobs

BETA = 0.3
MDP = TokenMDP(3, 0, 3, ((1,),), lambda x, y: len(set(y)) / 2 - 0.3 * (2 in y), missing_eos=-0.5)


def table(seed: int) -> torch.Tensor:
    """A random policy, (1, S, V)."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(1, len(MDP.prefixes), 3, generator=g, dtype=torch.float64).log_softmax(-1)


REF, POLICY = table(0), table(1)


def draw(logp: torch.Tensor, n: int, seed: int) -> np.ndarray:
    """n indices of responses."""
    p = response_logprobs(logp, MDP)[0].exp().numpy()
    return np.random.default_rng(seed).choice(len(p), n, p=p / p.sum())


def sample(logp: torch.Tensor, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(rewards, log POLICY − log REF) of n responses."""
    y = draw(logp, n, seed)
    log_ratio = (response_logprobs(POLICY, MDP) - response_logprobs(REF, MDP))[0].numpy()
    return MDP.scores[0].numpy()[y], log_ratio[y]


J_STAR = float(optimum(REF, MDP, BETA)[2])


def test_reference_samples_give_the_oracles_optimum():
    rewards, _ = sample(REF, 200_000, 0)
    assert optimal_objective(rewards, np.ones(len(rewards)), BETA) == pytest.approx(J_STAR, abs=3e-3)


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_a_mixture_of_reference_and_policy_gives_it_too(share):
    """Although most samples are not the reference's."""
    n = 200_000
    parts = sample(REF, int(share * n), 0), sample(POLICY, n - int(share * n), 1)
    rewards, log_ratio = (np.concatenate(x) for x in zip(*parts))
    weights = mixture_weights(log_ratio, share)
    assert weights.mean() == pytest.approx(1, abs=0.01) and weights.max() <= 1 / share
    assert optimal_objective(rewards, weights, BETA) == pytest.approx(J_STAR, abs=3e-3)


def test_no_weight_leaves_the_samples_of_the_policy_to_stand_for_themselves():
    """What a forgotten ref / π would give: the optimum around the policy, another number."""
    rewards, _ = sample(POLICY, 200_000, 1)
    assert abs(optimal_objective(rewards, np.ones(len(rewards)), BETA) - J_STAR) > 0.02


@pytest.mark.parametrize("reward", [0.0, 1.0, -3.0, 1e6])
def test_the_optimum_of_a_constant_reward_is_that_reward_on_all_samples(reward):
    """Also where exp(r / β) is no float."""
    rewards = np.full(50, reward)
    assert optimal_objective(rewards, np.ones(50), 0.025) == pytest.approx(reward)
    assert effective_size(rewards, np.ones(50), 0.025) == pytest.approx(50)


def test_the_effective_size_of_one_good_sample_among_many_is_one():
    rewards = np.zeros(1000)
    rewards[7] = 1
    assert effective_size(rewards, np.ones(1000), 0.01) == pytest.approx(1)
    assert effective_size(rewards, np.ones(1000), 1e6) == pytest.approx(1000)


def test_samples_of_a_better_policy_are_worth_more_than_those_of_the_reference():
    """Drawn from π* itself, every sample counts the same."""
    best, _, _ = optimum(REF, MDP, BETA)
    y = draw(best, 1000, 0)
    rewards = MDP.scores[0].numpy()[y]
    weights = np.exp((response_logprobs(REF, MDP) - response_logprobs(best, MDP))[0].numpy()[y])
    assert effective_size(rewards, weights, BETA) == pytest.approx(1000)
    assert optimal_objective(rewards, weights, BETA) == pytest.approx(J_STAR, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_best_of_n_equals_the_oracles(n):
    """With the exact probabilities as weights, and the exact law of best-of-n."""
    p = response_logprobs(REF, MDP)[0].exp().numpy()
    wanted = float((exact_best_of_n(REF, MDP, n)[0] * MDP.scores[0]).sum())
    assert best_of_n(MDP.scores[0].numpy(), p, n)[0] == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_best_of_n_rests_on_as_many_samples_as_its_law_gives_equal_weight(seed):
    """Against the same law spelt out sample by sample: each has its weight's share in the chance of its level."""
    rng = np.random.default_rng(seed)
    rewards, weights, n = rng.integers(0, 6, 90) / 5, rng.exponential(size=90), float(rng.uniform(1, 60))
    v = np.zeros(90)
    for x in np.unique(rewards):
        below, here = weights[rewards < x].sum() / weights.sum(), rewards == x
        upto = below + weights[here].sum() / weights.sum()
        v[here] = (upto**n - below**n) * weights[here] / weights[here].sum()
    assert best_of_n(rewards, weights, n) == pytest.approx((v @ rewards, v.sum() ** 2 / (v * v).sum()))
    assert best_of_n(np.arange(500.0), np.ones(500), 1)[1] == pytest.approx(500)


def test_worth_is_the_n_of_that_best_of_n():
    def worth(reward: float) -> float:
        return float(equivalent_n(np.array([reward]), np.array([0.0, 1.0]), np.array([[0.8, 0.2]]))[0])  # 1 − 0.8ⁿ

    for n in (1.0, 3.0, 12.5):
        assert worth(1 - 0.8**n) == pytest.approx(n, rel=1e-6)
    assert worth(-5.0) == 0 and worth(0.2) == pytest.approx(1, rel=1e-6)  # one answer earns more, or as much
    assert equivalent_n(np.ones(1), np.ones(1), np.full((1, 1), 0.1)) == pytest.approx(1)
    assert worth(1.1) == inf
    both = equivalent_n(np.array([0.5, 0.5]), np.array([0.0, 1.0]), np.array([[0.8, 0.2], [0.5, 0.5]]))
    assert both == pytest.approx([log(0.5) / log(0.8), 1])


def test_jensen_what_is_pooled_over_prompts_is_an_upper_bound():
    """Two prompts, one easy and one hopeless: J* and best-of-n of the pool are above the mean of each."""
    easy, hopeless = np.ones(500), np.zeros(500)
    pool, one = np.concatenate([easy, hopeless]), np.ones
    each = [optimal_objective(r, one(500), 0.1) for r in (easy, hopeless)]
    assert optimal_objective(pool, one(1000), 0.1) > np.mean(each) + 0.1
    assert best_of_n(pool, one(1000), 4)[0] > np.mean([best_of_n(r, one(500), 4)[0] for r in (easy, hopeless)]) + 0.1


# Round by round


def rounds(policies: list[torch.Tensor], n: int) -> list[dict]:
    """What `Achieved` says of rollouts of these policies in turn."""
    achieved, figures = Achieved(BETA), []
    for step, logp in enumerate(policies):
        y = draw(logp, n, step)
        log_ratio = (response_logprobs(logp, MDP) - response_logprobs(REF, MDP))[0].numpy()[y]
        figures.append(achieved.add(MDP.scores[0].numpy()[y], log_ratio))
    return figures


def test_the_share_goes_from_0_at_the_reference_to_1_at_the_optimum():
    best, _, _ = optimum(REF, MDP, BETA)
    first, last = rounds([REF, best], 50_000)
    assert first["share"] == pytest.approx(0, abs=0.03) and last["share"] == pytest.approx(1, abs=0.03)
    assert first["objective"] == pytest.approx(float(objective(REF, REF, MDP, BETA)), abs=5e-3)
    assert last["optimum"] == pytest.approx(J_STAR, abs=5e-3)


def test_the_regret_is_beta_times_the_kl_to_the_optimum():
    """Of a policy that is neither: J* − J(π) = β KL(π ‖ π*)."""
    best, _, _ = optimum(REF, MDP, BETA)
    last = rounds([REF, POLICY], 100_000)[-1]
    assert last["optimum"] - last["objective"] == pytest.approx(BETA * float(kl(POLICY, best, MDP)), abs=0.01)


def test_no_share_is_said_on_few_effective_samples():
    """One response in a hundred is good: exp(r / β) of the others is next to nothing."""
    achieved = Achieved(0.02)
    for step in range(1, 31):
        rewards = np.array([1.0] * 9 + [0.0] * 891)
        said = achieved.add(rewards, np.zeros(900))
        assert said["effective_size"] == pytest.approx(9 * step, rel=1e-6)
        assert (said["share"] is None) == (said["optimum"] is None) == (9 * step < LEAST)
    assert said["optimum"] == pytest.approx(1 + 0.02 * log(0.01), abs=1e-6)


def test_what_it_has_counted_can_be_kept_and_gone_on_with():
    whole, first = Achieved(BETA), Achieved(BETA)
    parts = [sample(REF, 500, seed) for seed in range(2)]
    for part in parts:
        wanted = whole.add(*part)
    first.add(*parts[0])
    assert Achieved(BETA, dict(first.state)).add(*parts[1]) == wanted
    assert all(isinstance(x, (int, float)) for x in first.state.values())


def test_an_optimum_of_equal_rewards_has_no_interval_and_its_run_is_read(tmp_path):
    """As where every answer is cut off, and no gradient ever moves the policy."""
    achieved = Achieved(BETA)
    achieved.add(np.zeros(256), np.zeros(256))
    (tmp_path / "run.json").write_text(json.dumps({"optimum": {"data": achieved.optimum()}}))
    known = checkpoint.read_run(tmp_path)["optimum"]["data"]
    assert (known["value"], known["low"], known["high"]) == (0.0, None, None)


def test_the_optimum_of_rounds_is_that_of_their_weighted_samples():
    """Running sums in logarithms, against the formula on everything at once."""
    parts = [sample(POLICY, 3000, seed) for seed in range(3)]
    achieved = Achieved(BETA)
    for part in parts:
        said = achieved.add(*part)
    rewards, log_ratio = (np.concatenate(x) for x in zip(*parts))
    J_star = BETA * log(np.mean([exp(r / BETA - l) for r, l in zip(rewards, log_ratio)]))
    assert said["optimum"] == pytest.approx(J_star, abs=1e-12)
    assert said["effective_size"] == pytest.approx(effective_size(rewards, np.exp(-log_ratio), BETA))


def test_the_interval_of_the_optimum_covers_it_19_times_in_20():
    """300 runs of 1000 samples: 285 are expected, 273 is more than three standard deviations below."""
    p = response_logprobs(REF, MDP)[0].exp().numpy()
    rng, covered = np.random.default_rng(0), 0
    for _ in range(300):
        achieved = Achieved(BETA)
        achieved.add(MDP.scores[0].numpy()[rng.choice(len(p), 1000, p=p / p.sum())], np.zeros(1000))
        known = achieved.optimum()
        covered += known["low"] <= J_STAR <= known["high"]
    assert 273 <= covered < 300


def test_an_optimum_on_few_effective_samples_has_no_value():
    achieved = Achieved(0.02)
    achieved.add(np.array([1.0] * 9 + [0.0] * 891), np.zeros(900))
    assert achieved.optimum() == {"effective_size": pytest.approx(9), "value": None}
