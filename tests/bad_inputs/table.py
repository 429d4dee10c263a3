"""What an entry of the tables is, and the ways in which a file is spoilt.

    bad("a line that is not JSON", "evaluate.py --data own.jsonl", "own.jsonl", "line 3", files={"own.jsonl": ...})

says: this command, given in the folder of `world.py` with these files written over it, ends in one line that
holds these words, whatever their case, and in status 2; and nothing that was in the folder is lost.
"""

import io
import json
import struct
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from minirlhf.lm.gguf import Gguf, write
from minirlhf.lm.safetensors import Safetensors, write_safetensors

# What becomes of a file: new content, or the old one changed.
Spoil = bytes | str | Callable[[bytes], bytes]
# Content that is none: no file, a folder, a pipe that nobody writes to, a link to itself.
GONE, FOLDER, PIPE, LOOP = (f"<{kind}>".encode() for kind in ("gone", "folder", "pipe", "loop"))
DIGITS = "9" * 400
NAN, INF = float("nan"), float("inf")


@dataclass(frozen=True)
class Bad:
    """A bad input."""

    claim: str  # what is wrong, in words
    command: str  # as it is typed, in quotes as for a shell
    says: tuple[str, ...]  # words of the one line
    files: Mapping[str, Spoil] = field(default_factory=dict)


def bad(claim: str, command: str, *says: str, files: Mapping[str, Spoil] | None = None) -> Bad:
    """An entry."""
    return Bad(claim, command, says, files or {})


def spoilt(old: bytes, spoil: Spoil) -> bytes:
    """The new content of a file."""
    new = spoil(old) if callable(spoil) else spoil
    return new.encode("utf-8", "surrogatepass") if isinstance(new, str) else new


def cut(n: int) -> Spoil:
    """Only the first n bytes; of a negative n, all but so many."""
    return lambda old: old[:n]


def swap(old: str, new: str) -> Spoil:
    """One text in the place of another, which must be there."""

    def change(data: bytes) -> bytes:
        assert old.encode() in data, f"{old!r} is not in it"
        return data.replace(old.encode(), new.encode("utf-8", "surrogatepass"), 1)

    return change


def changed(value: dict, changes: dict) -> dict:
    """A JSON object with values at dotted keys: "a.b" is b of a, or its number b where a is a list; GONE leaves out."""
    for key, new in changes.items():
        *way, last = key.split(".")
        place = value
        for step in way:
            place = place[int(step) if isinstance(place, list) else step]
        last = int(last) if isinstance(place, list) else last
        if new is GONE:
            del place[last]
        else:
            place[last] = new
    return value


def with_keys(changes: dict) -> Spoil:
    """A JSON file with other values."""
    return lambda old: json.dumps(changed(json.loads(old), changes)).encode()


def line(number: int, text: str) -> Spoil:
    """Another text as that line; from 1, or from the end."""

    def change(old: bytes) -> bytes:
        lines = old.split(b"\n")[:-1]
        lines[number - (number > 0)] = text.encode("utf-8", "surrogatepass")
        return b"\n".join(lines) + b"\n"

    return change


def in_line(number: int, changes: dict) -> Spoil:
    """A .jsonl file with other values in that line."""

    def change(old: bytes) -> bytes:
        text = old.split(b"\n")[number - (number > 0)]
        return line(number, json.dumps(changed(json.loads(text), changes)))(old)

    return change


def first_of(kind: str, changes: dict) -> Spoil:
    """items.jsonl with other values in the first line of that kind."""

    def change(old: bytes) -> bytes:
        kinds = [json.loads(text)["kind"] for text in old.split(b"\n")[:-1]]
        return in_line(1 + kinds.index(kind), changes)(old)

    return change


def tensors(change: Callable[[dict], dict | None]) -> Spoil:
    """A safetensors file whose tensors are changed, in place or for those that are returned."""

    def of(old: bytes) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x"
            path.write_bytes(old)
            found = dict(Safetensors(path))
            write_safetensors(path, change(found) or found)
            return path.read_bytes()

    return of


def header(change: Callable[[dict], dict | str | None]) -> Spoil:
    """A safetensors file whose header claims something else, before the same numbers."""

    def of(old: bytes) -> bytes:
        (size,) = struct.unpack("<Q", old[:8])
        claims = json.loads(old[8 : 8 + size])
        new = change(claims) or claims
        text = (new if isinstance(new, str) else json.dumps(new)).encode()
        return struct.pack("<Q", len(text)) + text + old[8 + size :]

    return of


def gguf(keys: Mapping) -> Spoil:
    """A GGUF file with other values of keys; GONE leaves out."""

    def of(old: bytes) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            (path := Path(folder) / "x").write_bytes(old)
            file = Gguf(path)
            write(path, {k: x for k, x in (file.metadata | {**keys}).items() if x is not GONE}, file)
            return path.read_bytes()

    return of


def in_gguf(name: str, *sizes: int, kind: int = 0) -> Spoil:
    """A GGUF file whose header claims these sizes and that kind of numbers for a tensor."""

    def of(old: bytes) -> bytes:
        at = old.index(name.encode()) + len(name)
        (n,) = struct.unpack_from("<I", old, at)
        return old[:at] + struct.pack(f"<I{len(sizes)}QI", len(sizes), *sizes, kind) + old[at + 8 + 8 * n :]

    return of


def state(change: Callable[[dict], object]) -> Spoil:
    """A train_state.pt of which something is changed, in place or for what is returned."""

    def of(old: bytes) -> bytes:
        found = torch.load(io.BytesIO(old), weights_only=True)
        buffer = io.BytesIO()
        torch.save(change(found) or found, buffer)
        return buffer.getvalue()

    return of


def nested(depth: int) -> str:
    """JSON lists in lists."""
    return "[" * depth + "]" * depth
