"""Examples side by side: padding, the shift by one, micro-batches of like length, and the mixture of data sets.

Inputs and targets are (B, T), padded on the right. A mask is True where the loss counts the target. The examples of
a step are a pure function of (seed, step). Proved by tests/lm/test_batches.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minirlhf.harness.device import send
from minirlhf.lm.chat import Example
from minirlhf.lm.model import GPT

ROOM = {"cpu": 2**24, "cuda": 2**27}  # tokens x layers x width per pass: about 100 bytes each are kept for the gradient


@dataclass
class Batch:
    """Examples side by side, padded on the right. Targets are already shifted by one against inputs."""

    inputs: Tensor  # (B, T) int64
    targets: Tensor  # (B, T) int64, the token behind each input
    mask: Tensor  # (B, T) bool, True where the loss counts the target


def round_up(n: int, multiple: int, limit: int) -> int:
    """n rounded up to a multiple, or to `limit` where that is less; n itself where it is beyond the limit.

    Every new shape of a bfloat16 product on CPU costs a compilation, kept for good. With unrounded shapes 150
    base steps and 150 of SFT held more than twice as much.
    """
    return max(n, min(-(-n // multiple) * multiple, limit))


def collate(examples: Sequence[Example], device: torch.device | str = "cpu", context: int = 2**31) -> Batch:
    """Pad on the right and shift by one: position t predicts token t + 1.  context: the most columns."""
    width = 1 + round_up(max(len(e.ids) for e in examples) - 1, 8, context)
    ids = np.zeros((len(examples), width), dtype=np.int64)  # (B, T + 1)
    mask = np.zeros((len(examples), width), dtype=bool)  # (B, T + 1)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = example.ids
        mask[row, : len(example.mask)] = example.mask
    whole, where = (send(torch.from_numpy(x), device) for x in (ids, mask))
    return Batch(whole[:, :-1], whole[:, 1:], where[:, 1:])


def room(model: GPT) -> int:
    """How many tokens a pass may have: activations fit ROOM, and logits four numbers in each of its places."""
    shape = model.config
    return ROOM[model.wte.weight.device.type] // max(shape.layers * shape.width, shape.vocab_size // 4)


def micro_batches(lengths: Sequence[int], rows: int, model: GPT | None = None, share: Callable = list) -> list[list]:
    """Indices sorted by length, the longest first, in parts of at most `rows`: so little is spent on padding.

    model: its size says how many tokens a part may have, padding included; 970 of 135M parameters, on a CPU.
    share: which of the sorted indices, `ranks.mine` in a step of several processes.
    """
    order, parts = share(sorted(range(len(lengths)), key=lambda i: -lengths[i])), []
    tokens = room(model) if model is not None else 2**62
    while order:
        n = max(1, min(rows, tokens // max(1, lengths[order[0]])))
        parts, order = [*parts, order[:n]], order[n:]
    return parts


def gather_true(x: Tensor, mask: Tensor) -> tuple[Tensor, int]:
    """x (B, T, C) where mask (B, T) is True, row by row: (N', C), and N. Only its first N rows count.

    The others make N' a multiple of 64: see `round_up`.
    """
    places = mask.flatten().nonzero().squeeze(1)  # (N,)
    n = len(places)
    return x.flatten(0, 1)[F.pad(places, (0, -n % 64))], n  # (N', C)


@dataclass(frozen=True)
class Mixture:
    """Batches from several data sets, a pure function of (seed, step): to resume, the step is enough.

    An epoch of a set has every example once, in an order drawn anew. Rows per step may be fractional: 2.5 gives 2 and
    3 in turn.
    """

    sets: dict[str, tuple[Sequence, float]]  # name -> (examples, rows per step)
    seed: int

    def step(self, step: int) -> list:
        """The examples of optimizer step `step`, counted from 0."""
        batch: list = []
        for which, (examples, rows) in enumerate(self.sets.values()):
            for position in range(int(step * rows), int((step + 1) * rows)):
                epoch, place = divmod(position, len(examples))
                batch.append(examples[epoch_order(self.seed, which, epoch, len(examples))[place]])
        return batch


@lru_cache(maxsize=64)
def epoch_order(seed: int, which: int, epoch: int, n: int) -> np.ndarray:
    """The order of data set number `which`, of n examples, in an epoch: (n,) int."""
    return np.random.default_rng([seed, which, epoch]).permutation(n)


def spread(flat: Tensor, mask: Tensor) -> Tensor:
    """Put N numbers, (N,), into the N True places of mask (B, R), row by row; 0 elsewhere: (B, R)."""
    return torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device).masked_scatter(mask, flat)
