"""`python -m minirlhf` lists every command, in its own words."""

from pathlib import Path

from minirlhf.__main__ import commands, main

ROOT = Path(__file__).parent.parent


def test_every_script_and_tool_that_can_be_run_is_listed_with_its_words():
    listed = commands()
    scripts = {f"python {p.name}" for p in ROOT.glob("*.py")}
    run = [p for p in ROOT.glob("minirlhf/tools/*.py") if "run_script(main)" in p.read_text(encoding="utf-8")]
    assert set(listed) == scripts | {f"python -m minirlhf.tools.{p.stem}" for p in run} and len(run) > 5
    assert all(what and "python" not in what for what in listed.values())


def test_the_package_prints_them(capsys):
    main()
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()] == list(commands())
