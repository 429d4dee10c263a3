"""Records, rendering, loss masks, windows, batches and the mixture of data sets."""

import json

import pytest

from minirlhf.harness.files import UserError
from minirlhf.lm.batches import collate
from minirlhf.lm.chat import Example, document_examples, fit_context, render, render_prompt
from minirlhf.lm.records import messages_of, prompt_of, read_records, reference_of, references_of
from minirlhf.lm.tokenizer import SPECIALS

REPLIES = ["yes", "", " two words\n", "你好，世界 🙂", "<|endoftext|>", "a\u2028b\r\n\0"]
CONVERSATION = {
    "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "two?"},
        {"role": "assistant", "content": "22"},
    ]
}


def written(path, lines):
    """The path, after writing each line, JSON for what is not a string already."""
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines), "utf-8")
    return path


def targets(examples: list[Example]) -> list[int]:
    """The ids that the examples train, in order."""
    return [i for e in examples for i, trained in zip(e.ids, e.mask) if trained]


def spans(example: Example) -> list[list[int]]:
    """Each unbroken run of trained ids."""
    runs, before = [], False
    for i, trained in zip(example.ids, example.mask):
        if trained:
            runs += [] if before else [[]]
            runs[-1].append(i)
        before = trained
    return runs


def test_jsonl_is_read_line_by_line_and_blank_lines_are_skipped(tmp_path):
    records = [{"prompt": "a\u2028b", "response": "c\nd"}, {"text": "e"}, CONVERSATION]
    raw = json.dumps(records[0], ensure_ascii=False)
    assert "\u2028" in raw
    assert read_records(written(tmp_path / "x.jsonl", [raw, "", records[1], "  ", records[2]])) == records


def test_comparisons_are_read(tmp_path):
    """With a p and a gold reward or without; elsewhere these may be anything. An answer may be to say nothing."""
    pair = {"prompt": "a", "chosen": "b", "rejected": "c"}
    records = [pair, {**pair, "p": 0, "gold_chosen": -1.5}, {**pair, "p": 0.5}, {**pair, "rejected": ""}]
    records.append({"prompt": "a", "p": "x", "gold_chosen": None})
    assert read_records(written(tmp_path / "x.jsonl", records)) == records


def test_any_other_file_is_one_text(tmp_path):
    path = written(tmp_path / "x.txt", ['{"prompt": "a"}', "", "é"])
    assert read_records(path) == [{"text": '{"prompt": "a"}\n\né\n'}]


def test_a_suffix_in_capitals_is_the_same_suffix(tmp_path):
    assert read_records(written(tmp_path / "x.JSONL", [{"prompt": "a"}])) == [{"prompt": "a"}]


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"prompt": "a"', "line 17: not JSON"),
        ("[1, 2]", "line 17: a JSON object is wanted, this is a list"),
        ('{"prompt": ""}', "line 17: the prompt is empty"),
        ('{"prompt": 3}', "line 17: 'prompt' must be a string"),
        ('{"prompt": "a", "response": null}', "line 17: 'response' must be a string"),
        ('{"text": ["a"]}', "line 17: 'text' must be a string"),
        ('{"question": "a"}', "line 17: no 'text', 'prompt' or 'messages'; found question"),
        ("{}", "line 17: no 'text', 'prompt' or 'messages'; found nothing"),
        ('{"messages": []}', "line 17: 'messages' must be a list that is not empty"),
        ('{"messages": {"role": "user"}}', "line 17: 'messages' must be a list"),
        ('{"messages": ["a"]}', "line 17: a message needs a 'role'"),
        ('{"messages": [{"role": "tool", "content": "a"}]}', "line 17: a message needs a 'role'"),
        ('{"messages": [{"role": "user"}]}', "line 17: a message needs a 'role'"),
        ('{"prompt": "a", "chosen": "b"}', "line 17: 'rejected' is missing"),
        ('{"prompt": "a", "rejected": "b"}', "line 17: 'chosen' is missing"),
        ('{"prompt": "a", "chosen": ["b"], "rejected": "c"}', "line 17: 'chosen' must be a string"),
        ('{"chosen": "b", "rejected": "c"}', "line 17: no 'prompt' or 'messages'"),
        ('{"text": "a", "chosen": "b", "rejected": "c"}', "line 17: no 'prompt' or 'messages'"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c", "gold_chosen": null}', "line 17: 'gold_chosen' must be"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c", "gold_rejected": "1"}', "line 17: 'gold_rejected' must"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c", "p": 1.1}', "line 17: 'p' must be a probability"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c", "p": NaN}', "line 17: 'p' must be a probability"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c", "p": true}', "line 17: 'p' must be a probability"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c", "gold_chosen": "1"}', "line 17: 'gold_chosen' must be a"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c", "gold_chosen": Infinity}', "line 17: 'gold_chosen' must"),
        (f'{{"prompt": "a", "chosen": "b", "rejected": "c", "gold_chosen": 1{400 * "0"}}}', "line 17: 'gold_chosen'"),
        ('{"prompt": "a", "x": ' + 10**5 * "[" + 10**5 * "]" + "}", "line 17: not JSON that can be read"),
    ],
    ids=lambda x: x[:60],
)
def test_a_bad_record_is_named_by_file_and_line(line, message, tmp_path):
    path = written(tmp_path / "x.jsonl", [{"prompt": "a", "response": "b"}] * 16 + [line])
    with pytest.raises(UserError) as error:
        read_records(path)
    assert str(error.value).startswith(f"{path}, {message}")


@pytest.mark.parametrize("record, references", [
    ({"prompt": "a", "response": "b", "reference": "c"}, ["c"]),
    ({"prompt": "a", "response": "b", "reference": ["c", "d"]}, ["c", "d"]),
    ({"prompt": "a", "response": "b"}, ["b"]),
    ({"prompt": "a", "response": "b", "reference": None}, ["b"]),
    ({"prompt": "a", "reference": [3, 4.5]}, ["3", "4.5"]),
    ({"prompt": "a", "response": "b", "reference": []}, []),
    (CONVERSATION, ["22"]),
    ({"messages": CONVERSATION["messages"][:-1]}, []),
    ({"prompt": "a"}, []),
])
def test_references_are_the_field_of_that_name_or_the_last_answer(record, references):
    """One text or a list of them, of which the first is shown."""
    assert references_of(record) == references
    assert reference_of(record) == (references or [""])[0]


def test_the_prompt_as_one_text_is_all_that_stands_before_the_answer():
    whole = "be brief\none?\n1\ntwo?"
    assert prompt_of(CONVERSATION) == prompt_of({"messages": CONVERSATION["messages"][:-1]}) == whole
    assert prompt_of({"prompt": "a", "response": "b"}) == prompt_of({"prompt": "a"}) == "a"


@pytest.mark.parametrize("reply", REPLIES)
def test_the_trained_ids_are_the_reply_and_eos(reply, tokenizer):
    for chat in (True, False):
        example = render({"prompt": "why?", "response": reply}, tokenizer, chat)
        assert targets([example]) == [*tokenizer.encode(reply), tokenizer.eos_id]
        assert len(example.ids) == len(example.mask) and not example.mask[0]


def test_the_chat_layout_is_role_text_role_text_eos(tokenizer):
    user, assistant = tokenizer.special_ids["<|user|>"], tokenizer.special_ids["<|assistant|>"]
    expected = [user, *tokenizer.encode("7+8"), assistant, *tokenizer.encode("15"), tokenizer.eos_id]
    assert render({"prompt": "7+8", "response": "15"}, tokenizer).ids == expected


def test_the_bare_layout_is_that_of_a_document(tokenizer):
    bare = render({"prompt": "7+8=", "response": "15"}, tokenizer, chat=False)
    assert bare.ids == document_examples("7+8=15", tokenizer, 32)[0].ids


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("reply", REPLIES)
def test_the_prompt_is_a_strict_prefix_of_what_was_trained(reply, chat, tokenizer):
    """A model is asked in exactly the ids after which its answers were trained."""
    long = {"messages": [*CONVERSATION["messages"], {"role": "user", "content": "?"}]}
    long["messages"].append({"role": "assistant", "content": reply})
    for record in ({"prompt": "why?", "response": reply}, long):
        whole, prompt = render(record, tokenizer, chat).ids, render_prompt(record, tokenizer, chat)
        assert whole == prompt + tokenizer.encode(reply) + [tokenizer.eos_id]
        assert prompt == render_prompt({"messages": messages_of(record)[:-1]}, tokenizer, chat)


def test_every_assistant_turn_is_trained_and_nothing_else(tokenizer):
    eos = tokenizer.eos_id
    assert spans(render(CONVERSATION, tokenizer)) == [
        [*tokenizer.encode("1"), eos],
        [*tokenizer.encode("22"), eos],
    ]


def test_each_turn_is_led_by_its_own_role(tokenizer):
    roles = {i: name for name, i in tokenizer.special_ids.items()}
    seen = [roles[i] for i in render(CONVERSATION, tokenizer).ids if i in roles]
    turn = ["<|user|>", "<|assistant|>", "<|endoftext|>"]
    assert seen == ["<|system|>", *turn, *turn]


@pytest.mark.parametrize("name", SPECIALS)
def test_text_cannot_inject_a_special_token(name, tokenizer):
    for role in ("system", "user", "assistant"):
        texts = [f"x{name}y", "xy"]
        ids = [
            render({"messages": [{"role": role, "content": text}, *CONVERSATION["messages"]]}, tokenizer).ids
            for text in texts
        ]
        specials = set(tokenizer.special_ids.values())
        assert [i for i in ids[0] if i in specials] == [i for i in ids[1] if i in specials]
        assert f"x{name}y" in tokenizer.decode(ids[0])


def test_windows_of_the_published_example(tokenizer):
    """Tokens 1 to 10, four inputs a window, one of context: lm-evaluation-harness's rolling windows."""
    text = "".join(chr(ord("!") + i) for i in range(1, 11))
    assert tokenizer.encode(text) == list(range(1, 11))
    windows = [e.ids for e in document_examples(text, tokenizer, 5)]
    bos = eos = tokenizer.eos_id
    assert [w[:-1] for w in windows[:2]] == [[bos, 1, 2, 3], [4, 5, 6, 7]]
    assert [w[1:] for w in windows] == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, eos]]


@pytest.mark.parametrize("context", [2, 3, 7, 40])
@pytest.mark.parametrize("length", [0, 1, 2, 5, 6, 7, 12, 38, 39, 40])
def test_a_document_predicts_every_token_exactly_once(length, context, tokenizer):
    text = "".join(chr(ord("A") + i) for i in range(length))
    examples = document_examples(text, tokenizer, context)
    assert targets(examples) == [*tokenizer.encode(text), tokenizer.eos_id]
    assert examples[0].ids[0] == tokenizer.eos_id
    for e in examples:
        assert 2 <= len(e.ids) <= context and e.mask == [False] + [True] * (len(e.ids) - 1)
    for before, after in zip(examples, examples[1:]):
        assert after.ids[0] == before.ids[-1]


def test_what_is_too_long_or_teaches_nothing_is_left_out_and_counted():
    def example(n, trained=True):
        return Example([0] * n, [False] + [trained] * (n - 1))

    fits, exact, long, idle = example(3), example(4), example(5), example(3, trained=False)
    assert fit_context(iter([fits, long, exact, idle]), 4) == ([fits, exact], 2)


def test_a_batch_is_shifted_once_and_padded_on_the_right():
    batch = collate([Example([7, 8, 9], [False, False, True]), Example([5, 6], [False, True])])
    assert batch.inputs.shape == (2, 8)
    assert batch.inputs[0, :2].tolist() == [7, 8] and batch.inputs[1, 0] == 5
    assert batch.targets[0, :2].tolist() == [8, 9]
    assert batch.targets[batch.mask].tolist() == [9, 6]
    assert batch.mask.nonzero().tolist() == [[0, 1], [1, 0]]


def test_masks_go_by_position_and_not_by_the_value_of_a_token():
    """A target that equals the padding, or an earlier EOS, keeps its loss."""
    ids = [0, 4, 0, 4, 0]
    batch = collate([Example(ids, [False, True, True, True, True]), Example([4] * 9, [False] * 9)])
    assert batch.targets[0][batch.mask[0]].tolist() == ids[1:]
    assert batch.mask.sum() == 4


@pytest.mark.parametrize("reply", REPLIES)
def test_the_last_target_of_a_batch_row_is_eos(reply, tokenizer):
    other = {"prompt": "a longer prompt than the other", "response": "and a longer reply as well, by far"}
    batch = collate([render({"prompt": "?", "response": reply}, tokenizer), render(other, tokenizer)])
    for row in range(2):
        assert batch.targets[row][batch.mask[row]][-1] == tokenizer.eos_id
