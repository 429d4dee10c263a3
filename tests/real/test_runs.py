"""A run's steps are commands that parse; what is done is not made again, and what was stopped goes on."""

import importlib
import sys

import pytest

from minirlhf.harness import options
from minirlhf.harness.files import UserError
from minirlhf.real import runs
from minirlhf.tools import real_run

PLACES = {"model": "m.gguf", "data": "d", "out": "o", "seed": "3"}


class Parsed(Exception):
    """The options are read."""


@pytest.mark.parametrize("words", [words for _, steps in runs.RUNS.values() for words in steps.values()])
def test_each_step_is_a_command_of_a_script_that_takes_its_options(words, monkeypatch):
    _, script, *argv = runs.command_of(words, **PLACES)
    module = importlib.import_module(script.rsplit("/")[-1].removesuffix(".py"))

    def parse(doc, *classes, **more):
        options.parse(doc, *classes, argv=argv, **more)
        raise Parsed

    monkeypatch.setattr(module, "parse", parse)
    with pytest.raises(Parsed):
        module.main()
    assert argv[argv.index("--seed") + 1] == "3"


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """Three steps in the place of a run's, of scripts that write down their arguments; the second can fail."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.py").write_text("import sys; open('log', 'a').write(' '.join(sys.argv[1:]) + '\\n'); print('x\\n\\nsaid')")
    (root / "b.py").write_text((root / "a.py").read_text() + "; sys.exit(open('fails').read() != '')")
    steps = {"one": "a.py --out {out}/one", "two": "b.py --init {model} --out {out}/two", "three": "a.py --out {out}/three"}
    monkeypatch.setattr(runs, "ROOT", root)
    monkeypatch.setattr(runs, "RUNS", {"r": (lambda data: data.mkdir(parents=True, exist_ok=True), steps)})
    monkeypatch.setattr(real_run, "RUNS", runs.RUNS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_goes_on_where_it_stopped_and_says_what_it_took(scripts, capsys):
    (scripts / "fails").write_text("yes")
    with pytest.raises(UserError, match="two: ended with status 1; call this again"):
        runs.walk("r", "m", scripts / "out", 5)
    (scripts / "fails").write_text("")
    (scripts / "out" / "5" / "two").mkdir(parents=True)
    (scripts / "out" / "5" / "two" / "train_state.pt").write_text("")
    assert runs.walk("r", "m", scripts / "out", 5) > 0
    own = scripts / "out" / "5"
    first = [f"--out {own}/one", f"--init m --out {own}/two"]
    assert (scripts / "log").read_text().splitlines() == [*first, f"--resume --out {own}/two", f"--out {own}/three"]
    assert (own / "three.txt").read_text() == "x\n\nsaid\n" and capsys.readouterr().out.count("\nsaid\n") == 3
    runs.walk("r", "m", scripts / "out", 5)
    assert len((scripts / "log").read_text().splitlines()) == 4
    runs.walk("r", "m", scripts / "out", 6)  # another seed is made anew
    assert len((scripts / "log").read_text().splitlines()) == 7


def test_the_command_says_its_total(scripts, monkeypatch, capsys):
    (scripts / "fails").write_text("")
    monkeypatch.setattr(sys, "argv", ["real_run", "r", "--seed", "2"])
    monkeypatch.setattr(options, "check", lambda *_: None)  # r is no run of ours
    real_run.main()
    assert capsys.readouterr().out.endswith("r, seed 2: 0.0 minutes in all\n")
