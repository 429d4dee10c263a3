"""Overlay the curves of training runs, in one page and one SVG.

    python -m minirlhf.tools.curves out/ppo out/grpo-seed*
    python -m minirlhf.tools.curves out/sft --out out/curves

Runs that differ in nothing but the seed are one line: their mean, in a band from the lowest to the highest.
Proved by tests/tools/test_curves.py.
"""

import json
from dataclasses import dataclass, fields
from os.path import commonpath, commonprefix, relpath
from pathlib import Path

from minirlhf.harness.files import read_run, write_atomic
from minirlhf.harness.machine import load_torch
from minirlhf.harness.options import option, parse, run_script
from minirlhf.rl.options import Watch

APART = {"out", "resume", "overwrite", *(f.name for f in fields(Watch))}  # in which runs that are alike may differ


@dataclass(frozen=True)
class Options:
    """What to draw."""

    runs: tuple[str, ...] = option((), "folders of training runs", bare=True)
    out: str = option("out/curves", "folder for curves.html and curves.svg")


def alike(folders: tuple[str, ...]) -> dict[str, list[Path]]:
    """A name of its own -> the runs that differ in nothing but the seed. Raises UserError for a damaged run.json."""
    above = commonpath([Path(folder).absolute().parent for folder in folders])  # which no name needs
    found, named = {}, {}
    for folder in dict.fromkeys(relpath(folder, above) for folder in folders):
        run = read_run(Path(above, folder), {"data?": {}, "training?": {}})
        told = [{k: x for k, x in run.get(key, {}).items() if k not in APART} for key in ("data", "training")]
        own = run.get("data_hash") if run.get("data", {}).get("data") else ""  # of generated tasks it is the seed's
        key = [run.get("stage"), run.get("dtype"), own, told] if run else folder
        found.setdefault(json.dumps(key), []).append(folder)
    for names in found.values():
        short = commonprefix(names) + "*" * (len(names) > 1)
        named[", ".join(names) if short in (*named, "*") else short] = [Path(above, name) for name in names]
    return named


def main() -> None:
    """Read, print, draw."""
    (options,) = parse(__doc__, Options)
    load_torch()
    from minirlhf.html.curves import block_lines, curves_html, curves_svg, log_of  # here: --help does not wait for torch
    from minirlhf.html.markup import document

    groups, out = {name: list(map(log_of, runs)) for name, runs in alike(options.runs).items()}, Path(options.out)
    write_atomic(out / "curves.svg", curves_svg(groups).encode())
    write_atomic(out / "curves.html", document("Training", f"<h1>Training</h1>{curves_html(groups)}").encode())
    print(*block_lines(groups), f"{out}: curves.html and curves.svg", sep="\n")


if __name__ == "__main__":
    run_script(main)
