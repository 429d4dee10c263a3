"""From records to ids and masks.

One renderer serves training and generation, so a model is prompted in the format it was trained on:

    <|user|> 4 7 + 8 5 = <|assistant|> 1 3 2 <|endoftext|>
                                       ^ ^ ^ ^^^^^^^^^^^^^   the loss stands on these

Segments are encoded apart and their ids joined, so that mask boundaries are exact and text can never
become a special token. Without roles a record is a document, `<|endoftext|> text <|endoftext|>`, as a base
model learns it with a loss on every token but the first. Proved by tests/lm/test_chat.py.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from minirlhf.harness.files import UserError
from minirlhf.lm.records import gap_of, messages_of, question_of
from minirlhf.lm.tokenizer import Tokenizer


@dataclass(frozen=True)
class Example:
    """Token ids, and for each whether the model is trained to predict it. mask[0] is False."""

    ids: list[int]
    mask: list[bool]


def render(record: dict, tokenizer: Tokenizer, chat: bool = True) -> Example:
    """The conversation as ids, with a loss on every assistant turn and the EOS that ends it.

    chat=False is for a base model, which has never seen a role token: the record as a document, which ends once.
    """
    messages, gap, ids = messages_of(record), tokenizer.encode(gap_of(record)), [] if chat else [tokenizer.eos_id]
    mask = [False] * len(ids)
    for i, message in enumerate(messages, 1):
        spoken = message["role"] == "assistant"
        cue = [tokenizer.special_ids[f"<|{message['role']}|>"]] if chat else gap * (i > 1)
        content = tokenizer.encode(message["content"]) + [tokenizer.eos_id] * (spoken and (chat or i == len(messages)))
        ids += cue + content
        mask += [False] * len(cue) + [spoken] * len(content)
    return Example(ids, mask)


def render_prompt(record: dict, tokenizer: Tokenizer, chat: bool = True) -> list[int]:
    """What the model is given to answer: all before the last assistant turn, and its cue; the rest is `render`'s."""
    asked = [*question_of(record), {"role": "assistant", "content": ""}]
    return render(record | {"messages": asked}, tokenizer, chat).ids[:-1]  # all but its EOS


def document_examples(record: dict, tokenizer: Tokenizer, context: int) -> list[Example]:
    """A document as examples of at most `context` ids, in which every token but the first EOS is a target once.

    A document longer than the context is cut into windows; each later window starts with the last
    token of the one before, as context without a loss.
    """
    if context < 2:
        raise UserError(f"a context of {context} has no room for a token and the next; raise --context")
    ids = render(record, tokenizer, chat=False).ids
    starts = range(0, len(ids) - 1, context - 1)
    windows = [ids[start : start + context] for start in starts]
    return [Example(window, [False] + [True] * (len(window) - 1)) for window in windows]


def fit_context(examples: Iterable[Example], context: int) -> tuple[list[Example], int]:
    """The examples that fit the context and have something to learn, and how many do not.

    Cutting would lose the EOS or the prompt, and teach the model to ramble: what is too long is left
    out, and the caller says how much that is.
    """
    examples = list(examples)
    kept = [e for e in examples if len(e.ids) <= context and any(e.mask)]
    return kept, len(examples) - len(kept)
