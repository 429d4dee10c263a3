"""Two turns and a random environment between them: the theory as equations, and the library's estimators judged.

The two worlds have the same first and second turns. In the certain one each first turn has one reply, in the random one
it has two, of one to three tokens. Everything is float64 and exact: what is claimed to be equal is equal to 1e-12.
"""

import dataclasses
from math import exp, log, sin

import pytest
import torch
from enumerated import (
    BETA, close, cosine, everything, expected_update, follow, gradient, mean_advantage, random_logits, random_policy,
    slow_best_of_n, slow_responses, small,
)

from minirlhf.rl.config import ALGORITHMS
from minirlhf.rl.losses import gae
from minirlhf.theory import two_turns
from minirlhf.theory.oracle import (
    TokenMDP, best_of_n_law, expectation, kl, objective, probabilities,
)
from minirlhf.theory.two_turns import TwoTurns, bellman, optimum, visits

EOS, UNBIASED = 1, ("reinforce", "reinforce-baseline", "rloo")  # as for one turn: tests/rl/test_algorithms.py
pytestmark = pytest.mark.usefixtures("float64")


def wavy(before: tuple[int, ...], last: tuple[int, ...]) -> float:
    """Another number for each conversation. Of a reply only the first token counts: what it means."""
    end = before.index(EOS)
    first, meant = before[:end], before[end + 1]
    said = 3 * len(last) + sum((t + 2) * a for t, a in enumerate(last))
    return sin(5 * len(first) + 2 * sum(first) + 4 * meant + said)


def random(first: tuple[int, ...], more: int = 0) -> dict[tuple[int, ...], float]:
    """A 0 or an EOS is meant. The hole has 1 and 3 tokens behind an empty first turn, else 2 and 1; and `more`."""
    p, sizes = (0.6, (2, 1)) if first else (0.3, (1, 3))
    zero, eos = ((meant,) + (0,) * (n - 1 + more) for meant, n in zip((0, EOS), sizes))
    return {zero: p, eos: 1 - p}


def certain(first: tuple[int, ...]) -> dict[tuple[int, ...], float]:
    return {(EOS, 0) if first else (0,): 1.0}


def world(replies=random, vocab_size=3, prompts=((0, 0), (0,))) -> TwoTurns:
    """Two prompts, of 21 states and 46 conversations each; in the certain world, 12 and 25."""
    return TwoTurns(TokenMDP(vocab_size, EOS, 2, prompts, wavy, -0.4), replies)


def problem(w: TwoTurns, beta: float = BETA):
    """A random policy's logits, another reference, V and ∇J by autograd through the sum over conversations."""
    logits, ref = random_logits(0, w), random_policy(1, w)
    leaf = logits.clone().requires_grad_()
    exact = gradient(objective(leaf.log_softmax(-1), ref, w, beta), leaf)
    return logits, ref, bellman(logits.log_softmax(-1), ref, w, beta)[0], exact


# The conversations, J and its gradient


def slow_conversations(w: TwoTurns) -> list[tuple]:
    """(first turn, reply, second turn, probability of the reply, whether the last turn ended)."""
    told = []
    for y in slow_responses(w.turn):
        if y[-1] != EOS:
            told.append((y, (), (), 1.0, False))
        else:
            told += [(y, e, z, p, z[-1] == EOS) for e, p in w.replies(y[:-1]).items() for z in slow_responses(w.turn)]
    return told


def slow_logprob(table: torch.Tensor, w: TwoTurns, x: int, y, e, z) -> float:
    steps = [((y[:t],), a) for t, a in enumerate(y)] + [((y, e, z[:t]), a) for t, a in enumerate(z)]
    return sum(float(table[x, w.prefixes.index(s), a]) for s, a in steps)


@pytest.mark.parametrize("replies, N", [(random, 46), (certain, 25)])
def test_the_conversations_are_all_that_can_be_said(replies, N):
    w = world(replies)
    assert len(w.responses) == N and set(w.responses) == {c[:3] for c in slow_conversations(w)}
    close((probabilities(random_policy(0, w), w)).sum(1), torch.ones(2))
    assert len(set(w.prefixes)) == len(w.prefixes)


def test_the_tables_describe_the_conversations():
    w, holes = world(), set()
    slow = {c[:3]: c[3:] for c in slow_conversations(w)}
    for n, (y, e, z) in enumerate(w.responses):
        said, pad = [*y, *e, *z], w.ids.shape[1] - len(y + e + z)
        assert w.ids[n].tolist() == said + [EOS] * pad
        assert w.mask[n].tolist() == [True] * len(y) + [False] * len(e) + [True] * len(z) + [False] * pad
        before = [(y[:t],) for t in range(len(y))] + [(y, e, z[:t]) for t in range(len(z))]
        assert [w.prefixes[s] for s in w.states[n][w.mask[n]]] == before
        assert (float(w.chance[n]), bool(w.ended[n])) == slow[y, e, z]
        scores = [wavy(x + y + e, z[:-1]) if w.ended[n] else -0.4 for x in w.prompts]
        assert w.scores[:, n].tolist() == scores
        holes.add(len(e))
    assert holes == {0, 1, 2, 3}


@pytest.mark.parametrize("said", [{}, {(): 1.0}, {(0,): 0.5}, {(0,): 1.5, (2,): -0.5}])
def test_replies_that_are_no_law_are_refused(said):
    with pytest.raises(ValueError, match="probabilities that sum to 1"):
        world(lambda first: said)
    with pytest.raises(ValueError, match="no prompt twice"):
        world(prompts=((0,), (0,)))


def test_objective_and_kl_equal_their_definitions():
    """The penalty is on the policy's tokens alone: what the environment does costs nothing."""
    w = world()
    logp, ref = random_policy(0, w), random_policy(1, w)
    J, divergence = 0.0, [0.0, 0.0]
    for x, prompt in enumerate(w.prompts):
        for y, e, z, p, ended in slow_conversations(w):
            lp, lr = (slow_logprob(table, w, x, y, e, z) for table in (logp, ref))
            divergence[x] += p * exp(lp) * (lp - lr)
            J += p * exp(lp) * ((wavy(prompt + y + e, z[:-1]) if ended else -0.4) - BETA * (lp - lr)) / 2
    assert float(objective(logp, ref, w, BETA)) == pytest.approx(J, abs=1e-12)
    assert kl(logp, ref, w).tolist() == pytest.approx(divergence, abs=1e-12)


def test_values_of_two_turns_give_j_and_its_gradient():
    """J is V of the prompt; ∂J / ∂logit(s, a) = d(s) π(a|s) (Q(s, a) − V(s)) / X: the policy gradient theorem."""
    w = world()
    logits, ref, values, exact = problem(w)
    logp = logits.log_softmax(-1)
    _, Q = bellman(logp, ref, w, BETA)
    close(values[:, 0].mean(), objective(logp, ref, w, BETA))
    close(values, (logp.exp() * Q).sum(-1))
    close(visits(logp, w)[..., None] * logp.exp() * (Q - values[..., None]) / 2, exact)


def test_the_gradient_is_the_slope_of_the_objective():
    w, h = world(vocab_size=2), 1e-5
    logits, ref, _, exact = problem(w)

    def J(shift: torch.Tensor) -> torch.Tensor:
        return objective((logits + shift).log_softmax(-1), ref, w, BETA)

    steps = h * torch.eye(logits.numel()).view(-1, *logits.shape)
    close(exact, torch.stack([(J(e) - J(-e)) / (2 * h) for e in steps]).view_as(logits), atol=1e-9)


# The optimum


@pytest.mark.parametrize("beta", [0.05, 0.3, 2.0])
def test_regret_is_beta_times_the_kl_to_the_optimum_of_soft_bellman(beta):
    w = world()
    ref = random_policy(1, w)
    best, _, J_star = optimum(ref, w, beta)
    for seed in range(10, 13):
        logp = random_policy(seed, w)
        close(J_star - objective(logp, ref, w, beta), beta * kl(logp, best, w).mean())


def test_at_the_optimum_nothing_is_left_to_gain():
    """J is J* is V* of the prompt, the gradient is 0, and no token is better than another: Q = V."""
    w = world()
    ref = random_policy(1, w)
    best, values, J_star = optimum(ref, w, BETA)
    V, Q = bellman(best, ref, w, BETA)
    leaf = best.clone().requires_grad_()
    close(objective(best, ref, w, BETA), J_star)
    close(V, values)
    close(Q, values[..., None].expand_as(Q))
    close(gradient(objective(leaf.log_softmax(-1), ref, w, BETA), leaf), torch.zeros_like(best))


def tilted(ref: torch.Tensor, w: TwoTurns) -> tuple[torch.Tensor, torch.Tensor]:
    """The law ref(τ) exp(r / β) / Z, replies included, (X, N), and β log Z, (X,)."""
    weight = probabilities(ref, w) * (w.scores / BETA).exp()  # (X, N)
    return weight / weight.sum(1, keepdim=True), BETA * weight.sum(1).log()


def reply_law(law: torch.Tensor, w: TwoTurns) -> torch.Tensor:
    """P(e | y) under a law of conversations, of each way to a second turn, (X, C)."""
    of_way = torch.stack([law[:, [c[:2] == way[:2] for c in w.responses]].sum(1) for way in w.ways], 1)  # (X, C)
    same = torch.tensor([[float(a[0] == b[0]) for b in w.ways] for a in w.ways])  # (C, C)
    return of_way / (of_way @ same)


def test_with_certain_replies_the_optimum_is_the_reference_tilted_by_the_reward():
    w = world(certain)
    ref = random_policy(1, w)
    best, values, _ = optimum(ref, w, BETA)
    law, value = tilted(ref, w)
    close(probabilities(best, w), law)
    close(values[:, 0], value)


def test_with_random_replies_it_is_not_for_that_would_tilt_the_environment():
    """No policy can have that law, and its β log Z is more than any can reach."""
    w = world()
    ref, chance = random_policy(1, w), torch.tensor([[p for *_, p in w.ways]] * 2)
    best, values, _ = optimum(ref, w, BETA)
    law, value = tilted(ref, w)
    close(reply_law(probabilities(best, w), w), chance)
    assert float((reply_law(law, w) - chance).abs().max()) > 0.2
    assert bool((value > values[:, 0] + 0.05).all())


# Best of n, of whole conversations


def test_best_of_n_equals_all_tuples():
    w = world()
    logp = random_policy(0, w)
    close(best_of_n_law(logp, w, 2), slow_best_of_n(logp, w, 2))


@pytest.mark.parametrize("replies", [random, certain])
def test_best_of_n_is_charged_for_luck(replies):
    """KL(law ‖ π) = that of the policy's tokens + that of the replies, which only certain ones have not."""
    w, n = world(replies), 4
    logp, chance = random_policy(0, w), torch.tensor([[p for *_, p in world(replies).ways]] * 2)
    law = best_of_n_law(logp, w, n)  # (X, N)
    whole = expectation(law, law.log() - probabilities(logp, w).log())  # (X,)
    of_way = torch.stack([law[:, [c[:2] == way[:2] for c in w.responses]].sum(1) for way in w.ways], 1)  # (X, C)
    luck = expectation(of_way, (reply_law(law, w) / chance).log())  # (X,)
    assert bool((luck > 0.01).all()) if replies is random else bool((luck.abs() < 1e-12).all())
    assert bool((luck <= whole).all()) and bool((whole <= log(n) - (n - 1) / n + 1e-12).all())


def test_only_where_replies_are_random_does_best_of_n_earn_more_than_any_policy():
    """It keeps conversations in which the reply was a lucky one. β = 0 is the most that a policy can earn."""
    for replies in (random, certain):
        w = world(replies)
        logp = random_policy(0, w)
        earned, most = expectation(best_of_n_law(logp, w, 10_000), w.scores).mean(), optimum(logp, w, 0.0)[2]
        assert (earned > most + 0.05) == (replies is random)


# GAE


def test_gae_is_its_definition_on_the_sequence_with_its_holes_closed():
    """Â_t = Σ_k (γλ)^k δ_{t+k} of the policy's tokens, the successor of a turn's last the first of the next turn."""
    w, gamma, lam = world(), 0.9, 0.8
    rollout, _ = everything(random_policy(0, w), random_policy(1, w), w, random_logits(2, w)[..., 0])
    rewards = torch.where(rollout.mask, rollout.logprobs - rollout.ref_logprobs, 9.0)
    advantages, returns = gae(rewards, torch.where(rollout.mask, rollout.values, 9.0), rollout.mask, gamma, lam)
    for i in range(len(rollout.ids)):
        own = rollout.mask[i]
        r, V = rewards[i, own], torch.cat([rollout.values[i, own], torch.zeros(1)])
        delta = r + gamma * V[1:] - V[:-1]
        want = [sum((gamma * lam) ** k * d for k, d in enumerate(delta[t:].tolist())) for t in range(len(r))]
        close(advantages[i, own], torch.tensor(want))
        close(returns[i, own], torch.tensor(want) + V[:-1])
        assert not advantages[i, ~own].any() and not returns[i, ~own].any()


def test_gae_at_lambda_1_averages_to_q_minus_any_baseline():
    w = world()
    logp, ref, baseline = random_policy(0, w), random_policy(1, w), random_logits(2, w)[..., 0]
    close(mean_advantage(logp, ref, w, baseline, 1.0), bellman(logp, ref, w, BETA)[1] - baseline[..., None])


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
def test_gae_with_the_true_value_averages_to_the_advantage_at_any_lambda(lam):
    """The luck of a reply is in δ of the turn's EOS, and averages to 0."""
    w = world()
    logp, ref = random_policy(0, w), random_policy(1, w)
    values, Q = bellman(logp, ref, w, BETA)
    close(mean_advantage(logp, ref, w, values, lam), Q - values[..., None])


# The rows of the table


def update(logits, ref, w, algorithm, beta=BETA, values=None, K=2):
    """The mean over all batches of K conversations, or groups of K, at π = π_old."""
    algorithm = small(algorithm, K)
    return expected_update(logits, ref, w, algorithm, beta, values, max(1, K // algorithm.group))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_row_is_the_gradient_of_j_where_it_is_for_one_turn(name):
    """REINFORCE with a critic, right or wrong, or none, and RLOO: ∇J itself. All others run, and point elsewhere.

    The group of RLOO shares the prompt, not what is said later: its baseline does not depend on the conversation.
    """
    w = world()
    logits, ref, true, exact = problem(w)
    for values in (true, random_logits(2, w)[..., 0]):
        got = update(logits, ref, w, ALGORITHMS[name], values=values)
        if name in UNBIASED:
            close(got, exact)
        else:
            assert 0.5 < cosine(got, exact) < 0.9999


@pytest.mark.parametrize("K", [2, 3])
def test_dr_grpo_without_kl_is_the_gradient_times_a_constant(K):
    """(K − 1) / K · ∇J / longest, the longest turn: what a conversation holds does not count in it."""
    w = world(vocab_size=2)
    logits, ref, _, exact = problem(w, beta=0.0)
    close(update(logits, ref, w, ALGORITHMS["dr-grpo"], 0.0, K=K), (K - 1) / K / 2 * exact)


def test_a_true_critic_makes_no_bias_at_any_lambda_and_a_wrong_one_does():
    w = world()
    logits, ref, true, exact = problem(w)
    for lam in (0.0, 0.5, 0.95):
        row = dataclasses.replace(ALGORITHMS["a2c"], aggregate="sum", lam=lam)
        wrong = true + random_logits(2, w)[..., 0]
        close(update(logits, ref, w, row, values=true), exact)
        assert (update(logits, ref, w, row, values=wrong) - exact).norm() > 0.01 * exact.norm()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_longer_reply_of_the_same_meaning_changes_no_update(name):
    """What the environment says counts in no mean, no length and no discount."""
    short, long = world(vocab_size=2), world(lambda first: random(first, 3), vocab_size=2)
    logits, ref, _, _ = problem(short)
    V = random_logits(2, short)[..., 0]
    assert long.ids.shape[1] == short.ids.shape[1] + 3
    close(*(update(logits, ref, w, ALGORITHMS[name], values=V) for w in (short, long)))


# Where the updates come to rest


@pytest.mark.parametrize("name", [*ALGORITHMS, "grpo, k1 in the reward"])
def test_luck_moves_what_is_not_unbiased_away_from_the_optimum(name):
    """At π*, all advantages are 0 if replies are certain, and so is every update with the KL in the reward.

    With random replies they are luck, of mean 0. A mean over tokens, a whitening or a σ turns luck into a gradient.
    """
    row = ALGORITHMS.get(name) or dataclasses.replace(ALGORITHMS["grpo"], kl_in="reward", kl="k1")
    for replies in (random, certain):
        w = world(replies, vocab_size=2)
        ref = random_policy(1, w)
        best, values, _ = optimum(ref, w, BETA)
        size = float(update(best, ref, w, row, values=values).norm())
        rests = row.kl_in == "reward" and (replies is certain or name in UNBIASED)
        assert size < 1e-9 if rests else size > 1e-3


@pytest.mark.parametrize("name, regret", [
    *((name, 0.0) for name in UNBIASED), ("ppo", 0.004), ("a2c", 0.001), ("grpo", 0.54),
])
def test_the_unbiased_rows_come_to_rest_at_the_optimum_and_the_others_beside_it(name, regret):
    """(J* − J) / (J* − J(ref)) where the updates by two conversations come to rest, with the true V at every step."""
    w, row = world(vocab_size=2, prompts=((0,),)), small(ALGORITHMS[name], 2)
    ref = random_policy(1, w)
    best, _, J_star = optimum(ref, w, BETA)
    rest = follow(ref, w, row, BETA, 2 // row.group, theory=two_turns)
    lost = float((J_star - objective(rest, ref, w, BETA)) / (J_star - objective(ref, ref, w, BETA)))
    assert lost == pytest.approx(regret, abs=0.0005 if regret < 0.1 else 0.005)
    assert (float(kl(rest, best, w)) < 1e-9) == (name in UNBIASED)
