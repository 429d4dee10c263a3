"""Judgements of closed studies, one row each, joined with what was shown and with whose answers these were.

Two models are numbered 0 and 1 the same way everywhere, whichever side they stood on and whatever a study
calls them. Proved by tests/annotation/test_rows.py.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from minirlhf.annotation.log import read_key, read_logs, read_study
from minirlhf.harness.files import UserError


@dataclass(frozen=True)
class Row:
    """What an annotator said of two answers."""

    study: str  # its hash
    annotator: str
    kind: str  # "pair", "duplicate" or "attention"
    item: str  # a duplicate has that of its pair
    prompt: str
    messages: list[dict] | None  # the turns of a conversation
    models: tuple[str, str]
    answers: tuple[str, str]
    left: int  # which of the two stood on the left
    good: int | None  # which is the right one in an attention item
    score: float  # of model 1: 1 if its answer was preferred, 0 if model 0's, 0.5 for a tie or "both bad"
    seconds: float


def read_rows(folder: str | Path, known: list[str]) -> tuple[list[Row], dict]:
    """What holds of a closed study, and its key. Model 0 is the earlier in `known`, which grows. Raises UserError."""
    folder = Path(folder)
    key, (study, name) = read_key(folder), read_study(folder)
    known += [model for model in key["models"] if model not in known]
    models = sorted(key["models"], key=known.index)
    number = {letter: models.index(model) for letter, model in zip("ab", key["models"])}
    rows = []
    for annotator, events in read_logs(folder).items():
        for event, shown, secret in zip(events, study["places"], key["places"]):
            if event["do"] == "skip":
                continue
            left = number[secret["left"]]
            texts = (shown["left"], shown["right"])
            rows.append(Row(
                name, annotator, secret["kind"], secret["item"], shown["prompt"], shown.get("messages"), tuple(models),
                texts if left == 0 else texts[::-1], left, number.get(secret.get("good")),
                {"left": float(left), "right": 1.0 - left}.get(event["do"], 0.5), event["seconds"],
            ))  # fmt: skip
    return rows, key


def read_studies(folders: Sequence[str]) -> tuple[list[Row], list[dict]]:
    """The rows of all studies, and what else is known about each study. Raises UserError.

    Who saw the same item in two of them counts once, by the first.
    """
    rows, studies, seen, known, first = [], [], {}, [], {}
    for folder in folders:
        own, key = read_rows(folder, known)
        if key["study"] in seen:
            raise UserError(f"{folder}: the same study as {seen[key['study']]}")
        seen[key["study"]] = folder
        rows += [r for r in own if first.setdefault((r.annotator, r.item, r.models), folder) == folder]
        about = {"folder": str(folder), "models": key["models"], "source": key.get("source", "")}
        studies.append(about | {"identical": key["identical"]})  # pairs that nobody saw; another study may hold them
    if not of_kind(rows, "pair"):
        raise UserError(f"{', '.join(folders)}: no pair was judged")
    return rows, studies


def grouped(rows: Sequence[Row], key: Callable[[Row], Hashable]) -> dict[Hashable, list[Row]]:
    """The rows under each key, in their order."""
    groups: dict[Hashable, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def of_kind(rows: Sequence[Row], kind: str) -> list[Row]:
    """The rows that are pairs, duplicates or attention items."""
    return [row for row in rows if row.kind == kind]


def decided(rows: Sequence[Row]) -> list[Row]:
    """The pairs in which one answer was preferred."""
    return [row for row in of_kind(rows, "pair") if row.score != 0.5]
