"""The GPT: causal, blind to padding, equal to Hugging Face's GPT-2, and able to learn."""

import copy
import math
import warnings

import pytest
import torch
import torch.nn.functional as F

from minirlhf.lm import model as model_module
from minirlhf.lm import checkpoint
from minirlhf.lm.model import GPT, GPTConfig, KVCache, ScalarHead, attention, attention_bias

KERNELS = ("manual", "sdpa")


def some_ids(B: int, T: int, vocab_size: int = 50, seed: int = 1) -> torch.Tensor:
    """(B, T) random ids."""
    return torch.randint(vocab_size, (B, T), generator=torch.Generator().manual_seed(seed))


def logits_of(model: GPT, ids: torch.Tensor, key_mask=None, cache=None) -> torch.Tensor:
    """(B, T, V)"""
    return model.logits(model(ids, key_mask, cache))


def slow_attention(q, k, v):
    """Causal attention one query at a time: query i of T sees keys up to S - T + i."""
    out = torch.empty_like(q)
    B, H, T, D = q.shape
    S = k.shape[2]
    for b in range(B):
        for h in range(H):
            for i in range(T):
                seen = S - T + i + 1
                scores = torch.stack([q[b, h, i] @ k[b, h, j] for j in range(seen)]) / math.sqrt(D)
                weights = scores.exp() / scores.exp().sum()
                out[b, h, i] = sum(weights[j] * v[b, h, j] for j in range(seen))
    return out


def padded(rows: list[list[int]], side: str, pad: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """Ragged rows -> ids and mask (B, T), the padding on the left, on the right or in between."""
    T = max(map(len, rows))
    ids, mask = torch.full((len(rows), T), pad), torch.zeros(len(rows), T, dtype=torch.bool)
    for b, row in enumerate(rows):
        gap = T - len(row)
        places = {"left": range(gap, T), "right": range(len(row)),
                  "middle": [0, *range(gap + 1, T)]}[side]
        for place, token in zip(places, row):
            ids[b, place], mask[b, place] = token, True
    return ids, mask


# Attention


@pytest.mark.parametrize("heads, T, S", [(1, 5, 5), (2, 3, 7), (4, 1, 6)])
def test_attention_equals_its_definition(heads, T, S):
    """softmax(QKᵀ/√D)V with √ of the head size, the triangle aligned at its lower right."""
    torch.manual_seed(0)
    q = torch.randn(2, heads, T, 3)
    k, v = torch.randn(2, 2, heads, S, 3)
    got = attention(q, k, v, attention_bias(T, S - T, None, q))
    torch.testing.assert_close(got, slow_attention(q, k, v))


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_equals_torchs_own_forward_and_backward(heads):
    torch.manual_seed(heads)
    mask = torch.tensor([[False, False, True, True, True], [True] * 5])
    seen = mask[:, None, :, None]  # what a query that sees nothing returns means nothing
    results = []
    tensors = torch.randn(3, 2, heads, 5, 4)
    bias = attention_bias(5, 0, mask, tensors)
    for function in (attention, F.scaled_dot_product_attention):
        q, k, v = (x.clone().requires_grad_() for x in tensors)
        y = function(q, k, v, bias) * seen
        y.square().sum().backward()
        results.append([y, q.grad, k.grad, v.grad])
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)


def test_gradients_of_attention_are_the_derivatives():
    """gradcheck against finite differences in float64, with a key that is padding."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, 3, 2, dtype=torch.float64, requires_grad=True) for _ in range(3))
    bias = attention_bias(3, 0, torch.tensor([[True, False, True], [True] * 3]), q)
    assert torch.autograd.gradcheck(lambda q, k, v: attention(q, k, v, bias), (q, k, v))


def test_a_true_in_the_mask_means_look():
    """Two tokens, the first one masked: the second sees itself alone and returns its own value."""
    q = k = torch.ones(1, 1, 2, 1)
    v = torch.tensor([10.0, 20.0]).view(1, 1, 2, 1)
    keep_second = attention_bias(2, 0, torch.tensor([[False, True]]), q)
    assert attention(q, k, v, keep_second)[0, 0, 1, 0] == 20
    keep_both = attention_bias(2, 0, torch.tensor([[True, True]]), q)
    assert attention(q, k, v, keep_both).flatten().tolist() == [10, 15]


def test_bias_is_the_triangle_of_real_keys_behind_the_past():
    """Query i of T stands at column past + i; no row of the bias is infinite, so none turns to NaN."""
    mask = torch.tensor([[True, False, True, True]])
    bias = attention_bias(2, 2, mask, torch.zeros(()))
    assert (bias == 0).tolist() == [[[[True, False, True, False], [True, False, True, True]]]]
    assert bias.isfinite().all()
    unpadded = attention_bias(2, 2, None, torch.zeros(()))[0, 0]
    assert (unpadded == 0).tolist() == [[True] * 3 + [False], [True] * 4]
    assert (attention_bias(1, 3, None, torch.zeros(())) == 0).all()
    with_room = F.pad(mask, (0, 12))  # as a cache has behind what it holds
    assert torch.equal(attention_bias(2, 2, with_room, torch.zeros(()))[..., :4], bias)
    assert (attention_bias(2, 2, with_room, torch.zeros(()))[..., 4:] < 0).all()


def test_heads_can_be_renumbered(make_gpt):
    """Permuting the heads in c_attn and in the input side of c_proj changes nothing."""
    model = make_gpt(heads=4)
    shuffled = copy.deepcopy(model)
    order = torch.tensor([2, 0, 3, 1])
    columns = (order[:, None] * 4 + torch.arange(4)).flatten()  # the width 16 = 4 heads of 4
    fused = torch.cat([columns, 16 + columns, 32 + columns])
    with torch.no_grad():
        for block in shuffled.h:
            block.attn.c_attn.weight.copy_(block.attn.c_attn.weight[fused].clone())
            block.attn.c_attn.bias.copy_(block.attn.c_attn.bias[fused].clone())
            block.attn.c_proj.weight.copy_(block.attn.c_proj.weight[:, columns].clone())
    ids = some_ids(2, 9)
    assert not torch.equal(shuffled.h[0].attn.c_attn.weight, model.h[0].attn.c_attn.weight)
    torch.testing.assert_close(shuffled(ids), model(ids), atol=1e-5, rtol=1e-5)


# Causality and padding


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("side", [None, "left", "right"])
def test_no_token_sees_a_later_one(make_gpt, kernel, cached, side):
    """Changing the tokens behind t leaves the logits up to t as they were, to the bit, for every t."""
    model = make_gpt(attention=kernel)
    second = some_ids(1, 12 if side is None else 9, seed=2).tolist()
    ids, mask = padded(some_ids(1, 12).tolist() + second, side or "left")

    def run(ids):
        cache = KVCache() if cached else None
        with torch.no_grad():
            return logits_of(model, ids, None if side is None else mask, cache)

    before = run(ids)
    for t in range(11):
        changed = ids.clone()
        changed[:, t + 1 :] = (changed[:, t + 1 :] + 1) % 50
        after = run(changed)
        assert torch.equal(after[:, : t + 1][mask[:, : t + 1]], before[:, : t + 1][mask[:, : t + 1]])
        assert not torch.equal(after[:, t + 1 :][mask[:, t + 1 :]], before[:, t + 1 :][mask[:, t + 1 :]])


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients_flow_from_the_past_and_never_from_the_future(make_gpt, kernel):
    """d logits[t] / d embedding[s] is 0 for s > t and not 0 for every s <= t."""
    model = make_gpt(attention=kernel)
    embedded = []
    model.wte.register_forward_hook(lambda module, args, out: embedded.append(out.requires_grad_()) or out)
    logits = logits_of(model, some_ids(1, 8))
    for t in range(8):
        (gradient,) = torch.autograd.grad(logits[0, t].square().sum(), embedded[0], retain_graph=True)
        seen = gradient[0].abs().sum(-1)
        assert (seen[: t + 1] > 0).all() and (seen[t + 1 :] == 0).all()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("side", ["left", "right", "middle"])
def test_a_row_of_a_ragged_batch_equals_the_row_alone(make_gpt, kernel, side):
    """Positions count real tokens, and padding is not seen, wherever it stands (D21, D24)."""
    model = make_gpt(attention=kernel)
    rows = [some_ids(1, n, seed=n)[0].tolist() for n in (9, 1, 5, 8)]
    ids, mask = padded(rows, side)
    together = logits_of(model, ids, mask)
    for b, row in enumerate(rows):
        alone = logits_of(model, torch.tensor([row]))[0]
        torch.testing.assert_close(together[b, mask[b]], alone, atol=1e-5, rtol=1e-5)


def test_padding_on_the_right_needs_no_mask(make_gpt):
    model = make_gpt()
    ids, mask = padded([some_ids(1, 9)[0].tolist(), some_ids(1, 4)[0].tolist()], "right")
    torch.testing.assert_close(model(ids)[mask], model(ids, mask)[mask], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_padding_holds_has_no_influence(make_gpt, kernel):
    model = make_gpt(attention=kernel)
    rows = [some_ids(1, 9)[0].tolist(), some_ids(1, 4)[0].tolist()]
    (ids, mask), (other, _) = padded(rows, "left", pad=7), padded(rows, "left", pad=31)
    assert torch.equal(model(ids, mask)[mask], model(other, mask)[mask])


@pytest.mark.parametrize("kernel", KERNELS)
def test_rows_of_padding_alone_give_finite_hidden_states_and_gradients(make_gpt, kernel):
    """A query that sees nothing would be NaN under -inf, and NaN survives a multiplication by 0."""
    model = make_gpt(attention=kernel)
    mask = torch.tensor([[False] * 6, [False] * 3 + [True] * 3])
    hidden = model(some_ids(2, 6), mask)
    assert hidden.isfinite().all()
    hidden[mask].square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


# The cache


@torch.no_grad()
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("chunks", [(1, 3, 8), (12,), (5, 7), (1,) * 12])
def test_a_prompt_fed_in_chunks_equals_one_shot(make_gpt, kernel, chunks):
    """Also a ragged one: the cached mask is aligned at its lower right (D5)."""
    model = make_gpt(attention=kernel)
    ids, mask = padded([some_ids(1, 12)[0].tolist(), some_ids(1, 7)[0].tolist()], "left")
    whole = logits_of(model, ids, mask)
    cache = KVCache()
    parts = [logits_of(model, i, m, cache) for i, m in zip(ids.split(chunks, 1), mask.split(chunks, 1))]
    assert cache.length == 12
    torch.testing.assert_close(torch.cat(parts, 1)[mask], whole[mask], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_cache_without_a_mask_takes_all_tokens_as_real(make_gpt):
    model = make_gpt()
    ids = some_ids(2, 6)
    cache = KVCache()
    parts = [model(ids[:, :4], None, cache), model(ids[:, 4:], None, cache)]
    torch.testing.assert_close(torch.cat(parts, 1), model(ids), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_cache_keeps_the_rows_it_is_told_to(make_gpt):
    model = make_gpt()
    ids, mask = padded([some_ids(1, n, seed=n)[0].tolist() for n in (6, 3, 5)], "left")
    rows = torch.tensor([2, 1])
    next_ids = some_ids(3, 1, seed=9)
    whole, cut = KVCache(), KVCache()
    for cache in (whole, cut):
        model(ids, mask, cache)
    cut.keep(rows)
    torch.testing.assert_close(model(next_ids[rows], None, cut), model(next_ids, None, whole)[rows])


@torch.no_grad()
def test_the_cache_grows_by_16_columns_and_moves_only_then(make_gpt):
    model, cache, places = make_gpt(context=40), KVCache(), []
    for t in range(33):
        model(some_ids(1, 1, seed=t), None, cache)
        keys, values = cache.layers[1]
        assert keys.shape == values.shape == (1, 2, t // 16 * 16 + 16, 8)
        places.append((keys.data_ptr(), values.data_ptr()))
    assert len(set(places[:16])) == len(set(places[16:32])) == 1 and len(set(places)) == 3


def test_a_row_kept_twice_is_two_rows_with_the_gradient_of_both(make_gpt):
    """Two answers to one prompt, which is read once: their keys, values and gradients, as in plain passes."""
    model = make_gpt()
    prompt, answers = some_ids(1, 5), some_ids(2, 3, seed=1)
    plain = model(torch.cat([prompt.expand(2, 5), answers], 1))[:, 5:]
    wanted = torch.autograd.grad(plain.square().sum(), model.h[0].attn.c_attn.weight)[0]
    cache = KVCache()
    model(prompt, None, cache)
    cache.keep(torch.tensor([0, 0]))
    behind = model(answers, None, cache)
    torch.testing.assert_close(behind, plain, atol=1e-5, rtol=1e-5)
    got = torch.autograd.grad(behind.square().sum(), model.h[0].attn.c_attn.weight)[0]
    torch.testing.assert_close(got, wanted, atol=1e-5 * float(wanted.abs().max()), rtol=1e-5)


# The context


@torch.no_grad()
@pytest.mark.parametrize("cached", [False, True])
def test_more_tokens_than_the_context_are_refused_with_both_numbers(make_gpt, cached):
    """context - 1 and context tokens fit, one more does not; padding does not count."""
    model = make_gpt(context=8)

    def run(T):
        return model(some_ids(1, T), None, KVCache() if cached else None)

    for T in (7, 8):
        assert run(T).shape == (1, T, 16)
    with pytest.raises(ValueError, match="9 .* 8"):
        run(9)
    padded_mask = torch.tensor([[False] * 2 + [True] * 8])
    alone = model(some_ids(1, 10)[:, 2:])
    torch.testing.assert_close(model(some_ids(1, 10), padded_mask)[:, 2:], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("wrong", [
    {"heads": 3}, {"vocab_size": 0}, {"context": 0}, {"layers": 0}, {"dropout": 1.0}, {"dropout": -0.1},
    {"dropout": math.nan}, {"attention": "flash"},
])
def test_a_shape_that_cannot_be_built_is_refused(wrong):
    with pytest.raises(ValueError):
        GPTConfig(**{"vocab_size": 10, "width": 8, "heads": 2, **wrong})


# The parts


def test_gelu_is_the_tanh_form(make_gpt):
    """0.5x(1 + tanh(√(2/π)(x + 0.044715x³))), which differs from the erf form by more than 1e-5 (D14)."""
    x = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0])
    tanh_form = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    mlp = make_gpt(width=5, heads=1).h[0].mlp
    with torch.no_grad():
        for layer in (mlp.c_fc, mlp.c_proj):
            layer.weight.zero_()
            layer.bias.zero_()
        mlp.c_fc.weight[:5] = torch.eye(5)
        mlp.c_proj.weight[:, :5] = torch.eye(5)
        torch.testing.assert_close(mlp(x), tanh_form, atol=1e-6, rtol=0)
    assert (F.gelu(x) - tanh_form).abs().max() > 1e-4


def test_blocks_are_pre_norm_with_a_last_layer_norm(make_gpt):
    """x + Attention(LN(x)), then x + MLP(LN(x)), then ln_f: biased variance, 1e-5 inside the root."""
    model = make_gpt(layers=1, heads=1)
    block, ids = model.h[0], some_ids(1, 4)

    def norm(x, layer):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias

    with torch.no_grad():
        x = model.wte.weight[ids[0]] + model.wpe.weight[:4]
        q, k, v = (norm(x, block.ln_1) @ block.attn.c_attn.weight.T + block.attn.c_attn.bias).split(16, -1)
        y = slow_attention(q[None, None], k[None, None], v[None, None])[0, 0]
        x = x + y @ block.attn.c_proj.weight.T + block.attn.c_proj.bias
        x = x + block.mlp(norm(x, block.ln_2))
        torch.testing.assert_close(model(ids)[0], norm(x, model.ln_f), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_dropout_stands_in_three_places_and_only_in_training(make_gpt, monkeypatch, kernel):
    """Embedding once; attention weights once a layer; what joins the residual stream twice a layer."""
    model = make_gpt(dropout=0.25, attention=kernel)
    active = []
    dropout, sdpa = F.dropout, F.scaled_dot_product_attention

    def spy_dropout(x, p=0.5, training=True):
        active.extend([tuple(x.shape)] if p == 0.25 and training else [])
        return dropout(x, p, training)

    def spy_sdpa(q, k, v, attn_mask=None, dropout_p=0.0):
        active.extend([(*q.shape[:3], k.shape[2])] if dropout_p == 0.25 else [])
        return sdpa(q, k, v, attn_mask=attn_mask, dropout_p=dropout_p)

    monkeypatch.setattr(model_module.F, "dropout", spy_dropout)
    monkeypatch.setattr(model_module.F, "scaled_dot_product_attention", spy_sdpa)
    ids = some_ids(3, 5)
    assert torch.equal(model(ids), model(ids)) and active == []
    model.train()
    assert not torch.equal(model(ids), model(ids))
    assert sorted(active) == sorted(2 * ([(3, 5, 16)] * (1 + 2 * 2) + [(3, 2, 5, 5)] * 2))


@pytest.mark.parametrize("kernel", KERNELS)
def test_without_dropout_training_equals_evaluation(make_gpt, kernel):
    model = make_gpt(attention=kernel)
    ids = some_ids(2, 9)
    evaluated = model(ids)
    assert torch.equal(model.train()(ids), evaluated)


def test_manual_attention_equals_sdpa_forward_and_backward(make_gpt):
    """Through the whole model, with a ragged batch, to 1e-5."""
    ids, mask = padded([some_ids(1, 9)[0].tolist(), some_ids(1, 4)[0].tolist()], "left")
    results = []
    for kernel in KERNELS:
        model = make_gpt(attention=kernel)
        logits = logits_of(model, ids, mask)[mask]
        logits.square().mean().backward()
        results.append([logits, *(p.grad for p in model.parameters())])
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kernel", KERNELS)
def test_autocast_to_bfloat16_stays_near_float32(make_gpt, kernel):
    """The bias takes the dtype of the products; rows that see nothing stay finite in it."""
    model = make_gpt(attention=kernel)
    ids, mask = padded([some_ids(1, 9)[0].tolist(), some_ids(1, 4)[0].tolist()], "left")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        hidden = model(ids, mask)
    assert hidden.isfinite().all()
    torch.testing.assert_close(hidden[mask].float(), model(ids, mask)[mask], atol=0.2, rtol=0)


# Parameters


def test_initial_parameters_follow_gpt2():
    """N(0, 0.02), zero biases, unit LayerNorms; what joins the residual stream has 0.02/√(2 layers)."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=400, context=200, layers=8, heads=4, width=128))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all()
        elif "ln_" in name:
            assert (parameter == 1).all()
        else:
            wanted = 0.02 / 4 if "c_proj" in name else 0.02
            assert parameter.std().item() == pytest.approx(wanted, rel=0.05), name
            assert abs(parameter.mean().item()) < 0.1 * wanted, name


def test_loss_at_init_is_near_ln_of_the_vocabulary():
    """|loss − ln V| < 0.2 on random tokens."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=300, context=32, width=64))
    ids = some_ids(16, 32, 300)
    loss = F.cross_entropy(logits_of(model, ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert abs(loss.item() - math.log(300)) < 0.2


def test_parameters_are_counted_as_the_formula_says(make_gpt):
    """VC + PC + L(12C² + 13C) + 2C: the head adds nothing, it is the embedding."""
    V, P, L, C = 50, 32, 2, 16
    count = sum(p.numel() for p in make_gpt().parameters())
    assert count == V * C + P * C + L * (12 * C * C + 13 * C) + 2 * C


def reloaded(model: GPT) -> GPT:
    """A fresh GPT with the state dict of another."""
    fresh = GPT(model.config)
    fresh.load_state_dict(model.state_dict())
    return fresh


@pytest.mark.parametrize("change", [copy.copy, copy.deepcopy, GPT.double, reloaded])
def test_the_head_is_the_embedding(make_gpt, change):
    """Raising one row of the embedding raises that token's logit, whatever happened to the model before."""
    model = change(make_gpt())
    hidden = torch.ones(1, 16, dtype=model.wte.weight.dtype)
    before = model.logits(hidden)
    with torch.no_grad():
        model.wte.weight[5] += 1
    after = model.logits(hidden)
    assert (after - before)[0, 5].item() == pytest.approx(16, abs=1e-3)
    assert torch.equal(after[0, 6:], before[0, 6:])


def test_the_gradient_of_the_embedding_is_the_sum_of_both_uses(make_gpt):
    model = make_gpt()
    ids = some_ids(2, 5)
    logits_of(model, ids).square().sum().backward()
    tied = model.wte.weight.grad.clone()
    model.zero_grad()
    F.linear(model(ids), model.wte.weight.detach()).square().sum().backward()
    as_input = model.wte.weight.grad.clone()
    model.zero_grad()
    model.logits(model(ids).detach()).square().sum().backward()
    as_head = model.wte.weight.grad
    assert as_input.abs().sum() > 0 and as_head.abs().sum() > 0
    torch.testing.assert_close(tied, as_input + as_head)


def test_growing_the_vocabulary_keeps_the_old_logits_and_ties_the_new_head(make_gpt):
    """New rows are the mean of the old, take gradients, and serve as input and as head."""
    model = make_gpt()
    ids = some_ids(2, 5)
    before, mean = logits_of(model, ids), model.wte.weight.mean(0)
    checkpoint.resize_vocabulary(model, 53)
    assert model.config.vocab_size == 53 and model.config.heads == 2 and model.wte.num_embeddings == 53
    after = logits_of(model, ids)
    assert after.shape == (2, 5, 53)
    torch.testing.assert_close(after[..., :50], before)
    torch.testing.assert_close(model.wte.weight[50:], mean.expand(3, -1))
    logits_of(model, torch.tensor([[51]]))[..., 52].sum().backward()
    used = model.wte.weight.grad.abs().sum(1) > 0
    assert used[51] and used[52] and not used[:51].any()


def test_cutting_the_vocabulary_keeps_the_logits_of_what_stays(make_gpt):
    model = make_gpt()
    ids = some_ids(2, 5) % 40
    before = logits_of(model, ids)
    checkpoint.resize_vocabulary(model, 50)
    assert torch.equal(logits_of(model, ids), before)
    checkpoint.resize_vocabulary(model, 40)
    assert model.config.vocab_size == 40 and logits_of(model, ids).shape == (2, 5, 40)
    torch.testing.assert_close(logits_of(model, ids), before[..., :40])


def test_a_scalar_head_starts_at_zero_and_drops_the_last_dimension():
    head = ScalarHead(16)
    hidden = torch.randn(2, 5, 16)
    assert torch.equal(head(hidden), torch.zeros(2, 5))
    head(hidden).sum().backward()
    torch.testing.assert_close(head.weight.grad[0], hidden.sum((0, 1)))


# Learning


def train(model: GPT, batches, lr: float) -> float:
    """Adam on the mean loss of (ids, mask) batches, mask (B, T - 1) on the targets; the last loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr)
    for ids, mask in batches:
        logits = logits_of(model, ids)[:, :-1]
        loss = F.cross_entropy(logits[mask], ids[:, 1:][mask])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_batch_can_be_learned_by_heart(kernel):
    """The first target of a row can only be known from its first token, so those are all different."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(50, 16, 2, 2, 32, attention=kernel))
    ids = some_ids(4, 16)
    ids[:, 0] = torch.arange(4)
    mask = torch.ones(4, 15, dtype=torch.bool)
    assert train(model, [(ids, mask)] * 100, 1e-2) < 0.05


def test_two_layers_learn_to_copy():
    """abcd abcd: every token of the second half, 100 % on strings that were not trained on."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = GPT(GPTConfig(10, 10, 2, 2, 32))
    mask = torch.zeros(64, 9, dtype=torch.bool)
    mask[:, 5:] = True

    def batch():
        half = torch.randint(9, (64, 5), generator=generator)
        half[:, 0] = 9
        return torch.cat([half, half], 1), mask

    train(model, (batch() for _ in range(300)), 5e-3)
    ids, _ = batch()
    with torch.no_grad():
        guessed = logits_of(model, ids)[:, :-1].argmax(-1)
    assert torch.equal(guessed[mask], ids[:, 1:][mask])


# Hugging Face's GPT-2, randomly initialised, as an oracle


@pytest.fixture
def hugging_face(monkeypatch):
    """A GPT2LMHeadModel and a GPT with the same parameters, biases and LayerNorms made random."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    from minirlhf.lm.checkpoint import from_huggingface
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=97, n_positions=64, n_embd=48, n_layer=2, n_head=3, eos_token_id=0, bos_token_id=0)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return theirs, from_huggingface(theirs.state_dict(), GPTConfig(97, 64, 2, 3, 48), "theirs").eval()


@pytest.mark.parametrize("padding", [None, "left", "right"])
def test_logits_equal_hugging_faces(hugging_face, padding):
    theirs, ours = hugging_face
    rows = [some_ids(1, n, 97, seed=n)[0].tolist() for n in (20, 20 if padding is None else 6)]
    ids, mask = padded(rows, padding or "left")
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        wanted = theirs(ids, attention_mask=mask.long(), position_ids=positions).logits
        got = logits_of(ours, ids, None if padding is None else mask)
    torch.testing.assert_close(got[mask], wanted[mask], atol=1e-5, rtol=1e-5)


def test_loss_and_gradients_equal_hugging_faces(hugging_face):
    theirs, ours = hugging_face
    ids = some_ids(3, 12, 97)
    wanted = theirs(ids, labels=ids).loss
    got = F.cross_entropy(logits_of(ours, ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert got.item() == pytest.approx(wanted.item(), abs=1e-5)
    wanted.backward()
    got.backward()
    torch.testing.assert_close(ours.wte.weight.grad, theirs.transformer.wte.weight.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.h[0].attn.c_attn.weight.grad,
                               theirs.transformer.h[0].attn.c_attn.weight.grad.t(), atol=1e-5, rtol=1e-4)


def test_greedy_generation_equals_hugging_faces(hugging_face):
    """A left-padded batch of three lengths, 30 tokens each, EOS included where they sample it."""
    from minirlhf.lm.generation import Sampling, generate
    theirs, ours = hugging_face
    prompts = [some_ids(1, n, 97, seed=n)[0].tolist() for n in (9, 2, 5)]
    ids, mask = padded(prompts, "left", pad=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = theirs.generate(ids, attention_mask=mask.long(), do_sample=False, max_new_tokens=30,
                                 pad_token_id=0, eos_token_id=0)[:, ids.shape[1]:]
    got = generate(ours, prompts, Sampling(30, temperature=0), eos_id=0, seeds=[0, 1, 2])
    assert got.ids.tolist() == wanted.tolist()
