"""Plots as SVG text, drawn by hand: no script, no style sheet, plain colours in attributes.

    figure(640, 300, "title", [dot(...), text(...)])        shapes are strings, a figure is their frame
    Axis.over([0.2, 0.7], 40, 320).place(0.5)               the pixel of a number

A figure has its own background, so it looks right in any viewer. On a page with a dark theme, `dark_rules` replaces
its colours by selectors on the attributes. Colours of data: Okabe and Ito 2008, which the colour-blind tell apart.
Proved by tests/html/test_svg.py.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, isfinite, log10

GROUND, INK, MUTED, FAINT, ACCENT = "#ffffff", "#1f2328", "#57606a", "#d0d7de", "#0969da"
BLUE, GREEN, VERMILLION, PURPLE = "#0072b2", "#009e73", "#d55e00", "#cc79a7"
DARK = {GROUND: "#14171a", INK: "#e6e8eb", FAINT: "#454c54", MUTED: "#a3abb4", BLUE: "#56b4e9"}
SERIES = (MUTED, BLUE, PURPLE, INK, GREEN, VERMILLION)  # of models; each has a shape too
SHAPES = ("circle", "square", "diamond", "triangle", "cross", "ring")


def visible(words: str) -> str:
    """The text with characters that are invisible, or rearrange others, spelled out, such as ⟨U+202E⟩.

    These are Unicode's control, format, surrogate and unassigned characters, and its line and paragraph separators.
    Newline, tab and the two joiners that scripts and emoji need stay. The result is valid in XML and UTF-8.
    """
    def spelled(c: str) -> str:
        hidden = unicodedata.category(c) in ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp")
        return f"⟨U+{ord(c):04X}⟩" if hidden and c not in "\n\t\u200c\u200d" else c

    return "".join(map(spelled, words))


def breadth(words: str, size: float = 12) -> float:
    """About how many pixels the words take: rather too many than too few for common sans-serif fonts."""
    def em(c: str) -> float:
        if unicodedata.east_asian_width(c) in "WF":
            return 1.0
        if c in " iljtfr.,:;'|!()[]/":
            return 0.36
        return 0.95 if c in "mwMW@%…" else 0.72 if c.isupper() else 0.6

    return size * sum(map(em, words))


def shorten(words: str, width: float, size: float = 12) -> str:
    """The words on one line, cut with … if they are wider than `width` pixels."""
    words = visible(words.replace("\n", "↵"))
    if breadth(words, size) <= width:
        return words
    while words and breadth(words + "…", size) > width:
        words = words[:-1]
    return words + "…"


def text(
    x: float, y: float, words: str, anchor: str = "start", colour: str = INK, size: int = 12, turn: int = 0
) -> str:
    """Words on a baseline.  anchor: start, middle or end.  turn: degrees clockwise."""
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    where += f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
    return f'<text {where} font-size="{size}" fill="{colour}">{escape(visible(words))}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str = INK, width: float = 1) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width:g}"/>'


def dot(x: float, y: float, colour: str = ACCENT, radius: float = 4, opacity: float = 0.55) -> str:
    """A translucent disc: discs under it can be seen."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{colour}" fill-opacity="{opacity:g}"/>'


def box(x: float, y: float, width: float, height: float, colour: str = FAINT, opacity: float = 1) -> str:
    """A filled rectangle."""
    size = f'width="{width:.1f}" height="{height:.1f}"'
    return f'<rect x="{x:.1f}" y="{y:.1f}" {size} fill="{colour}" fill-opacity="{opacity:g}"/>'


def path(points: Sequence[tuple[float, float]], colour: str = INK, width: float = 1.5, dash: str = "") -> str:
    """Straight lines from point to point; dash: lengths of ink and gap, such as "4 3"."""
    style = f'stroke="{colour}" stroke-width="{width:g}" stroke-linejoin="round"'
    style += f' stroke-dasharray="{dash}"' if dash else ""
    spots = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{spots}" fill="none" {style}/>'


def marker(x: float, y: float, series: int) -> str:
    """The mark of model number `series`. Its colour alone, or its shape alone, tells it from the others."""
    colour, shape, radius = SERIES[series % len(SERIES)], SHAPES[series % len(SHAPES)], 4.5
    if shape in ("circle", "ring"):
        paint = f'fill="{colour if shape == "circle" else GROUND}" stroke="{colour}" stroke-width="1.5"'
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" {paint}/>'
    corners = {
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "diamond": [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
        "triangle": [(0, -1.2), (1.2, 0.9), (-1.2, 0.9)],
        "cross": [(0, -0.4), (0.8, -1.2), (1.2, -0.8), (0.4, 0), (1.2, 0.8), (0.8, 1.2),
                  (0, 0.4), (-0.8, 1.2), (-1.2, 0.8), (-0.4, 0), (-1.2, -0.8), (-0.8, -1.2)],
    }[shape]
    points = " ".join(f"{x + radius * a:.1f},{y + radius * b:.1f}" for a, b in corners)
    return f'<polygon points="{points}" fill="{colour}"/>'


def legend(names: Sequence[str], right: float, lines: Sequence[tuple] = ()) -> tuple[list[str], float]:
    """Marks, or lines as `path` draws them, with their names, as many per row as fit, and the y below the last row."""
    shapes, left, y = [], 8, 0
    x = left
    for i, name in enumerate(names):
        name = shorten(name, right - left - 18)
        if x > left and x + 18 + breadth(name) > right:
            x, y = left, y + 18
        at = [(x, y + 8), (x + 12, y + 8)]
        shapes.append(path(at, *lines[i % len(lines)]) if lines else marker(x + 6, y + 8, i))
        shapes.append(text(x + 17, y + 12, name))
        x += 17 + breadth(name) + 14
    return shapes, y + 18


def figure(width: int, height: int, title: str, shapes: Sequence[str]) -> str:
    """An SVG document with a white background, so that it can be read on a dark page."""
    size = f'width="{width}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {size} font-family="sans-serif"'
    head += f' role="img"><title>{escape(visible(title))}</title>'
    return "\n".join([head, f'<rect {size} fill="{GROUND}"/>', *shapes, "</svg>\n"])


def dark_rules() -> str:
    """CSS that gives figures within a page the colours of DARK."""
    parts = [(part, *colours) for part in ("fill", "stroke") for colours in DARK.items()]
    return "".join(f'svg [{part}="{light}"]{{{part}:{dark}}}' for part, light, dark in parts)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from low to high. Their distance is 1, 2 or 5 times a power of ten."""
    step = 10.0 ** floor(log10((high - low) / wanted))
    step *= min((m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= wanted), default=10)
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def label(x: float) -> str:
    """A tick's number, with a real minus sign, and without a sign for zero."""
    return f"{x + 0.0:g}".replace("-", "−")


@dataclass(frozen=True)
class Axis:
    """Numbers low … high on pixels start … end. kind: "even", "log" or square "root" (where x < 0 counts as 0)."""

    low: float
    high: float
    start: float
    end: float
    kind: str = "even"

    @classmethod
    def over(cls, values: Sequence[float | None], start: float, end: float, kind: str = "even") -> "Axis":
        """An axis for all the numbers, with a margin. It has some width even for equal numbers, one, or none."""
        known = [x for x in values if x is not None and isfinite(x)] or [0.0, 1.0]
        low, high = min(known), max(known)
        if kind == "root":
            return cls(0.0, max(high, 0.0) * 1.1 or 1.0, start, end, kind)
        if kind == "log":
            return cls(low / 1.2, high * 1.2, start, end, kind)
        if high - low <= 1e-4 * max(abs(low), abs(high)):  # so that six digits tell the ticks apart
            low, high = low - (abs(low) / 10 or 0.5), high + (abs(high) / 10 or 0.5)
        air = (high - low) / 16
        return cls(low - air, high + air, start, end, kind)

    def place(self, x: float) -> float:
        """The pixel of a number."""
        bend = {"even": float, "log": log10, "root": lambda v: max(v, 0.0) ** 0.5}[self.kind]
        share = (bend(x) - bend(self.low)) / (bend(self.high) - bend(self.low))
        return self.start + (self.end - self.start) * share

    def ticks(self, wanted: int = 5) -> list[float]:
        """Round numbers on the axis: powers of ten on a long "log" axis, squares of round numbers on "root"."""
        if self.kind == "root":
            return [float(f"{x * x:.6g}") for x in ticks(0.0, self.high**0.5, wanted)]
        if self.kind == "log" and self.high / self.low >= 100:
            powers = range(ceil(log10(self.low)), floor(log10(self.high)) + 1)
            return [10.0**k for k in powers][:: ceil(len(powers) / wanted)]
        return ticks(self.low, self.high, wanted)


def axes(x: Axis, y: Axis, across: str, up: str) -> list[str]:
    """The grid of a plot with numbers at its lines. `across` stands below it, `up` above. y starts at the bottom."""
    shapes = [text((x.start + x.end) / 2, y.start + 31, across, "middle", MUTED, 11)] if across else []
    shapes += [text(4, y.end - 8, up, "start", MUTED, 11)] if up else []
    for v in x.ticks(6):
        shapes.append(line(x.place(v), y.end, x.place(v), y.start, FAINT))
        shapes.append(text(x.place(v), y.start + 15, label(v), "middle", MUTED, 11))
    for v in y.ticks(4):
        shapes.append(line(x.start, y.place(v), x.end, y.place(v), FAINT))
        shapes.append(text(x.start - 6, y.place(v) + 4, label(v), "end", MUTED, 11))
    return shapes


def strip_plot(title: str, across: str, rows: Sequence[tuple[str, Sequence[float]]]) -> str:
    """One row per name, with a dot per value and a bar at the mean, from 0, or −.5, to 1. What is outside is counted."""
    every, bottom = [v for _, values in rows for v in values], 40 + 24 * len(rows)
    axis = Axis(-0.5 if min(every, default=0.0) < 0 else 0.0, 1.0, 190, 616)
    outside = sum(not axis.low <= v <= axis.high for v in every)
    across += f" (beyond the axis, on its edge: {outside})" if outside else ""
    shapes = [text(12, 22, title, size=14), text(415, bottom + 34, across, "middle")]
    for v in axis.ticks():
        shapes.append(line(axis.place(v), 34, axis.place(v), bottom, FAINT))
        shapes.append(text(axis.place(v), bottom + 16, label(v), "middle"))
    for i, (name, values) in enumerate(rows):
        y = 46 + 24 * i
        *spots, mean = (axis.place(min(max(v, axis.low), axis.high)) for v in (*values, sum(values) / len(values)))
        shapes += [text(180, y + 4, shorten(name, 172), "end"), *(dot(x, y) for x in spots)]
        shapes.append(line(mean, y - 8, mean, y + 8, INK, 2))
    return figure(640, bottom + 46, title, shapes)
