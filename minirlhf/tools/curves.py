"""Overlay the curves of training runs: python -m minirlhf.tools.curves out/ppo out/grpo-seed*

Runs that differ in nothing but the seed are one line: their mean, in a band from the lowest to the highest. Folders of
SFT have curves too. Proved by tests/tools/test_curves.py.
"""

import json
from dataclasses import dataclass, fields
from os.path import commonpath, commonprefix, relpath
from pathlib import Path

from minirlhf.harness.files import write_atomic
from minirlhf.harness.folders import read_run
from minirlhf.harness.options import option, parse, run_script
from minirlhf.html.curves import Groups, block_lines, curves_html, curves_svg, log_of
from minirlhf.html.markup import document
from minirlhf.rl.watch_options import Watching

APART = {"out", "resume", "overwrite", *(f.name for f in fields(Watching))}  # in which runs that are alike may differ


@dataclass(frozen=True)
class Options:
    """What to draw."""

    runs: tuple[str, ...] = option((), "folders of training runs", bare=True)
    out: str = option("out/curves", "folder for curves.html and curves.svg")


def grouped(folders: tuple[str, ...]) -> Groups:
    """The logs of runs, those that are alike under one name. Raises UserError for a folder without a run."""
    alike, groups = {}, {}
    above = commonpath([Path(folder).absolute().parent for folder in folders])  # which no name needs
    for folder in dict.fromkeys(relpath(folder, above) for folder in folders):
        run = read_run(Path(above, folder), {"data?": {}, "training?": {}})
        told = [{k: x for k, x in run.get(key, {}).items() if k not in APART} for key in ("data", "training")]
        alike.setdefault(json.dumps([run.get("stage"), told] if run else folder), []).append(folder)
    for names in alike.values():
        short = commonprefix(names) + "*" * (len(names) > 1)
        groups[", ".join(names) if short in groups else short] = [log_of(Path(above, name)) for name in names]
    return groups


def main() -> None:
    """Read, print, draw."""
    (options,) = parse(__doc__.splitlines()[0], Options)
    groups, out = grouped(options.runs), Path(options.out)
    write_atomic(out / "curves.svg", curves_svg(groups).encode())
    write_atomic(out / "curves.html", document("Training", f"<h1>Training</h1>{curves_html(groups)}").encode())
    print(*block_lines(groups), f"{out}: curves.html and curves.svg", sep="\n")


if __name__ == "__main__":
    run_script(main)
