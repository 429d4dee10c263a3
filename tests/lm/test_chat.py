"""Records, rendering, loss masks, windows, batches and the mixture of data sets."""

from dataclasses import replace

import pytest

from minirlhf.lm.batches import collate
from minirlhf.lm.chat import Example, render, render_prompt
from minirlhf.lm.examples import document_examples, fit_context
from minirlhf.lm.records import messages_of, prompt_of, reference_of, references_of
from minirlhf.lm.tokenizer import SPECIALS, Tokenizer

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


@pytest.mark.parametrize("more, gap", [({}, "\n"), ({"task": "arithmetic"}, ""), ({"task": 7}, "\n"),
                                       ({"task": "arithmetic", "of_file": True}, "\n")])  # fmt: skip
def test_without_roles_a_record_is_the_document_that_its_texts_make(more, gap, tokenizer):
    """With a line break between them; but a generated task writes its documents without one."""
    bare = render({"prompt": "7+8=", "response": "15"} | more, tokenizer, chat=False)
    assert bare.ids == document_examples({"text": f"7+8={gap}15"}, tokenizer, 32)[0].ids


def test_a_document_of_several_turns_ends_once_and_every_answer_has_a_loss(tokenizer):
    bare = render(CONVERSATION, tokenizer, chat=False)
    text = "be brief\none?\n1\ntwo?\n22"
    assert bare.ids == document_examples({"text": text}, tokenizer, 32)[0].ids
    assert spans(bare) == [tokenizer.encode("1"), [*tokenizer.encode("22"), tokenizer.eos_id]]


@pytest.mark.parametrize("text", ["", "a b", "\n", "<|endoftext|>"])
def test_a_raw_text_is_one_turn_of_which_all_is_learnt(text, tokenizer):
    example, eos = render({"text": text}, tokenizer, chat=False), tokenizer.eos_id
    assert example.ids == [eos, *tokenizer.encode(text), eos] and example.mask == [False] + [True] * len(example.ids[1:])


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
    windows = [e.ids for e in document_examples({"text": text}, tokenizer, 5)]
    bos = eos = tokenizer.eos_id
    assert [w[:-1] for w in windows[:2]] == [[bos, 1, 2, 3], [4, 5, 6, 7]]
    assert [w[1:] for w in windows] == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, eos]]


@pytest.mark.parametrize("context", [2, 3, 7, 40])
@pytest.mark.parametrize("length", [0, 1, 2, 5, 6, 7, 12, 38, 39, 40])
def test_a_document_predicts_every_token_exactly_once(length, context, tokenizer):
    text = "".join(chr(ord("A") + i) for i in range(length))
    examples = document_examples({"text": text}, tokenizer, context)
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


@pytest.mark.parametrize("begin, end, first", [("", "", "<|endoftext|>"), ("", "<|im_end|>", "<|endoftext|>"),
                                               ("<|begin_of_text|>", "<|eot_id|>", "<|begin_of_text|>")])  # fmt: skip
def test_a_document_begins_as_pretraining_began_it(begin, end, first):
    """With the token that parts documents, or with the format's own, and not with the one that ends a turn."""
    tokenizer = Tokenizer()
    tokenizer.add_specials([name for name in (begin, end) if name])
    tokenizer.chat, tokenizer.eos = replace(tokenizer.chat, begin=begin, end=end), end or tokenizer.eos
    ids = render({"text": "a"}, tokenizer, chat=False).ids
    assert tokenizer.decode(ids) == f"{first}a{tokenizer.eos}"
