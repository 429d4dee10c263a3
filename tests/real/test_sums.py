"""The sums: held-out pairs are unseen in either order, answers are right, the reward is the last number."""

import re

import pytest

from minirlhf.real.sums import SETS, files, held_out, right


@pytest.fixture(scope="module")
def made():
    return files("")


def pair(record: dict) -> tuple[int, ...]:
    return tuple(sorted(map(int, re.findall(r"\d+", record["prompt"]))))


def test_no_pair_of_a_test_set_is_learnt_in_either_order(made):
    learnt = set(map(pair, made["labels"]))
    assert len(learnt) == 1000 and all(learnt.isdisjoint(map(pair, made[name])) for name in SETS)
    assert held_out(12, 34) == held_out(34, 12)


def test_training_asks_the_smaller_number_first_and_the_tests_the_larger(made):
    asked = {name: [tuple(map(int, re.findall(r"\d+", r["prompt"]))) for r in made[name]] for name in (*SETS, "labels")}
    assert all(a <= b for a, b in asked["labels"]) and all(a >= b for name in SETS for a, b in asked[name])


@pytest.mark.parametrize("name", [*SETS, "labels"])
def test_each_prompt_stands_once_and_its_answer_is_right(made, name):
    records = made[name]
    assert len({r["prompt"] for r in records}) == len(records) >= 100
    for record in records:
        a, b = map(int, re.findall(r"\d+", record["prompt"]))
        assert int(record["response"]) == (a - b if name == "minus" else a + b) >= 0


def test_the_few_labels_are_the_first_of_the_many_and_all_are_the_same_every_time(made):
    assert made["few"] == made["labels"][:100] and made == files("")


@pytest.mark.parametrize("said, value", [("57", 1), ("50 + 7 = 57.", 1), ("57 apples, not 58", 0), ("-57", 0), ("", 0)])
def test_the_reward_is_of_the_last_number(said, value):
    assert right("", said, {"response": "57"}) == value
