"""From files of comparisons to ids, by prompt."""

import json

import pytest

from minirlhf.harness.files import UserError
from minirlhf.lm.chat import render
from minirlhf.lm.records import validation_split
from minirlhf.preferences.comparisons import (
    Judged, load_labelled, pairs_by_prompt, read_preferences,
)
from minirlhf.rl.reward_model import text_ids


def comparison(prompt, chosen="a", rejected="b", **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def test_pairs_hold_prompt_response_and_eos_and_what_is_said_of_them(tokenizer):
    record = comparison("p", "yes", "no", p=0.75, gold_chosen=0.5, gold_rejected=0.75)
    groups, counts = pairs_by_prompt([record, comparison("q")], tokenizer, 32)
    (pair,), (plain,) = groups.values()
    chosen, rejected = (text_ids({"prompt": "p"}, text, tokenizer, 32) for text in ("yes", "no"))
    assert pair == Judged((chosen, rejected), 0.75, -0.25) and not counts.total()
    assert (plain.wanted, plain.gold) == (1.0, 0.0)


def test_comparisons_are_grouped_by_prompt(tokenizer):
    chat = {"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "r"},
                         {"role": "user", "content": "q"}], "chosen": "a", "rejected": "b"}  # fmt: skip
    records = [comparison("p"), comparison("q"), chat, comparison("p", "c"), comparison("q", "b", "a"), chat]
    groups, _ = pairs_by_prompt(records, tokenizer, 32)
    assert [len(pairs) for pairs in groups.values()] == [2, 2, 2]


def test_a_gold_reward_of_one_side_alone_is_no_difference(tokenizer):
    groups, _ = pairs_by_prompt([comparison("p", gold_chosen=0.5)], tokenizer, 32)
    assert groups.popitem()[1][0].gold == 0


@pytest.mark.parametrize("whole, counts, kept", [
    (False, {"equal": 2, "long": 0, "cut": 2}, 3),
    (True, {"equal": 1, "long": 3, "cut": 0}, 1),
])  # fmt: skip
def test_equals_and_what_exceeds_the_context_are_counted(tokenizer, whole, counts, kept):
    """Equal from the start, or once the beginning is cut off; the longest that fit have 20 ids."""
    records = [comparison("p", "a", "a"), comparison("p", 16 * "a"), comparison("p", "x" + "end" * 9, "y" + "end" * 9)]
    records += [comparison("p", 17 * "a"), comparison("q", "b", 17 * "a")]
    groups, found = pairs_by_prompt(records, tokenizer, 20, whole)
    pairs = [pair for group in groups.values() for pair in group]
    assert found == counts and len(pairs) == kept
    assert all(len(ids) <= 20 for pair in pairs for ids in pair.texts)
    user = tokenizer.special_ids["<|user|>"]
    assert sum(ids[0] != user for pair in pairs for ids in pair.texts) == counts["cut"]


def test_records_without_a_comparison_are_named(tmp_path):
    path = tmp_path / "x.jsonl"
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    path.write_text(json.dumps(good) + "\n" + json.dumps({"prompt": "p", "response": "r"}))
    with pytest.raises(UserError, match="x.jsonl: record 2 has no 'chosen' and 'rejected'; found prompt, response"):
        read_preferences([path])


# Labelled texts


def read(tmp_path, *records):
    """`read_preferences` of a file of these records, with labels."""
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return read_preferences([str(tmp_path / "labels.jsonl")], labels=True)


def test_records_with_a_label_are_read_and_those_without_are_left_out(tmp_path):
    records = [{"text": "a", "label": "x"}, {"text": "b"}, {"prompt": "c", "label": 3}, {"text": "d", "label": None}]
    assert [r["label"] for r in read(tmp_path, *records)] == ["x", 3]


@pytest.mark.parametrize("first", [{"text": "t"}, {"prompt": "p", "response": "r"}])
def test_what_begins_with_no_label_is_wanted_to_be_comparisons(first, tmp_path):
    with pytest.raises(UserError, match="record 1 has no 'chosen'"):
        read(tmp_path, first, {"text": "t", "label": "x"})
    assert len(read(tmp_path, comparison("p", label="x"))) == 1


def test_a_labelled_text_is_prompt_response_and_eos_and_never_the_label_itself(tokenizer):
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    records = [
        {"prompt": "p", "response": "yes it is", "label": "yes"}, {"prompt": "p2", "response": " yes ", "label": "yes"},
        {"prompt": "p3", "label": " no "}, {"messages": talk, "label": "no"},
        {"messages": [*talk, talk[0]], "label": "no"}, {"text": "bare", "label": "no"},
    ]  # fmt: skip
    wanted = [
        {"prompt": "p", "response": "yes it is"}, {"prompt": "p2", "response": ""}, {"prompt": "p3", "response": ""},
        {"messages": talk}, {"messages": [*talk, talk[0], {"role": "assistant", "content": ""}]},
        {"messages": [{"role": "assistant", "content": "bare"}]},
    ]  # fmt: skip
    classes, train, held_out, counts = load_labelled(records, tokenizer, 64, 0)
    assert classes == ["no", "yes"] and held_out == [] and counts == {"texts": 6, "cut": 0}
    assert train == [[Judged((tuple(render(r, tokenizer).ids),), int(x["label"] == "yes"))]
                     for r, x in zip(wanted, records)]  # fmt: skip


def test_labelled_texts_of_a_prompt_stay_together_and_long_ones_lose_their_beginning(tokenizer, capsys):
    records = [{"prompt": f"p{i // 2}", "response": "r" * (1 + 40 * (i == 3)), "label": i % 2} for i in range(80)]
    records = [r | {"label": str(r["label"])} for r in records]
    _, train, held_out, counts = load_labelled(records, tokenizer, 32, 30)
    held = [i for i in range(40) if validation_split(str([f"p{i}"]), 30) == "validation"]
    assert 0 < len(held_out) == 2 * len(held)
    assert {len(texts) for texts in train} == {2} and len(train) == 40 - len(held)
    assert counts["cut"] == 1 and "1 of 80 texts cut at the front" in capsys.readouterr().out
    assert max(len(ids) for texts in (held_out, *train) for x in texts for ids in x.texts) == 32


@pytest.mark.parametrize("labels, percent", [(["x"] * 5, 0), (["x", "y"], 99)])
def test_nothing_to_learn_is_said(labels, percent, tokenizer):
    records = [{"prompt": f"p{i}", "label": label} for i, label in enumerate(labels)]
    with pytest.raises(UserError, match="nothing to learn; give two classes, or a smaller --held-out"):
        load_labelled(records, tokenizer, 32, percent)
