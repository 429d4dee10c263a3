"""Judgements as preferences: labels by hand, sides of the split, and a file that our reader takes."""

import json

import pytest

from minirlhf.annotation.export import is_test, preferences, write_train_and_test
from minirlhf.annotation.pairs import shown_prompt
from minirlhf.annotation.rows import Row
from minirlhf.harness.files import UserError
from minirlhf.lm.reading import read_records
from minirlhf.lm.records import validation_split
from minirlhf.rl.reward_model import text_ids


def row(choice: str, prompt: str = "p", who: str = "ann", kind: str = "pair", **more) -> Row:
    """What one said of good, which is sft's (a), and of poor, which is ppo's (b); t is a tie."""
    given = {
        "study": "s1", "annotator": who, "kind": kind, "item": prompt, "prompt": prompt, "messages": None,
        "models": ("sft", "ppo"), "answers": ("good", "poor"), "left": 0, "good": None,
        "score": {"a": 0.0, "b": 1.0, "t": 0.5}[choice], "seconds": 1.0,
    }  # fmt: skip
    return Row(**given | more)


def said(*choices: str) -> list[dict]:
    """Judgements of one pair by as many annotators."""
    return [row(choice, who=str(i)) for i, choice in enumerate(choices)]


@pytest.mark.parametrize(
    "choices, chosen, p, n",
    [
        (("a",), "good", 1.0, 1),
        (("b", "b", "a"), "poor", 2 / 3, 3),
        (("a", "t", "t"), "good", 1.0, 1),
        (("a", "a", "b", "t"), "good", 2 / 3, 3),
    ],
)
def test_labels_are_the_majority_of_the_decided(choices, chosen, p, n):
    (record,) = preferences(said(*choices))
    assert (record["chosen"], record["p"], record["n"]) == (chosen, pytest.approx(p), n)
    assert record["rejected"] == {"good": "poor", "poor": "good"}[chosen]
    assert record["models"] == {"good": ["sft", "ppo"], "poor": ["ppo", "sft"]}[chosen]


@pytest.mark.parametrize("choices", [("t",), ("t", "t"), ("a", "b"), ("a", "b", "t")])
def test_what_has_no_majority_has_no_label(choices):
    assert preferences(said(*choices)) == []


def test_attention_items_and_second_showings_are_not_exported():
    rows = [row("a"), row("b", kind="duplicate"), row("a", "q", kind="attention", good=0)]
    assert preferences(rows) == preferences([row("a")])


def test_one_pair_judged_in_two_studies_is_one_record():
    others = [row(choice, who=choice + str(i), study="s2") for i, choice in enumerate("aab")]
    (record,) = preferences([row("a"), *others])
    assert (record["chosen"], record["p"], record["n"]) == ("good", pytest.approx(3 / 4), 4)


def test_other_answers_to_a_prompt_are_another_record():
    assert len(preferences([row("a"), row("a", answers=("third", "poor"))])) == 2


def test_a_conversation_is_exported_whole_and_its_reader_takes_it(tmp_path, tokenizer):
    """Two that end in the same words are two prompts."""
    rows = []
    for first in ("p", "q"):
        turns = [("user", first), ("assistant", "x"), ("user", "and?")]
        messages = [{"role": role, "content": content} for role, content in turns]
        rows += [row("a", shown_prompt({"messages": messages}), messages=messages)]
    records = preferences([row("a", f"p{i}") for i in range(9)] + rows)
    assert [r["messages"][0]["content"] for r in records[9:]] == ["p", "q"] and "prompt" not in records[9]
    write_train_and_test(tmp_path / "prefs.jsonl", records)
    read = [r for name in ("prefs", "prefs.test") for r in read_records([tmp_path / f"{name}.jsonl"])]
    assert sorted(map(str, read)) == sorted(map(str, records))
    for record, first in zip(records[9:], "pq"):
        ids = text_ids(record, record["chosen"], tokenizer, 64)
        turns = f"<|user|>{first}<|assistant|>x<|endoftext|><|user|>and?<|assistant|>"
        assert tokenizer.decode(ids) == f"{turns}good<|endoftext|>"


def test_where_there_is_nothing_to_train_on_old_files_stay(tmp_path):
    only_test = next(f"p{i}" for i in range(99) if is_test(f"p{i}"))
    for name in ("prefs.jsonl", "prefs.test.jsonl"):
        (tmp_path / name).write_text("old")
    for records in ([], preferences([row("a", only_test)])):
        with pytest.raises(UserError, match="nothing to train on"):
            write_train_and_test(tmp_path / "prefs.jsonl", records)
    assert {path.read_text() for path in tmp_path.iterdir()} == {"old"} and len(list(tmp_path.iterdir())) == 2


def test_every_prompt_is_on_one_side_and_the_reader_takes_the_files(tmp_path):
    """Texts may hold what cuts lines elsewhere, or nothing."""
    rows = [row("a", f"prompt {i}\u2028") for i in range(200)]
    rows += [row("b", f"prompt {i}\u2028", answers=("", "poor")) for i in range(200)]
    records = preferences(rows)
    test, n, n_test = write_train_and_test(tmp_path / "prefs.jsonl", records)
    assert test == tmp_path / "prefs.test.jsonl" and n + n_test == len(records) == 400
    train_records, test_records = read_records([tmp_path / "prefs.jsonl"]), read_records([test])
    assert (len(train_records), len(test_records)) == (n, n_test) and 40 < n_test < 120
    assert not {r["prompt"] for r in train_records} & {r["prompt"] for r in test_records}
    assert train_records + test_records == sorted(records, key=lambda r: is_test(r["prompt"]))


def test_half_a_character_is_written_so_that_the_reader_takes_it(tmp_path):
    records = preferences([row("a", "half \ud800")]) + preferences([row("a", f"p{i}") for i in range(9)])
    test, *_ = write_train_and_test(tmp_path / "prefs.jsonl", records)
    assert "half \ud800" in {r["prompt"] for path in (tmp_path / "prefs.jsonl", test) for r in read_records([path])}


def test_a_trainer_still_finds_validation_prompts_in_what_is_left():
    """The split of the export and that of `validation_split` of a prompt are independent."""
    left = [f"p{i}" for i in range(2000) if not is_test(f"p{i}")]
    share = sum(validation_split(prompt) == "validation" for prompt in left) / len(left)
    assert share == pytest.approx(0.05, abs=0.015)


def test_records_are_lines_of_json(tmp_path):
    _, n, _ = write_train_and_test(tmp_path / "prefs.jsonl", preferences([row("a", f"p{i}") for i in range(30)]))
    lines = (tmp_path / "prefs.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == n and set(json.loads(lines[0])) == {
        "prompt", "chosen", "rejected", "p", "n", "models", "study"
    }  # fmt: skip
