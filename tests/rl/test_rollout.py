"""Rollouts: the right tokens with the right log-probs and rewards, whatever stands around them."""

import dataclasses
from math import nan

import pytest
import torch

from minirlhf.harness.files import UserError
from minirlhf.lm.batches import ROOM
from minirlhf.lm.chat import render_prompt
from minirlhf.lm.generation import Sampling, generate
from minirlhf.lm.model import ScalarHead
from minirlhf.rl.losses import gae, kl_estimate, reinforce_loss, token_rewards
from minirlhf.rl.rewards import call_rewards, prompt_text
from minirlhf.rl.rollout import Models, Rollout, answers_each, collect, parts_of, score_responses, score_tokens

RECORDS = [
    {"prompt": "a"},
    {"prompt": "more words"},
    {"messages": [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "r"},
        {"role": "user", "content": "last"},
    ]},
    {"prompt": "bc"},
    {"prompt": "d"},
    {"prompt": "ef"},
]  # of 3 to 12 tokens; the third prompt holds an EOS, which is also the padding
TEMPERATURE = 0.7


def random_head(width: int = 16) -> ScalarHead:
    """A value head that says something."""
    torch.manual_seed(7)
    head = ScalarHead(width)
    with torch.no_grad():
        head.weight.normal_()
        head.bias.fill_(0.5)
    return head


def rolled(
    policy, reference, tokenizer, reward=lambda p, r, record: float(len(r)), max_new=10, micro_rows=32
) -> Rollout:
    """`collect` on RECORDS."""
    models, seeds = Models(policy, random_head(), reference, tokenizer), range(40, 40 + len(RECORDS))
    sampling = Sampling(max_new, TEMPERATURE)
    return collect(models, RECORDS, lambda record: reward, seeds, sampling, -1.0, micro_rows)


@pytest.fixture
def made(make_policy, tokenizer):
    """(policy, reference, rollout of RECORDS)"""
    policy, reference = make_policy(0), make_policy(1)
    return policy, reference, rolled(policy, reference, tokenizer)


@torch.no_grad()
def slow_scores(model, head, prompt, response, temperature):
    """(log π, V, H) of each token of one response: no padding, a pass a token, in float64."""
    out = []
    for t, token in enumerate(response):
        hidden = model(torch.tensor([[*prompt, *response[:t]]]))[0, -1]
        logp = (model.logits(hidden).double() / temperature).log_softmax(-1)
        out.append((float(logp[token]), float(head(hidden)), -float((logp.exp() * logp).sum())))
    return [list(column) for column in zip(*out)]


def test_the_rollouts_of_these_tests_are_ragged(made):
    """Some end, at several lengths, and some do not."""
    _, _, r = made
    assert len(set(r.mask.sum(1).tolist())) >= 3 and set(r.ended.tolist()) == {True, False}


def test_log_probs_sum_to_1_over_all_completions(make_gpt, every_response):
    """V = 4, R = 3: a shift by one would score other tokens, and the sum be another."""
    all_rows = every_response([1, 3, 2], V=4, R=3, eos=False)
    with torch.no_grad():
        logprobs, _, _ = score_tokens(make_gpt(vocab_size=4), None, all_rows)
    assert len(logprobs) == 64 and float(logprobs.double().sum(1).exp().sum()) == pytest.approx(1, abs=1e-6)


def test_scores_equal_one_pass_a_token(made):
    """Log-probs of policy and reference with the temperature inside, values, entropies; EOS too."""
    policy, reference, r = made
    head = random_head()
    with torch.no_grad():
        _, _, H = score_tokens(policy, head, r, TEMPERATURE)
    for b in range(len(RECORDS)):
        prompt, response = r.prompt_ids[b, r.prompt_mask[b]].tolist(), r.ids[b, r.mask[b]].tolist()
        logp, V, entropy = slow_scores(policy, head, prompt, response, TEMPERATURE)
        ref, _, _ = slow_scores(reference, head, prompt, response, TEMPERATURE)
        assert r.logprobs[b, r.mask[b]].tolist() == pytest.approx(logp, abs=1e-5)
        assert r.ref_logprobs[b, r.mask[b]].tolist() == pytest.approx(ref, abs=1e-5)
        assert r.values[b, r.mask[b]].tolist() == pytest.approx(V, abs=1e-5)
        assert H[b, r.mask[b]].tolist() == pytest.approx(entropy, abs=1e-5)


def test_the_sampler_and_the_scorer_agree(made):
    """The cache against the full pass, at a temperature other than 1."""
    _, _, r = made
    torch.testing.assert_close(r.sampled_logprobs, r.logprobs, atol=1e-5, rtol=0)


def test_in_bfloat16_the_sampler_is_the_scorer(make_policy, tokenizer):
    """A sampler in float32 would be off-policy: by how much the same tokens differ in float32."""
    policy = make_policy(0)
    models = Models(policy, None, policy, tokenizer, torch.bfloat16)
    r = collect(models, RECORDS, lambda x: lambda p, r, x: 0.0, range(6), Sampling(10, TEMPERATURE), -1.0)
    with torch.no_grad():
        exact, _, H = score_tokens(policy, None, r, TEMPERATURE, False)
    rounding = float((exact - r.logprobs).abs().mean())
    assert rounding > 1e-3 and float((r.sampled_logprobs - r.logprobs).abs().max()) < 1e-5
    assert not H.any()  # not wanted


def test_the_prompt_of_a_rollout_is_the_rendered_prompt(made, tokenizer):
    """Also where it holds the padding's id."""
    _, _, r = made
    for record, ids, mask in zip(RECORDS, r.prompt_ids, r.prompt_mask):
        assert ids[mask].tolist() == render_prompt(record, tokenizer)
    assert tokenizer.eos_id in render_prompt(RECORDS[2], tokenizer)


def test_the_sampled_eos_is_in_the_mask_and_nothing_after_it(made, tokenizer):
    _, _, r = made
    for ids, mask, ended in zip(r.ids, r.mask, r.ended.tolist()):
        response = ids[mask].tolist()
        assert tokenizer.eos_id not in response[:-1] and (response[-1] == tokenizer.eos_id) == ended
        assert mask.tolist() == sorted(mask.tolist(), reverse=True) and (ended or len(response) == 10)


@pytest.mark.parametrize("micro_rows", [1, 3])
def test_the_rollout_does_not_depend_on_micro_batches(made, tokenizer, micro_rows):
    policy, reference, whole = made
    cut = rolled(policy, reference, tokenizer, micro_rows=micro_rows)
    for f in dataclasses.fields(whole):
        torch.testing.assert_close(getattr(cut, f.name), getattr(whole, f.name), atol=1e-5, rtol=0)


@pytest.mark.parametrize("left, right", [(0, 0), (3, 0), (0, 4), (5, 2)])
def test_padding_moves_neither_scores_nor_gradients(made, pad_rollout, left, right):
    """Other ids at padding, and more padding on either side of prompt and response."""
    policy, _, r = made
    head, results = random_head(), []
    for rows, width in ((r, 0), (pad_rollout(r, left, right), right)):
        columns = score_tokens(policy, head, rows, TEMPERATURE)
        (columns[0].square().sum() + columns[1].square().sum()).backward()
        gradients = [p.grad for p in [*policy.parameters(), *head.parameters()]]
        results.append([torch.nn.functional.pad(x, (0, right - width)) for x in columns] + gradients)
        policy.zero_grad(), head.zero_grad()
    for clean, wide in zip(*results):
        torch.testing.assert_close(wide, clean, atol=2e-5, rtol=1e-4)


def test_rows_picks_rows_and_trims_columns_that_are_padding_in_all_of_them(made):
    _, _, r = made
    r.advantages, r.returns = r.values + 1, r.values - 1
    index = [3, 0]
    part = r.rows(index)
    assert part.prompt_ids.shape == (2, int(r.prompt_mask[index].sum(1).max()))
    assert part.ids.shape == (2, int(r.mask[index].sum(1).max()))
    assert part.scores.tolist() == r.scores[index].tolist() and part.ended.tolist() == r.ended[index].tolist()
    for new, old in enumerate(index):
        assert torch.equal(part.prompt_ids[new, part.prompt_mask[new]], r.prompt_ids[old, r.prompt_mask[old]])
        for name in ("ids", "sampled_logprobs", "logprobs", "ref_logprobs", "values", "advantages", "returns"):
            assert torch.equal(getattr(part, name)[new, part.mask[new]], getattr(r, name)[old, r.mask[old]])


# The prompt of a group


@pytest.fixture
def grouped(make_policy, tokenizer):
    """(policy, rollout of three answers to each of the first three RECORDS)"""
    policy, records = make_policy(0), [record for record in RECORDS[:3] for _ in range(3)]
    models = Models(policy, random_head(), make_policy(1), tokenizer)
    return policy, collect(models, records, lambda x: lambda p, r, x: 0.0, range(9), Sampling(9, TEMPERATURE), -1.0)


def columns_and_gradient(policy, parts):
    """The columns of `score_tokens` for some rollouts, real tokens alone, and the gradient of a loss of them all."""
    head, columns = random_head(), []
    for rows in parts:
        columns += [torch.cat([x[rows.mask] for x in score_tokens(policy, head, rows, TEMPERATURE)])]
        columns[-1].square().sum().backward()
    gradient = [p.grad.clone() for p in [*policy.parameters(), *head.parameters()]]
    policy.zero_grad()
    return columns, gradient


def test_answers_to_one_prompt_are_scored_as_if_each_stood_alone(grouped, pad_rollout):
    """Log-probs, values, entropies and the gradient, though their prompt is read once; padding changes nothing."""
    policy, r = grouped
    assert answers_each(r) == 3 and len(set(r.mask.sum(1).tolist())) > 2
    _, alone = columns_and_gradient(policy, [r.rows([i]) for i in range(9)])
    for rows in (r, pad_rollout(r, 3, 2)):
        columns, gradient = columns_and_gradient(policy, [rows])
        torch.testing.assert_close(gradient, alone, atol=1e-6 * float(max(x.abs().max() for x in alone)), rtol=1e-5)
    torch.testing.assert_close(r.sampled_logprobs, r.logprobs, atol=1e-5, rtol=0)
    with torch.no_grad():
        for b in range(9):
            prompt, response = r.prompt_ids[b, r.prompt_mask[b]].tolist(), r.ids[b, r.mask[b]].tolist()
            logp, V, _ = slow_scores(policy, random_head(), prompt, response, TEMPERATURE)
            assert r.logprobs[b, r.mask[b]].tolist() == pytest.approx(logp, abs=1e-5)
            assert r.values[b, r.mask[b]].tolist() == pytest.approx(V, abs=1e-5)


def test_the_prompt_of_a_group_is_read_once_in_sampling_and_in_scoring(grouped, monkeypatch):
    policy, r = grouped
    read, forward = [], type(policy).forward
    monkeypatch.setattr(type(policy), "forward", lambda self, ids, *a: read.append(ids.shape) or forward(self, ids, *a))
    score_tokens(policy, None, r)
    P, R = r.prompt_ids.shape[1], r.ids.shape[1]
    assert read == [(3, -(-P // 8) * 8), (9, -(-R // 8) * 8)]
    read.clear()
    prompts = [ids[mask].tolist() for ids, mask in zip(r.prompt_ids, r.prompt_mask)]
    generate(policy, prompts, Sampling(2), 0, range(9))
    assert read[0] == (3, -(-P // 8) * 8) and all(shape[1] == 1 for shape in read[1:])


def test_answers_to_a_prompt_share_a_pass_as_far_as_there_is_room(grouped, monkeypatch):
    policy, r = grouped
    prompts = lambda parts: [sorted({i // 3 for i in part}) for part in parts]  # noqa: E731
    for most, size in ((64, 9), (8, 6), (5, 3), (3, 3), (2, 1), (1, 1)):
        parts = parts_of(r, most, policy)
        assert sorted(i for part in parts for i in part) == list(range(9))
        assert max(map(len, parts)) <= most and (size < 3 or sorted(sum(prompts(parts), [])) == [0, 1, 2])
        assert all(len(part) <= max(size, most) for part in parts)
    P, R = int(r.prompt_mask.sum(1).max()), int(r.mask.sum(1).max())
    for tokens in (P + R, 2 * (P + R), P + 3 * R - 1, P + 3 * R, 2 * (P + 3 * R)):
        monkeypatch.setattr("minirlhf.rl.rollout.room", lambda model: tokens)
        monkeypatch.setattr("minirlhf.lm.batches.room", lambda model: tokens)
        for part in parts_of(r, 64, policy):
            rows, K = r.rows(part), answers_each(r.rows(part))
            assert len(part) // K * rows.prompt_ids.shape[1] + len(part) * rows.ids.shape[1] <= tokens
    monkeypatch.undo()
    monkeypatch.setitem(ROOM, "cpu", 1)
    assert [len(part) for part in parts_of(r, 64, policy)] == [1] * 9
    assert len(parts_of(r.rows([0, 3, 6]), 64, policy)) == 3


def test_rows_are_one_answer_each_unless_every_prompt_has_several(grouped):
    _, r = grouped
    assert [answers_each(r.rows(rows)) for rows in ([0, 3, 6], [0, 1, 3], [0, 1, 3, 4], [0, 1, 2, 3, 4, 5], [5])] == [
        1, 1, 2, 3, 1,
    ]
    twins = dataclasses.replace(r, prompt_ids=r.prompt_ids * 0)  # of equal ids, and not of equal lengths
    assert answers_each(twins) == 3


def test_a_response_that_never_ended_scores_missing_eos_and_is_not_shown_to_the_reward(made, tokenizer):
    policy, reference, _ = made
    seen = []
    r = rolled(policy, reference, tokenizer, lambda p, y, record: seen.append((p, y, record)) or 5.0)
    assert r.scores.tolist() == [5.0 if ended else -1.0 for ended in r.ended.tolist()]
    asked = [b for b, ended in enumerate(r.ended.tolist()) if ended]
    texts = [tokenizer.decode(r.ids[b, r.mask[b]].tolist()[:-1]) for b in asked]
    assert seen == [(prompt_text(RECORDS[b]), text, RECORDS[b]) for b, text in zip(asked, texts)]


def test_the_prompt_that_a_reward_sees_is_what_the_user_said_last():
    assert [prompt_text(record) for record in RECORDS[:3]] == ["a", "more words", "last"]
    assert prompt_text({"prompt": "a", "response": "b"}) == "a"


def test_ids_that_no_text_encodes_to_are_scored_as_they_are(made, tokenizer):
    """Most strings of random bytes are no UTF-8: decoding and encoding again would score other tokens."""
    policy, _, r = made
    texts = [tokenizer.decode(ids[mask]) for ids, mask in zip(r.ids, r.mask)]
    broken = [b for b, text in enumerate(texts) if "\N{REPLACEMENT CHARACTER}" in text]
    assert broken
    for b in broken:
        prompt, response = r.prompt_ids[b, r.prompt_mask[b]].tolist(), r.ids[b, r.mask[b]].tolist()
        logp, _, _ = slow_scores(policy, random_head(), prompt, response, TEMPERATURE)
        assert r.logprobs[b, r.mask[b]].tolist() == pytest.approx(logp, abs=1e-5)
        assert r.sampled_logprobs[b, r.mask[b]].tolist() == pytest.approx(logp, abs=1e-5)


def test_dropout_in_the_config_changes_nothing_in_eval_mode(made, make_policy, tokenizer):
    _, reference, plain = made
    dropping = rolled(make_policy(0, dropout=0.5), reference, tokenizer)
    assert torch.equal(dropping.ids, plain.ids) and torch.equal(dropping.logprobs, plain.logprobs)


# Rewards


def test_a_bad_reward_stops_collect(made, tokenizer):
    policy, reference, _ = made
    with pytest.raises(UserError, match="the reward is nan, .* for prompt 'a'"):
        rolled(policy, reference, tokenizer, lambda p, r, record: nan if p == "a" else 1.0, max_new=29)


class InBatches:
    """The length of a response, as a reward of lists."""

    def __init__(self) -> None:
        self.asked = []

    def __call__(self, prompts, responses, records) -> list[float]:
        self.asked.append(list(zip(prompts, responses, records, strict=True)))
        return [float(len(response)) for response in responses]


def test_a_reward_that_takes_many_is_asked_once_for_all_that_ended(made, tokenizer):
    policy, reference, one_by_one = made
    reward = InBatches()
    r = rolled(policy, reference, tokenizer, reward)
    assert torch.equal(r.scores, one_by_one.scores)
    (cases,) = reward.asked
    assert [record for _, _, record in cases] == [x for x, ended in zip(RECORDS, r.ended.tolist()) if ended]


def test_each_case_gets_the_reward_of_its_own_record():
    """Of two rewards in turns, one of which takes many."""
    reward = InBatches()
    of = {"x": reward, "y": lambda prompt, response, record: 10.0 * len(prompt)}
    cases = [("p" * i, "r" * (9 - i), {"task": "xy"[i % 2]}) for i in range(6)]
    assert call_rewards(lambda record: of[record["task"]], cases) == [9.0, 10.0, 7.0, 30.0, 5.0, 50.0]
    assert [len(some) for some in reward.asked] == [3] and call_rewards(of.get, []) == []


def test_a_rollout_can_be_scored_by_another_reward(made, tokenizer):
    """The texts are those that the first one saw."""
    policy, reference, r = made
    seen = [[], []]
    rolled(policy, reference, tokenizer, lambda *case: seen[0].append(case) or 1.0)
    scores = score_responses(lambda record: lambda *case: seen[1].append(case) or 2.0, tokenizer, RECORDS, r, -3.0)
    assert seen[0] == seen[1] and scores.dtype == torch.float32
    assert scores.tolist() == [2.0 if ended else -3.0 for ended in r.ended.tolist()]


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_the_expected_gradient_is_the_gradient_of_the_objective(make_gpt, every_response, beta):
    """J = E[score − β log π/ref] and the mean of the estimate enumerated, with a critic that is wrong.

    It fails for a shifted log-prob, a score on another token, a KL of the wrong sign, an EOS out of the mask,
    an advantage that depends on the action's own value.
    """
    policy, reference = make_gpt(0, vocab_size=3).double(), make_gpt(1, vocab_size=3).double()
    head = random_head()
    head.double()
    g = every_response([2, 1], V=3, R=3)
    scores = torch.randn(len(g.ids), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logprobs, values, _ = score_tokens(policy, head, g)
    with torch.no_grad():
        ref, _, _ = score_tokens(reference, None, g)
    probability = logprobs.sum(1).exp()  # (B,)
    assert probability.sum().item() == pytest.approx(1, abs=1e-12)

    objective = (probability * (scores - beta * (logprobs - ref).sum(1))).sum()
    parameters = list(policy.parameters())
    exact = torch.autograd.grad(objective, parameters, retain_graph=True)
    rewards = token_rewards(scores, kl_estimate(logprobs.detach(), ref), g.mask, beta)
    advantages, _ = gae(rewards, values.detach().double(), g.mask, 1.0, 1.0)
    loss = reinforce_loss(logprobs, advantages * probability.detach()[:, None], g.mask.float())
    for got, wanted in zip(torch.autograd.grad(-loss, parameters), exact):
        torch.testing.assert_close(got, wanted, atol=1e-10, rtol=0)
