"""What models are asked: turns of conversations, prompts behind examples, and what fits."""

import pytest

from minirlhf.evaluation.ask import Policy
from minirlhf.evaluation.questions import left_out, prompts_that_fit, shots_of, turn_records
from minirlhf.harness.files import UserError
from minirlhf.lm.records import messages_of

SAID = [("system", "s"), ("user", "q"), ("assistant", "12"), ("user", "r"), ("assistant", "345"), ("assistant", "好")]
TALK = {"messages": [{"role": role, "content": content} for role, content in SAID], "hint": 7}
PAIRS = [{"prompt": "ab", "response": "x"}, {"prompt": "cd", "response": "yes"}]


def test_each_assistant_turn_is_asked_after_the_true_turns_before_it():
    """As a record of its own, with all that the conversation's record says besides."""
    got = turn_records([PAIRS[0], TALK])
    assert got[0] == PAIRS[0]
    assert [record["messages"] for record in got[1:]] == [TALK["messages"][:end] for end in (3, 5, 6)]
    assert {record["hint"] for record in got[1:]} == {7} and "conversation" not in TALK


def test_the_turns_of_a_conversation_say_that_they_belong_together():
    """And so do equal conversations, but not those that only begin alike."""
    longer = {"messages": [*TALK["messages"], {"role": "assistant", "content": "x"}]}
    got = turn_records([TALK, PAIRS[0], TALK, longer])
    assert [record.get("conversation") for record in got] == [0, 0, 0, None, 0, 0, 0, 3, 3, 3, 3]


@pytest.mark.parametrize("record", [
    *PAIRS, {"prompt": "a"}, *({"messages": TALK["messages"][:n]} for n in (2, 3, 4)),
])
def test_a_record_of_one_answer_stays_as_it_is(record):
    assert turn_records([record]) == [record]


def test_a_question_at_the_end_of_a_conversation_is_asked_too():
    """It has no answer to be compared with."""
    messages = [*TALK["messages"], {"role": "user", "content": "and?"}]
    asked = turn_records([{"messages": messages}])
    assert [record["messages"][-1]["role"] for record in asked] == ["assistant"] * 3 + ["user"]


def test_shots_are_examples_with_answers_that_are_no_test_prompts():
    """Drawn by the seed; what the system says in them is left out."""
    system = {"role": "system", "content": "s"}
    examples = [{"prompt": f"q{i}", "response": f"a{i}"} for i in range(9)]
    others = [{"prompt": "p", "response": "known"}, {"prompt": "none"}, {"text": "t"}]
    asked = [{"prompt": "p", "response": "r"}]
    spoken = [r | {"messages": [system, *messages_of(r)]} for r in examples]
    begun = shots_of(asked, others + spoken, 3, 7)
    pairs = list(zip(begun[::2], begun[1::2]))
    assert all(pair in [tuple(messages_of(r)) for r in examples] for pair in pairs) and len({str(x) for x in pairs}) == 3
    assert shots_of(asked, others + spoken, 3, 7) == begun != shots_of(asked, others + spoken, 3, 8)
    with pytest.raises(UserError, match="--shots 10: 9 different examples with an answer that are no test prompts: give more"):
        shots_of(asked, others + spoken + examples, 10, 7)


@pytest.mark.parametrize("said, usable", [
    ([("system", "s"), ("user", "p"), ("assistant", "a")], False),  # the system's words are left out of shots
    ([("user", "p"), ("assistant", "a"), ("user", "more"), ("assistant", "b")], False),
    ([("user", "more"), ("assistant", "b")], True),
])
def test_no_shot_answers_a_test_prompt_in_any_turn_whatever_its_system_says(said, usable):
    example = {"messages": [{"role": role, "content": content} for role, content in said]}
    for asked in ({"prompt": "p"}, {"messages": [{"role": "system", "content": "t"}, {"role": "user", "content": "p"}]}):
        if usable:
            assert shots_of([asked], [example], 1, 0) == tuple(example["messages"])
        else:
            with pytest.raises(UserError, match="--shots 1: 0 different examples"):
                shots_of([asked], [example], 1, 0)


@pytest.mark.parametrize("answers, scored, said", [
    (["a", "b"], 2, []), ([None, None], 0, []),
    (["a", None], 1, ["1 of 2 records have no answer to compare with"]),
    (["a", ""], 2, ["1 of 2 records have no answer to compare with"]),
    (["a", "b"], 1, ["1 of 2 answers fit no context"]),
    (["a", "b", None], 0, ["1 of 3 records have no answer", "2 of 2 answers fit no context"]),
], ids=str)
def test_records_that_some_metrics_leave_out_are_counted(answers, scored, said):
    records = [{"prompt": "p"} | ({} if a is None else {"response": a}) for a in answers]
    lines = left_out(records, scored)
    assert len(lines) == len(said) and all(line.startswith(start) for line, start in zip(lines, said))


def test_prompts_that_leave_a_model_no_room_are_left_out_for_all_and_counted(make_policy, tokenizer, capsys):
    """The prompt, its two roles, and one token more must fit the shortest context."""
    models = {name: Policy(make_policy(0, context=context), tokenizer) for name, context in (("a", 64), ("b", 8))}
    records = [{"prompt": "x" * n} for n in (1, 5, 6, 7, 40)]
    assert prompts_that_fit(records, models, "mine") == records[:2]
    assert capsys.readouterr().out == "mine: 3 of 5 prompts left out, longer than the context of 8 tokens\n"
    with pytest.raises(UserError, match="mine: no prompt of 3 records fits the model's context of 8 tokens"):
        prompts_that_fit(records[2:], models, "mine")
