"""The options of the machine: the seed, the device, the type of matrix products, and what run.json says of them.

Proved by tests/harness/test_machine.py.
"""

import os
import signal
import sys
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from minirlhf.harness.options import fail, option

if TYPE_CHECKING:
    import torch


def load_torch() -> None:
    """Import torch, so that Ctrl-C meanwhile is a line: an exception in its C++ would abort with many."""
    if (before := signal.getsignal(signal.SIGINT)) is not signal.default_int_handler or "torch" in sys.modules:
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(fail("interrupted", 130)))
    import torch  # noqa: F401
    signal.signal(signal.SIGINT, before)


@dataclass(frozen=True)
class Machine:
    """Where and how it runs."""

    seed: int = option(0, "decides everything random; same seed, same machine, same bits on CPU", least=0)
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    dtype: str = option("auto", "of matrix products in training and sampling: auto, float32, bfloat16; what learns is float32")
    threads: int = option(0, "CPU threads; 0 leaves the choice to torch", least=0, most=4096)

    def set_up(self, several: bool = False) -> "tuple[torch.device, torch.dtype]":
        """Join `several` processes, seed torch, set the threads, resolve device and dtype. Raises UserError."""
        load_torch()
        import torch  # here and below, not above: --help does not wait for it

        from minirlhf.harness import ranks
        from minirlhf.harness.device import choose_device, choose_dtype, keep_memory

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
        from minirlhf.harness.device import choose_device, choose_dtype, environment

        device = choose_device(self.device)
        run = {"data": asdict(data), "training": {k: v for part in training for k, v in asdict(part).items()}}
        run |= {"seed": self.seed, "dtype": str(choose_dtype(self.dtype, device)), "device": str(device)}
        asked = [(f, getattr(part, f.name)) for part in (data, *training, self) for f in fields(part)]
        own = {"out", "resume", "overwrite"}  # of one call, not of the run
        run["options"] = {f.name: x for f, x in asked if "help" in f.metadata and f.name not in own and x != f.default}
        return run | {"environment": environment()}
