"""A checkpoint is a folder in the layout of Hugging Face's GPT-2, written and read without their code.

    config.json          GPT2Config's keys
    model.safetensors    GPT2LMHeadModel's names and shapes, the tied head stored once, as wte
    tokenizer.json       see tokenizer_files.py
    run.json             how it was made: arguments, seed, versions, data, cost
    train_state.pt       what `--resume` needs; tensors and plain types, read with weights_only=True

Nothing is ever pickled code. Proved by tests/lm/test_checkpoint.py.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from minirlhf.harness import folders
from minirlhf.harness.files import UserError, read_json, write_json
from minirlhf.harness.folders import stands_in
from minirlhf.lm import tokenizer_files
from minirlhf.lm.model import GPT, GPTConfig
from minirlhf.lm.safetensors import Safetensors, to_floats, write_safetensors
from minirlhf.lm.tokenizer import SPECIALS, Tokenizer

# Hugging Face keeps these as (in, out), torch's Linear as (out, in).
TRANSPOSED = (".attn.c_attn.weight", ".attn.c_proj.weight", ".mlp.c_fc.weight", ".mlp.c_proj.weight")
MASKS = (".attn.bias", ".attn.masked_bias")  # causal ones, that old checkpoints carry
ELSEWHERE = "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5"
COUNT = range(2**63)
MOST_EXAMPLES = 1_000_000  # made for a task: what run.json says is made again by an evaluation
RUN = {  # of run.json: all that anything reads of it, as an example
    "stage?": "", "seed?": COUNT, "tasks?": {"*": 1.0}, "reference?": "", "max_new?": COUNT,
    "data?": {
        "examples?": range(MOST_EXAMPLES + 1), "init?": "", "reward?": ("", [""]), "data?": [""], "prompts?": [""],
        "map?": "",
    },
    "training?": {"beta?": 0.0, "temperature?": 0.0, "missing_eos?": 0.0},
    "cost?": {"steps": COUNT, "tokens": COUNT, "seconds": 0.0},
    "optimum?": {"*": {"effective_size": 0.0, "value": (0.0, None), "low?": 0.0, "high?": 0.0}},
}  # fmt: skip


def fingerprint(model: GPT, tokenizer: Tokenizer | None = None) -> str:
    """SHA-256 of the weights, and of a tokenizer: two names for one model are found out, and one name for two."""
    digest = hashlib.sha256(repr((tokenizer.token_bytes, tokenizer.special_ids)).encode() if tokenizer else b"")
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def to_huggingface(model: GPT) -> dict[str, Tensor]:
    """The model's parameters under GPT2LMHeadModel's names, in its shapes."""
    state = model.state_dict()
    return {f"transformer.{name}": x.t() if name.endswith(TRANSPOSED) else x for name, x in state.items()}


def from_huggingface(tensors: dict[str, Tensor], config: GPTConfig, name: str) -> GPT:
    """The GPT that GPT-2 tensors describe, with or without the `transformer.` prefix, in float32. Raises UserError."""
    numbers = sum(x.numel() for x in tensors.values())
    # What config.json makes up is not to be built, not even as shapes alone.
    if config.layers > len(tensors) or (config.vocab_size + config.context) * config.width > numbers:
        raise UserError(f"{name}: its {numbers} numbers in {len(tensors)} tensors are too few for {config}")
    with torch.device("meta"):
        state = GPT(config).state_dict()
    given = to_floats({k.removeprefix("transformer."): v for k, v in tensors.items() if not k.endswith(MASKS)}, name)
    head = given.pop("lm_head.weight", None)
    if missing := [k for k in state if k not in given]:
        raise UserError(f"{name}: no tensor {missing[0]!r} (of {len(missing)} missing): is it a GPT-2?")
    if unknown := [k for k in given if k not in state]:
        raise UserError(f"{name}: unknown tensor {unknown[0]!r}: is it a GPT-2 with a language-model head?")
    for key, target in state.items():
        tensor = given[key].t() if key.endswith(TRANSPOSED) and given[key].dim() == 2 else given[key]
        if tensor.shape != target.shape:
            shapes = f"{tuple(tensor.shape)}, config.json asks for {tuple(target.shape)}"
            raise UserError(f"{name}: {key} is {shapes}: config.json and weights are of two models")
        state[key] = tensor
    if head is not None and not torch.equal(head, state["wte.weight"]):
        raise UserError(f"{name}: lm_head.weight is not wte.weight, here they are one: take a model that ties them")
    model = GPT(config)
    model.load_state_dict(state)
    return model


def config_to_json(config: GPTConfig, eos_id: int) -> dict:
    """GPT2Config's keys for our config."""
    return {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.vocab_size, "n_positions": config.context,
        "n_layer": config.layers, "n_head": config.heads, "n_embd": config.width,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
        "embd_pdrop": config.dropout, "attn_pdrop": config.dropout, "resid_pdrop": config.dropout,
        "tie_word_embeddings": True, "bos_token_id": eos_id, "eos_token_id": eos_id, "pad_token_id": eos_id,
    }  # fmt: skip


def config_from_json(raw: dict, name: str) -> GPTConfig:
    """Our config from GPT2Config's keys. Raises UserError for a model that is not GPT-2's architecture."""
    expected = {"model_type": "gpt2", "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5}
    expected |= {"tie_word_embeddings": True, "scale_attn_weights": True, "n_inner": None}
    expected |= {"scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False, "quantization_config": None}
    if isinstance(raw.get("n_embd"), int) and raw.get("n_inner") == 4 * raw["n_embd"]:
        raw = {**raw, "n_inner": None}  # the same, spelt out
    if raw.get("activation_function") == "gelu_pytorch_tanh":
        raw = {**raw, "activation_function": "gelu_new"}  # the same under another name
    for key, value in expected.items():
        if (found := raw.get(key, value)) != value:
            raise UserError(f"{name}: {key} is {found!r}, this code knows {value!r} alone")
    sizes = {key: raw.get(key) for key in ("vocab_size", "n_positions", "n_layer", "n_head", "n_embd")}
    if wrong := [key for key, size in sizes.items() if type(size) is not int]:
        raise UserError(f"{name}: {wrong[0]} is {sizes[wrong[0]]!r}, no whole number: is it GPT-2's config.json?")
    rates = [raw.get(key, 0.1) for key in ("embd_pdrop", "attn_pdrop", "resid_pdrop")]  # 0.1 is GPT2Config's
    if rates != rates[:1] * 3 or type(rates[0]) not in (int, float):
        raise UserError(f"{name}: embd_pdrop, attn_pdrop, resid_pdrop are {rates}: make them one number, as here")
    try:
        return GPTConfig(*sizes.values(), dropout=rates[0])
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None


def save(
    folder: str | Path, model: GPT, tokenizer: Tokenizer, run: dict,
    head: dict[str, Tensor] | None = None, config: dict | None = None, value_head: nn.Module | None = None,
) -> None:  # fmt: skip
    """Write the model, its tokenizer and run.json. config.json goes first and comes last: it marks the folder whole.

    head, config: tensors beside the model's, and keys of config.json that differ from a language model's.
    value_head: in a file of its own; without one, what an earlier run left there is removed.
    """
    folder = Path(folder)
    for name in ("config.json", "value_head.safetensors"):
        (folder / name).unlink(missing_ok=True)
    write_safetensors(folder / "model.safetensors", to_huggingface(model) | (head or {}))
    if value_head:
        write_safetensors(folder / "value_head.safetensors", value_head.state_dict())
    tokenizer_files.save(tokenizer, folder)
    write_json(folder / "run.json", run)
    write_json(folder / "config.json", config_to_json(model.config, tokenizer.eos_id) | (config or {}))


def restore(folder: str | Path, model: GPT, value_head: nn.Module | None = None) -> None:
    """Give a model of the same shape, and its value head, the weights in a folder. Raises UserError, RuntimeError."""
    model.load_state_dict(load(folder)[0].state_dict())
    if value_head:
        load_value_head(folder, value_head)


def load_value_head(folder: str | Path, value_head: nn.Module) -> None:
    """Give a value head its weights in a folder, if there are any. Raises UserError."""
    path = Path(folder) / "value_head.safetensors"
    try:
        if path.exists():
            value_head.load_state_dict(Safetensors(path))
    except RuntimeError:
        raise UserError(f"{path}: is of another model than {folder}") from None


def load(folder: str | Path) -> tuple[GPT, Tokenizer]:
    """The model and tokenizer of a checkpoint folder, ours or Hugging Face's GPT-2 (safetensors). Raises UserError."""
    return load_with(folder, "")[:2]


def load_with(folder: str | Path, head: str) -> tuple[GPT, Tokenizer, Tensor | None]:
    """`load`, and the tensor of that name, which no language model has; None where it is not there."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such checkpoint folder; train one first, or name another")
    if not (folder / "config.json").exists() and stands_in(folder):
        raise UserError(f"{folder}: no config.json, not whole: a run goes on or was killed; resume it, or train again")
    config = config_from_json(read_json(folder / "config.json"), str(folder / "config.json"))
    weights = folder / "model.safetensors"
    if not weights.exists() and (others := [folder / x for x in ELSEWHERE if (folder / x).exists()]):
        remedy = "in transformers, load it and save_pretrained(FOLDER, max_shard_size='99GB')"
        raise UserError(f"{others[0]}: weights are read from one model.safetensors; {remedy}")
    tensors = dict(Safetensors(weights))
    found = to_floats({k: tensors.pop(k) for k in [head] if k in tensors}, str(weights)).get(head)
    model = from_huggingface(tensors, config, str(weights))
    tokenizer = tokenizer_files.load(folder)
    if tokenizer.vocab_size > config.vocab_size:
        sizes = f"{tokenizer.vocab_size} tokens, the model embeds {config.vocab_size}"
        raise UserError(f"{folder}: the tokenizer has {sizes}: they are of two models")
    # Rows that no token stands for could be sampled, and then not be decoded.
    resize_vocabulary(model, tokenizer.vocab_size)
    return model, tokenizer, found


def resize_vocabulary(model: GPT, size: int) -> None:
    """Cut the embedding, and a head of its own, to `size` rows, or add rows, each the mean of the old ones."""
    for layer in (model.wte, getattr(model, "lm_head", None)):
        if layer is not None:
            old = layer.weight.data[:size]  # (V, C)
            new = old.mean(0, keepdim=True).expand(size - len(old), -1)  # (n, C)
            layer.weight = nn.Parameter(torch.cat([old, new]))  # (size, C)
    model.wte.num_embeddings = size
    model.config = replace(model.config, vocab_size=size)


def read_run(folder: str | Path) -> dict:
    """run.json of a checkpoint, or {} where it has none (GPT-2 from elsewhere). Raises UserError."""
    return folders.read_run(folder, RUN)


def load_with_roles(folder: str | Path) -> tuple[GPT, Tokenizer]:
    """`load` of a model to fine-tune: special tokens that it does not know get new rows of the embedding."""
    model, tokenizer = load(folder)
    tokenizer.add_specials([name for name in SPECIALS if name not in tokenizer.special_ids])
    resize_vocabulary(model, tokenizer.vocab_size)
    return model, tokenizer


def load_chat(folder: str | Path) -> tuple[GPT, Tokenizer]:
    """`load` of a model that knows who speaks. Raises UserError for one that was not fine-tuned."""
    model, tokenizer = load(folder)
    if missing := [s for s in ("<|user|>", "<|assistant|>") if s not in tokenizer.special_ids]:
        raise UserError(f"{folder}: its tokenizer has no {missing[0]}; fine-tune it with train_sft.py first")
    return model, tokenizer
