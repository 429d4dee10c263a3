"""People compare two models' answers, blind, on one machine; no judgement is ever lost.

python -m minirlhf.tools.annotate make --set reviews   pairs of answers in out/eval -> out/judgements
python -m minirlhf.tools.annotate                      judge in the terminal, ssh included
python -m minirlhf.tools.annotate --serve              judge in the browser
python -m minirlhf.tools.annotate close                no more judgements
python -m minirlhf.tools.judgements                        which model is better: it opens a closed study alone

Stop whenever you like, the same command goes on. Several people judge one study at a time, each with a name
of their own (--annotator). Proved by tests/tools/test_annotate.py.
"""

import os
import select
import sys
import termios
import time
import tty
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import get_terminal_size

from minirlhf.annotation import log, pairs, study_files
from minirlhf.harness.files import UserError
from minirlhf.harness.loop import Interrupted
from minirlhf.harness.options import option, parse, run_script
from minirlhf.tools.annotate_page import Page

KEYS = {"a": "left", "b": "right", "t": "tie", "x": "bad", "s": "skip", "u": "undo"}
HELP = "a: A is better  b: B is better  t: tie  x: both bad  s: skip  u: undo  q: quit"
HASTE = 0.6  # seconds after an item or a key in which another key is a slip, or the same one held down


@dataclass(frozen=True)
class Annotation:
    """What to do."""

    action: str = option("judge", "make, judge or close", bare=True)
    study: str = option("out/judgements", "folder of the study")
    annotator: str = option("anonymous", "who judges; letters, digits, - and _")
    serve: bool = option(False, "judge in a browser on this machine instead of in the terminal")
    port: int = option(8765, "of the page; 0: any that is free", least=0)
    early: bool = option(False, "close although not everything is judged")


@dataclass(frozen=True)
class Making:
    """How to make a study."""

    items: str = option("out/eval/items.jsonl", "responses, as evaluate.py writes them")
    models: tuple[str, ...] = option(("sft", "ppo"), "the two models to compare, by their names there")
    set: str = option("", "the test set; none: the only one there is")
    pairs: int = option(100, "of answers to compare", least=1)
    question: str = option("Which answer is better?", "what the judges decide, in one sentence")
    seed: int = option(0, "decides which pairs, their order and their sides", least=0)


def make(options: Annotation, making: Making) -> None:
    """Write the study and say what is in it."""
    rows = pairs.read_responses(making.items)
    study, key = pairs.make(rows, making.models, making.set, making.pairs, making.question, making.seed)
    study_files.create(options.study, study, key | {"source": making.items})
    n = Counter(place["kind"] for place in key["places"])
    print(f"{options.study}: {study['pairs']} pairs of {' and '.join(making.models)}; "
          f"identical and counted as ties: {study['auto_ties']}")
    print(f"to judge: {len(key['places'])} items: {n['pair']} pairs; of them again, with sides swapped: "
          f"{n['duplicate']}; attention checks: {n['attention']}")


def harmless(text: str) -> str:
    """The text as a terminal may have it: what does not print, escape sequences above all, becomes �."""
    keep = "\n\u200c\u200d"  # joiners: Persian and Hindi spell with them
    return "".join(c if c.isprintable() or c in keep else " " if c.isspace() else "\ufffd" for c in text)


def cells(text: str) -> int:
    """Columns that it takes in a terminal: two a Chinese character, none an accent that stands by itself."""
    wide = (unicodedata.east_asian_width(c) in "WF" for c in text)
    return sum(0 if unicodedata.combining(c) else 1 + two for c, two in zip(text, wide))


def wrap(text: str, width: int) -> Iterator[str]:
    """Lines of at most `width` columns, cut behind a space, or inside a word where there is none."""
    for line in text.split("\n"):
        while cells(line) > width:
            end = next(i for i in range(len(line)) if cells(line[: i + 1]) > width)
            space = line.rfind(" ", 0, end + 1) + 1
            cut = space if space > end // 2 else max(end, 1)
            yield line[:cut].rstrip()
            line = line[cut:]
        yield line


def screen(item: dict, columns: int) -> str:
    """An item for the terminal. Each line of text stands behind a bar, so that no text can pose as ours."""
    width = min(columns, 100)
    head = f"{item['place'] + 1} of {item['total']}"
    lines = ["", f"── {head} {'─' * (width - len(head) - 4)}", harmless(item["question"])]
    for title, text in (("Prompt", item["prompt"]), ("A", item["left"]), ("B", item["right"])):
        shown = wrap(harmless(text), width - 4) if text.strip() else ["(empty)"]
        lines += ["", title, *(f"  │ {line}" for line in shown)]
    return "\n".join([*lines, "", HELP])


def read_key() -> str:
    """The next key from the terminal, as it is pressed; else the next line of standard input. q at its end.

    Several characters at once are an arrow key or a paste, neither of which is a judgement: they read as "".
    """
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.strip() if line else "q"
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)  # drops what was typed before
        typed = os.read(terminal, 1024)
        while select.select([terminal], [], [], 0.02)[0] and (more := os.read(terminal, 1024)):
            typed += more
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
    word = typed.decode("utf-8", "replace")
    return "q" if not typed or word == "\x04" else word if len(word) == 1 else ""


def judge(session: log.Session, key: Callable[[], str] = read_key) -> None:
    """Show items and take keys until q or the end of the study."""
    sys.stdout.reconfigure(errors="replace")  # a terminal that has no Chinese is no reason to stop
    while "left" in (item := session.item()):
        print(screen(item, get_terminal_size().columns))
        start = last = time.monotonic()
        while True:
            print("> ", end="", flush=True)
            pressed = key()
            print(pressed if pressed.isprintable() else "")
            now, before = time.monotonic(), last
            last = now
            if pressed == "q":
                print(farewell(session))
                return
            if now - before < HASTE and sys.stdin.isatty():
                print("too soon after the last key")
            elif pressed not in KEYS:
                print(HELP)
            elif pressed == "u" and item["place"] == 0:
                print("nothing to undo")
            else:
                break
        place = item["place"] - (pressed == "u")
        session.act(KEYS[pressed], place, now - start)
    print(f"\n{farewell(session)}")


def welcome(session: log.Session) -> str:
    """Whose list is judged, and from where: somebody else's would be spoilt unseen."""
    name, done, total = session.annotator, session.place, session.log.total
    if done == 0:
        return f"{name} begins at place 1 of {total}"
    return f"{name} goes on at place {done + 1} of {total}; somebody else gives another --annotator NAME"


def farewell(session: log.Session) -> str:
    """Where the annotator stands."""
    done, total = session.place, session.log.total
    rest = "that was all" if done == total else "the same command goes on"
    return f"{session.annotator}: {done} of {total} judged, all saved; {rest}"


def serve(session: log.Session, port: int) -> None:
    """Serve the page until Ctrl-C."""
    try:
        page = Page(session, port)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", error)
        raise UserError(f"--port {port}: {why}; --port 0 takes any that is free") from None
    with page:
        print(page.address)
        print("Open this address in a browser on this machine. Ctrl-C ends; nothing is lost.", flush=True)
        try:
            page.serve_forever()
        except KeyboardInterrupt:
            print(f"\n{farewell(session)}")


def main() -> None:
    """Make, judge or close."""
    options, making = parse(__doc__.splitlines()[0], Annotation, Making)
    if options.action == "make":
        make(options, making)
    elif options.action == "close":
        done = log.close(options.study, options.early)
        who = ", ".join(f"{name} {n}" for name, n in sorted(done.items()))
        print(f"{options.study}: closed; judged: {who or 'nothing'}")
        print(f"what it says: python -m minirlhf.tools.judgements {options.study}")
    elif options.action == "judge":
        with log.Session(options.study, options.annotator) as session:
            if session.log.torn:
                print(f"{session.log.torn} bytes of a line that a kill had cut off are now in "
                      f"{Path(options.study) / 'log.torn'}")
            if session.place < session.log.total:
                print(welcome(session), flush=True)
            if options.serve:
                serve(session, options.port)
                return
            try:
                judge(session)
            except KeyboardInterrupt:
                raise Interrupted(f"interrupted; {farewell(session)}") from None
    else:
        raise UserError(f"no action {options.action}: make, judge or close")


if __name__ == "__main__":
    run_script(main)
