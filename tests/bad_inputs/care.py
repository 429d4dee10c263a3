"""A folder that is spoilt and made good again, and commands that may take a little time and memory and no more."""

import os
import re
import resource
import shlex
import shutil
import signal
import stat
import sys
from contextlib import contextmanager
from pathlib import Path

from bad_inputs.table import FOLDER, GONE, LOOP, PIPE

SECONDS, WAIT = 5, 15  # of the processor, and on the clock: the machine may be busy
MEMORY = 2**30  # bytes beyond what the process has
READ: dict[tuple, bytes] = {}  # files as they were when their time and place was this: nothing is read twice
BAR = re.compile(r"\S+: +\d+%\|.*")  # a line of a progress bar


class TooSlow(BaseException):
    """Not an Exception, which a script may catch."""


def contents(folder: Path) -> dict[str, object]:
    """What is in a folder: path -> the bytes of a file, or what else stands there."""
    found, start = {}, len(str(folder)) + 1
    if len(READ) > 1000:
        READ.clear()
    for top, folders, files in os.walk(folder):
        for path in (f"{top}/{name}" for name in (*folders, *files)):
            now = os.lstat(path)
            mode, known = now.st_mode, (path, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
            if stat.S_ISREG(mode):
                READ[known] = found[path[start:]] = READ.get(known) or Path(path).read_bytes()
            else:
                found[path[start:]] = "folder" if stat.S_ISDIR(mode) else f"{stat.S_IFMT(mode):o}"
    return found


def remove(path: Path) -> None:
    """Whatever stands there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def put(path: Path, data: bytes) -> None:
    """Write a file, or one of the things that are none."""
    remove(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if data == FOLDER:
        path.mkdir()
    elif data == PIPE:
        os.mkfifo(path)
    elif data == LOOP:
        path.symlink_to(path.name)
    elif data != GONE:
        path.write_bytes(data)


def restore(folder: Path, before: dict[str, object]) -> None:
    """Make the folder what it was."""
    now = contents(folder)
    for name in now:
        if now[name] != before.get(name):
            remove(folder / name)
    for name, content in before.items():
        if content == "folder":
            (folder / name).mkdir(exist_ok=True)
        elif not (folder / name).exists():
            (folder / name).write_bytes(content)


@contextmanager
def limits():
    """Time and memory for one command."""

    def stop(*_):
        raise TooSlow(f"not done in {SECONDS} s of the processor or {WAIT} s on the clock")

    timers = {signal.ITIMER_PROF: (signal.SIGPROF, SECONDS), signal.ITIMER_REAL: (signal.SIGALRM, WAIT)}
    most = resource.getrlimit(resource.RLIMIT_AS)
    before = {number: signal.signal(number, stop) for number, _ in timers.values()}
    if sys.platform == "linux":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, most[1]))
    for timer, (_, seconds) in timers.items():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
        resource.setrlimit(resource.RLIMIT_AS, most)


def said_on(err: str) -> list[str]:
    """The lines on stderr without those of progress bars."""
    lines = (text.strip() for text in err.replace("\r", "\n").split("\n"))
    return [text for text in lines if text and not BAR.fullmatch(text)]


def complaints(command: str, status: int, err: str, before: dict, after: dict, says: tuple[str, ...] = ()) -> list[str]:
    """What is promised of a bad input, and is not so. says: words that the line holds, whatever their case."""
    lines = said_on(err)
    said, name = lines[0] if lines else "", shlex.split(command)[0].removesuffix(".py")
    wrong = {
        f"exit status {status}": status != 2,
        f"{len(lines)} lines": len(lines) != 1,
        "does not begin with the script's name": not said.startswith(f"{name}.py: "),
        f"a line of {len(said)} characters": len(said) > 500,
        "not all can be seen": not said.isprintable(),
        "a traceback": "Traceback" in err,
        "files changed or lost": [path for path in before if after.get(path) != before[path]],
        "temporary files left behind": [path for path in after if path.endswith(".tmp")],
    }
    wrong |= {f"does not say {word!r}": word.lower() not in said.lower() for word in says}
    return [what if isinstance(bad, bool) else f"{what}: {bad}" for what, bad in wrong.items() if bad]
