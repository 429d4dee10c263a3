"""Models in GGUF files: llama.cpp's names and keys, turned into Hugging Face's and back.

What is read comes out as a config.json, tensors under the names of `llama_files.py` or `checkpoint.py`, and a
tokenizer. So the checks of one loader hold for both kinds of file. llama.cpp keeps the rows of q and k of a Llama in
another order: the two numbers that turn together stand side by side there, half a head apart here.
Proved by tests/lm/test_gguf_models.py.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from minirlhf.harness.files import UserError
from minirlhf.lm.gguf import Gguf, write
from minirlhf.lm.llama import LlamaConfig
from minirlhf.lm.tokenizer import BYTE_ORDER, EOS, SYMBOLS, Tokenizer
from minirlhf.lm.vocabulary import CUTS, VocabularyTokenizer

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
PRE = {"smollm": CUTS["smollm"], "llama-bpe": CUTS["llama3"], "qwen2": CUTS["qwen2"], "gpt-2": "gpt2"}
_BYTES = {symbol: bytes([byte]) for symbol, byte in zip(SYMBOLS, BYTE_ORDER)}


def interleave(x: Tensor, heads: int) -> Tensor:
    """Rows of q or k, ours (half a head apart) to llama.cpp's (side by side). x: (heads D, C)."""
    return x.view(heads, 2, -1, *x.shape[1:]).transpose(1, 2).reshape(x.shape)


def separate(x: Tensor, heads: int) -> Tensor:
    """The inverse of `interleave`."""
    return x.view(heads, x.shape[0] // heads // 2, 2, *x.shape[1:]).transpose(1, 2).reshape(x.shape)


class Renamed(Mapping):
    """The tensors of a GGUF file under Hugging Face's names, each read and turned when it is asked for."""

    def __init__(self, file: Gguf) -> None:
        self.file, self.kind = file, file.metadata["general.architecture"]
        family = FAMILIES[self.kind]
        self.names = {}
        for name in file:
            if name == "rope_freqs.weight":
                continue  # of `rope_of`
            parts = name.split(".")
            if name in OUTER[family]:
                self.names[OUTER[family][name]] = name
            elif len(parts) == 4 and parts[0] == "blk" and parts[2] in INNER[family]:
                layer = "model.layers" if family == "llama" else "h"
                self.names[f"{layer}.{parts[1]}.{INNER[family][parts[2]]}.{parts[3]}"] = name
            else:
                raise UserError(f"{file.path}: unknown tensor {name!r}: this code knows {', '.join(FAMILIES)} alone")

    def __getitem__(self, name: str) -> Tensor:
        x, what = self.file[self.names[name]], self.names[name].split(".")[-2]
        if self.kind == "llama" and what in ("attn_q", "attn_k"):
            count = self.file.metadata["llama.attention.head_count" + "_kv" * (what == "attn_k")]
            return separate(x, count)
        return x.t() if self.kind == "gpt2" and x.dim() == 2 and what.startswith(("attn", "ffn")) else x

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def rope_of(file: Gguf, get) -> dict:
    """The keys of config.json that say how positions turn."""
    if "rope_freqs.weight" not in file:
        if get("rope.scaling.type", "none") != "none":
            raise UserError(f"{file.path}: rope.scaling.type {get('rope.scaling.type')!r} is not computed here")
        return {"rope_type": "default", "rope_theta": get("rope.freq_base", 10_000.0)}
    # llama.cpp keeps the divisors of Llama 3's θ, not the numbers that they were computed from.
    return {"rope_type": "llama3", "rope_theta": get("rope.freq_base", 10_000.0), "factor": float(file["rope_freqs.weight"].max()),
            "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip


def read_gguf(path: str | Path) -> tuple[dict, Renamed, Tokenizer | VocabularyTokenizer]:
    """(The keys of a config.json, the tensors, the tokenizer) of a GGUF file. Raises UserError."""
    file = Gguf(path)
    kind = file.metadata.get("general.architecture")
    if kind not in FAMILIES:
        raise UserError(f"{path}: general.architecture is {kind!r}, this code knows {', '.join(FAMILIES)} alone")

    def get(key: str, *default):
        value = file.metadata.get(f"{kind}.{key}", *default)
        if value is None:
            raise UserError(f"{path}: no key {kind}.{key}: not a whole model")
        return value

    tokenizer = read_tokenizer(file)
    embedded = file._places["token_embd.weight"][0][0] if "token_embd.weight" in file else tokenizer.vocab_size
    if kind == "gpt2":
        raw = {"model_type": "gpt2", "vocab_size": embedded, "n_positions": get("context_length"),
               "n_layer": get("block_count"), "n_head": get("attention.head_count"), "n_embd": get("embedding_length"),
               "layer_norm_epsilon": round(get("attention.layer_norm_epsilon"), 9)}  # fmt: skip
        return raw, Renamed(file), tokenizer
    heads, width = get("attention.head_count"), get("embedding_length")
    raw = {
        "model_type": kind, "vocab_size": embedded, "max_position_embeddings": get("context_length"),
        "num_hidden_layers": get("block_count"), "num_attention_heads": heads, "hidden_size": width,
        "num_key_value_heads": get("attention.head_count_kv", heads), "intermediate_size": get("feed_forward_length"),
        "head_dim": get("attention.key_length", width // heads), "rope_parameters": rope_of(file, get),
        "rms_norm_eps": round(get("attention.layer_norm_rms_epsilon"), 9),
        "tie_word_embeddings": "output.weight" not in file,
    }  # fmt: skip
    return raw, Renamed(file), tokenizer


def read_tokenizer(file: Gguf) -> Tokenizer | VocabularyTokenizer:
    """The tokenizer in a GGUF file. Raises UserError for a kind that is not byte-level BPE, or cut in an unknown way."""
    get = lambda key, default=None: file.metadata.get(f"tokenizer.ggml.{key}", default)
    if get("model") != "gpt2" or get("pre", "gpt-2") not in PRE:
        found = f"{get('model')} with {get('pre')}"
        raise UserError(f"{file.path}: its tokenizer is {found}; this code reads gpt2 with {', '.join(PRE)}")
    try:
        names, kinds = get("tokens"), get("token_type") or [1] * len(get("tokens"))
        specials = {name: i for i, (name, kind) in enumerate(zip(names, kinds, strict=True)) if kind in (3, 4)}
        spell = lambda token: b"".join(_BYTES[symbol] for symbol in token)
        tokens = {spell(name): i for i, name in enumerate(names) if name not in specials}
        merges = [tuple(map(spell, merge.split(" "))) for merge in get("merges")]
        pre = get("pre", "gpt-2")
        found = VocabularyTokenizer(tokens, merges, specials, PRE[pre], names[get("eos_token_id")],
                                    nfc=pre == "qwen2", whole=pre == "llama-bpe")  # fmt: skip
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file.path}: its tokenizer cannot be read: {error}") from None
    return found


def write_gguf(path: str | Path, config: LlamaConfig | object, tensors: Mapping[str, Tensor], tokenizer, kind: str) -> None:
    """Write a model: its config, its tensors under Hugging Face's names, its tokenizer. kind: F32 or Q8_0."""
    raise NotImplementedError
