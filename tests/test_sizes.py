"""The sizes that keep the core readable, and the core apart from what stands on it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = "lm/bpe lm/tokenizer lm/model lm/chat lm/batches lm/generation lm/sft rl/rewards rl/losses rl/rollout"
CORE = [*f"{CORE} rl/algorithms rl/ppo".split(), "lm/optim", "lm/logits", "rl/config"]  # the last three help
ALSO = ["lm/records"]  # what a record is; beside the core, and like it below all that comes later
OPTIONS = ["lm/config"]  # of the core, and of chapters that it loads only where they are asked for


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def imported(path: Path) -> set[str]:
    """The modules of the package that a file names, as wing/module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("minirlhf."):
            wing, _, module = node.module.removeprefix("minirlhf.").partition(".")
            found |= {f"{wing}/{module}"} if module else {f"{wing}/{alias.name}" for alias in node.names}
    return found


def test_the_core_and_the_two_training_scripts_are_read_in_an_afternoon():
    files = [ROOT / "minirlhf" / f"{name}.py" for name in CORE] + [ROOT / "train_sft.py", ROOT / "train_ppo.py"]
    assert sum(map(lines_of, files)) <= 2100


@pytest.mark.parametrize("name", [*CORE, *ALSO])
def test_the_core_imports_no_chapter_outside_of_it(name):
    named = imported(ROOT / "minirlhf" / f"{name}.py")
    assert {x for x in named if not x.startswith("harness/")} <= {*CORE, *ALSO, *OPTIONS}


@pytest.mark.parametrize("name", ["train_sft.py", "train_ppo.py", "evaluate.py"])
def test_a_script_wires_in_100_lines(name):
    assert lines_of(ROOT / name) <= 100


def test_a_file_is_a_chapter():
    long = {str(path): n for path in (ROOT / "minirlhf").rglob("*.py") if (n := lines_of(path)) > 310}
    assert not long


def test_the_readme_takes_five_minutes():
    assert lines_of(ROOT / "README.md") <= 250
