"""What tests of a token MDP share: random policies, means over all responses, and the exact mean of an update.

A TwoTurns does for a TokenMDP. Everything is float64 and exact.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement, product
from math import factorial, prod

import torch
from torch import Tensor

from minirlhf.rl.algorithms import advantages_of, surrogate
from minirlhf.rl.config import Algorithm
from minirlhf.rl.losses import gae, token_rewards, token_weights
from minirlhf.rl.rollout import Rollout
from minirlhf.theory import oracle
from minirlhf.theory.oracle import TokenMDP, probabilities, rollout_of, token_logprobs_of

BETA = 0.3


def close(got: Tensor, want: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(got, want, atol=atol, rtol=0)


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


def gradient(scalar: Tensor, leaf: Tensor) -> Tensor:
    """d scalar / d leaf."""
    return torch.autograd.grad(scalar, leaf, retain_graph=True)[0]


def random_logits(seed: int, mdp: TokenMDP) -> Tensor:
    """(X, S, V) standard normal."""
    shape = len(mdp.prompts), len(mdp.prefixes), mdp.vocab_size
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_policy(seed: int, mdp: TokenMDP) -> Tensor:
    """(X, S, V) log-probs."""
    return random_logits(seed, mdp).log_softmax(-1)


def everything(logp, ref, mdp, values=None):
    """The rollout of all responses to all prompts, (X N, L), and the probability of each row, (X N,)."""
    X, N = mdp.scores.shape
    n, x = torch.arange(N).repeat(X), torch.arange(X).repeat_interleave(N)  # (X N,) each
    rollout = rollout_of(n, x, logp, ref, mdp, values)
    return rollout, probabilities(logp, mdp).detach().flatten() / X


def conditional_mean(x: Tensor, p: Tensor, mdp: TokenMDP) -> Tensor:
    """E[x_t | s_t = s, a_t = a] over responses. x: (X N, L), p: (X N,) -> (X, S, V)."""
    X, S, V = len(mdp.prompts), len(mdp.prefixes), mdp.vocab_size
    prompt = torch.arange(X).repeat_interleave(len(mdp.responses))[:, None]  # (X N, 1)
    cell = ((prompt * S + mdp.states.repeat(X, 1)) * V + mdp.ids.repeat(X, 1))[mdp.mask.repeat(X, 1)]
    weight = p[:, None].expand_as(x)[mdp.mask.repeat(X, 1)]
    total, mass = (torch.zeros(X * S * V, dtype=torch.float64).index_add(0, cell, w)
                   for w in (weight * x[mdp.mask.repeat(X, 1)], weight))
    return (total / mass).view(X, S, V)


def mean_advantage(logp, ref, mdp, values, lam: float) -> Tensor:
    """E[Â | s, a] of the library's token_rewards and gae, (X, S, V)."""
    rollout, p = everything(logp, ref, mdp, values)
    rewards = token_rewards(rollout.scores, rollout.logprobs - rollout.ref_logprobs, rollout.mask, BETA)
    return conditional_mean(gae(rewards, rollout.values, rollout.mask, 1.0, lam)[0], p, mdp)


def slow_responses(mdp: TokenMDP) -> set[tuple[int, ...]]:
    """All strings of L tokens, each cut behind its first EOS."""
    strings = product(range(mdp.vocab_size), repeat=mdp.max_new)
    return {s[: s.index(mdp.eos_id) + 1] if mdp.eos_id in s else s for s in strings}


def slow_best_of_n(logp: Tensor, mdp: TokenMDP, n: int) -> Tensor:
    """Every n-tuple of responses, whose first best one is kept."""
    law, p = torch.zeros_like(mdp.scores), probabilities(logp, mdp)  # (X, N) each
    for x, drawn in product(range(len(mdp.prompts)), product(range(len(mdp.responses)), repeat=n)):
        kept = max(drawn, key=lambda y: float(mdp.scores[x, y]))
        law[x, kept] += p[x, list(drawn)].prod()
    return law


def small(algorithm: Algorithm, K: int) -> Algorithm:
    """The row with groups of K, if it has groups."""
    return dataclasses.replace(algorithm, group=K if algorithm.group > 1 else 1)


def loss_of(
    logprobs: Tensor, values: Tensor, rollout: Rollout, algorithm: Algorithm, beta: float, longest: int
) -> Tensor:
    """What the loop descends on the rows of one optimizer step, with the row's own functions."""
    weights = token_weights(rollout.mask, algorithm.aggregate, longest)  # (B, L)
    return surrogate(logprobs, values, advantages_of(rollout, algorithm, beta), weights, algorithm, beta)[0]


def multisets(items: Sequence, n: int) -> Iterator[tuple[list, int]]:
    """The ways to draw n items where order does not count, and how many orders each way has."""
    for drawn in combinations_with_replacement(range(len(items)), n):
        orders = factorial(n) // prod(factorial(count) for count in Counter(drawn).values())
        yield [items[i] for i in drawn], orders


def batches(mdp: TokenMDP, group: int, groups: int) -> tuple[Tensor, Tensor]:
    """All batches of `groups` prompts with `group` responses each, rows x N + y, (M, B); their orders (M,).

    Every loss is a sum over its rows, so that a batch stands for all orders of it.
    """
    X, N = mdp.scores.shape
    to_one = [([x * N + y for y in drawn], n) for x in range(X) for drawn, n in multisets(range(N), group)]
    rows, orders = [], []
    for parts, n in multisets(to_one, groups):
        rows.append([row for part, _ in parts for row in part])
        orders.append(n * prod(m for _, m in parts))
    return torch.tensor(rows), torch.tensor(orders, dtype=torch.float64)


def expected_update(
    logits: Tensor, ref: Tensor, mdp: TokenMDP, algorithm: Algorithm, beta: float, values: Tensor | None = None,
    groups: int = 1, listed: tuple[Tensor, Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """E of −∇ loss by the logits at π = π_old, (X, S, V), over all batches of `groups` groups of row.group.

    values: V, (X, S), or None for 0.  listed: the result of `batches`, if it is known.
    """
    X, N = mdp.scores.shape
    rows, orders = listed or batches(mdp, algorithm.group, groups)  # (M, B), (M,)
    leaf = logits.detach().requires_grad_()  # (X, S, V)
    logp = leaf.log_softmax(-1)  # (X, S, V)
    n, x = torch.arange(N).repeat(X), torch.arange(X).repeat_interleave(N)  # (X N,) each
    every = rollout_of(n, x, logp, ref, mdp, values)  # row x N + y is response y to prompt x
    fields = [getattr(every, f.name)[rows] for f in dataclasses.fields(Rollout)]  # (M, B, ...) each
    logprobs = token_logprobs_of(logp, mdp).flatten(0, 1)[rows]  # (M, B, L)
    chosen = probabilities(logp.detach(), mdp).flatten()[rows].prod(1)  # (M,)
    chance = orders * chosen / X**groups  # (M,)

    def loss(logprobs: Tensor, *fields: Tensor) -> Tensor:
        rollout = Rollout(*fields)
        return loss_of(logprobs, rollout.values, rollout, algorithm, beta, mdp.max_new)

    losses = torch.vmap(loss)(logprobs, *fields)  # (M,): batch by batch, none sees another
    return -torch.autograd.grad((chance * losses).sum(), leaf)[0]


def follow(
    ref: Tensor, mdp: TokenMDP, algorithm: Algorithm, beta: float, groups: int = 1, critic: bool = True,
    theory=oracle,
) -> Tensor:  # fmt: skip
    """log π where the expected update, followed from the reference, has come to rest, (X, S, V).

        logit(s, a) += η E ĝ(s, a) / (d(s) π(a|s))        the natural gradient

    It rests where plain ascent does, and is there in 160 steps. η is constant, then falls, for a
    standardised advantage is no smaller near the end than far from it.
    critic: V is the true one at every step, or else 0.  theory: the module whose `bellman` and `visits` are of the mdp.
    Source: Kakade 2001.
    """
    logits, listed = ref.clone(), batches(mdp, algorithm.group, groups)
    for step in range(160):
        logp = logits.log_softmax(-1)
        values = theory.bellman(logp, ref, mdp, beta)[0] if critic else None
        update = expected_update(logits, ref, mdp, algorithm, beta, values, groups, listed)
        scale = theory.visits(logp, mdp)[..., None] * logp.exp() / len(mdp.prompts)  # (X, S, V)
        logits = logits + min(1.0, 0.8 ** (step - 80)) * update / scale
    return logits.log_softmax(-1)
