"""People's judgements, of which none is lost: a study's folder, each judge's log, and the judgements that hold.

    study.json   all that a judge sees: the question, a rubric, and at each place a prompt, a left and a right answer
    key.json     which model stands on which side, and which places are checks; secret until the study is closed
    NAME.log     what annotator NAME did, one line of JSON per event, synced before the next item is shown
    closed       exists when the study takes no more judgements

An event is `left`, `right`, `tie`, `bad` or `skip` at a place, or `undo`, which takes back the last one. Everybody
judges the places in their order, so the judgements that hold are a list: an undo pops. The hash of study.json stands
in key.json and in the first line of every log, so that studies do not mix. A log has one writer, the session that
holds its lock. A killed process may leave part of a line: the page sends that event again.
Proved by tests/annotation/test_log.py.
"""

import errno
import json
import os
import re
import secrets
import time
from hashlib import sha256
from io import FileIO
from pathlib import Path

from minirlhf.harness.files import UserError, lock, misfit, parse_object, read_bytes, read_json, write_atomic

VERSION = 3  # of study.json and key.json
# What each file or line must have, by an example.
TURN = {"role": "", "content": ""}
STUDY = {"question": "", "rubric?": "", "places": [{"prompt": "", "left": "", "right": "", "messages?": [TURN]}]}
PLACE = {"item": "", "kind": "", "left": "", "good?": ("", None)}
KEY = {"study": "", "models": [""], "identical": {"*": ""}, "source?": "", "places": [PLACE]}
FIRST = {"study": "", "token": ""}
EVENT = {"event": "", "do": "", "place": 0, "seconds": 0.0}
ACTIONS = ("left", "right", "tie", "bad", "skip")
LONGEST = 1e9  # seconds that a judgement may take: thirty years


class Stale(Exception):
    """The event is about a place whose turn it is not."""


class Closed(UserError):
    """The study takes no more judgements."""


def create(folder: str | Path, study: dict, key: dict) -> None:
    """Write a new study. study.json comes last: a folder without it and without judgements can be written again.

    study: as STUDY.  key: as KEY; models: names of a and b; left, good: "a" or "b"; identical: item ->
    prompt.
    Raises UserError if the folder holds a study or judgements already.
    """
    folder = Path(folder)
    if (folder / "study.json").exists():
        raise UserError(f"{folder}: holds a study already; choose another folder with --study")
    if logs := sorted(folder.glob("*.log")):
        raise UserError(f"{logs[0]}: holds judgements; put their study.json back, or choose another --study")
    data = json.dumps({"version": VERSION} | study, indent=1).encode()
    about = {"version": VERSION, "study": study_hash(data)}
    write_atomic(folder / "key.json", json.dumps(about | key, indent=1).encode())
    write_atomic(folder / "study.json", data)


def study_hash(data: bytes) -> str:
    """A hash of study.json, which tells its study from all others."""
    return sha256(data).hexdigest()[:16]


def read_part(path: Path, like: dict, remedy: str) -> dict:
    """The content of study.json or key.json, with all that `like` (STUDY or KEY) has. Raises UserError."""
    if not path.exists():
        raise UserError(f"{path}: no such file; {remedy}")
    if read_json(path).get("version") != VERSION:
        raise UserError(f"{path}: not a study of version {VERSION}, which is all that this program reads")
    return read_json(path, like)


def read_study(folder: Path) -> tuple[dict, str]:
    """study.json and its hash. Raises UserError."""
    remedy = "make a study first (python -m minirlhf.tools.annotate make), or name its folder"
    return read_part(folder / "study.json", STUDY, remedy), study_hash((folder / "study.json").read_bytes())


def read_event(data: bytes) -> dict:
    """The event in a line of a log, or in what a page sent. Raises ValueError with the reason if it holds none."""
    try:
        event = parse_object(data.decode(), "event")
    except (ValueError, UserError):
        raise ValueError("not a JSON object") from None
    if misfit(event, EVENT) or not 0 <= event["seconds"] < LONGEST:
        raise ValueError(f"not an event; it needs {', '.join(EVENT)}")
    if event["do"] not in (*ACTIONS, "undo"):
        raise ValueError(f"{event['do']!r} is no action of an annotator")
    return event


def follow(judged: list[dict], event: dict, total: int) -> list[dict]:
    """The judgements that hold after the event.  judged: those before it. Raises Stale if it cannot come next."""
    undo = event["do"] == "undo"
    if event["place"] != len(judged) - undo or not 0 <= event["place"] < total:
        raise Stale(f"{event['do']} of place {event['place']}, but it is the turn of place {len(judged)}")
    return judged[:-1] if undo else [*judged, event]


def replay(path: Path, study: str, total: int) -> tuple[str, list[dict], set[str]]:
    """A log's token, the events that hold at places 0, 1, ..., all events' ids. Raises UserError with the line."""
    lines = read_bytes(path).split(b"\n")[:-1]
    if not lines:  # its first process died before the first line was complete
        return "", [], set()
    try:
        first = parse_object(lines[0].decode(), str(path))
    except (ValueError, UserError):
        first = {}
    if misfit(first, FIRST) or first["study"] != study:
        raise UserError(f"{path}, line 1: not a log of study {study}, the one here; studies do not mix")
    judged, ids = [], set()
    for number, line in enumerate(lines[1:], 2):
        try:
            event = read_event(line)
            judged = follow(judged, event, total)
        except (ValueError, Stale) as error:
            raise UserError(f"{path}, line {number}: {error}; put back an undamaged copy of the log") from None
        ids.add(event["event"])
    return first["token"], judged, ids


def read_logs(folder: Path) -> dict[str, list[dict]]:
    """Annotator -> the events that hold at places 0, 1, ... Raises UserError."""
    study, name = read_study(folder)
    return {path.stem: replay(path, name, len(study["places"]))[1] for path in sorted(folder.glob("*.log"))}


class Session:
    """One annotator at work on a study. A name has one session at a time.

    judged: the events that hold at places 0, 1, ...
    token: random. It stays the same when this annotator goes on, so that an open page finds its server again.
    Raises UserError for a name that is not allowed or that another session uses, and Closed for a closed study.
    """

    def __init__(self, folder: str | Path, annotator: str) -> None:
        if not re.fullmatch(r"[\w-]{1,40}", annotator):
            raise UserError(f"--annotator {annotator}: at most 40 letters, digits, - and _")
        self.annotator, self.path = annotator, Path(folder) / f"{annotator}.log"
        self.study, name = read_study(Path(folder))
        check_open(Path(folder))
        self.total = len(self.study["places"])
        self._file = FileIO(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+")
        if not lock(self._file):  # the kernel releases it when this process dies
            self._file.close()
            raise UserError(f"{annotator} is judging already, in another window: end that session, "
                            "or give another --annotator")
        data = read_bytes(self.path)
        self._size = data.rfind(b"\n") + 1  # of the file, in bytes
        self._file.truncate(self._size)  # an incomplete last line comes from a process that died
        os.fsync(self._file.fileno())  # it may also have died before a sync
        if not self._size:
            self._write({"study": name, "token": secrets.token_urlsafe(24)})
        self.token, self.judged, self._ids = replay(self.path, name, self.total)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()

    @property
    def place(self) -> int:
        """The place whose turn it is, which is the number of places done."""
        return len(self.judged)

    def item(self) -> dict:
        """Annotator, place, total, question, perhaps rubric; prompt, left, right unless all is done. Raises Closed."""
        check_open(self.path.parent)
        head = {"annotator": self.annotator, "place": self.place, "total": self.total}
        head |= {key: self.study[key] for key in ("question", "rubric") if key == "question" or self.study.get(key)}
        return head | (self.study["places"][self.place] if self.place < self.total else {})

    def act(self, do: str, place: int, seconds: float = 0.0, event: str = "") -> None:
        """Judge or skip the item shown, after `seconds`, or undo the last one. It is on disk when this returns.

        event: an id; a second call with it does nothing. Raises Stale; Closed; UserError for a log that was moved
        or changed; OSError (a full disk), and leaves the log as it was.
        """
        if event in self._ids:
            return
        check_open(self.path.parent)
        entry = {"event": event or secrets.token_hex(8), "do": do, "place": place}
        entry |= {"seconds": round(seconds, 3), "time": round(time.time(), 3)}
        judged = follow(self.judged, entry, self.total)
        ours = os.fstat(self._file.fileno())
        if not self.path.exists() or not os.path.samestat(ours, self.path.stat()) or ours.st_size != self._size:
            raise UserError(f"{self.path}: is gone, or another program has changed it; put it back as it was: "
                            "it holds the judgements")
        self._write(entry)
        self.judged = judged
        self._ids.add(entry["event"])

    def _write(self, entry: dict) -> None:
        """Append a line to the log, complete and on disk. On OSError nothing is appended."""
        line = json.dumps(entry).encode() + b"\n"
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(self._size)
            raise
        self._size += len(line)


def check_open(folder: Path) -> None:
    """Raises Closed if the study is closed."""
    if (folder / "closed").exists():
        raise Closed("the study is closed: it takes no more judgements")


def close(folder: str | Path, early: bool = False) -> dict[str, int]:
    """End the study; unless `early`, all must have finished. Returns annotator -> places done. Raises UserError."""
    folder = Path(folder)
    study, _ = read_study(folder)
    check_open(folder)
    total = len(study["places"])
    done = {name: len(judged) for name, judged in read_logs(folder).items() if judged}
    unfinished = [f"{name} has judged {n} of {total}" for name, n in done.items() if n < total]
    unfinished += [] if done else ["nobody has judged anything"]
    if unfinished and not early:
        raise UserError(f"{unfinished[0]}; to close for good all the same, add --early")
    write_atomic(folder / "closed", b"")
    return done


def read_key(folder: Path) -> dict:
    """key.json of a study that is closed. Raises UserError."""
    study, name = read_study(folder)
    if not (folder / "closed").exists():
        raise UserError(f"{folder}: not closed; names stay hidden until `annotate close` ends the study")
    path = folder / "key.json"
    key = read_part(path, KEY, "put it back: nothing else knows which answer is whose")
    if key["study"] != name:
        raise UserError(f"{path}: is the key of study {key['study']}, but this study is {name}")
    models, sides = key["models"], {place["left"] for place in key["places"]}
    fits = len({*models}) == len(models) == 2 and len(key["places"]) == len(study["places"])
    if not fits or not sides <= {"a", "b"}:
        raise UserError(f"{path}: damaged, it does not fit study.json; put back an undamaged copy")
    return key
