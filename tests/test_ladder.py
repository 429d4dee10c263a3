"""The ladder of speed: each rung of `.ci/ladder.py` fits the code that it takes a trick out of."""

import ast
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LADDER = runpy.run_path(str(ROOT / ".ci" / "ladder.py"))


@pytest.mark.parametrize("rung", LADDER["LADDER"], ids=lambda rung: rung.name)
def test_a_rung_changes_code_and_leaves_python(rung, tmp_path):
    copy = LADDER["copy_of"](tmp_path)
    LADDER["without"](rung, copy)
    for file in {file for file, _, _ in rung.patches}:
        text = (copy / "minirlhf" / file).read_text("utf-8")
        assert text != (ROOT / "minirlhf" / file).read_text("utf-8")
        ast.parse(text)


def test_a_patch_that_no_longer_fits_is_named(tmp_path):
    rung = LADDER["Rung"]("an old trick", (("lm/model.py", "no such text", ""),), ())
    with pytest.raises(SystemExit, match="an old trick: lm/model.py has 'no such text' 0 times, not once"):
        LADDER["without"](rung, LADDER["copy_of"](tmp_path))
