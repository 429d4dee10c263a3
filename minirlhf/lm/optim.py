"""AdamW, its learning-rate schedule, and the step that refuses non-finite gradients.

Proved by tests/lm/test_optim.py.
"""

from collections.abc import Iterable
from math import cos, isfinite, pi

import torch
from torch import Tensor, nn

from minirlhf.harness import ranks
from minirlhf.harness.files import Diverged

BETAS = (0.9, 0.95)
MAX_BAD_STEPS = 5


def make_adamw(
    modules: Iterable[nn.Module], lr: float, weight_decay: float, slow: nn.Module | None = None, share: float = 1.0
) -> torch.optim.AdamW:
    """AdamW that decays matrices and embeddings, and neither biases nor LayerNorm gains.

    A gain that decays pulls its layer towards switching off. The parameters of `slow`, in `modules` or not, take steps
    at `share` of the rate. Those that are frozen are left out.
    Source: Loshchilov & Hutter 2019; the two groups: Radford et al. 2018, section 4.1; minGPT spares embeddings, too.
    """
    parameters = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}  # tied ones once
    slowed = {id(p): p for p in slow.parameters() if p.requires_grad} if slow is not None else {}
    groups = []
    for some, scale in (({k: p for k, p in parameters.items() if k not in slowed}, 1.0), (slowed, share)):
        if some:
            groups.append({"params": [p for p in some.values() if p.dim() >= 2], "weight_decay": weight_decay})
            groups.append({"params": [p for p in some.values() if p.dim() < 2], "weight_decay": 0.0})
            groups[-1]["scale"] = groups[-2]["scale"] = scale
    return torch.optim.AdamW(groups, lr=lr, betas=BETAS, fused=True)


def learning_rate(step: int, peak: float, warmup: int, total: int, final: float, shape: str = "cosine") -> float:
    """The rate at a step, from 0: up to `peak` in `warmup` steps, then down to `final` · peak, on a cosine or line."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = min((step - warmup) / max(total - warmup, 1), 1.0)
    left = (1 + cos(pi * done)) / 2 if shape == "cosine" else 1 - done
    return peak * (final + (1 - final) * left)


class Stepper:
    """Clips and applies the gradients in .grad. Skips and counts steps whose gradient is not finite."""

    def __init__(self, optimizer: torch.optim.Optimizer, max_norm: float) -> None:
        self.optimizer, self.max_norm = optimizer, max_norm
        self.skipped = self._in_a_row = 0

    def state_dict(self) -> dict:
        """What a resume needs: the optimizer's moments, and the steps skipped so far."""
        return {"optimizer": self.optimizer.state_dict(), "skipped": self.skipped}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` gave."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.skipped = state["skipped"]

    def step(self, lr: float) -> float:
        """A step; returns the norm before clipping. Raises Diverged after MAX_BAD_STEPS in a row not finite."""
        parameters: list[Tensor] = [p for g in self.optimizer.param_groups for p in g["params"]]
        ranks.sum_gradients(parameters)
        norm = float(nn.utils.clip_grad_norm_(parameters, self.max_norm))
        if isfinite(norm):
            for group in self.optimizer.param_groups:
                group["lr"] = lr * group.get("scale", 1.0)
            self.optimizer.step()
            self._in_a_row = 0
        else:
            self.skipped += 1
            self._in_a_row += 1
        self.optimizer.zero_grad(set_to_none=True)
        if self._in_a_row == MAX_BAD_STEPS:
            raise Diverged(f"the gradient was not finite {MAX_BAD_STEPS} steps in a row; lower the learning rate")
        return norm
