"""The command: make, judge in a terminal, close, and what people do wrong with it."""

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from minirlhf.annotation import pairs
from minirlhf.annotation.log import Log, Session, close, results
from minirlhf.harness.files import UserError
from minirlhf.harness.options import run_script
from minirlhf.tools import annotate

ROOT = Path(__file__).resolve().parents[2]


def answer(model, index, response):
    where = {"kind": "response", "set": "s", "model": model, "index": index, "sample": 0}
    return where | {"prompt": f"prompt {index}", "response": response, "stop": "eos"}


def write_items(path, n):
    """Index 0 is answered identically, and the longer answer is always ppo's."""
    rows = [answer(m, i, "same" if i == 0 else f"{len(m) * 'x'} {i} {m[0] * k}")
            for m, k in (("sft", 1), ("ppo", 9)) for i in range(n)]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """A function that runs the command in tmp_path with these lines as input: (status, out, err)."""
    monkeypatch.chdir(tmp_path)

    def call(words, keys=""):
        read, write = os.pipe()
        os.write(write, keys.encode())
        os.close(write)
        with open(read) as stdin, monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", stdin)
            patch.setattr(sys, "argv", ["annotate.py", *words.split()])
            try:
                status = run_script(annotate.main) or 0
            except SystemExit as stop:
                status = stop.code
        return status, *capsys.readouterr()

    write_items(tmp_path / "items.jsonl", 30)
    return call


MAKE = "make --items items.jsonl --study study"
NEW = "make --items items.jsonl --study new"


def said(name="anonymous"):
    return [event["do"] for event in Log("study").state.judged.get(name, [])]


def test_from_make_to_results(call):
    status, out, err = call(MAKE)
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "study: 30 pairs of sft and ppo; identical and counted as ties: 1",
        "to judge: 33 items: 29 pairs; of them again, with sides swapped: 3; attention checks: 1",
    ]
    # A judge who always prefers the longer answer, and one who only looks to the left.
    places = Log("study").study["places"]
    longer = ["a" if len(x["left"]) > len(x["right"]) else "b" for x in places]
    for name, pressed in (("long", longer), ("left", ["a"] * len(places))):
        keys = "".join(f"{key}\n" for key in pressed)
        status, out, err = call(f"--study study --annotator {name}", keys)
        assert (status, err) == (0, "")
        assert out.endswith(f"{name}: 33 of 33 judged, all saved; that was all\n")
        assert "33 of 33" in out and not re.search("sft|ppo", out)
    with pytest.raises(UserError, match="not closed"):
        results("study")
    status, out, err = call("close --study study")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "study: closed; judged: left 33, long 33", "what it says: python -m minirlhf.tools.judgements study"
    ]  # fmt: skip
    pairs = [row for row in results("study") if row["kind"] == "pair"]
    left, long = (Counter(r["choice"] for r in pairs if r["annotator"] == name) for name in ("left", "long"))
    assert long == {"b": 29} and sorted(left.values()) == [14, 15]


def test_what_make_is_told_decides_what_is_made(call):
    """The key says where the answers come from, for `judged` to find their records."""
    call(f"{MAKE} --question funnier? --seed 7 --pairs 20 --models ppo sft --set s")
    call(f"{NEW} --seed 8 --pairs 20")
    study, key = (json.loads(Path(f"study/{name}.json").read_text()) for name in ("study", "key"))
    other = json.loads(Path("new/study.json").read_text())
    assert (study["question"], other["question"]) == ("funnier?", "Which answer is better?")
    rows = pairs.read_responses("items.jsonl")
    content, secret = pairs.make(rows, ("ppo", "sft"), "s", 20, "funnier?", 7)
    assert study["places"] == content["places"] != other["places"]
    assert key.items() >= secret.items() and key["source"] == "items.jsonl"


@pytest.mark.parametrize("before, said", [
    ("", "ada begins at place 1 of 33"),
    ("a\nt\n", "ada goes on at place 3 of 33; somebody else gives another --annotator NAME"),
])  # fmt: skip
def test_it_is_said_whose_list_it_is_before_an_item_is_shown(call, before, said):
    """Who forgets --annotator would go on with another's judgements unseen."""
    call(MAKE)
    call("--study study --annotator ada", before)
    _, out, _ = call("--study study --annotator ada")
    assert out.splitlines()[0] == said


def test_every_key_does_what_it_says(call):
    call(MAKE)
    status, out, _ = call("--study study", "a\nb\nt\nx\ns\nu\nq\n")
    assert status == 0 and said() == ["left", "right", "tie", "bad"]
    assert out.endswith("anonymous: 4 of 33 judged, all saved; the same command goes on\n")
    assert "── 1 of 33 ──" in out and "── 5 of 33 ──" in out


@pytest.mark.parametrize("keys", ["A\n", "\n", "ab\n", "\x1b[A\n", "1\n", "好\n", "u\n", "left\n", "", "q\n"])
def test_any_other_key_is_no_judgement(call, keys):
    call(MAKE)
    status, out, _ = call("--study study", keys)
    assert status == 0 and said() == [] and (Path("study") / "log.jsonl").read_bytes() == b""


def test_the_terminal_goes_on_after_a_torn_line_and_says_so(call):
    call(MAKE)
    call("--study study", "a\n")
    with open("study/log.jsonl", "a") as file:
        file.write("half")
    status, out, _ = call("--study study", "t\n")
    assert out.splitlines()[0] == "4 bytes of a line that a kill had cut off are now in study/log.torn"
    assert said() == ["left", "tie"]


def test_a_terminal_without_unicode_shows_what_it_can(call, monkeypatch):
    call(MAKE)
    shown = io.BytesIO()
    with Session("study", "ann") as session, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(shown, "ascii"))
        annotate.judge(session, iter("aq").__next__)
        sys.stdout.flush()
        assert said("ann") == ["left"] and b"?? 2 of 33 ??" in shown.getvalue()


def test_ctrl_c_ends_a_session_and_saves_all(call, monkeypatch):
    call(MAKE)
    keys = iter("ab")

    def key():
        for pressed in keys:
            return pressed
        raise KeyboardInterrupt

    monkeypatch.setattr(annotate.judge, "__defaults__", (key,))
    status, _, err = call("--study study")
    assert status == 130 and said() == ["left", "right"]
    assert err == "annotate.py: interrupted; anonymous: 2 of 33 judged, all saved; the same command goes on\n"


@pytest.mark.parametrize("words, message", [
    ("judg", "no action judg: make, judge or close"),
    ("--study nowhere", "nowhere/study.json: no such file; make a study first"),
    ("close --study nowhere", "nowhere/study.json: no such file"),
    ("make --items nothing.jsonl", "nothing.jsonl: No such file or directory; evaluate.py writes it"),
    (f"{NEW} --models sft", "--models sft: give two names of models"),
    (f"{NEW} --models sft dpo", "--models dpo: the responses are of ppo, sft"),
    (f"{NEW} --set other", "--set other: the responses are of s"),
    (f"{NEW} --pairs 0", "--pairs 0: must be at least 1"),
    (f"{NEW} --pair 5", "no option --pair; did you mean --pairs?"),
    ("make --items study --study new", "study: Is a directory"),
    ("make --items items.jsonl --study items.jsonl", "items.jsonl: File exists"),
    ("--study study --annotator a/b", "--annotator a/b: at most 40 letters"),
    ("--study study --serve --port 70000", "--port 70000: bind(): port must be 0-65535.; --port 0 takes any"),
    ("--study study --serve --port -1", "--port -1: must be at least 0"),
    ("close --study study", "nobody has judged anything; to close for good all the same, add --early"),
    (MAKE, "study: holds a study already"),
])  # fmt: skip
def test_wrong_use_ends_in_one_line_and_status_2(call, words, message):
    call(MAKE)
    status, _, err = call(words)
    assert status == 2 and err.count("\n") == 1 and err.startswith(f"annotate.py: {message}")
    assert not Path("new").exists()


def test_a_port_that_is_taken_is_said(call):
    call(MAKE)
    with Session("study", "other") as session, annotate.Page(session) as page:
        status, _, err = call(f"--study study --serve --port {page.server_address[1]}")
    assert status == 2 and err == (f"annotate.py: --port {page.server_address[1]}: Address already in use; "
                                   "--port 0 takes any that is free\n")


def test_a_second_terminal_of_one_annotator_is_refused(call):
    call(MAKE)
    with Session("study", "anonymous"):
        status, _, err = call("--study study", "a\n")
    assert status == 2 and "anonymous is judging already" in err and said() == []


def test_close_ends_a_session_that_is_open(call, monkeypatch):
    call(MAKE)
    keys = iter("ab")

    def key():
        pressed = next(keys)
        if pressed == "b":
            close("study", early=True)
        return pressed

    monkeypatch.setattr(annotate.judge, "__defaults__", (key,))
    status, _, err = call("--study study")
    assert (status, err) == (2, "annotate.py: the study is closed: it takes no more judgements\n")
    assert said() == ["left"]


def test_no_text_can_command_the_terminal():
    """Escape sequences, carriage returns, and marks that reverse the line are shown as what they are."""
    evil = "\x1b[2J\x1b]0;title\x07 a\rb\tc\x9b31m \x00\x08\x7f "
    evil += "\u202eabc\u2066 \u200b\ud800 好\u3000\n\u200dfine"
    shown = annotate.harmless(evil)
    assert shown == "�[2J�]0;title� a b c�31m ��� �abc� �� 好 \n\u200dfine"
    item = {"place": 0, "total": 1, "question": evil, "prompt": evil, "left": evil, "right": evil}
    assert all(c.isprintable() or c in "\n\u200d" for c in annotate.screen(item, 80))


def test_no_text_can_pose_as_the_programs():
    """Each line of a text stands behind a bar, the wrapped ones too."""
    fake = f"x\n\nB\n  fine\n{annotate.HELP}\n" + "word " * 50
    item = {"place": 0, "total": 1, "question": "?", "prompt": "p", "left": fake, "right": ""}
    lines = annotate.screen(item, 80).split("\n")
    ours = [line for line in lines if line and not line.startswith("  │ ")]
    assert ours[1:] == ["?", "Prompt", "A", "B", annotate.HELP]
    assert lines[-3] == "  │ (empty)"


@pytest.mark.parametrize("text", [
    "short", "", "a\n\nb", "x" * 95, "word " * 30, "好" * 41, "中文 and English 混排，标点。" * 6, "e\u0301" * 30,
    "好x" * 20, " " * 50, "a " + "y" * 40,
])  # fmt: skip
@pytest.mark.parametrize("width", [2, 5, 20])
def test_wrapped_lines_fit_and_hold_the_whole_text(text, width):
    lines = list(annotate.wrap(text, width))
    assert all(annotate.cells(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace("\n", "").replace(" ", "")


def test_words_are_cut_behind_spaces_and_chinese_anywhere():
    assert list(annotate.wrap("one two three four", 10)) == ["one two", "three four"]
    assert list(annotate.wrap("我喜欢机器学习", 6)) == ["我喜欢", "机器学", "习"]
    assert [annotate.cells(text) for text in ("abc", "好a", "e\u0301", "")] == [3, 3, 1, 0]


@pytest.fixture
def keyboard(monkeypatch):
    """A terminal as standard input: a function that types bytes into it, after a while where one is given."""
    master, slave = pty.openpty()
    with open(slave) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield lambda data, wait=0.0: threading.Timer(wait, os.write, (master, data)).start()
    os.close(master)


@pytest.mark.parametrize("typed, read", [
    (b"a", "a"), ("好".encode(), "好"), (b"\x1b[A", ""), (b"\x1bOB", ""), (b"\x1b[a", ""), (b"ab", ""),
    (b"\x04", "q"), (b"\xff", "�"),
])  # fmt: skip
def test_one_key_is_read_without_return_and_an_arrow_is_none(keyboard, typed, read):
    """The arrow keys end in A and B."""
    keyboard(typed, 0.03)
    assert annotate.read_key() == read


def test_what_was_typed_before_the_item_was_shown_is_dropped(keyboard):
    keyboard(b"a")
    time.sleep(0.02)
    keyboard(b"b", 0.05)
    assert annotate.read_key() == "b"


def test_the_terminal_is_left_as_it_was(keyboard):
    before = annotate.termios.tcgetattr(sys.stdin)
    keyboard(b"a", 0.03)
    annotate.read_key()
    assert annotate.termios.tcgetattr(sys.stdin) == before


def test_a_key_that_is_held_down_judges_once(call, keyboard, monkeypatch):
    """What repeats faster than anybody reads is a slip, as is a key when the item has just appeared."""
    call(MAKE)
    times = [(9.0, "a"), (0.5, "a"), (0.03, "a"), (0.03, "a"), (0.59, "a"), (0.61, "t"), (0.1, "q")]
    clock, keys = [0.0], iter(times)
    monkeypatch.setattr(annotate.time, "monotonic", lambda: clock[0])

    def key():
        seconds, pressed = next(keys)
        clock[0] += seconds
        return pressed

    with Session("study", "ann") as session:
        annotate.judge(session, key)
    assert said("ann") == ["left", "tie"]
    assert Log("study").state.judged["ann"][1]["seconds"] == pytest.approx(0.5 + 0.06 + 0.59 + 0.61)


def test_serve_says_where_and_ends_on_ctrl_c(call, tmp_path):
    """The real command in a process of its own: the address answers, and nobody's name is in what it says."""
    call(MAKE)
    command = [sys.executable, "-m", "minirlhf.tools.annotate", "--study", "study", "--serve", "--port", "0"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    server = subprocess.Popen(command, env=env, cwd=tmp_path, **pipes)
    assert server.stdout.readline() == "anonymous begins at place 1 of 33\n"
    address = server.stdout.readline()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/\n", address)
    server.stdout.readline()
    server.send_signal(signal.SIGINT)
    out, err = server.communicate(timeout=20)
    assert server.returncode == 0 and err == ""
    assert out.strip() == "anonymous: 0 of 33 judged, all saved; the same command goes on"
