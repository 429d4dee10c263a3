"""What travels together is one object: no function of the package takes many parameters."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
MOST = 7


def parameters(function: ast.FunctionDef) -> list[str]:
    """Their names, that of the object itself left out."""
    a = function.args
    every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
    return [x.arg for x in every if x.arg not in ("self", "cls")]


def test_parameters_of_all_kinds_are_counted():
    (method,) = ast.parse("def f(self, a, /, b, *c, d=1, **e): pass").body
    assert parameters(method) == ["a", "b", "d", "c", "e"]


def test_no_function_has_more_parameters_than_can_be_remembered():
    seen = {}
    for path in sorted((ROOT / "minirlhf").rglob("*.py")):
        functions = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)]
        seen |= {f"{path.relative_to(ROOT)}:{f.lineno} {f.name}": parameters(f) for f in functions}
    assert len(seen) > 500 and {name: found for name, found in seen.items() if len(found) > MOST} == {}
