"""Records: lines of .jsonl or a text file, checked, and the conversation that each of them is.

    {"text": ...}                                            raw text
    {"prompt": ..., "response": ...}                         one question and its answer
    {"messages": [{"role": ..., "content": ...}, ...]}       a conversation
    {"prompt": ..., "chosen": ..., "rejected": ...}          a comparison

What cannot be read is named by file and line. Proved by tests/lm/test_records.py.
"""

from hashlib import blake2b
from pathlib import Path

from minirlhf.harness.files import UserError, read_json_lines, read_text

ROLES = ("system", "user", "assistant")
FOREIGN = (".json", ".ndjson", ".csv", ".tsv", ".parquet")  # read as one text, records would be lost unseen


def read_records(path: str | Path) -> list[dict]:
    """The records of a .jsonl file, or one {"text": ...} of any other (.txt) file.

    Raises UserError naming the file and line for what cannot be read, for an empty file and for FOREIGN ones.
    """
    path = Path(path)
    if path.suffix.lower() in FOREIGN:
        raise UserError(f"{path}: records are read from .jsonl, one JSON object a line; text from .txt")
    text = read_text(path)
    if not text.strip():
        raise UserError(f"{path}: no data in it")
    if path.suffix.lower() != ".jsonl":
        return [{"text": text}]
    lines = read_json_lines(path)
    for number, record in lines:
        check_record(record, f"{path}, line {number}")
    return [record for _, record in lines]


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
        raise UserError(f"{where}: no 'text', 'prompt' or 'messages'; found {', '.join(record) or 'nothing'}")


def messages_of(record: dict) -> list[dict]:
    """A record's conversation; a prompt and response are one of two turns, a prompt alone of one."""
    if "messages" in record:
        return record["messages"]
    turns = [{"role": "user", "content": record["prompt"]}]
    if "response" in record:
        turns.append({"role": "assistant", "content": record["response"]})
    return turns


def question_of(record: dict) -> list[dict]:
    """The messages before the answer: all but a last turn of the assistant."""
    messages = messages_of(record)
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


def prompt_of(record: dict) -> str:
    """All that stands before the answer, as one text."""
    return "\n".join(message["content"] for message in question_of(record))


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


def validation_split(key: str, validation: int = 5) -> str:
    """'validation' for that percentage of keys, else 'train': by a hash of the key, so for good."""
    bucket = int.from_bytes(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") % 100
    return "validation" if bucket < validation else "train"
