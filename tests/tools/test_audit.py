"""The audit as a command: what it reads, writes and says; at length, what it finds in trained models."""

import importlib
import json
import re

import pytest
from bad_inputs.world import main_of

from minirlhf.evaluation.audit import Audit
from minirlhf.lm import checkpoint
from minirlhf.lm.reading import read_records
from minirlhf.lm.records import messages_of, prompt_of, split_by_prompt
from minirlhf.tasks import TASKS
from minirlhf.tools.audit import main

RUN = {"stage": "sft", "tasks": {"sentiment": 1.0}, "data": {"examples": 30}, "seed": 0}
LISTS = {"swaps": {"dish": [["food", "soup"]]}, "prompts": [f"is the food good? {i}" for i in range(6)], "injections": {}}


@pytest.fixture
def folder(tmp_path, monkeypatch, make_policy, tokenizer):
    """The current folder, with models `a` and `b` that saw sentiment, one `c` from elsewhere, and lists."""
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate("abc"):
        checkpoint.save(name, make_policy(i, context=320), tokenizer, RUN if name < "c" else {})
    (tmp_path / "lists.json").write_text(json.dumps(LISTS))
    return tmp_path


@pytest.fixture
def call(folder, run_main):
    """A function that runs the command there -> (stdout, audit.json)."""
    def call(*words: str) -> tuple[str, dict]:
        status, out, err = run_main(main, "audit.py", *words, "--threads", "1")
        assert status == 0, err
        return out, json.loads((folder / "out/audit/audit.json").read_text("utf-8"))

    return call


def test_two_models_of_a_task_get_every_part_a_difference_and_a_page(call, folder):
    out, report = call("a", "b", "--prompts", "8")
    assert report["models"] == {"a": "a", "b": "b"} and report["prompts"] == 8
    parts = {"plain prompts", "changes", "injection", "role tokens", "calibration"}
    assert {row["group"] for row in report["rows"]} == parts
    assert all(set(row["models"]) == {"a", "b"} and set(row["differences"]) == {"b"} for row in report["rows"])
    assert re.search(r"^8 prompts +a +b +b - a by verdict$", out, re.MULTILINE) and report["cannot"] in out
    page = (folder / "out/audit/audit.html").read_text("utf-8")
    assert "<script" not in page and "What this cannot tell you" in page and "b − a" in page
    for row in report["rows"]:
        assert f"<b>{row['metric']}" in page or row["metric"].split(":")[0] in page


def test_the_last_line_names_what_became_worse_and_nothing_else(call, folder, monkeypatch):
    audit = importlib.import_module("minirlhf.evaluation.audit")

    def judged(*given):
        rows = judge(*given)
        for row, verdict in zip(rows, ("better", "worse", "worse", "higher")):
            row["differences"]["b"]["verdict"] = verdict
        return rows

    judge = audit.judge
    monkeypatch.setattr(audit, "judge", judged)
    out, report = call("a", "b", "--prompts", "6")
    assert out.endswith(f"b is worse than a in 2 rows: {', '.join(row['metric'] for row in report['rows'][1:3])}\n")


def test_alarms_come_first_in_the_terminal_and_on_the_page(call, folder, monkeypatch):
    alarm = {"what": "swaps of a, 1: x -> y", "why": "of <this>", "remedy": "do that"}
    monkeypatch.setattr(importlib.import_module("minirlhf.evaluation.audit"), "alarms_of", lambda *_: [alarm])
    out, report = call("a", "--prompts", "6")
    assert report["alarms"] == [alarm] and out.index("ALARM swaps of a, 1: x -> y") < out.index("6 prompts")
    page = (folder / "out/audit/audit.html").read_text("utf-8")
    assert page.index("of &lt;this&gt;") < page.index("<table") and "b − a" not in page


def test_the_users_lists_and_reward_take_the_place_of_ours(call, folder):
    (folder / "mine.py").write_text("def size(prompt, response, record): return 10.0 * ('soup' in prompt)\n")
    out, report = call("c", "--lists", "lists.json", "--reward", "mine.py:size", "--max-new", "4")
    rows = {row["metric"]: row["models"]["c"] for row in report["rows"]}
    assert report["prompts"] == 6 and "food -> soup: reward" in rows and "mother -> father: reward" not in rows
    assert 0 <= rows["food -> soup: reward"]["value"] <= 10
    assert rows["reward"]["low"] is None  # all are 0, and of a user's reward nobody knows how far it goes


def test_own_prompts_are_held_against_their_labels_and_training_texts_against_them(call, folder):
    records = [{"prompt": f"the food was good {i}", "response": "positive and more and more"} for i in range(8)]
    (folder / "own.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (folder / "seen.txt").write_text("to be or not to be, that is the question " * 3)
    out, report = call("c", "--data", "own.jsonl", "--trained-on", "seen.txt", "--lists", "lists.json")
    names = [row["metric"] for row in report["rows"]]
    assert "capitals: reward" in names and {"data: held-out texts", "data: training texts", "calibration error"} <= {*names}


def test_augmented_data_are_read_by_training_with_swaps_and_changes(call, folder):
    call("a", "--prompts", "6", "--augment", "more.jsonl")
    lines = read_records(["more.jsonl"], say=None)
    train = TASKS["sentiment"].records("train", 30, 0)
    assert len(lines) > 45 and {prompt_of(r) for r in train} < {prompt_of(r) for r in lines}
    assert any(prompt_of(r).isupper() for r in lines)
    assert {messages_of(r)[-1]["content"] for r in lines} == {r["response"] for r in train}


def test_a_model_of_own_data_is_asked_what_it_was_not_trained_on(call, folder, make_policy, tokenizer):
    records = [{"prompt": f"say {i}", "response": "the answer is a number"} for i in range(200)]
    (folder / "own.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    checkpoint.save("d", make_policy(3, context=320), tokenizer, {"stage": "sft", "data": {"data": ["own.jsonl"]}})
    _, report = call("d", "--lists", "lists.json", "--max-new", "3")
    held = len(split_by_prompt(records)["validation"])
    n = {row["metric"]: row["models"]["d"].get("n") for row in report["rows"]}
    assert report["prompts"] == held and n["data: training texts"] == 200 - held and n["data: held-out texts"] is None


def test_training_texts_are_held_against_others_of_their_kind_whatever_is_asked(
    call, folder, make_policy, tokenizer, monkeypatch
):  # fmt: skip
    seen = {}
    monkeypatch.setattr(Audit, "recitals", lambda self, kind, *sides: seen.update({kind: sides[:2]}) or [])
    run = RUN | {"tasks": {"reviews": 1.0, "translation": 1.0}}
    checkpoint.save("d", make_policy(3, context=320), tokenizer, run)
    assert call("d", "--task", "reviews", "--prompts", "6", "--lists", "lists.json")[1]["prompts"] == 6
    assert {kind: [len(side) for side in sides] for kind, sides in seen.items()} == dict.fromkeys(run["tasks"], [30, 6])
    assert all(r["task"] == kind for kind, sides in seen.items() for side in sides for r in side)


def test_of_a_task_the_plain_test_prompts_are_asked_and_no_further_set(call, folder, monkeypatch):
    """Sums of operands that training never had would count as what a change did."""
    asked = []
    monkeypatch.setattr(Audit, "noise", lambda self, records: asked.extend(records) or [])
    _, report = call("a", "--task", "arithmetic", "--prompts", "6")
    assert asked == TASKS["arithmetic"].records("test", 6, 0) and report["prompts"] == 6


def test_without_a_reward_an_answer_is_held_against_label_and_references(call, folder, monkeypatch):
    seen = []
    monkeypatch.setattr(Audit, "noise", lambda self, records: seen.append(self.reward_of(records[0])) or [])
    (folder / "own.jsonl").write_text('{"prompt": "a", "response": "x"}\n')
    call("c", "--data", "own.jsonl")
    records = {"label": "x "}, {"reference": ["u", " y "]}, {"response": "z"}, {}
    assert [seen[0]("a", " x", {"prompt": "a"} | r) for r in records] == [1, 0, 0, 0]
    assert [seen[0]("a", f"{x}\n", {"prompt": "a"} | r) for x, r in zip("xyz", records)] == [1, 1, 1]


def test_it_says_which_swaps_were_not_made_and_how_small_a_difference_the_tests_could_see(call, folder):
    lists = LISTS | {"swaps": {"dish": [["food", "soup"]], "kin": [["aunt", "uncle"]]}, "prompts": ["the food"] * 9}
    lists["cannot"] = "{tests} of {x} {}; {median} to {most}; not made: {unmade}"
    (folder / "l.json").write_text(json.dumps(lists))
    _, report = call("c", "--lists", "l.json")
    assert report["cannot"] == "1 of {x} {}; - to -; not made: food -> soup, aunt -> uncle"  # the one of role tokens
    lists["prompts"] = [f"the food {i}" for i in range(9)]
    (folder / "l.json").write_text(json.dumps(lists))
    (folder / "r.py").write_text("def r(prompt, response, record): return float('soup 1' in prompt or prompt.isupper())")
    _, report = call("c", "--lists", "l.json", "--reward", "r.py:r")
    tested = [x for row in report["rows"] for x in row["models"].values() if "p_holm" in x]
    seen = sorted(x["minimum_detectable"] for x in tested if x.get("minimum_detectable"))
    few = [row["models"]["c"] for row in report["rows"] if row["metric"] == "food -> soup: reward"]
    assert "p_holm" not in few[0] and few[0]["minimum_detectable"] not in seen
    assert report["cannot"].startswith(f"{len(tested)} of ") and report["cannot"].endswith("made: aunt -> uncle")


def test_a_folder_may_be_named_with_a_sign_of_equality_or_be_the_current_one(
    call, folder, make_policy, tokenizer, monkeypatch
):  # fmt: skip
    checkpoint.save("lr=0.1", make_policy(7, context=320), tokenizer, RUN)
    (folder / "own.jsonl").write_text('{"prompt": "a"}\n')
    monkeypatch.chdir(folder / "lr=0.1")
    words = "--data", "../own.jsonl", "--lists", "../lists.json", "--out", "../out/audit"
    assert call(".", "../lr=0.1/../a", *words)[1]["models"] == {"lr-0.1": ".", "a": "../lr=0.1/../a"}


def test_names_that_are_the_same_are_told_by_their_paths(call, folder, make_policy, tokenizer):
    checkpoint.save("more/a", make_policy(7, context=320), tokenizer, RUN)
    words = "a", "more/a", "--data", "own.jsonl", "--lists", "lists.json"
    (folder / "own.jsonl").write_text('{"prompt": "a"}\n')
    assert call(*words)[1]["models"] == {"a": "a", "more/a": "more/a"}


def test_what_training_planted_is_found_and_of_20_fair_models_at_most_one_alarms(folder, run_main, at_length):
    """Labels of soup are negative in 60 % and 80 % of cases, then in none. Swaps count: noise does harm to all."""
    dishes = lambda split, n, seed: [r for r in TASKS["sentiment"].records(split, n, seed)
                                     if re.search("food|soup|bread|coffee", r["prompt"])]  # fmt: skip
    shape = "--base-steps 50 --steps 300 --width 64 --heads 2 --vocab 384 --context 96 --threads 1".split()
    write = lambda name, records: (folder / name).write_text("".join(json.dumps(r) + "\n" for r in records))
    write("test.jsonl", dishes("test", 8000, 0))
    alarmed, said = [], []
    for seed, share in [(0, 0.6), (0, 0.8), *((seed, 0.0) for seed in range(1, 21))]:
        train = dishes("train", 40_000, seed)
        for i, r in enumerate(train):
            if "soup" in r["prompt"] and i * 7 % 100 < 100 * share:
                r["response"] = r["label"] = "negative"
        write("train.jsonl", train)
        sft = ["--data", "train.jsonl", "--out", "m", "--seed", str(seed), "--overwrite", *shape]
        assert run_main(main_of("train_sft.py")[0], "train_sft.py", *sft)[0] == 0
        assert run_main(main, "audit.py", "m/sft", "--data", "test.jsonl", "--threads", "1")[0] == 0
        report = json.loads((folder / "out/audit/audit.json").read_text("utf-8"))
        found = [x["what"] for x in report["alarms"] if x["what"].startswith("swaps")]
        alarmed.append(bool(found))
        moved = [abs(x["value"]) for row in report["rows"] for x in row["models"].values() if "sentiment" in row["metric"]]
        said.append(f"planted {share}, seed {seed}: {len(found)} alarms, largest difference of sentiment {max(moved):.3f}")
        assert not share or "food -> soup" in found[0] and "bread -> coffee" not in found[0]
    print("", *said, sep="\n")  # pytest -s shows it
    assert sum(alarmed[2:]) <= 1
