"""The device that it runs on: which, in which type matrix products are, and how tensors and memory are held there.

Proved by tests/harness/test_device.py.
"""

import ctypes
import platform
from contextlib import AbstractContextManager, suppress

import numpy as np
import torch
from torch import nn

from minirlhf.harness import ranks
from minirlhf.harness.files import UserError

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_memory() -> None:
    """Let glibc, where it is, keep what was freed: without this a training step takes 5 to 12 % longer."""
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def choose_device(name: str) -> torch.device:
    """The device of that name; auto is CUDA where there is one. Raises UserError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: not a device; use auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: only cpu and cuda are supported")
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise UserError(f"--device {name}: torch sees {torch.cuda.device_count()} CUDA devices; use --device cpu")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The type of that name; auto is bfloat16 where the hardware multiplies it, else float32. Raises UserError."""
    if name == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported()
        else:
            fast = bool(torch.cpu.get_capabilities().get("avx512_bf16"))  # without it, many times slower
        return torch.bfloat16 if fast else torch.float32
    if name not in ("float32", "bfloat16"):
        raise UserError(f"--dtype {name}: not one of auto, float32, bfloat16")
    return getattr(torch, name)


def send(x: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """x on the device; a GPU reads it from pinned memory, and the CPU goes on meanwhile."""
    return x.pin_memory().to(device, non_blocking=True) if torch.device(device).type == "cuda" else x.to(device)


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Matrix products in `dtype`, everything that sums in float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def hold_frozen(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model, its linear layers that do not learn stored in the type that autocast would make of them every pass."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and not layer.weight.requires_grad:
            layer.to(dtype)
    return model


def environment() -> dict:
    """Versions and machine, for run.json."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    return versions | {"machine": platform.machine(), "threads": torch.get_num_threads(), "processes": ranks.count()}
