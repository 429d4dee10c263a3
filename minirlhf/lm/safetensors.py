"""Tensors in the safetensors format, written and read without the library.

8 bytes little-endian header length N, N bytes of JSON {name: {dtype, shape, data_offsets}}, then the raw
numbers, row-major, without holes. Everything a header claims is checked before a byte is believed. One tensor at a
time is in memory, when one is read and when one is written. Proved by tests/lm/test_safetensors.py.
"""

import json
import struct
import weakref
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from minirlhf.harness.files import UserError, naming, open_bytes, write_atomic

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
}  # fmt: skip
MAX_HEADER = 100_000_000  # the limit of the reference implementation


def raw_bytes(x: Tensor) -> memoryview:
    """The numbers of a tensor as they stand in a file, row-major; no copy of them if they do so in memory."""
    return x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def write_safetensors(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, atomically. Shared storage is not representable: pass each tensor once.

    tensors: may make each when it is asked for. Each is asked for twice, its shape first, and held alone.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in tensors:
        x = torch.empty_like(tensors[name], device="meta")  # its shape alone, or it would last until the next
        where = [offset, offset + x.nbytes]
        header[name] = {"dtype": names[x.dtype], "shape": list(x.shape), "data_offsets": where}
        offset = where[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers are aligned for readers that map the file

    def write(file: IO[bytes]) -> None:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in tensors:
            file.write(raw_bytes(tensors[name]))

    write_atomic(path, write)


class Safetensors(Mapping):
    """The tensors of a safetensors file by name, each read when it is asked for, into memory of its own."""

    def __init__(self, path: str | Path) -> None:
        """Raises UserError for a file that is missing, cut off or tampered with."""
        self.path, self._file = path, open_bytes(path)
        weakref.finalize(self, self._file.close)
        length = self._file.seek(0, 2)
        if length < 8:
            raise self._refuse(f"{length} bytes, the header length alone takes 8")
        (size,) = struct.unpack("<Q", self._read(0, 8).numpy())
        if size > min(MAX_HEADER, length - 8):
            raise self._refuse(f"a header of {size} bytes in a file of {length}")
        text, left = bytes(self._read(8, size).numpy()), length - 8 - size
        try:  # A key that stands twice makes it None, and so unreadable: json would keep the last alone.
            header = json.loads(text, object_pairs_hook=lambda x: dict(x) if len(dict(x)) == len(x) else None)
            header.pop("__metadata__", None)
            self._entries: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
            for key, entry in header.items():
                start, stop = entry["data_offsets"]
                self._entries[key] = entry["dtype"], tuple(entry["shape"]), start, stop
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise self._refuse(f"the header cannot be read ({type(error).__name__})") from None
        self._begin, end = 8 + size, 0
        for key, (kind, shape, start, stop) in self._entries.items():
            if str(kind) not in DTYPES or not all(type(n) is int and n >= 0 for n in (*shape, start, stop)):
                raise self._refuse(f"tensor {key!r} has dtype {kind!r}, shape {shape}")
            if prod(n or 1 for n in shape) >= 2**63:  # beside a 0 a size may be anything
                raise self._refuse(f"tensor {key!r} has shape {shape}")
            if stop - start != prod(shape) * DTYPES[kind].itemsize or stop > left:
                raise self._refuse(f"tensor {key!r} claims bytes {start} to {stop} for {kind} {shape}")
        for key, (_, _, start, stop) in sorted(self._entries.items(), key=lambda item: item[1][2:]):
            if start != end:
                raise self._refuse(f"tensor {key!r} starts at byte {start}, not at {end}")
            end = stop
        if end != left:
            raise self._refuse(f"{left - end} bytes behind the last tensor")

    def _refuse(self, why: str) -> UserError:
        return UserError(f"{self.path}: {why}: not a whole safetensors file; copy or write it again")

    def _read(self, start: int, size: int) -> Tensor:
        """(size,) bytes."""
        data = torch.empty(size, dtype=torch.uint8)
        with naming(self.path):
            self._file.seek(start)
            if self._file.readinto(data.numpy()) < size:
                raise self._refuse("it became shorter while it was read")
        return data

    def shape(self, name: str) -> tuple[int, ...]:
        """The sizes of a tensor, without reading it."""
        return self._entries[name][1]

    def __getitem__(self, name: str) -> Tensor:
        kind, shape, start, stop = self._entries[name]
        return self._read(self._begin + start, stop - start).view(DTYPES[kind]).view(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
