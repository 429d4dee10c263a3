"""The film reviews: what is tested on is not learnt, and the classifier holds out the very same reviews."""

import json

import pytest

from minirlhf.harness.files import UserError
from minirlhf.lm.records import split_by_prompt
from minirlhf.preferences.config import RewardConfig
from minirlhf.real import openings, reviews
from minirlhf.real.reviews import files, right


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """7,500 reviews, and some of them again."""
    path = tmp_path_factory.mktemp("reviews") / "r.jsonl"
    texts = [f"film {i} is the sort of story that some {i % 7} people like and some do not" for i in range(7500)]
    lines = [json.dumps({"text": x, "label": ("negative", "positive")[len(x) % 2]}) for x in [*texts, *texts[:50]]]
    path.write_text("\n".join(lines))
    return str(path)


def test_no_review_is_learnt_and_tested_on(path):
    made = files(path)
    learnt, held_out = ({r["prompt"] for r in made[k]} for k in ("labels", "test"))
    assert len(learnt) == len(held_out) == 1000 and learnt.isdisjoint(held_out) and made["few"] == made["labels"][:100]
    assert made == files(path)


def test_a_few_examples_are_of_both_labels_and_none_that_is_asked(path):
    made = files(path)
    for k in reviews.SHOTS:
        assert sorted(r["label"] for r in made[f"few{k}"]) == ["negative"] * (k // 2) + ["positive"] * (k // 2)
        assert {r["prompt"] for r in made[f"few{k}"]}.isdisjoint(r["prompt"] for r in made["some"])


def test_the_classifier_holds_out_what_the_models_are_tested_on(path):
    made = files(path)
    sides = split_by_prompt(made["labels"] + made["test"], RewardConfig().held_out)
    assert sides == {"train": made["labels"], "validation": made["test"]}


@pytest.mark.parametrize("said, value", [("positive", 1), (" positive\n", 1), ("Positive", 0), ("negative", 0), ("", 0)])
def test_the_reward_is_the_label_alone(said, value):
    assert right("", said, {"label": "positive"}) == value


@pytest.mark.parametrize("task, text, said", [
    (reviews, '{"text": "a"}', "not reviews"), (reviews, '{"prompt": "a", "response": "b"}', "not reviews"),
    (reviews, '{"text": "a", "label": "positive"}\n{"text": "b", "label": "negative"}', "are too few"),
    (openings, '{"text": "a", "label": "positive"}\n{"text": "b", "label": "negative"}', "are too few"),
])  # fmt: skip
def test_a_file_of_something_else_is_refused(task, text, said, tmp_path):
    (tmp_path / "r.jsonl").write_text(text)
    with pytest.raises(UserError, match=said):
        task.files(str(tmp_path / "r.jsonl"))


def test_the_two_judges_the_policy_and_the_test_learn_from_different_openings(path):
    made = {name: [r["prompt"] for r in records] for name, records in openings.files(path).items()}
    judges = {name: prompts[: -openings.JUDGED] for name, prompts in made.items() if name in ("rm", "gold")}
    parts = [*judges.values(), made["prompts"], made["test"], made["rm"][-openings.JUDGED :]]
    assert [len(x) for x in parts] == [2000, 2000, 900, 100, 500]
    assert len({prompt for part in parts for prompt in part}) == sum(map(len, parts))


def test_a_review_that_is_little_more_than_its_opening_is_left_out():
    assert openings.record_of("a b c d e f g h i j k", "positive") is None
    made = openings.record_of("a b c d e f g h i j k l", "positive")
    assert made == {"prompt": openings.ASK.format("a b c d e f"), "response": "a b c d e f g h i j k l", "label": "positive"}
