"""Devices, types of numbers, and memory."""

import json

import pytest
import torch

from minirlhf.harness import device
from minirlhf.harness.device import autocast, choose_device, choose_dtype, environment, hold_frozen
from minirlhf.harness.files import UserError

CPU = torch.device("cpu")
KEEP_MEMORY = device.keep_memory  # other tests do without it


@pytest.mark.parametrize("name", ["tpu", "mps", "meta", "cuda:x", "cuda:99", ""])
def test_devices_that_are_not_there_are_refused(name):
    with pytest.raises(UserError, match=f"--device {name}"):
        choose_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_without_cuda_auto_is_the_cpu_and_cuda_is_refused():
    assert choose_device("auto") == choose_device("cpu") == CPU
    with pytest.raises(UserError, match="--device cuda: torch sees 0 CUDA devices; use --device cpu"):
        choose_device("cuda")


def test_the_type_of_numbers_is_one_of_two():
    assert choose_dtype("float32", CPU) == torch.float32
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16
    assert choose_dtype("auto", CPU) in (torch.float32, torch.bfloat16)
    with pytest.raises(UserError, match="--dtype float16"):
        choose_dtype("float16", CPU)


def test_autocast_lowers_products_and_only_when_asked():
    x = torch.ones(2, 2)
    for dtype in (torch.float32, torch.bfloat16):
        with autocast(CPU, dtype):
            assert (x @ x).dtype == dtype
            assert x.softmax(-1).dtype == torch.float32


def test_the_environment_is_plain_json():
    assert json.loads(json.dumps(environment()))["torch"] == torch.__version__


def test_what_does_not_learn_is_stored_in_the_type_of_the_products():
    """To the same numbers under autocast; embeddings, norms and what learns stay float32."""
    model = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 3))
    model[:3].requires_grad_(False)
    with autocast(torch.device("cpu"), torch.bfloat16):
        before = model(torch.arange(5))
        after = hold_frozen(model, torch.bfloat16)(torch.arange(5))
    assert torch.equal(before, after)
    assert [layer.weight.dtype for layer in model] == [torch.float32, torch.bfloat16, torch.float32, torch.float32]


def test_where_there_is_no_glibc_memory_is_handled_as_it_comes(monkeypatch):
    """No mallopt, no library of that kind, none at all: nothing happens."""
    for missing in (lambda name: object(), lambda name: int(name)):
        monkeypatch.setattr(device.ctypes, "CDLL", missing)
        KEEP_MEMORY()
