"""Attention weights read from outside, against the textbook's loops and the block's own output."""

from dataclasses import replace
from math import exp, sqrt

import numpy as np
import pytest
import torch
from llamas import CASES, by_formula, some_ids

from minirlhf.evaluation.attention import MAPS, TOKENS, attention_weights, shown_attention

IDS = torch.tensor([7, 3, 3, 41, 0, 12])


def hooks(model) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


@torch.no_grad()
@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("kernel", ["manual", "sdpa"])
def test_the_weights_are_the_softmax_of_scaled_products(heads, kernel, make_gpt):
    """Query by query and key by key, on each layer's own input, whatever kernel runs the model."""
    model = make_gpt(heads=heads, attention=kernel).double()
    got = attention_weights(model, IDS)
    assert got.shape == (2, heads, 6, 6)
    x = model.wte(IDS) + model.wpe(torch.arange(6))  # (T, C)
    D = 16 // heads
    for block, weights in zip(model.h, got):
        q, k, _ = block.attn.c_attn(block.ln_1(x)).split(16, -1)  # (T, C) each
        for h in range(heads):
            part = slice(h * D, (h + 1) * D)
            for t in range(6):
                e = [exp(float(q[t, part] @ k[s, part]) / sqrt(D)) for s in range(t + 1)]
                expected = [v / sum(e) for v in e] + [0.0] * (5 - t)
                assert weights[h, t].tolist() == pytest.approx(expected, abs=1e-9)
        x = block(x[None], torch.full((6, 6), -1e9).triu(1).double(), None, 0)[0]  # (T, C)


@torch.no_grad()
@pytest.mark.parametrize("kernel", ["manual", "sdpa"])
def test_the_weights_make_the_blocks_own_output(kernel, make_gpt):
    """A V, the heads side by side, through c_proj is what the attention of the running model gave."""
    model, outputs = make_gpt(attention=kernel), []
    for block in model.h:
        block.attn.register_forward_hook(lambda module, args, y: outputs.append((args[0][0], y[0])))
    got = attention_weights(model, IDS)
    for block, weights, (x, y) in zip(model.h, got, outputs):
        v = block.attn.c_attn(x).split(16, -1)[2].view(6, 2, 8).transpose(0, 1)  # (H, T, D)
        mixed = (weights @ v).transpose(0, 1).reshape(6, 16)  # (T, C)
        assert torch.allclose(block.attn.c_proj(mixed), y, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kernel", ["manual", "sdpa"])
@pytest.mark.parametrize("name", CASES)
def test_of_a_llama_too_they_make_the_blocks_own_output(name, kernel):
    """Query head h weighs the values of its own group: head h // G of K."""
    model, outputs = by_formula(replace(CASES[name], attention=kernel)), []
    K, D = model.config.kv_heads, model.config.head_size
    for block in model.h:
        block.attn.register_forward_hook(lambda module, args, y: outputs.append((args[0][0], y[0])))
    got = attention_weights(model, ids := some_ids(1, 9)[0])
    assert got.shape == (2, 4, 9, 9) and not got.triu(1).any() and got.std() > 0.05
    for block, weights, (x, y) in zip(model.h, got, outputs):
        v = block.attn.v_proj(x).view(len(ids), K, D)  # (T, K, D)
        mixed = torch.cat([A @ v[:, h // (4 // K)] for h, A in enumerate(weights)], -1)  # (T, H D)
        torch.testing.assert_close(block.attn.o_proj(mixed), y, atol=1e-5, rtol=1e-4)


def test_rows_sum_to_1_and_nothing_looks_ahead(make_gpt):
    got = attention_weights(make_gpt(), IDS)
    assert torch.allclose(got.sum(-1), torch.ones(2, 2, 6)) and (got >= 0).all()
    assert not got.triu(1).any() and (got.diagonal(dim1=-2, dim2=-1) > 0).all()


def test_one_token_looks_at_itself(make_gpt):
    assert attention_weights(make_gpt(), IDS[:1]).tolist() == [[[[1.0]]] * 2] * 2


def test_no_hook_and_no_gradient_stays_behind(make_gpt):
    model = make_gpt()
    assert not attention_weights(model, IDS).requires_grad and hooks(model) == 0


def test_no_hook_stays_behind_after_an_error(make_gpt):
    model = make_gpt(context=4)
    with pytest.raises(ValueError, match="context"):
        attention_weights(model, IDS)
    model.h[1].attn.c_proj = None
    with pytest.raises(TypeError):
        attention_weights(model, IDS[:3])
    assert hooks(model) == 0


# What is shown


def test_each_head_is_shown_with_the_pieces_of_the_text(make_gpt, tokenizer):
    model = make_gpt(vocab_size=tokenizer.vocab_size)
    ids = tokenizer.encode("a好b") + [tokenizer.eos_id]
    got = shown_attention(model, tokenizer, ids)
    assert got["pieces"] == ["a", "", "", "好", "b", "<|endoftext|>"]
    assert [(m["layer"], m["head"]) for m in got["maps"]] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    weights = attention_weights(model, torch.tensor(ids))
    for m in got["maps"]:
        expected = weights[m["layer"], m["head"]].double().numpy()
        assert np.array(m["weights"]) == pytest.approx(expected, abs=6e-4)
        assert all(round(x, 3) == x for row in m["weights"] for x in row)


@pytest.mark.parametrize("layers, heads", [(4, 4), (2, 16)])
def test_of_many_heads_the_mean_of_each_layer_is_shown(layers, heads, make_gpt, tokenizer):
    model = make_gpt(vocab_size=tokenizer.vocab_size, layers=layers, heads=heads, width=16)
    maps = shown_attention(model, tokenizer, [5, 9, 5])["maps"]
    if layers * heads <= MAPS:
        assert len(maps) == layers * heads
        return
    assert [(m["layer"], m["head"]) for m in maps] == [(layer, None) for layer in range(layers)]
    means = attention_weights(model, torch.tensor([5, 9, 5])).mean(1)
    assert np.array([m["weights"] for m in maps]) == pytest.approx(means.double().numpy(), abs=6e-4)


def test_of_a_long_text_the_last_tokens_are_shown(make_gpt, tokenizer):
    """With the weights that they have in the whole of it."""
    model = make_gpt(vocab_size=tokenizer.vocab_size, context=64, layers=1, heads=1)
    ids = tokenizer.encode("".join(chr(33 + i) for i in range(TOKENS + 6)))
    got = shown_attention(model, tokenizer, ids)
    assert "".join(got["pieces"]) == tokenizer.decode(ids)[-TOKENS:]
    expected = attention_weights(model, torch.tensor(ids))[0, 0, -TOKENS:, -TOKENS:]
    assert np.array(got["maps"][0]["weights"]) == pytest.approx(expected.double().numpy(), abs=6e-4)
