"""What closed studies hold, against what was said on their pages."""

import pytest

from minirlhf.annotation import log as judgements
from minirlhf.annotation.rows import read_rows, read_studies
from minirlhf.harness.files import UserError

LEFTS = "abbaab"
TURNS = [{"role": "user", "content": "p5"}]


@pytest.fixture
def study(tmp_path):
    """A function that judges a study of 6 places, for each annotator by such words, and closes it."""

    def judged(folder: str = "study", models=("sft", "ppo"), **said: str):
        places = [{"prompt": f"p{i}", "left": f"l{i}", "right": f"r{i}"} for i in range(6)]
        places[5]["messages"] = TURNS
        secret = [{"item": f"id{i % 5}", "kind": "pair", "left": LEFTS[i], "good": None} for i in range(6)]
        secret[4] |= {"kind": "attention", "good": "b"}
        secret[5] |= {"kind": "duplicate"}
        key = {"models": list(models), "identical": {}, "places": secret}
        judgements.create(tmp_path / folder, {"question": folder, "places": places}, key)
        for name, words in said.items():
            with judgements.Session(tmp_path / folder, name) as session:
                for word in words.split():
                    session.act(word, session.place - (word == "undo"), 1.5)
        judgements.close(tmp_path / folder, early=True)
        return tmp_path / folder

    return judged


def test_rows_are_of_models_and_not_of_sides(study):
    rows, _ = read_rows(study(ann="left right tie bad right skip", bob="skip left"), [])
    assert [(r.annotator, r.item) for r in rows] == [
        ("ann", "id0"), ("ann", "id1"), ("ann", "id2"), ("ann", "id3"), ("ann", "id4"), ("bob", "id1")
    ]  # fmt: skip
    # LEFTS a b b a a: left is sft; right is sft; ...; right is ppo.
    assert [r.score for r in rows] == [0, 0, 0.5, 0.5, 1, 1]
    assert [r.left for r in rows] == [0, 1, 1, 0, 0, 1]
    assert {r.models for r in rows} == {("sft", "ppo")}
    assert [r.answers for r in rows[:2]] == [("l0", "r0"), ("r1", "l1")]
    first = rows[0]
    assert (first.kind, first.prompt, first.messages, first.good, first.seconds) == ("pair", "p0", None, None, 1.5)
    assert len(first.study) == 16 and (rows[4].kind, rows[4].good) == ("attention", 1)


def test_rows_hold_the_turns_that_were_shown(study):
    rows, _ = read_rows(study(ann="left " * 6), [])
    assert rows[5].messages == TURNS and rows[5].kind == "duplicate" and rows[5].item == rows[0].item


def test_rows_hold_what_was_undone_last(study):
    assert [r.score for r in read_rows(study(ann="left undo right"), [])[0]] == [1]


def test_a_study_that_names_the_models_the_other_way_round_is_turned(study):
    """The same answers on the same sides, judged alike, of ppo and sft: every figure of sft is now ppo's."""
    words = "left right tie left right left"
    rows, studies = read_studies([study(ann=words), study("other", ("ppo", "sft"), bob=words)])
    one, other = rows[:6], rows[6:]
    assert {r.models for r in rows} == {("sft", "ppo")} and studies[1]["models"] == ["ppo", "sft"]
    for r, s in zip(one, other):
        assert (s.left, s.score, s.answers) == (1 - r.left, 1 - r.score, r.answers[::-1])
        assert s.good is r.good is None or s.good == 1 - r.good


def test_of_three_models_each_two_stand_in_the_order_of_their_studies(study):
    folders = [study(models[0], models, ann="left") for models in (("sft", "ppo"), ("dpo", "sft"), ("ppo", "dpo"))]
    assert [r.models for r in read_studies(folders)[0]] == [("sft", "ppo"), ("sft", "dpo"), ("ppo", "dpo")]


def test_who_sees_the_same_pair_in_two_studies_counts_once(study):
    """By the first study. Else one person would be two, who agree or not."""
    rows, _ = read_studies([study(ann="left right"), study("other", ann="right right tie", bob="left")])
    assert [(r.annotator, r.item, r.score) for r in rows] == [
        ("ann", "id0", 0.0), ("ann", "id1", 0.0), ("ann", "id2", 0.5), ("bob", "id0", 0.0)]  # fmt: skip


def test_a_duplicate_stays_with_its_pair(study):
    """A judge of two studies who always says left is not consistent with what was seen in the other."""
    rows, _ = read_studies([study(ann="left"), study("other", ann="skip skip skip skip skip left", bob="left")])
    assert [(r.annotator, r.kind, r.item) for r in rows] == [("ann", "pair", "id0"), ("bob", "pair", "id0")]


def test_no_study_counts_twice(study):
    folder = study(ann="left")
    with pytest.raises(UserError, match="the same study as"):
        read_studies([folder, folder])


def test_a_study_of_checks_alone_is_refused(study):
    with pytest.raises(UserError, match="no pair was judged"):
        read_studies([str(study(ann="skip skip skip skip left left"))])
