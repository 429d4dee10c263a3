"""The formulas of policy gradient and PPO for language models, as pure functions.

A response is a trajectory: state s_t = prompt + y_<t, action a_t = y_t, EOS included. Everything is
(B, R), B responses of up to R tokens, with `mask` bool True on real tokens. What stands where the mask
is False has no influence on any result. Sums over tokens are divided by a count that the caller knows
for the whole optimizer step, so that a loss does not depend on how a step is cut into micro-batches.
Proved by tests/test_algos.py, against slow loops in float64, closed forms and published numbers.
"""

import torch
from torch import Tensor


def token_logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    """log p(ids) under softmax(logits): logit of the token − log Σ exp.

    logits: (..., V), any float type; the sum runs in float32.  ids: (...).  Returns (...) float32.
    """
    logits = logits.float() if logits.dtype != torch.float64 else logits  # (..., V)
    return logits.gather(-1, ids[..., None]).squeeze(-1) - logits.logsumexp(-1)  # (...)


def entropy(logits: Tensor) -> Tensor:
    """H = − Σ_v p_v log p_v of softmax(logits), in nats, between 0 and log V. logits: (..., V) -> (...)."""
    logp = logits.float().log_softmax(-1) if logits.dtype != torch.float64 else logits.log_softmax(-1)  # (..., V)
    return -(logp.exp() * logp).sum(-1)  # (...)


def masked_sum(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Sum of x where mask is True; NaN elsewhere does no harm."""
    kept = torch.where(mask, x, 0.0)
    return kept.sum() if dim is None else kept.sum(dim)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x where mask is True; 0 if that is nowhere."""
    return masked_sum(x, mask) / mask.sum().clamp(min=1)


def whiten(x: Tensor, mask: Tensor, center: bool = True, eps: float = 1e-8) -> Tensor:
    """(x − μ) / √(σ² + eps), with μ and the biased σ² over the mask; center=False adds μ again.

    0 where the mask is False. One element, or equal ones, give 0 and not NaN.
    Source: Ziegler et al. 2019's code (biased variance, eps inside the root).
    """
    mean = masked_mean(x.double(), mask).to(x.dtype)  # exact for equal elements, whose rest would be blown up
    variance = masked_mean((x - mean) ** 2, mask)
    white = (x - mean) * torch.rsqrt(variance + eps)
    return torch.where(mask, white if center else white + mean, 0.0)


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, kind: str = "k1") -> Tensor:
    """Per-token estimates of KL(π ‖ ref), with l = log π(a) − log ref(a) and a ~ π.

        k1 = l              unbiased, of either sign
        k2 = l² / 2         biased, low variance
        k3 = e^−l − 1 + l   unbiased, never negative

    That is their *value*. As a loss their gradients differ: E ∇k1 = 0, E ∇k2 = ∇ KL(π ‖ ref),
    E ∇k3 = ∇ KL(ref ‖ π). Source: Schulman 2020, "Approximating KL divergence".
    """
    log_ratio = logprobs - ref_logprobs
    if kind == "k1":
        return log_ratio
    if kind == "k2":
        return log_ratio**2 / 2
    if kind == "k3":
        return torch.expm1(-log_ratio) + log_ratio
    raise ValueError(f"KL estimator {kind!r} is none of k1, k2, k3")


def exact_kl(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """Σ_v π_v (log π_v − log ref_v) at each position: (..., V) twice -> (...), exactly 0 for equal logits.

    Summed over the tokens of a sampled response it is the Rao-Blackwell estimate of the KL between
    the two distributions over responses. Source: Amini et al. 2025, arXiv 2504.10637.
    """
    logp, ref = (x.float().log_softmax(-1) if x.dtype != torch.float64 else x.log_softmax(-1)
                 for x in (logits, ref_logits))  # (..., V) each
    return (logp.exp() * (logp - ref)).sum(-1)  # (...)


def adapt_beta(beta: float, kl: float, target: float, horizon: float, n: int) -> float:
    """The KL coefficient after a batch of n responses with mean KL `kl` (nats a response).

        e = clip(kl / target − 1, −0.2, 0.2)        β ← β (1 + e n / horizon)

    Source: Ziegler et al. 2019, section 2.2.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * n / horizon)


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, beta: float) -> Tensor:
    """r_t = −β kl_t, plus the score on the last real token (the EOS, where there is one).

    scores: (B,).  kl: (B, R), k1 of the policy that sampled.  Returns (B, R), 0 where mask is False.
    Source: Ziegler et al. 2019, eq. 2; Stiennon et al. 2020, section 3.4.
    """
    last = mask & (mask.cumsum(-1) == mask.sum(-1, keepdim=True))  # (B, R)
    return torch.where(mask, -beta * kl, 0.0) + torch.where(last, scores[:, None], 0.0)  # (B, R)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation over the response tokens.

        δ_t = r_t + γ V_{t+1} − V_t        Â_t = δ_t + γλ Â_{t+1}        G_t = Â_t + V_t

    with V = Â = 0 after the last real token. λ = 1 is Monte Carlo minus V, λ = 0 is δ.

    rewards, values: (B, R) float.  mask: (B, R) bool, True on response tokens, EOS included.
    Returns (advantages, returns), each (B, R) and 0 where the mask is False; what stands in masked
    places has no influence. Whiten the advantages after this, never the returns.
    Source: Schulman et al. 2016, eq. 16.
    """
    advantages = torch.zeros_like(rewards)  # (B, R)
    next_value = next_advantage = torch.zeros_like(rewards[:, 0])  # (B,)
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]  # (B,)
        advantages[:, t] = torch.where(mask[:, t], delta + gamma * lam * next_advantage, 0.0)
        next_value = torch.where(mask[:, t], values[:, t], 0.0)  # (B,)
        next_advantage = advantages[:, t]  # (B,)
    return advantages, torch.where(mask, advantages + values, 0.0)


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip: float, n_tokens: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO's clipped surrogate, to be minimised, and what to watch.

        ρ_t = π(a_t) / π_old(a_t)        L = Σ_t max(−Â_t ρ_t, −Â_t clip(ρ_t, 1 − ε, 1 + ε)) / n_tokens

    logprobs, old_logprobs, advantages, mask: (B, R); gradients flow through logprobs alone.
    clip: ε.  n_tokens: real tokens in the whole optimizer step.
    Returns the loss, and *sums* over tokens: approx_kl Σ ρ − 1 − log ρ (estimates KL(π_old ‖ π)), clip_frac
    (tokens whose gradient the clip has stopped), ratio Σ ρ.  At ρ = 1 the gradient is REINFORCE's.
    Source: Schulman et al. 2017, eq. 7.
    """
    log_ratio = torch.where(mask, logprobs - old_logprobs, 0.0)  # (B, R)
    ratio = log_ratio.exp()  # (B, R)
    advantages = torch.where(mask, advantages.detach(), 0.0)  # (B, R)
    free = -advantages * ratio  # (B, R)
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)  # (B, R)
    loss = torch.maximum(free, clipped).sum() / max(n_tokens, 1)
    with torch.no_grad():
        watch = {
            "approx_kl": masked_sum(torch.expm1(log_ratio) - log_ratio, mask),
            "clip_frac": masked_sum((clipped > free).float(), mask),
            "ratio": masked_sum(ratio, mask),
        }
    return loss, watch


def reinforce_loss(logprobs: Tensor, advantages: Tensor, mask: Tensor, n_tokens: int) -> Tensor:
    """L = − Σ_t Â_t log π(a_t) / n_tokens; its gradient is minus the policy gradient.

    Shapes as in `policy_loss`. Source: Williams 1992; Sutton et al. 2000, theorem 1.
    """
    advantages = torch.where(mask, advantages.detach(), 0.0)  # (B, R): 0 · NaN would poison the gradient
    return -masked_sum(advantages * logprobs, mask) / max(n_tokens, 1)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float, n_tokens: int
) -> Tensor:
    """½ Σ_t max((V_t − G_t)², (V_t^clip − G_t)²) / n_tokens, with V^clip within ε of the old value.

    Shapes as in `policy_loss`. clip: ε; infinity gives the plain squared error.
    Source: Schulman et al. 2017's code; Ziegler et al. 2019's code.
    """
    values, old_values, returns = (torch.where(mask, x, 0.0) for x in (values, old_values, returns))  # (B, R)
    clipped = old_values + (values - old_values).clamp(-clip, clip)  # (B, R)
    worse = torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)  # (B, R)
    return 0.5 * worse.sum() / max(n_tokens, 1)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 − Var(G − V) / Var(G) over the mask: 1 is a perfect value function, 0 a constant, NaN if G is constant."""
    returns, values = returns.double(), values.double()  # so that equal returns have no variance
    residual = returns - values
    unexplained = masked_mean((residual - masked_mean(residual, mask)) ** 2, mask)
    total = masked_mean((returns - masked_mean(returns, mask)) ** 2, mask)
    return torch.where(total > 0, 1 - unexplained / total, torch.nan)
