"""Tensors in the safetensors format, written and read without the library.

8 bytes little-endian header length N, N bytes of JSON {name: {dtype, shape, data_offsets}}, then the raw
numbers, row-major, without holes. Everything a header claims is checked before a byte is believed.
Proved by tests/lm/test_safetensors.py.
"""

import json
import struct
from math import prod

import torch
from torch import Tensor

from minirlhf.harness.files import UserError

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
}  # fmt: skip
MAX_HEADER = 100_000_000  # the limit of the reference implementation


def dump_safetensors(tensors: dict[str, Tensor]) -> bytes:
    """The bytes of a safetensors file. Shared storage is not representable: pass each tensor once."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict = {"__metadata__": {"format": "pt"}}
    chunks, offset = [], 0
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        data = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        where = [offset, offset + len(data)]
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": where}
        chunks.append(data)
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers are aligned for readers that map the file
    return b"".join([struct.pack("<Q", len(text)), text, *chunks])


def parse_safetensors(data: bytes, name: str = "safetensors") -> dict[str, Tensor]:
    """The tensors in a safetensors file. `name` is for the error. Raises UserError for one cut off or tampered with."""

    def refuse(why: str) -> UserError:
        return UserError(f"{name}: {why}: not a whole safetensors file; copy or write it again")

    if len(data) < 8:
        raise refuse(f"{len(data)} bytes, the header length alone takes 8")
    (size,) = struct.unpack("<Q", data[:8])
    if size > min(MAX_HEADER, len(data) - 8):
        raise refuse(f"a header of {size} bytes in a file of {len(data)}")
    try:
        # A key that stands twice makes it None, and so unreadable: json would keep the last alone.
        header = json.loads(data[8 : 8 + size], object_pairs_hook=lambda x: dict(x) if len(dict(x)) == len(x) else None)
        header.pop("__metadata__", None)
        entries = {}
        for key, entry in header.items():
            start, stop = entry["data_offsets"]
            entries[key] = entry["dtype"], tuple(entry["shape"]), start, stop
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise refuse(f"the header cannot be read ({type(error).__name__})") from None
    numbers = memoryview(data)[8 + size :]
    end = 0
    tensors = {}
    for key, (kind, shape, start, stop) in entries.items():
        if str(kind) not in DTYPES or not all(type(n) is int and n >= 0 for n in (*shape, start, stop)):
            raise refuse(f"tensor {key!r} has dtype {kind!r}, shape {shape}")
        if prod(n or 1 for n in shape) >= 2**63:  # beside a 0 a size may be anything
            raise refuse(f"tensor {key!r} has shape {shape}")
        if stop - start != prod(shape) * DTYPES[kind].itemsize or stop > len(numbers):
            raise refuse(f"tensor {key!r} claims bytes {start} to {stop} for {kind} {shape}")
    for key, (kind, shape, start, stop) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if start != end:
            raise refuse(f"tensor {key!r} starts at byte {start}, not at {end}")
        end = stop
        flat = torch.frombuffer(bytearray(numbers[start:stop]), dtype=DTYPES[kind]) if stop > start else None
        tensors[key] = torch.zeros(shape, dtype=DTYPES[kind]) if flat is None else flat.view(shape)
    if end != len(numbers):
        raise refuse(f"{len(numbers) - end} bytes behind the last tensor")
    return {key: tensors[key] for key in entries}
