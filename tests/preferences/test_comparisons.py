"""From files of comparisons to ids, by prompt."""

import json

import pytest

from minirlhf.harness.files import UserError
from minirlhf.preferences.comparisons import Pair, pairs_by_prompt, read_preferences
from minirlhf.rl.reward_model import text_ids


def comparison(prompt, chosen="a", rejected="b", **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def test_pairs_hold_prompt_response_and_eos_and_what_is_said_of_them(tokenizer):
    record = comparison("p", "yes", "no", p=0.75, gold_chosen=0.5, gold_rejected=0.75)
    groups, counts = pairs_by_prompt([record, comparison("q")], tokenizer, 32)
    (pair,), (plain,) = groups.values()
    chosen, rejected = (text_ids({"prompt": "p"}, text, tokenizer, 32) for text in ("yes", "no"))
    assert pair == Pair(chosen, rejected, 0.75, -0.25) and not counts.total()
    assert (plain.p, plain.gold) == (1.0, 0.0)


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
    assert all(len(ids) <= 20 for pair in pairs for ids in (pair.chosen, pair.rejected))
    user = tokenizer.special_ids["<|user|>"]
    assert sum(ids[0] != user for pair in pairs for ids in (pair.chosen, pair.rejected)) == counts["cut"]


def test_records_without_a_comparison_are_named(tmp_path):
    path = tmp_path / "x.jsonl"
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    path.write_text(json.dumps(good) + "\n" + json.dumps({"prompt": "p", "response": "r"}))
    with pytest.raises(UserError, match="x.jsonl: record 2 has no 'chosen' and 'rejected'; found prompt, response"):
        read_preferences([path])
