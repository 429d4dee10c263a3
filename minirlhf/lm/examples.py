"""Examples that fit the context: long documents in windows, and what is too long left out.

Proved by tests/lm/test_chat.py.
"""

from collections.abc import Iterable

from minirlhf.harness.files import UserError
from minirlhf.lm.chat import Example, render
from minirlhf.lm.tokenizer import Tokenizer


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
