"""Conversations: batched as stepped by hand, ids never made anew, and nothing but the policy's tokens counts."""

import dataclasses
import sys
from copy import deepcopy
from random import Random

import numpy as np
import pytest
import torch

from minirlhf.harness.loop import Unharmed
from minirlhf.lm.chat import render_prompt
from minirlhf.lm.chat_formats import FORMATS
from minirlhf.lm.generation import Sampling, generate, responses_of
from minirlhf.lm.model import ScalarHead
from minirlhf.lm.records import messages_of
from minirlhf.rl.algorithms import advantages_of, surrogate
from minirlhf.rl.config import ALGORITHMS
from minirlhf.rl.losses import gae, token_weights
from minirlhf.rl.rollout import Models, Rollout, collect, parts_of, score_tokens
from minirlhf.rl.turns import Conversations, heard_ids, joined, transcripts

RECORDS = [{"prompt": p} for p in ("a", "a", "more words", "more words", "bc", "bc", "d", "d")]
SEEDS = range(40, 48)


def talkative(conversation: dict, rng: Random) -> str | None:
    """A reply of random length; none to "d", and none after some turns."""
    n = len(conversation["messages"])
    return None if conversation["prompt"] == "d" or n > 6 else "u" * rng.randint(0, 5)


def speak(reply=talkative, turns=4) -> Conversations:
    return Conversations(lambda record: reply, turns)


def rolled(policy, reference, tokenizer, how=None, reward=lambda p, r, record: len(r) + len(messages_of(record)) / 8) -> Rollout:
    torch.manual_seed(7)
    head = ScalarHead(16)
    torch.nn.init.normal_(head.weight)
    models = Models(policy, head, reference, tokenizer, speak=how or speak())
    return collect(models, RECORDS, lambda record: reward, SEEDS, Sampling(6, 0.7), -1.0)


@pytest.fixture
def policies(make_policy, tokenizer):
    both = make_policy(0, context=160), make_policy(1, context=160)
    for policy in both:
        policy.ln_f.bias.data += 0.8 * policy.wte.weight.data[tokenizer.eos_id]
    return both


@pytest.fixture
def made(policies, tokenizer):
    rows = rolled(*policies, tokenizer)
    assert (rows.mask.sum(1) < (rows.mask.flip(1).cumsum(1) > 0).sum(1)).sum() >= 4  # some have been replied to
    return rows


def test_without_a_reply_a_conversation_is_one_answer(policies, tokenizer):
    how = Conversations(lambda record: None), Conversations(lambda record: lambda c, rng: None), speak(turns=1)
    asked, sampling = [render_prompt(r, tokenizer) for r in RECORDS], Sampling(6, 0.7)
    plain = generate(policies[0], asked, sampling, tokenizer.eos_id, SEEDS)
    for one in how:
        g, records = one(policies[0], tokenizer, asked, RECORDS, sampling, SEEDS)
        assert records == RECORDS
        for f in dataclasses.fields(plain):
            assert torch.equal(getattr(g, f.name), getattr(plain, f.name)), f.name


def test_a_batch_of_conversations_equals_each_stepped_by_hand(policies, made, tokenizer):
    """With the random numbers of the row and the turn, whatever stands beside it."""
    for i, record in enumerate(RECORDS):
        asked, said, mask, messages = render_prompt(record, tokenizer), [], [], messages_of(record)
        for turn in range(4):
            seed = int(np.random.SeedSequence([SEEDS[i], turn]).generate_state(1)[0]) if turn else SEEDS[i]
            g = generate(policies[0], [asked + said], Sampling(6, 0.7), tokenizer.eos_id, [seed])
            own = g.ids[0][g.mask[0]].tolist()
            said, mask = said + own, mask + [True] * len(own)
            messages = [*messages, {"role": "assistant", "content": tokenizer.decode(own[:-1])}]
            reply = talkative(record | {"messages": messages}, Random(f"{SEEDS[i]} {turn + 1}")) if g.ended[0] and turn < 3 else None
            if reply is None:
                break
            heard = [tokenizer.special_ids["<|user|>"], *tokenizer.encode(reply), tokenizer.special_ids["<|assistant|>"]]
            said, mask, messages = said + heard, mask + [False] * len(heard), [*messages, {"role": "user", "content": reply}]
        assert made.ids[i, : len(said)].tolist() == said and made.mask[i].tolist() == mask + [False] * (made.mask.shape[1] - len(mask))


def test_the_mask_is_of_the_policys_turns_alone():
    parts = [[([5, 6], [-1.0, -2.0]), ([7, 7, 7], [0.0] * 3), ([8], [-3.0])], [([9], [-4.0])]]
    g = joined([[1], [1, 2]], parts, [True, False], 0, "cpu")
    assert g.ids.tolist() == [[5, 6, 7, 7, 7, 8], [9, 0, 0, 0, 0, 0]] and g.ended.tolist() == [True, False]
    assert g.mask.long().tolist() == [[1, 1, 0, 0, 0, 1], [1, 0, 0, 0, 0, 0]]
    assert g.logprobs.tolist() == [[-1, -2, 0, 0, 0, -3], [-4, 0, 0, 0, 0, 0]]


def test_ids_are_joined_and_are_those_of_the_whole_conversation_rendered(policies, tokenizer):
    """Where the sampled ids are those that the text has, as with a token a byte."""
    asked = [render_prompt(r, tokenizer) for r in RECORDS]
    g, records = speak()(policies[0], tokenizer, asked, RECORDS, Sampling(6, 0.7), SEEDS)
    for i, record in enumerate(records):
        own = [*asked[i], *g.ids[i].tolist()]
        whole = render_prompt(record | {"messages": messages_of(record)}, tokenizer)
        text = tokenizer.decode_bytes(own)
        if "�" not in text.decode("utf-8", "replace"):
            assert own[: len(whole)] == whole


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_heard_is_written_as_the_chat_format_renders_it(name, tokenizer):
    tokenizer = type(tokenizer)(specials=["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|user|>", "<|assistant|>", "<|system|>",
                                          "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"])  # fmt: skip
    tokenizer.chat = FORMATS[name]
    tokenizer.eos = FORMATS[name].end or tokenizer.eos
    first = [{"role": "user", "content": "q"}]
    then = [*first, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "and?"}]
    before, after = (render_prompt({"messages": m}, tokenizer) for m in (first, then))
    assert after == before + tokenizer.encode("yes") + [tokenizer.eos_id] + heard_ids("and?", tokenizer)


def test_the_ratio_is_exactly_1_on_all_turns_before_the_first_step(policies, made, tokenizer):
    for part in parts_of(made, 64, policies[0]):
        rows = made.rows(part)
        logprobs, _, _ = score_tokens(policies[0], None, rows, 0.7)
        assert torch.equal(logprobs, rows.logprobs)
    assert (made.logprobs - made.sampled_logprobs)[made.mask].abs().max() < 1e-4
    assert not made.logprobs[~made.mask].any() and not made.values[~made.mask].any()


def test_tokens_are_scored_in_the_whole_conversation_before_them(policies, made):
    """Shared prompts or not: each log-prob is that of one pass over all ids of the row."""
    for i in range(len(made.ids)):
        n = int(made.mask[i].nonzero().max()) + 1
        ids = torch.cat([made.prompt_ids[i][made.prompt_mask[i]], made.ids[i, :n]])[None]
        with torch.no_grad():
            logp = (policies[0].logits(policies[0](ids))[0] / 0.7).log_softmax(-1)
        own = logp[-n - 1 : -1].gather(-1, made.ids[i, :n, None]).squeeze(-1)
        assert torch.allclose(made.logprobs[i, :n], torch.where(made.mask[i, :n], own, 0.0), atol=2e-5)


def without_holes(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Each row's values where the mask is True, moved to the left."""
    order = (~mask).byte().argsort(dim=1, stable=True)
    return torch.where(mask.gather(1, order), x.gather(1, order), torch.zeros((), dtype=x.dtype))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_advantages_and_losses_are_those_of_the_policys_tokens_alone(name, made):
    """As if the environment had said nothing: what it said, long or short, counts in no mean and takes no discount."""
    algorithm = dataclasses.replace(ALGORITHMS[name], group=max(2, ALGORITHMS[name].group // 4))
    closed = {f.name: without_holes(getattr(made, f.name), made.mask) for f in dataclasses.fields(made)
              if f.name not in ("prompt_ids", "prompt_mask", "scores", "ended")}  # fmt: skip
    closed = dataclasses.replace(made, **closed)
    losses = []
    for rows in (made, closed):
        rows = advantages_of(rows, algorithm, 0.3, 0.9)
        now, V = rows.logprobs * 1.1, rows.values * 0.9
        weights = token_weights(rows.mask, algorithm.aggregate, 6)
        loss, watch = surrogate(now, V, rows, weights, algorithm, 0.3)
        losses.append((float(loss), float(watch["ratio"]), without_holes(rows.advantages, rows.mask)))
    assert losses[0][:2] == pytest.approx(losses[1][:2], rel=1e-5) and torch.allclose(losses[0][2], losses[1][2], atol=1e-5)


def test_gae_goes_from_a_turns_last_token_to_the_first_of_the_next():
    mask = torch.tensor([[True, False, False, True, True, False]])
    rewards, values = torch.tensor([[0.5, 9, 9, 0, 1, 9]]), torch.tensor([[0.2, 9, 9, 0.4, 0.6, 9]])
    advantages, returns = gae(rewards, values, mask, 0.9, 0.8)
    last = 1 - 0.6
    middle = 0 + 0.9 * 0.6 - 0.4 + 0.72 * last
    first = 0.5 + 0.9 * 0.4 - 0.2 + 0.72 * middle
    assert advantages[0].tolist() == pytest.approx([first, 0, 0, middle, last, 0])
    assert returns[0].tolist() == pytest.approx([first + 0.2, 0, 0, middle + 0.4, 1, 0])


def test_the_reward_sees_the_last_answer_and_all_that_was_said_before(policies, tokenizer):
    cases = []
    rows = rolled(*policies, tokenizer, reward=lambda p, r, record: cases.append((p, r, record)) or 1.0)
    answers = [tokenizer.decode(ids) for ids, whole in zip(responses_of(rows), rows.ended.tolist()) if whole]
    assert {r for _, r, _ in cases} == {*answers}
    assert any(len(messages_of(record)) > 2 for _, _, record in cases)
    for prompt, _, record in cases:
        messages = messages_of(record)
        assert prompt == messages[-1]["content"] and messages[-1]["role"] == "user"
        assert [m["role"] for m in messages] == ["user", "assistant"] * (len(messages) // 2) + ["user"]


def test_an_answer_that_does_not_end_ends_the_conversation(policies, tokenizer):
    rows = rolled(*policies, tokenizer)
    for row in range(len(rows.ids)):
        own = rows.ids[row][rows.mask[row]].tolist()
        assert (own[-1] == tokenizer.eos_id) == bool(rows.ended[row])
        assert rows.scores[row] == -1.0 or rows.ended[row]


@pytest.mark.parametrize("context", [24, 40])
def test_a_conversation_stays_within_the_context(context, make_policy, tokenizer):
    policy = make_policy(0, context=context)
    rows = rolled(policy, policy, tokenizer, speak(lambda c, rng: "x" * 9, turns=9))
    filled = (rows.mask.flip(1).cumsum(1) > 0).sum(1) + rows.prompt_mask.sum(1)
    assert filled.max() <= context


def test_a_reply_that_leaves_no_room_for_an_answer_ends_the_conversation(make_policy, tokenizer):
    """Behind an answer that has ended: its score counts."""
    policy = make_policy(0, context=24)
    policy.ln_f.bias.data += 9 * policy.wte.weight.data[tokenizer.eos_id]  # it says nothing but EOS
    asked, sampling = [render_prompt(r, tokenizer) for r in RECORDS], Sampling(6, 0.7)
    g, records = speak(lambda c, rng: "x" * 9, turns=9)(policy, tokenizer, asked, RECORDS, sampling, SEEDS)
    assert g.ended.all() and 0 < max(len(r.get("messages", ())) for r in records) < 6
    assert (g.prompt_mask.sum(1) + (g.mask.flip(1).cumsum(1) > 0).sum(1)).max() <= 24


def test_an_environment_hears_the_same_after_a_resume(policies, tokenizer):
    """Its random numbers come from the row's seed and the turn, and from nothing that a restart would change."""
    torch.manual_seed(1)
    first = rolled(*policies, tokenizer)
    Random().random()
    torch.manual_seed(2)
    assert torch.equal(first.ids, rolled(*policies, tokenizer).ids)


def test_the_turns_are_among_what_a_resume_must_share_where_there_is_an_environment():
    assert speak(turns=4).about({"data": RECORDS}) == [4]
    assert Conversations(lambda record: None, 4).about({"data": RECORDS}) == []  # as the runs of before


@pytest.mark.parametrize("reply, said", [
    (lambda c, rng: 1 / 0, "the environment raised ZeroDivisionError: division by zero"),
    (lambda c, rng: 7, "the environment gave 7, no text and not None"),
    (lambda c, rng: sys.exit(), "the environment raised SystemExit"),
])
def test_what_is_no_reply_is_refused(reply, said, policies, tokenizer):
    """As a step that has changed nothing, so that the steps before it are saved."""
    with pytest.raises(Unharmed, match=said):
        rolled(*policies, tokenizer, speak(reply))


def test_an_environment_can_change_neither_the_conversation_nor_the_record(policies, tokenizer):
    def meddling(conversation: dict, rng: Random) -> str:
        conversation["messages"][0]["content"] = "other"
        conversation["messages"].append({"role": "user", "content": "never said"})
        conversation["facts"].clear()
        return "more"

    records = [{"messages": [{"role": "user", "content": p["prompt"]}], "facts": ["f"]} for p in RECORDS]
    asked, before = [render_prompt(r, tokenizer) for r in records], deepcopy(records)
    _, told = speak(meddling)(policies[0], tokenizer, asked, records, Sampling(6, 0.7), SEEDS)
    assert records == before and any(len(r["messages"]) > 1 for r in told)
    for record, old in zip(told, before):
        assert record["facts"] == ["f"] and record["messages"][0] == old["messages"][0]
        assert "never said" not in [m["content"] for m in record["messages"]]


def test_transcripts_show_what_each_said(policies, made, tokenizer):
    how = speak()
    g, records = how(policies[0], tokenizer, [render_prompt(r, tokenizer) for r in RECORDS], RECORDS, Sampling(6, 0.7), SEEDS)
    for i, text in enumerate(transcripts(g, tokenizer)):
        said = [m["content"] if m["role"] == "assistant" else f"‹{m['content']}›" for m in messages_of(records[i])[1:]]
        assert text == " ".join([*said, tokenizer.decode(responses_of(g)[i])])
