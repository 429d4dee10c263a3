"""Where weights come from: one safetensors file, several with an index, torch's own format, or a GGUF file.

Each is a mapping of names to tensors that are read when they are asked for. `fill` takes them one by one, so that
loading holds one tensor beside the model. Proved by tests/lm/test_weights.py.
"""

from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from minirlhf.harness.files import UserError, open_bytes, read_json
from minirlhf.harness.folders import load_state
from minirlhf.lm.safetensors import Safetensors

WHOLE = "model.safetensors", "pytorch_model.bin"  # either may be several files, listed in NAME.index.json


def read_weights(folder: Path) -> tuple[Mapping[str, Tensor], Path]:
    """The tensors in a folder, and the file that holds or lists them. Raises UserError."""
    for name in WHOLE:
        read = read_torch if name.endswith(".bin") else Safetensors
        if (folder / name).exists():
            return read(folder / name), folder / name
        if (index := folder / f"{name}.index.json").exists():
            files = sorted({str(file) for file in read_json(index, {"weight_map": {"*": ""}})["weight_map"].values()})
            if strange := [file for file in files if Path(file).name != file or file in ("", "..")]:
                raise UserError(f"{index}: {strange[0]!r} is no file beside it; download the model again")
            return ChainMap(*(read(folder / file) for file in files)), index
    if others := [folder / name for name in ("tf_model.h5", "flax_model.msgpack") if (folder / name).exists()]:
        remedy = "in transformers, load it and save_pretrained(FOLDER)"
        raise UserError(f"{others[0]}: weights are read from {' or '.join(WHOLE)}; {remedy}")
    return Safetensors(folder / WHOLE[0]), folder  # raises: there is none


def read_torch(path: Path) -> dict[str, Tensor]:
    """The tensors that torch.save wrote; code in the file is refused. Raises UserError."""
    open_bytes(path).close()  # says what it is, if it is no file
    found = load_state(path, "tensors alone; get the model.safetensors")
    plain = lambda x: isinstance(x, Tensor) and x.layout == torch.strided and x.device.type == "cpu"
    if not all(isinstance(key, str) and plain(x) for key, x in found.items()):
        raise UserError(f"{path}: not a file of tensors; get the model.safetensors")
    return found


def to_float(x: Tensor, key: str, name: str) -> Tensor:
    """x in float32. Raises UserError for anything but floats that are finite there."""
    # The least and the greatest number are NaN where one is, and take no memory of the tensor's size.
    if not (x.is_floating_point() and (not x.numel() or torch.stack((x := x.float()).aminmax()).isfinite().all())):
        what = "a weight is not finite in float32" if x.is_floating_point() else f"{x.dtype} is no type of weights"
        raise UserError(f"{name}: tensor {key!r}: {what}; take an earlier checkpoint, or one in float32")
    return x


def fill(model: nn.Module, tensors: Mapping[str, Tensor], family: ModuleType, name: str, beside: str = "") -> None:
    """Copy tensors under Hugging Face's names, with their prefix or without, into the model. Raises UserError.

    A model on the meta device, of shapes alone, gets its memory here, after each shape was compared.
    family: `gpt2_files` or `llama_files`.  name: where they are from.  beside: a tensor of something else.
    """
    bare = lambda key: key.removeprefix(family.PREFIX)
    given = {bare(key): key for key in tensors if not key.endswith(family.IGNORED) and key != beside}
    state = {bare(family.their_name(key)): (key, x) for key, x in model.state_dict().items()}
    head = given.pop("lm_head.weight", None) if "lm_head.weight" not in state else None
    if missing := [k for k in state if k not in given]:
        raise UserError(f"{name}: no tensor {missing[0]!r} (of {len(missing)} missing): is it {family.IS}?")
    if unknown := [k for k in given if k not in state]:
        raise UserError(f"{name}: unknown tensor {unknown[0]!r}: is it {family.IS} with a language-model head?")
    made = {}
    with torch.no_grad():
        for theirs, (ours, target) in state.items():
            x = tensors[given[theirs]]
            x = x.t() if ours.endswith(family.TRANSPOSED) and x.dim() == 2 else x
            if x.shape != target.shape:
                shapes = f"{tuple(x.shape)}, config.json asks for {tuple(target.shape)}"
                raise UserError(f"{name}: {theirs} is {shapes}: config.json and weights are of two models")
            if target.is_meta:
                target = made[ours] = torch.empty(target.shape)
            target.copy_(to_float(x, given[theirs], name))
            del x  # before the next is read
    model.load_state_dict(made, strict=False, assign=True)
    if head is not None and not torch.equal(to_float(tensors[head], head, name), model.wte.weight.cpu()):
        raise UserError(f"{name}: lm_head.weight is not the embedding, config.json ties them: it is of another model")
