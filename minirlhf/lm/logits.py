"""Log-probs and entropy of the distributions that logits stand for, summed in float32.

    log p(a) = z_a − log Σ_v exp z_v        H = − Σ_v p_v log p_v

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
