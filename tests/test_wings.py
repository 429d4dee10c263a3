"""Imports run one way between the wings of the package."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "minirlhf"
MAY_IMPORT = {  # wing -> the wings it may name, beside itself
    "harness": "",
    "metrics": "",
    "lm": "harness",
    "tasks": "harness metrics lm",
    "rl": "harness lm",
    "theory": "lm rl",
    "preferences": "harness metrics lm rl",
    "annotation": "harness metrics lm",
    "evaluation": "harness metrics lm tasks rl theory",
    "html": "harness metrics evaluation",
    "experiments": "harness metrics lm tasks rl theory preferences evaluation html",
    "real": "harness lm evaluation experiments",
    "tools": "harness metrics lm tasks rl theory preferences annotation evaluation html experiments real",
}


def wings_named(source: str) -> set[str]:
    """The wings that a file imports, by `import minirlhf.W...` or `from minirlhf... import ...`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        assert not (isinstance(node, ast.ImportFrom) and node.level), "a relative import"
        if isinstance(node, ast.ImportFrom) and node.module == "minirlhf":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("minirlhf."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("minirlhf.")}
    return found


@pytest.mark.parametrize("wing", MAY_IMPORT)
def test_a_wing_imports_only_what_it_stands_on(wing):
    for path in (PACKAGE / wing).rglob("*.py"):
        named = wings_named(path.read_text(encoding="utf-8"))
        assert named <= {wing, *MAY_IMPORT[wing].split()}, f"{path.name} imports {named}"


def test_every_module_is_in_a_wing_and_the_order_has_no_circle():
    assert {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"} == set(MAY_IMPORT)
    assert {p.name for p in PACKAGE.glob("*.py")} <= {"__init__.py", "__main__.py"}
    order = list(MAY_IMPORT)  # a wing names only what stands before it in this table
    assert all(order.index(other) < order.index(wing) for wing in order for other in MAY_IMPORT[wing].split())
