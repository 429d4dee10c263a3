"""The command: make, judge on the page, close, and what people do wrong with it."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from minirlhf.annotation import pairs
from minirlhf.annotation.log import Session, close, read_logs
from minirlhf.annotation.rows import read_rows
from minirlhf.evaluation import items
from minirlhf.evaluation.items import TestSet, read_sets
from minirlhf.harness.files import UserError
from minirlhf.harness.options import run_script
from minirlhf.tools import annotate

ROOT = Path(__file__).resolve().parents[2]
MAKE = "make --items items.jsonl --study study"
NEW = "make --items items.jsonl --study new"


def say(model: str, index: int, sample: int) -> str:
    """Prompt 0 is answered identically, and the longer answer is always ppo's."""
    return "same" if index == 0 else f"{len(model) * 'x'} {index} {model[0] * (9 if model == 'ppo' else 1)}"


@pytest.fixture
def call(make_evaluation, tmp_path, monkeypatch, capsys):
    """A function that runs the command in tmp_path, where items.jsonl is: (status, out, err)."""
    monkeypatch.chdir(tmp_path)

    def call(words):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["annotate.py", *words.split()])
            patch.setattr(annotate.Page, "serve_forever", lambda self: None)  # what should be refused, and is not
            try:
                status = run_script(annotate.main) or 0
            except SystemExit as stop:
                status = stop.code
        return status, *capsys.readouterr()

    records = [{"prompt": f"prompt {i}"} for i in range(30)]
    items.write_items(tmp_path / "items.jsonl", *make_evaluation(records, say, models=("sft", "ppo"), samples=1))
    return call


class Served:
    """The real command in a process of its own, and what the page says to it."""

    def __init__(self, folder, name):
        command = [sys.executable, "-m", "minirlhf.tools.annotate", "judge", "--study", "study", "--port", "0"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen([*command, "--annotator", name], env=env, cwd=folder, **pipes)
        self.said = []
        while not self.said or not self.said[-1].startswith(("http", "annotate")):
            self.said.append(self.process.stdout.readline())
        self.port, self.path = re.fullmatch(r"http://127\.0\.0\.1:(\d+)(/[\w-]{32}/)\n", self.said[-1]).groups()

    def ask(self, event=None):
        """The item whose turn it is, after the event if there is one."""
        connection = http.client.HTTPConnection("127.0.0.1", int(self.port), timeout=20)
        headers = {"Origin": f"http://127.0.0.1:{self.port}", "Content-Type": "application/json"}
        request = ("POST", "judge", json.dumps(event), headers) if event else ("GET", "item")
        connection.request(request[0], self.path + request[1], *request[2:])
        return json.loads(connection.getresponse().read())

    def end(self):
        """Ctrl-C: (status, out, err)."""
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, "".join(self.said) + out, err


@pytest.fixture
def serve(tmp_path):
    """A function that starts `annotate judge` for an annotator; what still runs at the end is killed."""
    started = []

    def serve(name):
        started.append(Served(tmp_path, name))
        return started[-1]

    yield serve
    for served in started:
        served.process.kill()
        served.process.communicate()


def test_from_make_to_results(call, serve):
    """Over the page, a judge who always prefers the longer answer, and one who only looks to the left."""
    status, out, err = call(MAKE)
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "study: 30 pairs of sft and ppo; identical and counted as ties: 1",
        "33 items to judge: 29 pairs, 3 of these again with sides swapped; attention checks: 1",
    ]
    for name in ("long", "left"):
        served = serve(name)
        item = served.ask()
        while "left" in item:
            longer = "left" if name == "left" or len(item["left"]) > len(item["right"]) else "right"
            event = {"event": f"event no. {item['place']}", "do": longer, "place": item["place"], "seconds": 1}
            item = served.ask(event)
        status, out, err = served.end()
        assert (status, err) == (0, "") and not re.search("sft|ppo", out)
        assert out.startswith(f"{name}: 0 of 33 judged; another judge needs another --annotator NAME\n")
        assert out.endswith(f"{name}: 33 of 33 judged, all saved; the same command goes on\n")
    with pytest.raises(UserError, match="not closed"):
        read_rows("study", [])
    status, out, err = call("close --study study")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "study: closed; judged: left 33, long 33", "to see the result: python -m minirlhf.tools.judgements study"
    ]  # fmt: skip
    found = [row for row in read_rows("study", [])[0] if row.kind == "pair"]
    left, long = (Counter(r.score for r in found if r.annotator == name) for name in ("left", "long"))
    assert long == {1: 29} and sorted(left.values()) == [14, 15]


def test_what_make_is_told_decides_what_is_made(call):
    """The key says where the answers come from, for `judged` to find their records."""
    call(f"{MAKE} --question funnier? --seed 7 --pairs 20 --models ppo sft --set made")
    call(f"{NEW} --seed 8 --pairs 20")
    study, key = (json.loads(Path(f"study/{name}.json").read_text()) for name in ("study", "key"))
    other = json.loads(Path("new/study.json").read_text())
    assert (study["question"], other["question"]) == ("funnier?", "Which answer is better?")
    (s,) = read_sets("items.jsonl")
    places, secret = pairs.make_places(s.records, list(zip(s.items["ppo"], s.items["sft"])), 20, 7)
    assert study["places"] == places != other["places"]
    about = {"models": ["ppo", "sft"], "set": "made", "seed": 7, "source": "items.jsonl"}
    assert key.items() >= (secret | about).items()


def test_a_rubric_is_part_of_the_study_and_shown_as_it_stands(call):
    """Its hash is that of the study: judgements by another rubric do not mix with it. Without one it is empty."""
    Path("rubric.txt").write_text("1. <b>polite</b> 好\n 2. short\n", encoding="utf-8")
    assert call(f"{MAKE} --rubric rubric.txt")[0] == call(NEW)[0] == 0
    studies = [json.loads(Path(name, "study.json").read_text()) for name in ("study", "new")]
    assert [study["rubric"] for study in studies] == ["1. <b>polite</b> 好\n 2. short", ""]
    for name, study in zip(("study", "new"), studies):
        with Session(name, "ada") as session:
            assert session.item().get("rubric", "") == study["rubric"]
    keys = [json.loads(Path(name, "key.json").read_text())["study"] for name in ("study", "new")]
    assert keys[0] != keys[1]


def test_who_goes_on_is_told_whose_list_it_is(call, serve):
    """Who forgets --annotator would go on with another's judgements unseen."""
    call(MAKE)
    with Session("study", "ada") as session:
        session.act("left", 0)
        session.act("tie", 1)
    served = serve("ada")
    assert served.ask()["place"] == 2
    status, out, err = served.end()
    assert (status, err) == (0, "")
    assert out.startswith("ada: 2 of 33 judged; another judge needs another --annotator NAME\n")
    assert out.endswith("\nada: 2 of 33 judged, all saved; the same command goes on\n")


@pytest.mark.parametrize("models, title, names, message", [
    (("sft",), "", "s", "--models sft: give the names of two"),
    (("sft", "sft"), "", "s", "give the names of two"),
    (("sft", "dpo"), "", "s", "--models dpo: choose from ppo, sft"),
    (("sft", "ppo"), "t", "s", "--set t: choose from s"),
    (("sft", "ppo"), "", "sz", "--set is missing: choose from s, z"),
])  # fmt: skip
def test_what_cannot_be_paired_is_refused(models, title, names, message):
    with pytest.raises(UserError, match=message):
        annotate.chosen_set([TestSet(name, [], {"sft": [], "ppo": []}) for name in names], models, title)


def test_the_set_that_is_named_is_taken():
    sets = [TestSet(name, [], {"sft": [], "ppo": []}) for name in "yz"]
    assert [annotate.chosen_set(sets, ("sft", "ppo"), title) for title in "yz"] == sets


@pytest.mark.parametrize("words, message", [
    ("judg", "action judg: not one of make, judge, close"),
    ("--study nowhere", "nowhere/study.json: no such file; make a study first"),
    ("close --study nowhere", "nowhere/study.json: no such file"),
    ("make --items nothing.jsonl", "nothing.jsonl: No such file or directory"),
    (f"{NEW} --models sft", "--models sft: give the names of two models"),
    (f"{NEW} --models sft dpo", "--models dpo: choose from ppo, sft"),
    (f"{NEW} --set other", "--set other: choose from made"),
    (f"{NEW} --pairs 0", "--pairs 0: must be at least 1"),
    (f"{NEW} --pair 5", "no option --pair; did you mean --pairs?"),
    ("make --items study --study new", "study: Is a directory"),
    (f"{NEW} --rubric nothing.txt", "nothing.txt: No such file or directory"),
    ("judge --study study --rubric rubric.txt", "--rubric can do nothing where ACTION is judge: leave it out"),
    ("make --items items.jsonl --study items.jsonl", "items.jsonl: File exists"),
    ("judge --study study --annotator a/b", "--annotator a/b: at most 40 letters"),
    ("judge --study study --port 70000", "--port 70000: bind(): port must be 0-65535.; --port 0 takes any"),
    ("judge --study study --port -1", "--port -1: must be at least 0"),
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
        status, _, err = call(f"judge --study study --port {page.server_address[1]}")
    assert status == 2 and err == (f"annotate.py: --port {page.server_address[1]}: Address already in use; "
                                   "--port 0 takes any free one\n")


def test_a_second_session_of_one_annotator_is_refused(call):
    call(MAKE)
    with Session("study", "anonymous"):
        status, _, err = call("judge --study study")
    assert status == 2 and "anonymous is judging already" in err and read_logs(Path("study")) == {"anonymous": []}


def test_close_says_what_was_judged_and_cannot_come_twice(call):
    call(MAKE)
    with Session("study", "ann") as session:
        session.act("left", 0)
    assert call("close --study study --early")[1].startswith("study: closed; judged: ann 1\n")
    for words in ("close --study study", "judge --study study"):
        status, _, err = call(words)
        assert (status, err) == (2, "annotate.py: the study is closed: it takes no more judgements\n")
    with pytest.raises(UserError, match="closed"):
        close("study", early=True)
