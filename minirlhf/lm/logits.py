"""Log-probs, entropy and KL of the distributions that logits stand for, summed in float32.

    log p(a) = z_a − log Σ_v exp z_v        H = − Σ_v p_v log p_v        KL = Σ_v π_v (log π_v − log ref_v)

Proved by tests/lm/test_logits.py, against slow loops in float64.
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


def exact_kl(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """Σ_v π_v (log π_v − log ref_v) at each position: (..., V) twice -> (...), exactly 0 for equal logits.

    Summed over the tokens of a sampled response it is the Rao-Blackwell estimate of the KL between
    the two distributions over responses. Source: Amini et al. 2025, arXiv 2504.10637.
    """
    logp, ref = (x.float().log_softmax(-1) if x.dtype != torch.float64 else x.log_softmax(-1)
                 for x in (logits, ref_logits))  # (..., V) each
    return (logp.exp() * (logp - ref)).sum(-1)  # (...)
