"""The formulas of policy gradient and PPO for language models, as pure functions.

A response is a trajectory: state s_t = prompt + y_<t, action a_t = y_t, EOS included. Tensors (B, R) hold a number
per token, of B responses of up to R tokens. `mask` is bool, True on the policy's tokens; other places, padding and
what others say between its turns, have no influence.
Losses take a weight per token, 0 on padding. The caller makes the weights for the whole optimizer step. So a loss
does not depend on how a step is cut into micro-batches.
Proved by tests/rl/test_losses.py, against slow loops in float64, closed forms and published numbers.
"""

import torch
from torch import Tensor


def masked_sum(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Sum of x where mask is True; NaN elsewhere does no harm."""
    kept = torch.where(mask, x, 0.0)
    return kept.sum() if dim is None else kept.sum(dim)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x where mask is True; 0 if that is nowhere."""
    return masked_sum(x, mask) / mask.sum().clamp(min=1)


def whiten(x: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """(x − μ) / √(σ² + eps), with μ and the biased σ² over the mask.

    0 where the mask is False. One element, or equal ones, give 0 and not NaN.
    Source: Ziegler et al. 2019's code (biased variance, eps inside the root).
    """
    mean = masked_mean(x.double(), mask).to(x.dtype)  # exact for equal elements: rounding / √eps is not 0
    variance = masked_mean((x - mean) ** 2, mask)
    white = (x - mean) * torch.rsqrt(variance + eps)
    return torch.where(mask, white, 0.0)


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, kind: str = "k1") -> Tensor:
    """Per-token estimates of KL(π ‖ ref), with l = log π(a) − log ref(a) and a ~ π.

        k1 = l              unbiased, of either sign
        k2 = l² / 2         biased, low variance
        k3 = e^−l − 1 + l   unbiased, never negative

    These are values; k1 belongs in the reward. As losses, their gradients differ: E ∇k1 = 0, E ∇k2 = ∇ KL(π ‖ ref),
    E ∇k3 = ∇ KL(ref ‖ π). Source: Schulman 2020, "Approximating KL divergence"; gradients: Tang and Munos 2025.
    """
    log_ratio = logprobs - ref_logprobs
    if kind not in (known := {"k1": log_ratio, "k2": log_ratio**2 / 2, "k3": torch.expm1(-log_ratio) + log_ratio}):
        raise ValueError(f"KL estimator {kind!r} is none of k1, k2, k3")
    return known[kind]


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, beta: float) -> Tensor:
    """r_t = −β kl_t, plus the score on the last real token (the EOS, where there is one).

    scores: (B,).  kl: (B, R), an estimate for each token.  Returns (B, R), 0 where mask is False.
    Source: Ziegler et al. 2019, eq. 2; Stiennon et al. 2020, section 3.4.
    """
    last = mask & (mask.cumsum(-1) == mask.sum(-1, keepdim=True))  # (B, R)
    return torch.where(mask, -beta * kl, 0.0) + torch.where(last, scores[:, None], 0.0)  # (B, R)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation over the response tokens.

        δ_t = r_t + γ V_{t+1} − V_t        Â_t = δ_t + γλ Â_{t+1}        G_t = Â_t + V_t

    with V = Â = 0 after the last real token. λ = 1 is Monte Carlo minus V, λ = 0 is δ. t + 1 is the next token of the
    policy: credit passes over what others say between its turns.

    rewards, values: (B, R) float.  mask: (B, R) bool, True on the policy's tokens, EOS included.
    Returns (advantages, returns), each (B, R) and 0 where the mask is False.
    Whiten the advantages after this, never the returns.
    Source: Schulman et al. 2016, eq. 16.
    """
    advantages = torch.zeros_like(rewards)  # (B, R)
    next_value = next_advantage = torch.zeros_like(rewards[:, 0])  # (B,)
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]  # (B,)
        next_advantage = torch.where(mask[:, t], delta + gamma * lam * next_advantage, next_advantage)  # (B,)
        next_value = torch.where(mask[:, t], values[:, t], next_value)  # (B,)
        advantages[:, t] = torch.where(mask[:, t], next_advantage, 0.0)
    return advantages, torch.where(mask, advantages + values, 0.0)


def leave_one_out(returns: Tensor, group: int) -> Tensor:
    """A_i = R_i − mean of the other R_j of the group = K / (K − 1) (R_i − mean of all K).

    returns: (B,), the K = `group` responses to a prompt one after the other.  Returns (B,), nan where K is 1.
    The baseline of a response does not depend on it: no bias.
    Source: Kool et al. 2019; Ahmadian et al. 2024, section 2.3.
    """
    R = returns.view(-1, group)  # (B / K, K)
    return ((R - R.mean(1, keepdim=True)) * group / (group - 1)).view(-1)  # (B,)


def group_relative(returns: Tensor, group: int, std: bool, eps: float = 1e-4) -> Tensor:
    """A_i = R_i − mean of the group, and with `std` that over (σ + eps), σ² the unbiased variance.

    Shapes as in `leave_one_out`. A group of equal returns gives 0. The mean holds R_i itself: that shrinks the
    gradient by (K − 1) / K and keeps its direction. The division by σ weighs prompts by 1 / σ, and changes it.
    Source: Shao et al. 2024, section 4.1.2 (with σ); Liu et al. 2025, section 3.2 (without).
    """
    R = returns.view(-1, group)  # (B / K, K)
    # The mean in float64: that of equal float32 numbers can be another number, and 1e-8 over eps is not 0.
    A = (R - R.double().mean(1, keepdim=True)).to(R.dtype)  # (B / K, K)
    return (A / (R.std(1, keepdim=True) + eps) if std else A).view(-1)  # (B,)


def token_weights(mask: Tensor, aggregate: str, longest: int) -> Tensor:
    """The weight of each token in the loss of an optimizer step, (B, R), 0 where mask is False.

        sum       1 / B              E of its gradient is ∇J              REINFORCE, RLOO
        token     1 / Σ_i |y_i|      every token counts the same          PPO, DAPO
        sequence  1 / (B |y_i|)      every response counts the same       GRPO
        constant  1 / (B longest)    `sum`, over the longest length       Dr. GRPO

    mask: (B, R) of *all* rows of the step; micro-batches take their rows of the result.
    longest: the most tokens a response may have, or in a conversation one of its turns. Raises ValueError for another name.
    Source: Yu et al. 2025 (DAPO), eq. 8, whose Σ is over one prompt's group; Liu et al. 2025 (Dr. GRPO), section 3.2.
    """
    B, lengths = mask.shape[0], mask.sum(1, keepdim=True)  # (B, 1)
    counts = {"sum": B, "token": lengths.sum(), "sequence": B * lengths, "constant": B * longest}
    if aggregate not in counts:
        raise ValueError(f"aggregate {aggregate!r} is none of {', '.join(counts)}")
    count = torch.as_tensor(counts[aggregate], device=mask.device)
    return mask / count.clamp(min=1)  # (B, R)


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, weights: Tensor, clip: float, clip_high: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO's clipped surrogate, to be minimised, and what to watch.

        ρ_t = π(a_t) / π_old(a_t)        L = Σ_t w_t max(−Â_t ρ_t, −Â_t clip(ρ_t, 1 − ε, 1 + ε_high))

    logprobs, old_logprobs, advantages, weights: (B, R); gradients flow through logprobs alone.
    weights: w of `token_weights`, above 0 on real tokens.  clip: ε.  clip_high: ε_high, DAPO's clip-higher.
    Returns the loss, and *sums* over tokens: approx_kl is Σ ρ − 1 − log ρ, which estimates KL(π_old ‖ π). clip_frac
    counts tokens whose gradient the clip has stopped, ratio is Σ ρ.  At ρ = 1 the gradient is REINFORCE's.
    Source: Schulman et al. 2017, eq. 7; Yu et al. 2025, eq. 10 (ε_high).
    """
    mask = weights > 0  # (B, R)
    log_ratio = torch.where(mask, logprobs - old_logprobs, 0.0)  # (B, R)
    ratio = log_ratio.exp()  # (B, R)
    advantages = torch.where(mask, advantages.detach(), 0.0)  # (B, R)
    free = -advantages * ratio  # (B, R)
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip_high)  # (B, R)
    loss = (weights * torch.maximum(free, clipped)).sum()
    with torch.no_grad():
        watch = {
            "approx_kl": masked_sum(torch.expm1(log_ratio) - log_ratio, mask),
            "clip_frac": masked_sum((clipped > free).float(), mask),
            "ratio": masked_sum(ratio, mask),
        }
    return loss, watch


def reinforce_loss(logprobs: Tensor, advantages: Tensor, weights: Tensor) -> Tensor:
    """L = − Σ_t w_t Â_t log π(a_t); its gradient is minus the policy gradient.

    Shapes as in `policy_loss`. Source: Williams 1992; Sutton et al. 2000, theorem 1.
    """
    mask = weights > 0  # (B, R)
    advantages = torch.where(mask, advantages.detach(), 0.0)  # (B, R): 0 · NaN would poison the gradient
    return -masked_sum(weights * advantages * logprobs, mask)


def kl_loss(logprobs: Tensor, ref_logprobs: Tensor, weights: Tensor, kind: str) -> Tensor:
    """Σ_t w_t k(log π_t, log ref_t), a KL penalty as a loss, with `kind` of `kl_estimate`.

    Shapes as in `policy_loss`. Its gradient is not that of the KL between responses: for k1 it is 0 on average, for
    k3 that of KL(ref ‖ π). Each ignores how a token changes the states that follow.
    Source: Shao et al. 2024, eq. 3 and 4 (k3); tests/theory/test_oracle.py shows the gradients exactly.
    """
    mask = weights > 0  # (B, R)
    logprobs, ref_logprobs = (torch.where(mask, x, 0.0) for x in (logprobs, ref_logprobs))  # (B, R) each
    return (weights * kl_estimate(logprobs, ref_logprobs, kind)).sum()


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, weights: Tensor, clip: float) -> Tensor:
    """½ Σ_t w_t max((V_t − G_t)², (V_t^clip − G_t)²), with V^clip within ε of the old value.

    Shapes as in `policy_loss`. clip: ε; infinity gives the plain squared error.
    Source: the code of OpenAI Baselines' ppo2 and of Ziegler et al. 2019; Schulman et al. 2017, eq. 9, does not clip.
    """
    mask = weights > 0  # (B, R)
    values, old_values, returns = (torch.where(mask, x, 0.0) for x in (values, old_values, returns))  # (B, R)
    clipped = old_values + (values - old_values).clamp(-clip, clip)  # (B, R)
    worse = torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)  # (B, R)
    return 0.5 * (weights * worse).sum()
