"""Records: what is read, what is refused, and the conversation that each is."""

import pytest

from minirlhf.harness.files import UserError
from minirlhf.lm.records import check_record, messages_of, read_records, validation_split


@pytest.mark.parametrize("name", ["x.json", "x.JSON", "x.ndjson", "x.csv", "x.tsv", "x.parquet"])
def test_records_in_another_format_are_not_taken_for_one_text(name, tmp_path):
    (tmp_path / name).write_bytes(b'[{"prompt": "a", "response": "b"}]\n\xff')
    with pytest.raises(UserError, match=f"{name}: records are read from .jsonl, one JSON object a line; text from .txt"):
        read_records(tmp_path / name)


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "no data"),
        (b" \n\n", "no data"),
        (b'{"prompt": "caf\xe9"}', "byte 15 is not UTF-8"),
        (None, "No such file"),
    ],
    ids=["empty", "blank", "latin-1", "missing"],
)
def test_a_file_that_cannot_be_used_is_named(data, message, tmp_path):
    path = tmp_path / "x.jsonl"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError) as error:
        read_records(path)
    assert str(error.value).startswith(f"{path}: {message}")


def test_a_conversation_without_a_user_is_refused():
    with pytest.raises(UserError, match="user"):
        check_record({"messages": [{"role": "assistant", "content": "a"}]}, "x.jsonl, line 1")


def test_prompt_and_response_are_a_conversation_of_two_turns():
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert messages_of({"prompt": "a", "response": "b"}) == turns
    assert messages_of({"prompt": "a"}) == turns[:1]
    assert messages_of({"messages": turns}) == turns


def test_a_key_stays_in_its_split_and_five_in_a_hundred_are_validation():
    keys = [f"prompt {i}" for i in range(4000)]
    splits = [validation_split(key) for key in keys]
    first = [i for i in range(100) if splits[i] == "validation"]
    assert first == [17, 23, 27, 28, 33, 43, 54, 60, 66, 71, 87]
    assert set(splits) == {"train", "validation"}
    assert 140 <= splits.count("validation") <= 260  # 200 expected, standard deviation 14
    assert {validation_split(key, 0) for key in keys} == {"train"}
    assert {validation_split(key, 100) for key in keys} == {"validation"}
    assert validation_split("\ud800") in ("train", "validation")


def test_a_byte_order_mark_is_no_data(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"prompt": "a", "response": "b"}\n')
    assert read_records(path) == [{"prompt": "a", "response": "b"}]
