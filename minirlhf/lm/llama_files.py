"""The Llama family in Hugging Face's names: config.json and tensors, read and written.

One model_type is one setting of `llama.py`: llama (SmolLM2, Llama 3), qwen2 (a bias on queries, keys and values), qwen3
(a norm over each head) and mistral. A key that would change the computation in a way that `llama.py` does not have is
refused by name. Proved by tests/lm/test_llama_files.py.
"""

from dataclasses import replace

from minirlhf.harness.files import UserError
from minirlhf.lm.llama import LlamaConfig

FAMILY = ("llama", "qwen2", "qwen3", "mistral")
IS, PREFIX, TRANSPOSED = "one of the Llama family", "model.", ()
IGNORED = (".rotary_emb.inv_freq",)  # a table that old checkpoints carry; `turning_rates` computes it
# What another value would change, and the only value that is computed here.
ONLY = {
    "hidden_act": "silu", "mlp_bias": False, "partial_rotary_factor": 1.0, "pretraining_tp": 1, "quantization_config": None,
    "attn_logit_softcapping": None, "final_logit_softcapping": None, "attention_multiplier": 1.0, "num_experts": 0,
}  # fmt: skip
NAMES = {".ln_1.": ".input_layernorm.", ".attn.": ".self_attn.", ".ln_2.": ".post_attention_layernorm."}
OUTER = {"wte.": "model.embed_tokens.", "ln_f.": "model.norm.", "h.": "model.layers."}


def their_name(name: str) -> str:
    """The name of one of our parameters in a LlamaForCausalLM."""
    for ours, theirs in OUTER.items():
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return name


def config_to_json(config: LlamaConfig, eos_id: int) -> dict:
    """The keys of config.json for our config."""
    kind = "qwen3" if config.qk_norm else "qwen2" if config.qkv_bias else "llama"
    name = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}[kind]
    rope: dict = {"rope_type": "default", "rope_theta": config.rope_base}
    if config.rope_scaling is not None:
        factor, low, high, original = config.rope_scaling
        rope |= {"rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high}
        rope["original_max_position_embeddings"] = original
    return {
        "model_type": kind, "architectures": [f"{name}ForCausalLM"],
        "vocab_size": config.vocab_size, "max_position_embeddings": config.context, "hidden_size": config.width,
        "num_hidden_layers": config.layers, "num_attention_heads": config.heads, "head_dim": config.head_size,
        "num_key_value_heads": config.kv_heads, "intermediate_size": config.inner, "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps, "rope_theta": config.rope_base, "rope_parameters": rope,
        "rope_scaling": rope if config.rope_scaling is not None else None,
        "attention_bias": False, "mlp_bias": False, "use_sliding_window": False,
        "attention_dropout": 0.0, "resid_pdrop": config.dropout, "tie_word_embeddings": config.tied,
        "bos_token_id": eos_id, "eos_token_id": eos_id, "pad_token_id": eos_id,
    }  # fmt: skip


def config_from_json(raw: dict, name: str) -> LlamaConfig:
    """Our config from the keys of config.json. Raises UserError naming a key whose value is not computed here."""
    def refuse(key: str, found, wanted) -> UserError:
        return UserError(f"{name}: {key} is {found!r:.60}, this code computes {wanted} alone")

    kind = raw.get("model_type")
    for key, value in ONLY.items():
        if raw.get(key, value) not in (value, None):
            raise refuse(key, raw[key], repr(value))
    if kind in ("llama", "mistral") and raw.get("attention_bias"):
        raise refuse("attention_bias", True, "models without it")  # Llama's is one of the output, too
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    try:
        base = float(rope.get("rope_theta", raw.get("rope_theta", 10_000.0)))
        rope_type = rope.get("rope_type", rope.get("type", "default"))
        scaling = None
        if rope_type == "llama3":
            scaling = (float(rope["factor"]), float(rope["low_freq_factor"]), float(rope["high_freq_factor"]),
                       int(rope["original_max_position_embeddings"]))  # fmt: skip
        elif rope_type != "default" or rope.get("partial_rotary_factor", 1.0) != 1:
            raise refuse("rope_parameters", rope, "the types default and llama3")
        config = LlamaConfig(
            *(int(raw[key]) for key in ("vocab_size", "max_position_embeddings", "num_hidden_layers")),
            int(raw["num_attention_heads"]), int(raw["hidden_size"]),
            int(raw.get("num_key_value_heads") or raw["num_attention_heads"]),
            int(raw.get("head_dim") or (128 if kind == "qwen3" else 0)), int(raw["intermediate_size"]), base, scaling,
            float(raw["rms_norm_eps"]), kind == "qwen2", kind == "qwen3", bool(raw.get("tie_word_embeddings", False)),
            float(raw.get("resid_pdrop") or 0.0),
        )  # fmt: skip
        window = raw.get("sliding_window", 4096 if kind == "mistral" else None)
        slides = window if raw.get("use_sliding_window", kind == "mistral") else None
        # Inside the window attention is plain: a context no longer than it is computed exactly.
        return replace(config, context=min(config.context, int(slides))) if slides else config
    except KeyError as error:
        raise UserError(f"{name}: no key {error}: is it the config.json of {', '.join(FAMILY)}?") from None
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        raise UserError(f"{name}: {error}") from None
