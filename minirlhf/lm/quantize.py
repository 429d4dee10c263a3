"""Smaller weights: blocks of 8 or 4 bits, as GGUF files and `BlockLinear` hold them, and weights that become 0.

32 weights of a row are a block, with a scale d, and in Q4_1 a least value m, in float16:

             bytes                              w =          made by
    Q8_0     d, 32 of q                   34    d q          d = max |w| / 127
    Q4_0     d, 32 halves of q            18    d (q − 8)    d = −v / 8, of v with the largest |v|
    Q4_1     d, m, 32 halves of q         20    d q + m      m = min w,  d = (max w − m) / 15

The low halves of 16 bytes are the first 16 weights, the high halves the others. The nearest q is at most d / 2 away.
Rounding d and m to float16 adds 2⁻¹¹ of d q and of m, and more where d < 2⁻¹⁴. In Q4_0 the levels end at −7/8 v, so a
weight near −v moves by up to d. A weight of 0 stays 0 in Q8_0 and Q4_0, but in Q4_1 for sure only if none of its block
is below 0.

Pruning sets the weights of least magnitude to 0: Han et al. 2015, section 3. As is usual for language models (Frantar &
Alistarh 2023, section 4), each matrix of the blocks loses the same share. Embedding, head, norms and biases lose none.
Source of the blocks: ggml's quantize_row_q8_0_ref, q4_0_ref and q4_1_ref. Proved by tests/lm/test_quantize.py.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirlhf.harness.files import UserError

BLOCK = 32


class Kind(NamedTuple):
    """How numbers stand in bytes: how many there are in a block of how many bytes."""

    name: str
    numbers: int
    size: int
    decode: Callable[[Tensor], Tensor]  # (n, size) uint8 -> (n, numbers) float32
    encode: Callable[[Tensor], Tensor] | None = None  # (n, numbers) float32 -> (n, size) uint8; None: is only read


def _scale(raw: Tensor, at: int) -> Tensor:
    """(n, 1) float32: the float16 number at byte `at` of each block."""
    return raw[:, at : at + 2].contiguous().view(torch.float16).float()


def _halves(q: Tensor) -> Tensor:
    """(n, 16) bytes -> (n, 32): the low halves, then the high ones."""
    return torch.cat([q & 15, q >> 4], 1).float()


def _block(q: Tensor, *scales: Tensor) -> Tensor:
    """(n, size) uint8: scales (n, 1) as float16, then q. Raises UserError for a scale that float16 cannot hold."""
    raw = [x.half() for x in scales]
    if any(x.isinf().any() for x in raw):
        raise UserError("a weight is too large for the scale of a block, which is a float16: write F32")
    return torch.cat([*(x.view(torch.uint8) for x in raw), q], 1)


def _inverse(d: Tensor) -> Tensor:
    return torch.where(d != 0, 1 / d, 0.0)


def encode_q8_0(w: Tensor) -> Tensor:
    """w: (n, 32) -> (n, 34) bytes of Q8_0. Raises UserError, as the other two do, for weights that are too large."""
    d = w.abs().amax(1, keepdim=True) / 127  # (n, 1)
    q = w * _inverse(d)  # (n, 32)
    q = q.trunc() + (2 * q.frac()).trunc()  # halves away from 0: C's roundf
    return _block(q.to(torch.int8).view(torch.uint8), d)


def encode_q4_0(w: Tensor) -> Tensor:
    """w: (n, 32) -> (n, 18) bytes of Q4_0."""
    d = w.gather(1, w.abs().argmax(1, keepdim=True)) / -8  # (n, 1), the sign that has a level more is that of v
    q = (w * _inverse(d) + 8.5).clamp(max=15).to(torch.uint8)  # (n, 32)
    return _block(q[:, :16] | q[:, 16:] << 4, d)


def encode_q4_1(w: Tensor) -> Tensor:
    """w: (n, 32) -> (n, 20) bytes of Q4_1."""
    m, most = (x[:, None] for x in w.aminmax(dim=1))  # (n, 1) each
    d = (most - m) / 15  # (n, 1)
    q = ((w - m) * _inverse(d) + 0.5).clamp(max=15).to(torch.uint8)  # (n, 32)
    return _block(q[:, :16] | q[:, 16:] << 4, d, m)


# By the number in a GGUF file.
KINDS = {
    0: Kind("F32", 1, 4, lambda raw: raw.view(torch.float32), lambda w: w.view(torch.uint8)),
    1: Kind("F16", 1, 2, lambda raw: raw.view(torch.float16).float()),
    30: Kind("BF16", 1, 2, lambda raw: raw.view(torch.bfloat16).float()),
    8: Kind("Q8_0", BLOCK, 34, lambda raw: raw[:, 2:].contiguous().view(torch.int8).float().mul_(_scale(raw, 0)),
            encode_q8_0),
    2: Kind("Q4_0", BLOCK, 18, lambda raw: _halves(raw[:, 2:]).sub_(8).mul_(_scale(raw, 0)), encode_q4_0),
    3: Kind("Q4_1", BLOCK, 20, lambda raw: _halves(raw[:, 4:]).mul_(_scale(raw, 0)).add_(_scale(raw, 2)), encode_q4_1),
}
WRITTEN = {kind.name: number for number, kind in KINDS.items() if kind.encode}


def encode(x: Tensor, kind: Kind) -> Tensor:
    """x, whose rows are whole blocks, as (blocks, bytes) uint8. Raises UserError for what is too large."""
    return kind.encode(x.detach().float().cpu().contiguous().view(-1, kind.numbers))


class BlockLinear(nn.Module):
    """A linear layer whose weights are held in blocks, and decoded for each pass. They cannot learn."""

    def __init__(self, layer: nn.Linear, kind: Kind) -> None:
        """Raises UserError as `encode` does."""
        super().__init__()
        self.kind, self.shape, self.bias = kind, layer.weight.shape, layer.bias
        self.register_buffer("blocks", encode(layer.weight, kind).to(layer.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.kind.decode(self.blocks).view(self.shape).to(x.dtype), self.bias)  # (..., out)


def in_blocks(model: nn.Module, kind: str) -> nn.Module:
    """The model, its linear layers held in blocks of `kind`, in place; those whose rows are no whole blocks stay."""
    for path in [path for path, _ in model.h.named_modules()]:  # a list of layers would keep each from being freed
        layer = model.h.get_submodule(path)
        if isinstance(layer, nn.Linear) and layer.in_features % BLOCK == 0:
            model.h.set_submodule(path, BlockLinear(layer, KINDS[WRITTEN[kind]]))
    return model


@torch.no_grad()
def prune(model: nn.Module, share: float) -> nn.Module:
    """Set the share of least magnitude in each linear layer of `model.h` to 0, in place; of equals the first."""
    for layer in model.h.modules():
        if isinstance(layer, nn.Linear) and share:  # or every conversion would sort all weights
            order = layer.weight.abs().view(-1).argsort(stable=True)
            layer.weight.view(-1)[order[: round(share * len(order))]] = 0
    return model
