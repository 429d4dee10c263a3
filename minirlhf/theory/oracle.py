"""The theory, exactly: a token MDP (Markov decision process) so small that every response can be listed.

    J(π) = E_x [ E_{y∼π(·|x)} r(x, y) − β KL(π(·|x) ‖ ref(·|x)) ]                     what RLHF maximises
    Q(s, a) = −β log π(a|s) / ref(a|s) + (r if a ends the response, else V(sa))       Bellman, γ = 1
    V(s) = Σ_a π(a|s) Q(s, a)                             ∇J = Σ_s d(s) Σ_a ∇π(a|s) Q(s, a)
    V*(s) = β log Σ_a ref(a|s) exp(Q*(s, a) / β)          π* = ref exp((Q* − V*) / β)

A state s is prompt + y_<t. An action a is a token, and leads to the state sa with certainty. A policy is a
table of log-probs, `logp` (X, S, V) float64: X prompts, S states (incomplete responses), V tokens.
There are N complete responses of up to L tokens. J* − J(π) = β KL(π ‖ π*) measures how far a policy is from
the optimum. Proved by tests/theory/test_oracle.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch
from torch import Tensor

from minirlhf.lm.generation import pad_left
from minirlhf.lm.model import GPT
from minirlhf.rl.rollout import Rollout


@dataclass(frozen=True)
class TokenMDP:
    """All responses of at most L = max_new tokens, EOS included, to X equally likely prompts.

    vocab_size: V; tokens are 0 to V − 1, with eos_id among them.  prompts: at least one token each.
    reward(prompt, response without EOS): score of a response that ended.  missing_eos: score of one cut off at L.
    Raises ValueError for an EOS outside the vocabulary, max_new < 1, an empty prompt or no prompt.
    """

    vocab_size: int
    eos_id: int
    max_new: int
    prompts: tuple[tuple[int, ...], ...]
    reward: Callable[[tuple[int, ...], tuple[int, ...]], float]
    missing_eos: float = 0.0
    chance = 1.0  # the probability of what others say in a response, which is nothing here

    def __post_init__(self) -> None:
        if not 0 <= self.eos_id < self.vocab_size or self.max_new < 1 or not all(self.prompts or [()]):
            raise ValueError(f"want eos_id in the vocabulary, max_new >= 1 and prompts of >= 1 token: {self}")

    @cached_property
    def words(self) -> list[int]:
        """The tokens that do not end a response."""
        return [a for a in range(self.vocab_size) if a != self.eos_id]

    @cached_property
    def prefixes(self) -> list[tuple[int, ...]]:
        """The S states of a prompt: the incomplete responses, shortest first. [0] is ()."""
        return [y for t in range(self.max_new) for y in product(self.words, repeat=t)]

    @cached_property
    def levels(self) -> list[slice]:
        """For each length 0 … L − 1, its slice of `prefixes`. Words lead from one level to the next."""
        starts = [sum(len(self.words) ** i for i in range(t)) for t in range(self.max_new + 1)]
        return [slice(start, end) for start, end in zip(starts, starts[1:])]

    @cached_property
    def responses(self) -> list[tuple[int, ...]]:
        """The N complete responses: a state followed by EOS, or L tokens without EOS."""
        V, last = self.vocab_size, self.max_new - 1
        return [s + (a,) for s in self.prefixes for a in range(V) if a == self.eos_id or len(s) == last]

    @cached_property
    def ids(self) -> Tensor:
        """(N, L) int64, padded with EOS."""
        return torch.tensor([y + (self.eos_id,) * (self.max_new - len(y)) for y in self.responses])

    @cached_property
    def mask(self) -> Tensor:
        """(N, L) bool, True on the tokens of a response, EOS included."""
        return torch.arange(self.max_new) < torch.tensor([len(y) for y in self.responses])[:, None]

    @cached_property
    def states(self) -> Tensor:
        """(N, L) int64: the index of the state before each token; 0 where mask is False."""
        place = {s: i for i, s in enumerate(self.prefixes)}
        rows = [[place[y[:t]] for t in range(len(y))] + [0] * (self.max_new - len(y)) for y in self.responses]
        return torch.tensor(rows)

    @cached_property
    def ended(self) -> Tensor:
        """(N,) bool, False where a response is cut off."""
        return torch.tensor([y[-1] == self.eos_id for y in self.responses])

    @cached_property
    def scores(self) -> Tensor:
        """(X, N) float64, r(x, y)."""
        whole = [(y, y[-1] == self.eos_id) for y in self.responses]
        rows = [[float(self.reward(x, y[:-1])) if end else self.missing_eos for y, end in whole] for x in self.prompts]
        return torch.tensor(rows, dtype=torch.float64)

    @cached_property
    def outcome(self) -> Tensor:
        """(S, V) int64, the index of what a token leads to: the response it completes, or N + the next state."""
        index = {y: i for i, y in enumerate(self.responses + self.prefixes)}
        return torch.tensor([[index[s + (a,)] for a in range(self.vocab_size)] for s in self.prefixes])


def expectation(p: Tensor, x: Tensor) -> Tensor:
    """Σ p x over the last dimension. A term with p = 0 counts as 0, even where x is infinite."""
    return (p * torch.where(p > 0, x, 0.0)).sum(-1)


def gpt_table(model: GPT, mdp: TokenMDP, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature) of a GPT in eval mode at every state, (X, S, V) float64.

    Differentiable.  Raises ValueError if the model's vocabulary is not the MDP's, or its context too short.
    """
    if model.config.vocab_size != mdp.vocab_size:
        raise ValueError(f"a model of {model.config.vocab_size} tokens in an MDP of {mdp.vocab_size}")
    tables, device = [], model.wte.weight.device
    for prompt in mdp.prompts:
        levels = []
        for rows in mdp.levels:  # states of one length need no padding
            ids = torch.tensor([prompt + s for s in mdp.prefixes[rows]], device=device)  # (n, T)
            levels.append(model.logits(model(ids)[:, -1]))  # (n, V)
        tables.append(torch.cat(levels))  # (S, V)
    return (torch.stack(tables).double() / temperature).log_softmax(-1).cpu()  # (X, S, V)


def token_logprobs_of(logp: Tensor, mdp: TokenMDP) -> Tensor:
    """log π(y_t | x, y_<t) of every response to every prompt, (X, N, L), 0 where mdp.mask is False."""
    return torch.where(mdp.mask, logp[:, mdp.states, mdp.ids], 0.0)  # (X, N, L)


def response_logprobs(logp: Tensor, mdp: TokenMDP) -> Tensor:
    """log π(y|x) = Σ_t log π(y_t | x, y_<t), (X, N). Their exponentials sum to 1 for each prompt."""
    return token_logprobs_of(logp, mdp).sum(-1)  # (X, N)


def probabilities(logp: Tensor, mdp: TokenMDP) -> Tensor:
    """π(y|x), times mdp.chance where others speak, too (`two_turns.py`), (X, N)."""
    return response_logprobs(logp, mdp).exp() * mdp.chance


def kl(logp: Tensor, ref: Tensor, mdp: TokenMDP) -> Tensor:
    """KL(π ‖ ref) = Σ_y π(y|x) log π(y|x) / ref(y|x) between whole responses, in nats, (X,)."""
    log_p = response_logprobs(logp, mdp)  # (X, N)
    return expectation(probabilities(logp, mdp), log_p - response_logprobs(ref, mdp))  # (X,)


def objective(logp: Tensor, ref: Tensor, mdp: TokenMDP, beta: float) -> Tensor:
    """J(π) = E_x [ Σ_y π(y|x) r(x, y) − β KL(π ‖ ref) ], a scalar to differentiate. Ziegler et al. 2019, eq. 2."""
    reward = expectation(probabilities(logp, mdp), mdp.scores)  # (X,)
    return (reward - beta * kl(logp, ref, mdp)).mean()


def visits(logp: Tensor, mdp: TokenMDP) -> Tensor:
    """d(s) = π(s|x), the probability that a response passes through a state, (X, S). Its sum is the mean length."""
    d = [torch.ones_like(logp[:, :1, 0])]  # (X, 1)
    for rows in mdp.levels[:-1]:
        spoken = logp[:, rows].exp()[..., mdp.words]  # (X, n, V − 1)
        d.append((d[-1][..., None] * spoken).flatten(1))  # (X, n (V − 1)), the next level in its order
    return torch.cat(d, 1)  # (X, S)


def token_values(values: Tensor, mdp: TokenMDP, rows: slice) -> Tensor:
    """What each token leads to in the n states `rows`, (X, n, V): the score of a complete response, or V(sa)."""
    return torch.cat([mdp.scores, values], 1)[:, mdp.outcome[rows]]  # (X, n, V)


def bellman(logp: Tensor, ref: Tensor, mdp: TokenMDP, beta: float) -> tuple[Tensor, Tensor]:
    """(V, Q), (X, S) and (X, S, V). The reward is r_t = −β (log π − log ref)(y_t) + score at the end; γ = 1.

        Q(s, a) = −β log π(a|s) / ref(a|s) + (r(x, sa) if sa is complete, else V(sa))
        V(s) = Σ_a π(a|s) Q(s, a)                 V of the empty prefix, averaged over prompts, is J(π)

    The KL term of a token belongs to its Q, as in `losses.token_rewards`. So Q − V is the mean, given s and a,
    of the advantage Â that `losses.gae` makes from this V. A token of probability 0 has no KL term.
    Source: Sutton and Barto 2018, eq. 3.14.
    """
    logp, ref = logp.detach(), ref.detach()  # (X, S, V) each
    log_ratio = torch.where(logp.isneginf(), 0.0, logp - ref)  # (X, S, V)
    values, Q = torch.zeros_like(logp[..., 0]), torch.zeros_like(logp)  # (X, S), (X, S, V)
    for rows in reversed(mdp.levels):
        Q[:, rows] = token_values(values, mdp, rows) - beta * log_ratio[:, rows]
        values[:, rows] = expectation(logp[:, rows].exp(), Q[:, rows])
    return values, Q


def policy_gradient(logp: Tensor, ref: Tensor, mdp: TokenMDP, beta: float) -> Tensor:
    """∇J with respect to the logits of a table logp = log_softmax(logits), (X, S, V).

        ∇J = E_x Σ_s d(s) Σ_a ∇π(a|s) Q(s, a)        ∂J / ∂logit(s, a) = d(s) π(a|s) (Q(s, a) − V(s)) / X

    The term −β log π in Q depends on π, too. Its gradient adds nothing, because Σ_a π ∇ log π = 0.
    Source: Sutton et al. 2000, theorem 1.
    """
    logp = logp.detach()  # (X, S, V)
    values, Q = bellman(logp, ref, mdp, beta)
    return visits(logp, mdp)[..., None] * logp.exp() * (Q - values[..., None]) / len(mdp.prompts)  # (X, S, V)


def optimum(ref: Tensor, mdp: TokenMDP, beta: float) -> tuple[Tensor, Tensor, Tensor]:
    """(log π*, V*, J*), (X, S, V), (X, S) and a scalar: the policy that maximises J, its values and its J.

        Q*(s, a) = r(x, sa) if sa is complete, else V*(sa)        V*(s) = β log Σ_a ref(a|s) exp(Q*(s, a) / β)
        π*(a|s) = ref(a|s) exp((Q*(s, a) − V*(s)) / β)            J* = E_x V*(x) = E_x β log E_ref exp(r / β)

    For every π, J* − J(π) = β KL(π ‖ π*). β = 0 means the hard maximum over all tokens: V* = max_a Q*, and π*
    takes the first token that attains it.  Source: Rafailov et al. 2023, eq. 4 (responses); Ziebart 2010 (states).
    """
    ref = ref.detach()  # (X, S, V)
    values, logp = torch.zeros_like(ref[..., 0]), torch.zeros_like(ref)  # (X, S), (X, S, V)
    for rows in reversed(mdp.levels):
        Q = token_values(values, mdp, rows)  # (X, n, V)
        if beta == 0:
            values[:, rows], best = Q.max(-1).values, Q.argmax(-1, keepdim=True)  # (X, n), (X, n, 1)
            logp[:, rows] = torch.zeros_like(Q).scatter(-1, best, 1.0).log()
        else:
            values[:, rows] = beta * (ref[:, rows] + Q / beta).logsumexp(-1)
            logp[:, rows] = ref[:, rows] + (Q - values[:, rows, None]) / beta
    return logp, values, values[:, 0].mean()


def best_of_n_law(logp: Tensor, mdp: TokenMDP, n: int) -> Tensor:
    """The law of the best-scored of n responses drawn from π, (X, N). Among equal scores the first drawn is best.

        P(y) = π(y) (Fⁿ − F⁻ⁿ) / (F − F⁻)        F = P(score <= r(y)), F⁻ = P(score < r(y)) under π

    KL(P ‖ π) <= log n − (n − 1) / n.  Source: Beirami et al. 2025, arXiv 2401.01879, sections 2 and 3.
    """
    law = []
    for p, scores in zip(probabilities(logp.detach(), mdp), mdp.scores):  # (N,) each
        level = scores.unique(return_inverse=True)[1]  # (N,) the rank of each score
        mass = torch.zeros_like(p).index_add(0, level, p)  # (N,) π of each rank
        F = mass.cumsum(0)  # (N,)
        share = torch.where(mass > 0, (F**n - (F - mass) ** n) / mass, 0.0)  # (N,)
        law.append(share[level] * p)  # (N,)
    return torch.stack(law)  # (X, N)


def rollout_of(
    indices: Tensor | Sequence[int], x: int | Tensor, logp: Tensor, ref: Tensor, mdp: TokenMDP,
    values: Tensor | None = None,
) -> Rollout:  # fmt: skip
    """Responses as the batch that the training loop would have collected. Its functions are tested on this.

    indices: (B,) into mdp.responses.  x: the prompt's index, one for all or (B,).  logp: the policy that sampled.
    values: (X, S), or None for 0.  Nothing in the result carries a gradient.
    """
    indices = torch.as_tensor(indices)  # (B,)
    x = torch.as_tensor(x).expand(len(indices))  # (B,)
    ids, mask, states = mdp.ids[indices], mdp.mask[indices], mdp.states[indices]  # (B, L) each
    here = x[:, None], states  # where each token was said, (B, L)
    logprobs, ref_logprobs = (torch.where(mask, p.detach()[(*here, ids)], 0.0) for p in (logp, ref))  # (B, L)
    prompt_ids, prompt_mask = pad_left([mdp.prompts[i] for i in x.tolist()], mdp.eos_id)  # (B, P) each
    values = torch.zeros_like(logp[..., 0]) if values is None else values  # (X, S)
    values = torch.where(mask, values.detach()[here], 0.0)  # (B, L)
    unknown = torch.zeros_like(values), torch.zeros_like(values)  # (B, L) each
    known = ref_logprobs, values, *unknown, mdp.scores[x, indices], mdp.ended[indices]
    return Rollout(prompt_ids, prompt_mask, ids, mask, logprobs, logprobs.clone(), *known)


def moments(
    estimator: Callable[[Tensor, int, Tensor], Tensor], logits: Tensor, mdp: TokenMDP, group: int
) -> tuple[Tensor, Tensor]:
    """The exact mean (D,) and covariance (D, D) of a gradient estimate, over all that it can sample. D = X S V.

        E ĝ = E_x Σ_{y_1 … y_K} Π_k π(y_k|x) ĝ(x, y_1 … y_K)        ĝ = −∇ loss with respect to the logits

    estimator(indices, x, logp) -> scalar loss of K = `group` responses, indices (K,), to prompt x.  logits: (X, S, V)
    float64. The loss is differentiated through logp = log_softmax(logits). This takes X N^K calls.
    ĝ is unbiased if the mean is `policy_gradient`, flattened. The trace of the covariance is its noise.
    """
    leaf = logits.detach().requires_grad_()  # (X, S, V)
    p = probabilities(leaf.detach().log_softmax(-1), mdp)  # (X, N)
    weights, gradients = [], []
    for x in range(len(mdp.prompts)):
        for chosen in product(range(len(mdp.responses)), repeat=group):
            indices = torch.tensor(chosen)  # (K,)
            loss = estimator(indices, x, leaf.log_softmax(-1))
            gradients.append(-torch.autograd.grad(loss, leaf)[0].flatten())  # (D,)
            weights.append(p[x, indices].prod() / len(mdp.prompts))
    w, g = torch.stack(weights), torch.stack(gradients)  # (X N^K,), (X N^K, D)
    mean = w @ g  # (D,)
    centred = g - mean  # (X N^K, D)
    return mean, centred.T @ (w[:, None] * centred)
