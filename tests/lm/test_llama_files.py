"""Names and config.json of the Llama family: what is written is read, and what is not computed is refused by name."""

from dataclasses import replace

import pytest
from llamas import CASES, SHAPE, by_formula

from minirlhf.harness.files import UserError
from minirlhf.lm.checkpoint import to_huggingface
from minirlhf.lm.llama_files import config_from_json, config_to_json, their_name

LLAMA = {
    "model_type": "llama", "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0, "hidden_act": "silu", "tie_word_embeddings": True,
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_config_is_read_as_it_was_written(name):
    assert config_from_json(config_to_json(CASES[name], 0), "config.json") == CASES[name]


def test_a_config_of_elsewhere_is_read():
    """Old and new keys of the same model."""
    assert config_from_json(LLAMA, "c") == SHAPE
    new = {k: v for k, v in LLAMA.items() if k != "rope_theta"}
    assert config_from_json(new | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "c").rope_base == 5e5
    scaled = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
              "original_max_position_embeddings": 8192}  # fmt: skip
    assert config_from_json(LLAMA | {"rope_scaling": scaled}, "c").rope_scaling == (8.0, 1.0, 4.0, 8192)
    assert not config_from_json({k: v for k, v in LLAMA.items() if k != "tie_word_embeddings"}, "c").tied
    assert config_from_json(LLAMA | {"model_type": "qwen2"}, "c").qkv_bias
    qwen3 = config_from_json(LLAMA | {"model_type": "qwen3"}, "c")
    assert qwen3.qk_norm and qwen3.head_size == 128  # its own default, not width / heads


@pytest.mark.parametrize(
    "more, context",
    [({}, 256), ({"model_type": "mistral"}, 256), ({"model_type": "mistral", "sliding_window": 100}, 100),
     ({"model_type": "mistral", "sliding_window": None}, 256),
     ({"model_type": "mistral", "sliding_window": 100, "use_sliding_window": False}, 100),  # a key of Qwen's alone
     ({"model_type": "qwen2", "sliding_window": 100, "use_sliding_window": False}, 256),
     ({"model_type": "qwen2", "sliding_window": 100, "use_sliding_window": True}, 100)],
)  # fmt: skip
def test_a_window_that_slides_is_the_end_of_the_context(more, context):
    """Inside of it nothing slides: what fits is computed exactly, what does not fit is refused."""
    assert config_from_json(LLAMA | more, "c").context == context


@pytest.mark.parametrize(
    "key, value",
    [("hidden_act", "gelu"), ("mlp_bias", True), ("attention_bias", True), ("partial_rotary_factor", 0.5),
     ("quantization_config", {"bits": 4}), ("pretraining_tp", 2), ("num_experts", 8), ("attn_logit_softcapping", 50.0),
     ("rope_scaling", {"type": "linear", "factor": 2.0}), ("rope_parameters", {"rope_type": "yarn", "factor": 4.0})],
)  # fmt: skip
def test_what_is_computed_otherwise_is_refused_by_name(key, value):
    with pytest.raises(UserError, match=f"config.json: (rope_parameters|{key}) is"):
        config_from_json(LLAMA | {key: value}, "config.json")


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "intermediate_size", "rms_norm_eps"])
@pytest.mark.parametrize("value", [None, "many", [], -1, 10**40])
def test_a_damaged_config_is_refused_in_one_line(key, value):
    raw = {k: v for k, v in (LLAMA | {key: value}).items() if v is not None}
    with pytest.raises(UserError, match="config.json: ") as error:
        config_from_json(raw, "config.json")
    assert "\n" not in str(error.value)


def test_what_stretches_positions_is_read_where_transformers_reads_it():
    """rope_scaling, the older key, wins over rope_parameters."""
    both = {"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "yarn", "factor": 4.0}}
    with pytest.raises(UserError, match="yarn"):
        config_from_json(LLAMA | both, "c")


def test_names_are_those_of_llama_for_causal_lm():
    names = set(to_huggingface(by_formula(replace(SHAPE, layers=1, tied=False))))
    layer = "model.layers.0."
    attention = {f"{layer}self_attn.{x}_proj.weight" for x in "qkvo"}
    mlp = {f"{layer}mlp.{x}_proj.weight" for x in ("gate", "up", "down")}
    norms = {f"{layer}input_layernorm.weight", f"{layer}post_attention_layernorm.weight", "model.norm.weight"}
    assert names == attention | mlp | norms | {"model.embed_tokens.weight", "lm_head.weight"}
    assert their_name("h.3.attn.q_norm.weight") == "model.layers.3.self_attn.q_norm.weight"
