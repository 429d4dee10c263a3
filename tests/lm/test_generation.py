"""Sampling: the fast ragged batch with a cache says what the slow loop says, and gives its log-probs."""

import math
import random

import numpy as np
import pytest
import torch

from minirlhf.evaluation.ask import stop_reasons
from minirlhf.lm.generation import Generation, Sampling, draw, generate, pad_left, responses_of, row_uniforms, truncate_logits

EOS = 0
SETTINGS = [
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 8},
    {"temperature": 1.3, "top_p": 0.8},
    {"temperature": 0.9, "top_k": 12, "top_p": 0.9},
]


def ragged(n: int = 5, vocab_size: int = 50) -> list[list[int]]:
    """n prompts of lengths 1 to 9, without EOS."""
    rng = random.Random(3)
    return [[rng.randrange(1, vocab_size) for _ in range(rng.randint(1, 9))] for _ in range(n)]


def slow_cut(probabilities: list[float], top_k: int, top_p: float) -> list[float]:
    """Keep the k most probable, then of the renormalised rest the fewest whose mass reaches p."""
    ranked = sorted(range(len(probabilities)), key=lambda i: -probabilities[i])
    kept = ranked[:top_k] if top_k else ranked
    total, mass, nucleus = sum(probabilities[i] for i in kept), 0.0, []
    for i in kept:
        if mass < top_p:
            nucleus.append(i)
            mass += probabilities[i] / total
    total = sum(probabilities[i] for i in nucleus)
    return [p / total if i in nucleus else 0.0 for i, p in enumerate(probabilities)]


@torch.no_grad()
def slow_generate(model, prompt, max_new, seed, temperature=1.0, top_k=0, top_p=1.0):
    """One row, no padding, no cache: (ids, log-probs, stop reason)."""
    ids, logprobs = list(prompt), []
    uniforms = row_uniforms([seed], max_new)[0].tolist()
    for u in uniforms:
        if len(ids) == model.config.context:
            return ids[len(prompt):], logprobs, "context"
        logits = model.logits(model(torch.tensor([ids])))[0, -1].double()
        if temperature == 0:
            ids.append(int(logits.argmax()))
            logprobs.append(0.0)
        else:
            probabilities = slow_cut((logits / temperature).softmax(-1).tolist(), top_k, top_p)
            below, token = 0.0, -1
            while below <= u:
                token += 1
                below += probabilities[token]
            ids.append(token)
            logprobs.append(math.log(probabilities[token]))
        if ids[-1] == EOS:
            return ids[len(prompt):], logprobs, "eos"
    return ids[len(prompt):], logprobs, "context" if len(ids) == model.config.context else "length"


def rows_of(generation: Generation) -> list[list[int]]:
    """The sampled ids of each row, EOS included."""
    return [row[m].tolist() for row, m in zip(generation.ids, generation.mask)]


def likely_eos(model):
    """The model with an EOS that rows meet at many places."""
    with torch.no_grad():
        model.ln_f.bias.add_(1.5 * model.wte.weight[EOS])
    return model


def never_eos(model):
    """The model with an EOS that is never sampled."""
    with torch.no_grad():
        model.ln_f.bias[0] = 5
        model.wte.weight[EOS] = torch.tensor([-100.0] + [0.0] * 15)
    return model


# Against the slow loop


@pytest.mark.parametrize("kernel", ["manual", "sdpa"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_ragged_batch_with_a_cache_equals_the_slow_loop(make_gpt, kernel, settings):
    """Tokens, log-probs and stop reasons of six rows over 60 steps, to the end of the context."""
    model = make_gpt(context=64, attention=kernel)
    prompts, seeds = ragged(6), list(range(20, 26))
    got = generate(model, prompts, Sampling(60, **settings), EOS, seeds)
    reasons = stop_reasons(got, 64)
    for b, (prompt, seed) in enumerate(zip(prompts, seeds)):
        ids, logprobs, reason = slow_generate(model, prompt, 60, seed, **settings)
        assert rows_of(got)[b] == ids
        assert got.logprobs[b, got.mask[b]].tolist() == pytest.approx(logprobs, abs=1e-4)
        assert reasons[b] == reason
    assert got.mask.sum(1).max() >= 50


def test_sampled_logprobs_are_those_an_uncached_forward_gives_the_same_tokens(make_gpt):
    """exp(scored − sampled) = 1 to 1e-5: the first ratio of PPO, temperature included."""
    model, temperature = make_gpt(), 0.7
    got = generate(model, ragged(), Sampling(20, temperature), EOS, range(5))
    ids, mask = torch.cat([got.prompt_ids, got.ids], 1), torch.cat([got.prompt_mask, got.mask], 1)
    P = got.prompt_ids.shape[1]
    logits = model.logits(model(ids, mask))[:, P - 1 : -1] / temperature
    scored = logits.log_softmax(-1).gather(-1, got.ids[..., None]).squeeze(-1)
    ratio = (scored - got.logprobs).exp()[got.mask]
    torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-5, rtol=0)


# Rows


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_row_does_not_depend_on_its_batch_mates(make_gpt, settings):
    """Alone, in another order or beside others, with compaction or without, a row says the same."""
    model = make_gpt()
    prompts, seeds = ragged(8), [7 * b for b in range(8)]
    together = generate(model, prompts, Sampling(20, **settings), EOS, seeds)
    backwards = generate(model, prompts[::-1], Sampling(20, **settings), EOS, seeds[::-1])
    assert rows_of(backwards)[::-1] == rows_of(together)
    for b in range(8):
        alone = generate(model, [prompts[b]], Sampling(20, **settings), EOS, [seeds[b]])
        assert rows_of(alone)[0] == rows_of(together)[b]
        torch.testing.assert_close(alone.logprobs[0, alone.mask[0]], together.logprobs[b, together.mask[b]],
                                   atol=1e-5, rtol=0)


def test_finished_rows_leave_the_cache_and_the_rest_goes_on_as_before(make_gpt, monkeypatch):
    """The batch the model sees shrinks, in steps of 16, and the rows come out as if it had not."""
    model = likely_eos(make_gpt())
    shapes = []
    forward = type(model).forward

    def spy(self, ids, *rest):
        shapes.append(ids.shape)
        return forward(self, ids, *rest)

    monkeypatch.setattr(type(model), "forward", spy)
    got = generate(model, ragged(100), Sampling(20), EOS, range(100))
    monkeypatch.undo()
    sizes = [rows for rows, _ in shapes]
    assert sizes[0] == 100 and sizes == sorted(sizes, reverse=True) and len(set(sizes)) >= 3
    assert min(sizes) < 40 and {n % 16 for n in sizes[1:]} <= {0, 100 % 16} and shapes[0][1] % 8 == 0
    for b, prompt in enumerate(ragged(12)):
        assert rows_of(got)[b] == slow_generate(model, prompt, 20, b)[0]


def test_the_same_seed_says_the_same_and_different_seeds_differ_at_the_first_token(make_gpt):
    """One prompt sampled 40 times: a broadcast first draw would give one token (nanochat once did)."""
    model = make_gpt()
    prompts = [[5, 6]] * 40
    first = generate(model, prompts, Sampling(6), EOS, range(40))
    assert torch.equal(first.ids, generate(model, prompts, Sampling(6), EOS, range(40)).ids)
    assert len(set(first.ids[:, 0].tolist())) > 10
    assert len(set(map(tuple, rows_of(generate(model, prompts, Sampling(6), EOS, [3] * 40))))) == 1


def test_sampling_neither_reads_nor_moves_the_global_generators(make_gpt):
    model = make_gpt()
    torch.manual_seed(1)
    first = generate(model, ragged(), Sampling(5), EOS, range(5)).ids
    state = torch.get_rng_state()
    assert torch.equal(generate(model, ragged(), Sampling(5), EOS, range(5)).ids, first)
    assert torch.equal(torch.get_rng_state(), state)


# Where rows end


@pytest.mark.parametrize("room, reason", [(0, "context"), (1, "context"), (3, "context"), (4, "length")])
def test_rows_stop_at_the_end_of_the_context(make_gpt, room, reason):
    """A prompt that leaves room for n tokens gets n, and max_new = 3 at most; one that fills it gets none."""
    model = never_eos(make_gpt(context=12))
    got = generate(model, [[1] * (12 - room)], Sampling(3), EOS, [0])
    assert got.mask.sum().item() == min(room, 3) and got.ids.shape == (1, min(room, 3))
    assert stop_reasons(got, 12) == [reason] and not got.ended.any()


def test_rows_of_one_batch_can_stop_for_all_three_reasons(make_gpt):
    model = never_eos(make_gpt(context=12))
    prompts, seeds = [[1] * 12, [2] * 10, [3] * 3, [4] * 3, [5] * 3], range(5)
    full = generate(model, prompts, Sampling(5), EOS, seeds)
    assert stop_reasons(full, 12) == ["context", "context", "length", "length", "length"]
    assert full.mask.sum(1).tolist() == [0, 2, 5, 5, 5]
    spoken = full.ids[2, 1].item()
    ended = generate(model, prompts, Sampling(5), spoken, seeds)
    assert stop_reasons(ended, 12)[2] == "eos" and ended.ended.tolist()[2]


def test_an_eos_that_fills_the_context_is_an_end(make_gpt):
    """Not a cut: "eos" goes before "context" and "length"."""
    model = never_eos(make_gpt(context=12))
    *before, last = generate(model, [[3] * 9], Sampling(3), EOS, [0]).ids[0].tolist()
    assert last not in before
    got = generate(model, [[3] * 9], Sampling(3), last, [0])
    assert stop_reasons(got, 12) == ["eos"] and got.mask.sum().item() == 3


def test_eos_is_counted_once_and_padding_behind_it_is_empty(make_gpt):
    """EOS has mask True and a log-prob; behind it stand the EOS id, mask False and log-prob 0."""
    model = likely_eos(make_gpt())
    got = generate(model, ragged(12), Sampling(8), EOS, range(12))
    lengths = got.mask.sum(1)
    assert 6 <= got.ended.sum() < 12 and len(set(lengths.tolist())) >= 4
    for b in range(12):
        n = int(lengths[b])
        assert got.mask[b].tolist() == [True] * n + [False] * (got.mask.shape[1] - n)
        assert EOS not in got.ids[b, : n - 1].tolist()
        assert (got.ids[b, n - 1].item() == EOS) == bool(got.ended[b])
        assert (got.logprobs[b, :n] < 0).all() and (got.logprobs[b, n:] == 0).all()
        assert (got.ids[b, n:] == EOS).all()
        assert responses_of(got)[b] == got.ids[b, : n - int(got.ended[b])].tolist()


def test_sampling_stops_as_soon_as_all_rows_have_ended(make_gpt, monkeypatch):
    """No column without a token, and no forward pass for one."""
    model = likely_eos(make_gpt())
    calls = []
    logits = type(model).logits
    monkeypatch.setattr(type(model), "logits", lambda self, hidden: calls.append(1) or logits(self, hidden))
    got = generate(model, [[4], [5, 6]], Sampling(30), EOS, [2, 3])
    assert got.ended.all() and got.ids.shape[1] == got.mask.sum(1).max() == len(calls) < 30


def test_prompts_come_back_padded_on_the_left(make_gpt):
    got = generate(make_gpt(), [[1, 2, 3], [4]], Sampling(2), EOS, [0, 1])
    assert got.prompt_ids.tolist() == [[1, 2, 3], [EOS, EOS, 4]]
    assert got.prompt_mask.tolist() == [[True] * 3, [False, False, True]]
    assert [x.dtype for x in (got.ids, got.mask, got.logprobs, got.ended)] == [
        torch.int64, torch.bool, torch.float32, torch.bool]


def test_pad_left_goes_by_length_and_not_by_value():
    """A prompt may hold the padding id itself."""
    ids, mask = pad_left([[9], [9, 9, 3], []], 9)
    assert ids.tolist() == [[9, 9, 9], [9, 9, 3], [9, 9, 9]]
    assert mask.tolist() == [[False, False, True], [True] * 3, [False] * 3]


# What it leaves behind


@pytest.mark.parametrize("training", [True, False])
def test_the_train_mode_is_restored(make_gpt, training):
    model = make_gpt().train(training)
    generate(model, [[1, 2]], Sampling(2), EOS, [0])
    assert model.training is training and model.h[0].attn.training is training


def test_the_train_mode_is_restored_after_an_exception(make_gpt, monkeypatch):
    model = make_gpt().train()
    monkeypatch.setattr(type(model), "logits", lambda self, hidden: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generate(model, [[1, 2]], Sampling(2), EOS, [0])
    assert model.training and model.h[0].attn.training
    assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()


def test_dropout_is_off_while_sampling(make_gpt):
    model, without = make_gpt(dropout=0.5), make_gpt()
    got = generate(model.train(), ragged(), Sampling(9), EOS, range(5))
    assert torch.equal(got.ids, generate(without, ragged(), Sampling(9), EOS, range(5)).ids)


def test_results_can_be_used_in_autograd(make_gpt):
    """Inference tensors would raise as soon as a loss saves them for its backward."""
    model = make_gpt()
    got = generate(model, ragged(), Sampling(6), EOS, range(5))
    assert not any(x.is_inference() for x in vars(got).values())
    ids, mask = torch.cat([got.prompt_ids, got.ids], 1), torch.cat([got.prompt_mask, got.mask], 1)
    logprobs = model.logits(model(ids, mask)).log_softmax(-1)[:, -got.ids.shape[1] - 1 : -1]
    scored = logprobs.gather(-1, got.ids[..., None]).squeeze(-1)
    ((scored - got.logprobs).exp() * got.logprobs)[got.mask].sum().backward()
    assert model.wte.weight.grad.isfinite().all()


# Settings


def test_temperature_zero_is_the_limit_of_small_temperatures(make_gpt):
    """Log-prob 0, whatever the seed; and T = 1e-4 and 1e-30 sample the same tokens with log-prob 0."""
    model = make_gpt()
    greedy = generate(model, ragged(), Sampling(20, temperature=0), EOS, range(5))
    assert (greedy.logprobs == 0).all()
    for T in (1e-4, 1e-30):
        cold = generate(model, ragged(), Sampling(20, temperature=T), EOS, range(50, 55))
        assert torch.equal(cold.ids, greedy.ids)
        assert cold.logprobs.abs().max() < 1e-4
    assert not torch.equal(generate(model, ragged(), Sampling(20, temperature=1), EOS, range(5)).ids, greedy.ids)


def test_one_allowed_token_is_greedy(make_gpt):
    model = make_gpt()
    greedy = generate(model, ragged(), Sampling(9, temperature=0), EOS, range(5))
    for cut in ({"top_k": 1}, {"top_p": 1e-6}):
        got = generate(model, ragged(), Sampling(9, **cut), EOS, range(5))
        assert torch.equal(got.ids, greedy.ids) and (got.logprobs == 0).all()


@pytest.mark.parametrize("wrong", [
    {"temperature": -0.1}, {"temperature": math.nan}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1},
    {"top_p": math.nan}, {"max_new": 0},
], ids=str)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="want max_new >= 1, temperature >= 0"):
        Sampling(**{"max_new": 3} | wrong)


@pytest.mark.parametrize("wrong", [
    {"prompts": []}, {"prompts": [[]]}, {"prompts": [[1] * 33]}, {"prompts": [[1], []], "seeds": [0, 1]},
    {"seeds": []}, {"seeds": [1, 2]},
], ids=str)
def test_wrong_prompts_and_seeds_are_refused(make_gpt, wrong):
    with pytest.raises(ValueError):
        generate(make_gpt(), **{"prompts": [[1]], "sampling": Sampling(3), "eos_id": EOS, "seeds": [0], **wrong})


# The cuts


def allowed(logits: list[float], **cuts) -> list[int]:
    """The tokens that truncate_logits leaves."""
    return truncate_logits(torch.tensor([logits]), **cuts)[0].isfinite().nonzero().flatten().tolist()


LOGITS = [math.log(p) for p in (0.1, 0.4, 0.05, 0.3, 0.15)]


@pytest.mark.parametrize("cuts, kept", [
    ({}, [0, 1, 2, 3, 4]), ({"top_k": 2}, [1, 3]), ({"top_k": 5}, [0, 1, 2, 3, 4]),
    ({"top_k": 99}, [0, 1, 2, 3, 4]), ({"top_p": 0.39}, [1]), ({"top_p": 0.41}, [1, 3]),
    ({"top_p": 0.69}, [1, 3]), ({"top_p": 0.71}, [1, 3, 4]), ({"top_p": 1e-60}, [1]),
    ({"top_p": 0.999}, [0, 1, 2, 3, 4]), ({"top_p": 1.0}, [0, 1, 2, 3, 4]),
], ids=str)
def test_the_cuts_keep_the_right_tokens(cuts, kept):
    """top_p keeps the fewest tokens whose mass reaches p, and one at least; top_k is at most all."""
    assert allowed(LOGITS, **cuts) == kept


def test_what_is_kept_is_unchanged_and_each_row_is_cut_on_its_own():
    logits = torch.tensor([LOGITS, LOGITS[::-1]])
    for cuts in ({"top_k": 2}, {"top_p": 0.6}):
        cut = truncate_logits(logits, **cuts)
        assert cut.isfinite().tolist() == [[False, True, False, True, False]] * 2
        assert torch.equal(cut[cut.isfinite()], logits[cut.isfinite()])


def test_tokens_that_tie_with_the_kth_stay():
    assert allowed([1.0, 3.0, 2.0, 2.0, 2.0, 0.0], top_k=2) == [1, 2, 3, 4]


def test_k_is_cut_before_p():
    """Of (.4 .3 .15) renormalised to (.47 .35 .18), two reach .8; of all five, four would be needed."""
    assert allowed(LOGITS, top_k=3, top_p=0.8) == [1, 3]
    assert allowed(LOGITS, top_p=0.8) == [1, 3, 4]
    assert allowed(LOGITS, top_k=3, top_p=0.84) == [1, 3, 4]


@pytest.mark.parametrize("top_k, top_p", [(0, 0.5), (7, 1.0), (9, 0.7), (3, 0.95), (0, 0.99)])
def test_the_cuts_equal_their_definition(top_k, top_p):
    logits = torch.randn(20, 30, generator=torch.Generator().manual_seed(0)).double() * 2
    got = truncate_logits(logits, top_k, top_p).softmax(-1)
    wanted = [slow_cut(row, top_k, top_p) for row in logits.softmax(-1).tolist()]
    torch.testing.assert_close(got, torch.tensor(wanted, dtype=torch.float64))


def test_the_cuts_equal_hugging_faces():
    """Their warpers in their order: top k, then top p."""
    transformers = pytest.importorskip("transformers")
    logits = torch.randn(20, 30, generator=torch.Generator().manual_seed(0)) * 2
    for k, p in [(5, 1.0), (30, 0.6), (10, 0.8)]:
        wanted = transformers.TopPLogitsWarper(p)(None, transformers.TopKLogitsWarper(k)(None, logits))
        assert torch.equal(truncate_logits(logits, k, p), wanted)


# The draw


def test_draw_inverts_the_cumulative_distribution():
    """Token i for u in [P(< i), P(<= i)): the slow twin walks along."""
    probabilities = torch.tensor([0.125, 0.0, 0.5, 0.25, 0.125])
    us = torch.tensor([0.0, 0.1, 0.125, 0.3, 0.6249, 0.625, 0.8749, 0.875, 0.99])
    assert draw(probabilities.expand(9, -1), us).tolist() == [0, 0, 2, 2, 2, 3, 3, 4, 4]


def test_draw_never_picks_a_token_of_probability_zero():
    """In front, in between and at the end, for the smallest and the largest u there is."""
    probabilities = torch.tensor([0.0, 0.0, 0.3, 0.0, 0.7, 0.0, 0.0])
    largest = np.nextafter(np.float32(1), np.float32(0))
    assert draw(probabilities.expand(2, -1), torch.tensor([0.0, largest])).tolist() == [2, 4]


@pytest.mark.parametrize("V", [1, 7, 1000])
def test_draw_stays_inside_when_the_probabilities_do_not_sum_to_one(V):
    """Float sums miss 1 on both sides, and u near 1 may round up to the total."""
    generator = torch.Generator().manual_seed(V)
    probabilities = torch.randn(500, V, generator=generator).mul(3).softmax(-1)
    probabilities *= torch.linspace(0.999, 1.001, 500)[:, None]
    probabilities[:, -1:] = probabilities[:, -1:] if V == 1 else 0
    for u in (0.0, 0.5, 1 - 2**-24, 1 - 2**-20):
        tokens = draw(probabilities, torch.full((500,), u))
        assert (tokens >= 0).all() and (tokens < V).all()
        assert (probabilities.gather(1, tokens[:, None]) > 0).all()


def test_frequencies_of_sampled_tokens_are_the_probabilities(make_gpt):
    """χ² of the first token of 20,000 rows, top k and temperature on; 15.09 is its 1 % point at 5 d.f."""
    model = make_gpt(vocab_size=9)
    n, cuts = 20_000, {"temperature": 1.4, "top_k": 6}
    got = generate(model, [[3, 1, 4]] * n, Sampling(1, **cuts), EOS, range(n))
    with torch.no_grad():
        logits = model.logits(model(torch.tensor([[3, 1, 4]])))[0, -1]
    wanted = torch.tensor(slow_cut((logits / 1.4).softmax(-1).tolist(), 6, 1.0)) * n
    counts = got.ids[:, 0].bincount(minlength=9).float()
    assert (counts[wanted == 0] == 0).all() and (wanted > 0).sum() == 6 and wanted[wanted > 0].min() > 50
    assert ((counts - wanted).square() / wanted)[wanted > 0].sum() < 15.09


def test_uniforms_of_a_row_depend_on_its_seed_alone_and_begin_alike_at_any_length():
    """Else what a row says would depend on how long its batch mates may speak."""
    rows = row_uniforms([5, 6, 5, 2**70], 40)
    assert rows.shape == (4, 40) and rows.dtype == torch.float32
    assert torch.equal(rows[0], rows[2]) and not torch.equal(rows[0], rows[1])
    for n in (1, 2, 39):
        assert torch.equal(row_uniforms([6], n)[0], rows[1, :n])


def test_uniforms_are_uniform_within_a_row_and_across_seeds():
    """χ² over ten equal bins, 21.67 is its 1 % point at 9 d.f.; neighbours in seed are uncorrelated."""
    grid = row_uniforms(range(4000), 5)
    assert grid.min() >= 0 and grid.max() < 1
    for sample in (grid[:, 0], grid[:, 4], row_uniforms([1], 4000)[0]):
        counts = torch.histc(sample, 10, 0, 1)
        assert ((counts - 400).square() / 400).sum() < 21.67
    assert torch.corrcoef(torch.stack([grid[:-1, 0], grid[1:, 0]]))[0, 1].abs() < 0.05


def test_frozen_weights_are_converted_once_and_stay_frozen(make_gpt):
    """Under autocast, in which a weight without a gradient would be converted anew for every token."""
    model, converted = make_gpt(), []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten._to_copy.default and args[0].shape == model.wte.weight.shape:
                converted.append(1)
            return function(*args, **(kwargs or {}))

    for frozen in (False, True):
        model.requires_grad_(not frozen)
        converted.clear()
        with torch.autocast("cpu", torch.bfloat16), Watch():
            generate(model, [[1, 2]], Sampling(6), 10**6, [0])
        assert len(converted) == 1 and {p.requires_grad for p in model.parameters()} == {not frozen}
