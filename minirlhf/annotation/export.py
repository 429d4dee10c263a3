"""Judgements as training data for a reward model: {"prompt", "chosen", "rejected", "p", "n", ...} a pair.

    W, T, L     annotators who preferred the one answer, neither, the other; each has one vote a pair
    hard        chosen is the majority's, n = W + L, p = W / n; dropped where W = L
    soft        n = W + T + L, p = (W + T/2) / n; nothing is dropped

A conversation stands there as `messages` instead of `prompt`. Disagreement is kept as p, so that
−p log σ(Δ) − (1 − p) log σ(−Δ) can be fitted instead of a certainty that nobody had. Attention items and
repeated pairs are not exported. A prompt is on one side, training or test, for good.
Proved by tests/annotation/test_export.py.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from minirlhf.annotation.pairs import shown_prompt
from minirlhf.annotation.trust import SCORE, of_kind
from minirlhf.harness.files import UserError, write_atomic
from minirlhf.lm.records import split_of

TEST = 20  # % of prompts


def preferences(rows: Sequence[dict], soft: bool) -> list[dict]:
    """One record for each different pair of answers that was judged, in the order of `rows`.

    rows: those of `log.results`, each with the "study" it is of; of annotators whose judgements count.
    """
    votes: dict[tuple, list[float]] = {}
    texts: dict[tuple, dict] = {}
    for row in of_kind(rows, "pair"):
        score = SCORE[row["choice"]]
        key = row["prompt"], *(row[k]["response"] for k in "ab")
        if (other := (key[0], key[2], key[1])) in votes:  # a second study had the models the other way round
            key, score = other, 1 - score
        votes.setdefault(key, []).append(score)
        texts.setdefault(key, row)
    records = []
    for key, scores in votes.items():
        counted = scores if soft else [s for s in scores if s != 0.5]
        p = sum(counted) / len(counted) if counted else 0.5
        if p == 0.5 and not soft:
            continue
        row = texts[key]
        chosen, rejected = (row["a"], row["b"]) if p >= 0.5 else (row["b"], row["a"])
        asked = next(k for k in ("messages", "prompt") if k in row)
        records.append({
            asked: row[asked], "chosen": chosen["response"], "rejected": rejected["response"],
            "p": max(p, 1 - p), "n": len(counted), "models": [chosen["model"], rejected["model"]],
            "study": row["study"],
        })  # fmt: skip
    return records


def is_test(prompt: str) -> bool:
    """Whether a prompt is for testing a reward model: TEST % are, by a hash of it.

    The hash is not that of the bare prompt, by which a trainer takes validation records from what is left: it
    would find none there.
    """
    return split_of(f"judged {prompt}", TEST) == "validation"


def write(path: str | Path, records: Sequence[dict]) -> tuple[Path, int, int]:
    """Training records to `path`, test records beside it to NAME.test.jsonl: that path, and both counts.

    Raises UserError, with old files as they were, if there is nothing to train on.
    """
    path = Path(path)
    test = path.with_suffix(f".test{path.suffix}")
    sides = [[r for r in records if is_test(shown_prompt(r)) == side] for side in (False, True)]
    if not sides[0]:
        why = "all prompts are test prompts" if sides[1] else "ties only, or nobody is left"
        raise UserError(f"{path}: nothing to train on: {why}; nothing is written")
    for place, part in zip((path, test), sides):
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in part)
        write_atomic(place, "".join(lines).encode("utf-8", "surrogatepass"))
    return test, *map(len, sides)
