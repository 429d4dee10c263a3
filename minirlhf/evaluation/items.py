"""items.jsonl: all that an evaluation saw, so that every number can be computed again without the models.

    {"kind": "run", "version": 3, ...}                            settings, models, curves of their training
    {"kind": "set", "set": "reviews", ...}                        what its reward measures, its known optimum
    {"kind": "prompt", "set": ..., "index": 0, "record": {...}}   what was asked
    {"kind": "text", "set": ..., "model": "sft", ...}             how a model predicts the record's own answer
    {"kind": "response", "set": ..., "model": "sft", ...}         what a model said, its scores and statistics

One JSON object per line, in this order within a set. Proved by tests/evaluation/test_items.py.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from minirlhf.harness.files import UserError, read_json_lines, write_atomic
from minirlhf.lm.records import check_record

VERSION = 3  # of items.jsonl and report.json
WANTED = {  # kind of line -> the keys it must have
    "text": ("index", "nll", "tokens", "bytes", "confidence", "correct"),
    "response": ("index", "sample", "prompt", "response", "stop", "tokens", "ids", "kl", "k1", "k3", "entropy", "scores"),
}


@dataclass
class TestSet:
    """A set of held-out prompts and what every model said to them."""

    __test__ = False  # pytest would take it for a test by its name

    title: str
    records: list[dict]
    items: dict[str, list[dict]] = field(default_factory=dict)  # model -> `ask.sample_items`
    texts: dict[str, list[dict]] = field(default_factory=dict)  # model -> `ask.text_items`
    about: dict = field(default_factory=dict)  # reward (its name), beta, optimum, attention, temperatures


def write_items(path: str | Path, run: dict, sets: Sequence[TestSet]) -> None:
    """Write items.jsonl, whole or not at all."""
    lines = [{"kind": "run", "version": VERSION} | run]
    for s in sets:
        lines.append({"kind": "set", "set": s.title} | s.about)
        lines += [{"kind": "prompt", "set": s.title, "index": i, "record": r} for i, r in enumerate(s.records)]
        for kind, table in (("text", s.texts), ("response", s.items)):
            lines += [{"kind": kind, "set": s.title, "model": m} | item for m, rows in table.items() for item in rows]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_atomic(path, text.encode("utf-8", "backslashreplace"))  # a lone surrogate as JSON spells it


def read_items(path: str | Path) -> tuple[dict, list[TestSet]]:
    """(run, sets) as they were written. Raises UserError."""
    lines = read_json_lines(path)
    run = lines[0][1] if lines else {}
    if run.pop("kind", None) != "run" or run.pop("version", None) != VERSION:
        raise UserError(f"{path}: not the items of an evaluation of version {VERSION}; make them with evaluate.py")
    sets: dict[str, TestSet] = {}
    for number, line in lines[1:]:
        try:
            kind, title = line.pop("kind"), line.pop("set")
            if kind == "set":
                sets[title] = TestSet(title, [], about=line)
            elif kind == "prompt":
                sets[title].records.append(line["record"])
            else:
                table = {"text": sets[title].texts, "response": sets[title].items}[kind]
                rows = table.setdefault(line.pop("model"), [])
                if missing := [key for key in WANTED[kind] if key not in line]:
                    raise KeyError(missing[0])
                if kind == "response":
                    first = next((x[0]["scores"] for x in sets[title].items.values() if x), line["scores"])
                    if not isinstance(line["scores"], dict) or line["scores"].keys() != first.keys():
                        raise UserError(f"{path}, line {number}: its scores are not those of the other responses")
                rows.append(line)
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number}: {error} is missing, or stands before its set") from None
    if not run.get("models") or not sets:
        raise UserError(f"{path}: no models, or no prompts, in it; was it cut off?")
    for name in (run.get("reference"), run.get("against"), *(m.get("reference") for m in run["models"].values())):
        if name not in run["models"]:
            raise UserError(f"{path}: {name!r:.40}, a reference or what is compared with, is not one of its models")
    for title, s in sets.items():
        if not is_complete(s, run["models"]):
            raise UserError(f"{path}: some model's answers to {title} are missing; was it cut off?")
    return run, list(sets.values())


def is_complete(s: TestSet, models: Iterable[str]) -> bool:
    """Whether every model has a text item and all responses for every prompt."""
    samples = 1 + max((x.get("sample", 0) for rows in s.items.values() for x in rows), default=0)
    asked = [(i, k) for i in range(len(s.records)) for k in range(-1, samples)]
    said = [[(x.get("index"), x.get("sample")) for x in s.items.get(m, [])] for m in models]
    return bool(asked) and all(x == asked and len(s.texts.get(m, [])) == len(s.records) for m, x in zip(models, said))


def read_sets(path: str | Path) -> list[TestSet]:
    """The test sets of an items.jsonl and what the models said to them. Raises UserError."""
    _, sets = read_items(path)
    for s in sets:
        for number, record in enumerate(s.records):
            check_record(record, f"{path}: prompt {number} of {s.title}")
    return sets
