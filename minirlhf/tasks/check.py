"""--check-data: what would be trained on or asked, before any of it is: counts, lengths, examples, overlap.

    train: 772 records; tokens 9 to 61, median 17; 2 exceed the context of 128
    |  <|user|>a fine film. sentiment:<|assistant|>⟦positive<|endoftext|>⟧
    validation: 3 of 40 prompts also stand in train, but for case and white space

What stands in ⟦ ⟧ has a loss. Proved by tests/tasks/test_check.py.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import chain, groupby, islice
from statistics import median

from minirlhf.lm.chat import Example, render
from minirlhf.lm.records import prompt_of, question_of
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.tasks.sources import Source

SHOWN, LONGEST = 3, 300  # examples, and characters of a part of one


def check_sources(sources: Sequence[Source], tokenizer: Tokenizer, context: int) -> None:
    """`check_data` of what pretraining and SFT learn."""
    for x in sources:
        check_data({f"{x.name}, train": x.train, f"{x.name}, validation": x.validation}, tokenizer, context)
        check_data({f"{x.name}, documents": [{"text": text} for text in x.documents]}, tokenizer, context, chat=False)


def check_data(parts: Mapping[str, Sequence[dict]], tokenizer: Tokenizer, context: int, chat: bool = True) -> None:
    """Print what each part holds, and how many prompts of the others the first one has too. chat: as in `render`."""
    first, known = next(iter(parts)), {key_of(record) for record in next(iter(parts.values()))}
    for name, records in parts.items():
        texts = (render(x, tokenizer, chat) for record in records for x in answers_of(record))
        some = list(islice(texts, SHOWN))
        if not some:
            continue
        n, lengths = len(records), sorted(len(text.ids) for text in chain(some, texts))
        figures = f"tokens {lengths[0]:,} to {lengths[-1]:,}, median {median(lengths):,g}"
        long = sum(length > context for length in lengths)
        print(f"{name}: {n:,} records; {figures}; {long:,} exceed the context of {context:,}")
        print(*(f"|  {shown(text, tokenizer)}" for text in some), sep="\n")
        if name != first and not known:
            print(f"{name}: {first} is not known, so no overlap can be told")
        elif name != first:
            again = sum(key_of(record) in known for record in records)
            print(f"{name}: {again:,} of {n:,} prompts also stand in {first}, but for case and white space")


def answers_of(record: dict) -> list[dict]:
    """The record, or of a comparison the conversations with either answer."""
    asked, pair = question_of(record), [record[key] for key in ("chosen", "rejected") if key in record]
    return [{"messages": [*asked, {"role": "assistant", "content": text}]} for text in pair] or [record]


def key_of(record: dict) -> str:
    """The prompt, or text, in the form in which two count as the same."""
    return " ".join((record["text"] if "text" in record else prompt_of(record)).casefold().split())


def shown(example: Example, tokenizer: Tokenizer) -> str:
    """An example as one line, with ⟦ ⟧ around what has a loss; of long parts beginning and end."""
    line = ""
    for learnt, run in groupby(zip(example.ids, example.mask), key=lambda pair: pair[1]):
        text = json.dumps(tokenizer.decode([i for i, _ in run]), ensure_ascii=False)[1:-1].replace('\\"', '"')
        text = text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"
        line += f"⟦{text}⟧" if learnt else text
    return line
