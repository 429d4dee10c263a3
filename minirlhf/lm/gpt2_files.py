"""GPT-2 in Hugging Face's names: config.json and tensors, read and written.

Proved by tests/lm/test_checkpoint.py.
"""

from minirlhf.harness.files import UserError
from minirlhf.lm.model import GPTConfig

PREFIX = "transformer."  # of all tensors, in a model with a head
# Hugging Face keeps these as (in, out), torch's Linear as (out, in).
TRANSPOSED = (".attn.c_attn.weight", ".attn.c_proj.weight", ".mlp.c_fc.weight", ".mlp.c_proj.weight")
IS = "a GPT-2"
IGNORED = (".attn.bias", ".attn.masked_bias")  # causal masks, that old checkpoints carry


def their_name(name: str) -> str:
    """The name of one of our parameters in a GPT2LMHeadModel."""
    return PREFIX + name


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
