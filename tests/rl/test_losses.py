"""The formulas of policy gradient and PPO: against slow loops, enumeration and published numbers."""

from math import exp, expm1, log, nan

import pytest
import torch

from minirlhf.lm.logits import token_logprobs
from minirlhf.preferences.dpo import implicit_reward
from minirlhf.preferences.train_reward import preference_loss
from minirlhf.rl.config import adapt_beta
from minirlhf.rl.losses import (
    gae, group_relative, kl_estimate, kl_loss, leave_one_out, masked_mean, masked_sum, policy_loss, reinforce_loss,
    token_rewards, token_weights, value_loss, whiten,
)

MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0]]).bool()
# torchtune's and evaluation.md's categorical distributions, and log-probs of four sampled tokens
P = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
Q = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64)
KL_PQ = 0.2180119109
LOGPROBS, REF_LOGPROBS = torch.tensor([-1, -0.5, -2, -0.1]), torch.tensor([-1.2, -0.4, -2.5, -0.1])


def ragged(seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    """(4, 6) random numbers in float64."""
    return scale * torch.randn(MASK.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spoiled(x: torch.Tensor, garbage: float) -> torch.Tensor:
    """x with garbage where the mask is False."""
    return torch.where(MASK, x, garbage)


def widened(x: torch.Tensor, garbage: float) -> torch.Tensor:
    """x with garbage where the mask is False, and two more columns of it."""
    return torch.nn.functional.pad(spoiled(x, garbage), (0, 2), value=garbage)


def gradient(loss: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """d loss / d parameter."""
    return torch.autograd.grad(loss, parameter)[0]


def true_kl(logits: torch.Tensor, ref: torch.Tensor) -> torch.Tensor:
    """KL between two categorical distributions, written out."""
    p, q = logits.exp() / logits.exp().sum(), ref.exp() / ref.exp().sum()
    return sum(p[v] * (p[v].log() - q[v].log()) for v in range(len(p)))


# Sums over a mask


def test_masked_sum_and_mean_see_real_tokens_alone():
    x = spoiled(ragged(), nan)
    kept = [float(x[b, t]) for b, t in MASK.nonzero().tolist()]
    assert float(masked_sum(x, MASK)) == pytest.approx(sum(kept))
    assert float(masked_mean(x, MASK)) == pytest.approx(sum(kept) / len(kept))
    by_row = [sum(x[b, t].item() for t in range(6) if MASK[b, t]) for b in range(4)]
    assert masked_sum(x, MASK, 1).tolist() == pytest.approx(by_row)


def test_whiten_fixture_of_the_biased_variance():
    """From "The N implementation details of RLHF with PPO": less the mean of 1.6; the variance is biased."""
    x = torch.tensor([[1.2, 1.3, 1.4], [1.5, 1.6, 1.7], [1.8, 1.9, 2.0]])
    got = whiten(x, torch.ones_like(x).bool())
    kept_mean = torch.tensor([0.0508, 0.4381, 0.8254])
    torch.testing.assert_close(got[0], kept_mean - 1.6, atol=1e-4, rtol=0)


def test_whitened_numbers_have_mean_0_and_variance_1_over_the_mask():
    white = whiten(spoiled(ragged(scale=5) + 3, nan), MASK)[MASK]
    assert float(white.mean()) == pytest.approx(0, abs=1e-9)
    assert float((white**2).mean()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("garbage", [1e6, nan])
def test_whiten_ignores_masked_garbage_and_returns_0_there(garbage):
    clean = whiten(spoiled(ragged(), 0.0), MASK)
    assert torch.equal(whiten(spoiled(ragged(), garbage), MASK), clean)
    assert bool((clean[~MASK] == 0).all())


@pytest.mark.parametrize("x, mask", [
    ([3.0, 9.0], [True, False]),
    ([1000.1] * 7, [True] * 7),
    ([2.0, 5.0], [False, False]),
], ids=["one element", "equal elements", "nothing"])
def test_whitening_what_has_no_variance_gives_0(x, mask):
    """In float32 the mean of seven times 1000.1 is another number, and the rest would be scaled up."""
    assert whiten(torch.tensor(x), torch.tensor(mask)).tolist() == [0] * len(x)


# KL


@pytest.mark.parametrize("kind, expected", [("k1", 0.15), ("k2", 0.0375), ("k3", 0.0326080827)])
def test_kl_estimates_of_four_tokens(kind, expected):
    """notes/evaluation.md, section 3, item 9; analytic."""
    assert float(kl_estimate(LOGPROBS, REF_LOGPROBS, kind).mean()) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("kind, expected", [("k1", KL_PQ), ("k2", 0.2090582965), ("k3", KL_PQ)])
def test_expectations_of_the_kl_estimates(kind, expected):
    """k1 and k3 are unbiased, k2 is not."""
    assert float((P * kl_estimate(P.log(), Q.log(), kind)).sum()) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("kind, variance", [("k1", 0.3705873997), ("k3", 0.0393405480)])
def test_variances_of_the_kl_estimates(kind, variance):
    k = kl_estimate(P.log(), Q.log(), kind)
    assert float((P * k**2).sum() - (P * k).sum() ** 2) == pytest.approx(variance, abs=1e-10)


def test_expected_gradients_of_the_kl_estimates():
    """By enumeration: 0, ∇KL(π‖ref), ∇KL(ref‖π); and k1 as a reward gives ∇KL(π‖ref)."""
    logits = torch.tensor([0.3, -0.7, 1.1, 0.0], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([-0.2, 0.4, 0.1, 0.6], dtype=torch.float64)
    logp, ref_logp = logits.log_softmax(0), ref.log_softmax(0)
    p = logp.exp().detach()
    forward, backward = gradient(true_kl(logits, ref), logits), gradient(true_kl(ref, logits), logits)
    expected = {"k1": torch.zeros(4, dtype=torch.float64), "k2": forward, "k3": backward}
    for kind, gradient_wanted in expected.items():
        got = gradient((p * kl_estimate(logits.log_softmax(0), ref_logp, kind)).sum(), logits)
        torch.testing.assert_close(got, gradient_wanted, atol=1e-12, rtol=0)
    as_reward = gradient((p * kl_estimate(logp, ref_logp, "k1").detach() * logp).sum(), logits)
    torch.testing.assert_close(as_reward, forward, atol=1e-12, rtol=0)


def test_k3_is_never_negative_and_keeps_its_digits_near_0():
    small = torch.logspace(-8, -2, 200)
    log_ratio = torch.cat([torch.linspace(-3, 3, 1001), small, -small])
    got = kl_estimate(log_ratio, torch.zeros_like(log_ratio), "k3")
    exact = torch.tensor([expm1(-x) + x for x in log_ratio.double().tolist()])
    assert bool((got >= 0).all())
    # exp(−x) − 1 + x would be off by 6e-8, half of 1's last bit
    error = (got - exact).abs() / log_ratio.abs().clamp(min=1e-30)
    assert float(error[log_ratio.abs() < 0.1].max()) < 2e-7


def test_an_unknown_kl_estimator_is_refused():
    with pytest.raises(ValueError, match="k4.*k1, k2, k3"):
        kl_estimate(LOGPROBS, REF_LOGPROBS, "k4")


def test_adaptive_beta_stays_above_0():
    """The factor is 1 − n / (5 horizons) at the least: refused where that is 0 or less."""
    assert adapt_beta(0.1, 0.0, 6.0, 20, 99) == pytest.approx(0.001)
    with pytest.raises(ValueError, match="100 responses in a horizon of 20"):
        adapt_beta(0.1, 0.0, 6.0, 20, 100)


def test_adaptive_beta_of_twice_the_target():
    """Ziegler et al. 2019: a batch of 512 in a horizon of 10,000, the error clipped at 0.2."""
    assert adapt_beta(0.15, 12.0, 6.0, 10_000, 512) == pytest.approx(0.15 * 1.01024, rel=1e-12)


@pytest.mark.parametrize("kl, error", [
    (6.0, 0.0), (6.6, 0.1), (5.4, -0.1), (0.0, -0.2), (-5.0, -0.2), (1e9, 0.2)
])
def test_adaptive_beta_moves_with_the_clipped_error_and_rests_at_the_target(kl, error):
    assert adapt_beta(0.1, kl, 6.0, 100, 50) == pytest.approx(0.1 * (1 + error / 2), rel=1e-12)


# Rewards and advantages


def test_the_score_stands_on_the_last_real_token():
    """A row that ended early, one that fills the width, and one of a single token."""
    mask = torch.tensor([[True, True, True, False], [True] * 4, [True, False, False, False]])
    rewards = token_rewards(torch.tensor([5.0, 7.0, 9.0]), torch.zeros(3, 4), mask, 0.1)
    assert rewards.tolist() == [[0, 0, 5, 0], [0, 0, 0, 7], [9, 0, 0, 0]]


def test_rewards_sum_to_the_score_minus_beta_kl():
    scores, kl = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64), ragged()
    rewards = token_rewards(scores, kl, MASK, 0.3)
    for b in range(4):
        assert float(rewards[b].sum()) == pytest.approx(float(scores[b]) - 0.3 * float(kl[b, MASK[b]].sum()))


def test_a_token_that_the_policy_likes_more_than_the_reference_costs_reward():
    """The sign of the KL penalty."""
    kl = kl_estimate(torch.tensor([[-0.5, -2.0]]), torch.tensor([[-1.0, -1.0]]), "k1")
    rewards = token_rewards(torch.zeros(1), kl, torch.ones(1, 2).bool(), 0.1)
    assert rewards[0].tolist() == pytest.approx([-0.05, 0.1])


@pytest.mark.parametrize("garbage", [1e6, nan])
def test_rewards_do_not_depend_on_padding(garbage):
    scores = torch.arange(4, dtype=torch.float64)
    clean = token_rewards(scores, ragged(), MASK, 0.3)
    wide = token_rewards(scores, widened(ragged(), garbage), widened(MASK, False), 0.3)
    assert torch.equal(wide, widened(clean, 0.0)) and bool((clean[~MASK] == 0).all())


def test_a_row_without_a_token_has_no_reward():
    rewards = token_rewards(torch.ones(1), torch.ones(1, 3), torch.zeros(1, 3).bool(), 1.0)
    assert rewards.tolist() == [[0, 0, 0]]


def slow_advantages(rewards, values, length, gamma, lam):
    """Â_t = Σ_l (γλ)^l δ_{t+l}, the definition, for one row."""
    V = [*values[:length], 0.0]
    delta = [rewards[t] + gamma * V[t + 1] - V[t] for t in range(length)]
    return [sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, length)) for t in range(length)]


@pytest.mark.parametrize("gamma, lam", [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (1.0, 0.0), (0.0, 0.5)])
def test_gae_equals_its_definition(gamma, lam):
    rewards, values = ragged(1), ragged(2)
    advantages, returns = gae(rewards, values, MASK, gamma, lam)
    for b, n in enumerate(MASK.sum(1).tolist()):
        slow = slow_advantages(rewards[b].tolist(), values[b].tolist(), n, gamma, lam)
        assert advantages[b, :n].tolist() == pytest.approx(slow, abs=1e-12)
        targets = [a + float(v) for a, v in zip(slow, values[b])]
        assert returns[b, :n].tolist() == pytest.approx(targets, abs=1e-12)


def test_lambda_one_is_monte_carlo_minus_value():
    rewards, values = ragged(1), ragged(2)
    advantages, returns = gae(rewards, values, MASK, 0.9, 1.0)
    for b, n in enumerate(MASK.sum(1).tolist()):
        for t in range(n):
            monte_carlo = sum(0.9 ** (k - t) * float(rewards[b, k]) for k in range(t, n))
            assert float(advantages[b, t]) == pytest.approx(monte_carlo - float(values[b, t]), abs=1e-12)
            assert float(returns[b, t]) == pytest.approx(monte_carlo, abs=1e-12)


def test_lambda_zero_is_the_td_error():
    rewards, values = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0.5, 3.0, 1.0]])
    advantages, _ = gae(rewards, values, torch.ones(1, 3).bool(), 0.5, 0.0)
    assert advantages[0].tolist() == [1 + 1.5 - 0.5, 2 + 0.5 - 3, 4 - 1]


def test_gae_fixture_of_torchtune():
    """values = rewards = [0, 0, 0, 1], γ = .9, λ = .95: returns [γ³λ², γ²λ, γ, 1]."""
    x = torch.tensor([[0.0, 0.0, 0.0, 1.0]])
    _, returns = gae(x, x, torch.ones(1, 4).bool(), 0.9, 0.95)
    assert returns[0].tolist() == pytest.approx([0.9**3 * 0.95**2, 0.9**2 * 0.95, 0.9, 1.0])


@pytest.mark.parametrize("garbage", [1e6, nan])
def test_masked_garbage_has_no_influence_on_gae(garbage):
    clean = gae(spoiled(ragged(1), 0.0), spoiled(ragged(2), 0.0), MASK, 0.99, 0.95)
    wide = gae(widened(ragged(1), garbage), widened(ragged(2), garbage), widened(MASK, False), 0.99, 0.95)
    for got, wanted in zip(wide, clean):
        assert torch.equal(got, widened(wanted, 0.0)) and bool((wanted[~MASK] == 0).all())


# Losses


@pytest.mark.parametrize("advantage, ratio, loss, stopped", [
    (2.0, 1.5, -2.4, True),
    (2.0, 0.5, -1.0, False),
    (-2.0, 1.5, 3.0, False),
    (-2.0, 0.5, 1.6, True),
    (2.0, 1.1, -2.2, False),
    (-2.0, 0.9, 1.8, False),
    (0.0, 1.5, 0.0, False),
])
def test_the_corners_of_the_clipped_surrogate(advantage, ratio, loss, stopped):
    """The clip stops the gradient, and is counted, only where it binds: where going on would be rewarded."""
    logprobs = torch.tensor([[log(ratio)]], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, 1).bool()
    got, watch = policy_loss(logprobs, torch.zeros(1, 1), torch.tensor([[advantage]]), one.double(), 0.2, 0.2)
    assert got.item() == pytest.approx(loss)
    slope = gradient(got, logprobs).item()
    assert slope == 0 if stopped else slope == pytest.approx(-advantage * ratio)
    assert watch["clip_frac"].item() == stopped
    assert watch["ratio"].item() == pytest.approx(ratio)


def test_at_ratio_1_the_gradient_is_reinforces():
    """The RLOO blog's fixture: logits [1, 2, 1, 1], action 1, advantage 1."""
    logits = torch.tensor([1.0, 2.0, 1.0, 1.0], requires_grad=True)
    logp = token_logprobs(logits[None, None], torch.tensor([[1]]))  # (1, 1)
    one, A = torch.ones(1, 1), torch.ones(1, 1)
    expected = torch.tensor([-0.1749, 0.5246, -0.1749, -0.1749])
    ppo, _ = policy_loss(logp, logp.detach(), A, one, 0.2, 0.2)
    for loss in (ppo, reinforce_loss(logp, A, one)):
        got = torch.autograd.grad(-loss, logits, retain_graph=True)[0]
        torch.testing.assert_close(got, expected, atol=5e-5, rtol=0)


def test_approx_kl_is_never_negative_and_estimates_kl_of_old_from_new():
    """Σ_v π_old (ρ − 1 − log ρ) = KL(π_old ‖ π), by enumeration."""
    one = torch.ones(1, 1).bool()
    each = [policy_loss(new.view(1, 1), old.view(1, 1), torch.ones(1, 1), one, 0.2, 0.2)[1]["approx_kl"]
            for new, old in zip(Q.log(), P.log())]
    assert min(each) > 0
    assert float(sum(p * k for p, k in zip(P, each))) == pytest.approx(KL_PQ, abs=1e-10)


def slow_policy_loss(logprobs, old, advantages, mask, clip, n_tokens):
    """Token by token."""
    total = 0.0
    for b, t in mask.nonzero().tolist():
        ratio, A = exp(float(logprobs[b, t] - old[b, t])), float(advantages[b, t])
        total += -min(A * ratio, A * min(max(ratio, 1 - clip), 1 + clip))
    return total / n_tokens


def slow_value_loss(values, old, returns, mask, clip, n_tokens):
    """Token by token."""
    total = 0.0
    for b, t in mask.nonzero().tolist():
        v, o, g = (float(x[b, t]) for x in (values, old, returns))
        total += max((v - g) ** 2, (min(max(v, o - clip), o + clip) - g) ** 2) / 2
    return total / n_tokens


def losses(first, second, third, mask, n_tokens):
    """The losses of (log π, log π_old, Â), of (V, V_old, G) or of (log π, log ref)."""
    return {
        "policy": policy_loss(first, second, third, mask.double() / n_tokens, 0.2, 0.2)[0],
        "reinforce": reinforce_loss(first, third, mask.double() / n_tokens),
        "value": value_loss(first, second, third, mask.double() / n_tokens, 0.2),
        "kl": kl_loss(first, second, mask.double() / n_tokens, "k3"),
    }


def test_losses_equal_slow_loops():
    x, y, z = ragged(1, 0.3), ragged(2, 0.3), ragged(3)
    got = losses(x, y, z, MASK, 14)
    reinforce = -sum(float(z[b, t] * x[b, t]) for b, t in MASK.nonzero().tolist()) / 14
    assert float(got["policy"]) == pytest.approx(slow_policy_loss(x, y, z, MASK, 0.2, 14), abs=1e-12)
    assert float(got["value"]) == pytest.approx(slow_value_loss(x, y, z, MASK, 0.2, 14), abs=1e-12)
    assert float(got["reinforce"]) == pytest.approx(reinforce, abs=1e-12)
    kl = sum(exp(-float((x - y)[b, t])) - 1 + float((x - y)[b, t]) for b, t in MASK.nonzero().tolist()) / 14
    assert float(got["kl"]) == pytest.approx(kl, abs=1e-12)


@pytest.mark.parametrize("name", ["policy", "reinforce", "value", "kl"])
@pytest.mark.parametrize("garbage", [1e4, nan])
def test_padding_moves_neither_losses_nor_gradients(name, garbage):
    """Also where what stands there is not a number: 0 · NaN would poison the gradient."""
    x, y, z = ragged(1, 0.3), ragged(2, 0.3), ragged(3)
    clean = spoiled(x, 0.0).requires_grad_()
    wide = widened(x, garbage).requires_grad_()
    loss = losses(clean, spoiled(y, 0.0), spoiled(z, 0.0), MASK, 14)[name]
    same = losses(wide, widened(y, garbage), widened(z, garbage), widened(MASK, False), 14)[name]
    assert same.item() == pytest.approx(loss.item(), abs=1e-14)
    torch.testing.assert_close(gradient(same, wide), widened(gradient(loss, clean), 0.0), atol=1e-14, rtol=0)


def test_what_is_watched_does_not_depend_on_padding():
    x, y, z = ragged(1, 0.3), ragged(2, 0.3), ragged(3)
    clean = policy_loss(x, y, z, MASK.double() / 14, 0.2, 0.2)[1]
    wide = policy_loss(*(widened(a, nan) for a in (x, y, z)), widened(MASK, False).double() / 14, 0.2, 0.2)[1]
    assert {k: float(v) for k, v in wide.items()} == pytest.approx({k: float(v) for k, v in clean.items()})
    assert float(clean["ratio"]) == pytest.approx(sum(float((x - y)[b, t].exp()) for b, t in MASK.nonzero()))


@pytest.mark.parametrize("name", ["policy", "reinforce", "value", "kl"])
@pytest.mark.parametrize("parts", [[[0], [1], [2], [3]], [[0, 3], [1, 2]], [[2], [0, 1, 3]]])
def test_the_gradient_does_not_depend_on_micro_batches(name, parts):
    """Rows of 6, 3, 1 and 4 tokens: a mean of means would weigh the short ones more."""
    x, y, z = ragged(1, 0.3).requires_grad_(), ragged(2, 0.3), ragged(3)
    whole = gradient(losses(x, y, z, MASK, 14)[name], x)
    cut = sum(gradient(losses(x[rows], y[rows], z[rows], MASK[rows], 14)[name], x) for rows in parts)
    torch.testing.assert_close(cut, whole)


@pytest.mark.parametrize("name", ["policy", "reinforce", "value", "kl"])
def test_gradients_equal_finite_differences(name):
    x = ragged(1, 0.3).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: losses(a, ragged(2, 0.3), ragged(3), MASK, 14)[name], x)


@pytest.mark.parametrize("name", ["policy", "reinforce", "value", "kl"])
def test_a_batch_without_a_token_has_loss_0_and_gradient_0(name):
    x = ragged(1).requires_grad_()
    loss = losses(x, ragged(2), ragged(3), torch.zeros_like(MASK), 1)[name]
    assert loss.item() == 0 and bool((gradient(loss, x) == 0).all())


@pytest.mark.parametrize("name", ["policy", "reinforce"])
def test_no_gradient_flows_through_the_advantages(name):
    logprobs, advantages = ragged(1, 0.1).requires_grad_(), ragged(3).requires_grad_()
    losses(logprobs, ragged(2, 0.1), advantages, MASK, 14)[name].backward()
    assert advantages.grad is None and logprobs.grad is not None


def test_dapos_higher_clip_bounds_the_ratio_from_above_alone():
    """ε = 0.2, ε_high = 0.28: a good token may go to 1.28, a bad one to 0.8."""
    one = torch.ones(1, 1, dtype=torch.float64)
    for ratio, A, wanted in ((1.25, 1.0, -1.25), (1.5, 1.0, -1.28), (0.5, -1.0, 0.8), (0.75, 1.0, -0.75)):
        got, _ = policy_loss(log(ratio) * one, 0 * one, A * one, one, 0.2, 0.28)
        assert got.item() == pytest.approx(wanted)


def test_token_weights_of_responses_of_6_3_1_and_4_tokens():
    """4 responses, 14 tokens, at most 8: what a token of each response counts."""
    wanted = {"sum": [1 / 4] * 4, "token": [1 / 14] * 4, "constant": [1 / 32] * 4,
              "sequence": [1 / 24, 1 / 12, 1 / 4, 1 / 16]}
    for aggregate, per_token in wanted.items():
        got = token_weights(MASK, aggregate, 8)
        expected = torch.tensor(per_token)[:, None] * MASK
        torch.testing.assert_close(got, expected, atol=1e-7, rtol=0)
    with pytest.raises(ValueError, match="none of sum, token, sequence, constant"):
        token_weights(MASK, "mean", 8)


@pytest.mark.parametrize("aggregate", ["sum", "token", "sequence", "constant"])
def test_token_weights_of_padding_and_of_an_empty_batch_are_0(aggregate):
    assert bool((token_weights(MASK, aggregate, 8) > 0).eq(MASK).all())
    assert token_weights(torch.zeros_like(MASK), aggregate, 8).tolist() == torch.zeros(4, 6).tolist()


def test_leave_one_out_fixture_of_the_rloo_blog():
    """k = 4 responses to 3 prompts there stand prompt by prompt here: A of the first is −4, of one of 10 is 4/3."""
    by_rank = torch.tensor([[1.0, 2, 3], [2, 3, 4], [5, 6, 7], [8, 9, 10]])  # (k, prompts)
    got = leave_one_out(by_rank.T.reshape(-1), 4).view(3, 4).T  # (k, prompts)
    assert float(got[0, 0]) == pytest.approx(-4) and float(got[2, 1]) == pytest.approx(4 / 3)
    for k in range(4):
        for x in range(3):
            others = [float(by_rank[j, x]) for j in range(4) if j != k]
            assert float(got[k, x]) == pytest.approx(float(by_rank[k, x]) - sum(others) / 3)


def test_group_relative_advantages_of_four_rewards():
    """Rewards 0, 0, 1, 3: mean 1, σ² = (1 + 1 + 0 + 4) / 3 = 2. Another prompt's group has no say."""
    rewards = torch.tensor([0.0, 0, 1, 3, 100, 200, 300, 400], dtype=torch.float64)
    assert group_relative(rewards, 4, std=False)[:4].tolist() == [-1, -1, 0, 2]
    wanted = [x / (2**0.5 + 1e-4) for x in (-1, -1, 0, 2)]
    assert group_relative(rewards, 4, std=True)[:4].tolist() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("std", [False, True])
@pytest.mark.parametrize("reward", [0.0, 0.1, 0.3, 12345.6])
def test_a_group_of_equal_rewards_has_advantage_0(std, reward):
    """Also where the float32 mean of equal numbers is another number, which 1 / eps would blow up."""
    assert group_relative(torch.full((14,), reward), 7, std).tolist() == [0.0] * 14


@pytest.mark.parametrize("value, loss, slope", [
    (0.5, 0.5 * 0.5**2, -0.5),
    (1.1, 0.5 * 0.8**2, 0.0),
    (0.1, 0.5 * 0.9**2, -0.9),
    (-0.6, 0.5 * 1.6**2, -1.6),
])
def test_the_value_clip_changes_the_loss_only_where_it_is_the_larger(value, loss, slope):
    """V_old = 0, G = 1, ε = 0.2 or, in the first case, without a clip."""
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    V = torch.full((1, 1), value, dtype=torch.float64, requires_grad=True)
    got = value_loss(V, zero, one, one, torch.inf if value == 0.5 else 0.2)
    assert got.item() == pytest.approx(loss)
    assert gradient(got, V).item() == pytest.approx(slope)


# Preferences


def test_a_soft_label_wants_the_margin_that_is_its_logit():
    p = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    margins = torch.logit(p).requires_grad_()
    assert gradient(preference_loss(margins, p), margins).abs().max() < 1e-15


def test_the_preference_loss_of_an_extreme_margin_is_finite():
    margins = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = preference_loss(margins)
    assert loss.item() == pytest.approx(5000) and gradient(loss, margins).tolist() == [-0.5, 0]


def test_dpo_raises_the_chosen_and_lowers_the_rejected():
    logprobs = torch.zeros(2, dtype=torch.float64, requires_grad=True)  # chosen, rejected
    chosen, rejected = implicit_reward(logprobs, torch.zeros(2), 0.5).split(1)
    assert gradient(preference_loss(chosen - rejected), logprobs).tolist() == [-0.25, 0.25]  # −β σ(−m)
