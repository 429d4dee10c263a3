"""The Llama family in Hugging Face's names: config.json and tensors, read and written.

One model_type is one setting of `llama.py`: llama (SmolLM2, Llama 3), qwen2 (a bias on queries, keys and values), qwen3
(a norm over each head) and mistral. A key that would change the computation in a way that `llama.py` does not have is
refused by name. Proved by tests/lm/test_llama_files.py.
"""

from minirlhf.harness.files import UserError, misfit
from minirlhf.lm.llama import LlamaConfig

FAMILY = ("llama", "qwen2", "qwen3", "mistral")
IS, PREFIX, TRANSPOSED = "one of the Llama family", "model.", ()
IGNORED = (".rotary_emb.inv_freq",)  # a table that old checkpoints carry; `turning_rates` computes it
# What another value would change, and the only value that is computed here.
ONLY = {
    "hidden_act": "silu", "mlp_bias": False, "partial_rotary_factor": 1.0, "pretraining_tp": 1, "quantization_config": None,
    "attn_logit_softcapping": None, "final_logit_softcapping": None, "attention_multiplier": 1.0, "num_experts": 0,
}  # fmt: skip
SIZE = range(1, 2**31)  # below: an example of each value that is computed with
TURNS = {"factor": 0.0, "low_freq_factor": 0.0, "high_freq_factor": 0.0, "original_max_position_embeddings": SIZE}
NEEDED = "vocab_size max_position_embeddings num_hidden_layers num_attention_heads hidden_size intermediate_size"
SHAPE = dict.fromkeys(NEEDED.split(), SIZE)
SHAPE |= dict.fromkeys(["num_key_value_heads?", "head_dim?", "sliding_window?"], (SIZE, None))
SHAPE |= {"rms_norm_eps": 0.0, "rope_theta": 0.0, "tie_word_embeddings?": (True, None), "resid_pdrop?": (0.0, None)}
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
    only = ONLY | ({"attention_bias": False} if kind in ("llama", "mistral") else {})  # of the output, too
    for key, value in only.items():
        if raw.get(key, value) not in (value, None):
            raise refuse(key, raw[key], repr(value))
    rope = raw.get("rope_scaling") or raw.get("rope_parameters") or {}  # transformers takes the former, too
    rope_type = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, dict) else None
    if rope_type not in ["default", "llama3"] or rope.get("partial_rotary_factor", 1.0) != 1:
        raise refuse("rope_parameters", rope, "the types default and llama3")
    turns = TURNS if rope_type == "llama3" else {}
    found = raw | {"rope": rope, "rope_theta": rope.get("rope_theta", raw.get("rope_theta", 10_000.0))}
    if wrong := misfit(found, SHAPE | {"rope": turns}).removeprefix("it."):
        raise UserError(f"{name}: {wrong} is missing or not what belongs there: is it of {', '.join(FAMILY)}?")
    window = raw.get("sliding_window", 4096) if kind == "mistral" or raw.get("use_sliding_window") else None
    context = raw["max_position_embeddings"]
    try:
        return LlamaConfig(
            # Inside the window attention is plain: a context no longer than it is computed exactly.
            raw["vocab_size"], min(context, window or context), raw["num_hidden_layers"], raw["num_attention_heads"],
            raw["hidden_size"], raw.get("num_key_value_heads") or 0, raw.get("head_dim") or 128 * (kind == "qwen3"),
            raw["intermediate_size"], float(found["rope_theta"]), tuple(rope[key] for key in turns) or None,
            float(raw["rms_norm_eps"]), kind == "qwen2", kind == "qwen3", bool(raw.get("tie_word_embeddings")),
            float(raw.get("resid_pdrop") or 0.0),
        )  # fmt: skip
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None
