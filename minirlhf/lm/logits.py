"""Log-probs and entropy of the distributions that logits stand for, summed in float32.

    log p(a) = z_a − log Σ_v exp z_v        H = − Σ_v p_v log p_v

Proved by tests/lm/test_logits.py, against slow loops in float64.
"""

import torch
from torch import Tensor


def log_softmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """log p under logits / temperature, summed in float32. logits: (..., V), any float type; float64 stays."""
    z = logits if logits.dtype == torch.float64 else logits.float()  # first: a quotient in bfloat16 is rounded again
    return (z if temperature == 1 else z / temperature).log_softmax(-1)  # (..., V)


def token_logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    """log p(ids) under softmax(logits). logits: (..., V).  ids: (...).  Returns (...) float32."""
    return log_softmax(logits).gather(-1, ids[..., None]).squeeze(-1)  # (...)


def entropy(logp: Tensor) -> Tensor:
    """H = − Σ_v p_v log p_v in nats, between 0 and log V. logp: (..., V) of `log_softmax` -> (...)."""
    return -(logp.exp() * logp).sum(-1)  # (...)
