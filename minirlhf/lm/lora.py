"""LoRA: a frozen network learns by adding a product of two thin matrices to the linear layers of its blocks.

    y = W x + (α / r) B A x        A: (r, in) ~ N(0, 1 / in),  B: (out, r) = 0, so nothing changes at first

Only A and B have gradients and optimizer state. With the adapters off the network is the one that it was: RL needs no
second copy for its reference. Merged, W + (α / r) B A is a plain linear layer again.
Source: Hu et al. 2022, section 4.1. Proved by tests/lm/test_lora.py.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirlhf.harness.files import UserError
from minirlhf.lm.families import Model
from minirlhf.lm.model import KVCache


class LoRALinear(nn.Module):
    """A linear layer that stays as it is, and what is learnt beside it, in float32 whatever the layer is in."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base, self.alpha, self.on = base, alpha, True
        device, drawn = base.weight.device, torch.randn(rank, base.in_features)  # on the CPU: the same on every device
        self.A = nn.Parameter((drawn / base.in_features**0.5).to(device))
        self.B = nn.Parameter(torch.zeros(base.out_features, rank, device=device))

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)  # (..., out)
        return y + F.linear(self.alpha / len(self.A) * F.linear(x, self.A), self.B) if self.on else y

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """One linear layer that computes the same."""
        self.base.weight += self.alpha / len(self.A) * self.B @ self.A  # (out, in)
        return self.base


def layers_of(model: nn.Module) -> dict[str, LoRALinear]:
    """Each adapted layer by its path in the model."""
    return {path: layer for path, layer in model.named_modules() if isinstance(layer, LoRALinear)}


def adapt(model: Model, rank: int, alpha: float, targets: Sequence[str] = (), where: str = "LoRA") -> Model:
    """Freeze the model and put adapters beside the linear layers of its blocks, in place. Returns the model.

    targets: names of layers, as q_proj; without any, all of each block. The head has none. torch's seed decides A.
    Raises UserError, which says `where`, for a name that no layer has, and for a rank larger than a matrix.
    """
    if layers_of(model):
        raise ValueError("the model has adapters: merge them first")
    found = {path: x for path, x in model.named_modules() if path.startswith("h.") and isinstance(x, nn.Linear)}
    there = sorted({path.rpartition(".")[2] for path in found})
    if unknown := [name for name in targets if name not in there]:
        raise UserError(f"{where}: no layer {unknown[0]!r:.60} in a block; take of {', '.join(there)}")
    found = {path: layer for path, layer in found.items() if path.rpartition(".")[2] in (targets or there)}
    if not (most := min(min(layer.weight.shape) for layer in found.values())) >= rank > 0:
        raise UserError(f"{where}: rank {rank}; the smallest matrix has {most}, take one from 1 to that")
    model.requires_grad_(False)
    for path, layer in found.items():
        model.set_submodule(path, LoRALinear(layer, rank, alpha))
    return model


def merge(model: Model) -> Model:
    """Add what the adapters have learnt to the layers, in place, and take the adapters away. Returns the model."""
    for path, layer in layers_of(model).items():
        model.set_submodule(path, layer.merged())
    return model.requires_grad_(True)


@contextmanager
def adapters_off(model: Model) -> Iterator[None]:
    """The network as it came, without dropout, for as long as the block lasts."""
    layers, was_training = layers_of(model).values(), model.training
    model.eval()
    for layer in layers:
        layer.on = False
    try:
        yield
    finally:
        model.train(was_training)
        for layer in layers:
            layer.on = True


class WithoutAdapters:
    """The network that an adapted one came from, in the place of a GPT and in the same memory: a frozen reference."""

    def __init__(self, model: Model) -> None:
        self.model, self.config, self.wte, self.logits = model, model.config, model.wte, model.logits

    def __call__(self, ids: Tensor, key_mask: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """As `GPT.forward`; nothing that is trained takes part."""
        with adapters_off(self.model):
            return self.model(ids, key_mask, cache)  # (B, T, C)
