"""Judgements as training data for a reward model: {"prompt", "chosen", "rejected", "p", "n", ...} per pair.

    W, L    votes for the one answer, and for the other: one per annotator and pair; ties do not count
    chosen  the majority's answer; n = W + L, p = W / n; a pair with W = L is dropped

A conversation has `messages` instead of `prompt`. The disagreement is kept as p, for the loss of
`preferences/train_reward.py`. Attention items and repeated pairs are not exported. A prompt is on one side, training
or test, for good. Proved by tests/annotation/test_export.py.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from minirlhf.annotation.pairs import shown_prompt
from minirlhf.annotation.rows import Row, decided, grouped
from minirlhf.harness.files import UserError, write_atomic
from minirlhf.lm.records import validation_split

TEST = 20  # % of prompts


def preferences(rows: Sequence[Row]) -> list[dict]:
    """One record per different pair of answers that has a majority.  rows: those of annotators who count."""
    records = []
    for group in grouped(decided(rows), lambda row: (row.prompt, row.answers)).values():
        row, n = group[0], len(group)
        p = sum(x.score for x in group) / n
        if p == 0.5:
            continue
        chosen = int(p > 0.5)
        asked = {"messages": row.messages} if row.messages else {"prompt": row.prompt}
        records.append(asked | {
            "chosen": row.answers[chosen], "rejected": row.answers[1 - chosen], "p": max(p, 1 - p), "n": n,
            "models": [row.models[chosen], row.models[1 - chosen]], "study": row.study,
        })  # fmt: skip
    return records


def is_test(prompt: str) -> bool:
    """Whether a prompt is for testing a reward model. A hash of the prompt chooses TEST % of them.

    A trainer takes validation records from the rest by a hash of the bare prompt: with that one it would find none.
    """
    return validation_split(f"judged {prompt}", TEST) == "validation"


def write_train_and_test(path: str | Path, records: Sequence[dict]) -> tuple[Path, int, int]:
    """Write records to `path` and NAME.test.jsonl, whose path is returned with both counts. Raises UserError."""
    path = Path(path)
    test = path.with_suffix(f".test{path.suffix}")
    sides = [[r for r in records if is_test(shown_prompt(r)) == side] for side in (False, True)]
    if not sides[0]:
        why = "all prompts are test prompts" if sides[1] else "ties only, or nobody is left"
        raise UserError(f"{path}: nothing to train on: {why}; nothing is written")
    for place, part in zip((path, test), sides):
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in part)
        write_atomic(place, "".join(lines).encode("utf-8", "backslashreplace"))
    return test, *map(len, sides)
