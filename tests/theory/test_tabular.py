"""Planning and learning by tables reach the values that the oracle computes, and each its own kind."""

from collections import Counter
from itertools import pairwise
from math import log
from statistics import median

import numpy as np
import pytest
import torch
from torch import Tensor

from minirlhf.theory.environment import TextEnv
from minirlhf.theory.oracle import TokenMDP, bellman, optimum
from minirlhf.theory.tabular import Table, q_learning, sarsa, value_iteration


def cliff_score(prompt: tuple, response: tuple) -> float:
    """The best response needs three tokens right; to end at once is worth half; all else is the cliff."""
    return {(): 0.5, (*prompt, 3 - prompt[0]): 1.0}.get(response, -1.0)


def any_score(prompt: tuple, response: tuple) -> float:
    """A number of its own for each response."""
    return float(np.random.default_rng([*prompt, 9, *response]).normal())


CLIFF = (3, 0, 3, ((1,), (2,)), cliff_score, -1.0)  # the arguments of TokenMDP
ANY = (4, 2, 3, ((1, 3), (0,)), any_score, 0.9)  # to be cut off is best in some states


def uniform(mdp: TokenMDP) -> Tensor:
    """The table of the policy that takes any token, (X, S, V)."""
    V = mdp.vocab_size
    return torch.full((len(mdp.prompts), len(mdp.prefixes), V), -log(V), dtype=torch.float64)  # (X, S, V)


def best(mdp: TokenMDP) -> tuple[Tensor, Tensor, float]:
    """(Q*, V*, J*) of the oracle."""
    logp, V, J = optimum(uniform(mdp), mdp, beta=0.0)
    return bellman(logp, logp, mdp, beta=0.0)[1], V, float(J)


def as_tensor(Q: Table, mdp: TokenMDP) -> Tensor:
    """A table's rows in the oracle's order, (X, S, V); a state that was never met is an error."""
    rows = [[Q[x + y] for y in mdp.prefixes] for x in mdp.prompts]
    return torch.tensor(rows, dtype=torch.float64)  # (X, S, V)


def epsilon_greedy(Q: Tensor, epsilon: float) -> Tensor:
    """log π of the policy ε-greedy in Q, (X, S, V)."""
    p = torch.full_like(Q, epsilon / Q.shape[-1])  # (X, S, V)
    return p.scatter_add(-1, Q.argmax(-1, keepdim=True), torch.full_like(Q[..., :1], 1 - epsilon)).log()


def earned(env: TextEnv, Q: Table) -> float:
    """The mean over prompts of what the greedy policy is paid."""
    total = 0.0
    for prompt in range(len(env.mdp.prompts)):
        state, done = env.reset(options={"prompt": prompt})[0], False
        while not done:
            state, reward, terminated, truncated, _ = env.step(Q[state].index(max(Q[state])))
            total, done = total + reward, terminated or truncated
    return total / len(env.mdp.prompts)


@pytest.fixture(params=[CLIFF, ANY], ids=["cliff", "any"])
def game(request) -> tuple[TextEnv, TokenMDP]:
    mdp = TokenMDP(*request.param)
    return TextEnv(mdp), mdp


@pytest.fixture
def cliff() -> tuple[TextEnv, TokenMDP]:
    mdp = TokenMDP(*CLIFF)
    return TextEnv(mdp), mdp


# Value iteration


def test_value_iteration_is_the_optimum_exactly(game):
    """V* of every state and J*, and no state besides."""
    env, mdp = game
    V, (_, V_star, J_star) = value_iteration(env), best(mdp)
    assert V == {x + y: float(v) for x, row in zip(mdp.prompts, V_star) for y, v in zip(mdp.prefixes, row)}
    assert sum(V[x] for x in env.mdp.prompts) / len(env.mdp.prompts) == J_star


def test_value_iteration_takes_a_sweep_a_token(cliff):
    """One sweep less and the prompt would not know of the best response, which is as long as allowed."""
    env, _ = cliff
    assert value_iteration(env)[(1,)] == 1.0
    assert value_iteration(TextEnv(TokenMDP(*CLIFF[:2], 2, *CLIFF[3:])))[(1,)] == 0.5


# Q-learning


@pytest.mark.parametrize("epsilon, replayed", [(0.7, 8), (1.0, 8), (1.0, 0)])
def test_q_learning_reaches_q_star_whatever_the_behaviour(game, epsilon, replayed):
    """Every Q*(s, a) to 1e-6, also where the behaviour is uniformly random; the greedy policy earns J*."""
    env, mdp = game
    Q = q_learning(env, 15_000, seed=0, epsilon=epsilon, replayed=replayed)
    Q_star, V_star, J_star = best(mdp)
    assert torch.allclose(as_tensor(Q, mdp), Q_star, rtol=0, atol=1e-6)
    assert torch.allclose(as_tensor(Q, mdp).amax(-1), V_star, rtol=0, atol=1e-6)
    assert earned(env, Q) == pytest.approx(J_star, abs=1e-12)


def test_without_exploring_q_learning_need_not_reach_the_optimum(cliff):
    """ε = 0 takes the first token that pays: the half of ending at once, whose J is 0.5 and not 1."""
    env, mdp = cliff
    assert earned(env, q_learning(env, 2_000, seed=0, epsilon=0.0)) == 0.5 < best(mdp)[2]


def test_a_constant_step_size_halves_the_error_of_a_certain_target():
    """One state, one token: Q after n steps is r (1 − (1 − α)ⁿ)."""
    env = TextEnv(TokenMDP(1, 0, 1, ((0,),), lambda x, y: 3.0))
    assert q_learning(env, 5, 0, epsilon=0.3, replayed=0) == {(0,): [3 * (1 - 0.5**5)]}
    assert q_learning(env, 5, 0, epsilon=0.3, replayed=2) == {(0,): [3 * (1 - 0.5**15)]}


@pytest.mark.parametrize("learn", [q_learning, sarsa])
def test_tables_have_no_row_for_what_follows_the_end(game, learn):
    """Neither EOS nor the limit leads to a state that is worth something."""
    env, mdp = game
    assert set(learn(env, 15_000, seed=0, epsilon=1.0)) == {x + y for x in mdp.prompts for y in mdp.prefixes}


@pytest.mark.parametrize("learn", [q_learning, sarsa])
def test_learning_is_decided_by_the_seed(learn):
    """Also in an environment that has been used before."""
    env = TextEnv(TokenMDP(*ANY))
    first = learn(env, 300, 1, epsilon=0.3)
    assert learn(env, 300, 1, epsilon=0.3) == first != learn(env, 300, 2, epsilon=0.3)


def test_replay_learns_more_from_the_same_steps():
    """2,000 random steps: with replay the mean distance to Q* is less than a hundredth, in the median of 5 seeds."""
    mdp = TokenMDP(*ANY)
    error = {}
    for replayed in (0, 8):
        learnt = [q_learning(TextEnv(mdp), 2_000, seed, epsilon=1.0, replayed=replayed) for seed in range(5)]
        error[replayed] = median(float((as_tensor(Q, mdp) - best(mdp)[0]).abs().mean()) for Q in learnt)
    assert error[8] < error[0] / 100


# SARSA


def test_sarsa_learns_from_the_very_tokens_it_takes():
    """Its name as a slow twin: the table follows from the recorded s, a, r, s', a' alone, to the last bit."""
    env, record = TextEnv(TokenMDP(*ANY)), []
    step = env.step
    env.step = lambda action: record.append((action, step(action))) or record[-1][1]
    Q = sarsa(env, 500, seed=0, epsilon=0.3)
    n, slow = Counter(), Counter()
    for (action, (after, reward, terminated, truncated, _)), (next_action, _) in pairwise(record):
        state = after[:-1]
        n[state, action] += 1
        target = reward if terminated or truncated else reward + slow[after, next_action]
        slow[state, action] += n[state, action] ** -0.8 * (target - slow[state, action])
    *_, (last, (after, *_)) = record  # what follows it was chosen and not taken
    pairs = [(state, action) for state in Q for action in range(4) if (state, action) != (after[:-1], last)]
    assert [Q[state][action] for state, action in pairs] == [slow[pair] for pair in pairs]
    assert len(n) > 20

@pytest.mark.parametrize("epsilon", [1.0, 0.3])
def test_sarsa_reaches_the_q_of_the_policy_it_follows_and_q_learning_q_star(cliff, epsilon):
    """The same behaviour and two answers: Bellman's Q of the ε-greedy policy, 0.7 and more from Q*; and Q*.

    a' is sampled: the rarest average stands on some 4,000 returns of standard deviation 0.96, and with step
    size α = 4000^−0.8 its standard error is 0.96 √(α / 2) = 0.025. Within 4 of them.
    """
    env, mdp = cliff
    Q = as_tensor(sarsa(env, 80_000, seed=0, epsilon=epsilon), mdp)  # (X, S, V)
    _, Q_policy = bellman(epsilon_greedy(Q, epsilon), uniform(mdp), mdp, beta=0.0)  # (X, S, V)
    Q_star = best(mdp)[0]
    assert (Q - Q_policy).abs().max() < 0.1
    assert (Q_policy - Q_star).abs().max() > 0.7
    off_policy = as_tensor(q_learning(env, 15_000, seed=0, epsilon=epsilon), mdp)  # (X, S, V)
    assert torch.allclose(off_policy, Q_star, rtol=0, atol=1e-6)


def test_sarsa_stays_away_from_the_cliff_and_q_learning_walks_along_it(cliff):
    """At ε = 0.3 a greedy token is taken with 0.8: the best response, once begun, earns 0.64 − 0.36 = 0.28.

    Ending at once, 0.5, is better for who explores and worse for who does not.
    Source: Sutton and Barto 2018, example 6.6.
    """
    env, _ = cliff
    on_policy, off_policy = sarsa(env, 80_000, 0, epsilon=0.3), q_learning(env, 15_000, 0, epsilon=0.3)
    assert on_policy[(1,)][:2] == pytest.approx([0.5, 0.28], abs=0.1)
    assert off_policy[(1,)][:2] == pytest.approx([0.5, 1.0], abs=1e-6)
    assert (earned(env, on_policy), earned(env, off_policy)) == (0.5, 1.0)
