"""Reading: whatever a user's files hold becomes records, by one function, which says what it took and left out.

    reviews.csv: 812 records of prompt and label; column `id` unused; 3 without a label

The content decides, not the name: JSON lines or an array, CSV or TSV with a header, else one text; gzip of each.
Proved by tests/lm/test_reading.py.
"""

import csv
import glob
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from io import StringIO
from pathlib import Path

from minirlhf.harness.files import UserError, read_text
from minirlhf.lm.records import OF_FILE, check_record, label_of

FIELDS = ("text", "prompt", "messages", "response", "chosen", "rejected", "label", "reference", "conversation")
NUMBERS = ("p", "gold_chosen", "gold_rejected")
KNOWN = {*FIELDS, *NUMBERS, OF_FILE}
SHAPES = ("instruction", "input", "output", "completion", "conversations")  # alpaca's, TRL's, ShareGPT's: become FIELDS
SPEAKERS = {"human": "user", "gpt": "assistant", "Human": "user", "Assistant": "assistant"}  # of ShareGPT, of hh-rlhf
UNLIKE = "chosen and rejected answer different questions"
MAP = "your names of the fields: prompt=question,response=answer"  # what the options --map and --check-data say
CHECK = "only print the data: counts, lengths, examples, overlap of training and test"


def read_records(
    paths: Sequence[str], names: str = "", others: str = "unused", say: Callable | None = print
) -> list[dict]:
    """The records in files, folders and globs; says in one line of each what was taken and what was not.

    names: "prompt=question,response=answer", the user's names of FIELDS.  others: what becomes of further columns.
    Raises UserError, which names file and line, for what cannot be read, and for a path without any data.
    """
    mapping = dict(pair.partition("=")[::2] for pair in names.split(",") if pair)
    if wrong := [new for new, old in mapping.items() if new not in KNOWN or not old]:
        raise UserError(f"--map {names}: {wrong[0]}: give FIELD=YOURS, and as FIELD one of {', '.join(FIELDS)}")
    columns, records = set(), []
    for path in paths:
        counts, some, files = Counter(), [], files_of(str(path))
        for where, row in (pair for file in files for pair in rows_of(file, mapping)):
            columns.update(row)
            if record := as_record(row, mapping, where, counts):
                some.append(record)
        if not some:
            raise UserError(f"{path}: no data in it{f'; {UNLIKE}' * (counts[UNLIKE] > 0)}")
        if say:
            say(f"{path}: {f'{len(files):,} files, ' * (len(files) > 1)}{summary(some, counts, others)}")
        records += some
    if say and (lost := [old for old in mapping.values() if old not in columns]):
        raise UserError(f"--map {names}: there is no {lost[0]!r:.40}; found {', '.join(sorted(columns))}")
    return records


def read_again(*runs: dict) -> list[dict]:
    """What trainings read, by their run.json, without a word; of what is gone by now there is nothing."""
    data, records = [run.get("data", {}) for run in runs], []
    said = {(path, d.get("map", "")) for d in data for path in (*d.get("data", ()), *d.get("prompts", ()))}
    for path, names in sorted(said):
        with suppress(UserError):
            records += read_records([path], names, say=None)
    return records


def files_of(path: str) -> list[str]:
    """The file, every .txt in the folder, or what the glob finds. Raises UserError where that is nothing."""
    if Path(path).is_dir():
        files = sorted(str(file) for end in ("txt", "txt.gz") for file in Path(path).rglob(f"*.{end}"))
    else:
        files = [path] if Path(path).exists() else sorted(filter(os.path.isfile, glob.glob(path, recursive=True)))
    if not files:
        raise UserError(f"{path}: {'no .txt in this folder' if Path(path).is_dir() else 'No such file or directory'}")
    return files


def rows_of(path: str, names: Mapping[str, str]) -> Iterator[tuple[str, dict]]:
    """(file and line, object) of a file, whose content tells what it is. names: the user's, by field."""
    text = read_text(path)
    braces = len(re.findall(r'(?m)^\s*\{\s*"', text))  # a broken first line makes no text of JSON lines
    if re.match(r"""\s*(\{\s*["'}]|\[\s*["'{\]])""", text) or 2 * braces > text.strip().count("\n") + 1:
        yield from json_rows(text, path)
    elif comma := comma_of(text, {*KNOWN, *SHAPES, *names.values()}):
        yield from table_rows(text, path, comma, {names.get(key, key) for key in NUMBERS})
    elif (kind := re.search(r"\.(jsonl?|[ct]sv)(\.gz)?$", path)) and text.strip():
        what = "JSON objects" if kind[1].startswith("json") else "rows under a header"
        raise UserError(f"{path}: no {what} in it; if it is a text, call it .txt")
    elif text.strip():
        yield path, {"text": text}


def json_rows(text: str, path: str) -> Iterator[tuple[str, dict]]:
    """The objects of JSON lines, or of an array."""
    array, end = text.lstrip().startswith("["), len(text.rstrip())
    closed, at, line = array and text[end - 1] == "]", text.index("[") + 1 if array else 0, 1
    line += text.count("\n", 0, at)
    decode, between = json.JSONDecoder().raw_decode, re.compile(r"[\s,]*" if array else r"\s*")
    while (begin := between.match(text, at, end - closed).end()) < end - closed:
        line += text.count("\n", at, begin)
        where = f"{path}, line {line}"
        try:
            value, at = decode(text, begin)
        except (ValueError, RecursionError) as error:  # the latter of what is nested too deeply
            raise UserError(f"{where}: not JSON that can be read: {getattr(error, 'msg', error)}") from None
        if not isinstance(value, dict):
            raise UserError(f"{where}: a JSON object is wanted, this is a {type(value).__name__}")
        yield where, value
        line += text.count("\n", begin, at)
    if array and not closed:
        raise UserError(f"{path}: the array does not end; was the file cut off?")


def comma_of(text: str, known: set[str]) -> str:
    """What parts the columns of a table, "" in other text: a table has a known column, or even rows under names."""
    csv.field_size_limit(2**31 - 1)  # a cell may hold a long text
    comma = max(",\t;", key=text.partition("\n")[0].count)
    rows = csv.reader(StringIO(text, newline="\n"), delimiter=comma)
    header = next(rows, [])
    if known & {cell.strip() for cell in header}:
        return comma
    named = len(header) > 1 and all(re.fullmatch(r"\w[\w ./-]{,30}", cell) for cell in header)
    return comma if named and {len(row) for row in rows if row} == {len(header)} else ""


def table_rows(text: str, path: str, comma: str, numbers: set[str]) -> Iterator[tuple[str, dict]]:
    """The rows of a table, without their empty cells. numbers: columns that hold numbers."""
    rows, header, line = csv.reader(StringIO(text, newline="\n"), delimiter=comma, strict=True), [], 1
    try:
        for row in rows:
            where, line = f"{path}, line {line}", rows.line_num + 1
            if not header:
                header = [cell.strip() or f"column {i}" for i, cell in enumerate(row, 1)]
                if twice := [name for name, count in Counter(header).items() if count > 1]:
                    raise UserError(f"{where}: two columns are {twice[0]!r:.40}; give each a name of its own")
            elif row and len(row) != len(header):
                raise UserError(f"{where}: {len(row)} cells under {len(header)} columns; quote cells with {comma!r}")
            elif any(row):
                yield where, {k: number_of(v) if k in numbers else v for k, v in zip(header, row) if v}
    except csv.Error as error:
        raise UserError(f"{path}, line {line}: {error}; quote a cell that has a quote, and double that") from None


def number_of(cell: str) -> float | str:
    """The number in a cell, or the cell, for `check_record` to refuse."""
    with suppress(ValueError):
        return float(cell)
    return cell


def as_record(row: dict, names: Mapping[str, str], where: str, counts: Counter) -> dict | None:
    """The record that an object of any known shape is; None where it is left out. counts: what is not used, by name."""
    r = {k: v for k, v in row.items() if k not in names.values()}
    counts.update(new for new, old in names.items() if new in r and old in row)  # the user's name wins
    r |= {new: row[old] for new, old in names.items() if old in row} | ({OF_FILE: True} if "task" in r else {})
    if "instruction" in r and "prompt" not in r:  # alpaca
        asked = {key: r.pop(key) for key in SHAPES[:2] if key in r}
        if wrong := [key for key, text in asked.items() if not isinstance(text, str | None)]:
            raise UserError(f"{where}: {wrong[0]!r} must be a string, it is {asked[wrong[0]]!r:.40}")
        r["prompt"] = "\n".join(filter(None, asked.values()))
    for new, old in (("messages", "conversations"), ("response", "output" if "instruction" in row else "completion")):
        if old in r and new not in r:  # ShareGPT, alpaca, TRL
            r[new] = r.pop(old)
    for key in ("text", "messages", "reference", "label"):
        if key in r and (r[key] is None or key == "label" and label_of(r) is None):
            del r[key]
    r |= {key: [turn_of(x) for x in r[key]] for key in FIELDS[:6] if isinstance(r.get(key), list)}
    if isinstance(r.get("prompt"), list):  # TRL's conversations
        counts.update({"messages"} & r.keys())
        r["messages"] = r.pop("prompt")
    pair = [r.get(key) for key in ("chosen", "rejected")]
    if "prompt" not in r and "messages" not in r and all(re.match(r"\s*Human:", str(text)) for text in pair):
        pair = [transcript(text) for text in pair]  # hh-rlhf
    if all(isinstance(turns, list) and turns for turns in pair):  # the prompt is what both share
        (*asked, good), (*again, bad) = pair
        if asked != again or not (answers(good) and answers(bad)):
            counts[UNLIKE] += 1
            return None
        r |= {"chosen": good.get("content"), "rejected": bad.get("content")}
        known = r.get("messages")
        if asked and not (isinstance(known, list) and known[: len(asked)] == asked):
            counts.update({"messages"} & r.keys())
            r["messages"] = asked
    if "response" in r and isinstance(r.get("messages"), list) and not any(map(answers, r["messages"][-1:])):
        said = r.pop("response")
        r["messages"] += said if isinstance(said, list) else [{"role": "assistant", "content": said}]
    # One record is one thing: a conversation before a prompt, either before a raw text.
    dropped = r.keys() & ({"prompt", "text", "response"} if "messages" in r else {"text"} if "prompt" in r else ())
    counts.update(dropped | (r.keys() - KNOWN))
    record = {key: value for key, value in r.items() if key not in dropped}
    check_record(record, where)
    return record


def answers(message: object) -> bool:
    """Whether it is a turn of the assistant."""
    return isinstance(message, dict) and message.get("role") == "assistant"


def turn_of(message: object) -> object:
    """A turn of ShareGPT's as one with role and content; any other as it is."""
    if not isinstance(message, dict) or "from" not in message:
        return message
    return {"role": SPEAKERS.get(str(message["from"]), message["from"]), "content": message.get("value")}


def transcript(text: str) -> list[dict]:
    """The turns of hh-rlhf's dialogues, "Human: ...\\n\\nAssistant: ..."."""
    parts = re.split(r"\n\n(Human|Assistant):", "\n\n" + text.strip())[1:]
    return [{"role": SPEAKERS[who], "content": said.strip()} for who, said in zip(parts[::2], parts[1::2])]


def summary(records: Sequence[dict], counts: Counter, others: str) -> str:
    """What was taken, what becomes of the rest, and what some lack, in one line."""
    groups: dict[str, list[dict]] = {}
    for r in records:
        groups.setdefault(next(key for key in ("chosen", "messages", "prompt", "text") if key in r), []).append(r)
    parts, gaps, n = [], [], len(records) + counts[UNLIKE]
    for some in groups.values():
        have = Counter(key for r in some for key in r)
        fields = [key for key in (*FIELDS, *NUMBERS) if key in have]
        size = f" ({sum(len(r['text']) for r in some):,} characters)" if fields[0] == "text" else ""
        parts.append(f"{len(some):,} record{'s' * (len(some) > 1)} of {listed(fields)}{size}")
        gaps += [f"{len(some) - have[key]:,} without a {key}" for key in fields if have[key] < len(some)]
    names = [f"`{repr(k)[1:-1]:.40}`" + f" (in {c:,})" * (c < n) for k, c in sorted(counts.items()) if k != UNLIKE]
    lines = [", ".join(parts), f"column{'s' * (len(names) > 1)} {listed(names)} {others}" * bool(names), *gaps]
    return "; ".join(filter(None, [*lines, f"{counts[UNLIKE]:,} left out: {UNLIKE}" * (counts[UNLIKE] > 0)]))


def listed(words: Sequence[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
