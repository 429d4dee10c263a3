"""The theory of a conversation, exactly: two turns of the policy, and an environment that draws a reply between them.

    τ = (y, e, z)       P(τ|x) = π(y|x) P(e|y) π(z|x, y, e)        log π(τ) = log π(y|x) + log π(z|x, y, e)
    J(π) = E_x E_τ [ r(τ) − β (log π(τ) − log ref(τ)) ]            KL on the policy's tokens alone
    Q(s, EOS) = −β log π(EOS|s) / ref(EOS|s) + Σ_e P(e|y) V(x, y, e)             where y = s EOS is the first turn
    V*(s) = β log Σ_a ref(a|s) exp(Q*(s, a) / β)                   Q*(s, EOS) = Σ_e P(e|y) V*(x, y, e)

The first turn is an MDP of its own, whose score is what the second is worth on average. If replies are random, no
policy has the law ref(τ) exp(r / β) / Z, nor that of best-of-n: they choose replies, too. By Jensen β log Z >= J*.
Sums over responses become sums over conversations: of `oracle.py`, token_logprobs_of, response_logprobs, probabilities,
kl, objective, best_of_n_law, moments and rollout_of (its mask has holes then) take a TwoTurns for a TokenMDP.
Proved by tests/theory/test_two_turns.py.  Source: Sutton and Barto 2018, chapter 3; Ziebart 2010.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from minirlhf.theory import oracle
from minirlhf.theory.environment import Ids
from minirlhf.theory.oracle import TokenMDP, probabilities


@dataclass(frozen=True)
class TwoTurns:
    """All conversations of two turns; one whose first turn does not end is over.

    turn: what a turn may be, and the X prompts. Its reward sees all ids before the last turn, and that without EOS.
    replies(first turn without EOS): what may be said to it, and the probability of each.
    A policy is a table (X, S, V): S1 states of the first turn, then S1 for each of the C ways to a second.
    Raises ValueError for a reply of no token, probabilities that do not sum to 1, and a prompt that occurs twice.
    """

    turn: TokenMDP
    replies: Callable[[Ids], dict[Ids, float]]

    def __post_init__(self) -> None:
        said = [self.replies(y) for y in self.turn.prefixes]
        proper = all(all(e) and all(p >= 0 for p in e.values()) and abs(sum(e.values()) - 1) < 1e-9 for e in said)
        if not proper or len(set(self.prompts)) < len(self.prompts):
            raise ValueError(f"want replies of >= 1 token, of probabilities that sum to 1, and no prompt twice: {self}")

    vocab_size, eos_id, max_new, prompts = (
        property(lambda self, n=n: getattr(self.turn, n)) for n in ("vocab_size", "eos_id", "max_new", "prompts")
    )
    ids, mask, states = (property(lambda self, k=k: self.columns[k]) for k in range(3))

    @cached_property
    def ways(self) -> list[tuple[Ids, Ids, float]]:
        """The C ways to a second turn: the first with its EOS, the reply, its probability."""
        return [(y + (self.eos_id,), e, p) for y in self.turn.prefixes for e, p in self.replies(y).items()]

    @cached_property
    def prefixes(self) -> list[tuple[Ids, ...]]:
        """The S states of a prompt: the turns so far, the policy's incomplete one last."""
        return [(*before, s) for before in [(), *(way[:2] for way in self.ways)] for s in self.turn.prefixes]

    @cached_property
    def responses(self) -> list[tuple[Ids, Ids, Ids]]:
        """The N conversations (y, e, z), first those that are over after y: (y, (), ())."""
        over = [(y, (), ()) for y in self.turn.responses if y[-1] != self.eos_id]
        return over + [(y, e, z) for y, e, _ in self.ways for z in self.turn.responses]

    @cached_property
    def columns(self) -> list[Tensor]:
        """ids, mask, states, (N, R): what is said, padded with EOS; True if by the policy; the state before, else 0."""
        place = {s: i for i, s in enumerate(self.prefixes)}
        mask = [[True] * len(y) + [False] * len(e) + [True] * len(z) for y, e, z in self.responses]
        states = [[place[y[:t],] for t in range(len(y))] + [0] * len(e) + [place[y, e, z[:t]] for t in range(len(z))]
                  for y, e, z in self.responses]  # fmt: skip
        rows = ([y + e + z for y, e, z in self.responses], self.eos_id), (mask, 0), (states, 0)
        return [pad_sequence([torch.tensor(row) for row in x], True, pad) for x, pad in rows]

    @cached_property
    def ended(self) -> Tensor:
        """(N,) bool, False where the last turn is cut off."""
        return torch.tensor([(z or y)[-1] == self.eos_id for y, _, z in self.responses])

    @cached_property
    def second(self) -> TokenMDP:
        """The second turn as an MDP of X C prompts: all that was said before."""
        return replace(self.turn, prompts=tuple(x + y + e for x, (y, e, _) in product(self.prompts, self.ways)))

    @cached_property
    def scores(self) -> Tensor:
        """(X, N) float64, r(τ)."""
        later = self.second.scores.view(len(self.prompts), -1)  # (X, C N2)
        over = later.new_full((len(later), len(self.responses) - later.shape[1]), self.turn.missing_eos)
        return torch.cat([over, later], 1)

    @cached_property
    def chance(self) -> Tensor:
        """(N,) float64, P(e|y), the environment's part in the probability; 1 where it says nothing."""
        P = {(y, e): p for y, e, p in self.ways}
        return torch.tensor([P.get((y, e), 1.0) for y, e, _ in self.responses], dtype=torch.float64)


def backwards(solve: Callable, tables: tuple[Tensor, ...], world: TwoTurns, beta: float) -> tuple[Tensor, ...]:
    """solve(*tables, mdp, beta) -> (table, V, ...) of each turn, last turn first; the rest is that of the first turn."""
    X, S1 = len(world.prompts), len(world.turn.prefixes)
    later, V, *_ = solve(*(t[:, S1:].unflatten(1, (-1, S1)).flatten(0, 1) for t in tables), world.second, beta)
    worth = defaultdict(float)  # of a prompt and a first turn: Σ_e P(e|y) V(x, y, e)
    for (x, (y, _, p)), v in zip(product(world.prompts, world.ways), V[:, 0].tolist()):
        worth[x, y[:-1]] += p * v
    first, V1, *rest = solve(*(t[:, :S1] for t in tables), replace(world.turn, reward=lambda *xy: worth[xy]), beta)
    return torch.cat([first, later.reshape(X, -1, later.shape[-1])], 1), torch.cat([V1, V.reshape(X, -1)], 1), *rest


def bellman(logp: Tensor, ref: Tensor, world: TwoTurns, beta: float) -> tuple[Tensor, Tensor]:
    """(V, Q), (X, S) and (X, S, V), as `oracle.bellman`. V of the empty prefix, averaged over prompts, is J(π)."""
    Q, V = backwards(lambda *turn: oracle.bellman(*turn)[::-1], (logp, ref), world, beta)
    return V, Q


def optimum(ref: Tensor, world: TwoTurns, beta: float) -> tuple[Tensor, Tensor, Tensor]:
    """(log π*, V*, J*), as `oracle.optimum`. J* − J(π) = β KL(π ‖ π*), a mean over the conversations of π."""
    return backwards(oracle.optimum, (ref,), world, beta)


def visits(logp: Tensor, world: TwoTurns) -> Tensor:
    """d(s), the probability that a conversation passes through a state, (X, S)."""
    through = torch.zeros(len(world.states), logp.shape[1], dtype=logp.dtype)  # (N, S)
    return probabilities(logp, world) @ through.scatter_add(1, world.states, world.mask.to(logp.dtype))
