"""Which prompts are asked, and what is left out."""

import pytest

from minirlhf.evaluation.prompts import left_out, prompts_that_fit, turns
from minirlhf.harness.files import UserError

SAID = [("system", "s"), ("user", "q"), ("assistant", "12"), ("user", "r"), ("assistant", "345")]
SAID.append(("assistant", "好"))
CONVERSATION = {"messages": [{"role": role, "content": content} for role, content in SAID], "hint": 7}


def test_a_question_at_the_end_of_a_conversation_is_asked_too():
    """It has no answer to be compared with."""
    messages = [*CONVERSATION["messages"], {"role": "user", "content": "and?"}]
    assert [record["messages"][-1]["role"] for record in turns([{"messages": messages}])] == ["assistant"] * 3 + ["user"]


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
    models = {"a": (make_policy(0, context=64), tokenizer), "b": (make_policy(0, context=8), tokenizer)}
    records = [{"prompt": "x" * n} for n in (1, 5, 6, 7, 40)]
    assert prompts_that_fit(records, models, {"a": True, "b": True}, "mine") == records[:2]
    assert capsys.readouterr().out == "mine: 3 of 5 prompts left out, longer than the context of 8 tokens\n"
    with pytest.raises(UserError, match="mine: no prompt of 3 fits the models' context of 8 tokens"):
        prompts_that_fit(records[2:], models, {"a": True, "b": True}, "mine")
