"""Which rows of `ALGORITHMS` estimate ∇J, which do not, and where their updates come to rest.

Nothing is sampled: a token MDP is so small that all batches can be listed, and what a row's own functions
make of each of them is averaged by its probability. All is float64, at π = π_old, the first step of a round.
`bias_table` is what minirlhf/theory/README.md quotes.
"""

import dataclasses
from functools import partial
from math import exp, log, sin
from pathlib import Path

import pytest
import torch
from enumerated import BETA, close, cosine, expected_update, follow, loss_of, random_logits, small
from torch import Tensor

from minirlhf.rl.algorithms import advantages_of, surrogate
from minirlhf.rl.config import ALGORITHMS, Algorithm
from minirlhf.rl.losses import token_weights
from minirlhf.theory.oracle import (
    TokenMDP, bellman, kl, moments, objective, optimum, policy_gradient, response_logprobs, rollout_of,
    token_logprobs_of,
)

EOS, VALUE_CLIP, VALUE_COEFFICIENT = 1, 0.2, 0.5  # of the value function: what the rows have
REINFORCE, GRPO, DR_GRPO = ALGORITHMS["reinforce"], ALGORITHMS["grpo"], ALGORITHMS["dr-grpo"]
but = dataclasses.replace
pytestmark = pytest.mark.usefixtures("float64")


def wavy(prompt: tuple[int, ...], response: tuple[int, ...]) -> float:
    """Another number for each response, four times as spread for the first prompt as for the second."""
    words = sum((t + 2) * a for t, a in enumerate(response))
    return (1.0 if len(prompt) == 2 else 0.25) * sin(5 * len(prompt) + 3 * len(response) + words)


def world(reward=wavy, max_new=2, prompts=((0, 0), (0,)), missing_eos=-0.4) -> TokenMDP:
    """Three tokens; two prompts, 3 states, 7 responses of one or two tokens."""
    return TokenMDP(3, EOS, max_new, prompts, reward, missing_eos)


def scaled(factor: float, second: float = 1.0) -> TokenMDP:
    """Rewards times `factor`, and those of the second prompt times `second`; 0 for a response cut off."""
    def reward(prompt, response):
        return factor * wavy(prompt, response) * (second if len(prompt) == 1 else 1.0)

    return world(reward, missing_eos=0.0)


NO_REWARD = partial(world, lambda prompt, response: 0.0, missing_eos=0.0)


# The mean of a row's update over all batches


def one_batch(ref: Tensor, mdp: TokenMDP, algorithm: Algorithm, beta: float, values: Tensor | None = None):
    """`loss_of` as `oracle.moments` asks for it: of the responses of indices (K,) to prompt x."""
    def loss(indices: Tensor, x: int, logp: Tensor) -> Tensor:
        rollout = rollout_of(indices, x, logp, ref, mdp, values)
        logprobs = token_logprobs_of(logp, mdp)[x, indices]  # (K, L)
        return loss_of(logprobs, rollout.values, rollout, algorithm, beta, mdp.max_new)

    return loss


def problem(mdp: TokenMDP, beta: float = BETA) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A random policy's logits, another reference, V and ∇J, (X, S, V) each but V (X, S)."""
    logits, ref = random_logits(0, mdp), random_logits(1, mdp).log_softmax(-1)
    logp = logits.log_softmax(-1)
    return logits, ref, bellman(logp, ref, mdp, beta)[0], policy_gradient(logp, ref, mdp, beta)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_expected_update_is_the_mean_over_all_tuples(name):
    """The slow twin: every ordered pair of responses, a batch at a time."""
    mdp, algorithm = world(prompts=((0, 0),)), small(ALGORITHMS[name], 2)
    logits, ref, values, _ = problem(mdp)
    want, _ = moments(one_batch(ref, mdp, algorithm, BETA, values), logits, mdp, 2)
    close(expected_update(logits, ref, mdp, algorithm, BETA, values, 2 // algorithm.group).flatten(), want)


# Each row is its paper's formula


class Slow:
    """A batch of responses and the formulas of the papers, a token at a time; l_t = log π_old − log ref.

    Rows i are (prompt, response) in groups of K.  now, old, ref: log-probs (X, S, V).  V, V_old: (X, S).
    """

    def __init__(self, mdp, said, K, now, old, ref, V, V_old):
        place = [[(x, mdp.prefixes.index(y[:t]), y[t]) for t in range(len(y))] for x, y in said]
        self.now, self.old, self.ref = ([[p[s] for s in row] for row in place] for p in (now, old, ref))
        self.V, self.V_old = ([[v[s[:2]] for s in row] for row in place] for v in (V, V_old))
        self.score = [mdp.scores[x, mdp.responses.index(y)] for x, y in said]
        self.B, self.K, self.T = len(said), K, [len(y) for _, y in said]
        self.longest = mdp.max_new

    def tokens(self):
        return [(i, t) for i in range(self.B) for t in range(self.T[i])]

    def r(self, i, t):
        """−β l_t, and the score at the end: Ziegler et al. 2019, eq. 2."""
        return -BETA * (self.old[i][t] - self.ref[i][t]) + (self.score[i] if t == self.T[i] - 1 else 0)

    def gae(self, i, t, lam):
        """Σ_k λ^k δ_{t+k}: Schulman et al. 2016, eq. 16."""
        V = [*self.V_old[i], 0.0]
        return sum(lam ** (u - t) * (self.r(i, u) + V[u + 1] - V[u]) for u in range(t, self.T[i]))

    def peers(self, i):
        return range(i - i % self.K, i - i % self.K + self.K)

    def value(self, weight, lam):
        """½ max of the plain and the clipped squared error, of returns Â + V."""
        total = 0.0
        for i, t in self.tokens():
            G, old, new = self.gae(i, t, lam) + self.V_old[i][t], self.V_old[i][t], self.V[i][t]
            near = min(max(new, old - VALUE_CLIP), old + VALUE_CLIP)
            total += weight * max((new - G) ** 2, (near - G) ** 2) / 2
        return VALUE_COEFFICIENT * total

    def clipped(self, i, t, A, high):
        """min(ρ A, clip(ρ, 1 − ε, 1 + ε_high) A): Schulman et al. 2017, eq. 7."""
        ratio = (self.now[i][t] - self.old[i][t]).exp()
        return min(ratio * A, min(max(ratio, 0.8), 1 + high) * A)

    def k3(self, i, t):
        """Shao et al. 2024, eq. 4."""
        return (self.ref[i][t] - self.now[i][t]).exp() - (self.ref[i][t] - self.now[i][t]) - 1

    def standardised(self, i):
        """(r_i − mean) / std of the group."""
        scores = [float(self.score[j]) for j in self.peers(i)]
        mean = sum(scores) / self.K
        std = (sum((s - mean) ** 2 for s in scores) / (self.K - 1)) ** 0.5
        return (scores[i % self.K] - mean) / (std + 1e-4)

    def reinforce(self):
        """− Σ G_t log π / B, G_t = Σ_{u ≥ t} r_u: Williams 1992."""
        G = {(i, t): sum(self.r(i, u) for u in range(t, self.T[i])) for i, t in self.tokens()}
        return -sum(G[i, t] * self.now[i][t] for i, t in self.tokens()) / self.B

    def reinforce_baseline(self):
        """G_t − V_t for G_t: Sutton and Barto 2018, section 13.4."""
        loss = 0.0
        for i, t in self.tokens():
            G = sum(self.r(i, u) for u in range(t, self.T[i]))
            loss -= (G - self.V_old[i][t]) * self.now[i][t]
        return loss / self.B + self.value(1 / self.B, 1.0)

    def a2c(self):
        """GAE for the advantage, a mean over tokens: Mnih et al. 2016, section 4, with λ < 1."""
        n = sum(self.T)
        loss = -sum(self.gae(i, t, 0.95) * self.now[i][t] for i, t in self.tokens())
        return loss / n + self.value(1 / n, 0.95)

    def rloo(self):
        """Ahmadian et al. 2024, eq. 8, of R = r − β log π(y) / ref(y)."""
        R, loss = [sum(self.r(i, t) for t in range(self.T[i])) for i in range(self.B)], 0.0
        for i in range(self.B):
            others = sum(R[j] for j in self.peers(i) if j != i) / (self.K - 1)
            loss -= (R[i] - others) * sum(self.now[i])
        return loss / self.B

    def grpo(self):
        """Shao et al. 2024, eq. 3."""
        loss = 0.0
        for i, t in self.tokens():
            gain = self.clipped(i, t, self.standardised(i), 0.2) - BETA * self.k3(i, t)
            loss -= gain / self.T[i] / self.B
        return loss

    def dr_grpo(self):
        """GRPO without 1 / |y_i| and without the std: Liu et al. 2025, section 3.2."""
        loss = 0.0
        for i, t in self.tokens():
            A = self.score[i] - sum(self.score[j] for j in self.peers(i)) / self.K
            loss -= (self.clipped(i, t, A, 0.2) - BETA * self.k3(i, t)) / (self.B * self.longest)
        return loss

    def dapo(self):
        """Yu et al. 2025, eq. 8 and 10, with GRPO's KL term, which the paper leaves out (β = 0)."""
        loss = 0.0
        for i, t in self.tokens():
            loss -= self.clipped(i, t, self.standardised(i), 0.28) - BETA * self.k3(i, t)
        return loss / sum(self.T)

    def ppo(self):
        """Schulman et al. 2017, eq. 9 without entropy, Â of mean 0 and variance 1 over the tokens."""
        A = {(i, t): self.gae(i, t, 0.95) for i, t in self.tokens()}
        n, mean = len(A), sum(A.values()) / len(A)
        sd = (sum((a - mean) ** 2 for a in A.values()) / n + 1e-8) ** 0.5
        gain = sum(self.clipped(i, t, (A[i, t] - mean) / sd, 0.2) for i, t in A)
        return -gain / n + self.value(1 / n, 0.95)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_row_is_the_formula_of_its_paper(name):
    """Loss and gradients by policy and critic, both some steps from where the batch was sampled."""
    mdp, algorithm, K = world(max_new=3), small(ALGORITHMS[name], 4), 4
    old, ref, V_old = (random_logits(s, mdp) for s in range(3))
    old, ref, V_old = old.log_softmax(-1), ref.log_softmax(-1), V_old[..., 0]
    leaf, V = old + 0.3 * random_logits(3, mdp), V_old + 0.3 * random_logits(4, mdp)[..., 0]
    leaf, V = leaf.requires_grad_(), V.requires_grad_()
    now = leaf.log_softmax(-1)
    draw = torch.Generator().manual_seed(0)
    y = torch.cat([torch.randperm(len(mdp.responses), generator=draw), torch.tensor([0])])  # (B,)
    x = torch.tensor([0, 1, 1, 0]).repeat_interleave(K)  # (B,)
    rollout = rollout_of(y, x, old, ref, mdp, V_old)
    logprobs = torch.where(rollout.mask, now[x[:, None], mdp.states[y], mdp.ids[y]], 0.0)  # (B, L)
    values = torch.where(rollout.mask, V[x[:, None], mdp.states[y]], 0.0)  # (B, L)
    loss = loss_of(logprobs, values, rollout, algorithm, BETA, mdp.max_new)
    said = [(i, mdp.responses[n]) for i, n in zip(x.tolist(), y.tolist())]
    want = getattr(Slow(mdp, said, K, now, old, ref, V, V_old), name.replace("-", "_"))()
    ratio = (logprobs - rollout.logprobs).exp()[rollout.mask]
    assert ratio.min() < 0.8 and ratio.max() > 1.28 and set(rollout.mask.sum(1).tolist()) == {1, 2, 3}
    close(loss, want)
    inputs = (leaf, V) if algorithm.baseline == "value" else (leaf,)
    got, wanted = (torch.autograd.grad(f, inputs, retain_graph=True) for f in (loss, want))
    for a, b in zip(got, wanted):
        close(a, b)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_is_logged_is_what_is_in_the_loss(name):
    """The parts of a loss sum to it, by their weights; and what nothing clips has no share that is clipped."""
    mdp, algorithm = world(max_new=3), small(ALGORITHMS[name], 4)
    old, ref = (random_logits(s, mdp).log_softmax(-1) for s in range(2))
    y, x = torch.arange(8), torch.tensor([0, 1]).repeat_interleave(4)  # (B,)
    rollout = rollout_of(y, x, old, ref, mdp, random_logits(2, mdp)[..., 0])
    now = (old + random_logits(3, mdp)).log_softmax(-1)
    logprobs = torch.where(rollout.mask, now[x[:, None], mdp.states[y], mdp.ids[y]], 0.0)  # (B, L)
    rollout = advantages_of(rollout, algorithm, BETA)
    weights = token_weights(rollout.mask, algorithm.aggregate, mdp.max_new)
    loss, watch = surrogate(logprobs, rollout.values, rollout, weights, algorithm, BETA)
    parts = watch["policy_loss"] + BETA * watch.get("kl_loss", 0) + 0.5 * watch.get("value_loss", 0)
    close(loss, parts)
    assert ("kl_loss" in watch, "value_loss" in watch) == (algorithm.kl_in == "loss", algorithm.baseline == "value")
    assert (watch["clip_frac"] > 0) == (algorithm.ratio == "clipped")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_at_ratio_1_clipping_changes_no_gradient(name):
    """The surrogate's gradient is REINFORCE's there, whatever ε."""
    mdp, algorithm = world(), small(ALGORITHMS[name], 2)
    logits, ref, values, _ = problem(mdp)
    plain = expected_update(logits, ref, mdp, but(algorithm, ratio="none"), BETA, values, 2 // algorithm.group)
    for clip, high in ((0.2, 0.28), (1e-6, 1e-6)):
        clipped = but(algorithm, ratio="clipped", clip=clip, clip_high=high)
        close(expected_update(logits, ref, mdp, clipped, BETA, values, 2 // algorithm.group), plain)


# What is unbiased


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("critic", ["none", "wrong", "true"])
def test_reinforce_is_unbiased_with_any_baseline(critic, groups):
    mdp = world(max_new=3)
    logits, ref, true, exact = problem(mdp)
    algorithm = REINFORCE if critic == "none" else ALGORITHMS["reinforce-baseline"]
    values = {"none": None, "wrong": random_logits(2, mdp)[..., 0], "true": true}[critic]
    close(expected_update(logits, ref, mdp, algorithm, BETA, values, groups), exact)


@pytest.mark.parametrize("K, groups", [(2, 1), (3, 1), (2, 2)])
def test_rloo_is_unbiased(K, groups):
    """Groups of two and three, and two groups a batch: a response is compared within its group alone."""
    mdp = world()
    logits, ref, _, exact = problem(mdp)
    close(expected_update(logits, ref, mdp, small(ALGORITHMS["rloo"], K), BETA, None, groups), exact)


@pytest.mark.parametrize("K", [2, 3, 4])
def test_dr_grpo_without_kl_is_the_gradient_times_a_constant(K):
    """E ĝ = (K − 1) / K · ∇J / longest: it turns nothing."""
    mdp = world(max_new=3 if K == 2 else 2)
    logits, ref, _, exact = problem(mdp, beta=0.0)
    got = expected_update(logits, ref, mdp, small(DR_GRPO, K), 0.0)
    close(got, (K - 1) / K / mdp.max_new * exact)
    assert cosine(got, exact) == pytest.approx(1, abs=1e-12)


def test_a_critic_biases_only_where_it_is_wrong_and_lambda_below_1():
    mdp = world(max_new=3)
    logits, ref, true, exact = problem(mdp)
    wrong = true + random_logits(2, mdp)[..., 0]
    summed = but(ALGORITHMS["a2c"], aggregate="sum")
    bias = {}
    for lam in (0.0, 0.5, 0.95, 1.0):
        algorithm = but(summed, lam=lam)
        close(expected_update(logits, ref, mdp, algorithm, BETA, true), exact)
        bias[lam] = float((expected_update(logits, ref, mdp, algorithm, BETA, wrong) - exact).norm() / exact.norm())
    assert bias[1.0] < 1e-12 and 0.01 < bias[0.95] < bias[0.5] < bias[0.0]


# What turns the gradient


def turned(algorithm: Algorithm, mdp: TokenMDP, beta: float, groups: int = 1) -> float:
    """The sine of the angle between the expected update and ∇J, with the true V."""
    logits, ref, values, exact = problem(mdp, beta)
    return (1 - cosine(expected_update(logits, ref, mdp, algorithm, beta, values, groups), exact) ** 2) ** 0.5


@pytest.mark.parametrize("name", ["a2c", "ppo"])
def test_a_mean_over_tokens_and_whitening_bias_less_in_larger_batches(name):
    """A ratio of two random sums: not ∇J, but nearer to its direction with every response, as 1 / B."""
    angles = [turned(ALGORITHMS[name], world(), BETA, B) for B in (1, 2, 3, 4, 5)]
    assert angles[0] > 0.1 and all(b < 0.95 * a for a, b in zip(angles, angles[1:]))
    if name == "a2c":  # whitening is slower: of five tokens the mean and the variance are still noise
        assert 5 * angles[4] == pytest.approx(4 * angles[3], rel=0.05)


@pytest.mark.parametrize("name", ["rloo", "grpo", "dr-grpo"])
def test_more_groups_in_a_batch_change_no_expectation(name):
    """GRPO's bias is of each response and each group: no batch is large enough to lose it."""
    mdp, algorithm = world(), small(ALGORITHMS[name], 2)
    logits, ref, _, _ = problem(mdp)
    one, two = (expected_update(logits, ref, mdp, algorithm, BETA, None, groups) for groups in (1, 2))
    close(two, one)


def test_the_length_of_the_response_and_the_std_of_the_group_each_turn_the_gradient():
    """Without a KL term. Dr. GRPO leaves out both; 1 / |y_i| is harmless where all are of one length."""
    algorithm = small(DR_GRPO, 3)
    assert turned(algorithm, world(), 0.0) < 1e-6
    for change in ({"aggregate": "sequence"}, {"aggregate": "token"}, {"baseline": "group_std"}):
        assert turned(but(algorithm, **change), world(), 0.0) > 0.05
    for aggregate in ("sequence", "token"):
        assert turned(but(algorithm, aggregate=aggregate), world(max_new=1), 0.0) < 1e-6
    for name in ("grpo", "dapo"):
        assert turned(small(ALGORITHMS[name], 3), world(), 0.0) > 0.3


def test_dividing_by_the_std_makes_every_prompt_count_the_same():
    """The second prompt's rewards times 10: ∇J of it is 10 times as long, GRPO's update what it was."""
    one, ten = scaled(1.0), scaled(1.0, second=10.0)
    logits, ref, _, exact = problem(one, beta=0.0)
    close(problem(ten, beta=0.0)[3][1], 10 * exact[1])
    for algorithm, factor in ((GRPO, 1), (DR_GRPO, 10)):
        before, after = (expected_update(logits, ref, mdp, small(algorithm, 3), 0.0) for mdp in (one, ten))
        close(after[0], before[0])
        close(after[1], factor * before[1], atol=0.01 * float(before[1].norm()))  # eps stands beside σ


# KL to the reference


def kl_update(mdp: TokenMDP, **choices: str) -> tuple[Tensor, Tensor]:
    """The expected update without a reward at β = 1, and −∇ KL(π ‖ ref)."""
    logits, ref, _, exact = problem(mdp, beta=1.0)
    return expected_update(logits, ref, mdp, but(REINFORCE, **choices), 1.0), exact


def test_k1_in_the_reward_has_the_gradient_of_the_kl_between_responses():
    mdp = NO_REWARD(max_new=3)
    got, exact = kl_update(mdp, kl_in="reward", kl="k1")
    leaf, ref, _, _ = problem(mdp)
    leaf = leaf.requires_grad_()
    true = torch.autograd.grad(kl(leaf.log_softmax(-1), ref, mdp).mean(), leaf)[0]
    close(got, -true)
    close(exact, -true)


def test_k1_in_the_loss_has_no_expected_gradient():
    got, _ = kl_update(NO_REWARD(max_new=3), kl_in="loss", kl="k1")
    close(got, torch.zeros_like(got))


@pytest.mark.parametrize("kl_in, k", [("loss", "k2"), ("loss", "k3"), ("reward", "k2"), ("reward", "k3")])
def test_other_estimators_turn_the_gradient_of_the_kl(kl_in, k):
    got, exact = kl_update(NO_REWARD(max_new=3), kl_in=kl_in, kl=k)
    assert 0 < cosine(got, exact) < 0.98


def test_k2_in_the_loss_is_right_for_a_response_of_one_token():
    """And k3 there is the gradient of KL(ref ‖ π): the other way round."""
    mdp = NO_REWARD(max_new=1)
    leaf, ref, _, _ = problem(mdp)
    leaf = leaf.requires_grad_()
    backward = torch.autograd.grad(kl(ref, leaf.log_softmax(-1), mdp).mean(), leaf)[0]
    k2, exact = kl_update(mdp, kl_in="loss", kl="k2")
    close(k2, exact)
    close(kl_update(mdp, kl_in="loss", kl="k3")[0], -backward)


def test_k3_is_half_a_gradient_in_the_reward_and_the_other_half_in_the_loss():
    """∇ KL = ∇ E k3 = E[k3 ∇ log π] + E ∇k3: unbiased in value, and wrong in either place alone."""
    mdp = NO_REWARD(max_new=3)
    in_reward, exact = kl_update(mdp, kl_in="reward", kl="k3")
    in_loss, _ = kl_update(mdp, kl_in="loss", kl="k3")
    close(in_reward + in_loss, exact)


@pytest.mark.parametrize("log_ratio", [-3.0, 0.1, 1.0, 5.0, 20.0])
def test_k3_in_the_loss_pulls_back_by_at_most_beta_and_k1_in_the_reward_without_bound(log_ratio):
    """What multiplies ∇ log π(a) where l = log π(a) / ref(a): −β (1 − e^−l), against −β l.

    Away from the reference GRPO's penalty is a constant pull, and below it an exploding push.
    """
    mdp = NO_REWARD(max_new=1)
    logp = torch.full((2, 1, 3), log(1e-3))
    ref = logp - log_ratio  # of the one token that is said
    word = [mdp.responses.index((2,))] * 2
    rollout = rollout_of(word, 0, logp, ref, mdp)
    coefficient = {}
    for name in ("reinforce", "grpo"):
        leaf = rollout.logprobs.clone().requires_grad_()  # (2, 1)
        loss = loss_of(leaf, rollout.values, rollout, small(ALGORITHMS[name], 2), BETA, 1)
        coefficient[name] = -2 * float(torch.autograd.grad(loss, leaf)[0][0, 0])  # 2 rows, one token each
    assert coefficient["reinforce"] == pytest.approx(-BETA * log_ratio, abs=1e-12)
    assert coefficient["grpo"] == pytest.approx(-BETA * (1 - exp(-log_ratio)), abs=1e-12)


# Where the updates come to rest


def regret(logp: Tensor, ref: Tensor, mdp: TokenMDP, beta: float) -> float:
    """(J* − J(π)) / (J* − J(ref)): 0 is the optimum, 1 no gain over the reference."""
    best = optimum(ref, mdp, beta)[2]
    return float((best - objective(logp, ref, mdp, beta)) / (best - objective(ref, ref, mdp, beta)))


VARIANTS = {
    "a2c, V = 0": ALGORITHMS["a2c"],
    "ppo, V = 0": ALGORITHMS["ppo"],
    "grpo, k1 in the reward": but(GRPO, kl_in="reward", kl="k1"),
}


def bias_table(K: int = 4) -> list[tuple[str, bool, float, float, float, float]]:
    """Of each row in batches of K responses, or groups of K where it has groups, in `world()` at BETA:

    name, unbiased, cosine with ∇J, the same at β = 0, and where its updates come to rest: regret as a fraction,
    and KL to the reference over that of π*. Bias is measured at a random policy.
    V is the true one, at every step anew, except where the name says V = 0.
    """
    mdp, table = world(), []
    ref = problem(mdp)[1]
    best = kl(optimum(ref, mdp, BETA)[0], ref, mdp).mean()
    for name, algorithm in (ALGORITHMS | VARIANTS).items():
        algorithm, critic = small(algorithm, K), "V = 0" not in name
        groups, means = K // algorithm.group, {}
        for beta in (BETA, 0.0):
            logits, _, values, exact = problem(mdp, beta)
            got = expected_update(logits, ref, mdp, algorithm, beta, values if critic else None, groups)
            means[beta] = (got, exact, cosine(got, exact))
        got, exact, turn = means[BETA]
        unbiased = bool((got - exact).norm() < 1e-6 * exact.norm())
        rest = follow(ref, mdp, algorithm, BETA, groups, critic)
        drift = float(kl(rest, ref, mdp).mean() / best)
        table.append((name, unbiased, turn, means[0.0][2], regret(rest, ref, mdp, BETA), drift))
    return table


def markdown(table: list[tuple]) -> str:
    """`bias_table` as theory/README.md shows it."""
    lines = ["| row | unbiased | cosine with ∇J | the same at β = 0 | regret at rest | KL at rest / KL of π* |"]
    lines.append("|---|---|---|---|---|---|")
    for name, unbiased, cos, of_reward, lost, drift in table:
        answer = "yes" if unbiased else "no"
        lines.append(f"| {name} | {answer} | {cos:.3f} | {of_reward:.3f} | {abs(lost):.1%} | {drift:.2f} |")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def table():
    return {row[0]: row[1:] for row in bias_table()}


def test_the_chapter_shows_the_table(table):
    chapter = Path(__file__).parents[2] / "minirlhf/theory/README.md"
    assert markdown([(name, *row) for name, row in table.items()]) in chapter.read_text(encoding="utf-8")


def test_the_table_names_the_unbiased_rows(table):
    assert {name for name, row in table.items() if row[0]} == {"reinforce", "reinforce-baseline", "rloo"}
    for name, (unbiased, cos, *_) in table.items():
        assert cos == pytest.approx(1, abs=1e-12) if unbiased else cos < 0.9999, name
    exact_direction = {name for name, row in table.items() if row[2] > 1 - 1e-12}
    assert exact_direction == {"reinforce", "reinforce-baseline", "rloo", "dr-grpo"}


def test_kl_in_the_reward_leads_to_the_optimum_and_kl_in_the_loss_does_not(table):
    """Also where the direction is biased, as a2c's and ppo's are, and grpo's with its KL moved to the reward.

    What is left is at least a twentieth of all there was to gain. A critic that is 0 leads astray too.
    """
    for name, algorithm in (ALGORITHMS | VARIANTS).items():
        if algorithm.kl_in == "reward" and "V = 0" not in name:
            assert abs(table[name][3]) < 1e-6, name
        else:
            assert table[name][3] > (0.05 if algorithm.kl_in == "loss" else 1e-3), name


@pytest.mark.parametrize("name", [*ALGORITHMS, "grpo, k1 in the reward"])
def test_at_the_optimum_nothing_moves_where_kl_is_in_the_reward(name):
    """r − β log π* / ref = V* for every response: against V* or against each other, all advantages are 0.

    Without a baseline they are not, but cancel. With the KL in the loss the update leads away from π*.
    """
    mdp, algorithm = world(max_new=3), small((ALGORITHMS | VARIANTS)[name], 2)
    ref = problem(mdp)[1]
    best, values, _ = optimum(ref, mdp, BETA)
    n = torch.arange(len(mdp.responses))  # (N,)
    pairs = rollout_of(torch.cartesian_prod(n, n).flatten(), 0, best, ref, mdp, values)  # all groups of two
    advantages = advantages_of(pairs, algorithm, BETA).advantages  # (2 N², L)
    assert (float(advantages.abs().max()) < 1e-6) == (algorithm.kl_in == "reward" and algorithm.baseline != "none")
    update = expected_update(best, ref, mdp, algorithm, BETA, values)
    assert (float(update.norm()) < 1e-9) == (algorithm.kl_in == "reward")


@pytest.mark.parametrize("K", [2, 3])
def test_dr_grpo_rests_where_its_penalty_is_the_kl_from_the_reference(K):
    """One token: π(a) = β' ref(a) / (λ − r(a)) with β' = β K / (K − 1), against π* = ref exp((r − V*) / β).

    Source: Grill et al. 2020, the policy that maximises E r − β' KL(ref ‖ π).
    """
    mdp = world(max_new=1)
    ref = problem(mdp)[1]
    rest, beta = follow(ref, mdp, small(DR_GRPO, K), BETA), BETA * K / (K - 1)
    p, q = response_logprobs(rest, mdp).exp(), response_logprobs(ref, mdp).exp()  # (X, N) each
    top = beta + (p * mdp.scores).sum(-1, keepdim=True)  # (X, 1): λ, from the sum of (λ − r) π = β' ref
    close(p, beta * q / (top - mdp.scores), atol=1e-6)


def test_a_penalty_that_saturates_holds_back_less_where_good_responses_are_rare():
    """EOS scores 1, all else 0, β = 0.15: KL(π ‖ ref) against that of π*, with Dr. GRPO's k3.

    Where the reference says EOS once in a thousand, β' log π / ref would have to grow with it and does not;
    where it says it every other time, k3 costs more than the KL and holds back more.
    """
    mdp, drift = world(lambda *said: 1.0, max_new=1, prompts=((0,),), missing_eos=0.0), {}
    for rare in (1e-3, 0.5):
        ref = torch.tensor([[[(1 - rare) / 2, rare, (1 - rare) / 2]]]).log()  # (1, 1, V)
        rest, best = follow(ref, mdp, small(DR_GRPO, 3), 0.15), optimum(ref, mdp, 0.15)[0]
        drift[rare] = float(kl(rest, ref, mdp) / kl(best, ref, mdp))
    assert drift[1e-3] > 1.5 and drift[0.5] < 1


def test_grpo_strays_further_the_smaller_the_rewards_are():
    """Rewards and β times c have the same π*; the division by σ makes of it rewards alone, and β c."""
    drift = {"rloo": [], "grpo": []}
    for c in (0.5, 1.0, 2.0):
        mdp = scaled(c)
        ref = problem(mdp)[1]
        for name, kept in drift.items():
            kept.append(float(kl(follow(ref, mdp, small(ALGORITHMS[name], 3), c * BETA), ref, mdp).mean()))
    assert drift["rloo"] == pytest.approx([drift["rloo"][1]] * 3, rel=1e-4)
    assert drift["grpo"][0] > 1.2 * drift["grpo"][1] > 1.2**2 * drift["grpo"][2]


# Noise


def noise(algorithm: Algorithm, mdp: TokenMDP, logits: Tensor, ref: Tensor) -> float:
    """Trace of the exact covariance of the update by two responses to a prompt, with the true V."""
    values, _ = bellman(logits.log_softmax(-1), ref, mdp, BETA)
    return float(moments(one_batch(ref, mdp, algorithm, BETA, values), logits, mdp, 2)[1].trace())


def test_a_true_baseline_and_leave_one_out_are_quieter_than_reinforce():
    """Rewards far from 0. At the optimum the unbiased ones with a baseline have no noise at all."""
    mdp = world(lambda *said: 2 + wavy(*said), missing_eos=1.5, prompts=((0, 0),))
    logits, ref, _, _ = problem(mdp)
    best = optimum(ref, mdp, BETA)[0]
    names = ("reinforce", "reinforce-baseline", "rloo")
    plain, value, others = (noise(small(ALGORITHMS[name], 2), mdp, logits, ref) for name in names)
    assert value < others < 0.5 * plain
    plain, value, others = (noise(small(ALGORITHMS[name], 2), mdp, best, ref) for name in names)
    assert plain > 0.1 and value < 1e-20 and others < 1e-20
