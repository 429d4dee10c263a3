"""The user's functions: what they change is put back, what takes too long is stopped, errors have a place."""

import io
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import redirect_stdout
from functools import partial, wraps
from pathlib import Path

import numpy as np
import pytest
import torch

from minirlhf.harness.user_code import STATES, call_each, parameters_of, place_of, undisturbed

ROOT = Path(__file__).resolve().parents[2]


class Overdue(Exception):
    pass


def each(call, parts=range(6), threads=1, seconds=5.0):
    return call_each(call, list(parts), threads, seconds, Overdue)


@pytest.mark.parametrize("spoil", [
    lambda: torch.set_default_dtype(torch.float64), lambda: torch.set_default_device("meta"),
    lambda: torch.set_grad_enabled(False), lambda: torch.set_num_threads(3), lambda: os.chdir("/"),
    lambda: np.seterr(all="raise"),
], ids=["dtype", "device", "grad", "threads", "folder", "numpy"])  # fmt: skip
@pytest.mark.parametrize("fails", [False, True])
def test_what_is_of_the_whole_process_is_put_back(spoil, fails):
    before = [get() for get, _ in STATES]
    with pytest.raises(ZeroDivisionError), undisturbed():
        spoil()
        assert [get() for get, _ in STATES] != before
        1 / (0 if fails else 1)
        raise ZeroDivisionError
    assert [get() for get, _ in STATES] == before and torch.ones(1).device.type == "cpu"
    assert not torch.overrides._get_current_function_mode_stack()  # which a default device would leave behind


@pytest.mark.parametrize("spoil", [
    "sys.stdout.close()", "sys.stdout.buffer.close()", "sys.stdout = None", "sys.stdout.detach()",
    "sys.stdout = io.TextIOWrapper(sys.stdout.buffer); sys.stdout.write('0'); sys.stdout = 1",
    "sys.stdout.detach().close()",
])  # fmt: skip
def test_stdout_stays_open(spoil):
    out = io.TextIOWrapper(io.BytesIO(), write_through=True)
    with redirect_stdout(out):
        with undisturbed():
            print("1")
            exec(spoil, {"sys": sys, "io": io})
        print("2")
    assert [line[-1:] for line in out.buffer.getvalue().decode().splitlines()] == ["1", "2"]


@pytest.mark.parametrize("threads", [1, 2, 7, 30])
def test_values_come_in_the_order_of_the_parts(threads):
    assert each(lambda i: time.sleep(0.002 * (5 - i % 6)) or i, range(20), threads) == list(range(20))
    assert each(lambda i: i, [], threads) == []


def test_so_many_threads_call_at_once():
    """Each of four calls waits for the other three."""
    meet = threading.Barrier(4, timeout=5)
    assert len(each(lambda i: meet.wait(), range(8), 4)) == 8


def test_one_at_a_time_they_are_called_in_the_main_thread():
    assert set(each(lambda i: threading.current_thread())) == {threading.main_thread()}


@pytest.mark.parametrize("threads", [1, 3])
def test_the_error_of_a_call_comes_through_and_no_other_begins(threads):
    begun = []
    with pytest.raises(SystemExit):
        each(lambda i: begun.append(i) or (sys.exit() if i == 1 else time.sleep(0.05)), range(50), threads)
    assert len(begun) <= 1 + threads


def swallow(i):
    """It catches what is raised in it, once."""
    try:
        time.sleep(5)
    except BaseException:
        pass


def spin(i):
    end = time.perf_counter() + 3
    while time.perf_counter() < end:
        pass


@pytest.mark.parametrize("threads, call", [
    (1, lambda i: time.sleep(5)), (1, swallow), (2, swallow), (1, spin), (2, spin),
    (1, lambda i: re.match("(a+)+$", 40 * "a" + "b")), (20, lambda i: time.sleep(5)),
], ids=["sleep", "swallow", "swallow in a thread", "spin", "spin in a thread", "pattern", "20 at once"])  # fmt: skip
def test_a_call_that_takes_too_long_is_given_up_by_its_part(threads, call):
    start = time.perf_counter()
    with pytest.raises(Overdue, match="^7$"):
        each(call, [7] * threads, threads, 0.1)
    assert time.perf_counter() - start < 2


def test_many_short_calls_may_take_longer_together():
    """Each is far below the limit, all are above it."""
    assert each(lambda i: time.sleep(0.01), range(40), 1, 0.35) == [None] * 40


def test_ctrl_c_comes_through():
    def interrupted(i):
        raise KeyboardInterrupt

    for threads in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            each(interrupted, threads=threads)


def test_a_call_that_catches_everything_for_ever_ends_the_process_with_one_line_however_slow_stderr_is(tmp_path):
    (tmp_path / "forever.py").write_text(textwrap.dedent("""
        import sys, time
        from minirlhf.harness.user_code import call_each
        class Slow:
            def write(self, text):
                time.sleep(0.1)
                sys.__stderr__.write(text)
            def flush(self):
                sys.__stderr__.flush()
        sys.stderr = Slow()
        def call(part):
            while True:
                try:
                    time.sleep(9)
                except BaseException:
                    pass
        call_each(call, ["this"], 1, 0.01, lambda part: f"{part} took too long")
    """))
    done = subprocess.run([sys.executable, "forever.py"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    assert (done.returncode, done.stderr) == (2, "forever.py: this took too long\n")


def fails(x):
    return inner(x)  # the place


def inner(x):
    return 1 // x


@wraps(fails)
def wrapped(x):
    return fails(x)


class Callable:
    def __call__(self, x):
        return fails(x)


@pytest.mark.parametrize("function", [fails, wrapped, partial(wrapped), Callable(), lambda x: int("x" * x) or fails(x)])
def test_the_place_is_the_last_line_of_the_functions_own_file(function):
    with pytest.raises(Exception) as caught:
        function(0)
    lines = Path(__file__).read_text().splitlines()
    file, _, line = place_of(function, caught.value).rpartition(":")
    assert file == __file__ and ("return 1 // x" in lines[int(line) - 1] or "int(" in lines[int(line) - 1])


def test_without_an_error_the_place_is_where_the_function_begins():
    lines = Path(__file__).read_text().splitlines()
    assert lines[int(place_of(fails).rpartition(":")[2]) - 1].startswith("def fails")
    assert place_of(len) == repr(len) and parameters_of(print) and parameters_of(dict.fromkeys) is not None
