"""Two families of models: whose names stand in a file, and new ones from the options."""

import pytest
from llamas import CASES, by_formula

from minirlhf.harness.files import UserError
from minirlhf.lm.config import Base
from minirlhf.lm.families import config_from_json, config_to_json, new_model
from minirlhf.lm.llama import Llama
from minirlhf.lm.model import GPT


@pytest.mark.parametrize("name", CASES)
def test_a_config_says_its_family(name):
    assert config_from_json(config_to_json(CASES[name], 3), "c") == CASES[name]
    with pytest.raises(UserError, match="model_type is 'bloom', this code knows gpt2, llama, qwen2, qwen3, mistral alone"):
        config_from_json({"model_type": "bloom"}, "c")


@pytest.mark.parametrize("family, kind", [("gpt2", GPT), ("llama", Llama)])
def test_a_new_model_has_the_sizes_of_the_options(family, kind):
    """Both families have about as many parameters, so that they can be compared."""
    base = Base(model=family, layers=3, heads=2, width=64, context=40, attention="sdpa", dropout=0.1)
    model = new_model(300, base)
    shape = model.config
    assert type(model) is kind
    assert (shape.layers, shape.heads, shape.width, shape.context) == (3, 2, 64, 40)
    assert (shape.vocab_size, shape.attention, shape.dropout) == (300, "sdpa", 0.1)
    blocks = sum(p.numel() for p in model.h.parameters())
    assert abs(blocks / (3 * 12 * 64**2) - 1) < 0.1  # 8/3 of the width, in steps of 32, is not exact


def test_a_llama_keeps_its_embedding_and_head_apart_where_its_config_says_so():
    assert by_formula(CASES["llama"]).lm_head is None and by_formula(CASES["qwen2"]).lm_head is not None
