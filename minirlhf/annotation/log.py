"""Judgements of people, of which none is lost: a study's folder, its event log, and what the log says now.

    study.json   what a judge sees, place by place                       (study_files.py)
    key.json     what nobody sees until the study is closed: whose answers these are
    log.jsonl    one event a line, appended and synced before the next item is shown
    log.torn     what a killed process left of a line: set aside, never parsed
    NAME.lock    held by the one session of annotator NAME

Events are `left`, `right`, `tie`, `bad` and `skip` of a place, `undo`, which takes back the last of them, and
`close`. Everybody judges the places in their order, so what holds after a log is a list for each annotator:
a judgement of place n is the next to append where n is its length, an undo pops. Every line carries the hash
of study.json: a log speaks of one study only. Proved by tests/annotation/test_log.py.
"""

import errno
import fcntl
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from minirlhf.annotation.study_files import KEY, STUDY, VERSION, read_json, study_hash
from minirlhf.harness.files import UserError

CHOICES = ("left", "right", "tie", "bad", "skip")


class Stale(Exception):
    """The event is about another place than the one whose turn it is."""


class Closed(UserError):
    """The study takes no more judgements."""


class State:
    """What the events so far amount to."""

    def __init__(self) -> None:
        self.judged: dict[str, list[dict]] = {}  # annotator -> the event that holds at place 0, 1, ...
        self.ids: set[str] = set()
        self.closed = False

    def check(self, event: dict, total: int) -> None:
        """Raises Closed, or Stale, if the event cannot come next."""
        if self.closed:
            raise Closed("the study is closed: it takes no more judgements")
        done = len(self.judged.get(event["annotator"], []))
        if event["do"] == "undo":
            fits = event["place"] == done - 1 >= 0
        else:
            fits = event["do"] == "close" or event["place"] == done < total
        if not fits:
            raise Stale(f"{event['do']} of place {event['place']}, it is the turn of {done}")

    def take(self, event: dict) -> None:
        """Make one that was checked part of the state."""
        self.ids.add(event["event"])
        self.closed = event["do"] == "close"
        if event["do"] == "undo":
            self.judged[event["annotator"]].pop()
        elif event["do"] in CHOICES:
            self.judged.setdefault(event["annotator"], []).append(event)


class Log:
    """log.jsonl of a study, which several processes may append to at once.

    torn: bytes of torn lines set aside by this object.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "log.jsonl"
        remedy = "make a study first (python -m minirlhf.tools.annotate make), or name its folder"
        self.study, data = read_json(self.folder / "study.json", STUDY, remedy)
        self.hash, self.total = study_hash(data), len(self.study["places"])
        self.state, self.torn = State(), 0
        self._offset = self._lines = 0  # of the file: how much of it the state knows
        self.refresh()

    def refresh(self) -> None:
        """Take in what other processes have written. Raises UserError for a log that is not of this study."""
        with self._open():
            pass

    def append(self, event: dict) -> None:
        """Write an event; when this returns, it is on the disk. One whose id stands there changes nothing.

        Raises Stale, Closed; and OSError (a full disk) with the log as it was before.
        """
        with self._open() as file:
            if event["event"] in self.state.ids:
                return
            self.state.check(event, self.total)
            line = json.dumps({"version": VERSION, "study": self.hash} | event).encode() + b"\n"
            try:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(self._offset)
                raise
            self.state.take(event)
            self._offset, self._lines = self._offset + len(line), self._lines + 1

    @contextmanager
    def _open(self) -> Iterator[FileIO]:
        """The log, locked against other processes, with every whole line taken in and a torn one set aside.

        Opened anew each time: a log that was moved away is noticed, and not written to unseen.
        """
        try:
            file = FileIO(os.open(self.path, os.O_RDWR | os.O_APPEND), "r+")
        except FileNotFoundError:
            raise UserError(f"{self.path}: is gone; put it back, it holds the judgements") from None
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)  # the kernel lets go of it when we die
            if file.seek(0, os.SEEK_END) < self._offset:
                raise UserError(f"{self.path}: has lost lines since it was read; put back the whole file")
            file.seek(self._offset)
            data = file.readall()
            end = data.rfind(b"\n") + 1
            if tail := data[end:]:  # who wrote this held the lock and died before the line was whole
                with (self.folder / "log.torn").open("ab") as torn:
                    torn.write(tail + b"\n")
                    torn.flush()
                    os.fsync(torn.fileno())  # in there before it leaves the log
                file.truncate(self._offset + end)
                self.torn += len(tail)
            if data:  # or died before it was synced
                os.fsync(file.fileno())
            for line in data[:end].split(b"\n")[:-1]:
                self._take(line)
            yield file

    def _take(self, line: bytes) -> None:
        """Check a line of the log and make it part of the state. Raises UserError."""
        where = f"{self.path}, line {self._lines + 1}"
        try:
            event = json.loads(line)
        except ValueError:
            raise UserError(f"{where}: not JSON; put back an undamaged copy of the log") from None
        wanted = {"event": str, "annotator": str, "do": str, "place": int, "seconds": (int, float)}
        if not isinstance(event, dict) or event.get("version") != VERSION:
            raise UserError(f"{where}: not an event of version {VERSION}, the one that this program knows")
        if not all(isinstance(event.get(k), t) for k, t in wanted.items()):
            raise UserError(f"{where}: not an event; it needs {', '.join(wanted)}")
        if event.get("study") != self.hash:
            raise UserError(f"{where}: of study {event.get('study')}, this is {self.hash}; they do not mix")
        if event["do"] not in (*CHOICES, "undo", "close"):
            raise UserError(f"{where}: {event['do']!r} is nothing that an annotator does")
        if event["event"] not in self.state.ids:
            try:
                self.state.check(event, self.total)
            except (Stale, Closed) as error:
                raise UserError(f"{where}: cannot follow the lines before it: {error}") from None
            self.state.take(event)
        self._offset, self._lines = self._offset + len(line) + 1, self._lines + 1


class Session:
    """One annotator at work on a study: there is one at a time of each name.

    token: random, and the same whenever this annotator goes on, so that an open page finds its server again.
    Raises UserError for a name that cannot be one of a file, and while another session has it.
    """

    def __init__(self, folder: str | Path, annotator: str) -> None:
        if not re.fullmatch(r"[\w-]{1,40}", annotator):
            raise UserError(f"--annotator {annotator}: at most 40 letters, digits, - and _")
        self.annotator, self.log = annotator, Log(folder)
        path = self.log.folder / f"{annotator}.lock"
        self._lock = FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise UserError(f"{annotator} is judging already, in another window: end that session, "
                            "or give another --annotator") from None
        self.token = self._lock.readall().decode("ascii", "replace")
        if not re.fullmatch(r"[\w-]{32}", self.token, re.ASCII):
            self.token = secrets.token_urlsafe(24)
            self._lock.truncate(0)
            self._lock.seek(0)
            self._lock.write(self.token.encode())

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *exception) -> None:
        self._lock.close()

    @property
    def place(self) -> int:
        """The place whose turn it is, which is how many are done."""
        return len(self.log.state.judged.get(self.annotator, []))

    def item(self) -> dict:
        """Annotator, place, total, question; prompt, left and right unless all is done. Raises Closed."""
        self.log.refresh()
        if self.log.state.closed:
            raise Closed("the study is closed: it takes no more judgements")
        head = {"annotator": self.annotator, "place": self.place, "total": self.log.total}
        head["question"] = self.log.study["question"]
        return head | (self.log.study["places"][self.place] if self.place < self.log.total else {})

    def act(self, do: str, place: int, seconds: float = 0.0, event: str = "") -> None:
        """Judge or skip the item shown, after `seconds`, or undo the one before it; saved when this returns.

        event: an id; a second call with it does nothing. Raises Stale, Closed, OSError.
        """
        self.log.append(new_event(self.annotator, do, place, seconds, event))


def new_event(annotator: str, do: str, place: int, seconds: float, event: str = "") -> dict:
    """A line of the log, but for what all lines of it have."""
    times = {"seconds": round(seconds, 3), "time": round(time.time(), 3)}
    return {"event": event or secrets.token_hex(8), "annotator": annotator, "do": do, "place": place} | times


def close(folder: str | Path, early: bool = False) -> dict[str, int]:
    """End the study: no judgement is taken any more, and the key may be read. Annotator -> places done.

    Raises UserError if it is closed, and, unless `early`, while somebody has not finished.
    """
    log = Log(folder)
    done = {name: len(events) for name, events in log.state.judged.items() if events}
    unfinished = [f"{name} has judged {n} of {log.total}" for name, n in done.items() if n < log.total]
    unfinished += [] if done else ["nobody has judged anything"]
    if unfinished and not early and not log.state.closed:
        raise UserError(f"{unfinished[0]}; to close for good all the same, add --early")
    log.append(new_event("", "close", -1, 0.0))
    return done


def read_key(log: "Log") -> dict:
    """The key of a study that is closed. Raises UserError."""
    if not log.state.closed:
        why = "names stay hidden until annotate close has ended the study"
        raise UserError(f"{log.folder}: not closed; {why}")
    path = log.folder / "key.json"
    key, _ = read_json(path, KEY, "put it back: nothing else knows which answer is whose")
    if key["study"] != log.hash:
        raise UserError(f"{path}: is the key of study {key['study']}, this is {log.hash}")
    sides = {place["left"] for place in key["places"]}
    if len(key["models"]) != 2 or len(key["places"]) != log.total or not sides <= {"a", "b"}:
        raise UserError(f"{path}: damaged, it does not fit study.json; put back an undamaged copy")
    return key


def results(folder: str | Path) -> list[dict]:
    """The judgements that hold, skipped places left out, with the models' names. UserError before close.

    Each is {"item", "prompt", perhaps "messages", "annotator", "kind": "pair", "duplicate" or "attention",
    "a" and "b": {"model", "response"}, "left": which of them stood there, "choice": "a", "b", "tie" or "bad",
    "seconds", "good": the right answer to an attention item, else None}. a and b are the study's models,
    whatever their side. A duplicate has the item id of its original.
    """
    log = Log(folder)
    key = read_key(log)
    model, rows = dict(zip("ab", key["models"])), []
    for annotator, events in sorted(log.state.judged.items()):
        for event, shown, secret in zip(events, log.study["places"], key["places"]):
            if event["do"] == "skip":
                continue
            on = {"left": secret["left"], "right": "b" if secret["left"] == "a" else "a"}
            asked = {k: shown[k] for k in ("prompt", "messages") if k in shown}
            row = asked | {"annotator": annotator, "seconds": event["seconds"]} | secret
            row |= {name: {"model": model[name], "response": shown[side]} for side, name in on.items()}
            rows.append(row | {"choice": on.get(event["do"], event["do"])})
    return rows
