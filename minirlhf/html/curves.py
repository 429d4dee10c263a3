"""The curves of training runs: pure functions from the records of log.jsonl to small multiples, one panel a quantity.

    curves_svg(groups, title="Training", columns=3) -> str      all panels in one SVG, a picture of its own
    curves_html(groups) -> str                                  the same as part of a page

groups: label -> runs, each a list of records such as {"step": 1, "reward": 0.5, "kl": 0.1}. One run is a line. Several
are their mean, over the steps that all have, with a band from the lowest to the highest. Proved by
tests/html/test_curves.py.
"""

from collections.abc import Mapping, Sequence
from math import ceil
from statistics import median

from minirlhf.evaluation.panels import all_finite, thinned
from minirlhf.html.figures import WIDTH
from minirlhf.html.markup import grid
from minirlhf.html.svg import (
    BLUE, GREEN, INK, MUTED, PURPLE, VERMILLION, Axis, axes, band, breadth, figure, label, legend, path, shorten, text,
)

Groups = Mapping[str, Sequence[Sequence[dict]]]
QUANTITIES = {  # of log.jsonl, in the order of the panels: name, and axis: see `axis_of`
    "loss": ("loss", "loss"), "validation_loss": ("validation loss", "loss"), "reward": ("reward", "unit"),
    "held_out": ("held-out reward", "unit"), "gold": ("gold reward", "unit"), "score": ("score", "unit"),
    "share": ("share of J*", "share"), "kl": ("KL to the reference, nats", "zero"),
    "entropy": ("entropy, nats per token", "zero"), "explained_variance": ("explained variance", "share"),
    "ended": ("share that ended", "unit"), "length": ("length, tokens", "zero"),
}  # fmt: skip
LINES = [(colour, dash) for dash in ("", "5 3", "2 2") for colour in (BLUE, VERMILLION, GREEN, PURPLE, INK, MUTED)]
HIGH = 166  # of a panel
NOTE = ("A share of J* is left out where J* is unknown, and where the noise of a round is as large as half of all that "
        "could be gained. ")  # fmt: skip
BAND = "Of several runs the line is the mean, and the band goes from the lowest to the highest. "


def series(runs: Sequence[Sequence[dict]], name: str) -> list[list[float]]:
    """[step, mean, lowest, highest] at the steps at which all runs logged a finite number, at most POINTS rows."""
    each = [{x["step"]: x[name] for x in run if all_finite(x.get("step"), x.get(name))} for run in runs]
    at = ((step, [run[step] for run in each]) for step in sorted(set.intersection(*map(set, each)) if each else ()))
    return thinned([[step, sum(ys) / len(ys), min(ys), max(ys)] for step, ys in at])


def drawn(groups: Groups) -> dict[str, dict[str, list[list[float]]]]:
    """Log name -> label -> `series`, in order: of what is logged by task, each of several tasks and not their mixture."""
    logged = {name for runs in groups.values() for run in runs for x in run for name in x}
    found = {}
    for quantity in QUANTITIES:
        parts = sorted(name for name in logged if name.startswith(f"{quantity}/"))
        for name in [quantity] if quantity in logged and len(parts) < 2 else parts:
            lines = {key: rows for key, runs in groups.items() if len(rows := series(runs, name)) > 1}
            if quantity == "share":
                lines = {key: rows for key, rows in lines.items() if told_from_noise(rows)}
            found |= {name: lines} if lines else {}
    return found


def told_from_noise(rows: Sequence[Sequence[float]]) -> bool:
    """Whether a share of what can be gained moves by less than half of it between neighbours."""
    return median(abs(a[1] - b[1]) for a, b in zip(rows, rows[1:])) < 0.5


def axis_of(kind: str, low: float, high: float, start: float, end: float) -> Axis:
    """The axis that a person would draw for values from low to high.

    unit: 0 to 1, if all lie there.  zero: from 0.  share: -.5 to 1, whatever the values.  loss: logarithmic if the
    highest is 4 times the lowest.  Else an axis over the values.
    """
    if kind == "share":
        return Axis(-0.5, 1.0, start, end)
    if kind == "unit" and 0 <= low and high <= 1:
        return Axis(0.0, 1.0, start, end)
    if kind == "zero":
        return Axis(min(low, 0.0), max(high, 0.0) * 1.05 or 1.0, start, end)
    return Axis.over([low, high], start, end, "log" if kind == "loss" and high >= 4 * low > 0 else "even")


def pieces(rows: Sequence[Sequence[float]]) -> list[Sequence[Sequence[float]]]:
    """The rows, cut where steps are missing: a line across them would say what nobody measured."""
    gaps = [b[0] - a[0] for a, b in zip(rows, rows[1:])]
    cuts = [0, *(i for i, gap in enumerate(gaps, 1) if gap > 4 * median(gaps)), len(rows)]
    return [rows[i:j] for i, j in zip(cuts, cuts[1:])]


def panel(
    name: str, lines: Mapping[str, Sequence[Sequence[float]]], labels: Sequence[str], span: tuple[float, float]
) -> list[str]:  # fmt: skip
    """The shapes of one quantity, WIDTH by HIGH: its name above, of a single line also its first and last value.

    span: the first and the last step of all panels.
    """
    quantity, _, part = name.partition("/")
    words, kind = QUANTITIES[quantity]
    every = [row for rows in lines.values() for row in rows]
    y = axis_of(kind, min(row[2] for row in every), max(row[3] for row in every), HIGH - 40, 26)
    x, edge = Axis.over(span, 46, WIDTH - 12), lambda v: min(max(v, y.low), y.high)
    outside, ends = sum(edge(row[1]) != row[1] for row in every), ""
    if len(labels) == 1:
        ends = " → ".join(label(float(f"{every[i][1]:.3g}")) for i in (0, -1))
    shapes = [text(4, 14, shorten(f"{part}: {words}" if part else words, WIDTH - 24 - breadth(ends), 13), size=13)]
    shapes += [text(WIDTH - 12, 14, ends, "end", MUTED)] if ends else []
    shapes += axes(x, y, "step" + (f" (points beyond the axis, drawn on its edge: {outside})" if outside else ""), "")
    for key, rows in lines.items():
        colour, dash = LINES[labels.index(key) % len(LINES)]
        for piece in pieces(rows):
            mean, low, high = ([(x.place(row[0]), y.place(edge(row[i]))) for row in piece] for i in (1, 2, 3))
            shapes += [band([*low, *high[::-1]], colour)] if low != high else []
            shapes.append(path(mean, colour, 1.8, dash))
    return shapes


def all_panels(groups: Groups) -> list[tuple[str, list[str]]]:
    """(Log name, shapes) of each quantity, all over the same steps."""
    found = drawn(groups)
    steps = [row[0] for lines in found.values() for rows in lines.values() for row in (rows[0], rows[-1])]
    return [(name, panel(name, lines, list(groups), (min(steps), max(steps)))) for name, lines in found.items()]


def key_of(groups: Groups, width: int) -> tuple[list[str], float]:
    """What the lines are, where there are several or means: (shapes, their height)."""
    if len(groups) < 2 and all(len(runs) < 2 for runs in groups.values()):
        return [], 0.0
    names = [f"{name} ({len(runs)} runs)" if len(runs) > 1 else name for name, runs in groups.items()]
    return legend(names, width, LINES)


def curves_svg(groups: Groups, title: str = "Training", columns: int = 3) -> str:
    """All panels in one SVG, under the names of the lines."""
    found, width = all_panels(groups), columns * WIDTH
    shapes, top = key_of(groups, width)
    top += 8
    for i, (_, own) in enumerate(found):
        x, y = i % columns * WIDTH, top + i // columns * (HIGH + 10)
        shapes += [f'<g transform="translate({x} {y:g})">', *own, "</g>"]
    return figure(width, ceil(top) + ceil(len(found) / columns) * (HIGH + 10), title, shapes)


def curves_html(groups: Groups) -> str:
    """All panels as part of a page; "" where nothing can be drawn."""
    if not (found := all_panels(groups)):
        return ""
    plots = (f"<figure>{figure(WIDTH, HIGH, name, shapes)}</figure>" for name, shapes in found)
    shapes, high = key_of(groups, WIDTH)
    names = figure(WIDTH, ceil(high), "the lines", shapes) if shapes else ""
    note = (NOTE if any(name == "kl" for name, _ in found) else "") + (BAND if any(len(runs) > 1 for runs in groups.values()) else "")
    return f'<p class="quiet">{note}</p>{names}{grid(plots)}'.replace(' xmlns="http://www.w3.org/2000/svg"', "")
