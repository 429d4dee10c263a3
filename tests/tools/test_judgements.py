"""The report of a study from its folder to the terminal, and what stops it."""

import json
import sys

import pytest

from minirlhf.annotation import log, pairs, results
from minirlhf.annotation.pairs import shown_prompt
from minirlhf.annotation.rows import Row
from minirlhf.evaluation import items
from minirlhf.harness.files import UserError
from minirlhf.lm.reading import read_records
from minirlhf.rl import reward_files
from minirlhf.tools import judgements as judged

WORDS = {"sft": "plain", "ppo": "lovely indeed"}


@pytest.fixture
def study(make_evaluation, tmp_path):
    """A function that makes a study of 30 pairs, 3 of them identical, of which ppo loses every fourth."""

    def make(name: str = "study", annotators=("ann", "bob"), close: bool = True, task: str = "reviews"):
        records = [{"task": task, "prompt": f"question {i}?", "response": "x"} for i in range(30)]
        run, sets = make_evaluation(
            records, lambda m, i, k: f"{'same' if i < 3 else WORDS[m]} {i}", models=("sft", "ppo"), samples=1
        )
        items.write_items(tmp_path / "items.jsonl", run, sets)
        answers = list(zip(sets[0].items["sft"], sets[0].items["ppo"]))
        places, key = pairs.make_places(sets[0].records, answers, 30, len(name))
        key |= {"models": ["sft", "ppo"], "source": str(tmp_path / "items.jsonl")}
        log.create(tmp_path / name, {"question": "better?", "places": places}, key)
        for who in annotators:
            with log.Session(tmp_path / name, who) as session:
                while "left" in (item := session.item()):
                    number = int(item["prompt"][9:-1])
                    fitting = [side for side in ("left", "right") if item[side].endswith(f" {number}")]
                    preferred = "plain" if number % 4 == 0 else "lovely"
                    choice = "left" if preferred in item["left"] else "right"
                    session.act(choice if len(fitting) == 2 else fitting[0], item["place"], 2.0)
        if close:
            log.close(tmp_path / name)
        return tmp_path / name

    return make


def report(monkeypatch, capsys, command: str) -> str:
    """What the tool prints."""
    monkeypatch.setattr(sys, "argv", ["judged", *command.split()])
    judged.main()
    return capsys.readouterr().out


def test_a_study_is_reported_in_100_columns(study, tmp_path, monkeypatch, capsys):
    """27 pairs, of which 4, 8, ..., 28 are lost: 20 of 27; and twice the same."""
    folder = study()
    said = report(monkeypatch, capsys, str(folder))
    lines = said.splitlines()
    assert max(len(x) for x in lines if "Written" not in x) <= 100
    assert any(x.startswith("ppo against sft") for x in lines)
    words = [x.split() for x in lines]
    assert all([who, "20", "0", "7", "0.741"] in [x[:5] for x in words] for who in ("ann", "bob"))
    assert ["all,", "with", "3", "identical", "20", "3", "7", f"{(20 + 1.5) / 30:.3f}"] in [x[:8] for x in words]
    assert ["ann", "31", "2.0", "1/1"] in [x[:4] for x in words]
    assert ["people", "-", "people", "1.000"] in [x[:4] for x in words]
    kept = json.loads((folder / "judged.json").read_text())
    assert kept["everybody"]["contests"][0]["all"]["wins"] == 20
    assert kept["studies"][0]["models"] == ["sft", "ppo"]


def test_rewards_are_held_against_people(study, tmp_path, monkeypatch, capsys):
    """A reward for length agrees with people in 20 of 27; it is told the record."""
    folder = study()
    code = "def fn(prompt, response, record):\n    return len(response) * (record['task'] == 'reviews')\n"
    (tmp_path / "r.py").write_text(code)
    said = report(monkeypatch, capsys, f"{folder} --reward {tmp_path}/r.py:fn")
    assert "reward - people       0.741" in said and "people - people       1.000" in said


def test_gold_wants_the_records_of_its_task(study, tmp_path, monkeypatch, capsys):
    folder = study(task="arithmetic")
    with pytest.raises(UserError, match="--gold reviews: no record of this task has the prompt"):
        report(monkeypatch, capsys, f"{folder} --gold reviews")
    with pytest.raises(UserError, match="--gold poems: not one of reviews"):
        report(monkeypatch, capsys, f"{folder} --gold poems")
    (tmp_path / "items.jsonl").unlink()
    with pytest.raises(UserError, match="give --items"):
        report(monkeypatch, capsys, f"{folder} --gold arithmetic")


def test_the_gold_reward_of_the_task_is_used(study, monkeypatch, capsys):
    folder = study()
    monkeypatch.setattr(judged.TASKS["reviews"], "reward", lambda p, r, x: float("lovely" in r))
    said = report(monkeypatch, capsys, f"{folder} --gold reviews")
    assert "gold - people         0.741" in said


def test_preferences_are_exported_for_those_who_pass(study, tmp_path, monkeypatch, capsys):
    folder = study()
    said = report(monkeypatch, capsys, f"{folder} --export {tmp_path}/prefs.jsonl")
    records = [r for name in ("prefs", "prefs.test") for r in read_records([tmp_path / f"{name}.jsonl"])]
    assert len(records) == 27 and sum("lovely" in r["chosen"] for r in records) == 20
    assert {(r["p"], r["n"]) for r in records} == {(1.0, 2)} and "prefs.test.jsonl" in said


def test_the_votes_of_those_left_out_are_not_exported(study, tmp_path, monkeypatch, capsys):
    folder = study()
    checks = results.annotator_checks
    bob_fails = lambda rows: checks(rows) | {"excluded": rows[0].annotator == "bob"}  # noqa: E731
    monkeypatch.setattr(results, "annotator_checks", bob_fails)
    said = report(monkeypatch, capsys, f"{folder} --export {tmp_path}/prefs.jsonl")
    records = [r for name in ("prefs", "prefs.test") for r in read_records([tmp_path / f"{name}.jsonl"])]
    assert {r["n"] for r in records} == {1} and "\n(bob)" in said and "== without" in said


def test_of_two_people_of_whom_one_says_ties_alone_the_kappa_without_ties_is_a_dash(study, monkeypatch, capsys):
    folder = study(annotators=("ann",), close=False)
    with log.Session(folder, "bob") as session:
        while "left" in (item := session.item()):
            session.act("tie", item["place"], 2.0)
    log.close(folder)
    said = report(monkeypatch, capsys, str(folder))
    assert next(line for line in said.splitlines() if line.startswith("Cohen's kappa")).split()[-1] == "-"


def test_ties_alone_leave_nothing_to_train_on(study, tmp_path, monkeypatch, capsys):
    folder = study()
    (tmp_path / "prefs.jsonl").write_text("those of last time")
    monkeypatch.setattr("minirlhf.annotation.export.preferences", lambda rows: [])
    with pytest.raises(UserError, match="nothing to train on"):
        report(monkeypatch, capsys, f"{folder} --export {tmp_path}/prefs.jsonl")
    assert (tmp_path / "prefs.jsonl").read_text() == "those of last time"


def test_a_study_whose_key_is_missing_is_not_said_to_be_none(study, monkeypatch, capsys):
    folder = study()
    (folder / "key.json").unlink()
    with pytest.raises(UserError, match="key.json: no such file; put it back"):
        report(monkeypatch, capsys, str(folder))


def test_an_open_study_is_not_looked_into(study, monkeypatch, capsys):
    with pytest.raises(UserError, match="not closed"):
        report(monkeypatch, capsys, str(study(close=False)))


def test_studies_add_up_but_none_counts_twice(study, monkeypatch, capsys):
    first, second = study(), study("another", ("cleo",))
    with pytest.raises(UserError, match="the same study as"):
        report(monkeypatch, capsys, f"{first} --more {first}")
    said = report(monkeypatch, capsys, f"{first} --more {second}")
    assert "\ncleo" in said and "\nall, with 3 identical" in said


def test_items_says_where_the_records_are_now(study, tmp_path, monkeypatch, capsys):
    folder = study()
    monkeypatch.setattr(judged.TASKS["reviews"], "reward", lambda p, r, x: float("lovely" in r))
    (tmp_path / "items.jsonl").rename(tmp_path / "moved.jsonl")
    said = report(monkeypatch, capsys, f"{folder} --gold reviews --items {tmp_path}/moved.jsonl")
    assert "gold - people         0.741" in said


def test_items_that_are_not_there_are_named(study, tmp_path, monkeypatch, capsys):
    """A source that has moved is passed over, a path that was given is not."""
    folder = study()
    with pytest.raises(UserError, match="nowhere.jsonl"):
        report(monkeypatch, capsys, f"{folder} --gold reviews --items {tmp_path}/nowhere.jsonl")


def test_a_reward_is_told_the_conversation_and_what_the_user_said_last(make_evaluation, tmp_path, monkeypatch):
    """Two conversations that end alike are two records; and without the items the study knows the turns."""
    def talk(first: str) -> list[dict]:
        turns = (("user", first), ("assistant", "x"), ("user", "and?"))
        return [{"role": role, "content": content} for role, content in turns]

    records = [{"task": "reviews", "messages": talk(first)} for first in "pq"]
    about = {"models": ("sft", "ppo"), "answers": ("1", "2"), "left": 0, "good": None, "score": 1.0, "seconds": 1.0}
    rows = [Row("s", "ann", "pair", "i", shown_prompt(r), r["messages"], **about) for r in records]
    items.write_items(tmp_path / "items.jsonl", *make_evaluation(records, lambda m, i, k: "1"))
    heard = []
    monkeypatch.setattr(reward_files, "load_rewards", lambda options: lambda *case: heard.append(case) or 1.0)
    for source, known in ((str(tmp_path / "items.jsonl"), {"task": "reviews"}), ("gone", {})):
        judged.answer_scores(judged.Judged(reward="r"), rows, [source])
        assert heard == [("and?", said, known | {"messages": talk(k)}) for k in "pq" for said in "12"]
        heard.clear()


def test_a_study_without_judgements_is_refused(study, monkeypatch, capsys):
    folder = study(annotators=(), close=False)
    log.close(folder, early=True)
    with pytest.raises(UserError, match="no pair was judged"):
        report(monkeypatch, capsys, str(folder))


@pytest.mark.parametrize("needed, words", [(50.0, "20 more"), (30.0, "enough"), (None, "never enough")])
def test_what_is_still_needed_is_said(needed, words):
    said = judged.power_line(30, 0.2, {"the rate seen": needed, "60 %": 40.0})
    assert said.startswith("30 prompts can show a win rate 20 points from 50 %; ")
    assert said.endswith(f"for the rate seen: {words}; for 60 %: 10 more")
