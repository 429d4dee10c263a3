"""The two files that make a study of people's judgements, written once and only read from then on.

    study.json   the question, and at each place a prompt, a left and a right answer: all that a judge sees
    key.json     which model stands on which side, and which places are checks: shut until the study is closed

key.json holds the hash of study.json, as every line of log.jsonl does (log.py): they do not mix with
those of another study. Proved by tests/annotation/test_log.py.
"""

import json
from hashlib import sha256
from pathlib import Path

from minirlhf.harness.files import UserError, write_atomic

VERSION = 1  # of study.json, key.json and the lines of log.jsonl
STUDY = {"question": "", "auto_ties": 0, "places": [{"prompt": "", "left": "", "right": ""}]}
KEY = {"study": "", "models": [""], "places": [{"item": "", "kind": "", "left": ""}]}


def create(folder: str | Path, study: dict, key: dict) -> None:
    """Write a new study. study.json comes last: a folder without it, or judgements, can be written again.

    study: {"question", "pairs", "auto_ties", "places": [{"prompt", "left", "right", perhaps "messages"}]}.
    key: {"models": [name of a, name of b], "places": [{"item", "kind", "left": "a" or "b", "good"}],
    "identical": [item]}. Raises UserError if there is one.
    """
    folder = Path(folder)
    if (folder / "study.json").exists():
        raise UserError(f"{folder}: holds a study already; choose another folder with --study")
    log = folder / "log.jsonl"
    if log.exists() and log.stat().st_size:
        raise UserError(f"{log}: holds judgements; put their study.json back, or choose another --study")
    data = json.dumps({"version": VERSION} | study, indent=1).encode()
    lock = {"version": VERSION, "study": study_hash(data)}
    write_atomic(folder / "key.json", json.dumps(lock | key, indent=1).encode())
    write_atomic(log, b"")
    write_atomic(folder / "study.json", data)


def study_hash(data: bytes) -> str:
    """What tells the study with this study.json from all others."""
    return sha256(data).hexdigest()[:16]


def read_json(path: Path, like: dict, remedy: str) -> tuple[dict, bytes]:
    """study.json or key.json, which has all that STUDY or KEY has, and its bytes. Raises UserError."""
    try:
        data = path.read_bytes()
        content = json.loads(data)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {remedy}") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise UserError(f"{path}: not a study of version {VERSION}, the one that this program knows")
    if not has(content, like):
        raise UserError(f"{path}: damaged, it needs {', '.join(like)}; put back an undamaged copy")
    return content, data


def has(x, like) -> bool:
    """Whether x is of like's type; a dict has its keys, and every entry of a list is as its first."""
    if isinstance(like, dict):
        return isinstance(x, dict) and all(k in x and has(x[k], v) for k, v in like.items())
    return type(x) is type(like) and (not isinstance(like, list) or all(has(y, like[0]) for y in x))
