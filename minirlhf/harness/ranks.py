"""One run in N processes, by `torchrun --nproc-per-node N train_ppo.py ...`, on one machine.

A loss is a sum with weights of the whole optimizer step, so the processes' gradients add up to its own (Li et al.
2020). All else each computes from what was gathered. Process 0 alone writes. Proved by tests/harness/test_ranks.py.
"""

import atexit
import os
import sys
from collections.abc import Callable, Sequence
from io import BytesIO

import torch
import torch.distributed as dist

from minirlhf.harness.files import UserError


def start(device: torch.device, several: bool) -> None:
    """Join the other processes, if torchrun started several and that is meant; each has its GPU. Raises UserError."""
    if several and dist.is_torchelastic_launched():
        if device.type == "cuda" and (device.index is not None or int(os.environ["LOCAL_RANK"]) >= torch.cuda.device_count()):
            raise UserError(f"--device {device}: each process takes its own of {torch.cuda.device_count()} GPUs; give cuda")
        if device.type == "cuda":
            together(torch.cuda.set_device, int(os.environ["LOCAL_RANK"]))
        together(dist.init_process_group, "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)  # or gloo's threads may abort the exit
        if rank() > 0:
            sys.stdout = open(os.devnull, "w")


def count() -> int:
    """How many processes the run has."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def together(call: Callable, *args) -> None:
    """call(*args) of torch.distributed. Raises UserError where it fails, as when another process is gone."""
    try:
        call(*args)
    except RuntimeError as error:
        why = str(error).split("] ")[-1].split(". ")[0]
        raise UserError(f"lost a process: {why}; --resume goes on from the last save, if there is one") from None


def mine(rows: Sequence) -> Sequence:
    """This process's share: every N-th, so that rows sorted by length are shared evenly."""
    return rows[rank() :: count()]


def gather(make: Callable) -> list:
    """make() of each process, in all of them. What it raises in one, all raise: none waits for one that has ended."""
    if count() == 1:
        return [make()]
    try:
        found = make()
    except Exception as error:
        found = error
    torch.save(found, file := BytesIO())
    together(dist.all_gather_object, parts := [b""] * count(), file.getvalue())
    parts = [torch.load(BytesIO(x), lambda x, at: x if at == "cpu" else x.cuda(), weights_only=False) for x in parts]
    if errors := [x for x in (found, *parts) if isinstance(x, Exception)]:
        raise errors[0]  # its own, if there is one: with its traceback
    return parts


def in_shares(call: Callable[[Sequence], list], rows: Sequence) -> list:
    """call(rows), an answer to each row in a list, where every process calls it on its share of them."""
    parts = gather(lambda: call(mine(rows)))
    return [parts[i % count()][i // count()] for i in range(len(rows))]


def total(figures: dict[str, float]) -> dict[str, float]:
    """The sums over the processes. Process 0 has rows in every step, and so all keys."""
    parts = gather(lambda: figures)
    return {key: sum((part.get(key, 0.0) for part in parts), -0.0) for key in parts[0]}  # -0.0 + x is x, to the bit


def add_up(*tensors: torch.Tensor) -> None:
    """Sum each over the processes, in place; what a process leaves to others is 0 in its own."""
    for x in tensors if count() > 1 else ():
        if x.is_cuda:
            together(dist.all_reduce, torch.zeros(1))  # gloo sees that a process is gone; NCCL would wait for it
        together(dist.all_reduce, x)


def sum_gradients(parameters: Sequence[torch.Tensor]) -> None:
    """Sum each .grad over the processes; one that had no rows has None, which counts as 0."""
    if count() > 1:
        add_up(flat := torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]))
        for p, grad in zip(parameters, flat.split([p.numel() for p in parameters])):
            p.grad = grad.view_as(p)
