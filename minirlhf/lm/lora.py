"""LoRA: a frozen network learns by adding a product of two thin matrices to some of its linear layers.

    y = W x + (α / r) B A x        A: (r, in) ~ N(0, 1 / in),  B: (out, r) = 0, so nothing changes at first

Only A and B have gradients and optimizer state. With the adapter off the network is the one that it came from: RL needs no
second copy for its reference. Merged, W + (α / r) B A is a plain linear layer again.
Source: Hu et al. 2022, section 4.1. Proved by tests/lm/test_lora.py.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

TARGETS = ("c_attn", "c_fc", "c_proj", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LoRALinear(nn.Module):
    """A linear layer that stays as it is, and what is learnt beside it."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base, self.scale, self.on = base, alpha / rank, True
        self.A = nn.Parameter(torch.randn(rank, base.in_features, device=base.weight.device) / base.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(base.out_features, rank, device=base.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)  # (..., out)
        return y + self.scale * ((x @ self.A.t()) @ self.B.t()) if self.on else y

    def merged(self) -> nn.Linear:
        """One linear layer that computes the same."""
        with torch.no_grad():
            self.base.weight += self.scale * self.B @ self.A  # (out, in)
        return self.base


def layers_of(model: nn.Module) -> list[tuple[nn.Module, str, LoRALinear]]:
    """Each adapted layer with the module and the name that hold it."""
    return [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()
            if isinstance(child, LoRALinear)]  # fmt: skip


def adapt(model: nn.Module, rank: int, alpha: float, targets: Sequence[str] = TARGETS) -> nn.Module:
    """Freeze the model and put an adapter beside each linear layer whose name is a target. Returns the model.

    Raises ValueError where no layer is a target.
    """
    model.requires_grad_(False)
    found = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()
             if isinstance(child, nn.Linear) and name in targets]  # fmt: skip
    if not found:
        raise ValueError(f"no linear layer is named {', '.join(targets)}")
    for parent, name, child in found:
        setattr(parent, name, LoRALinear(child, rank, alpha))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add what the adapters have learnt to the layers, in place, and take the adapters away. Returns the model."""
    for parent, name, layer in layers_of(model):
        setattr(parent, name, layer.merged())
    return model.requires_grad_(True)


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """The network as it came, for as long as the block lasts."""
    layers = [layer for _, _, layer in layers_of(model)]
    for layer in layers:
        layer.on = False
    try:
        yield
    finally:
        for layer in layers:
            layer.on = True
