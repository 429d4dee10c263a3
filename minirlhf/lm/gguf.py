"""GGUF, the file format of llama.cpp: metadata and tensors in one file, read and written without its code.

    "GGUF"  version 3  number of tensors  number of keys          little-endian throughout
    keys      name, type, value; a list is its type, its length and its values
    tensors   name, number of sizes, sizes (the fastest first: the reverse of torch's), kind, offset
    numbers   each tensor at a multiple of the alignment

Weights may stand in the blocks of `quantize.py`. Numbers are read where they are asked for, out of a map of the file.
Proved by tests/lm/test_gguf.py, against another implementation's values.
Source: the GGUF specification of ggml, version 3.
"""

import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from minirlhf.harness.files import UserError, naming, open_bytes, write_atomic
from minirlhf.lm.quantize import BLOCK, KINDS, WRITTEN, encode

MAGIC, VERSION, ALIGNMENT = b"GGUF", 3, 32
SCALARS = dict(enumerate("BbHhIif?", 0)) | {10: "Q", 11: "q", 12: "d"}  # value type -> struct's letter
STRING, LIST = 8, 9
MOST = 100_000_000  # entries of a list, and bytes of a string: more is damage


class _Reader:
    """A place in the bytes of a file, which moves on."""

    def __init__(self, data: memoryview, name: str) -> None:
        self.data, self.at, self.name = data, 0, name

    def refuse(self, why: str) -> UserError:
        return UserError(f"{self.name}: {why}: not a whole GGUF file; copy or download it again")

    def take(self, n: int) -> memoryview:
        if n > len(self.data) - self.at:
            raise self.refuse(f"it ends at byte {len(self.data)}, inside of an entry")
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, letter: str):
        return struct.unpack("<" + letter, self.take(struct.calcsize("<" + letter)))[0]

    def length(self) -> int:
        if (n := self.number("Q")) > MOST:
            raise self.refuse(f"a length of {n}")
        return n

    def string(self) -> str:
        return bytes(self.take(self.length())).decode("utf-8", "surrogateescape")

    def value(self, kind: int):
        if kind == STRING:
            return self.string()
        if kind == LIST:
            inner, n = self.number("I"), self.length()
            if inner in SCALARS:
                size = struct.calcsize("<" + SCALARS[inner])
                return list(struct.unpack(f"<{n}{SCALARS[inner]}", self.take(n * size)))
            if inner != STRING:
                raise self.refuse(f"a list of type {inner}")
            return [self.string() for _ in range(n)]
        if kind not in SCALARS:
            raise self.refuse(f"a value of type {kind}")
        return self.number(SCALARS[kind])


class Gguf(Mapping):
    """The tensors of a GGUF file by name, float32, each read anew when it is asked for; `metadata` has its keys."""

    def __init__(self, path: str | Path) -> None:
        """Raises UserError for what is no whole GGUF file, or holds a kind of numbers that is not in KINDS."""
        self.path = Path(path)
        with naming(path), open_bytes(path) as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        reader = _Reader(memoryview(self._map), str(path))
        if bytes(reader.take(4)) != MAGIC or reader.number("I") not in (2, 3):
            raise UserError(f"{path}: does not begin as a GGUF file of version 2 or 3 does")
        n_tensors, n_keys = reader.length(), reader.length()
        self.metadata: dict = {}
        for _ in range(n_keys):
            key = reader.string()
            self.metadata[key] = reader.value(reader.number("I"))
        self._places: dict[str, tuple[tuple[int, ...], int, int, int]] = {}  # name -> shape, kind, start, bytes
        for _ in range(n_tensors):
            name, n = reader.string(), reader.number("I")
            sizes, kind, start = [reader.number("Q") for _ in range(min(n, 9))], reader.number("I"), reader.number("Q")
            if kind not in KINDS:
                known = ", ".join(kind.name for kind in KINDS.values())
                raise UserError(f"{path}: tensor {name!r} is of kind {kind}; this code reads {known}")
            _, numbers, size, *_ = KINDS[kind]
            if not 1 <= n <= 8 or 0 in sizes or sizes[0] % numbers or prod(sizes) > 2**48:
                raise reader.refuse(f"tensor {name!r} has sizes {sizes}")
            self._places[name] = tuple(reversed(sizes)), kind, start, prod(sizes) // numbers * size
        step = self.metadata.get("general.alignment", ALIGNMENT)
        if type(step) is not int or step < 1:
            raise reader.refuse(f"an alignment of {step!r}")
        self._begin = -(-reader.at // step) * step
        for name, (_, _, start, size) in self._places.items():
            if self._begin + start + size > len(self._map):
                raise reader.refuse(f"tensor {name!r} lies beyond its end")

    def shape(self, name: str) -> tuple[int, ...]:
        """The sizes of a tensor, without reading it. Raises UserError where there is none."""
        if name not in self._places:
            raise UserError(f"{self.path}: no tensor {name!r}: not a whole model")
        return self._places[name][0]

    def __getitem__(self, name: str) -> Tensor:
        shape, kind, start, size = self._places[name]
        _, _, per_block, decode, _ = KINDS[kind]
        raw = torch.frombuffer(self._map, dtype=torch.uint8, count=size, offset=self._begin + start)
        # A copy of the part: views of the map need an aligned start, which a damaged file may not have.
        return decode(raw.clone().view(-1, per_block)).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def kind_of(name: str, shape: Sequence[int], kind: str) -> int:
    """The number of the kind that a tensor is written in where `kind` is asked for, as llama.cpp's quantiser chooses.

    Vectors, positions, and matrices whose rows are no whole blocks stay in F32. Embedding and head have 8 bits or more.
    """
    if len(shape) != 2 or shape[1] % BLOCK or name == "position_embd.weight":
        return WRITTEN["F32"]
    return WRITTEN["Q8_0" if kind != "F32" and name in ("token_embd.weight", "output.weight") else kind]


def write(path: str | Path, metadata: Mapping, tensors: Mapping[str, Tensor], kind: str = "F32") -> None:
    """Write a GGUF file. kind: of the matrices, one of WRITTEN; see `kind_of`. Raises UserError for what is too large.

    metadata: text, bool, int (of 32 bits), float, or a list of one of them.  tensors: asked for twice, each held alone.
    """
    def text(value: str) -> bytes:
        raw = value.encode("utf-8", "surrogateescape")
        return struct.pack("<Q", len(raw)) + raw

    def entry(value, alone: bool = True) -> tuple[int, bytes]:
        if isinstance(value, str):
            return STRING, text(value)
        if isinstance(value, (list, tuple)):
            kinds = [entry(x, alone=False) for x in value]
            inner = kinds[0][0] if kinds else STRING
            return LIST, struct.pack("<IQ", inner, len(value)) + b"".join(raw for _, raw in kinds)
        number, letter = (7, "?") if isinstance(value, bool) else (6, "f") if isinstance(value, float) else (5, "i")
        if letter == "i" and alone and value >= 0:
            number, letter = 4, "I"  # llama.cpp wants sizes and ids without a sign, and the types of tokens with one
        return number, struct.pack("<" + letter, value)

    shapes = {name: tuple(tensors[name].shape) for name in tensors}
    numbers = {name: kind_of(name, shape, kind) for name, shape in shapes.items()}
    head = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        number, raw = entry(value)
        head += [text(key), struct.pack("<I", number), raw]
    offset = 0
    for name, shape in shapes.items():
        _, per_block, size, *_ = KINDS[numbers[name]]
        head += [text(name), struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), numbers[name], offset)]
        offset += -(-prod(shape) // per_block * size // ALIGNMENT) * ALIGNMENT

    def put(out: IO[bytes]) -> None:
        out.writelines(head)
        for name in shapes:
            out.write(bytes(-out.tell() % ALIGNMENT))
            out.writelines(encode(x, KINDS[numbers[name]]).numpy() for x in tensors[name].split(1024))
        out.write(bytes(-out.tell() % ALIGNMENT))

    write_atomic(path, put)
