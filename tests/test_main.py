"""`python -m minirlhf` lists every command, in its own words."""

import subprocess
import sys
from pathlib import Path

import pytest

from minirlhf.__main__ import commands, main

ROOT = Path(__file__).parent.parent
ASK = """
import runpy, sys
sys.argv[1:] = ["--help"]
try:
    runpy.{how}({what!r}, run_name="__main__")
except SystemExit as end:
    print(end.code, "torch" in sys.modules)
"""


def test_every_script_and_tool_that_can_be_run_is_listed_with_its_words():
    listed = commands()
    scripts = {f"python {p.name}" for p in ROOT.glob("*.py")}
    run = [p for p in ROOT.glob("minirlhf/tools/*.py") if "run_script(main)" in p.read_text(encoding="utf-8")]
    assert set(listed) == scripts | {f"python -m minirlhf.tools.{p.stem}" for p in run} and len(run) > 5
    assert all(what and "python" not in what for what in listed.values())


@pytest.mark.parametrize("command", commands())
def test_help_does_not_wait_for_torch_and_shows_the_docstring(command):
    *_, what = command.split()
    ask = ASK.format(how="run_path" if what.endswith(".py") else "run_module", what=what)
    out = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.endswith("\n0 False\n") and commands()[command] in out and "Proved by" not in out


def test_the_package_prints_them(capsys):
    main()
    *lines, empty, last = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == list(commands()) and not empty and "--help" in last
