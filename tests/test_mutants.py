"""The mutants: in every run that the table holds, with --mutants that each of them is killed."""

import ast
import multiprocessing
import os
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
from mutants import MUTANTS, Mutant, markdown

ROOT = Path(__file__).parent.parent
ANOTHER_COPY = 99  # exit status
# Each mutant has a process of its own: a fork, where there are forks, of one that has imported torch already.
PROCESSES = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")


def patched(mutant: Mutant) -> str:
    """The mutant's file with the defect in it."""
    return (ROOT / "minirlhf" / mutant.file).read_text("utf-8").replace(mutant.old, mutant.new)


def run_tests(folder: Path, file: str, tests: list[str], output: Path) -> None:
    """In a process of its own: exit with pytest's status for the tests of the package in `folder`.

    Exits with ANOTHER_COPY if that is not where `file` was imported from.
    """
    os.chdir(ROOT)
    os.environ.pop("CI", None)  # with it pytest tells lists apart line by line, for minutes if they are long
    with output.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    options = ["-x", "-rf", "--color=no", "-p", "no:cacheprovider", "-o", f"pythonpath={folder} {ROOT / 'tests'}"]
    status = pytest.main([*options, *tests])
    module = sys.modules.get(f"minirlhf.{file.removesuffix('.py').replace('/', '.')}")
    mutated = module is not None and Path(module.__file__) == folder / "minirlhf" / file
    sys.exit(int(status) if mutated else ANOTHER_COPY)


def outcome(folder: Path, file: str, tests: list[str]) -> tuple[int, str]:
    """(exit status, what pytest said) of `run_tests`."""
    output = folder / "output.txt"
    process = PROCESSES.Process(target=run_tests, args=(folder, file, tests, output))
    process.start()
    process.join(300)
    process.kill()
    process.join()
    return process.exitcode, output.read_text("utf-8", "replace")


def copy_package(folder: Path) -> None:
    """minirlhf/ of this checkout, without compiled files."""
    shutil.copytree(ROOT / "minirlhf", folder / "minirlhf", ignore=shutil.ignore_patterns("__pycache__"))


@pytest.fixture(scope="session")
def sound(request, tmp_path_factory) -> None:
    """Without a mutant, all tests that are asked for pass: else a failure would say nothing."""
    if PROCESSES.get_start_method() == "forkserver":
        PROCESSES.set_forkserver_preload(["torch", "pytest"])
    folder = tmp_path_factory.mktemp("sound")
    copy_package(folder)
    mutants = [item.callspec.params["mutant"] for item in request.session.items]
    status, said = outcome(folder, mutants[0].file, sorted({mutant.test for mutant in mutants}))
    assert status == 0, said


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_mutant_is_killed(mutant, sound, tmp_path):
    """Its test fails, and for what the code does: one that cannot be imported, or is misspelt, proves nothing."""
    copy_package(tmp_path)
    (tmp_path / "minirlhf" / mutant.file).write_text(patched(mutant), "utf-8")
    status, said = outcome(tmp_path, mutant.file, [mutant.test])
    misspelt = re.search(r"^E +(Name|Type|Attribute)Error", said, re.MULTILINE)
    assert status == 1 and f"FAILED {mutant.test}" in said and not misspelt, said


def test_each_mutant_changes_one_place_and_leaves_python():
    for mutant in MUTANTS:
        text = (ROOT / "minirlhf" / mutant.file).read_text("utf-8")
        assert text.count(mutant.old) == 1 and mutant.new != mutant.old, mutant.name
        ast.parse(patched(mutant))


def test_there_are_many_mutants_and_no_two_are_the_same():
    assert len(MUTANTS) >= 30 and max(Counter(mutant.name for mutant in MUTANTS).values()) == 1
    assert max(Counter((mutant.file, mutant.old, mutant.new) for mutant in MUTANTS).values()) == 1


def test_the_named_tests_exist():
    named = {mutant.test.partition("[")[0] for mutant in MUTANTS}
    there = {f"{path}::{node.name}" for path in {test.partition("::")[0] for test in named}
             for node in ast.parse((ROOT / path).read_text("utf-8")).body if isinstance(node, ast.FunctionDef)}
    assert named - there == set()


def test_the_table_for_readers_has_a_row_a_mutant():
    lines = markdown().splitlines()
    assert len(lines) == 2 + len(MUTANTS) and {line.count("|") for line in lines} == {5}
