"""From items.jsonl to a study and its key: which pairs, in which order, on which sides, with which checks."""

import random
from collections import Counter

import pytest

from minirlhf.annotation.pairs import (
    AnswerPair, arrange, attention_items, candidates, item_id, make_places, shown_prompt,
)
from minirlhf.evaluation import items as items_file
from minirlhf.evaluation.items import read_sets
from minirlhf.harness.files import UserError


def a_set(n, samples=(-1, 0, 1), models=("sft", "ppo"), say="{model} {index} {sample}"):
    """n records, and both models' answers to each, which are as `say` says."""
    where = [{"index": i, "sample": k} for i in range(n) for k in samples]
    answers = [tuple(x | {"response": say.format(model=model, **x)} for model in models) for x in where]
    return [{"prompt": f"prompt {i}"} for i in range(n)], answers


def study_of(n, seed=0, total=0):
    return make_places(*a_set(total or 2 * n, (0,)), n, seed)


def test_what_an_evaluation_wrote_is_read(make_evaluation, tmp_path):
    run, sets = make_evaluation([{"prompt": "a\u2028b"}, talk("好", "x", "and?")], lambda m, i, k: f"{m} {i} {k}")
    items_file.write_items(tmp_path / "i.jsonl", run, sets)
    assert read_sets(tmp_path / "i.jsonl") == sets


@pytest.mark.parametrize("record, message", [
    ({"messages": [5]}, "i.jsonl, line 3: a message needs a 'role'"), (None, "No such file"),
])  # fmt: skip
def test_a_file_that_does_not_fit_is_refused(make_evaluation, tmp_path, record, message):
    path = tmp_path / "i.jsonl"
    if record:
        items_file.write_items(path, *make_evaluation([record], lambda m, i, k: "x"))
    with pytest.raises(UserError) as error:
        read_sets(path)
    assert str(error.value).startswith(str(path)) and message in str(error.value)


def talk(*contents):
    """A conversation of user and assistant in turn."""
    roles = ["user", "assistant"] * len(contents)
    return {"messages": [{"role": role, "content": content} for role, content in zip(roles, contents)]}


@pytest.mark.parametrize("record, shown", [
    ({"prompt": "a\nb", "response": "c"}, "a\nb"),
    (talk("a", "c"), "a"),
    (talk("a", "b\n\nuser\nx", "c"), "user\n  a\n\nassistant\n  b\n  \n  user\n  x\n\nuser\n  c"),
    (talk("a", "b", "c", "d"), "user\n  a\n\nassistant\n  b\n\nuser\n  c"),
])  # fmt: skip
def test_a_prompt_of_several_turns_is_shown_whole_and_none_can_pose_as_another(record, shown):
    assert shown_prompt(record) == shown


def test_conversations_that_end_alike_are_different_prompts():
    """Of two with the same last turn, each has its own pair, the turns with it; a single turn is as ever."""
    records = [talk("one", "x", "and?"), talk("two", "x", "and?", "its own answer"), {"prompt": "and?"}]
    places, key = make_places(records, a_set(3, (0,))[1], 9, 0)
    assert {x["prompt"]: x.get("messages") for x in places} == {
        shown_prompt(records[0]): talk("one", "x", "and?")["messages"],
        shown_prompt(records[1]): talk("two", "x", "and?")["messages"],
        "and?": None,
    }
    assert len({x["item"] for x in key["places"]}) == 3


def test_a_pair_is_of_one_prompt_and_one_sample():
    found = candidates(*a_set(30), random.Random(0))
    assert len(found) == 60
    for prompt, a, b in found:
        index, sample = a.split()[1:]
        assert (prompt, a, b) == (f"prompt {index}", f"sft {index} {sample}", f"ppo {index} {sample}")
        assert sample != "-1"


def test_every_prompt_has_a_turn_before_any_has_a_second():
    found = candidates(*a_set(30), random.Random(0))
    assert len({pair.prompt for pair in found[:30]}) == len({pair.prompt for pair in found[30:]}) == 30
    assert {pair.a.split()[2] for pair in found[:30]} == {"0", "1"}  # which sample is first is by chance
    assert [pair.prompt[7:] for pair in found[:30]] != list(map(str, range(30)))


def test_greedy_answers_are_compared_where_there_are_no_samples():
    assert len(candidates(*a_set(5, samples=(-1,)), random.Random(0))) == 5


def test_the_same_pair_twice_is_one_pair():
    assert len(candidates(*a_set(6, (0, 1), say="{model} {index}"), random.Random(0))) == 6


def test_the_id_depends_on_the_texts_and_not_on_whose_they_are():
    """In the models' order, it would say on which side one of them stands."""
    assert item_id(AnswerPair("p", "x", "y")) == item_id(AnswerPair("p", "y", "x"))
    different = [AnswerPair("p", "x", "y"), AnswerPair("q", "x", "y"), AnswerPair("p", "x", "z"),
                 AnswerPair("p", "xy", ""),
                 AnswerPair("px", "", "y")]  # fmt: skip
    assert len({item_id(pair) for pair in different}) == len(different)


@pytest.mark.parametrize("n", [1, 2, 5, 10, 11, 15, 24, 100, 101, 333])
@pytest.mark.parametrize("seed", range(4))
def test_sides_are_balanced_exactly(n, seed):
    """Among pairs, among duplicates and in all; and the right answer of attention items likewise."""
    _, key = study_of(n, seed)
    for kinds in (["pair"], ["duplicate"], ["attention"], ["pair", "duplicate"]):
        left = Counter(x["left"] for x in key["places"] if x["kind"] in kinds)
        assert abs(left["a"] - left["b"]) <= 1
    checks = [x for x in key["places"] if x["kind"] == "attention"]
    for x in (Counter(x["good"] for x in checks), Counter(x["good"] == x["left"] for x in checks)):
        assert abs(2 * max(x.values(), default=0) - x.total()) <= 2


@pytest.mark.parametrize(
    "n, duplicates, checks", [(1, 0, 0), (9, 0, 0), (11, 1, 1), (100, 10, 5), (200, 20, 10)]
)
def test_one_in_ten_is_shown_again_and_one_in_twenty_is_a_check(n, duplicates, checks):
    kinds = Counter(x["kind"] for x in study_of(n)[1]["places"])
    assert kinds == Counter({"pair": n, "duplicate": duplicates, "attention": checks})


@pytest.mark.parametrize("n", [11, 12, 40, 150])
@pytest.mark.parametrize("seed", range(5))
def test_a_duplicate_comes_at_least_ten_places_later_with_sides_swapped(n, seed):
    places, key = study_of(n, seed)
    first = {x["item"]: i for i, x in enumerate(key["places"]) if x["kind"] == "pair"}
    again = [(i, first[x["item"]]) for i, x in enumerate(key["places"]) if x["kind"] == "duplicate"]
    assert again
    for later, i in again:
        assert later - i >= 10
        old, new = places[i], places[later]
        assert (old["prompt"], old["left"], old["right"]) == (new["prompt"], new["right"], new["left"])
        assert key["places"][i]["left"] != key["places"][later]["left"]


def test_duplicates_are_not_all_at_the_end():
    """Of all places behind the tenth, each is as good."""
    where = [i / len(key["places"]) for _, key in (study_of(100, seed) for seed in range(10))
             for i, x in enumerate(key["places"]) if x["kind"] == "duplicate"]  # fmt: skip
    assert min(where) < 0.4 and max(where) > 0.9


def test_the_right_answer_of_an_attention_item_is_to_its_prompt_and_the_other_is_not():
    pool = [AnswerPair(f"p{i}", f"a{i}", f"b{i}") for i in range(6)]
    made = attention_items(pool, 4, random.Random(0))
    assert sorted(x.good + x.left for x in made) == ["aa", "ab", "ba", "bb"]
    for x in made:
        right, wrong = (x.pair.a, x.pair.b) if x.good == "a" else (x.pair.b, x.pair.a)
        assert right[1:] == x.pair.prompt[1:] != wrong[1:]
        assert (x.pair.a[0], x.pair.b[0]) == ("a", "b")  # a and b are models there too


def test_an_answer_that_is_empty_or_right_by_chance_checks_nobody():
    pool = [AnswerPair("p", "x", ""), AnswerPair("q", "x ", "x"), AnswerPair("r", "", "x")]
    assert attention_items(pool, 3, random.Random(0)) == []
    one_prompt = [AnswerPair("p", f"x{i}", f"y{i}") for i in range(3)]
    assert attention_items(one_prompt, 3, random.Random(0)) == []


def test_attention_items_are_of_prompts_that_are_not_compared_where_there_are_enough():
    places, key = study_of(100)
    of = {kind: {p["prompt"] for p, x in zip(places, key["places"]) if x["kind"] == kind}
          for kind in ("pair", "attention")}
    assert of["attention"] and not of["pair"] & of["attention"]
    assert "attention" in {x["kind"] for x in study_of(60, total=60)[1]["places"]}


def same_where(n, same):
    """A set of n, with identical answers to the prompts of which `same` is true."""
    records, answers = a_set(n, (0,))
    return records, [[x | {"response": "the same"} if same(x["index"]) else x for x in pair] for pair in answers]


def test_identical_answers_are_ties_that_are_counted_and_not_shown():
    places, key = make_places(*same_where(20, lambda i: i < 6), 50, 0)
    assert len(set(key["identical"])) == 6
    assert not set(key["identical"]) & {x["item"] for x in key["places"]}
    assert sum(x["kind"] == "pair" for x in key["places"]) == 14
    assert all(x["left"] != x["right"] for x in places)
    with pytest.raises(UserError, match="all 6 pairs are identical"):
        make_places(*same_where(6, lambda i: True), 50, 0)


def test_pairs_are_drawn_before_ties_are_taken_out():
    """Else the share of ties among n pairs would not be that among all."""
    ties = [len(make_places(*same_where(200, lambda i: i % 2), 40, seed)[1]["identical"]) for seed in range(20)]
    assert 16 <= sum(ties) / 20 <= 24 and all(5 <= n <= 35 for n in ties)


def test_the_places_say_nothing_about_models_and_checks():
    places, key = make_places(*a_set(100, models=("m1", "m2")), 60, 77)
    assert all(x.keys() == {"prompt", "left", "right"} for x in places)
    for shown, secret in zip(places, key["places"]):
        if secret["kind"] != "attention":
            assert shown["left"].split()[0] == {"a": "m1", "b": "m2"}[secret["left"]]
            assert shown["right"].split()[0] == {"b": "m1", "a": "m2"}[secret["left"]]
            assert secret["good"] is None


def test_the_seed_decides_all_and_nothing_else_does():
    assert study_of(50, 3) == study_of(50, 3)
    one, other = study_of(50, 3), study_of(50, 4)
    assert one[0] != other[0]
    assert [x["left"] for x in one[1]["places"]] != [x["left"] for x in other[1]["places"]]


@pytest.mark.parametrize("kind", ["pair", "duplicate", "attention"])
def test_a_side_cannot_be_guessed_where_the_balance_leaves_one_over(kind):
    """Over seeds: on which side a is, and the right answer, of the only one of its kind."""
    n, pool = 300, [AnswerPair(f"p{i}", f"a{i}", f"b{i}") for i in range(11)]
    made = [arrange(pool[: 1 if kind == "pair" else 11], [], random.Random(seed)) for seed in range(n)]
    only = [[x for x in showings if x.kind == kind] for showings in made]
    assert {len(showings) for showings in only} == {1}
    counts = [sum(x.left == "a" for (x,) in only)]
    counts += [sum(x.left == x.good for (x,) in only)] if kind == "attention" else []
    assert all(abs(count - n / 2) < 4 * (n / 4) ** 0.5 for count in counts)
