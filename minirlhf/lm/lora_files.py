"""Adapters in the format of Hugging Face's PEFT: adapter_config.json and adapter_model.safetensors, by hand.

    base_model.model.transformer.h.0.attn.c_attn.lora_A.weight        (r, in), of a GPT-2
    base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight    (out, r), of a Llama

`PeftModel.from_pretrained(base, folder)` opens what is written. What is read computes the same, or is refused by name.
Proved by tests/lm/test_lora_files.py.
"""

from pathlib import Path

from torch import Tensor

from minirlhf.harness.files import UserError, read_json, write_json
from minirlhf.lm.families import Model, family_of
from minirlhf.lm.lora import adapt, layers_of
from minirlhf.lm.safetensors import Safetensors, write_safetensors
from minirlhf.lm.weights import to_float

# Keys that say nothing of the computation, or what the tensors say again; of some the values that are computed here.
# A value of any other key must be empty: it is a way to compute, perhaps a new one.
FREE = """r lora_alpha use_rslora lora_dropout fan_in_fan_out task_type inference_mode base_model_name_or_path revision
    peft_version auto_mapping target_modules layers_to_transform megatron_core qalora_group_size""".split()
ONLY = {"peft_type": ["LORA"], "bias": ["none"], "init_lora_weights": [True, "gaussian", "orthogonal"]}


def tensors_of(model: Model) -> dict[str, Tensor]:
    """A and B of each adapter under PEFT's names."""
    their_name = family_of(model.config).their_name
    layers = {f"base_model.model.{their_name(path)}": layer for path, layer in layers_of(model).items()}
    return {f"{path}.lora_{x}.weight": getattr(layer, x) for path, layer in layers.items() for x in "AB"}


def save_adapter(folder: str | Path, model: Model, base: str) -> None:
    """Write the adapters of a model. base: the folder of the model that they stand beside."""
    folder, layers = Path(folder), layers_of(model)
    (folder / "adapter_config.json").unlink(missing_ok=True)  # it goes first and comes last: it marks them whole
    write_safetensors(folder / "adapter_model.safetensors", tensors_of(model))
    layer = next(iter(layers.values()))
    write_json(folder / "adapter_config.json", {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "inference_mode": True,
        "r": len(layer.A), "lora_alpha": layer.alpha, "bias": "none", "lora_dropout": 0.0,
        "target_modules": sorted({path.rpartition(".")[2] for path in layers}),
        "fan_in_fan_out": bool(family_of(model.config).TRANSPOSED),  # GPT-2's matrices are (in, out) there
    })  # fmt: skip


def load_adapter(folder: str | Path, model: Model) -> Model:
    """Adapt the model, in place, by what `save_adapter` or PEFT wrote. Raises UserError."""
    where, weights = Path(folder) / "adapter_config.json", Path(folder) / "adapter_model.safetensors"
    raw = read_json(where, {"r": range(1, 2**31), "lora_alpha": 0.0})
    alpha = raw["lora_alpha"] * (raw["r"] ** 0.5 if raw.get("use_rslora") else 1)  # alpha / √r is computed there
    if odd := [key for key, x in raw.items() if x and key not in FREE and x not in ONLY.get(key, [])]:
        why = "which is not computed here; merge it in PEFT with merge_and_unload(), and take the whole model"
        raise UserError(f"{where}: {odd[0]} is {raw[odd[0]]!r:.60}, {why}")
    names = list(Safetensors(weights))
    targets = {name.split(".")[-3] for name in names if name.endswith(".lora_A.weight") and name.count(".") > 2}
    adapt(model, raw["r"], alpha, sorted(targets), str(where))
    fill_adapter(folder, model)
    return model


def fill_adapter(folder: str | Path, model: Model) -> None:
    """Give the adapters of a model, in place, the numbers in a folder. Raises UserError."""
    weights = Path(folder) / "adapter_model.safetensors"
    given, wanted = dict(Safetensors(weights)), tensors_of(model)
    shape = lambda tensors, name: tuple(tensors[name].shape) if name in tensors else "missing"
    if odd := [name for name in wanted | given if shape(wanted, name) != shape(given, name)]:
        shapes = f"{shape(given, odd[0])} in it and {shape(wanted, odd[0])} beside this model"
        raise UserError(f"{weights}: {odd[0]} is {shapes}: it is of another model, or not on every block")
    for name, tensor in wanted.items():
        tensor.data.copy_(to_float(given[name], name, str(weights)))


def base_of(folder: str | Path) -> str:
    """The model that the adapters in a folder stand beside. Raises UserError where it is not there."""
    where = Path(folder) / "adapter_config.json"
    base = read_json(where, {"base_model_name_or_path": ""})["base_model_name_or_path"]
    if not Path(base).exists():
        raise UserError(f"{where}: its base {base} is not there; go to the folder that the training ran in, or mend it")
    return base
