"""From files and records to ids, masks and batches.

One renderer serves training and generation, so a model is prompted in the format it was trained on:

    <|user|> 4 7 + 8 5 = <|assistant|> 1 3 2 <|endoftext|>
                                       ^ ^ ^ ^^^^^^^^^^^^^   the loss stands on these

Segments are encoded apart and their ids joined, so that mask boundaries are exact and text can never
become a special token. A document is `<|endoftext|> text <|endoftext|>` with a loss on every token but
the first: pretraining is SFT with every token in the mask. Proved by tests/test_data.py.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minirlhf.files import UserError
from minirlhf.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant")
FOREIGN = (".json", ".ndjson", ".csv", ".tsv", ".parquet")  # read as one text, records would be lost unseen


@dataclass(frozen=True)
class Example:
    """Token ids, and for each whether the model is trained to predict it. mask[0] is False."""

    ids: list[int]
    mask: list[bool]


def read_records(path: str | Path) -> list[dict]:
    """The records of a .jsonl file, or one {"text": ...} of any other (.txt) file.

    Raises UserError naming the file and line for what cannot be read, for an empty file and for FOREIGN ones.
    """
    path = Path(path)
    if path.suffix.lower() in FOREIGN:
        raise UserError(f"{path}: records are read from .jsonl, one JSON object a line; text from .txt")
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors on Windows put a mark in front
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; convert the file to UTF-8") from None
    if not text.strip():
        raise UserError(f"{path}: no data in it")
    if path.suffix.lower() != ".jsonl":
        return [{"text": text}]
    records = []
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines, which cuts at U+2028 in a string
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:  # the latter of what is nested too deeply
            raise UserError(f"{path}, line {number}: not JSON that can be read: {error}") from None
        if not isinstance(record, dict):
            raise UserError(f"{path}, line {number}: a JSON object is wanted, this is a {type(record).__name__}")
        check_record(record, f"{path}, line {number}")
        records.append(record)
    return records


def check_record(record: dict, where: str) -> None:
    """Raises UserError unless the record has `text`, `messages`, or `prompt` (and a `response` if any).

    A comparison has `prompt` or `messages`, `chosen` and `rejected`, perhaps `p`, how probably chosen is better,
    `margin`, and the gold rewards `gold_chosen` and `gold_rejected`.
    """
    for key in ("text", "prompt", "response", "chosen", "rejected"):
        if key in record and not isinstance(record[key], str):
            raise UserError(f"{where}: {key!r} must be a string, it is {record[key]!r:.40}")
    if record.get("prompt") == "":
        raise UserError(f"{where}: the prompt is empty")
    if "chosen" in record or "rejected" in record:
        if missing := [key for key in ("chosen", "rejected") if key not in record]:  # a response may be empty
            raise UserError(f"{where}: {missing[0]!r} is missing: a comparison wants two responses")
        if "prompt" not in record and "messages" not in record:
            raise UserError(f"{where}: no 'prompt' or 'messages': a comparison is of two responses to one")
        for key in ("p", "margin", "gold_chosen", "gold_rejected"):
            least, most = (0, 1) if key == "p" else (-1e38, 1e38)  # what float32 holds
            if key in record and not (type(record[key]) in (int, float) and least <= record[key] <= most):
                wanted = "a probability" if key == "p" else "a finite number of float32"
                raise UserError(f"{where}: {key!r} must be {wanted}, it is {record[key]!r:.40}")
    if "messages" in record:
        messages = record["messages"]
        if not isinstance(messages, list) or not messages:
            raise UserError(f"{where}: 'messages' must be a list that is not empty")
        for message in messages:
            role = message.get("role") if isinstance(message, dict) else None
            if role not in ROLES or not isinstance(message.get("content"), str):
                raise UserError(f"{where}: a message needs a 'role' of {', '.join(ROLES)} and a text 'content'")
        if all(message["role"] != "user" for message in messages):
            raise UserError(f"{where}: no message of a user in 'messages': nothing is asked")
    elif "text" not in record and "prompt" not in record:
        raise UserError(f"{where}: no 'text', 'prompt' or 'messages'; found {', '.join(record) or 'nothing'}")


def messages_of(record: dict) -> list[dict]:
    """A record's conversation; a prompt and response are one of two turns, a prompt alone of one."""
    if "messages" in record:
        return record["messages"]
    turns = [{"role": "user", "content": record["prompt"]}]
    if "response" in record:
        turns.append({"role": "assistant", "content": record["response"]})
    return turns


def render(record: dict, tokenizer: Tokenizer, chat: bool = True) -> Example:
    """The conversation as ids, with a loss on every assistant turn and the EOS that ends it.

    chat=False is for a base model, which has never seen a role token: the bare texts, as in a document.
    """
    ids = [] if chat else [tokenizer.eos_id]
    mask = [False] * len(ids)
    for message in messages_of(record):
        spoken = message["role"] == "assistant"
        cue = [tokenizer.special_ids[f"<|{message['role']}|>"]] if chat else []
        content = tokenizer.encode(message["content"]) + [tokenizer.eos_id] * spoken
        ids += cue + content
        mask += [False] * len(cue) + [spoken] * len(content)
    return Example(ids, mask)


def render_prompt(record: dict, tokenizer: Tokenizer, chat: bool = True) -> list[int]:
    """What the model is given to answer: the conversation up to its last assistant turn, and the cue.

    A strict prefix of `render(record)` where the record ends in an assistant turn.
    """
    messages = messages_of(record)
    if messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    prefix = render({"messages": messages}, tokenizer, chat).ids
    return prefix + ([tokenizer.special_ids["<|assistant|>"]] if chat else [])


def prompt_of(record: dict) -> str:
    """All that stands before the answer, as one text."""
    messages = messages_of(record)
    return "\n".join(m["content"] for m in messages[: len(messages) - (messages[-1]["role"] == "assistant")])


def references_of(record: dict) -> list[str]:
    """The texts to compare an answer with: `reference`, one or a list, else the response or last assistant turn."""
    last = messages_of(record)[-1]
    given = record.get("reference")
    if given is None:
        given = [last["content"]] if last["role"] == "assistant" else []
    return [str(text) for text in given] if isinstance(given, list) else [str(given)]


def reference_of(record: dict) -> str:
    """The first of its references, or ''."""
    return next(iter(references_of(record)), "")


def document_examples(text: str, tokenizer: Tokenizer, context: int) -> list[Example]:
    """A document as examples of at most `context` ids, in which every token but the first EOS is a target once.

    A document longer than the context is cut into windows; each later window starts with the last
    token of the one before, as context without a loss.
    """
    if context < 2:
        raise UserError(f"a context of {context} has no room for a token and the next; raise --context")
    ids = [tokenizer.eos_id, *tokenizer.encode(text), tokenizer.eos_id]
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


def split_of(key: str, validation: int = 5) -> str:
    """'validation' for that percentage of keys, else 'train': by a hash of the key, so for good."""
    bucket = int.from_bytes(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") % 100
    return "validation" if bucket < validation else "train"


@dataclass
class Batch:
    """Examples side by side, the padding on the right. Inputs and targets are shifted here, once."""

    inputs: Tensor  # (B, T) int64
    targets: Tensor  # (B, T) int64, the token behind each input
    mask: Tensor  # (B, T) bool, True where the loss stands


def round_up(n: int, multiple: int, limit: int) -> int:
    """The next multiple, or `limit` where that is less; n itself beyond it.

    Every new shape of a bfloat16 product on CPU costs a compilation, kept for good: on shapes as they came
    a linear layer took 1.5 to 2 times as long, and SFT of the main run 1.1 GB more.
    """
    return max(n, min(-(-n // multiple) * multiple, limit))


def collate(examples: Sequence[Example], device: torch.device | str = "cpu", context: int = 2**31) -> Batch:
    """Pad on the right and shift by one: position t predicts token t + 1. context: columns at the most."""
    width = 1 + round_up(max(len(e.ids) for e in examples) - 1, 8, context)
    ids = np.zeros((len(examples), width), dtype=np.int64)  # (B, T + 1)
    mask = np.zeros((len(examples), width), dtype=bool)  # (B, T + 1)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = example.ids
        mask[row, : len(example.mask)] = example.mask
    whole, where = torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
    return Batch(whole[:, :-1], whole[:, 1:], where[:, 1:])


def micro_batches(lengths: Sequence[int], rows: int) -> list[list[int]]:
    """Indices sorted by length, the longest first, in parts of `rows`; every index appears once.

    Rows of like length stand together, so little is spent on padding.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return [order[start : start + rows] for start in range(0, len(order), rows)]


def gather_true(x: Tensor, mask: Tensor) -> tuple[Tensor, int]:
    """x (B, T, C) where mask (B, T) is True, row by row: (N', C), of which the first N count, and N.

    The rest stands there to make N' a multiple of 64: see `round_up`.
    """
    places = mask.flatten().nonzero().squeeze(1)  # (N,)
    n = len(places)
    return x.flatten(0, 1)[F.pad(places, (0, -n % 64))], n  # (N', C)


class Mixture:
    """Batches from several data sets, a pure function of (seed, step): to resume, the step is enough.

    Each set is gone through in epochs, every example once an epoch, in an order drawn anew each time.
    """

    def __init__(self, sets: dict[str, tuple[Sequence, float]], seed: int) -> None:
        """sets: name -> (examples, rows a step). Rows may be fractional: 2.5 gives 2 and 3 in turn."""
        self.sets = sets
        self.seed = seed

    def step(self, step: int) -> list:
        """The examples of optimizer step `step`, counted from 0."""
        batch: list = []
        for which, (examples, rows) in enumerate(self.sets.values()):
            for position in range(int(step * rows), int((step + 1) * rows)):
                epoch, place = divmod(position, len(examples))
                batch.append(examples[epoch_order(self.seed, which, epoch, len(examples))[place]])
        return batch


@lru_cache(maxsize=64)
def epoch_order(seed: int, which: int, epoch: int, n: int) -> np.ndarray:
    """The order of data set number `which`, of n examples, in an epoch: (n,) int."""
    return np.random.default_rng([seed, which, epoch]).permutation(n)
