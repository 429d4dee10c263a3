"""The logs: what they say, that nothing is lost whoever is killed when, and what they refuse."""

import json
import os
import random
import signal
import threading
from pathlib import Path

import pytest
from forked import Forked

from minirlhf.annotation import log as judgements
from minirlhf.annotation.log import Closed, Session, Stale, close, follow, read_key, read_logs
from minirlhf.harness.files import UserError

ROOT = Path(__file__).resolve().parents[2]
# Judges from where the study stands, and says so after each item; with a third argument it then waits.
JUDGE = """
import sys
from minirlhf.annotation.log import Session
with Session(sys.argv[1], sys.argv[2]) as session:
    print("ready", flush=True)
    while "left" in session.item():
        place = session.place
        session.act("tie", place, 1.5, f"event {place} of {sys.argv[2]}")
        print(place, flush=True)
        sys.argv[3:] and sys.stdin.read()
"""


def make_study(folder, n=6, question="which?"):
    places = [{"prompt": f"p{i}", "left": f"l{i}", "right": f"r{i}"} for i in range(n)]
    secret = [{"item": f"id{i}", "kind": "pair", "left": "ab"[i % 2], "good": None} for i in range(n)]
    judgements.create(folder, {"question": question, "places": places},
                      {"models": ["sft", "ppo"], "identical": {}, "places": secret})  # fmt: skip
    return folder


@pytest.fixture
def study(tmp_path):
    return make_study(tmp_path / "study")


def lines(folder, name="ann"):
    """The events in a log."""
    return [json.loads(line) for line in (folder / f"{name}.log").read_text().splitlines()[1:]]


def said(folder, name="ann"):
    return [event["do"] for event in read_logs(folder).get(name, [])]


def judge(folder, words, name="ann"):
    with Session(folder, name) as session:
        for word in words.split():
            session.act(word, session.place - (word == "undo"))


def test_items_come_one_after_the_other_and_then_no_more(study):
    with Session(study, "ann") as session:
        for i in range(6):
            texts = {"prompt": f"p{i}", "left": f"l{i}", "right": f"r{i}"}
            head = {"annotator": "ann", "place": i, "total": 6, "question": "which?"}
            assert session.item() == head | texts
            session.act("left", i)
        assert session.item() == head | {"place": 6}


def test_a_session_goes_on_where_the_last_one_stopped(study):
    judge(study, "left tie")
    judge(study, "bad")
    assert said(study) == ["left", "tie", "bad"]


def test_undo_takes_back_the_last_that_holds_and_every_event_stays_in_the_log(study):
    judge(study, "left skip undo undo right tie undo bad")
    assert said(study) == ["right", "bad"]
    assert [e["do"] for e in lines(study)] == "left skip undo undo right tie undo bad".split()
    assert [e["place"] for e in lines(study)] == [0, 1, 1, 0, 0, 1, 1, 1]


def test_what_holds_is_a_list_that_is_appended_to_and_popped():
    """Against its obvious twin, over random events; an event about another place is refused."""
    rng, judged, twin = random.Random(0), [], []
    for k in range(2000):
        do = rng.choice([*judgements.ACTIONS, *["undo"] * 4])
        event = {"do": do, "place": len(twin) - (do == "undo"), "event": str(k)}
        for other in (event["place"] + 1, event["place"] - 1):
            with pytest.raises(Stale):
                follow(judged, event | {"place": other}, 4)
        if event["place"] < 0 or (do != "undo" and event["place"] == 4):
            with pytest.raises(Stale):
                follow(judged, event, 4)
            continue
        judged = follow(judged, event, 4)
        twin = twin[:-1] if do == "undo" else [*twin, event]
        assert judged == twin


@pytest.mark.parametrize(
    "do, place", [("left", 1), ("left", 3), ("left", -1), ("undo", 0), ("undo", 2), ("skip", 0)]
)
def test_an_event_about_another_item_than_the_one_shown_is_refused(study, do, place):
    judge(study, "left left")
    before = (study / "ann.log").read_bytes()
    with Session(study, "ann") as session, pytest.raises(Stale):
        session.act(do, place)
    assert (study / "ann.log").read_bytes() == before


def test_there_is_nothing_to_undo_before_the_first_and_nothing_to_judge_after_the_last(study):
    with Session(study, "ann") as session:
        with pytest.raises(Stale):
            session.act("undo", -1)
        for i in range(6):
            session.act("tie", i)
        with pytest.raises(Stale):
            session.act("tie", 6)


def test_an_event_id_counts_once(study):
    """Also after a restart: the page repeats what it is not sure was saved."""
    for _ in range(2):
        with Session(study, "ann") as session:
            session.act("left", 0, 1.0, "the id")
            session.act("right", 0, 1.0, "the id")
    assert said(study) == ["left"] and len(lines(study)) == 1


def test_a_line_has_all_that_it_needs_and_nothing_of_the_key(study):
    judge(study, "left")
    (event,) = lines(study)
    assert event.keys() == {"event", "do", "place", "seconds", "time"}
    first = json.loads((study / "ann.log").read_text().splitlines()[0])
    assert first.keys() == {"study", "token"}
    assert first["study"] == judgements.study_hash((study / "study.json").read_bytes())
    text = (study / "ann.log").read_text() + (study / "study.json").read_text()
    assert not any(word in text for word in ("sft", "ppo", "attention", "duplicate"))


def test_the_event_is_synced_before_act_returns(study, monkeypatch):
    """Synced is the whole line, and the state knows of it only then."""
    with Session(study, "ann") as session:
        synced = []

        def fsync(descriptor):
            synced.append((study / "ann.log").read_bytes())
            assert session.place == len(synced) - 1

        monkeypatch.setattr(os, "fsync", fsync)
        session.act("left", 0)
        session.act("tie", 1)
        assert [data.count(b"\n") for data in synced] == [2, 3] and session.place == 2


def test_what_a_killed_process_did_not_sync_is_synced_before_it_counts(study, monkeypatch):
    judge(study, "left")
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(descriptor))
    Session(study, "ann").__exit__()
    assert synced


@pytest.mark.parametrize("call", ["fsync", "write"])
def test_a_disk_that_is_full_leaves_the_log_as_it_was(study, monkeypatch, call):
    """The judgement is refused aloud and can be made again."""
    judge(study, "left")
    before = (study / "ann.log").read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with Session(study, "ann") as session:
        with monkeypatch.context() as patch:
            if call == "fsync":
                patch.setattr(os, "fsync", full)
            else:
                patch.setattr(session, "_file", ShortFile(os.dup(session._file.fileno()), "r+"))
            with pytest.raises(OSError, match="No space left"):
                session.act("tie", 1, 0.0, "the id")
        assert (study / "ann.log").read_bytes() == before and session.place == 1
        session.act("tie", 1, 0.0, "the id")
    assert said(study) == ["left", "tie"]


class ShortFile(judgements.FileIO):
    """Of a line, only a part can be written."""

    def write(self, data):
        return super().write(data[:20])


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_a_torn_last_line_goes_and_everything_before_it_holds(study, kept):
    """-1: whole but for its line feed; it was never acknowledged, and might be half of a number."""
    judge(study, "left tie bad")
    log = study / "ann.log"
    whole = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(whole[:3]) + whole[3][:kept])
    with Session(study, "ann") as session:
        assert session.place == 2
        session.act("skip", 2)
    assert said(study) == ["left", "tie", "skip"] and log.read_bytes().startswith(b"".join(whole[:3]))


def test_no_torn_line_is_parsed(study):
    """A tail of zeros is what some file systems leave after a power cut."""
    judge(study, "left")
    for tail in (b'{"version": 1, "do"', b"\0\0\0\0", "好".encode()[:2], b"{}"):
        with (study / "ann.log").open("ab") as file:
            file.write(tail)
        assert said(study) == ["left"]  # who only reads leaves the tail: its writer may still be at it
        Session(study, "ann").__exit__()
    assert said(study) == ["left"] and len(lines(study)) == 1


def test_a_first_line_that_is_torn_is_written_again(study):
    (study / "ann.log").write_bytes(b'{"version"')
    judge(study, "left")
    assert said(study) == ["left"]


def start_judge(study, name="ann", *more):
    return Forked(JUDGE, str(study), name, *more)


def test_kill_9_after_each_judgement_loses_none(tmp_path):
    """A process is killed when it has said that an item is judged; the next goes on with the next item."""
    study = make_study(tmp_path / "study", 8)
    for place in range(8):
        process = start_judge(study, "ann", "wait")
        assert [process.stdout.readline() for _ in range(2)] == ["ready\n", f"{place}\n"]
        process.kill()
        assert process.communicate()[0] == "" and process.returncode == -signal.SIGKILL
        assert [e["event"] for e in lines(study)] == [f"event {i} of ann" for i in range(place + 1)]
    assert said(study) == ["tie"] * 8


def test_kill_9_at_any_moment_loses_no_judgement_that_was_acknowledged(tmp_path, real_sync):
    study, rng = make_study(tmp_path / "study", 5000), random.Random(0)
    for _ in range(6):
        process = start_judge(study)
        process.stdout.readline()
        timer = threading.Timer(rng.uniform(0.001, 0.06), process.kill)
        timer.start()
        words = process.communicate()[0].split("\n")[:-1]
        timer.join()
        done = len(said(study))
        acknowledged = int(words[-1]) + 1 if words else 0
        assert done >= acknowledged and (not words or done <= acknowledged + 1)
    assert done > 0


def test_several_annotators_at_once_do_not_mix(tmp_path):
    study = make_study(tmp_path / "study", 40)
    names = ["ann", "bob", "小王"]
    processes = [start_judge(study, name) for name in names]
    for process in processes:
        assert process.communicate()[0].splitlines()[1:] == [str(i) for i in range(40)]
    for name in names:
        assert [(e["place"], e["event"]) for e in read_logs(study)[name]] == [
            (i, f"event {i} of {name}") for i in range(40)
        ]


def test_two_sessions_of_one_annotator_are_refused_until_the_first_ends(study):
    with Session(study, "ann"):
        with pytest.raises(UserError, match="ann is judging already"):
            Session(study, "ann")
        Session(study, "bob").__exit__()
    Session(study, "ann").__exit__()


def test_a_killed_session_leaves_no_lock(study):
    process = start_judge(study)
    process.stdout.readline()
    process.kill()
    process.communicate()
    Session(study, "ann").__exit__()


@pytest.mark.parametrize("name", ["", "a b", "../x", "a/b", ".", "x" * 41, "a\n", "a\0"])
def test_a_name_that_could_be_a_path_is_refused(study, name):
    with pytest.raises(UserError, match="--annotator"):
        Session(study, name)
    assert {p.name for p in study.parent.rglob("*")} == {"study", "study.json", "key.json"}


def test_the_token_is_random_private_and_stays(study):
    tokens = []
    for name in ("ann", "ann", "bob"):
        with Session(study, name) as session:
            tokens.append(session.token)
    assert tokens[0] == tokens[1] != tokens[2] and all(len(t) == 32 for t in tokens)
    assert (study / "ann.log").stat().st_mode & 0o077 == 0


def test_another_studys_log_is_refused(study, tmp_path):
    other = make_study(tmp_path / "other", question="who?")
    judge(other, "left")
    (study / "ann.log").write_bytes((other / "ann.log").read_bytes())
    with pytest.raises(UserError, match="ann.log, line 1: not a log of study .* do not mix"):
        Session(study, "ann")


def test_a_study_that_was_changed_is_another_study(study):
    judge(study, "left")
    path = study / "study.json"
    path.write_text(path.read_text().replace("p5", "p 5"))
    with pytest.raises(UserError, match="do not mix"):
        read_logs(study)


EVENT = {"event": "e9", "do": "left", "place": 1, "seconds": 1.0}


@pytest.mark.parametrize("change, message", [
    ({"place": "1"}, "not an event; it needs"),
    ({"place": True}, "not an event; it needs"),
    ({"event": None}, "not an event; it needs"),
    ({"seconds": -1}, "not an event; it needs"),
    ({"seconds": float("nan")}, "not an event; it needs"),
    ({"do": "maybe"}, "'maybe' is no action of an annotator"),
    ({"place": 0}, "left of place 0, but it is the turn of place 1"),
    ({"place": 2}, "left of place 2, but it is the turn of place 1"),
    ({"do": "undo", "place": 1}, "undo of place 1, but it is the turn of place 1"),
    (b"[1]", "not a JSON object"),
    (b"\xff", "not a JSON object"),
    (b"", "not a JSON object"),
])  # fmt: skip
def test_a_whole_line_that_is_wrong_stops_everything_by_its_number(study, change, message):
    """Nothing is dropped in silence, and nothing is written behind it."""
    judge(study, "left")
    bad = json.dumps(EVENT | change).encode() if isinstance(change, dict) else change
    with (study / "ann.log").open("ab") as file:
        file.write(bad + b"\n")
    before = (study / "ann.log").read_bytes()
    for read in (read_logs, close, lambda folder: Session(folder, "ann")):
        with pytest.raises(UserError, match=f"ann.log, line 3: {message}"):
            read(study)
    assert (study / "ann.log").read_bytes() == before


@pytest.mark.parametrize("first", [{"study": "x"}, {"token": 5}, {"study": None}])
def test_a_log_that_begins_with_something_else_is_refused(study, first):
    judge(study, "left")
    head, event = (study / "ann.log").read_text().splitlines()
    (study / "ann.log").write_text(f"{json.dumps(json.loads(head) | first)}\n{event}\n")
    with pytest.raises(UserError, match="ann.log, line 1: not a log of study"):
        Session(study, "ann")


@pytest.mark.parametrize("harm", [
    lambda log: log.write_bytes(log.read_bytes().splitlines(keepends=True)[0]), Path.unlink,
    lambda log: (log.rename(log.with_name("old")), log.write_bytes(log.with_name("old").read_bytes())),
], ids=["shorter", "gone", "a copy"])  # fmt: skip
def test_a_log_that_is_changed_under_a_session_is_noticed(study, harm):
    with Session(study, "ann") as session:
        session.act("left", 0)
        session.act("left", 1)
        harm(study / "ann.log")
        left = {path.name: path.read_bytes() for path in study.iterdir()}
        with pytest.raises(UserError, match="ann.log: is gone, or another program has changed it"):
            session.act("left", 2)
    assert {path.name: path.read_bytes() for path in study.iterdir()} == left


def test_a_study_is_never_overwritten_and_a_half_made_one_can_be_made_again(study):
    (study / "study.json").unlink()
    make_study(study)
    judge(study, "left")
    with pytest.raises(UserError, match="holds a study already"):
        make_study(study)
    assert said(study) == ["left"]


def test_judgements_are_not_wiped_when_study_json_was_moved_away(study):
    judge(study, "left tie")
    before = {path.name: path.read_bytes() for path in study.iterdir()}
    (study / "study.json").rename(study / "away")
    with pytest.raises(UserError, match="ann.log: holds judgements; put their study.json back"):
        make_study(study, question="another?")
    (study / "away").rename(study / "study.json")
    assert {path.name: path.read_bytes() for path in study.iterdir()} == before


@pytest.mark.parametrize("content, message", [
    (None, "no such file; make a study first"), ("{", "not JSON"), ("[]", "a JSON object is wanted"),
    ('{"version": 1, "places": []}', "not a study of version 3"),
])  # fmt: skip
def test_a_folder_without_a_study_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "study.json").write_text(content)
    with pytest.raises(UserError, match=f"study.json: {message}"):
        Session(tmp_path, "ann")


@pytest.mark.parametrize("change", [
    {"question": None}, {"question": 5}, {"places": None}, {"places": 5},
    {"places": [5]},
    {"places": [{"prompt": "p", "left": "l"}]}, {"places": [{"prompt": "p", "left": "l", "right": 1}]},
])  # fmt: skip
def test_a_damaged_study_is_refused(study, change):
    """None: the entry is missing."""
    content = json.loads((study / "study.json").read_text()) | change
    content = {k: v for k, v in content.items() if v is not None}
    (study / "study.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="study.json: damaged, (question|places).* is missing or not what belongs there"):
        Session(study, "ann")


@pytest.mark.parametrize("change, message", [
    ({"models": None}, "models is missing"), ({"models": "ab"}, "models is missing or not"),
    ({"study": None}, "study is missing"),
    ({"identical": None}, "identical is missing"),
    ({"places": 5}, "places is"), ({"places": [{"item": "id0", "kind": "pair"}]}, r"places\[0\].left is"),
    ({"models": ["sft"]}, "it does not fit study.json"), ({"places": []}, "it does not fit study.json"),
    ({"places": [{"item": "id0", "kind": "pair", "left": "c"}] * 6}, "it does not fit study.json"),
])  # fmt: skip
def test_a_damaged_key_opens_nothing(study, change, message):
    """None: the entry is missing. With fewer places than study.json, judgements would vanish in silence."""
    judge(study, "left " * 6)
    close(study)
    content = json.loads((study / "key.json").read_text()) | change
    content = {k: v for k, v in content.items() if v is not None}
    (study / "key.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"key.json: damaged, {message}"):
        read_key(study)


def test_after_close_no_judgement_is_accepted_not_even_of_a_session_that_is_open(study):
    judge(study, "left " * 6)
    with Session(study, "ann") as session:
        assert close(study) == {"ann": 6}
        for act in (lambda: session.act("undo", 5), lambda: session.act("tie", 6), session.item):
            with pytest.raises(Closed, match="the study is closed"):
                act()
    with pytest.raises(Closed):
        close(study)
    assert said(study) == ["left"] * 6


def test_a_study_that_is_not_done_is_closed_only_on_demand(study):
    with pytest.raises(UserError, match="nobody has judged anything.*--early"):
        close(study)
    judge(study, "left " * 6)
    judge(study, "left skip", "bob")
    with pytest.raises(UserError, match="bob has judged 2 of 6.*--early"):
        close(study)
    assert close(study, early=True) == {"ann": 6, "bob": 2}


def test_the_key_is_not_opened_before_close(study, monkeypatch):
    judge(study, "left " * 6)
    (study / "key.json").unlink()  # none of this needs it
    Session(study, "ann").__exit__()
    with pytest.raises(UserError, match="not closed; names stay hidden"):
        read_key(study)
    close(study)
    with pytest.raises(UserError, match="key.json: no such file; put it back"):
        read_key(study)


def test_the_key_of_another_study_opens_nothing(study, tmp_path):
    other = make_study(tmp_path / "other", question="who?")
    judge(study, "left")
    close(study, early=True)
    (study / "key.json").write_bytes((other / "key.json").read_bytes())
    with pytest.raises(UserError, match="is the key of study"):
        read_key(study)


def test_any_text_survives(tmp_path):
    """Lone surrogates too, which JSON can say and UTF-8 cannot."""
    texts = ["好\u2028\x00\x1b", "\ud800", "</script>"]
    places = [{"prompt": t, "left": t, "right": t} for t in texts]
    judgements.create(tmp_path, {"question": texts[0], "places": places}, {})
    with Session(tmp_path, "ann") as session:
        assert session.study["places"] == places
