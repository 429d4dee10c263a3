"""Booking: what a guest says, what has been told, and what a conversation earns."""

import random
from dataclasses import replace
from math import prod

import numpy as np
import pytest
import torch

from minirlhf.evaluation.ask import Policy, Protocol, sample_items
from minirlhf.harness.files import UserError
from minirlhf.lm.generation import filled
from minirlhf.lm.model import GPT
from minirlhf.lm.optim import Stepper, make_adamw
from minirlhf.rl.algorithms import advantages_of
from minirlhf.rl.config import ALGORITHMS, PPOConfig
from minirlhf.rl.ppo import models_of, sample_round, update
from minirlhf.rl.turns import Conversations
from minirlhf.tasks import TASKS, prompts, reply_of_task, reward_of_task
from minirlhf.tasks.booking import (
    NEEDLESS, QUESTIONS, SLOTS, VALUES, booking, clerk, needless, records, reply, reward, score, told,
)

RECORD = {"task": "booking", "prompt": "a table on friday", "people": "four", "day": "friday", "time": "half past 5", "given": "day"}


def said(*turns: str) -> dict:
    """RECORD with a conversation: the guest's words and the policy's in turn, from the request on."""
    roles = ("user", "assistant")
    return RECORD | {"messages": [{"role": roles[i % 2], "content": x} for i, x in enumerate((RECORD["prompt"], *turns))]}


def test_what_is_wanted_and_asked_for_in_a_held_out_split_is_never_learnt():
    seen = records("train", 5000, 0)
    wanted, asked = ({f(r) for r in seen} for f in (lambda r: tuple(r[s] for s in SLOTS), lambda r: r["prompt"]))
    for split in ("validation", "test"):
        held_out = records(split, 300, 0)
        assert len({r["prompt"] for r in held_out}) == 300
        assert not any(r["prompt"] in asked or tuple(r[s] for s in SLOTS) in wanted for r in held_out)
    assert len(asked) > 2000


def test_a_split_that_has_fewer_says_so():
    with pytest.raises(UserError, match="asked for 5000 distinct prompts of booking's test split"):
        records("test", 5000, 0)


def test_rl_and_evaluation_ask_no_more_than_the_request():
    for record, whole in zip(prompts(TASKS["booking"], "test", 20, 0), records("test", 20, 0)):
        assert record == {k: v for k, v in whole.items() if k not in ("messages", "response")}


def test_a_request_says_what_is_given_and_nothing_else():
    for record in records("train", 300, 0):
        assert told(record | {"given": ""}, [{}, {"role": "user", "content": record["prompt"]}]) == {*record["given"].split()}


def test_the_guest_answers_what_it_is_asked_and_at_times_more():
    more = 0
    for seed in range(300):
        answer = reply(said("what time?"), random.Random(seed))
        heard = told(RECORD, said("what time?", answer)["messages"])
        assert {"day", "time"} <= heard
        more += "people" in heard
    assert 60 < more < 120  # 0.3 of them


@pytest.mark.parametrize("answer, said_then", [("booked: four, friday, 5 pm", None), ("eh", "sorry?"), ("", "sorry?")])
def test_a_booking_ends_the_conversation_and_nonsense_does_not(answer, said_then):
    assert reply(said(answer), random.Random(0)) == said_then


def test_a_number_of_people_is_not_told_by_a_time():
    assert told(RECORD | {"given": ""}, said("what time?", "at half past 5")["messages"]) == {"day", "time"} - {"day"}


@pytest.mark.parametrize("turns, value", [
    ((), 1), (("how many people?", "we are four"), 1), (("how many people?", "four", "what time?", "at half past 5"), 1),
    (("which day?", "on friday"), 1 - NEEDLESS), (("eh", "sorry?"), 1 - NEEDLESS),
    (("what time?", "half past 5", "what time?", "half past 5"), 1 - NEEDLESS),
    (("what time?", "half past 5, for four", "how many people?", "four"), 1 - NEEDLESS),
    (("eh", "sorry?") * 11, 0),
])  # fmt: skip
def test_a_right_booking_earns_1_less_what_needless_questions_cost(turns, value):
    record = said(*turns)
    assert reward("", booking(RECORD), record) == pytest.approx(value)
    assert score("", booking(RECORD), record) == {"right": 1.0, "needless": needless(record)}
    for wrong in ("booked: four, friday, 5 pm", booking(RECORD) + ".", "which day?", ""):
        assert reward("", wrong, record) == 0


def test_who_never_asks_earns_0_176_at_most():
    """A slot is given half the time, and else one of its values, all equally likely, is a guess."""
    best = prod(0.5 + 0.5 / len(VALUES[slot]) for slot in SLOTS)
    assert best == pytest.approx(0.1753, abs=1e-4)
    earned = 0.0
    for record in prompts(TASKS["booking"], "train", 4000, 1):
        guess = {slot: record[slot] if slot in record["given"] else VALUES[slot][0] for slot in SLOTS}
        earned += reward("", booking(guess), record) / 4000
    assert earned == pytest.approx(best, abs=0.02)


def test_the_clerk_is_hasty_and_its_conversations_are_those_of_the_guest():
    some, right = records("train", 500, 0), 0.0
    for record in some:
        assert record["messages"][0]["content"] == record["prompt"] and len(record["messages"]) <= 2 * len(SLOTS) + 2
        for i, message in enumerate(record["messages"][1:-1], 1):
            assert (message["content"] in QUESTIONS.values()) == (message["role"] == "assistant") == bool(i % 2)
        right += reward("", record["response"], record | {"messages": record["messages"][:-1]}) / 500
    assert 0.3 < right < 0.6
    assert clerk(RECORD, random.Random(0)) == clerk(RECORD, random.Random(0))


@pytest.fixture
def policy(make_policy, tokenizer) -> GPT:
    """One that likes to end soon, so that the guest is asked."""
    policy = make_policy(0, context=200)
    policy.ln_f.bias.data += 0.8 * policy.wte.weight.data[tokenizer.eos_id]
    return policy


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_takes_a_step_on_it(name, policy, tokenizer):
    config = PPOConfig(algo=name, batch=8, max_new=6, minibatches=1, temperature=0.7)
    models = replace(models_of(policy, tokenizer, config.algorithm), speak=Conversations(reply_of_task, 3))
    asked = prompts(TASKS["booking"], "train", 8 // config.algorithm.group, 0)
    _, rollout = sample_round(models, asked, reward_of_task, config, np.random.default_rng(0))
    assert (rollout.mask != filled(rollout.mask)).any()  # the guest has spoken
    rollout.scores += torch.linspace(0, 1, 8)
    rollout, before = advantages_of(rollout, config.algorithm, 0.1), policy.wpe.weight.clone()
    stepper = Stepper(make_adamw([policy], 1e-3, 0.0), 1.0)
    figures = update(models, rollout, config, 0.1, stepper, 1e-3, np.random.default_rng(0))
    assert figures["ratio"] == 1.0 and not torch.equal(policy.wpe.weight, before)


def test_an_evaluation_asks_the_guest_and_shows_the_conversation(policy, tokenizer):
    guest = lambda conversation, rng: None if len(conversation["messages"]) > 2 else "we are two"  # noqa: E731
    asked = Policy(policy, tokenizer, speak=Conversations(lambda record: guest))
    items = sample_items(asked, asked, prompts(TASKS["booking"], "test", 8, 0), Protocol(reward_of_task, 6, 2, 0))
    talks = [x for x in items if "‹we are two›" in x["response"]]
    assert talks and all(len(x["ids"]) == x["tokens"] - (x["stop"] == "eos") for x in items)
    heard = [tokenizer.special_ids["<|user|>"], tokenizer.special_ids["<|assistant|>"]]
    assert not any(i in x["ids"] for x in talks for i in heard)  # what the guest says is in no figure
