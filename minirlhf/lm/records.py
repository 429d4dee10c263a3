"""Records: what a line or a row of data can be, and the conversation that each is; lm/reading.py reads them.

    {"text": ...}                                            raw text
    {"prompt": ..., "response": ...}                         one question and its answer
    {"messages": [{"role": ..., "content": ...}, ...]}       a conversation
    {"prompt": ..., "chosen": ..., "rejected": ...}          a comparison

Beside a question may stand `label`, `reference` and whatever a reward reads. Proved by tests/lm/test_records.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from minirlhf.harness.files import UserError

ROLES = ("system", "user", "assistant")
OF_FILE = "of_file"  # marks a record of the user's that has a `task`, which is then no generated one


@dataclass(frozen=True)
class ChatFormat:
    """What stands around the turns of a conversation: text, in which names of special tokens are these tokens."""

    cue: str = "<|{role}|>"  # before each turn
    close: str = ""  # behind a turn of anyone but the assistant; its own end in the EOS
    end: str = ""  # the name of that EOS; "" is the tokenizer's
    gap: str = ""  # behind the EOS
    begin: str = ""  # before the first turn
    system: str = ""  # what the system says where a conversation has no such turn


def check_record(record: dict, where: str) -> None:
    """Raises UserError unless the record has `text`, `messages`, or `prompt` (and a `response` if any).

    A comparison has `prompt` or `messages`, `chosen` and `rejected`, perhaps `p`, how probably chosen is better, and
    the gold rewards `gold_chosen` and `gold_rejected`.
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
        for key in ("p", "gold_chosen", "gold_rejected"):
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
        hint = "; --map prompt=NAME says which of them is asked" if record else ""
        raise UserError(f"{where}: no 'text', 'prompt' or 'messages'; found {', '.join(record) or 'nothing'}{hint}")
    for key in ("reference", "label", "conversation"):
        value = record.get(key)
        several = value if key == "reference" and isinstance(value, list) else [value] * (value is not None)
        if not all(map(is_plain, several)):
            raise UserError(f"{where}: {key!r} must be a text or a number, it is {value!r:.40}")


def is_plain(value: object) -> bool:
    """Whether it is a text that UTF-8 can hold, or a finite number: what can be compared with an answer."""
    if isinstance(value, str):
        return value.isascii() or value == value.encode("utf-8", "replace").decode("utf-8")
    return isinstance(value, (int, float)) and -1e300 < value < 1e300


def task_named(record: dict) -> str:
    """The name of the generated task that made the record; "" for a user's own, whatever that calls `task`."""
    name = record.get("task", "")
    return name if isinstance(name, str) and OF_FILE not in record else ""


def messages_of(record: dict) -> list[dict]:
    """A record's conversation; a prompt and response are one of two turns, a prompt or a raw text alone of one."""
    if "messages" in record:
        return record["messages"]
    if "prompt" not in record:
        return [{"role": "assistant", "content": record["text"]}]  # all that a model reads, it learns to say
    turns = [{"role": "user", "content": record["prompt"]}]
    if "response" in record:
        turns.append({"role": "assistant", "content": record["response"]})
    return turns


def gap_of(record: dict) -> str:
    """What stands between turns without roles: a line break in a user's record, nothing in a generated one."""
    return "" if task_named(record) else "\n"


def question_of(record: dict) -> list[dict]:
    """The messages before the answer: all but a last turn of the assistant."""
    messages = messages_of(record)
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


def prompt_of(record: dict) -> str:
    """All that stands before the answer, as one text."""
    return "\n".join(message["content"] for message in question_of(record))


def label_of(record: dict) -> str | None:
    """The right class of an answer, white space around it aside; None where `label` is missing, null or blank."""
    return None if record.get("label") is None else str(record["label"]).strip() or None


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


def prompt_key(record: dict) -> str:
    """What decides on which side of a split a record is, and which comparisons are of one prompt."""
    return str([message["content"] for message in question_of(record)])


def split_by_prompt(records: Sequence[dict], validation: int = 5) -> dict[str, list[dict]]:
    """The records to train on, and that percentage for validation: no prompt is on both sides."""
    sides: dict[str, list[dict]] = {"train": [], "validation": []}
    for record in records:
        sides[validation_split(prompt_key(record), validation)].append(record)
    return sides


def validation_split(key: str, validation: int = 5) -> str:
    """'validation' for that percentage of keys, else 'train': by a hash of the key, so for good."""
    bucket = int.from_bytes(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") % 100
    return "validation" if bucket < validation else "train"
