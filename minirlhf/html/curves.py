"""The curves of training runs: from the records of log.jsonl to small multiples, a panel for each quantity.

groups: label -> runs, each a list of records such as {"step": 1, "reward": 0.5}. One run is a line. Several are their
mean, over the steps that all have, in a band from the lowest to the highest. Proved by tests/html/test_curves.py.
"""

from collections.abc import Mapping, Sequence
from math import ceil
from os.path import relpath
from pathlib import Path
from statistics import median

from minirlhf.evaluation.panels import POINTS, all_finite, thinned
from minirlhf.harness.files import UserError, write_atomic
from minirlhf.harness.folders import read_log
from minirlhf.html.figures import LEFT, RIGHT, WIDTH
from minirlhf.html.markup import document, grid, num, passage, show
from minirlhf.html.svg import (
    BLUE, GREEN, INK, MUTED, PURPLE, VERMILLION, Axis, axes, breadth, figure, label, legend, path, shorten, text,
)

Groups = Mapping[str, Sequence[Sequence[dict]]]
Rows = list[list[float]]  # [step, mean, lowest, highest] each
QUANTITIES = {  # of log.jsonl, in the order of the panels: what a panel is called, and its axis, see `axis_of`
    "loss": ("loss", "loss"), "validation_loss": ("validation loss", "loss"), "reward": ("reward", "unit"),
    "held_out": ("held-out reward", "unit"), "gold": ("gold reward", "unit"), "score": ("score", "unit"),
    "share": ("share of J*", "share"), "kl": ("KL to the reference, nats", "zero"),
    "entropy": ("entropy, nats per token", "zero"), "explained_variance": ("explained variance", "share"),
    "ended": ("share that ended", "unit"), "length": ("length, tokens", "zero"),
}  # fmt: skip
LINES = [(hue, 1.8, dash) for dash in ("", "5 3", "2 2") for hue in (BLUE, VERMILLION, GREEN, PURPLE, INK, MUTED)]
HIGH = 166  # of a panel


def series(runs: Sequence[Sequence[dict]], name: str, most: int = POINTS) -> Rows:
    """Mean and range at the steps at which all runs logged a finite number, thinned to `most`."""
    each = [{x["step"]: x[name] for x in run if all_finite(x.get("step"), x.get(name))} for run in runs]
    at = {step: [run[step] for run in each] for step in sorted(set.intersection(*map(set, each)) if each else ())}
    return thinned([[step, sum(ys) / len(ys), min(ys), max(ys)] for step, ys in at.items()], most)


def drawable(groups: Groups) -> dict[str, dict[str, Rows]]:
    """Log name -> label -> `series`, in the order of the panels: of several tasks each, and not their mixture.

    A share of what can be gained is left out where neighbours differ by half of it: there is nothing but noise.
    """
    logged, found = {name for runs in groups.values() for run in runs for x in run for name in x}, {}
    for quantity in QUANTITIES:
        parts = sorted(name for name in logged if name.startswith(f"{quantity}/"))
        for name in [quantity] if quantity in logged and len(parts) < 2 else parts:
            lines = {key: rows for key, runs in groups.items() if len(rows := series(runs, name)) > 1}
            if quantity == "share":
                lines = {k: r for k, r in lines.items() if median(abs(a[1] - b[1]) for a, b in zip(r, r[1:])) < 0.5}
            found |= {name: lines} if lines else {}
    return found


def axis_of(kind: str, low: float, high: float, start: float, end: float) -> Axis:
    """The axis that a person would draw for values from low to high.

    unit: 0 to 1, if all lie there.  share: −.5 to 1, whatever they are.  zero: from 0.  loss: logarithmic, if the
    highest is 4 times the lowest.  All others: from the lowest to the highest.
    """
    if kind == "share" or kind == "unit" and 0 <= low and high <= 1:
        return Axis(-0.5 if kind == "share" else 0.0, 1.0, start, end)
    if kind == "zero":
        return Axis(min(low, 0.0), max(high, 0.0) * 1.05 or 1.0, start, end)
    return Axis.over([low, high], start, end, "log" if kind == "loss" and high >= 4 * low > 0 else "even")


def panels(groups: Groups) -> dict[str, list[str]]:
    """Log name -> the shapes of its panel, WIDTH by HIGH, all over the same steps; with the ends of a single line."""
    found, plots = drawable(groups), {}
    steps = [row[0] for lines in found.values() for rows in lines.values() for row in rows]
    for name, lines in found.items():
        quantity, _, part = name.partition("/")
        words, kind = QUANTITIES[quantity]
        every = [row for rows in lines.values() for row in rows]
        y = axis_of(kind, min(row[2] for row in every), max(row[3] for row in every), HIGH - 40, 26)
        x, edge = Axis.over([min(steps), max(steps)], LEFT, RIGHT), lambda v: min(max(v, y.low), y.high)
        ends = f"{label(float(f'{every[0][1]:.3g}'))} → {label(float(f'{every[-1][1]:.3g}'))}" if len(groups) == 1 else ""
        shapes = [text(4, 14, shorten(f"{part}: {words}" if part else words, RIGHT - 16 - breadth(ends), 13), size=13)]
        shapes += [text(RIGHT, 14, ends, "end", MUTED)] if ends else []
        outside = sum(edge(row[1]) != row[1] for row in every)
        shapes += axes(x, y, f"step (points beyond the axis, on its edge: {outside})" if outside else "step", "")
        for key, rows in lines.items():
            style, gaps = LINES[list(groups).index(key) % len(LINES)], [b[0] - a[0] for a, b in zip(rows, rows[1:])]
            cuts = [0, *(i for i, gap in enumerate(gaps, 1) if gap > 4 * median(gaps)), len(rows)]
            for i, j in zip(cuts, cuts[1:]):  # no line stands where steps are missing
                low, mean, high = ([(x.place(row[0]), y.place(edge(row[k]))) for row in rows[i:j]] for k in (2, 1, 3))
                area = path([*low, *high[::-1]], style[0], 0).replace('"none"', f'"{style[0]}" fill-opacity="0.18"')
                shapes += [area, path(mean, *style)] if low != high else [path(mean, *style)]
        plots[name] = shapes
    return plots


def names_of(groups: Groups, width: int) -> tuple[list[str], float]:
    """The names of the lines, where there are several or means: (shapes, their height)."""
    names = [f"{k}: mean and range of {len(runs)}" if len(runs) > 1 else k for k, runs in groups.items()]
    return legend(names, width, LINES) if names != list(groups)[:1] else ([], 0)


def curves_svg(groups: Groups, title: str = "Training", columns: int = 3) -> str:
    """All panels in one SVG, below the names of the lines."""
    (shapes, top), plots = names_of(groups, columns * WIDTH), panels(groups)
    for i, own in enumerate(plots.values()):
        at = f"{i % columns * WIDTH} {top + 8 + i // columns * (HIGH + 10):g}"
        shapes += [f'<g transform="translate({at})">', *own, "</g>"]
    return figure(columns * WIDTH, ceil(top) + 8 + ceil(len(plots) / columns) * (HIGH + 10), title, shapes)


def curves_html(groups: Groups) -> str:
    """All panels as part of a page; "" where nothing can be drawn."""
    plots, (shapes, top) = panels(groups), names_of(groups, WIDTH)
    inside = (f"<figure>{figure(WIDTH, HIGH, name, own)}</figure>" for name, own in plots.items())
    names = figure(WIDTH, ceil(top), "lines", shapes) if shapes and plots else ""
    return (names + grid(inside)).replace(' xmlns="http://www.w3.org/2000/svg"', "")


def block_lines(groups: Groups) -> list[str]:
    """Of each group its rewards and KL, or losses: blocks from the lowest to the highest; first and last value."""
    found, wide = [], max(map(len, groups), default=0)
    for name, runs in groups.items():
        for key, words in (("reward", "reward"), ("kl", "KL"), ("held_out", "held out"),
                           ("loss", "loss"), ("validation_loss", "validation")):
            if means := [row[1:2] for row in series(runs, key, 10**9)]:
                (low,), (high,) = min(means), max(means)
                blocks = ["▁▂▃▄▅▆▇█"[int(7.99 * (y - low) / (high - low or 1.0))] for (y,) in thinned(means, 40)]
                found.append((f"{name:<{wide}}", words, f"{''.join(blocks)}  {means[0][0]:.3g} -> {means[-1][0]:.3g}"))
    wide = max((len(words) for _, words, _ in found), default=0)
    return [f"{name}  {words:<{wide}}  {rest}" for name, words, rest in found]


def log_of(out: str | Path) -> list[dict]:
    """The records of a run. Raises UserError where there are none."""
    path = Path(out) / "log.jsonl"
    if not path.exists() or not (records := [x for _, x in read_log(path)]):
        raise UserError(f"{relpath(out)}: no log.jsonl with a step in it; name a folder in which a training has begun")
    return records


def draw_log(out: Path, goes_on: bool) -> None:
    """Write log.html: curves and some answers. It reloads while the run goes on; behind it `block_lines` are printed."""
    log = log_of(out)
    unit = "rounds" if "reward" in log[-1] else "steps"
    title = f"{out}: {log[-1]['step']} {unit}{' so far' if goes_on else ''}"
    body = f"<h1>{show(title)}</h1>{curves_html({out.name: [log]})}"
    shown = [x for x in log if x.get("samples")]
    for x in (shown[:1] + shown[1:][-3:])[::-1]:
        answers = (f"<div><b>{show(s['task'])}</b> <small>reward {num(s['reward'])}</small>{passage(s['prompt'])}"
                   f"{passage(s['response'])}</div>" for s in x["samples"])
        body += f'<h2>Answers in round {x["step"]}</h2><div class="answers">{"".join(answers)}</div>'
    head = '\n<meta http-equiv="refresh" content="20">' if goes_on else ""
    write_atomic(out / "log.html", document(title, body, head).encode())
    for line in [] if goes_on else block_lines({out.name: [log]}):
        print(line)
