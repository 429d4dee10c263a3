"""safetensors: what is written is read, and no file, however damaged, does harm."""

import pytest
import torch

from minirlhf.lm.safetensors import dump_safetensors, parse_safetensors

KINDS = {  # the names of the format
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}


@pytest.mark.parametrize("name", KINDS)
def test_every_dtype_comes_back_as_it_was_under_its_name(name):
    tensor = torch.tensor([[0, 1, 1], [1, 0, 100]]).to(KINDS[name])
    tensors = {"a": tensor, "a scalar": tensor[1, 2], "empty": tensor[:0], "a transposed view": tensor.t()}
    data = dump_safetensors(tensors)
    assert data.count(f'"dtype":"{name}"'.encode()) == 4
    read = parse_safetensors(data)
    assert list(read) == list(tensors)
    for key, value in tensors.items():
        assert read[key].dtype == value.dtype and read[key].shape == value.shape
        assert torch.equal(read[key], value)


def test_what_was_read_can_be_written_and_has_its_own_memory():
    data = bytearray(dump_safetensors({"a": torch.zeros(3)}))
    read = parse_safetensors(data)
    read["a"] += 1
    assert torch.equal(parse_safetensors(data)["a"], torch.zeros(3))


def test_we_read_what_safetensors_wrote():
    torch_format = pytest.importorskip("safetensors.torch")
    tensors = {name: torch.tensor([[0, 1, 100]]).to(dtype) for name, dtype in KINDS.items()}
    tensors["empty"] = torch.zeros(0, 3)
    read = parse_safetensors(torch_format.save(tensors, {"by": "them"}))
    assert read.keys() == tensors.keys()
    assert all(read[k].dtype == v.dtype and torch.equal(read[k], v) for k, v in tensors.items())
