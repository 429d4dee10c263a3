"""Records: what is read, what is refused, and the conversation that each is."""

import pytest

from minirlhf.harness.files import UserError
from minirlhf.lm.records import check_record, messages_of, validation_split


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
