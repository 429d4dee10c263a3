"""Where it runs: the seed, the device, the type of matrix products, and what run.json says of them.

Proved by tests/harness/test_machine.py.
"""

import ctypes
import platform
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, fields

import numpy as np
import torch
from torch import nn

from minirlhf.harness import ranks
from minirlhf.harness.files import UserError
from minirlhf.harness.options import option

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


@dataclass(frozen=True)
class Machine:
    """Where and how it runs."""

    seed: int = option(0, "decides everything random; same seed, same machine, same bits on CPU", least=0)
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    dtype: str = option("auto", "of matrix products in training and sampling: auto, float32, bfloat16; what learns is float32")
    threads: int = option(0, "CPU threads; 0 leaves the choice to torch", least=0, most=4096)

    def set_up(self, several: bool = False) -> tuple[torch.device, torch.dtype]:
        """Join `several` processes, seed torch, set the threads, resolve device and dtype. Raises UserError."""
        ranks.start(choose_device(self.device), several)
        if self.threads > 0:
            torch.set_num_threads(self.threads)
        keep_memory()
        torch.manual_seed(self.seed)
        torch.backends.cuda.matmul.allow_tf32 = True
        return choose_device(self.device), choose_dtype(self.dtype, choose_device(self.device))

    def record(self, data, *training) -> dict:
        """What run.json says of every training: its options, all dataclasses, and where it ran.

        options: those that are not the default, which `--resume` takes from there.
        """
        device = choose_device(self.device)
        run = {"data": asdict(data), "training": {k: v for part in training for k, v in asdict(part).items()}}
        run |= {"seed": self.seed, "dtype": str(choose_dtype(self.dtype, device)), "device": str(device)}
        asked = [(f, getattr(part, f.name)) for part in (data, *training, self) for f in fields(part)]
        own = {"out", "resume", "overwrite"}  # of one call, not of the run
        run["options"] = {f.name: x for f, x in asked if "help" in f.metadata and f.name not in own and x != f.default}
        return run | {"environment": environment()}


def keep_memory() -> None:
    """Let glibc, where it is, keep what was freed: asking the system for large tensors took 15 % of a training step."""
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
