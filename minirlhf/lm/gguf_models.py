"""Models in GGUF files: llama.cpp's names and keys, turned into Hugging Face's and back.

What is read comes out as a config.json, tensors under the names of `llama_files.py` or `gpt2_files.py`, and a
tokenizer. So the checks of one loader hold for both kinds of file. llama.cpp keeps the rows of q and k of a Llama in
another order: the two numbers that turn together stand side by side there, half a head apart here.
Proved by tests/lm/test_gguf_models.py.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from minirlhf.harness.files import UserError
from minirlhf.lm.bpe import PATTERNS
from minirlhf.lm.chat_formats import recognise_format, template_of
from minirlhf.lm.gguf import Gguf, write
from minirlhf.lm.llama import LlamaConfig, turning_rates
from minirlhf.lm.llama_files import TURNS, config_from_json
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.lm.tokenizer_files import Parts, merges_of, symbols_of, tokenizer_of
from minirlhf.lm.vocabulary import CUTS

OUTER = {
    "llama": {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
              "output.weight": "lm_head.weight"},
    "gpt2": {"token_embd.weight": "wte.weight", "position_embd.weight": "wpe.weight", "output.weight": "lm_head.weight",
             "output_norm.weight": "ln_f.weight", "output_norm.bias": "ln_f.bias"},
}  # fmt: skip
INNER = {
    "llama": {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
              "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
              "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj",
              "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"},
    "gpt2": {"attn_norm": "ln_1", "ffn_norm": "ln_2", "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj",
             "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"},
}  # fmt: skip
FAMILIES = {"llama": "llama", "qwen2": "llama", "qwen3": "llama", "gpt2": "gpt2"}
PRE = {"smollm": CUTS["smollm"], "llama-bpe": CUTS["llama3"], "qwen2": CUTS["qwen2"], "gpt-2": PATTERNS["gpt2"]}


def interleave(x: Tensor, heads: int) -> Tensor:
    """Rows of q or k, ours (half a head apart) to llama.cpp's (side by side). x: (heads D, C)."""
    return x.view(heads, 2, -1, *x.shape[1:]).transpose(1, 2).reshape(x.shape)


def separate(x: Tensor, heads: int) -> Tensor:
    """The inverse of `interleave`."""
    return x.view(heads, x.shape[0] // heads // 2, 2, *x.shape[1:]).transpose(1, 2).reshape(x.shape)


class Lazy(Mapping):
    """Tensors by name, each made by a function of its own when it is asked for."""

    def __init__(self, makers: dict[str, Callable[[], Tensor]]) -> None:
        self.makers = makers

    def __getitem__(self, name: str) -> Tensor:
        return self.makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.makers)

    def __len__(self) -> int:
        return len(self.makers)


def renamed(file: Gguf, heads: Mapping[str, int] = {}) -> Lazy:
    """The tensors of a GGUF file by Hugging Face's names, as there. heads: in what is interleaved. Raises UserError."""
    kind, makers = file.metadata["general.architecture"], {}
    family = FAMILIES[kind]

    def turned(name: str, what: str) -> Tensor:
        x = file[name]
        if what in heads and len(x) % (2 * heads[what]) == 0:  # any other number of rows is refused by who asks
            return separate(x, heads[what])
        return x.t() if kind == "gpt2" and x.dim() == 2 and what.startswith(("attn", "ffn")) else x

    for name in file:
        if name == "rope_freqs.weight":
            continue  # of `rope_of`
        parts = name.split(".")
        if name in OUTER[family]:
            makers[OUTER[family][name]] = partial(file.__getitem__, name)
        elif len(parts) == 4 and parts[0] == "blk" and parts[2] in INNER[family]:
            layer = "model.layers" if family == "llama" else "h"
            makers[f"{layer}.{parts[1]}.{INNER[family][parts[2]]}.{parts[3]}"] = partial(turned, name, parts[2])
        else:
            raise UserError(f"{file.path}: unknown tensor {name!r}: this code knows {', '.join(FAMILIES)} alone")
    return Lazy(makers)


def rope_of(file: Gguf, get: Callable, shape: LlamaConfig) -> dict | None:
    """config.json's rope_scaling. shape: of the model without one. Raises UserError for turns that are not computed."""
    kind, factor = get("rope.scaling.type", "linear"), get("rope.scaling.factor", get("rope.scale_linear", 0.0))
    if kind != "none" and (kind != "linear" or factor not in (0, 1)):  # llama.cpp takes what is not said so
        raise UserError(f"{file.path}: rope.scaling.type {kind!r:.60}, factor {factor!r:.60}, is not computed here")
    if get("rope.dimension_count", shape.head_size) != shape.head_size:
        raise UserError(f"{file.path}: rope.dimension_count: heads that turn in part are not computed here")
    if "rope_freqs.weight" not in file:
        return None
    # The file keeps what θ is divided by, not the four numbers of Llama 3 that it comes from; three are always these.
    divisors, rates = file["rope_freqs.weight"], turning_rates(shape)  # (D/2,) each
    scaling = max(float(divisors.max()), 1.0), 1.0, 4.0, 8192
    scaled = turning_rates(replace(shape, rope_scaling=scaling))  # (D/2,)
    if divisors.shape != rates.shape or not torch.allclose(rates / scaled, divisors, rtol=1e-4):
        raise UserError(f"{file.path}: rope_freqs.weight is not Llama 3's scaling, which alone is computed here")
    return {"rope_type": "llama3", **dict(zip(TURNS, scaling))}


def read_gguf(path: str | Path) -> tuple[dict, Lazy, Tokenizer]:
    """(The keys of a config.json, the tensors, the tokenizer) of a GGUF file. Raises UserError."""
    file = Gguf(path)
    kind = file.metadata.get("general.architecture")
    if kind not in [*FAMILIES]:
        raise UserError(f"{path}: general.architecture is {kind!r:.60}, this code knows {', '.join(FAMILIES)} alone")

    def get(key: str, *default):
        if (name := f"{kind}.{key}") not in file.metadata and not default:
            raise UserError(f"{path}: no key {name}: not a whole model")
        value = file.metadata.get(name, *default)
        return float(f"{value:.7g}") if isinstance(value, float) else value  # as it was before it was float32

    tokenizer = read_tokenizer(file)
    embedded = file.shape("token_embd.weight")[0]
    if kind == "gpt2":
        raw = {"model_type": "gpt2", "vocab_size": embedded, "n_positions": get("context_length"),
               "n_layer": get("block_count"), "n_head": get("attention.head_count"), "n_embd": get("embedding_length"),
               "layer_norm_epsilon": get("attention.layer_norm_epsilon")}  # fmt: skip
        return raw | dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0), renamed(file), tokenizer
    raw = {
        "model_type": kind, "vocab_size": embedded, "max_position_embeddings": get("context_length"),
        "num_hidden_layers": get("block_count"), "num_attention_heads": get("attention.head_count"),
        "hidden_size": get("embedding_length"), "num_key_value_heads": get("attention.head_count_kv", None),
        "intermediate_size": get("feed_forward_length"), "head_dim": get("attention.key_length", None),
        "rope_theta": get("rope.freq_base", 10_000.0), "rms_norm_eps": get("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in list(file),
    }  # fmt: skip
    shape = config_from_json(raw, str(path))
    heads = {"attn_q": shape.heads, "attn_k": shape.kv_heads} if kind == "llama" else {}
    return raw | {"rope_scaling": rope_of(file, get, shape)}, renamed(file, heads), tokenizer


def read_tokenizer(file: Gguf) -> Tokenizer:
    """The tokenizer in a GGUF file. Raises UserError for a kind that is not byte-level BPE, or cut in an unknown way."""
    get = lambda key, default=None: file.metadata.get(f"tokenizer.ggml.{key}", default)
    pre = get("pre", "gpt-2" if file.metadata["general.architecture"] == "gpt2" else None)
    if get("model") != "gpt2" or pre not in [*PRE]:
        found = f"{get('model')!r:.60} with {pre!r:.60}"
        raise UserError(f"{file.path}: its tokenizer is {found}; this code reads gpt2 with {', '.join(PRE)}")
    try:
        names, kinds = get("tokens"), get("token_type") or [1] * len(get("tokens"))
        specials = [name for name, kind in zip(names, kinds, strict=True) if kind in (3, 4, 5)]
        merges, cut = [merge.split(" ") for merge in get("merges")], file.metadata.get("minirlhf.pattern")
        vocabulary, nfc, whole = {name: i for i, name in enumerate(names)}, pre == "qwen2", pre == "llama-bpe"
        parts = Parts(vocabulary, merges, PATTERNS.get(cut, PRE[pre]), specials, nfc, whole)
        found = tokenizer_of(parts, names[get("eos_token_id")])
        return recognise_format(found, file.metadata.get("tokenizer.chat_template", ""))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file.path}: its tokenizer cannot be read: {error}") from None


def metadata_of(raw: dict) -> dict:
    """llama.cpp's keys for those of a config.json."""
    kind = raw["model_type"]
    if kind == "gpt2":
        width = raw["n_embd"]
        keys = {"context_length": raw["n_positions"], "embedding_length": width, "block_count": raw["n_layer"],
                "feed_forward_length": 4 * width, "attention.head_count": raw["n_head"],
                "attention.layer_norm_epsilon": 1e-5}  # fmt: skip
    else:
        D = raw["head_dim"]
        keys = {"context_length": raw["max_position_embeddings"], "embedding_length": raw["hidden_size"],
                "block_count": raw["num_hidden_layers"], "feed_forward_length": raw["intermediate_size"],
                "attention.head_count": raw["num_attention_heads"], "rope.freq_base": float(raw["rope_theta"]),
                "attention.head_count_kv": raw["num_key_value_heads"], "rope.dimension_count": D,
                "attention.key_length": D, "attention.value_length": D, "vocab_size": raw["vocab_size"],
                "attention.layer_norm_rms_epsilon": raw["rms_norm_eps"]}  # fmt: skip
    return {"general.architecture": kind, "general.name": "minirlhf"} | {f"{kind}.{k}": v for k, v in keys.items()}


def tokenizer_metadata(tokenizer: Tokenizer) -> dict:
    """The keys of a tokenizer. Raises UserError for a cut that llama.cpp has no name for."""
    cut = getattr(tokenizer, "cut", None) or {"gpt2-digits": CUTS["smollm"]}.get(tokenizer.pattern, PATTERNS["gpt2"])
    if cut not in PRE.values():
        raise UserError(f"text is cut by {cut!r}, for which GGUF has no name")
    names = dict(enumerate(map(symbols_of, tokenizer.token_bytes))) | {i: s for s, i in tokenizer.special_ids.items()}
    specials = set(tokenizer.special_ids.values())
    return {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": next(k for k, v in PRE.items() if v == cut),
        "tokenizer.ggml.tokens": [names[i] for i in range(len(names))],
        "tokenizer.ggml.token_type": [3 if i in specials else 1 for i in range(len(names))],
        "tokenizer.ggml.merges": [" ".join(map(symbols_of, pair)) for pair in merges_of(tokenizer)],
        "tokenizer.chat_template": template_of(tokenizer.chat),
        "tokenizer.ggml.eos_token_id": tokenizer.eos_id, "tokenizer.ggml.add_bos_token": False,  # the template writes it
        "tokenizer.ggml.bos_token_id": tokenizer.special_ids.get(tokenizer.chat.begin, tokenizer.eos_id),
        "minirlhf.pattern": "" if hasattr(tokenizer, "cut") else tokenizer.pattern,
    }  # fmt: skip


def write_gguf(
    path: str | Path, raw: dict, tensors: Mapping[str, Tensor], tokenizer: Tokenizer,
    kind: str = "F32",
) -> None:  # fmt: skip
    """Write a model: the keys of its config.json, its tensors under Hugging Face's names, its tokenizer.

    kind: of the matrices, see `gguf.write`. Raises UserError for a tokenizer that the format cannot name.
    """
    arch = raw["model_type"]
    family = FAMILIES[arch]
    outer = {theirs: ours for ours, theirs in OUTER[family].items()}
    inner = {theirs: ours for ours, theirs in INNER[family].items()}
    heads = {"self_attn.q_proj": raw.get("num_attention_heads"), "self_attn.k_proj": raw.get("num_key_value_heads")}
    metadata, makers = metadata_of(raw) | tokenizer_metadata(tokenizer), {}

    def turned(name: str, what: str) -> Tensor:
        x = interleave(tensors[name], heads[what]) if arch == "llama" and what in heads else tensors[name]
        return x.t() if family == "gpt2" and what and x.dim() == 2 else x

    for name in tensors:
        short = name.removeprefix("transformer.")
        layer, _, rest = short.removeprefix("model.layers.").removeprefix("h.").partition(".")
        what, _, part = rest.rpartition(".")  # what: "" for GPT-2's outer tensors, which stand as they are
        makers[outer.get(short) or f"blk.{layer}.{inner[what]}.{part}"] = partial(turned, name, what)
    if raw.get("rope_scaling"):
        shape = config_from_json(raw, str(path))
        divisors = turning_rates(replace(shape, rope_scaling=None)) / turning_rates(shape)  # (D/2,)
        makers["rope_freqs.weight"] = divisors.clone
    write(path, metadata, Lazy(makers), kind)
