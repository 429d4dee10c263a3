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

from minirlhf.harness.files import UserError, misfit, parse_object, read_text, write_atomic
from minirlhf.lm.records import check_record

VERSION = 3  # of items.jsonl and report.json
N, X, MAYBE = range(2**53), 0.0, (0.0, None)  # a count, a number, and one that may be unknown
COST = {"steps": N, "tokens": N, "seconds": X}
CURVE = {"name": "", "x": "", "points": [[X, X]]}
MODEL = {
    "sha256": "", "folder": "", "reference": "", "trained_against?": ("", None), "stage?": ("", None),
    "seed?": (N, None), "cost?": (COST, None), "curves?": [CURVE],
}  # fmt: skip
LINES = {  # kind of line -> an example of it
    "run": {
        "reference": "", "against": "", "seed": N, "vocabulary?": N, "settings": {"metrics?": ""}, "environment?": {},
        "models": {"*": MODEL},
    },
    "set": {
        "reward?": "", "temperatures?": {"*": X}, "beta?": X, "trained_on?": [""],
        "optimum?": (None, {"value": MAYBE, "effective_size": X, "low?": MAYBE, "high?": MAYBE}),
        "ngram?": (None, {"order": N, "answers": N, "nll": X, "tokens": range(1, 2**53)}),
        "attention?": {"model": "", "index": N, "pieces": [""], "maps": [
            {"layer": N, "head": (N, None), "weights": [[X]]}]},
    },
    "prompt": {"record": {}},
    "text": {"model": "", "index": N, "nll": MAYBE, "tokens": N, "bytes": N, "confidence": [X], "correct": [range(2)],
             "tempered?": [X]},
    "response": {
        "model": "", "index": N, "sample": range(-1, 2**53), "prompt": "", "response": "", "reference": "", "stop": "",
        "tokens": N, "ids": [N], "kl": X, "k1": X, "k3": X, "entropy": X, "log_ratio?": X, "scores": {"*": X},
        "answer?": "", "pieces?": [""], "token_kl?": [X], "token_log_ratio?": [X],
    },
}  # fmt: skip


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
    numbered = enumerate(read_text(path).split("\n"), 1)  # not splitlines, which cuts at U+2028 in a string
    lines = [(number, parse_object(line, f"{path}, line {number}")) for number, line in numbered if line.strip()]
    run = lines[0][1] if lines else {}
    if run.pop("kind", None) != "run" or run.pop("version", None) != VERSION:
        raise UserError(f"{path}: not the items of an evaluation of version {VERSION}; make them with evaluate.py")
    if wrong := misfit(run, LINES["run"], "run").removeprefix("run."):
        raise UserError(f"{path}, line {lines[0][0]}: {wrong!r} is missing, or not what belongs there")
    sets: dict[str, TestSet] = {}
    for number, line in lines[1:]:
        try:
            kind, title = line.pop("kind"), line.pop("set")
            like, s = LINES[kind], TestSet(title, [], about=line) if kind == "set" else sets[title]
            if wrong := misfit(line, like, kind).removeprefix(f"{kind}."):
                raise UserError(f"{path}, line {number}: {wrong!r} is missing, or not what belongs there")
            if kind == "set":
                sets[title] = s
            elif kind == "prompt":
                check_record(line["record"], f"{path}, line {number}")
                s.records.append(line["record"])
            else:
                rows = {"text": s.texts, "response": s.items}[kind].setdefault(line.pop("model"), [])
                if kind == "response":
                    first = next((x[0]["scores"] for x in s.items.values() if x), line["scores"])
                    if line["scores"].keys() != first.keys():
                        raise UserError(f"{path}, line {number}: its scores are not those of the other responses")
                rows.append(line)
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number}: {error} is missing, or stands before its set") from None
    if not run["models"] or not sets:
        raise UserError(f"{path}: no models, or no prompts, in it; was it cut off?")
    for name in (run["reference"], run["against"], *(m["reference"] for m in run["models"].values())):
        if name not in run["models"]:
            raise UserError(f"{path}: {name!r:.40}, a reference or what is compared with, is not one of its models")
    for title, s in sets.items():
        if not is_complete(s, run["models"]):
            raise UserError(f"{path}: some model's answers to {title} are missing; was it cut off?")
        if not is_sound(s, run):
            raise UserError(f"{path}: the items of {title} do not fit each other; make them again with evaluate.py")
    return run, list(sets.values())


def is_complete(s: TestSet, models: Iterable[str]) -> bool:
    """Whether every model has a text item and all responses for every prompt."""
    rows = [x for rows in s.items.values() for x in rows]
    samples = min(1 + max((x["sample"] for x in rows), default=0), len(rows))
    asked = [(i, k) for i in range(len(s.records)) for k in range(-1, samples)]
    said = [[(x["index"], x["sample"]) for x in s.items.get(m, [])] for m in models]
    texts = [[x["index"] for x in s.texts.get(m, [])] for m in models]
    known = [x == asked and y == list(range(len(s.records))) for x, y in zip(said, texts)]
    return bool(asked) and all(known) and {*s.items, *s.texts} == {*models}


def is_sound(s: TestSet, run: dict) -> bool:
    """Whether in a set's items what belongs together has one length, and what all of them need is in all."""
    texts, items = ([x for rows in table.values() for x in rows] for table in (s.texts, s.items))
    lengths = [{x["tokens"], *(len(x[k]) for k in ("confidence", "correct", "tempered") if k in x)} for x in texts]
    lengths += [{len(x.get(k, ())) for k in ("pieces", "token_kl", "token_log_ratio")} for x in items]
    if shown := s.about.get("attention"):
        lengths += [{len(rows) for rows in (shown["pieces"], m["weights"], *m["weights"])} for m in shown["maps"]]
    shares = [p for x in texts for p in (*x["confidence"], *x.get("tempered", ()))]
    pooled = [*s.items[run["reference"]], *s.items[[*run["models"]][-1]]] if s.about.get("beta") else []
    in_all = all("log_ratio" in x and "reward" in x["scores"] for x in pooled) and len({*map(frozenset, texts)}) == 1
    return in_all and all(0 <= p <= 1 for p in shares) and all(len(n) == 1 for n in lengths)


def read_sets(path: str | Path) -> list[TestSet]:
    """The test sets of an items.jsonl and what the models said to them. Raises UserError."""
    return read_items(path)[1]
