"""The theory of a token MDP as equations between numbers, and the library's estimators judged by them.

Everything is float64 and exact: what is claimed to be equal is equal to 1e-12.
"""

from itertools import product
from math import exp, inf, log, sin

import pytest
import torch
from enumerated import (
    BETA, close, conditional_mean, everything, gradient, mean_advantage, random_logits, random_policy, slow_best_of_n,
    slow_responses,
)

from minirlhf.lm.generation import Sampling, generate, responses_of
from minirlhf.evaluation.ask import exact_kl
from minirlhf.preferences.dpo import implicit_reward
from minirlhf.preferences.train_reward import preference_loss
from minirlhf.rl.losses import (
    gae, kl_estimate, kl_loss, leave_one_out, masked_sum, policy_loss, reinforce_loss, token_rewards,
)
from minirlhf.rl.rollout import score_tokens
from minirlhf.theory.oracle import (
    TokenMDP, bellman, best_of_n_law, expectation, gpt_table, kl, moments, objective, optimum, policy_gradient,
    response_logprobs, rollout_of, token_logprobs_of, visits,
)

EOS = 1  # EOS is neither the first token nor the last


def wavy(prompt: tuple[int, ...], response: tuple[int, ...]) -> float:
    """A reward that is another number for each response and each prompt."""
    return sin(5 * len(prompt) + 3 * len(response) + sum((t + 2) * a for t, a in enumerate(response)))


def coarse(prompt: tuple[int, ...], response: tuple[int, ...]) -> float:
    """A reward with many ties: whether the response holds a 2."""
    return float(2 in response)


def world(reward=wavy, vocab_size=3, max_new=3, prompts=((0, 2), (2,)), missing_eos=-0.4) -> TokenMDP:
    """Two prompts, 7 states, 15 responses."""
    return TokenMDP(vocab_size, EOS, max_new, prompts, reward, missing_eos)


# The responses


def slow_score(mdp: TokenMDP, prompt: tuple[int, ...], response: tuple[int, ...]) -> float:
    return mdp.reward(prompt, response[:-1]) if response[-1] == EOS else mdp.missing_eos


@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (4, 1)])
def test_the_responses_are_all_strings_that_end_or_run_out(shape):
    mdp = world(vocab_size=shape[0], max_new=shape[1])
    assert len(mdp.responses) == len(set(mdp.responses)) and set(mdp.responses) == slow_responses(mdp)
    assert len(set(mdp.prefixes)) == len(mdp.prefixes) == sum((shape[0] - 1) ** t for t in range(shape[1]))


def test_the_tables_of_an_mdp_describe_its_responses():
    mdp = world()
    for n, y in enumerate(mdp.responses):
        assert mdp.ids[n].tolist() == [*y] + [EOS] * (3 - len(y))
        assert mdp.mask[n].tolist() == [t < len(y) for t in range(3)]
        assert [mdp.prefixes[s] for s in mdp.states[n][mdp.mask[n]]] == [y[:t] for t in range(len(y))]
        assert mdp.ended[n] == (y[-1] == EOS)
        assert [float(s) for s in mdp.scores[:, n]] == [slow_score(mdp, x, y) for x in mdp.prompts]


def test_a_token_leads_to_the_response_it_completes_or_to_the_next_state():
    mdp = world()
    names = mdp.responses + mdp.prefixes
    assert all(names[mdp.outcome[s, a]] == mdp.prefixes[s] + (a,) for s, a in product(range(7), range(3)))


def test_an_mdp_that_cannot_be_enumerated_is_refused():
    for changes in ({"max_new": 0}, {"vocab_size": 1}, {"prompts": ()}, {"prompts": ((),)}):
        with pytest.raises(ValueError, match="max_new >= 1"):
            world(**changes)


def test_the_probabilities_of_the_responses_sum_to_1():
    mdp = world()
    logp = random_policy(0, mdp)
    close(response_logprobs(logp, mdp).exp().sum(-1), torch.ones(2).double())
    close(token_logprobs_of(logp, mdp).sum(-1), response_logprobs(logp, mdp))
    assert not token_logprobs_of(logp, mdp)[:, ~mdp.mask].any()


# J and its gradient


def slow_logprob(table: torch.Tensor, mdp: TokenMDP, x: int, response: tuple[int, ...]) -> float:
    return sum(float(table[x, mdp.prefixes.index(response[:t]), a]) for t, a in enumerate(response))


def test_objective_and_kl_equal_their_definitions():
    mdp = world()
    logp, ref = random_policy(0, mdp), random_policy(1, mdp)
    J, divergence = 0.0, [0.0, 0.0]
    for (x, prompt), y in product(enumerate(mdp.prompts), slow_responses(mdp)):
        lp, lr = slow_logprob(logp, mdp, x, y), slow_logprob(ref, mdp, x, y)
        divergence[x] += exp(lp) * (lp - lr)
        J += exp(lp) * (slow_score(mdp, prompt, y) - BETA * (lp - lr)) / 2
    assert float(objective(logp, ref, mdp, BETA)) == pytest.approx(J, abs=1e-12)
    assert kl(logp, ref, mdp).tolist() == pytest.approx(divergence, abs=1e-12)


def test_kl_of_responses_is_the_sum_of_kl_of_tokens_over_visited_states():
    """The chain rule: KL(π ‖ ref) = Σ_s d(s) KL(π(·|s) ‖ ref(·|s))."""
    mdp = world()
    logp, ref = random_policy(0, mdp), random_policy(1, mdp)
    close((visits(logp, mdp) * exact_kl(logp, ref)).sum(-1), kl(logp, ref, mdp))


def test_visits_are_the_probability_of_passing_through_a_state():
    mdp = world()
    logp = random_policy(0, mdp)
    p, lengths = response_logprobs(logp, mdp).exp(), mdp.mask.sum(1).double()  # (X, N), (N,)
    through = [[float(y[: len(s)] == s and len(y) > len(s)) for s in mdp.prefixes] for y in mdp.responses]
    close(visits(logp, mdp), p @ torch.tensor(through, dtype=torch.float64))
    close(visits(logp, mdp).sum(-1), p @ lengths)


def test_policy_gradient_theorem():
    """∇J by autograd through the sum over responses is E_x Σ_s d(s) Σ_a ∇π(a|s) Q(s, a)."""
    mdp = world()
    ref, logits = random_policy(1, mdp), random_logits(0, mdp).requires_grad_()
    logp = logits.log_softmax(-1)
    exact = gradient(objective(logp, ref, mdp, BETA), logits)
    _, Q = bellman(logp, ref, mdp, BETA)
    d = visits(logp, mdp).detach()[..., None]
    close(gradient((d * logp.exp() * Q).sum() / 2, logits), exact)
    close(policy_gradient(logp.detach(), ref, mdp, BETA), exact)


def test_policy_gradient_is_the_slope_of_the_objective():
    mdp, h = world(), 1e-5
    ref, logits = random_policy(1, mdp), random_logits(0, mdp)

    def J(shift: torch.Tensor) -> torch.Tensor:
        return objective((logits + shift).log_softmax(-1), ref, mdp, BETA)

    steps = h * torch.eye(logits.numel(), dtype=torch.float64).view(-1, *logits.shape)
    slope = torch.stack([(J(e) - J(-e)) / (2 * h) for e in steps]).view_as(logits)
    close(policy_gradient(logits.log_softmax(-1), ref, mdp, BETA), slope, atol=1e-9)


# V and Q


def slow_value(mdp, logp, ref, x: int, state: tuple[int, ...]) -> float:
    """V by recursion: what is still to come, a token at a time."""
    total, s = 0.0, mdp.prefixes.index(state)
    for a in range(mdp.vocab_size):
        said, ratio = state + (a,), float(logp[x, s, a] - ref[x, s, a])
        over = a == EOS or len(said) == mdp.max_new
        later = slow_score(mdp, mdp.prompts[x], said) if over else slow_value(mdp, logp, ref, x, said)
        total += float(logp[x, s, a].exp()) * (later - BETA * ratio)
    return total


def test_values_equal_their_recursion_and_j_is_that_of_the_prompt():
    mdp = world()
    logp, ref = random_policy(0, mdp), random_policy(1, mdp)
    values, Q = bellman(logp, ref, mdp, BETA)
    slow = [[slow_value(mdp, logp, ref, x, state) for state in mdp.prefixes] for x in range(2)]
    close(values, torch.tensor(slow, dtype=torch.float64))
    close(values, (logp.exp() * Q).sum(-1))
    close(values[:, 0].mean(), objective(logp, ref, mdp, BETA))


def test_gae_at_lambda_1_averages_to_q_minus_any_baseline():
    mdp = world()
    logp, ref, baseline = random_policy(0, mdp), random_policy(1, mdp), random_logits(2, mdp)[..., 0]
    _, Q = bellman(logp, ref, mdp, BETA)
    close(mean_advantage(logp, ref, mdp, baseline, 1.0), Q - baseline[..., None])


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
def test_gae_with_the_true_value_averages_to_the_advantage_at_any_lambda(lam):
    mdp = world()
    logp, ref = random_policy(0, mdp), random_policy(1, mdp)
    values, Q = bellman(logp, ref, mdp, BETA)
    close(mean_advantage(logp, ref, mdp, values, lam), Q - values[..., None])


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_gae_at_lambda_below_1_believes_a_wrong_value(lam):
    """V too high by 1: δ is wrong by −1 on the last token alone, and Â by −λ^(tokens still to come).

    At λ = 1 that is −1 throughout, a baseline; below, it tells tokens apart that deserve the same.
    """
    mdp = world()
    logp, ref = random_policy(0, mdp), random_policy(1, mdp)
    values, Q = bellman(logp, ref, mdp, BETA)
    rollout, p = everything(logp, ref, mdp)
    to_come = rollout.mask.sum(1, keepdim=True) - rollout.mask.cumsum(1)  # (X N, L)
    error = mean_advantage(logp, ref, mdp, values + 1, lam) - (Q - values[..., None])  # (X, S, V)
    close(error, conditional_mean(-(lam ** to_come.double()), p, mdp))


# The optimum


@pytest.mark.parametrize("beta", [0.05, 0.3, 2.0])
def test_regret_is_beta_times_the_kl_to_the_optimum(beta):
    """J* − J(π) = β KL(π ‖ π*), averaged over prompts, for any π."""
    mdp = world()
    ref = random_policy(1, mdp)
    best, _, J_star = optimum(ref, mdp, beta)
    for seed in range(5):
        logp = random_policy(10 + seed, mdp)
        close(J_star - objective(logp, ref, mdp, beta), beta * kl(logp, best, mdp).mean())


def test_the_optimum_is_the_reference_tilted_by_the_reward():
    """π*(y) = ref(y) exp(r / β) / Z and J* = E_x β log Z, with Z = E_ref exp(r / β)."""
    mdp = world()
    ref = random_policy(1, mdp)
    best, values, J_star = optimum(ref, mdp, BETA)
    tilted = response_logprobs(ref, mdp) + mdp.scores / BETA  # (X, N)
    log_Z = tilted.exp().sum(-1).log()  # (X,)
    close(response_logprobs(best, mdp), tilted - log_Z[:, None])
    close(values[:, 0], BETA * log_Z)
    close(J_star, BETA * log_Z.mean())


def test_at_the_optimum_nothing_is_left_to_gain():
    """J is J*, V is V*, the gradient is 0, and no token is better than another: Q = V."""
    mdp = world()
    ref = random_policy(1, mdp)
    best, values, J_star = optimum(ref, mdp, BETA)
    V, Q = bellman(best, ref, mdp, BETA)
    close(objective(best, ref, mdp, BETA), J_star)
    close(V, values)
    close(Q, values[..., None].expand_as(Q))
    close(policy_gradient(best, ref, mdp, BETA), torch.zeros_like(ref))


def test_no_beta_is_the_hard_maximum():
    """V*(s) is the best score that can still be had, and the policy goes there."""
    mdp = world()
    ref = random_policy(1, mdp)
    best, values, J_star = optimum(ref, mdp, 0.0)
    for (s, state), x in product(enumerate(mdp.prefixes), range(2)):
        reachable = [y[: len(state)] == state and len(y) > len(state) for y in mdp.responses]
        assert float(values[x, s]) == float(mdp.scores[x, torch.tensor(reachable)].max())
    close(J_star, mdp.scores.max(-1).values.mean())
    assert sorted(best.flatten().unique().tolist()) == [-inf, 0.0]
    assert response_logprobs(best, mdp).argmax(-1).tolist() == mdp.scores.argmax(-1).tolist()
    V, Q = bellman(best, ref, mdp, 0.0)
    close(V, values)
    assert bool((Q <= values[..., None]).all())


def test_the_hard_maximum_takes_the_first_of_equal_tokens():
    mdp = world(lambda prompt, response: 0.5, missing_eos=0.5)
    best, _, _ = optimum(random_policy(1, mdp), mdp, 0.0)
    assert not best.argmax(-1).any() and not best[..., 0].any()


def test_a_small_beta_is_nearly_the_hard_maximum():
    mdp = world()
    ref = random_policy(1, mdp)
    close(optimum(ref, mdp, 1e-4)[1], optimum(ref, mdp, 0.0)[1], atol=2e-3)


def test_a_large_beta_stays_at_the_reference():
    """KL(π* ‖ ref) = Var_ref(r) / 2β² to leading order, and J* = E_ref r + Var_ref(r) / 2β."""
    mdp, beta = world(), 1000.0
    ref = random_policy(1, mdp)
    best, values, _ = optimum(ref, mdp, beta)
    p = response_logprobs(ref, mdp).exp()  # (X, N)
    mean = (p * mdp.scores).sum(-1)  # (X,)
    variance = (p * (mdp.scores - mean[:, None]) ** 2).sum(-1)  # (X,)
    assert (kl(best, ref, mdp) * 2 * beta**2 / variance).tolist() == pytest.approx([1, 1], abs=1e-2)
    close(values[:, 0], mean + variance / (2 * beta), atol=1e-6)


def test_a_policy_that_never_takes_a_token_has_a_finite_kl_and_objective():
    """KL of a point to ref is −log ref of it; 0 log 0 counts nothing."""
    mdp = world()
    ref = random_policy(1, mdp)
    greedy, _, _ = optimum(ref, mdp, 0.0)
    said = mdp.scores.argmax(-1, keepdim=True)
    divergence = -response_logprobs(ref, mdp).gather(1, said).squeeze(1)  # (X,)
    close(kl(greedy, ref, mdp), divergence)
    close(bellman(greedy, ref, mdp, BETA)[0][:, 0], mdp.scores.max(-1).values - BETA * divergence)
    assert kl(ref, greedy, mdp).tolist() == [inf, inf]


# Best of n


@pytest.mark.parametrize("reward", [wavy, coarse])
def test_best_of_n_equals_all_tuples(reward):
    mdp = world(reward, max_new=2)
    logp = random_policy(0, mdp)
    close(best_of_n_law(logp, mdp, 1), response_logprobs(logp, mdp).exp())
    for n in (2, 3):
        close(best_of_n_law(logp, mdp, n), slow_best_of_n(logp, mdp, n))


def test_best_of_n_of_two_equal_chances():
    """The better of two responses of probability 1/2 is kept with 1 − 2⁻ⁿ (Beirami et al.'s example)."""
    mdp = world(lambda prompt, response: 1.0, vocab_size=2, max_new=1, prompts=((0,),))
    logp = torch.full((1, 1, 2), log(0.5), dtype=torch.float64)
    for n in (1, 4, 30):
        kept = float(best_of_n_law(logp, mdp, n)[0, mdp.responses.index((EOS,))])
        assert kept == pytest.approx(1 - 2.0**-n, abs=1e-12)


@pytest.mark.parametrize("reward", [wavy, coarse])
def test_best_of_n_is_worth_more_with_n_and_its_kl_stays_below_the_bound(reward):
    mdp = world(reward)
    logp = random_policy(0, mdp)
    base, before = response_logprobs(logp, mdp), torch.tensor([-inf, -inf])  # (X, N), (X,)
    for n in (1, 2, 4, 16, 64):
        law = best_of_n_law(logp, mdp, n)  # (X, N)
        close(law.sum(-1), torch.ones(2).double())
        assert bool(((law * mdp.scores).sum(-1) > before).all())
        before = (law * mdp.scores).sum(-1)
        assert bool((expectation(law, law.log() - base) <= log(n) - (n - 1) / n + 1e-12).all())


def test_kl_of_best_of_n_attains_the_bound_where_no_response_is_likely():
    """300 equally likely responses of distinct scores: log n − (n − 1) / n is 0.636 for 4, 1.835 for 16."""
    L = 300  # one word and EOS; ending at t with probability 1 / (L − t) makes every length equally likely
    mdp = world(lambda prompt, response: len(response), vocab_size=2, max_new=L, prompts=((0,),))
    end = 1 / torch.arange(L, 0, -1, dtype=torch.float64)  # (S,)
    logp = torch.stack([1 - end, end], -1).log()[None]  # (1, S, V)
    for n, bound in ((4, 0.636), (16, 1.835)):
        law = best_of_n_law(logp, mdp, n)  # (1, N)
        divergence = expectation(law, law.log() - response_logprobs(logp, mdp))  # (1,)
        assert float(divergence) == pytest.approx(bound, abs=1e-3)


# KL: its estimators, as values and as losses


def test_k1_and_k3_are_unbiased_and_k3_is_never_negative():
    """Of whole responses, and as sums over tokens; so is the sum of the exact KL of the states passed."""
    mdp = world()
    logp, ref = random_policy(0, mdp), random_policy(1, mdp)
    p, log_p, log_ref = response_logprobs(logp, mdp).exp(), *(response_logprobs(t, mdp) for t in (logp, ref))
    by_token = token_logprobs_of(logp, mdp), token_logprobs_of(ref, mdp)  # (X, N, L) each
    exact = torch.where(mdp.mask, exact_kl(logp, ref)[:, mdp.states], 0.0).sum(-1)  # (X, N)
    for k in ("k1", "k3"):
        close((p * kl_estimate(log_p, log_ref, k)).sum(-1), kl(logp, ref, mdp))
        close((p * kl_estimate(*by_token, k).sum(-1)).sum(-1), kl(logp, ref, mdp))
    close((p * exact).sum(-1), kl(logp, ref, mdp))
    lowest = {k: float(kl_estimate(log_p, log_ref, k).min()) for k in ("k1", "k3")}
    assert lowest["k3"] >= 0 > lowest["k1"]


def test_k2_is_biased_by_a_third_order_term():
    """E k2 − KL is E l³ / 6 near the reference (from E e^−l = 1), and large far from it."""
    mdp = world()
    ref, direction = random_logits(1, mdp), random_logits(0, mdp)

    def bias(step: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logp, base = (ref + step * direction).log_softmax(-1), ref.log_softmax(-1)  # (X, S, V) each
        log_p, log_ref = response_logprobs(logp, mdp), response_logprobs(base, mdp)  # (X, N) each
        p, true = log_p.exp(), kl(logp, base, mdp)
        third = (p * (log_p - log_ref) ** 3).sum(-1) / 6  # (X,)
        return (p * kl_estimate(log_p, log_ref, "k2")).sum(-1) - true, third, true

    near, third, _ = bias(0.001)
    assert (near / third).tolist() == pytest.approx([1, 1], rel=0.05)
    far, _, true = bias(3.0)
    assert bool((far.abs() / true > 0.1).all())


def test_gradients_of_the_kl_estimators_of_responses():
    """As losses on sampled responses: E ∇k1 = 0, E ∇k2 = ∇ KL(π ‖ ref), E ∇k3 = ∇ KL(ref ‖ π)."""
    mdp = world()
    ref, logits = random_policy(1, mdp), random_logits(0, mdp).requires_grad_()
    logp = logits.log_softmax(-1)
    log_p, log_ref = response_logprobs(logp, mdp), response_logprobs(ref, mdp)  # (X, N) each
    forward, backward = (gradient(k.sum(), logits) for k in (kl(logp, ref, mdp), kl(ref, logp, mdp)))
    assert float((forward - backward).abs().max()) > 0.1
    for k, want in (("k1", torch.zeros_like(ref)), ("k2", forward), ("k3", backward)):
        close(gradient((log_p.detach().exp() * kl_estimate(log_p, log_ref, k)).sum(), logits), want)


@pytest.mark.parametrize("max_new", [1, 3])
def test_a_kl_loss_by_tokens_holds_the_visited_states_fixed(max_new):
    """E ∇ Σ_t k2_t is Σ_s d(s) ∇ KL(π(·|s) ‖ ref(·|s)), with k3 that of KL(ref ‖ π), with k1 nothing.

    ∇ KL = Σ_s d ∇KL_s + KL_s ∇d: how the policy changes where it comes is missing. With one token a
    response nothing is.
    """
    mdp = world(max_new=max_new)
    ref, logits = random_policy(1, mdp), random_logits(0, mdp).requires_grad_()
    logp = logits.log_softmax(-1)
    d = visits(logp, mdp) / 2  # (X, S), prompts averaged
    rollout, p = everything(logp, ref, mdp)
    weights, logprobs = p[:, None] * rollout.mask, token_logprobs_of(logp, mdp).flatten(0, 1)  # (X N, L) each
    losses = (kl_loss(logprobs, rollout.ref_logprobs, weights, k) for k in ("k1", "k2", "k3"))
    k1, k2, k3 = (gradient(loss, logits) for loss in losses)  # (X, S, V) each
    close(k1, torch.zeros_like(ref))
    close(k2, gradient((d.detach() * exact_kl(logp, ref)).sum(), logits))
    close(k3, gradient((d.detach() * exact_kl(ref, logp)).sum(), logits))
    missing = gradient(kl(logp, ref, mdp).mean(), logits) - k2
    if max_new == 1:
        close(missing, torch.zeros_like(ref))
    else:
        close(missing, gradient((d * exact_kl(logp, ref).detach()).sum(), logits))
        assert float(missing.norm() / k2.norm()) > 0.2


# The library's losses and the gradient of J


@pytest.mark.parametrize("loss_of", ["reinforce", "ppo"])
@pytest.mark.parametrize("baseline", [None, "wrong", "true"])
def test_kl_in_the_reward_and_lambda_1_give_the_gradient_of_j(loss_of, baseline):
    """token_rewards, gae and either loss, at π = π_old: the mean over responses is −∇J with any baseline."""
    mdp = world()
    ref, logits = random_policy(1, mdp), random_logits(0, mdp).requires_grad_()
    logp = logits.log_softmax(-1)
    true, _ = bellman(logp, ref, mdp, BETA)
    values = {None: None, "wrong": random_logits(2, mdp)[..., 0], "true": true}[baseline]
    rollout, p = everything(logp, ref, mdp, values)
    k1 = kl_estimate(rollout.logprobs, rollout.ref_logprobs, "k1")
    rewards = token_rewards(rollout.scores, k1, rollout.mask, BETA)
    advantages, _ = gae(rewards, rollout.values, rollout.mask, 1.0, 1.0)
    weights, logprobs = p[:, None] * rollout.mask, token_logprobs_of(logp, mdp).flatten(0, 1)  # (X N, L) each
    if loss_of == "reinforce":
        loss = reinforce_loss(logprobs, advantages, weights)
    else:
        loss, _ = policy_loss(logprobs, rollout.logprobs, advantages, weights, 0.2, 0.2)
    close(gradient(loss, logits), -policy_gradient(logp.detach(), ref, mdp, BETA))


def returns_of(indices, x, logp, ref, mdp) -> torch.Tensor:
    """r − β (log π − log ref) of each response, (K,)."""
    rollout = rollout_of(indices, x, logp, ref, mdp)
    return rollout.scores - BETA * masked_sum(rollout.logprobs - rollout.ref_logprobs, rollout.mask, 1)


def reinforce_estimator(ref, mdp, baseline=None):
    """−mean of A log π over the group, with A = the return or what `baseline` makes of the group's."""
    def loss(indices, x, logp):
        R = returns_of(indices, x, logp, ref, mdp)  # (K,)
        A = R if baseline is None else baseline(R, len(R))  # (K,)
        return -(A * response_logprobs(logp, mdp)[x, indices]).mean()

    return loss


def test_leave_one_out_is_unbiased_and_quieter_than_reinforce():
    """Over all pairs of responses to either prompt. The reward's mean is far from 0: a baseline is needed."""
    mdp = world(lambda *said: 2 + wavy(*said), missing_eos=1.5)
    ref, logits = random_policy(1, mdp), random_logits(0, mdp)
    exact = policy_gradient(logits.log_softmax(-1), ref, mdp, BETA).flatten()
    plain, noise = moments(reinforce_estimator(ref, mdp), logits, mdp, 2)
    with_baseline, less = moments(reinforce_estimator(ref, mdp, leave_one_out), logits, mdp, 2)
    close(plain, exact)
    close(with_baseline, exact)
    assert float(less.trace()) < 0.5 * float(noise.trace())


def test_moments_are_those_of_the_listed_gradients():
    """One response of one token: E g and E g gᵀ − E g E gᵀ, with g = r (1[a] − π) written out."""
    mdp = world(max_new=1, prompts=((0,),))
    logits = random_logits(0, mdp)
    pi = logits.softmax(-1).flatten()  # (V,)
    r = mdp.scores[0][[mdp.responses.index((a,)) for a in range(3)]]  # (V,)
    g = r[:, None] * (torch.eye(3).double() - pi)  # (V, V) a row for each token

    def loss(indices, x, logp):
        return -(mdp.scores[x, indices] * response_logprobs(logp, mdp)[x, indices]).sum()

    mean, covariance = moments(loss, logits, mdp, 1)
    close(mean, pi @ g)
    close(covariance, g.T @ (pi[:, None] * g) - (pi @ g)[:, None] * (pi @ g))


def test_the_mean_of_k_independent_estimates_has_a_kth_of_the_covariance():
    mdp = world(max_new=2, prompts=((0,),))
    ref, logits = random_policy(1, mdp), random_logits(0, mdp)
    one, three = (moments(reinforce_estimator(ref, mdp), logits, mdp, K) for K in (1, 3))
    close(three[0], one[0])
    close(three[1], one[1] / 3)


# Real models, and the loop's batch


def test_a_rollout_of_the_oracle_is_the_batch_of_the_loop():
    mdp = world()
    logp, ref, values = random_policy(0, mdp), random_policy(1, mdp), random_logits(2, mdp)[..., 0]
    chosen, x = [mdp.responses.index(y) for y in ((2, 0, 2), (EOS,), (0, EOS))], torch.tensor([1, 0, 1])
    r = rollout_of(chosen, x, logp.requires_grad_(), ref, mdp, values.requires_grad_())
    assert r.prompt_ids[r.prompt_mask].tolist() == [2, 0, 2, 2] and r.prompt_mask.tolist()[0] == [False, True]
    assert r.ids[r.mask].tolist() == [2, 0, 2, EOS, 0, EOS] and r.ended.tolist() == [False, True, True]
    assert r.scores.tolist() == [-0.4, wavy((0, 2), ()), wavy((2,), (0,))]
    said = [(1, (), 2), (1, (2,), 0), (1, (2, 0), 2), (0, (), EOS), (1, (), 0), (1, (0,), EOS)]
    places = [(x, mdp.prefixes.index(state), token) for x, state, token in said]
    for got, table in ((r.logprobs, logp), (r.sampled_logprobs, logp), (r.ref_logprobs, ref)):
        assert got[r.mask].tolist() == [float(table.detach()[place]) for place in places]
        assert not got[~r.mask].any() and not got.requires_grad
    assert r.values[r.mask].tolist() == [float(values.detach()[place[:2]]) for place in places]
    assert not r.values[~r.mask].any() and not r.values.requires_grad
    assert not rollout_of(chosen, 1, logp, ref, mdp).values.any()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_table_of_a_gpt_is_what_score_tokens_says_of_every_response(make_gpt, temperature):
    mdp = world()
    model = make_gpt(vocab_size=3, context=8).double()
    with torch.no_grad():
        table = gpt_table(model, mdp, temperature)
        rollout, p = everything(table, table, mdp)
        logprobs, _, _ = score_tokens(model, None, rollout, temperature)
    close(logprobs, rollout.logprobs)
    assert float(p.sum()) == pytest.approx(1, abs=1e-12)


def test_the_table_of_a_gpt_has_its_gradient(make_gpt):
    mdp = world()
    model = make_gpt(vocab_size=3, context=8)
    objective(gpt_table(model, mdp), random_policy(1, mdp), mdp, BETA).backward()
    assert float(model.wte.weight.grad.abs().max()) > 0


def test_a_gpt_of_another_vocabulary_is_refused(make_gpt):
    with pytest.raises(ValueError, match="4 tokens in an MDP of 3"):
        gpt_table(make_gpt(vocab_size=4), world())


def test_sampled_responses_have_the_frequencies_of_the_oracle(make_gpt):
    """χ² of 5000 responses to each prompt: of 28 degrees of freedom, above 56.9 once in a thousand."""
    mdp, n = world(), 5000
    model = make_gpt(vocab_size=3, context=8)
    expected = n * response_logprobs(gpt_table(model, mdp, 2.0).detach(), mdp).exp()  # (X, N)
    prompts = [x for x in mdp.prompts for _ in range(n)]
    g = generate(model, prompts, Sampling(3, temperature=2.0), EOS, range(2 * n))
    said = [tuple(ids) + (EOS,) * ended for ids, ended in zip(responses_of(g), g.ended.tolist())]
    number = torch.tensor([mdp.responses.index(y) for y in said]).view(2, n)
    observed = torch.stack([row.bincount(minlength=len(mdp.responses)) for row in number])  # (X, N)
    assert float(expected.min()) > 5
    assert float(((observed - expected) ** 2 / expected).sum()) < 56.9


# DPO: preferences of a known reward, all pairs of responses to a prompt, each with its exact probability


def every_preference(mdp: TokenMDP, logp: torch.Tensor, ref: torch.Tensor, beta: float) -> tuple:
    """(margins of DPO, probabilities that the first of the pair is preferred), all pairs of all prompts."""
    policy, reference = response_logprobs(logp, mdp), response_logprobs(ref, mdp)  # (P, N)
    first, second = torch.triu_indices(policy.shape[1], policy.shape[1], 1)
    reward = implicit_reward(policy, reference, beta)  # (P, N)
    p = torch.sigmoid(mdp.scores[:, first] - mdp.scores[:, second]).flatten()
    return (reward[:, first] - reward[:, second]).flatten(), p


def test_dpo_starts_at_log_2():
    """The reference prefers nothing."""
    mdp = world()
    ref = random_logits(0, mdp).log_softmax(-1)
    margins, p = every_preference(mdp, ref, ref, BETA)
    assert margins.abs().max() == 0 and abs(float(preference_loss(margins, p)) - log(2)) < 1e-12


def test_at_the_optimum_dpos_margins_are_the_differences_of_rewards():
    """So the policy is its own reward model, and the constant of each prompt has dropped out."""
    mdp = world()
    ref = random_logits(0, mdp).log_softmax(-1)
    margins, p = every_preference(mdp, optimum(ref, mdp, BETA)[0], ref, BETA)
    assert (torch.sigmoid(margins) - p).abs().max() < 1e-12


def test_dpo_on_exact_preferences_finds_the_optimum_of_the_objective():
    """No sampling, no reward model: from the reference to π*, by the preferences alone."""
    mdp = world()
    ref = random_logits(0, mdp).log_softmax(-1)
    logits = ref.clone().requires_grad_()
    search = torch.optim.LBFGS(
        [logits], 1.0, 400, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        search.zero_grad()
        value = preference_loss(*every_preference(mdp, logits.log_softmax(-1), ref, BETA))
        value.backward()
        return value

    search.step(loss)
    best, _, J_star = optimum(ref, mdp, BETA)
    found = logits.detach().log_softmax(-1)
    assert kl(found, best, mdp).mean() < 1e-8
    assert abs(objective(found, ref, mdp, BETA).mean() - J_star.mean()) < 1e-8
