"""A run's steps are commands that parse; what is done is not made again, and what was stopped goes on."""

import importlib
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from minirlhf.harness import options
from minirlhf.harness.files import UserError, read_json, write_json
from minirlhf.real import runs
from minirlhf.tools import real_run

ENV = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
PLACES = {"model": "m.gguf", "data": "d", "out": "o", "seed": "3"}
REPORT = {"against": "a", "models": {"a": {}, "b": {}}}


class Parsed(Exception):
    """The options are read."""


def commands():
    return {f"{run} {name}": words for run, (_, steps) in runs.RUNS.items() for name, words in steps().items()}


@pytest.mark.parametrize("step", commands())
def test_each_step_is_a_command_of_a_script_that_takes_its_options(step, monkeypatch):
    _, *argv = runs.command_of(commands()[step], **PLACES)
    argv = argv[argv[0] == "-m" :]
    module = importlib.import_module(argv.pop(0).removesuffix(".py"))

    def parse(doc, *classes, **more):
        options.parse(doc, *classes, argv=argv, **more)
        raise Parsed

    monkeypatch.setattr(module, "parse", parse)
    with pytest.raises(Parsed):
        module.main()
    assert argv[argv.index("--seed") + 1] in ("3", "13") and argv[argv.index("--out") + 1].startswith("o/")


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """Three steps in the place of a run's, of scripts that write down their arguments; the second can fail."""
    (tmp_path / "a.py").write_text("import sys; open('log', 'a').write(' '.join(sys.argv[1:]) + '\\n'); print('x\\n\\nsaid')")
    (tmp_path / "b.py").write_text((tmp_path / "a.py").read_text() + "; sys.exit(open('fails').read() != '')")
    steps = {"one": "a.py --out {out}/one", "two": "b.py --init {model} --out {out}/two", "three": "a.py --out {out}/three"}
    monkeypatch.setattr(runs, "RUNS", {"sums": (lambda _: {"d": [{"prompt": "é"}]}, lambda: steps)})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_goes_on_where_it_stopped_and_says_what_it_took(scripts, capsys):
    out = Path("out")
    (scripts / "fails").write_text("yes")
    with pytest.raises(UserError, match="two: ended with status 1; call this again"):
        runs.walk("sums", "m", "", out, 5)
    assert json.loads((out / "data" / "d.jsonl").read_text()) == {"prompt": "é"}
    (scripts / "fails").write_text("")
    (out / "5" / "two").mkdir(parents=True)
    for name in ("run.json", "train_state.pt"):
        (out / "5" / "two" / name).write_text("{}")
    assert runs.walk("sums", "m", "", out, 5) > 0
    first = ["--out out/5/one", "--init m --out out/5/two"]
    assert (scripts / "log").read_text().splitlines() == [*first, "--resume --out out/5/two", "--out out/5/three"]
    assert (out / "5" / "three.txt").read_text() == "x\n\nsaid\n" and capsys.readouterr().out.count("\nsaid\n") == 3
    runs.walk("sums", "m", "", out, 5)
    assert len((scripts / "log").read_text().splitlines()) == 4
    runs.walk("sums", "m", "", out, 6)  # another seed is made anew
    assert len((scripts / "log").read_text().splitlines()) == 7


def test_what_a_step_says_is_utf_8_whatever_the_locale(scripts, monkeypatch, capsys):
    (scripts / "fails").write_text("")
    (scripts / "a.py").write_text("print('x\\n\\n±1')")
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    runs.walk("sums", "m", "", Path("out"), 5, ["one"])
    assert capsys.readouterr().out.endswith("±1\n")


def test_reviews_are_given_where_they_are_read(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["real_run", "sums", "--data", "own.jsonl"])
    with pytest.raises(UserError, match="--data can do nothing where RUN is sums"):
        real_run.main()


def test_one_step_can_be_made_alone(scripts):
    runs.walk("sums", "m", "", Path("out"), 5, ["three"])
    assert (scripts / "log").read_text().splitlines() == ["--out out/5/three"]
    with pytest.raises(UserError, match="--only four: sums has the steps one, two, three"):
        runs.walk("sums", "m", "", Path("out"), 5, ["four"])


def test_another_model_or_other_records_want_another_folder(scripts, monkeypatch):
    """What is done would be taken for theirs. The same model by another path is the same; a folder of before says nothing."""
    (scripts / "fails").write_text("")
    runs.walk("sums", "m", "", Path("out"), 5)
    runs.walk("sums", str(scripts / "m"), "", Path("out"), 5)
    with pytest.raises(UserError, match="two was begun with b.py --init m --out .*, not b.py --init n --out .*; choose another --out"):
        runs.walk("sums", "n", "", Path("out"), 5)
    kept = Path("out/5/steps.json")
    steps = json.loads(kept.read_text())
    kept.write_text(json.dumps({name: {k: x[k] for k in ("seconds", "done")} for name, x in steps.items()}))
    runs.walk("sums", "n", "", Path("out"), 5)
    assert len((scripts / "log").read_text().splitlines()) == 3
    monkeypatch.setitem(runs.RUNS, "sums", (lambda _: {"d": [{"prompt": "other"}]}, runs.RUNS["sums"][1]))
    with pytest.raises(UserError, match="d.jsonl: was begun with other records; choose another --out"):
        runs.walk("sums", "m", "", Path("out"), 6)


def test_an_interrupt_is_the_steps_own_affair_whose_work_is_kept_and_whose_time_counts(scripts, monkeypatch):
    """Were the walk to raise at once, the step would be killed while it saves."""
    (scripts / "a.py").write_text("""
import os, signal, sys, time
def save(*_):
    time.sleep(0.6)
    open("saved", "w").close()
    sys.exit(130)
signal.signal(signal.SIGINT, save)
os.killpg(0, signal.SIGINT) if not os.path.exists("saved") else None
time.sleep(0.1)
""")
    code = "from pathlib import Path; from minirlhf.real import runs; runs.RUNS['sums'] = (lambda _: {}, lambda: {'one': 'a.py --out {out}/one'})"
    code += "; print(runs.walk('sums', 'm', '', Path('out'), 5))"
    start = partial(subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, start_new_session=True, env=ENV)
    first, again = start(), start()
    assert "KeyboardInterrupt" in first.stderr and (scripts / "saved").exists()
    assert again.returncode == 0 and float(again.stdout.splitlines()[-1]) > 0.7


def report(folder: Path, a: float, b: float, verdict: str) -> None:
    folder.mkdir(parents=True)
    rows = [{"metric": f"model:{folder.parent}/rm:positive", "models": {"a": {"value": a}, "b": {"value": b}}, "differences": {"b": {"verdict": verdict}}},
            {"metric": "none", "models": {"a": {"value": None}, "b": {"value": 1.0}}, "differences": {}}]  # fmt: skip
    (folder / "report.json").write_text(json.dumps(REPORT | {"tasks": {"data": {"metrics": rows}}}))


def test_the_table_has_the_mean_of_the_seeds_with_the_least_and_the_most_and_counts_verdicts(tmp_path):
    report(tmp_path / "0" / "test", 0.1, 0.5, "better")
    report(tmp_path / "1" / "test", 0.2, 0.3, "worse")
    report(tmp_path / "2" / "test", 0.3, 0.1, "better")
    head, _, a, b = runs.seeds_table(tmp_path).splitlines()
    assert head == "| test, 3 seeds | rm:positive | none | first, against a |"
    assert a == "| a | 0.200 (0.100–0.300) | – |  |"
    assert b == "| b | 0.300 (0.100–0.500) | 1.000 (1.000–1.000) | 2 better, 1 worse |"


def test_a_metric_that_one_seed_lacks_is_of_the_others(tmp_path):
    """As the share of J*, where too few samples tell it: columns go by name."""
    for seed in range(2):
        report(tmp_path / str(seed) / "test", 0.1 + seed / 10, 0.5, "better")
    lacking = read_json(tmp_path / "0" / "test" / "report.json")
    del lacking["tasks"]["data"]["metrics"][0]
    write_json(tmp_path / "0" / "test" / "report.json", lacking)
    head, _, a, _ = runs.seeds_table(tmp_path).splitlines()
    assert head == "| test, 2 seeds | none | rm:positive | first, against a |" and a == "| a | – | 0.200 |  |"


def test_the_command_says_its_total_and_where_a_missing_model_comes_from(scripts, monkeypatch, capsys):
    (scripts / "fails").write_text("")
    monkeypatch.setattr(sys, "argv", ["real_run", "sums", "--seed", "2", "--model", "m"])
    with pytest.raises(UserError, match="--model m: not there; minirlhf/real/README.md says"):
        real_run.main()
    (scripts / "m").write_text("")
    real_run.main()
    assert capsys.readouterr().out.endswith("sums, seed 2: 0.0 minutes in all\n")
