"""Damage at random, from a seed: of bytes, and of the values in JSON, in a safetensors header, in a state."""

import io
import json
import random
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path

import torch

from bad_inputs.table import nested
from minirlhf.lm.gguf import Gguf, write

BYTES = b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\n", b"\r", b'"', b"{", b"]", b",", b"\x1b[31m", b"9" * 400
STRANGE = (
    None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e39, 1e308, float("nan"), float("inf"), 2**31, 2**63, 10**13, 10**30,
        10**400, "",
    "a", "0", "nan", "\0", "\ud800", "\u202e\x1b[31m", "../..", "x" * 10_000, [], [1], ["a"], [[]], {}, {"a": 1},
        {"": None},
)  # fmt: skip
DEEP = "\u0001deep", "\u0001many"  # in the place of a value until it is text: nested lists, and digits


def bytes_at_random(data: bytes, rng: random.Random) -> bytes:
    """One to three places flipped, cut out, doubled, moved, overwritten, or written into; or an end cut off."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        n = len(data)
        at, size = rng.randrange(n + 1), rng.choice((1, 1, 2, 8, 100, 5000))
        chunk, other = data[at : at + size], rng.randrange(n + 1)
        how = rng.choice(("flip", "cut", "end", "double", "move", "noise", "insert"))
        if how == "flip" and at < n:
            data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        elif how == "cut":
            data = data[:at] + data[at + size :]
        elif how == "end":
            data = data[:at]
        elif how == "double":
            data = data[:at] + chunk * rng.choice((2, 2, 3, 50)) + data[at + size :]
        elif how == "move":
            data = data[:other] + chunk + data[other + len(chunk) :]
        elif how == "noise":
            data = data[:at] + rng.randbytes(len(chunk)) + data[at + size :]
        elif how == "insert":
            data = data[:at] + rng.choice(BYTES) + data[at:]
    return data


def places(value: object) -> list[tuple]:
    """(container, key) of everything in nested lists, tuples and dicts."""
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = list(enumerate(value))
    else:
        return []
    return [(value, key) for key, _ in pairs] + [place for _, inner in pairs for place in places(inner)]


def value_at_random(value: object, rng: random.Random) -> object:
    """One to three of the values in it replaced, taken out, renamed, doubled, wrapped or swapped with another."""
    value = deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if not (known := places(value)) or rng.random() < 0.02:
            return rng.choice(STRANGE)
        (where, key), (there, other) = rng.choice(known), rng.choice(known)
        how = rng.choice(("strange", "strange", "strange", "deep", "out", "rename", "double", "wrap", "swap", "near"))
        if how == "strange":
            where[key] = deepcopy(rng.choice(STRANGE))
        elif how == "deep":
            where[key] = rng.choice(DEEP)
        elif how == "out":
            del where[key]
        elif how == "rename" and isinstance(where, dict):
            where[rng.choice((str(key)[1:], str(key).upper(), "", "a"))] = where.pop(key)
        elif how == "double" and isinstance(where, list):
            where.insert(key, deepcopy(where[key]))
        elif how == "wrap":
            where[key] = rng.choice(([where[key]], {"a": where[key]}, str(where[key])[:1000]))
        elif how == "swap":
            where[key], there[other] = deepcopy(there[other]), deepcopy(where[key])
        elif how == "near" and type(where[key]) in (int, float):
            where[key] = rng.choice((where[key] + 1, where[key] - 1, -where[key], where[key] * 10**6, str(where[key])))
    return value


def as_text(value: object, rng: random.Random) -> str:
    """JSON, now and then of values that are nested deeply or have many digits."""
    deep = nested(rng.choice((100, 900, 3000, 100_000)))
    many = rng.choice(("9" * 400, "9" * 5000, "1e999", "-1e999", "0." + "9" * 400))
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    for word, said in zip(DEEP, (deep, many)):
        text = text.replace(json.dumps(word), said).replace(f'"{word}"', said)
    return text


def utf8(text: str) -> bytes:
    """As UTF-8, in which a lone surrogate is no text."""
    return text.encode("utf-8", "surrogatepass")


def json_at_random(data: bytes, rng: random.Random) -> bytes:
    """A JSON file with other values."""
    return utf8(as_text(value_at_random(json.loads(data), rng), rng))


def lines_at_random(data: bytes, rng: random.Random) -> bytes:
    """A file of JSON lines of which one has other values, or is lost, doubled or moved."""
    lines = data.split(b"\n")[:-1]
    at, how = rng.randrange(len(lines)), rng.random()
    if how < 0.7:
        lines[at] = utf8(as_text(value_at_random(json.loads(lines[at]), rng), rng))
    elif how < 0.8:
        del lines[at]
    elif how < 0.9:
        lines.insert(rng.randrange(len(lines)), lines[at])
    else:
        other = rng.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    return b"\n".join(lines) + b"\n"


def header_at_random(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose header claims other things."""
    (size,) = struct.unpack("<Q", data[:8])
    text = utf8(as_text(value_at_random(json.loads(data[8 : 8 + size]), rng), rng))
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def gguf_at_random(data: bytes, rng: random.Random) -> bytes:
    """A GGUF file in which one or two keys have other values; of those that it can hold."""
    errors = struct.error, TypeError, AttributeError, ValueError, OverflowError
    with tempfile.TemporaryDirectory() as folder, suppress(*errors):
        (path := Path(folder) / "x").write_bytes(data)
        file = Gguf(path)
        keys = dict(file.metadata)
        for key in rng.sample(sorted(keys), rng.choice((1, 1, 2))):
            keys |= value_at_random({key: keys.pop(key)}, rng)
        write(path, keys, file)
        data = path.read_bytes()
    return data


def state_at_random(data: bytes, rng: random.Random) -> bytes:
    """A train_state.pt of other values, tensors or types."""
    state = torch.load(io.BytesIO(data), weights_only=True)
    if rng.random() < 0.3:  # a tensor of another shape, type or content
        where, key = rng.choice([(w, k) for w, k in places(state) if isinstance(w[k], torch.Tensor)])
        x = where[key]
        where[key] = rng.choice((x[None], x.double(), x.float() * float("nan"), x.flatten()[:3].clone(),
            x.to(torch.int64),
                                 torch.zeros(0), x.float() * 1e30, x.bool()))
    else:
        state = value_at_random(state, rng)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def damaged(data: bytes, structure: Callable[[bytes, random.Random], bytes] | None, rng: random.Random) -> bytes:
    """The content damaged as bytes, or as the structure that it has, or as both."""
    if structure and rng.random() < 0.6:
        data = structure(data, rng)
        if rng.random() < 0.9:
            return data
    return bytes_at_random(data, rng)
