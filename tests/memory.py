"""How much memory code holds: tensors that know whether others are held, and the peak of a process."""

import os
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch

MB = 2**20
STATUS = Path("/proc/self/status")


class OneAtATime(Mapping):
    """Tensors that are made when they are asked for, and refuse to be while an earlier one is held."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.tensors, self.asked, self._given = tensors, Counter(), lambda: None

    def __getitem__(self, name: str) -> torch.Tensor:
        assert self._given() is None, f"a tensor is held while {name} is made"
        self.asked[name] += 1
        numbers = self.tensors[name].numpy().copy(order="K")  # held as long as any view of the tensor is
        self._given = weakref.ref(numbers)
        return torch.from_numpy(numbers)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def peak_of(function: Callable[[], object]) -> float:
    """MB of memory that a call takes at most, in a copy of this process. Allocations under 32 MB may be seen or not."""
    if not STATUS.exists():
        pytest.skip("needs Linux's account of memory")
    reader, writer = os.pipe()
    if not (pid := os.fork()):
        status = 1
        try:
            (before, _), _ = virtual_memory(), function()
            os.write(writer, b"%d" % (virtual_memory()[1] - before))
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader) as said:
        kib = said.read()
    assert os.waitpid(pid, 0)[1] == 0
    return int(kib) / 1024


def virtual_memory() -> tuple[int, int]:
    """(KiB now, at most so far): address space, which unlike pages in use does not depend on what was touched."""
    found = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return tuple(int(found[key].split()[0]) for key in ("VmSize", "VmPeak"))
