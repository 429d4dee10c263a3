"""Plots as SVG text, drawn by hand: no script, no style sheet, one colour a series.

    figure(640, 300, "title", [dots(...), text(...)])        shapes are strings, a figure is their frame

Proved by tests/test_svg.py.
"""

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10

INK, FAINT, ACCENT = "#1f2328", "#d0d7de", "#0969da"


def text(x: float, y: float, words: str, anchor: str = "start", colour: str = INK, size: int = 12) -> str:
    """Words at a baseline; anchor start, middle or end."""
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {where} font-size="{size}" fill="{colour}">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str = INK, width: float = 1) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width:g}"/>'


def dot(x: float, y: float, colour: str = ACCENT, radius: float = 4) -> str:
    """A disc that lets those under it be seen."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{colour}" fill-opacity="0.55"/>'


def figure(width: int, height: int, title: str, shapes: Sequence[str]) -> str:
    """An SVG document with a white ground, so that it can be read on a dark page."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    head += f' font-family="sans-serif" role="img"><title>{escape(title)}</title>'
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="#ffffff"/>', *shapes, "</svg>\n"])


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from low to high, 1, 2 or 5 times a power of ten apart."""
    step = 10 ** floor(log10((high - low) / wanted))
    step *= min((m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= wanted), default=10)
    return [round(i * step, 10) for i in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]


def strip_plot(title: str, axis: str, rows: Sequence[tuple[str, Sequence[float]]], low: float, high: float) -> str:
    """A row a name: a dot each value and a bar at their mean. What lies outside low … high stands at the edge."""
    left, width, step = 190, 640, 24
    bottom = 40 + step * len(rows)

    def place(x: float) -> float:
        return left + (width - left - 24) * (min(max(x, low), high) - low) / (high - low)

    shapes = [text(12, 22, title, size=14), text((left + width) / 2, bottom + 34, axis, "middle")]
    for x in ticks(low, high):
        shapes.append(line(place(x), 34, place(x), bottom, FAINT))
        shapes.append(text(place(x), bottom + 16, f"{x:g}", "middle"))
    for i, (name, values) in enumerate(rows):
        y = 34 + step * (i + 0.5)
        mean = place(sum(values) / len(values))
        shapes.append(text(left - 10, y + 4, name, "end"))
        shapes += [dot(place(x), y) for x in values]
        shapes.append(line(mean, y - 8, mean, y + 8, INK, 2))
    return figure(width, bottom + 46, title, shapes)
