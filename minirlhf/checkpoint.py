"""A checkpoint is a folder in the layout of Hugging Face's GPT-2, written and read without their code.

    config.json          GPT2Config's keys
    model.safetensors    GPT2LMHeadModel's names and shapes, the tied head stored once, as wte
    tokenizer.json       see tokenizer.py
    run.json             how it was made: arguments, seed, versions, data, cost
    train_state.pt       what `--resume` needs; tensors and plain types, read with weights_only=True

safetensors: 8 bytes little-endian header length N, N bytes of JSON {name: {dtype, shape, data_offsets}},
then the raw numbers, row-major, without holes. Nothing is ever pickled code, and everything a header
claims is checked before a byte is believed. Proved by tests/test_checkpoint.py.
"""

import hashlib
import json
import struct
from collections.abc import Sequence
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from minirlhf.files import UserError, write_atomic
from minirlhf.model import GPT, GPTConfig
from minirlhf.tokenizer import Tokenizer

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
MAX_HEADER = 100_000_000  # the limit of the reference implementation

# Hugging Face keeps these as (in, out), torch's Linear as (out, in).
TRANSPOSED = (".attn.c_attn.weight", ".attn.c_proj.weight", ".mlp.c_fc.weight", ".mlp.c_proj.weight")
# Causal masks that old checkpoints carry, and the tied head where it is stored twice.
IGNORED = (".attn.bias", ".attn.masked_bias", "lm_head.weight")


def dump_safetensors(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """The bytes of a safetensors file. Shared storage is not representable: pass each tensor once."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict = {"__metadata__": {"format": "pt", **(metadata or {})}}
    chunks, offset = [], 0
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        data = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        header[name] = {
            "dtype": names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + len(data)],
        }
        chunks.append(data)
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers are aligned for readers that map the file
    return b"".join([struct.pack("<Q", len(text)), text, *chunks])


def parse_safetensors(data: bytes, name: str = "safetensors") -> dict[str, Tensor]:
    """The tensors in the bytes of a safetensors file. `name` is for the error message.

    Raises UserError if the file is truncated, tampered with, or holds a type we do not know.
    """

    def refuse(why: str) -> UserError:
        return UserError(f"{name}: {why}: not a whole safetensors file; copy or write it again")

    if len(data) < 8:
        raise refuse(f"{len(data)} bytes, the header length alone takes 8")
    (size,) = struct.unpack("<Q", data[:8])
    if size > min(MAX_HEADER, len(data) - 8):
        raise refuse(f"a header of {size} bytes in a file of {len(data)}")
    try:
        header = json.loads(data[8 : 8 + size])
        header.pop("__metadata__", None)
        entries = {}
        for key, entry in header.items():
            start, stop = entry["data_offsets"]
            entries[key] = entry["dtype"], tuple(entry["shape"]), start, stop
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise refuse(f"the header cannot be read ({type(error).__name__})") from None
    numbers = memoryview(data)[8 + size :]
    end = 0
    tensors = {}
    for key, (kind, shape, start, stop) in entries.items():
        if str(kind) not in DTYPES or not all(type(n) is int and n >= 0 for n in (*shape, start, stop)):
            raise refuse(f"tensor {key!r} has dtype {kind!r}, shape {shape}")
        if prod(n or 1 for n in shape) >= 2**63:  # beside a 0 a size may be anything
            raise refuse(f"tensor {key!r} has shape {shape}")
        if stop - start != prod(shape) * DTYPES[kind].itemsize or stop > len(numbers):
            raise refuse(f"tensor {key!r} claims bytes {start} to {stop} for {kind} {shape}")
    for key, (kind, shape, start, stop) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if start != end:
            raise refuse(f"tensor {key!r} starts at byte {start}, not at {end}")
        end = stop
        flat = torch.frombuffer(bytearray(numbers[start:stop]), dtype=DTYPES[kind]) if stop > start else None
        tensors[key] = torch.zeros(shape, dtype=DTYPES[kind]) if flat is None else flat.view(shape)
    if end != len(numbers):
        raise refuse(f"{len(numbers) - end} bytes behind the last tensor")
    return {key: tensors[key] for key in entries}


def fingerprint(model: GPT) -> str:
    """SHA-256 of the weights, so that two names for one model are found out, and one name for two."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def to_huggingface(model: GPT) -> dict[str, Tensor]:
    """The model's parameters under GPT2LMHeadModel's names, in its shapes."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        tensors[f"transformer.{name}"] = tensor.t() if name.endswith(TRANSPOSED) else tensor
    return tensors


def from_huggingface(tensors: dict[str, Tensor], config: GPTConfig, name: str) -> GPT:
    """The GPT that GPT-2 tensors describe, with or without the `transformer.` prefix, in float32.

    Raises UserError where a tensor is missing, unknown, or of another shape than `config` says.
    """
    last = f"h.{config.layers - 1}.ln_1.weight"
    if not any(k.endswith(last) for k in tensors):
        raise UserError(f"{name}: no tensor {last!r}: config.json asks for {config.layers} layers")
    with torch.device("meta"):  # shapes alone: what config.json makes up must not be allocated
        state = GPT(config).state_dict()
    given = {k.removeprefix("transformer."): v for k, v in tensors.items()}
    given = {k: v for k, v in given.items() if not k.endswith(IGNORED)}
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
    model = GPT(config)
    model.load_state_dict(state)
    return model


def config_to_json(config: GPTConfig, eos_id: int) -> dict:
    """GPT2Config's keys for our config."""
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.vocab_size,
        "n_positions": config.context,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_embd": config.width,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "tie_word_embeddings": True,
        "bos_token_id": eos_id,
        "eos_token_id": eos_id,
        "pad_token_id": eos_id,
    }


def config_from_json(raw: dict, name: str) -> GPTConfig:
    """Our config from GPT2Config's keys. Raises UserError for a model that is not GPT-2's architecture."""
    expected = {"model_type": "gpt2", "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5}
    expected |= {"tie_word_embeddings": True, "scale_attn_weights": True, "n_inner": None}
    expected |= {"scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}
    if isinstance(raw.get("n_embd"), int) and raw.get("n_inner") == 4 * raw["n_embd"]:
        raw = {**raw, "n_inner": None}  # the same, spelt out
    for key, value in expected.items():
        if (found := raw.get(key, value)) != value:
            raise UserError(f"{name}: {key} is {found!r}, this code knows {value!r} alone")
    try:
        keys = ("vocab_size", "n_positions", "n_layer", "n_head", "n_embd")
        return GPTConfig(*(int(raw[key]) for key in keys), dropout=float(raw.get("resid_pdrop", 0.0)))
    except KeyError as error:
        raise UserError(f"{name}: no key {error}: is it GPT-2's config.json?") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{name}: {error}") from None


def read_json(path: Path) -> dict:
    """The JSON object in a file. Raises UserError if it is missing or not a JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: a JSON object is wanted, this is a {type(value).__name__}")
    return value


def write_json(path: Path, value: dict) -> None:
    """Write a JSON object, atomically."""
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))


def save(
    folder: str | Path,
    model: GPT,
    tokenizer: Tokenizer,
    run: dict,
    head: dict[str, Tensor] | None = None,
    config: dict | None = None,
) -> None:
    """Write the model, its tokenizer and run.json. config.json comes last: it marks the folder whole.

    head, config: tensors beside the model's, and keys of config.json that differ from a language model's.
    """
    folder = Path(folder)
    write_atomic(folder / "model.safetensors", dump_safetensors(to_huggingface(model) | (head or {})))
    tokenizer.save(folder)
    write_json(folder / "run.json", run)
    write_json(folder / "config.json", config_to_json(model.config, tokenizer.eos_id) | (config or {}))


def load(folder: str | Path) -> tuple[GPT, Tokenizer]:
    """The model and tokenizer of a checkpoint folder, ours or Hugging Face's GPT-2 (safetensors).

    Dropout is kept as config.json says. Raises UserError with the file and the remedy.
    """
    return load_with(folder, ())[:2]


def load_with(folder: str | Path, heads: Sequence[str]) -> tuple[GPT, Tokenizer, list[Tensor | None]]:
    """`load`, and the tensors of these names, which no language model has; None for what is not there."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such checkpoint folder; train one first, or name another")
    config = config_from_json(read_json(folder / "config.json"), str(folder / "config.json"))
    weights = folder / "model.safetensors"
    try:
        data = weights.read_bytes()
    except OSError as error:
        raise UserError(f"{weights}: {error.strerror or error}") from None
    tensors = parse_safetensors(data, str(weights))
    found = [tensors.pop(name, None) for name in heads]
    model = from_huggingface(tensors, config, str(weights))
    try:
        tokenizer = Tokenizer.load(folder)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from None
    if tokenizer.vocab_size > config.vocab_size:
        sizes = f"{tokenizer.vocab_size} tokens, the model embeds {config.vocab_size}"
        raise UserError(f"{folder}: the tokenizer has {sizes}: they are of two models")
    # Rows that no token stands for could be sampled, and then not be decoded.
    model.resize_vocabulary(tokenizer.vocab_size)
    return model, tokenizer, found


def load_chat(folder: str | Path) -> tuple[GPT, Tokenizer]:
    """`load` of a model that knows who speaks. Raises UserError for one that was not fine-tuned."""
    model, tokenizer = load(folder)
    if missing := [s for s in ("<|user|>", "<|assistant|>") if s not in tokenizer.special_ids]:
        raise UserError(f"{folder}: its tokenizer has no {missing[0]}; fine-tune it with train_sft.py first")
    return model, tokenizer
