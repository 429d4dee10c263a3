"""Files that are never half written.

A reader that opens a file while we write it, or after we were killed, finds the old content or the
new, nothing in between. Proved by tests/harness/test_files.py.
"""

import gzip
import json
import os
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows, where nothing keeps two runs apart
    fcntl = None

FOREIGN = {  # how what is no text begins
    b"PK\3\4": "a zip archive or a spreadsheet", b"\xd0\xcf\x11\xe0": "an old spreadsheet or document",
    b"%PDF-": "a PDF", b"PAR1": "Parquet", b"ARROW1": "Arrow", b"SQLite format": "a database", b"BZh": "bzip2",
    b"\xfd7zXZ": "xz", b"(\xb5/\xfd": "zstandard", b"7z\xbc\xaf": "7-Zip", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16",
}  # fmt: skip
TEMPORARY = ".minirlhf.tmp"  # how a file's name ends while it is written


class UserError(Exception):
    """A mistake that the user can mend: one line that says what, where and the remedy."""


class Diverged(Exception):
    """Training ran into gradients that are not finite, several steps in a row."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM came, and what is needed to go on has been saved."""


def lock(file: IO) -> bool:
    """Take an open file for this process until it is closed, by a kill too; False where another has it."""
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks
    return True


def write_atomic(path: str | Path, data: bytes | Callable[[IO[bytes]], object]) -> None:
    """Write `data` to `path` through a temporary file in the same folder, flush, sync, rename.

    data: the bytes, or what writes them into the file that it is given, so that they need not be in memory at once.
    Makes the folder if it is missing and keeps the mode of a file that is replaced. On any exception the old file
    stands untouched and the temporary one is removed; those of killed writers are, too.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".*{TEMPORARY}"):
        with suppress(OSError), left.open("rb") as file:
            if lock(file):  # who wrote it is dead
                left.unlink()
    umask = os.umask(0)
    os.umask(umask)
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~umask
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=TEMPORARY, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            lock(file)
            data(file) if callable(data) else file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(temporary, mode)
            os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """What the system refuses within is a UserError that names the file."""
    try:
        yield
    except (OSError, ValueError) as error:  # the latter of a NUL in the path, or a map of an empty file
        raise UserError(f"{path}: {getattr(error, 'strerror', error)}") from None


def open_bytes(path: str | Path) -> IO[bytes]:
    """A file, open: the one way in. Raises UserError if it is missing, or no file that has an end."""
    with naming(path):
        if stat.S_IFMT(Path(path).stat().st_mode) not in (stat.S_IFREG, stat.S_IFDIR):  # opening refuses a folder
            raise UserError(f"{path}: a pipe, a socket or a device: save what it gives as a file, and name that")
        return open(path, "rb")


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a file. Raises UserError as `open_bytes` does."""
    with naming(path), open_bytes(path) as file:
        return file.read()


def read_text(path: str | Path) -> str:
    """The text of a file, unpacked if it is gzip. Raises UserError if it is missing, damaged, binary or not UTF-8."""
    try:
        data = read_bytes(path)
        data = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
        kinds = [kind for begin, kind in FOREIGN.items() if data.startswith(begin)] + ["binary"] * (b"\0" in data)
        if kinds:
            raise UserError(f"{path}: this is {kinds[0]}; save it as JSON lines, CSV or text in UTF-8, as gzip at most")
        text = data.decode("utf-8-sig")  # editors on Windows put a mark in front
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: damaged gzip: {error}; pack it again") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; convert the file to UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_object(text: str, where: str) -> dict:
    """The JSON object that a text is. Raises UserError, which says where."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # the latter of what is nested too deeply
        raise UserError(f"{where}: not JSON that can be read: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: a JSON object is wanted, this is a {type(value).__name__}")
    return value


def misfit(x, like, name: str = "it") -> str:
    """What of x is not as in `like`, an example of it; "" if all is.

    A dict needs the keys of its example, except those that end in "?"; the values under "*" are all alike. So are the
    entries of a list, unless its example has several. A tuple lists examples of which one suffices. A number is one
    of float32, a float may be an int, and a range is a bounded int.
    """
    if isinstance(like, tuple):
        return min((misfit(x, one, name) for one in like), key=len)
    if isinstance(like, dict | list):
        if not isinstance(x, type(like)) or isinstance(like, list) and 1 < len(like) != len(x):
            return name
        pairs = [(y, like[i % len(like)], f"{name}[{i}]") for i, y in enumerate(x)] if isinstance(like, list) else []
        for key, value in like.items() if isinstance(like, dict) else ():
            keys = x if key == "*" else [key.removesuffix("?")]
            pairs += [(x.get(k, ...), value, f"{name}.{k}") for k in keys if k in x or not key.endswith("?")]
        return next((found for pair in pairs if (found := misfit(*pair))), "")
    if isinstance(like, range):
        return "" if type(x) is int and x in like else name
    if isinstance(like, int | float) and type(x) in (int, type(like)):
        return "" if abs(x) <= 1e38 else name
    return "" if type(x) is type(like) else name


def read_json(path: str | Path, like: dict | None = None, remedy: str = "put back an undamaged copy") -> dict:
    """The JSON object in a file. Raises UserError if it is missing, not a JSON object, or not as in `like`."""
    found = parse_object(read_text(path), str(path))
    if wrong := misfit(found, like or {}).removeprefix("it."):
        raise UserError(f"{path}: damaged, {wrong} is missing or not what belongs there; {remedy}")
    return found


def writable(folder: str | Path) -> None:
    """Raises UserError for an --out that could not be written when the work is done."""
    there = next(path for path in (Path(folder), *Path(folder).absolute().parents) if os.path.lexists(path))
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"--out {folder}: {there} is no folder that can be written; choose another")


def write_json(path: Path, value: dict) -> None:
    """Write a JSON object, atomically."""
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))


def read_run(folder: str | Path, like: dict | None = None) -> dict:
    """run.json of a checkpoint, or {} where it has none (GPT-2 from elsewhere). Raises UserError."""
    path = Path(folder) / "run.json"
    return read_json(path, like, "train it again, or put back an undamaged copy") if path.exists() else {}


def can_resume(folder: Path) -> bool:
    """Whether a run there was stopped or finished. Raises UserError."""
    return (folder / "train_state.pt").exists() or "resume" in read_run(folder)
