"""safetensors: what is written is read, one tensor at a time, and no file, however damaged, does harm."""

import os

import pytest
import torch
from memory import MB, OneAtATime, peak_of

from minirlhf.harness.files import UserError
from minirlhf.lm.safetensors import Safetensors, write_safetensors

KINDS = {  # the names of the format
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}


@pytest.mark.parametrize("name", KINDS)
def test_every_dtype_comes_back_as_it_was_under_its_name(name, tmp_path):
    tensor = torch.tensor([[0, 1, 1], [1, 0, 100]]).to(KINDS[name])
    tensors = {"a": tensor, "a scalar": tensor[1, 2], "empty": tensor[:0], "a transposed view": tensor.t()}
    write_safetensors(tmp_path / "x", tensors)
    assert (tmp_path / "x").read_bytes().count(f'"dtype":"{name}"'.encode()) == 4
    read = Safetensors(tmp_path / "x")
    assert list(read) == list(tensors)
    for key, value in tensors.items():
        assert read[key].dtype == value.dtype and read[key].shape == read.shape(key) == value.shape
        assert torch.equal(read[key], value)


def test_what_was_read_can_be_written_and_has_its_own_memory(tmp_path):
    write_safetensors(tmp_path / "x", {"a": torch.zeros(3)})
    read = Safetensors(tmp_path / "x")
    x = read["a"]
    x += 1
    assert torch.equal(read["a"], torch.zeros(3))
    (tmp_path / "x").write_bytes(bytes(1000))
    assert torch.equal(x, torch.ones(3))


def test_a_file_that_is_replaced_is_read_as_it_was_opened(tmp_path):
    write_safetensors(tmp_path / "x", {"a": torch.zeros(3)})
    read = Safetensors(tmp_path / "x")
    write_safetensors(tmp_path / "x", {"b": torch.ones(9)})
    assert list(read) == ["a"] and torch.equal(read["a"], torch.zeros(3))


def test_a_file_that_is_cut_off_later_ends_in_an_error_for_the_user(tmp_path):
    write_safetensors(tmp_path / "x", {"a": torch.zeros(30_000)})
    read = Safetensors(tmp_path / "x")
    os.truncate(tmp_path / "x", 60_000)
    with pytest.raises(UserError, match="/x: .*shorter"):
        read["a"]


def test_a_missing_file_a_folder_and_a_pipe_are_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, why in (("none", "No such file"), (".", "Is a directory"), ("pipe", "a pipe")):
        with pytest.raises(UserError, match=f"{name}: {why}"):
            Safetensors(f"{tmp_path}/{name}")


def test_we_read_what_safetensors_wrote(tmp_path):
    torch_format = pytest.importorskip("safetensors.torch")
    tensors = {name: torch.tensor([[0, 1, 100]]).to(dtype) for name, dtype in KINDS.items()}
    tensors["empty"] = torch.zeros(0, 3)
    torch_format.save_file(tensors, tmp_path / "x", {"by": "them"})
    read = Safetensors(tmp_path / "x")
    assert read.keys() == tensors.keys()
    assert all(read[k].dtype == v.dtype and torch.equal(read[k], v) for k, v in tensors.items())


def test_tensors_that_are_made_when_asked_for_are_written_one_at_a_time(tmp_path):
    tensors = OneAtATime({"a": torch.ones(2, 3), "b": torch.ones(3, 2).t(), "c": torch.ones(5)})
    write_safetensors(tmp_path / "x", tensors)
    assert dict(tensors.asked) == {"a": 2, "b": 2, "c": 2}
    assert all(torch.equal(x, tensors.tensors[name]) for name, x in Safetensors(tmp_path / "x").items())


def test_reading_and_writing_hold_one_tensor_beside_what_is_given(tmp_path):
    """Of two, of 36 MB each: one that does not lie in memory as it is written takes a copy, another takes none."""
    tensors = {name: torch.ones(MB, 9) for name in "ab"}
    assert 36 <= peak_of(lambda: write_safetensors(tmp_path / "x", {k: x.t() for k, x in tensors.items()})) < 45
    assert peak_of(lambda: write_safetensors(tmp_path / "x", tensors)) < 10
    file = Safetensors(tmp_path / "x")
    assert 36 <= peak_of(lambda: [file[name].shape for name in file]) < 45
