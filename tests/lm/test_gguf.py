"""GGUF files: blocks by their formulas, bytes by the specification, and damage refused."""

import os
import random
import struct

import pytest
import torch
from memory import MB, OneAtATime, peak_of

from minirlhf.harness.files import UserError
from minirlhf.lm.gguf import Gguf, kind_of, write
from minirlhf.lm.quantize import KINDS, encode

METADATA = {"general.architecture": "llama", "n": 3, "minus": -3, "x": 1.5, "yes": True, "names": ["a", "你好"], "ids": [1, 2]}
TENSORS = {"b.weight": torch.arange(64.0).view(2, 32) - 20, "a.bias": torch.tensor([1.0, -2, 3])}


def half(x: float) -> bytes:
    return struct.pack("<e", x)


def block(kind: int, raw: bytes) -> torch.Tensor:
    return KINDS[kind][3](torch.tensor(list(raw), dtype=torch.uint8)[None])[0]


def test_8_bits_are_a_scale_and_32_whole_numbers():
    """w = d q."""
    q = [*range(-16, 16)]
    got = block(8, half(0.5) + struct.pack("<32b", *q))
    assert got.tolist() == [0.5 * x for x in q]


def test_4_bits_are_the_low_halves_and_then_the_high_ones():
    """w = d (q − 8); with a least value, w = d q + m."""
    halves = bytes(low | high << 4 for low, high in zip(range(16), reversed(range(16))))
    q = [*range(16), *reversed(range(16))]
    assert block(2, half(0.25) + halves).tolist() == [0.25 * (x - 8) for x in q]
    assert block(3, half(0.25) + half(-1.5) + halves).tolist() == [0.25 * x - 1.5 for x in q]


def test_half_and_brain_floats_are_read():
    assert block(1, half(1.5)).tolist() == [1.5]
    assert block(30, struct.pack("<f", -2.5)[2:]).tolist() == [-2.5]


def test_8_bits_are_written_with_halves_rounded_away_from_0():
    """d = max |w| / 127; a block of zeros has the scale 0."""
    x = torch.tensor([[127.0, 0.5, -0.5, 1.5, -1.5] + [0.0] * 27, [0.0] * 32])
    raw = encode(x, KINDS[8]).numpy().tobytes()
    assert len(raw) == 68 and raw[:2] == half(1.0) and struct.unpack("<5b", raw[2:7]) == (127, 1, -1, 2, -2)
    assert raw[34:] == bytes(34)


def test_what_is_written_is_read_back(tmp_path):
    write(tmp_path / "m.gguf", METADATA, TENSORS)
    file = Gguf(tmp_path / "m.gguf")
    assert file.metadata == METADATA and list(file) == list(TENSORS) and file.shape("b.weight") == (2, 32)
    assert all(torch.equal(file[name], x) for name, x in TENSORS.items())


def test_the_bytes_are_those_of_the_specification(tmp_path):
    """By hand: one key, one tensor of sizes (2, 1) in ggml's order, its numbers at a multiple of 32."""
    write(tmp_path / "m.gguf", {"k": 7}, {"t": torch.tensor([[1.0, 2.0]])})
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<II", 4, 7)
    head += struct.pack("<Q", 1) + b"t" + struct.pack("<IQQIQ", 2, 2, 1, 0, 0)
    head += bytes(-len(head) % 32)
    assert (tmp_path / "m.gguf").read_bytes() == head + struct.pack("<ff", 1, 2) + bytes(24)


def test_only_whole_blocks_are_written_in_8_bits(tmp_path):
    """Vectors, and matrices whose rows are no multiple of 32, stay in float32."""
    write(tmp_path / "m.gguf", {}, TENSORS | {"c": torch.ones(2, 5)}, "Q8_0")
    file = Gguf(tmp_path / "m.gguf")
    assert torch.equal(file["a.bias"], TENSORS["a.bias"]) and torch.equal(file["c"], torch.ones(2, 5))
    assert 0 < float((file["b.weight"] - TENSORS["b.weight"]).abs().max()) < 0.2


def test_kinds_are_those_that_llama_cpp_chooses(tmp_path):
    """4 bits for what is multiplied in blocks, 8 for embedding and head, 32 for positions."""
    names = ["token_embd.weight", "output.weight", "position_embd.weight", "blk.0.ffn_up.weight"]
    for kind, chosen in (("F32", [0, 0, 0, 0]), ("Q8_0", [8, 8, 0, 8]), ("Q4_0", [8, 8, 0, 2]), ("Q4_1", [8, 8, 0, 3])):
        assert [kind_of(name, (2, 64), kind) for name in names] == chosen


@pytest.mark.parametrize(
    "data, why",
    [(b"", "m.gguf"), (b"GGUX" + bytes(40), "does not begin"), (b"GGUF" + struct.pack("<I", 9) + bytes(16), "version"),
     (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "a length of"), (b"GGUF" + struct.pack("<IQQ", 3, 0, 1), "inside of an entry"),
     (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<I", 99), "value of type 99"),
     (b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, 1) + b"t" + struct.pack("<IQIQ", 1, 32, 12, 0), "of kind 12; this code reads F32"),
     (b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, 1) + b"t" + struct.pack("<IQIQ", 1, 31, 8, 0), "has sizes"),
     (b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, 1) + b"t" + struct.pack("<IQIQ", 1, 10**6, 0, 0), "beyond its end")],
)  # fmt: skip
def test_what_is_no_whole_file_is_refused(tmp_path, data, why):
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(UserError, match=why):
        Gguf(tmp_path / "m.gguf")


def test_damage_is_refused_or_harmless(tmp_path):
    """Seeded: cut, flipped and filled bytes; never another exception."""
    write(tmp_path / "m.gguf", METADATA, TENSORS)
    whole, rng = (tmp_path / "m.gguf").read_bytes(), random.Random(0)
    for _ in range(400):
        data = bytearray(whole[: rng.randrange(len(whole))] if rng.random() < 0.3 else whole)
        for _ in range(rng.randint(0, 3) if data else 0):
            at = rng.randrange(len(data))
            data[at : at + rng.choice((1, 4, 8))] = bytes(rng.choice((0, 255, rng.randrange(256))) for _ in range(rng.choice((1, 4, 8))))
        (tmp_path / "d.gguf").write_bytes(data)
        try:
            file = Gguf(tmp_path / "d.gguf")
            assert all(isinstance(file[name], torch.Tensor) for name in file)
        except UserError as error:
            assert "d.gguf" in str(error)


def test_a_missing_file_a_folder_and_a_pipe_are_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, why in (("none", "No such file"), (".", "Is a directory"), ("pipe", "a pipe")):
        with pytest.raises(UserError, match=f"{name}: {why}"):
            Gguf(f"{tmp_path}/{name}")


@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_1"])
def test_tensors_that_are_made_when_asked_for_are_written_one_at_a_time(tmp_path, kind):
    tensors = OneAtATime(TENSORS | {"c": torch.ones(33, 2).t(), "d": torch.ones(2500, 64)})
    write(tmp_path / "lazy.gguf", {}, tensors, kind)
    write(tmp_path / "m.gguf", {}, tensors.tensors, kind)
    assert set(tensors.asked.values()) == {2}
    assert (tmp_path / "lazy.gguf").read_bytes() == (tmp_path / "m.gguf").read_bytes()


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_writing_and_reading_hold_one_tensor(tmp_path, kind):
    """Of two, of 40 MB each as float32; in blocks they take a quarter of it, read as they are and taken apart."""
    tensors = {name: torch.ones(MB // 32, 320) for name in "ab"}
    assert peak_of(lambda: write(tmp_path / "m.gguf", {}, tensors, kind)) < 20
    write(tmp_path / "m.gguf", {}, tensors, kind)
    file = Gguf(tmp_path / "m.gguf")
    assert 40 <= peak_of(lambda: [file[name].shape for name in file]) < (50 if kind == "F32" else 70)


def test_a_scale_that_float16_cannot_hold_is_refused_and_no_file_is_left(tmp_path):
    """It would be infinity, and each weight of its block NaN."""
    with pytest.raises(UserError, match="too large for the scale"):
        write(tmp_path / "m.gguf", {}, {"a": torch.full((1, 32), 9e6)}, "Q8_0")
    assert not os.listdir(tmp_path)
