"""items.jsonl: what was written is what is read, and what is damaged is named."""

import json

import pytest

from minirlhf.evaluation.items import VERSION, TestSet, read_items, write_items
from minirlhf.evaluation.report import build
from minirlhf.harness.files import UserError

RECORDS = [{"prompt": "a好\u2028b", "response": "x\ny"}, {"prompt": "\ud800", "response": "🙂", "label": 1},
           {"messages": [{"role": "user", "content": "q"}], "conversation": 3}]  # fmt: skip


def say(model: str, i: int, k: int) -> str:
    return ["…", f"{model} says\n{i}\ud83d", "好\r\x85"][(i + k) % 3]


@pytest.fixture
def made(make_evaluation, tmp_path) -> tuple:
    """(path, run, sets): the items of two sets, written."""
    run, sets = make_evaluation(RECORDS, say, beta=0.1)
    (s,) = sets
    sets.append(TestSet("other, long", s.records[:2], s.items | {}, s.texts | {}, {"trained_on": ["p"]}))
    for table in (sets[1].items, sets[1].texts):
        for model, rows in table.items():
            table[model] = [x for x in rows if x["index"] < 2]
    write_items(tmp_path / "items.jsonl", run, sets)
    return tmp_path / "items.jsonl", run, sets


def test_what_is_read_is_what_was_written(made):
    """Order, texts of any script, line breaks of all kinds and lone surrogates too."""
    path, run, sets = made
    assert read_items(path) == (run, sets)
    again = path.with_name("again.jsonl")
    write_items(again, *read_items(path))
    assert again.read_bytes() == path.read_bytes()


def test_an_optimum_that_rests_on_too_few_samples_is_read(made):
    """It has no value, and then neither --from nor --reports could go on."""
    path, run, sets = made
    sets[0].about["optimum"] = {"effective_size": 7.0, "value": None}
    write_items(path, run, sets)
    assert read_items(path)[1][0].about["optimum"]["value"] is None


def test_the_file_is_json_in_utf_8_one_object_a_line(made):
    """In the order of the sets: what each is, its prompts, its texts, its responses, model by model."""
    path, run, sets = made
    lines = [json.loads(line) for line in path.read_text("utf-8").removesuffix("\n").split("\n")]
    assert lines[0] == {"kind": "run", "version": VERSION} | run and lines[1]["set"] == "made"
    assert lines[3] == {"kind": "prompt", "set": "made", "index": 1, "record": RECORDS[1]}
    assert lines[5] == {"kind": "text", "set": "made", "model": "base"} | sets[0].texts["base"][0]
    assert lines[14] == {"kind": "response", "set": "made", "model": "base"} | sets[0].items["base"][0]
    per_set = [["set"] + ["prompt"] * n + ["text"] * 3 * n + ["response"] * 9 * n for n in (3, 2)]
    assert [line["kind"] for line in lines] == ["run", *per_set[0], *per_set[1]]
    assert "好" in path.read_text("utf-8")


@pytest.mark.parametrize("names", [[], ["all"], ["chrf", "kl"]], ids=["default", "all", "two"])
def test_the_report_of_what_is_read_is_that_of_what_was_seen(names, make_evaluation, tmp_path):
    """Every number, text and figure of report.json, as JSON."""
    records = [{"prompt": p, "response": f"x {i}", "label": p} for i, p in enumerate("abca")]
    run, sets = make_evaluation(records, lambda m, i, k: f"{m} {'ab'[k % 2]} {i}", beta=0.5)
    write_items(tmp_path / "items.jsonl", run, sets)
    before, after = build(run, sets, names), build(*read_items(tmp_path / "items.jsonl"), names)
    assert json.dumps(after) == json.dumps(before) and after["tasks"]["made"]["metrics"]


# What are no items


def refused(path, lines: list) -> str:
    """The message about a file of these lines."""
    lines = (x if isinstance(x, str) else json.dumps(x) for x in lines)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_items(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
    return str(error.value).removeprefix(str(path))


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path):
    with pytest.raises(UserError, match="items.jsonl: No such file"):
        read_items(tmp_path / "items.jsonl")
    (tmp_path / "items.jsonl").write_bytes(b"\xff\xfd")
    with pytest.raises(UserError, match="items.jsonl: byte 0 is not UTF-8"):
        read_items(tmp_path / "items.jsonl")


@pytest.mark.parametrize("line, message", [
    ('{"kind": "response", "set": "ma', ", line 4: not JSON"),
    ("[1]", ", line 4: a JSON object is wanted, this is a list"),
    ({"set": "made"}, ", line 4: 'kind' is missing"),
    ("3", ", line 4: a JSON object is wanted, this is a int"),
    ("[" * 10**5, ", line 4: not JSON that can be read"),
    ({"kind": "song", "set": "made"}, ", line 4: 'song' is missing"),
    ({"kind": "prompt", "set": "x", "record": {}}, ", line 4: 'x' is missing, or stands before its set"),
    ({"kind": "prompt", "set": "made", "index": 0}, ", line 4: 'record' is missing"),
    ({"kind": "response", "set": "made"}, ", line 4: 'model' is missing"),
    ({"kind": "response", "set": "made", "model": "sft", "index": 0}, ", line 4: 'sample' is missing"),
    ({"kind": "text", "set": "made", "model": "sft", "index": 0}, ", line 4: 'nll' is missing"),
    ({"kind": "text", "model": "sft"}, ", line 4: 'set' is missing"),
    ({"kind": "run", "version": VERSION}, ", line 4: 'set' is missing"),
])
def test_a_bad_line_is_named_by_its_number(line, message, made):
    path = made[0]
    lines = path.read_text("utf-8").split("\n")[:-1]
    assert refused(path, [*lines[:3], line, *lines[3:]]).startswith(message)


@pytest.mark.parametrize("first", [
    {"kind": "run", "version": 1}, {"kind": "run"}, {"kind": "run", "version": VERSION + 1},
    {"kind": "set", "set": "made", "version": VERSION}, "", "\n \n",
], ids=["old", "none", "new", "set", "empty", "blank"])
def test_another_version_or_no_evaluation_is_refused(first, made):
    path = made[0]
    rest = path.read_text("utf-8").split("\n")[1:-1] if isinstance(first, dict) else []
    wanted = f": not the items of an evaluation of version {VERSION}; make them with evaluate.py"
    assert refused(path, [first, *rest]) == wanted


def test_the_items_of_version_1_which_knew_no_kinds_are_refused(tmp_path):
    old = {"set": "reviews", "model": "sft", "index": 0, "sample": -1, "response": "x"}
    assert refused(tmp_path / "items.jsonl", [old]).startswith(": not the items of an evaluation of version 3")


def test_a_file_that_was_cut_off_anywhere_is_refused(made):
    """Behind whichever line, unless that ended a set: models, or their last responses, are missing."""
    path, run, sets = made
    lines = path.read_text("utf-8").split("\n")[:-1]
    ended = next(n for n, line in enumerate(lines) if json.loads(line).get("set") == sets[1].title)
    for n in range(1, len(lines)):
        if n != ended:
            assert "was it cut off?" in refused(path, lines[:n])


@pytest.mark.parametrize("kind", ["prompt", "text", "response"])
def test_a_line_that_is_missing_in_the_middle_is_missed(kind, made):
    path, run, sets = made
    lines = path.read_text("utf-8").split("\n")[:-1]
    where = [n for n, line in enumerate(lines) if json.loads(line)["kind"] == kind][1]
    del lines[where]
    assert refused(path, lines).endswith("answers to made are missing; was it cut off?")


def test_a_file_of_which_nothing_is_missing_may_have_blank_lines(made):
    path, run, sets = made
    path.write_text(path.read_text("utf-8").replace("\n", "\n\n"), encoding="utf-8")
    assert read_items(path) == (run, sets)


@pytest.mark.parametrize("scores", [None, {}, {"merit": 1.0}])
def test_every_response_has_the_scores_of_the_others(scores, made):
    path, *_ = made
    lines = path.read_text("utf-8").split("\n")[:-1]
    where = [n for n, line in enumerate(lines) if json.loads(line)["kind"] == "response"]
    for n in (where[0], where[-1]):
        other = json.dumps(json.loads(lines[n]) | {"scores": scores})
        message = "'scores' is missing" if scores is None else "its scores are not those of the other responses"
        assert message in refused(path, [*lines[:n], other, *lines[n + 1 :]])


@pytest.mark.parametrize("reference, said", [
    (None, "line 1: 'reference' is missing"), ("nobody", "'nobody', a reference or what is compared with, is not one of")
])  # fmt: skip
def test_the_reference_is_one_of_the_models(reference, said, made):
    path, *_ = made
    first, *rest = path.read_text("utf-8").split("\n")[:-1]
    other = json.dumps(json.loads(first) | {"reference": reference})
    assert said in refused(path, [other, *rest])
