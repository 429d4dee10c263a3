"""Gradient, optimum, values and credit on one small world, in four blocks of text.

Every number is computed on the spot. `oracle.py` lists all answers. `tabular.py` meets them one token at a time. The
training loop's own functions are run on the same world. Proved by tests/tools/test_theory.py.
"""

from collections.abc import Iterator
from functools import partial
from math import inf, isnan, nan
from statistics import median

import torch
from torch import Tensor

from minirlhf.lm.model import GPT, GPTConfig
from minirlhf.rl.losses import gae, reinforce_loss, token_weights
from minirlhf.rl.rollout import Rollout
from minirlhf.theory import oracle
from minirlhf.theory.environment import Ids, TextEnv
from minirlhf.theory.tabular import Table, q_learning, sarsa, value_iteration

WANTED = {(1,): (1, 2, 2), (2,): (2, 1, 1)}  # prompt -> the words of its best answer
# V, EOS, L, the prompts, and the score: the share of the wanted words that stand in their place.
MDP = oracle.TokenMDP(3, 0, 4, tuple(WANTED), lambda x, y: sum(a == b for a, b in zip(y, WANTED[x])) / len(WANTED[x]))
BETA = 0.1  # the price of a nat of KL
EPSILON = 0.5  # how often a tabular learner takes a random token
GRID = [(0.0, 0.0)] + [(gamma, lam) for gamma in (0.9, 1.0) for lam in (0.0, 0.5, 0.9, 1.0)]
BATCH, ACTOR, CRITIC, NEAR = 16, 8.0, 0.5, 0.05  # answers per update, two step sizes, the share of regret to reach


def token_pay(dense: bool) -> Tensor:
    """The pay of each token of each answer, (X, N, L): the score at the end, or (dense) as it grows. Sums are equal."""
    worth = torch.zeros(*MDP.scores.shape, MDP.max_new + 1, dtype=torch.float64)  # (X, N, L + 1)
    for n, y in enumerate(MDP.responses):
        worth[:, n, len(y) :] = MDP.scores[:, n, None]
        for t in range(1, len(y) if dense else 0):
            worth[:, n, t] = torch.tensor([MDP.reward(x, y[:t]) for x in MDP.prompts])
    return worth.diff(dim=-1)  # (X, N, L)


def actor_critic(rows: Rollout, logp: Tensor, pay: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """(REINFORCE's loss with GAE, the returns G), a scalar and (B, L). logp: (B, L) of the tokens; pay: (B, L)."""
    rewards = pay - BETA * (rows.logprobs - rows.ref_logprobs)  # (B, L)
    advantages, returns = gae(rewards, rows.values, rows.mask, gamma, lam)  # (B, L) each
    return reinforce_loss(logp, advantages, token_weights(rows.mask, "sum", 1)), returns


def gradients(logp: Tensor, ref: Tensor) -> dict[str, Tensor]:
    """∇J with respect to the logits of the table logp, in four ways, (D,) each."""
    leaf, pay = logp.clone().requires_grad_(), token_pay(dense=False)  # (X, S, V), (X, N, L)

    def J(logits: Tensor) -> Tensor:
        return oracle.objective(logits.log_softmax(-1), ref, MDP, BETA)

    def estimate(indices: Tensor, x: int, logp: Tensor) -> Tensor:
        rows = oracle.rollout_of(indices, x, logp, ref, MDP)
        return actor_critic(rows, oracle.token_logprobs_of(logp, MDP)[x, indices], pay[x, indices], 1.0, 1.0)[0]

    steps = 1e-5 * torch.eye(logp.numel(), dtype=logp.dtype).view(-1, *logp.shape)  # (D, X, S, V)
    return {
        "policy-gradient theorem": oracle.policy_gradient(logp, ref, MDP, BETA).flatten(),
        "autograd": torch.autograd.grad(J(leaf), leaf)[0].flatten(),
        "finite differences": torch.stack([J(logp + step) - J(logp - step) for step in steps]) / 2e-5,
        "REINFORCE, in the mean": oracle.moments(estimate, logp, MDP, 1)[0],
    }


def as_table(rows: dict[Ids, float] | Table, unseen: float | list[float]) -> Tensor:
    """A learner's values of each state, (X, S) or (X, S, V)."""
    return torch.tensor([[rows.get(x + y, unseen) for y in MDP.prefixes] for x in MDP.prompts], dtype=torch.float64)


def tabular_errors(steps: int, seed: int) -> Iterator[tuple[str, int, float, float]]:
    """(Method, steps, largest error against Q*, and against Q of the policy that it follows). There is no KL here."""
    env, zero = TextEnv(MDP), torch.zeros(len(MDP.prompts), len(MDP.prefixes), MDP.vocab_size).double()
    best, V, _ = oracle.optimum(zero, MDP, beta=0.0)  # (X, S, V), (X, S)
    error = float((as_table(value_iteration(env), 0.0) - V).abs().max())
    yield "value iteration, V*", 0, error, nan
    no_replay = partial(q_learning, replayed=0)
    for name, learn in {"Q-learning, no replay": no_replay, "Q-learning, replay": q_learning, "SARSA": sarsa}.items():
        for n in (steps // 16, steps // 4, steps):
            Q = as_table(learn(env, n, seed, EPSILON), [0.0] * MDP.vocab_size)  # (X, S, V)
            greedy = torch.zeros_like(Q).scatter(-1, Q.argmax(-1, keepdim=True), 1 - EPSILON)  # (X, S, V)
            follows = (greedy + EPSILON / MDP.vocab_size).log()  # (X, S, V)
            truths = (oracle.bellman(logp, logp, MDP, beta=0.0)[1] for logp in (best, follows))  # (X, S, V) each
            yield name, n, *(float((Q - truth).abs().max()) for truth in truths)


def answers_needed(pay: Tensor, gamma: float, lam: float, most: int, seed: int) -> float:
    """Answers sampled until an actor-critic on tables leaves at most NEAR of J* − J(ref); ∞ if `most` do not suffice.

    pay: (X, N, L). The actor begins at the reference, which is uniform. The critic begins at V = 0 and moves to G.
    """
    rng = torch.Generator().manual_seed(seed)
    logits = torch.zeros(len(MDP.prompts), len(MDP.prefixes), MDP.vocab_size).double().requires_grad_()  # (X, S, V)
    values, ref = torch.zeros_like(logits[..., 0]).detach(), logits.detach().log_softmax(-1)  # (X, S), (X, S, V)
    best, start = oracle.optimum(ref, MDP, BETA)[2], oracle.objective(ref, ref, MDP, BETA)
    for n in range(0, most + 1, BATCH):
        logp = logits.log_softmax(-1)  # (X, S, V)
        if best - oracle.objective(logp, ref, MDP, BETA) <= NEAR * (best - start):
            return n
        x = torch.randint(len(MDP.prompts), (BATCH,), generator=rng)  # (B,)
        p = oracle.response_logprobs(logp.detach(), MDP).exp()  # (X, N)
        y = torch.multinomial(p[x], 1, generator=rng).squeeze(1)  # (B,)
        rows = oracle.rollout_of(y, x, logp, ref, MDP, values)
        loss, returns = actor_critic(rows, oracle.token_logprobs_of(logp, MDP)[x, y], pay[x, y], gamma, lam)
        logits = (logits - ACTOR * torch.autograd.grad(loss, logits)[0]).detach().requires_grad_()
        here, off = (x[:, None], MDP.states[y]), returns - rows.values  # (B, L)
        visits = torch.zeros_like(values).index_put(here, rows.mask.double(), accumulate=True)  # (X, S)
        values += CRITIC * torch.zeros_like(values).index_put(here, off, accumulate=True) / visits.clamp(min=1)
    return inf


def blocks(steps: int, answers: int, runs: int, seed: int) -> Iterator[str]:
    """The four blocks, each a text. The arguments are the options of `tools/theory.py`."""
    shape = GPTConfig(MDP.vocab_size, context=8, layers=1, heads=1, width=8)
    logp, ref = (oracle.gpt_table(GPT(shape), MDP, temperature=0.05).detach() for _ in range(2))  # (X, S, V) each
    X, N, S = len(MDP.prompts), len(MDP.responses), len(MDP.prefixes)
    yield f"""The world: {X} prompts, each with {N} answers of up to {MDP.max_new} tokens. Tokens: two words and an end.
A state is a prompt and the answer so far; there are {X * S}. An answer's score is the share of wanted words in place.
"""
    J, KL = oracle.objective(logp, ref, MDP, BETA), oracle.kl(logp, ref, MDP).mean()
    ways = gradients(logp, ref)
    theorem = ways.pop("policy-gradient theorem")
    off = "\n".join(f"   largest deviation of {name:<22}  {(g - theorem).abs().max():.1e}" for name, g in ways.items())
    yield f"""1. The gradient. RLHF maximises J, the mean score minus beta x KL. The KL says how far the policy has gone
from a reference, in nats. Both are GPTs with random weights here. J and its gradient are sums over all answers.
   J {J:.6f} = score {J + BETA * KL:.6f} - beta {BETA:g} x KL {KL:.6f}
   gradient over {len(theorem)} logits by the policy-gradient theorem: norm {theorem.norm():.6f}
{off}
"""
    best, _, J_star = oracle.optimum(ref, MDP, BETA)
    gap, price = J_star - J, BETA * oracle.kl(logp, best, MDP).mean()
    law, log_ref = oracle.best_of_n_law(ref, MDP, 4), oracle.response_logprobs(ref, MDP)  # (X, N) each
    reward, nats = (oracle.expectation(law, x).mean() for x in (MDP.scores, law.log() - log_ref))
    yield f"""2. The optimum. No policy beats pi*, which is reference x exp(score / beta), normalised. J* is its J.
   J* {J_star:.6f} - J {J:.6f} = {gap:.6f}, and beta x KL(policy || pi*) = {price:.6f}
   J of the best of 4 answers of the reference: {reward - BETA * nats:.6f}, at a KL of {nats:.6f}
"""
    table = "".join(
        f"   {name:<22}{n:>8,}   {star:14.1e}" + ("\n" if isnan(own) else f"{own:17.1e}\n")
        for name, n, star, own in tabular_errors(steps, seed)
    )
    yield f"""3. Values, without KL. Q(s, a) is the score to expect after token a in state s. Q* is the best policy's Q.
Value iteration plans. Q-learning and SARSA learn from steps, {EPSILON:.0%} of them random. SARSA learns what its own
steps are worth, Q-learning what the best steps are worth. The largest error against the oracle:
   method                   steps       against Q*   Q of own steps
{table}"""
    yield f"""4. Credit. An actor-critic starts at a uniform reference and learns pi*. Sparse: the last token is paid
the score. Dense: each token is paid what it adds to it; the sum is the same. gamma discounts what comes later.
lambda trusts samples (1) or the critic (0); it does nothing where gamma is 0. A sample is one answer with its score.
   samples until {NEAR:.0%} of J* - J(reference) is left, median of {runs} runs
   gamma  lambda    sparse     dense"""
    pays = [token_pay(dense) for dense in (False, True)]  # (X, N, L) each
    seeds = range(seed, seed + runs)
    for gamma, lam in GRID:
        needed = [median(answers_needed(pay, gamma, lam, answers, s) for s in seeds) for pay in pays]
        cells = [f"{n:,.0f}" if n < inf else f"> {answers:,}" for n in needed]
        yield f"   {gamma:5g}  {lam if gamma else 'any':>6}{cells[0]:>10}{cells[1]:>10}"
