"""Functions of the user's: where they fail, how long they take, and what they may not change for the whole process.

Proved by tests/harness/test_user_code.py.
"""

import inspect
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from numbers import Real
from threading import Thread
from traceback import extract_tb

import numpy as np
import torch

from minirlhf.harness.options import fail

STATES = (  # how each is read and set
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_default_device, lambda device: torch.set_default_device(None if device.type == "cpu" else device)),
    (torch.is_grad_enabled, torch.set_grad_enabled), (torch.get_num_threads, torch.set_num_threads),
    (os.getcwd, os.chdir), (np.geterr, lambda kinds: np.seterr(**kinds)),
)  # fmt: skip


class Open:
    """A stream, or its buffer, that can be neither closed nor detached."""

    def __init__(self, stream) -> None:
        self._stream = stream

    def __getattr__(self, name: str):
        kept = {"close": lambda: None, "detach": lambda: self.buffer}
        found = kept.get(name) or getattr(self._stream, name)
        return Open(found) if name == "buffer" else found


@contextmanager
def undisturbed() -> Iterator[None]:
    """User code within cannot close stdout and stderr, and STATES are put back behind it."""
    before = [get() for get, _ in STATES]
    with redirect_stdout(Open(sys.stdout)), redirect_stderr(Open(sys.stderr)):
        try:
            yield
        finally:
            for (get, put), old in zip(STATES, before):
                if get() != old:
                    put(old)


def place_of(function: Callable, error: BaseException | None = None) -> str:
    """`place_in` the function's own file; where no error went through it, of its beginning."""
    function = inspect.unwrap(getattr(function, "func", function))  # func: of a functools.partial
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    if code is None:  # written in C
        return repr(function)
    return place_in(code.co_filename, error, code.co_firstlineno)


def place_in(file: str, error: BaseException | None, line: int) -> str:
    """FILE:LINE, of the line in that file through which the error went last; else of that given."""
    lines = [f.lineno for f in extract_tb(error and error.__traceback__) if f.filename == file]
    return f"{file}:{[line, *lines][-1]}"


def parameters_of(function: Callable) -> list[str]:
    """The names of its parameters; none where they are not told, as of some functions written in C."""
    with suppress(ValueError):
        return list(inspect.signature(function).parameters)
    return []


def number(value) -> float | None:
    """A finite float32 number of Python, numpy or torch as a float; None of anything else."""
    with suppress(Exception):  # several numbers are no item
        value = value.item() if hasattr(value, "item") else value
    return float(value) if isinstance(value, Real) and abs(value) <= torch.finfo(torch.float32).max else None


def shown(value: object, how: Callable = repr, most: int = 60) -> str:
    """The first characters of what a user's object says of itself, which may raise."""
    with suppress(Exception):
        return how(value)[:most]
    return "no word"


def call_each(call: Callable, parts: Sequence, threads: int, seconds: float, overdue: Callable) -> list:
    """call(part) of each, `threads` at once. Raises what a call raises, and overdue(part) of one that takes too long.

    One at a time they run in this thread: SQLite, say, wants the one it was opened in.
    """
    began, values, late, todo = {}, {}, [], iter(range(len(parts)))

    def work() -> None:
        for i in todo:  # shared: each is taken once
            began[i] = time.monotonic()
            try:
                values[i] = call(parts[i])
            except BaseException as error:  # raised below
                values[i] = error
                list(todo)  # no other begins

    def ring(*_) -> None:
        late.extend([parts[i] for i in began.keys() - values.keys() if time.monotonic() - began[i] > seconds][:1])
        if len(late) > 9:  # rings: the call goes on, whatever is raised in it
            signal.setitimer(signal.ITIMER_REAL, 0)  # else the next ring says it again
            os._exit(fail(str(overdue(late[0])), 2))
        if late:
            list(todo)
            raise KeyboardInterrupt  # which is no Exception

    handler = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, min(seconds / 4, 1))
    try:
        pool = [Thread(target=work, daemon=True) for _ in range(threads)] if threads > 1 else []
        for thread in pool:
            thread.start()
        for thread in pool:
            thread.join()
        work()
    except KeyboardInterrupt:
        if not late:
            raise
    finally:
        list(todo)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    if late:
        raise overdue(late[0])
    for value in values.values():
        if isinstance(value, BaseException):
            raise value
    return [values[i] for i in range(len(parts))]
