"""The Llama family: its formulas, and another implementation's logits for weights made by a formula."""

import json
from dataclasses import replace
from math import cos, pi, sin, sqrt
from pathlib import Path

import pytest
import torch
from llamas import CASES, SHAPE, by_formula, some_ids

from minirlhf.lm.generation import Sampling, generate, responses_of
from minirlhf.lm.llama import RMSNorm, rotate, turning_rates
from minirlhf.lm.model import KVCache

GOLDEN = json.loads((Path(__file__).parent.parent / "golden.json").read_text(encoding="utf-8"))["llama"]

@pytest.fixture(params=CASES)
def case(request):
    return request.param, by_formula(CASES[request.param])


@torch.no_grad()
def test_the_logits_are_those_of_another_implementation(case):
    """transformers 5.24, float32, 60 tokens in 3 rows; the positions pass Llama 3's original context of 32."""
    name, model = case
    logits = model.logits(model(some_ids(3, 60)))  # (3, 60, V)
    wanted = torch.tensor(GOLDEN[name]["logits"])  # (3, 4, 8): of the last four places, the first eight tokens
    scale = float(logits.abs().max())
    torch.testing.assert_close(logits[:, -4:, :8], wanted, atol=1e-5 * scale, rtol=0)
    assert float(logits.double().square().mean()) == pytest.approx(GOLDEN[name]["mean_square"], rel=1e-5)


@torch.no_grad()
def test_padding_on_the_left_and_the_cache_change_nothing(case):
    """Ragged rows, a prompt of 30 columns and then token by token: each row as if it stood alone."""
    _, model = case
    ids, gone = some_ids(3, 40), (20, 7, 0)
    mask = torch.stack([torch.arange(40) >= n for n in gone])
    cache = KVCache()
    steps = [model(ids[:, :30], mask[:, :30], cache)] + [model(ids[:, t : t + 1], mask[:, t : t + 1], cache)
                                                         for t in range(30, 40)]  # fmt: skip
    hidden = torch.cat(steps, 1)
    for row, n in enumerate(gone):
        alone = model(ids[row : row + 1, n:])
        for got in (model(ids, mask)[row, n:], hidden[row, n:]):
            torch.testing.assert_close(got, alone[0], atol=2e-5, rtol=1e-5)


def slow_attention(attn, x: torch.Tensor) -> torch.Tensor:
    """Attention of one row by loops, in float64: each query head looks up its own head of keys."""
    c, T = attn.config, len(x)
    theta = [c.rope_base ** (-2 * i / c.head_size) for i in range(c.head_size // 2)]

    def turned(head: torch.Tensor, m: int) -> torch.Tensor:
        half, out = c.head_size // 2, head.clone()
        for i in range(half):
            a, b, angle = head[i], head[i + half], m * theta[i]
            out[i], out[i + half] = a * cos(angle) - b * sin(angle), b * cos(angle) + a * sin(angle)
        return out

    q, k, v = (proj(x).view(T, -1, c.head_size) for proj in (attn.q_proj, attn.k_proj, attn.v_proj))
    rows = []
    for t in range(T):
        heads = []
        for h in range(c.heads):
            g = h // (c.heads // c.kv_heads)
            scores = torch.stack([turned(q[t, h], t) @ turned(k[s, g], s) / sqrt(c.head_size) for s in range(t + 1)])
            heads.append((scores.softmax(0)[:, None] * v[: t + 1, g]).sum(0))
        rows.append(attn.o_proj(torch.cat(heads)))
    return torch.stack(rows)


@torch.no_grad()
def test_attention_is_that_of_slow_loops():
    """Grouped heads share keys in order, and number i turns with number i + D/2."""
    model = by_formula(SHAPE).double()
    x = model.h[0].ln_1(model.wte(some_ids(1, 7)))
    bias = torch.zeros(7, 7).masked_fill(torch.ones(7, 7).triu(1).bool(), -1e30).repeat(2, 1)
    got = model.h[0].attn(x, model.turn(torch.arange(7)), bias.double(), None, 0)
    torch.testing.assert_close(got[0], slow_attention(model.h[0].attn, x[0]), atol=1e-6, rtol=0)


def test_scores_depend_on_distances_alone():
    model, q, k = by_formula(SHAPE), torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)
    at = lambda x, m: rotate(x, *model.turn(torch.tensor([m])))
    near, far = (at(q, 9 + n) * at(k, 4 + n) for n in (0, 100))
    assert float(near.sum()) == pytest.approx(float(far.sum()), abs=1e-4)
    assert float((at(q, 9) * at(k, 5)).sum()) != pytest.approx(float(near.sum()), abs=1e-4)


def test_the_scaled_turns_are_those_of_llama_3():
    """Fast planes stay, slow ones are slowed eightfold, those between lie between."""
    config = replace(SHAPE, rope_scaling=(8.0, 1.0, 4.0, 8192), head_size=64, rope_base=500_000.0)
    plain, scaled = turning_rates(replace(config, rope_scaling=None)), turning_rates(config)
    turns = 8192 * plain / (2 * pi)
    assert torch.equal(scaled[turns > 4], plain[turns > 4])
    torch.testing.assert_close(scaled[turns < 1], plain[turns < 1] / 8)
    between = (turns > 1) & (turns < 4)
    assert between.any() and bool(((scaled < plain) & (scaled > plain / 8))[between].all())


def test_rms_norm_is_its_formula():
    norm, x = RMSNorm(4, 1e-6), torch.tensor([[1.0, -2, 3, 4]])
    torch.testing.assert_close(norm(x), x / sqrt((1 + 4 + 9 + 16) / 4 + 1e-6))


@pytest.mark.parametrize("kernel", ["manual", "sdpa"])
def test_both_kernels_give_the_same_numbers(kernel):
    model = by_formula(replace(SHAPE, attention=kernel))
    torch.testing.assert_close(model(some_ids(2, 20)), by_formula(SHAPE)(some_ids(2, 20)), atol=1e-5, rtol=1e-5)


def test_the_cache_holds_the_heads_of_keys_alone():
    cache = KVCache()
    by_formula(SHAPE)(some_ids(3, 10), None, cache)
    assert [keys.shape for keys, _ in cache.layers] == [(3, 2, 16, 8)] * 2


def test_it_samples_as_a_gpt_does():
    """Greedy answers of ragged prompts are those of each prompt alone."""
    model, sampling = by_formula(SHAPE), Sampling(6, temperature=0)
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8, 9], [10]]
    together = responses_of(generate(model, prompts, sampling, 96, [0, 1, 2]))
    assert together == [responses_of(generate(model, [p], sampling, 96, [0]))[0] for p in prompts]


@pytest.mark.parametrize(
    "change, why",
    [({"kv_heads": 3}, "cannot share"), ({"head_size": 7}, "in pairs"), ({"layers": 0}, "at least 1"),
     ({"heads": 0}, "at least 1"),
     ({"width": 33, "head_size": 0}, "evenly"), ({"dropout": 1.0}, "outside"), ({"attention": "flash"}, "neither")],
)  # fmt: skip
def test_a_shape_that_cannot_be_built_is_refused(change, why):
    with pytest.raises(ValueError, match=why):
        replace(SHAPE, **change)
