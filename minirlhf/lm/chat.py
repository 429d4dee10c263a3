"""From records to ids and masks.

One renderer serves training and generation, so a model is prompted in the format it was trained on:

    <|user|> 4 7 + 8 5 = <|assistant|> 1 3 2 <|endoftext|>
                                       ^ ^ ^ ^^^^^^^^^^^^^   the loss stands on these

That is our own format; a tokenizer from elsewhere brings another (chat_formats.py).
Segments are encoded apart and their ids joined, so that mask boundaries are exact and text can never
become a special token. Without roles a record is a document, `<|endoftext|> text <|endoftext|>`, as a base
model learns it with a loss on every token but the first. Proved by tests/lm/test_chat.py.
"""

import re
from dataclasses import dataclass

from minirlhf.lm.records import gap_of, messages_of, question_of
from minirlhf.lm.tokenizer import EOS, Tokenizer


@dataclass(frozen=True)
class Example:
    """Token ids, and for each whether the model is trained to predict it. mask[0] is False."""

    ids: list[int]
    mask: list[bool]


def render(record: dict, tokenizer: Tokenizer, chat: bool = True) -> Example:
    """The conversation as ids, with a loss on every assistant turn and the EOS that ends it.

    A turn behind a cue that ends in text loses white space in front, which would join that text.
    chat=False is for a base model, which has never seen a role token: the record as a document, which ends once.
    """
    messages, gap, form = messages_of(record), tokenizer.encode(gap_of(record)), tokenizer.chat
    if chat and form.system and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": form.system}, *messages]
    ids = encode_format(form.begin, tokenizer) or [tokenizer.special_ids.get(EOS, tokenizer.eos_id)] * (not chat)
    mask = [False] * len(ids)
    for i, message in enumerate(messages, 1):
        spoken = message["role"] == "assistant"
        text = message["content"] if form.cue.endswith("|>") or not chat else message["content"].lstrip()
        cue = encode_format(form.cue.format(role=message["role"]), tokenizer) if chat else gap * (i > 1)
        content = tokenizer.encode(text) + [tokenizer.eos_id] * (spoken and (chat or i == len(messages)))
        behind = encode_format(form.gap if spoken else form.close, tokenizer) if chat else []
        ids += cue + content + behind
        mask += [False] * len(cue) + [spoken] * len(content) + [False] * len(behind)
    return Example(ids, mask)


def encode_format(text: str, tokenizer: Tokenizer) -> list[int]:
    """The ids of a format's own text, in which the names of special tokens are these tokens."""
    parts, ids = re.split(r"(<\|\w+\|>)", text), tokenizer.special_ids
    return [i for n, part in enumerate(parts) for i in ([ids[part]] if n % 2 else tokenizer.encode(part))]


def render_prompt(record: dict, tokenizer: Tokenizer, chat: bool = True) -> list[int]:
    """What the model is given to answer: all before the last assistant turn, and its cue; the rest is `render`'s."""
    asked = [*question_of(record), {"role": "assistant", "content": ""}]
    behind = 1 + len(encode_format(tokenizer.chat.gap, tokenizer)) * chat  # its EOS, and what stands behind that
    return render(record | {"messages": asked}, tokenizer, chat).ids[:-behind]
