"""Where records come from: tasks that the package generates, or files of the user's own.

    --task reviews,arithmetic:2      generated tasks, here with twice as many rows of arithmetic
    --data pairs.jsonl corpus.txt    records with prompt and response (or messages), and raw text

Either way a script gets documents, records and rewards, and need not know which it was.
Proved by tests/tasks/test_sources.py.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

from minirlhf.harness.files import UserError
from minirlhf.lm.chat import Example, render
from minirlhf.lm.examples import document_examples, fit_context
from minirlhf.lm.checkpoint import read_run
from minirlhf.lm.reading import read_records
from minirlhf.lm.records import messages_of, split_by_prompt
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.tasks import TASKS, prompts

OWN = "data"  # the name under which a user's own records appear beside the tasks


@dataclass(frozen=True)
class Source:
    """One data set: its weight in the mixture and its parts."""

    name: str
    weight: float
    documents: list[str]  # without any, base models learn the training records as documents
    train: list[dict]
    validation: list[dict]


def parse_tasks(words: str) -> dict[str, float]:
    """"reviews,arithmetic:2" -> {"reviews": 1.0, "arithmetic": 2.0}. Raises UserError."""
    weights: dict[str, float] = {}
    for word in words.split(","):
        name, _, weight = word.strip().partition(":")
        if name not in TASKS:
            raise UserError(f"--task {words}: no task {name!r}; there are {', '.join(TASKS)}")
        try:
            weights[name] = float(weight or 1)
        except ValueError:
            raise UserError(f"--task {words}: weight {weight!r} of {name} is not a number") from None
        if not 0 < weights[name] < inf:
            raise UserError(f"--task {words}: weight {weight} of {name} must be above 0")
    return weights


def task_sources(weights: dict[str, float], n: int, seed: int) -> list[Source]:
    """The training side of generated tasks: n documents and n records each, 200 records for validation."""
    sources = []
    for name, weight in weights.items():
        documents, records = TASKS[name].documents(n, seed), TASKS[name].records
        sources.append(Source(name, weight, documents, records("train", n, seed), records("validation", 200, seed)))
    return sources


def file_source(paths: Sequence[str], names: str = "") -> Source:
    """The user's own files; 5 % of the prompts are for validation. names: as in `read_records`. Raises UserError."""
    records = read_records(paths, names)
    documents = [record["text"] for record in records if "text" in record]
    pairs = [r for r in records if "text" not in r and any(m["role"] == "assistant" for m in messages_of(r))]
    if not documents and not pairs:
        raise UserError(f"{', '.join(paths)}: prompts without responses, and no text: nothing to train on")
    if unanswered := len(records) - len(documents) - len(pairs):
        print(f"{OWN}: {unanswered} of {len(records)} records left out: prompts without a response")
    split = split_by_prompt(pairs)
    train = split["train"] or pairs  # of one or two pairs, all may fall to validation
    return Source(OWN, 1.0, documents, train, split["validation"])


def data_hash(content: list) -> str:
    """SHA-256 of data as JSON, so that a report can say which a model has seen, and a resume that it is the same."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def texts_of(sources: Sequence[Source]) -> list[str]:
    """All text a model will read or write, to train a tokenizer on."""
    texts = [text for source in sources for text in source.documents]
    return texts + [m["content"] for source in sources for record in source.train for m in messages_of(record)]


def text_sets(
    sources: Sequence[Source], tokenizer: Tokenizer, context: int, batch: int
) -> tuple[dict[str, tuple[list[Example], float]], list[Example]]:
    """What pretraining learns: (name -> examples and rows per step; for validation a fiftieth of each, at most 200)."""
    sets, validation = {}, []
    for source in sources:
        documents = [{"text": text} for text in source.documents] or source.train
        examples = [e for record in documents for e in document_examples(record, tokenizer, context)]
        held_out = max(1, len(examples) // 50)
        sets[source.name] = (examples[held_out:] or examples, batch * source.weight)
        validation += examples[:held_out][:200]
    return sets, validation


def sft_sets(
    sources: Sequence[Source], tokenizer: Tokenizer, context: int, batch: int
) -> tuple[dict[str, tuple[list[Example], float]], list[Example]]:
    """What SFT learns, like `text_sets`; says what is left out. Raises UserError where nothing fits the context."""
    sets, validation = {}, []
    for source in sources:
        examples, left_out = fit_context((render(r, tokenizer) for r in source.train), context)
        if left_out:
            print(f"{source.name}: {left_out} of {len(source.train)} records left out, longer than the context")
        if examples:
            sets[source.name] = (examples, batch * source.weight)
            validation += fit_context((render(r, tokenizer) for r in source.validation), context)[0]
    n = sum(len(source.train) for source in sources)
    if n and not sets:
        raise UserError(f"none of {n} records fits the context of {context} tokens: shorten them, or raise it (--context of train_sft.py)")
    return sets, validation


def prompts_of(
    folder: str, task: str, files: Sequence[str], n: int, seed: int, names: str = "", split: str = "train"
) -> tuple[dict[str, list[dict]], dict[str, float], int]:
    """What RL asks: (name -> records, weights of generated tasks, the longest answer that these want, in tokens).

    From files, or of the tasks in `task`, else of those that the checkpoint was trained on. Raises UserError.
    """
    if files:
        return {OWN: read_records(files, names, "left to the reward")}, {}, 64
    known = {name: TASKS[name].RL_WEIGHT for name in read_run(folder).get("tasks", {}) if name in TASKS}
    weights = parse_tasks(task) if task else known if len(known) > 1 else dict.fromkeys(known, 1.0)
    if not weights:
        raise UserError(f"{folder} was not trained on a generated task: give --task, or --prompts and --reward")
    records = {name: prompts(TASKS[name], split, n, seed) for name in weights}
    return records, weights, max(TASKS[name].MAX_NEW for name in weights)


def held_out_of(folder: str, task: str, files: Sequence[str], seed: int, names: str, fit: Callable) -> list[dict]:
    """Prompts to measure RL on: all in files, or 128 of each task; those that fit(records, name=...) keeps."""
    sets, _, _ = prompts_of(folder, task, files, 128, seed, names, "validation")
    return [record for name, records in sets.items() for record in fit(records, name=name)]


def with_room(records: list[dict], asked_as: Sequence[Callable], context: int, name: str) -> list[dict]:
    """The records whose prompt leaves room for an answer, however it is asked; says what is left out.

    asked_as: record -> ids of its prompt, of each model.  Raises UserError if no record is left.
    """
    asked = [r for r in records if "text" not in r]
    kept = [r for r in asked if all(len(ids_of(r)) < context for ids_of in asked_as)]
    if len(asked) < len(records):
        print(f"{name}: {len(records) - len(asked)} of {len(records)} records left out: text, and no prompt")
    if len(kept) < len(asked):
        left_out = f"{len(asked) - len(kept)} of {len(asked)} prompts left out"
        print(f"{name}: {left_out}, longer than the context of {context} tokens")
    if not kept:
        raise UserError(f"{name}: no prompt of {len(records)} records fits the model's context of {context} tokens")
    return kept
