"""The items: what models say and how they predict what people said, and the same numbers by other ways."""

import random
from collections import Counter
from dataclasses import replace
from itertools import accumulate
from math import exp, isnan, log, nan

import pytest
import torch
from memory import peak_of

from minirlhf.evaluation import ask
from minirlhf.evaluation.ask import (
    Policy, Protocol, answer_logits, fitted_temperature, pieces_of, sample_items, scores_of, text_items,
    token_statistics,
)
from minirlhf.evaluation.questions import turn_records
from minirlhf.lm.batches import collate
from minirlhf.lm.chat import render, render_prompt
from minirlhf.lm.generation import Generation
from minirlhf.lm.model import GPT, GPTConfig
from minirlhf.lm.records import messages_of
from minirlhf.lm.sft import negative_log_likelihood
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.metrics.calibration import expected_calibration_error, fit_temperature
from minirlhf.rl import turns
from minirlhf.rl.options import RewardOptions
from minirlhf.rl.reward_files import load_rewards
from minirlhf.rl.rollout import response_hidden
from minirlhf.tasks import TASKS

RECORDS = [
    {"prompt": "a", "response": "wow!", "reference": "wow, that was a very good thing"},
    {"prompt": "longer", "response": "the cat"},
    {"prompt": "bc", "response": "é好"},
    {"prompt": "d", "response": "no"},
]
MAX_NEW, SAMPLES = 8, 3
SAID = [("system", "s"), ("user", "q"), ("assistant", "12"), ("user", "r"), ("assistant", "345")]
SAID.append(("assistant", "好"))
CONVERSATION = {"messages": [{"role": role, "content": content} for role, content in SAID], "hint": 7}


def reward(prompt: str, response: str, record: dict) -> float:
    """Some number that differs between responses."""
    return len(response) + (prompt == "a") / 4


def sampled(
    model, reference, tokenizer, records=RECORDS, chat=True, reference_chat=True, compared=None, **changes
) -> list[dict]:
    """`sample_items`. changes: of the protocol."""
    protocol = {"reward_of": lambda record: reward, "max_new": MAX_NEW, "samples": SAMPLES, "seed": 0} | changes
    policies = Policy(model, tokenizer, chat), Policy(reference, tokenizer, reference_chat)
    return sample_items(*policies, records, Protocol(**protocol), compared)


def summed(model, reference, g: Generation) -> dict[str, list[float]]:
    """The statistics of whole responses."""
    return {name: x.sum(1).tolist() for name, x in token_statistics(model, reference, g).items()}


def uniform(vocab_size: int, **shape) -> GPT:
    """A model to which every token is as likely as any other."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size, **{"context": 32, "layers": 1, "heads": 1, "width": 8, **shape})).eval()
    torch.nn.init.zeros_(model.wte.weight)
    return model


@pytest.fixture
def made(make_policy, tokenizer) -> tuple:
    """(models, items) of two models, the second the reference."""
    models = {"rl": make_policy(0), "sft": make_policy(1)}
    items = {name: sampled(model, models["sft"], tokenizer) for name, model in models.items()}
    return models, items


# Turns of conversations


def test_of_each_turn_exactly_the_last_answer_is_scored(make_policy, tokenizer):
    """Its bytes and its EOS; the answers before it are given."""
    got = text_items(Policy(make_policy(0), tokenizer), turn_records([CONVERSATION]))
    assert [(x["tokens"], x["bytes"]) for x in got] == [(2 + 1, 2), (3 + 1, 3), (3 + 1, 3)]


@torch.no_grad()
def test_all_turns_together_cost_what_the_conversation_costs(make_policy, tokenizer):
    model = make_policy(0)
    whole = negative_log_likelihood(model, collate([render(CONVERSATION, tokenizer)]))  # (N,)
    got = text_items(Policy(model, tokenizer), turn_records([CONVERSATION]))
    assert sum(x["tokens"] for x in got) == len(whole)
    assert sum(x["nll"] for x in got) == pytest.approx(float(whole.double().sum()), abs=1e-4)


# Items


def test_what_is_expected_is_the_response_or_else_the_label(make_policy, tokenizer):
    """So that models that agree because both are right raise no alarm on labelled records."""
    model = Policy(make_policy(0), tokenizer)
    for more, expected in (({"response": "b", "label": "c"}, "b"), ({"label": " c"}, "c"), ({}, "")):
        items = sample_items(model, model, [{"prompt": "a"} | more], Protocol(None, MAX_NEW, SAMPLES, 0))
        assert {x["reference"] for x in items} == {expected}


def test_shots_stand_in_front_of_each_question_behind_what_the_system_says(make_policy, tokenizer):
    """Of those models alone that have them, in what is asked as in the texts whose loss is measured."""
    begun = ({"role": "user", "content": "q"}, {"role": "assistant", "content": "a"})
    system, asked = {"role": "system", "content": "s"}, {"role": "user", "content": "u"}
    plain = Policy(make_policy(), tokenizer)
    shown = replace(plain, shots=begun)
    for first in ([], [system]):
        record = {"messages": [*first, asked, {"role": "assistant", "content": "b"}], "hint": 1}
        whole = record | {"messages": [*first, *begun, *record["messages"][len(first) :]]}
        assert shown.behind_shots(record) == whole and plain.behind_shots(record) == record
        assert shown.prompt(record) == plain.prompt(whole) != plain.prompt(record)
        assert text_items(shown, [record]) == text_items(plain, [whole])
    protocol, other = Protocol(lambda record: reward, MAX_NEW, SAMPLES, 0), Policy(make_policy(1), tokenizer)
    got = sample_items(shown, replace(other, shots=begun), [record], protocol)
    assert [x | {"prompt": ""} for x in got] == [x | {"prompt": ""} for x in sample_items(plain, other, [whole], protocol)]
    apart = sample_items(shown, other, [record], protocol)  # and of the two models alone that has them
    assert [x["ids"] for x in apart] == [x["ids"] for x in got] and [x["kl"] for x in apart] != [x["kl"] for x in got]


def test_the_kl_of_a_model_with_itself_is_exactly_0(made):
    """And that with another is not; k1 and k3, which look at the sampled tokens alone, are 0 too."""
    _, items = made
    assert {x[k] for x in items["sft"] for k in ("kl", "k1", "k3")} == {0.0}
    assert all(x["kl"] > 0 and x["k3"] > 0 for x in items["rl"])


@pytest.mark.parametrize("garbage", [0, 1])
def test_expected_statistics_by_enumeration(make_gpt, every_response, garbage):
    """Over all responses kl, k1 and k3 average to the KL of the two laws, entropy to the entropy."""
    model, reference = make_gpt(0, vocab_size=3).double(), make_gpt(1, vocab_size=3).double()
    g = every_response([2, 1], V=3, R=3)
    g.ids[~g.mask] = garbage
    got = summed(model, reference, g)
    law = []
    for net in (model, reference):
        rows = [[2, 1, *ids[mask].tolist()] for ids, mask in zip(g.ids, g.mask)]
        with torch.no_grad():
            passes = [net.logits(net(torch.tensor([row])))[0].log_softmax(-1) for row in rows]
        law.append([float(sum(p[t - 1, row[t]] for t in range(2, len(row)))) for p, row in zip(passes, rows)])
    p = [exp(x) for x in law[0]]
    kl = sum(w * (a - b) for w, a, b in zip(p, *law))
    assert sum(p) == pytest.approx(1)
    for name in ("kl", "k1", "k3"):
        assert sum(w * x for w, x in zip(p, got[name])) == pytest.approx(kl, abs=1e-6)
    H = -sum(w * log(w) for w in p)
    assert sum(w * x for w, x in zip(p, got["entropy"])) == pytest.approx(H, abs=1e-6)
    assert got["k1"] == pytest.approx([a - b for a, b in zip(*law)], abs=1e-6)


def test_padding_has_no_influence_on_the_statistics(make_gpt, every_response):
    models = make_gpt(0, vocab_size=3), make_gpt(1, vocab_size=3)
    g = every_response([2, 1], V=3, R=3)
    wide = Generation(*(torch.nn.functional.pad(x, pad, value=v) for x, pad, v in (
        (g.prompt_ids, (3, 0), 1), (g.prompt_mask, (3, 0), False), (torch.where(g.mask, g.ids, 2), (0, 2), 1),
        (g.mask, (0, 2), False), (g.logprobs, (0, 2), nan))), g.ended)
    clean, got = token_statistics(*models, g), token_statistics(*models, wide)
    for name, x in clean.items():
        assert not x[~g.mask].any() and not got[name][:, x.shape[1] :].any()
        assert torch.allclose(got[name][:, : x.shape[1]], x, atol=1e-5, rtol=1e-5)


def test_slices_of_rows_and_tokens_give_the_numbers_of_the_whole(make_policy, every_response, monkeypatch):
    """Seven rows and 64 tokens at a time, then all together."""
    g, (model, reference, other) = every_response([2, 1], V=5, R=3), (make_policy(i) for i in range(3))
    assert len(g.ids) > 2 * 7 and g.mask.sum() > 2 * 64
    found = []
    for rows, logits in ((7, 1), (256, 1), (256, 2**20)):
        monkeypatch.setattr(ask, "ROWS", rows)
        monkeypatch.setattr(ask, "SLICE", logits)
        found.append(token_statistics(model, reference, g, compared=other))
    for name, whole in found[-1].items():
        assert all(torch.allclose(some[name], whole, atol=1e-5) for some in found[:-1])
        assert not whole[~g.mask].any() and whole.any()


def test_slices_of_tokens_give_the_same_texts(make_policy, tokenizer, monkeypatch):
    """Answers end within slices, and slices within answers."""
    policy, records = Policy(make_policy(0), tokenizer), words(0)
    whole = text_items(policy, records, temperature=2.0)
    monkeypatch.setattr(ask, "SLICE", 1)
    for x, y in zip(text_items(policy, records, temperature=2.0), whole):
        assert x.keys() == y.keys() and x["correct"] == y["correct"] and x["tokens"] == y["tokens"] == len(x["tempered"])
        assert x["nll"] == pytest.approx(y["nll"], abs=1e-5)
        assert x["confidence"] + x["tempered"] == pytest.approx(y["confidence"] + y["tempered"], abs=2e-6)


@pytest.mark.parametrize("chat", [True, False])
def test_each_network_reads_each_response_once(chat, make_policy, tokenizer, monkeypatch):
    """The policy, the reference and the compared model, however many of them are one; and again if asked otherwise."""
    read, (policy, reference) = Counter(), (make_policy(0), make_policy(1))
    noted = lambda net, rows: read.update({net: len(rows.ids)}) or response_hidden(net, rows)
    monkeypatch.setattr(ask, "response_hidden", noted)
    n = len(RECORDS) * (1 + SAMPLES)
    for asked in ((policy, reference, policy), (policy, reference, None), (reference, policy, policy)):
        sampled(*asked[:2], tokenizer, compared=asked[2], chat=chat)
        twice = asked[1] is asked[2] and not chat
        assert read == {policy: n * (1 + twice), reference: n}
        read.clear()
    sampled(reference, reference, tokenizer, compared=reference)
    assert read == {reference: n}


@pytest.mark.parametrize("measured", ["responses", "texts"])
def test_memory_does_not_grow_with_tokens_times_vocabulary(measured, tokenizer):
    """256 tokens of 2^15 logits are 34 MB a network, and some of it is held two to four times; a slice has 64 tokens."""
    policy, real = Policy(uniform(2**15), tokenizer), torch.ones(32, 8, dtype=torch.bool)
    g = Generation(real[:, :1].long(), real[:, :1], real.long(), real, torch.zeros(32, 8), real[:, 0])
    if measured == "responses":
        assert peak_of(lambda: token_statistics(policy.model, policy.model, g)) < 90
    else:
        assert peak_of(lambda: text_items(policy, 32 * [{"prompt": "a", "response": "1234567"}])) < 55


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_answers_are_sampled_in_the_policys_dtype_and_figures_are_of_float32(dtype, make_policy, tokenizer, monkeypatch):
    cast = {"generate": set(), "response_hidden": set(), "gather_true": set()}
    for name, seen in cast.items():
        module = turns if name == "generate" else ask
        inner = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, inner=inner, seen=seen: (
            seen.add(torch.is_autocast_enabled("cpu")) or inner(*a)))
    asked = Policy(make_policy(0), tokenizer, dtype=dtype)
    items = sample_items(asked, asked, RECORDS, Protocol(None, MAX_NEW, SAMPLES, 0))
    text_items(asked, RECORDS)
    assert cast == {"generate": {dtype == torch.bfloat16}, "response_hidden": {False}, "gather_true": {False}}
    assert {x["kl"] for x in items} == {0.0}


def test_there_is_a_greedy_item_and_as_many_samples_as_asked_for_each_prompt_in_order(made):
    _, items = made
    expected = [(i, k) for i in range(len(RECORDS)) for k in range(-1, SAMPLES)]
    for rows in items.values():
        assert [(x["index"], x["sample"]) for x in rows] == expected
        assert [x["prompt"] for x in rows] == [RECORDS[i]["prompt"] for i, _ in expected]
        assert [x["reference"] for x in rows if x["sample"] == 0] == [
            "wow, that was a very good thing", "the cat", "é好", "no"
        ]


def test_items_say_what_was_sampled(made, tokenizer):
    """Both kinds of end occur; tokens count the EOS; the text is that of the ids."""
    _, items = made
    rows = items["rl"] + items["sft"]
    assert {x["stop"] for x in rows} == {"eos", "length"}
    for x in rows:
        assert x["response"] == tokenizer.decode(x["ids"]) and tokenizer.eos_id not in x["ids"]
        assert x["tokens"] == len(x["ids"]) + (x["stop"] == "eos") <= MAX_NEW
        assert x["stop"] == "eos" or x["tokens"] == MAX_NEW


def test_the_greedy_item_is_the_most_probable_token_at_each_step(made, tokenizer):
    models, items = made
    for x in items["rl"]:
        if x["sample"] < 0:
            ids = render({"messages": [{"role": "user", "content": x["prompt"]}]}, tokenizer).ids
            ids.append(tokenizer.special_ids["<|assistant|>"])
            for token in x["ids"]:
                with torch.no_grad():
                    logits = models["rl"].logits(models["rl"](torch.tensor([ids])))[0, -1]  # (V,)
                assert int(logits.argmax()) == token
                ids.append(token)


def test_every_model_is_given_the_same_random_numbers(tokenizer, monkeypatch):
    """Two models that say everything with equal probability say the same, though one has no chat format."""
    monkeypatch.setattr(ask, "ROWS", 5)
    a = uniform(tokenizer.vocab_size)
    b = uniform(tokenizer.vocab_size, width=4, layers=2, context=20)
    first, second = sampled(a, a, tokenizer), sampled(b, b, tokenizer, chat=False, reference_chat=False)
    assert [x["ids"] for x in first] == [x["ids"] for x in second]
    random = [tuple(x["ids"]) for x in first if x["sample"] >= 0]
    assert len(set(random)) == len(random)


@pytest.mark.parametrize("chat", [True, False])
def test_the_kl_is_to_the_reference_as_it_is_asked(chat, make_policy, tokenizer):
    """One pass a response and model, each behind its own prompt: a base model's document, or a chat."""
    model, reference = make_policy(0), make_policy(1)
    for x in sampled(model, reference, tokenizer, chat=chat):
        said = x["ids"] + [tokenizer.eos_id] * (x["stop"] == "eos")
        logp = []
        for net, way in ((model, chat), (reference, True)):
            prompt = render_prompt(RECORDS[x["index"]], tokenizer, way)
            with torch.no_grad():
                logits = net.logits(net(torch.tensor([prompt + said[:-1]])))[0, len(prompt) - 1 :]  # (R, V)
            logp.append(logits.double().log_softmax(-1))
        exact = float((logp[0].exp() * (logp[0] - logp[1])).sum())
        ratios = [float(p.gather(1, torch.tensor(said)[:, None]).sum()) for p in logp]
        assert (x["kl"], x["k1"]) == pytest.approx((exact, ratios[0] - ratios[1]), abs=1e-4)


def test_what_a_model_says_fits_the_context_of_all(make_policy, tokenizer):
    """A chat prompt has two ids more than a document has; and a reference may have a shorter context."""
    long, short = make_policy(0, context=32), make_policy(1, context=12)
    for x in sampled(long, long, tokenizer, max_new=40, chat=False):
        assert len(render_prompt(RECORDS[x["index"]], tokenizer)) + x["tokens"] <= 32
    for x in sampled(long, short, tokenizer, max_new=40):
        assert len(render_prompt(RECORDS[x["index"]], tokenizer)) + x["tokens"] <= 12


def test_what_a_model_says_fits_behind_the_prompt_of_a_reference_of_another_format(make_policy, tokenizer):
    """Of one vocabulary: a system text that the reference alone comes with takes room, too."""
    wordy = Tokenizer()
    wordy.chat = replace(wordy.chat, system="be so kind")
    model = make_policy(0, context=32)
    protocol = Protocol(None, max_new=40, samples=2, seed=0)
    for x in sample_items(Policy(model, tokenizer), Policy(model, wordy), RECORDS, protocol):
        assert len(render_prompt(RECORDS[x["index"]], wordy)) + x["tokens"] <= 32


def test_a_sample_depends_on_neither_its_neighbours_nor_the_number_of_samples(made, tokenizer):
    models, items = made
    few = sampled(models["rl"], models["sft"], tokenizer, RECORDS[:2], samples=1)
    all_of_them = {(x["index"], x["sample"]): x["ids"] for x in items["rl"]}
    assert [x["ids"] for x in few] == [all_of_them[x["index"], x["sample"]] for x in few]


def test_the_room_that_a_shorter_context_leaves_a_sample_does_not_depend_on_its_neighbours(make_policy, tokenizer):
    """What is cut off there has not ended."""
    model, short = make_policy(0, context=64), make_policy(1, context=12)
    got = sampled(model, short, tokenizer, max_new=40)
    full = sampled(model, model, tokenizer, max_new=40)
    for x, y in zip(got, full):
        room = 12 - len(render_prompt(RECORDS[x["index"]], tokenizer))
        assert x["ids"] == y["ids"][: x["tokens"]] and x["tokens"] == min(y["tokens"], room)
        assert x["stop"] == (y["stop"] if y["tokens"] <= room else "length")
    assert {x["stop"] for x in got} == {"eos", "length"}


def test_another_seed_samples_other_responses(made, tokenizer):
    models, items = made
    others = sampled(models["rl"], models["sft"], tokenizer, seed=1)
    pairs = list(zip(items["rl"], others))
    assert all(x["ids"] == y["ids"] for x, y in pairs if x["sample"] < 0)
    assert sum(x["ids"] != y["ids"] for x, y in pairs if x["sample"] >= 0) > len(RECORDS)


@pytest.mark.parametrize("given, missing", [({}, 0.0), ({"missing_eos": -3.0}, -3.0)])
def test_a_response_that_did_not_end_scores_0_unless_another_score_is_given(given, missing, make_policy, tokenizer):
    model, asked = make_policy(0), []
    noted = lambda p, r, record: asked.append(r) or reward(p, r, record)
    items = sampled(model, model, tokenizer, reward_of=lambda record: noted, **given)
    for x in items:
        own = reward(x["prompt"], x["response"], {})
        assert x["scores"] == {"reward": own if x["stop"] == "eos" else missing}
    assert len(asked) == sum(x["stop"] == "eos" for x in items) < len(items)


@pytest.mark.parametrize("specs", [["a.py:one"], ["a.py:one", "a.py:two:0"]])
def test_of_several_rewards_each_is_a_score_of_its_own_beside_their_sum(specs, make_policy, tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.py").write_text("".join(f"def {k}(prompt, response, record):\n    return {n} + len(response)\n"
                                           for k, n in (("one", 1), ("two", 2))))  # fmt: skip
    rewards, model = load_rewards(RewardOptions(tuple(specs))), make_policy(0)
    items = sampled(model, model, tokenizer, reward_of=lambda record: rewards, missing_eos=-1.0, each=rewards.each)
    assert {x["stop"] for x in items} == {"eos", "length"}
    for x in items:
        own = [k + len(x["response"]) if x["stop"] == "eos" else -1 for k in (1, 2)]
        assert x["scores"] == {"reward": own[0], **(dict(zip(specs, own)) if len(specs) > 1 else {})}


def test_of_several_rewards_each_is_a_score_also_of_a_model_whose_responses_never_end(make_policy, tokenizer, tmp_path, monkeypatch):
    """Before any other has been asked, and after: nothing that was said of others is taken for its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.py").write_text("def one(prompt, response, record):\n    return 1.0\ndef two(prompt, response, record):\n    return 2.0\n")
    rewards, model, endless = load_rewards(RewardOptions(("a.py:one", "a.py:two"))), make_policy(0), make_policy(0)
    endless.ln_f.bias.data -= 9 * endless.wte.weight.data[tokenizer.eos_id]
    given = {"reward_of": lambda record: rewards, "missing_eos": -1.0, "each": rewards.each}
    for net in (endless, model, endless):
        items = sampled(net, model, tokenizer, **given)
        assert any(x["stop"] == "eos" for x in items) == (net is model)
        for x in items:
            ended = x["stop"] == "eos"
            assert x["scores"] == ({"reward": 3, "a.py:one": 1, "a.py:two": 2} if ended else dict.fromkeys(x["scores"], -1.0))
            assert len(x["scores"]) == 3


def test_of_a_conversation_the_last_answer_is_kept_beside_what_is_shown(make_policy, tokenizer):
    model = make_policy(0, context=160)
    model.ln_f.bias.data += 0.8 * model.wte.weight.data[tokenizer.eos_id]
    policy = Policy(model, tokenizer, speak=turns.Conversations(lambda record: lambda conversation, rng: "u", 3))
    items = sample_items(policy, policy, RECORDS, Protocol(lambda record: reward, MAX_NEW, SAMPLES, 0))
    assert any("‹u›" in x["response"] for x in items)
    for x in items:
        assert x.get("answer", x["response"]) == x["response"].rpartition("‹u› ")[2]
        assert ("answer" in x) == ("‹u›" in x["response"])


def test_a_tasks_own_quantities_are_0_where_the_response_did_not_end_but_for_what_is_better_if_lower():
    """Half a review may well parse."""
    (record,) = TASKS["reviews"].records("test", 1, 0)
    ended, cut = (scores_of(record, record["response"], ended) for ended in (True, False))
    assert ended == {"grammatical": 1.0} and cut == {"grammatical": 0.0}
    (question,) = TASKS["sentiment"].records("test", 1, 0)
    (booked,) = TASKS["booking"].records("test", 1, 0)
    asked = [{"role": "assistant", "content": "who?"}, {"role": "user", "content": "me"}]
    for finished in (True, False):
        assert scores_of(question, "what", finished)["unparsable"] == 1
        assert scores_of(booked | {"messages": asked}, "what", finished)["needless"] == 1


def test_figures_are_computed_in_float32_unless_another_type_is_asked_for(make_policy, tokenizer):
    asked = [Policy(make_policy(0), tokenizer, scored=dtype) for dtype in (torch.float32, torch.bfloat16)]
    other, protocol = Policy(make_policy(1), tokenizer), Protocol(None, MAX_NEW, SAMPLES, 0)
    exact, rough = ([x["kl"] for x in sample_items(policy, other, RECORDS, protocol)] for policy in asked)
    assert exact != rough and exact == pytest.approx(rough, abs=0.5)
    exact, rough = ([x["nll"] for x in text_items(policy, RECORDS)] for policy in asked)
    assert exact != rough and exact == pytest.approx(rough, rel=0.05)


def test_items_can_be_scored_again_without_the_model(made):
    """From what stands in items.jsonl alone."""
    _, items = made
    for x in items["rl"] + items["sft"]:
        record, ended = RECORDS[x["index"]], x["stop"] == "eos"
        said = reward(x["prompt"], x["response"], record) if ended else 0.0
        assert {"reward": said} | scores_of(record, x["response"], ended) == x["scores"]


def test_the_tasks_own_reward_stands_beside_another_that_it_was_replaced_with(made, tokenizer):
    """What is optimised, and what was meant."""
    (policy, reference), records = made[0].values(), TASKS["arithmetic"].records("test", 3, 0)
    items = sampled(policy, reference, tokenizer, records, reward_of=lambda record: lambda *case: 7.0, gold=True)
    for x in items:
        ended = x["stop"] == "eos"
        own = TASKS["arithmetic"].reward(x["prompt"], x["response"], records[x["index"]])
        assert x["scores"] == {"reward": 7.0 if ended else 0.0, "gold": own if ended else 0.0}


def test_items_hold_how_much_likelier_the_compared_model_finds_them(make_policy, tokenizer):
    """log compared − log reference, also of what the reference said; of its own samples that is k1."""
    policy, reference = make_policy(0), make_policy(1)
    own = sampled(policy, reference, tokenizer, compared=policy)
    assert all(x["log_ratio"] == x["k1"] for x in own) and any(x["log_ratio"] for x in own)
    its = sampled(reference, reference, tokenizer, compared=policy)
    swapped = sampled(reference, policy, tokenizer)
    assert [x["log_ratio"] for x in its] == pytest.approx([-x["k1"] for x in swapped], abs=1e-4)
    assert "log_ratio" not in swapped[0]


# Where a policy moved


def test_the_first_sample_of_each_prompt_says_where_its_model_moved_and_no_other_item_does(made):
    _, items = made
    for name, rows in items.items():
        for x in rows:
            told = {key for key in ("pieces", "token_kl", "token_log_ratio") if key in x}
            assert len(told) == (3 if name == "rl" and x["sample"] == 0 else 0)


def test_the_kl_of_tokens_sums_to_that_of_the_response_and_their_log_ratio_to_k1(made):
    """Each is rounded to four digits; the EOS is one of them."""
    rows = [x for x in made[1]["rl"] if x["sample"] == 0]
    for x in rows:
        assert len(x["pieces"]) == len(x["token_kl"]) == len(x["token_log_ratio"]) == x["tokens"]
        assert sum(x["token_kl"]) == pytest.approx(x["kl"], abs=1e-4 * x["tokens"])
        assert sum(x["token_log_ratio"]) == pytest.approx(x["k1"], abs=1e-4 * x["tokens"])
    assert {x["stop"] for x in rows} == {"eos", "length"}


def test_the_pieces_of_an_item_are_its_response_and_the_name_of_the_eos(made):
    for x in made[1]["rl"]:
        if x["sample"] == 0:
            assert "".join(x["pieces"]) == x["response"] + "<|endoftext|>" * (x["stop"] == "eos")


TEXTS = ["plain", "", "今天天气很好", "naïve 🙂 x", "👩‍🔬", "�", "a�好"]
RAW = [b"\xff", b"\xe4\xbd", b"a\xe4\xbdb", b"\xff\xff\xff\xe4\xbd\xa0", b"\xf0\x9f\x99"]
RAW.append(b"\x80\x80\xe5\xa5\xbd\xe5")


@pytest.mark.parametrize("data", [*(text.encode() for text in TEXTS), *RAW])
def test_pieces_join_to_the_text_whatever_its_bytes(data, tokenizer):
    """One token a byte: every character that is not ASCII is cut."""
    ids = [tokenizer.token_bytes.index(bytes([b])) for b in data]
    pieces = pieces_of(tokenizer, ids)
    assert len(pieces) == len(ids) and "".join(pieces) == tokenizer.decode(ids)


def test_pieces_of_random_bytes_and_specials_join_to_their_text(tokenizer):
    rng = random.Random(0)
    for _ in range(300):
        ids = [rng.choice([rng.randrange(260), rng.randrange(94, 256)]) for _ in range(rng.randrange(12))]
        assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids)


def test_the_last_token_of_a_character_has_all_of_it(tokenizer):
    assert pieces_of(tokenizer, tokenizer.encode("a好🙂")) == ["a", "", "", "好", "", "", "", "🙂"]


# Perplexity and confidence


@torch.no_grad()
@pytest.mark.parametrize("chat", [True, False])
def test_text_items_equal_one_pass_a_record(chat, made, tokenizer):
    """− log p of the answer and its EOS, the probability of the likeliest token, and whether it was that one.

    "wow!" ends in the id 0, which pads the batch.
    """
    model, right = made[0]["rl"], 0
    assert tokenizer.encode("!") == [0]
    records = RECORDS + turn_records([CONVERSATION])
    for i, (record, got) in enumerate(zip(records, text_items(Policy(model, tokenizer, chat), records))):
        ids, start = render(record, tokenizer, chat).ids, len(render_prompt(record, tokenizer, chat))
        p = model.logits(model(torch.tensor([ids])))[0].double().softmax(-1)  # (T, V)
        p = p[start - 1 : -1]  # (N, V), each place the law of the token after it
        answer = messages_of(record)[-1]["content"]
        assert (got["index"], got["tokens"], got["bytes"]) == (i, len(p), len(answer.encode()))
        assert got["nll"] == pytest.approx(-sum(log(row[t]) for row, t in zip(p, ids[start:])), abs=1e-4)
        assert got["confidence"] == pytest.approx([float(row.max()) for row in p], abs=2e-6)
        assert got["correct"] == [int(row.argmax() == t) for row, t in zip(p, ids[start:])]
        right += sum(got["correct"])
    assert right or not chat


def test_a_model_that_is_sure_has_confidences_of_at_most_1(make_policy, tokenizer):
    model = make_policy(0)
    with torch.no_grad():
        model.ln_f.weight.mul_(100)
    found = [p for x in text_items(Policy(model, tokenizer), RECORDS) for p in x["confidence"]]
    assert 0 <= min(found) and max(found) == 1


def test_the_confidence_of_a_uniform_model_is_one_over_the_vocabulary(tokenizer):
    for x in text_items(Policy(uniform(tokenizer.vocab_size), tokenizer), RECORDS):
        assert x["confidence"] == pytest.approx([1 / tokenizer.vocab_size] * x["tokens"], abs=1e-6)


def test_the_perplexity_of_a_uniform_model_is_the_vocabulary_size(tokenizer):
    items = text_items(Policy(uniform(tokenizer.vocab_size), tokenizer), RECORDS)
    nll, tokens, n_bytes = (sum(x[key] for x in items) for key in ("nll", "tokens", "bytes"))
    assert exp(nll / tokens) == pytest.approx(tokenizer.vocab_size, rel=1e-5)
    assert (tokens, n_bytes) == (4 + 7 + 5 + 2 + 4, 4 + 7 + 5 + 2)


def test_a_record_without_response_or_too_long_is_undefined(tokenizer):
    records = [{"prompt": "a", "response": "bc"}, {"prompt": "a"}, {"prompt": "a", "response": "b" * 40}]
    records.append({"messages": CONVERSATION["messages"][:4]})
    model = uniform(tokenizer.vocab_size)
    none = {"nll": None, "tokens": 0, "bytes": 0, "confidence": [], "correct": []}
    first, *others = text_items(Policy(model, tokenizer), records)
    assert first["nll"] > 0 and others == [{"index": i} | none for i in (1, 2, 3)]


@pytest.mark.parametrize("rows", [1, 3])
def test_a_text_depends_on_neither_its_neighbours_nor_its_batch(rows, made, tokenizer):
    """Whose true places stand row by row, the longest text first."""
    model, several = made[0]["rl"], text_items(Policy(made[0]["rl"], tokenizer), RECORDS)
    parts = [RECORDS[start : start + rows] for start in range(0, len(RECORDS), rows)]
    for start, part in zip(accumulate(map(len, parts), initial=0), parts):
        for x, y in zip(text_items(Policy(model, tokenizer), part), several[start:]):
            assert x["confidence"] == pytest.approx(y["confidence"], abs=2e-6)
            assert x["correct"] == y["correct"]
            assert x["nll"] == pytest.approx(y["nll"], abs=1e-4)


# Temperature


def words(seed: int, n: int = 40) -> list[dict]:
    """Records with answers of random letters, of which two are frequent."""
    rng = random.Random(seed)
    letters = ["".join(rng.choices("abcd", [6, 3, 1, 1], k=rng.randint(1, 9))) for _ in range(n)]
    return [{"prompt": "q", "response": text} for text in letters]


def louder(model: GPT, factor: float) -> GPT:
    """The same model with all its logits times the factor, which makes it surer and no wiser."""
    with torch.no_grad():
        for x in (model.ln_f.weight, model.ln_f.bias):
            x.mul_(factor)
    return model


def letter_model(tokenizer) -> GPT:
    """Uniform but for a taste for the letters that `words` has most of."""
    model = uniform(tokenizer.vocab_size)
    with torch.no_grad():
        model.ln_f.weight.zero_()
        model.ln_f.bias.zero_()[0] = 1.0
        model.wte.weight[tokenizer.encode("ab"), 0] = torch.tensor([3.0, 2.0])
    return model


def ece(items: list[dict], key: str) -> float:
    return expected_calibration_error(*(sum((x[k] for x in items), []) for k in (key, "correct")))


def test_one_temperature_fitted_on_other_texts_makes_a_boastful_model_honest(tokenizer):
    boastful = louder(letter_model(tokenizer), 8)
    T = fitted_temperature(Policy(boastful, tokenizer), words(1))
    got = text_items(Policy(boastful, tokenizer), words(2), temperature=T)
    assert T > 2 and ece(got, "confidence") > 0.4 and ece(got, "tempered") < 0.15
    plain = text_items(Policy(boastful, tokenizer), words(2))
    assert [x["confidence"] for x in got] == [x["confidence"] for x in plain]


def test_the_temperature_takes_back_whatever_the_logits_were_multiplied_by(tokenizer):
    one, four = (fitted_temperature(Policy(louder(letter_model(tokenizer), k), tokenizer), words(1)) for k in (1, 4))
    assert four == pytest.approx(4 * one, rel=1e-5)


def test_at_a_temperature_of_1_confidence_and_error_stay_as_they_are(made, tokenizer):
    got = text_items(Policy(made[0]["rl"], tokenizer), RECORDS, temperature=1.0)
    assert all(x["tempered"] == x["confidence"] for x in got)
    assert ece(got, "tempered") == ece(got, "confidence")


@torch.no_grad()
def test_the_tempered_confidence_is_that_of_the_divided_logits(made, tokenizer):
    model = made[0]["rl"]
    for x, record in zip(text_items(Policy(model, tokenizer), RECORDS, temperature=2.5), RECORDS):
        ids, start = render(record, tokenizer).ids, len(render_prompt(record, tokenizer))
        p = (model.logits(model(torch.tensor([ids])))[0].double() / 2.5).softmax(-1)[start - 1 : -1]  # (N, V)
        assert x["tempered"] == pytest.approx([float(row.max()) for row in p], abs=2e-6)


def test_the_temperature_is_that_of_all_tokens_or_of_the_first_that_may_be_held(made, tokenizer, monkeypatch):
    model, records = made[0]["rl"], words(3)
    with torch.no_grad():
        parts = [(z.numpy(), y.numpy()) for _, z, y in answer_logits(Policy(model, tokenizer), records)]
    z, y = (torch.cat([torch.from_numpy(x) for x in column]).numpy() for column in zip(*parts))
    T = fitted_temperature(Policy(model, tokenizer), records)
    assert len(parts) == 2 and T == pytest.approx(fit_temperature(z, y))
    for n in (3, len(parts[0][1]) + 1):
        monkeypatch.setattr(ask, "LOGITS", n * z.shape[1])
        assert fitted_temperature(Policy(model, tokenizer), records) == pytest.approx(fit_temperature(z[:n], y[:n]))


def test_records_without_an_answer_have_no_temperature(made, tokenizer):
    assert isnan(fitted_temperature(Policy(made[0]["rl"], tokenizer), [{"prompt": "a"}]))
