"""The figures of a comparison: pure functions from the numbers of report.json to SVG.

Each figure is WIDTH pixels wide, so that its words can be read on a telephone. A page sets figures side by side.
`order` lists the names of all models: a model has the same colour and shape in every figure. A number that is
None or not finite is left out.
Proved by tests/html/test_figures.py, which reads the numbers back from the pixels.
"""

from collections import Counter
from collections.abc import Sequence
from math import ceil

from minirlhf.evaluation.panels import all_finite
from minirlhf.html.svg import (
    BLUE, FAINT, INK, MUTED, SERIES, Axis, axes, box, dot, figure, legend, line, marker, path, shorten, text,
)

WIDTH = 340
LEFT, RIGHT = 46, WIDTH - 12  # edges of a plot with numbers on its left


def frontier(title: str, reward: dict, kl: dict, best_of_n: Sequence[dict], order: Sequence[str]) -> str:
    """Reward against KL, on a square-root scale, of each model with its intervals; best-of-n as a curve."""
    drawn = {name: (kl[name], r) for name, r in reward.items() if all_finite(kl[name].get("value"), r.get("value"))}
    best = [b for b in best_of_n if all_finite(b.get("kl_bound"), b.get("reward"))]
    shapes, top = legend([name if name in drawn else f"{name} (no number)" for name in order], WIDTH)
    top += 22
    kls = [v for k, _ in drawn.values() for v in (k["value"], k.get("high"))] + [b["kl_bound"] for b in best]
    rewards = [v for _, r in drawn.values() for v in (r["value"], r.get("low"), r.get("high"))]
    x = Axis.over(kls, LEFT, RIGHT, "root")
    y = Axis.over(rewards + [b["reward"] for b in best], top + 200, top)
    shapes += axes(x, y, "KL to the reference, nats, by square root (best-of-n: KL ≤)", "reward")
    if best:
        spots = [(x.place(b["kl_bound"]), y.place(b["reward"])) for b in best]
        shapes.append(path(spots, INK, 1.5, "4 3"))
        last = -99.0
        for (px, py), b in zip(spots, best):
            shapes.append(dot(px, py, INK, 2.5))
            if px - last >= 24:  # closer numbers would overlap
                shapes.append(text(px, py - 7, f"n={b['n']}" if last < 0 else f"{b['n']}", "middle", INK, 10))
                last = px
    for name, (k, r) in drawn.items():
        px, py, i = x.place(k["value"]), y.place(r["value"]), order.index(name)
        colour = SERIES[i % len(SERIES)]
        if all_finite(r.get("low"), r.get("high")):
            shapes.append(line(px, y.place(r["low"]), px, y.place(r["high"]), colour, 2))
        if all_finite(k.get("low"), k.get("high")):
            shapes.append(line(x.place(k["low"]), py, x.place(k["high"]), py, colour, 2))
        shapes.append(marker(px, py, i))
    return figure(WIDTH, top + 240, title, shapes)


def lengths(title: str, models: dict[str, dict], order: Sequence[str]) -> str:
    """Reward against length, one panel per model, all on the same axes. Answers that coincide make a larger disc."""
    points = {name: [p for p in m["points"] if all_finite(*p)] for name, m in models.items()}
    all_points = [p for ps in points.values() for p in ps]
    shapes, high = [], 96
    for k, (name, own) in enumerate(points.items()):
        top = 30 + k * (high + 70)
        x = Axis.over([p[0] for p in all_points], LEFT, RIGHT)
        y = Axis.over([p[1] for p in all_points], top + high, top)
        r = models[name].get("correlation")
        words = f"r = {r:.2f}".replace("-", "−") if all_finite(r) else "r undefined"
        i = order.index(name)
        shapes += [marker(12, top - 21, i), text(22, top - 17, shorten(name, WIDTH - 120))]
        shapes.append(text(RIGHT, top - 17, words, "end"))
        shapes += axes(x, y, "length, tokens", "")
        spots = Counter((round(x.place(n) / 3), round(y.place(r) / 3)) for n, r in own)  # squares of 3 pixels
        largest = max(spots.values(), default=1)
        for (px, py), n in spots.items():
            radius = round(max(1.5, 8 * (n / max(largest, 9)) ** 0.5), 1)
            shapes.append(dot(3 * px, 3 * py, SERIES[i % len(SERIES)], radius))
    return figure(WIDTH, 30 + len(points) * (high + 70) - 30, title, shapes)


def reliability(title: str, calibration: dict) -> str:
    """Accuracy against confidence, one bar per bin, with the diagonal of perfect calibration and the counts below."""
    bins = [b for b in calibration["bins"] if b["count"] and all_finite(b.get("confidence"), b.get("accuracy"))]
    x, y = Axis(0.0, 1.0, LEFT, RIGHT), Axis(0.0, 1.0, 214, 22)
    shapes = axes(x, y, "", "accuracy") + [line(x.start, y.start, x.end, y.end, MUTED)]
    most = max((b["count"] for b in bins), default=1)
    wide = (x.end - x.start) / max(len(calibration["bins"]), 1)
    for b in bins:
        px = x.place(b["confidence"])
        if all_finite(b.get("low"), b.get("high")):
            shapes.append(line(px, y.place(b["low"]), px, y.place(b["high"]), BLUE, 2))
        shapes.append(dot(px, y.place(b["accuracy"]), BLUE, 4, 1))
        high = 40 * b["count"] / most
        shapes.append(box(px - wide * 0.3, 282 - high, wide * 0.6, high, MUTED, 0.7))
    shapes.append(line(x.start, 282, x.end, 282, MUTED))
    shapes.append(text(x.start - 6, 250, str(most), "end", MUTED, 11))
    shapes.append(text(x.start - 6, 282, "0", "end", MUTED, 11))
    shapes.append(text((x.start + x.end) / 2, 298, "confidence, and how many tokens have it", "middle", MUTED, 11))
    return figure(WIDTH, 304, title, shapes)


def heat_map(title: str, pieces: Sequence[str], weights: Sequence[Sequence[float]]) -> str:
    """Attention of each token (a row) to itself and to earlier tokens (the columns). Opacity is √weight.

    No token sees a later one. Opacity has steps of 1/20, and all squares of one opacity are one path.
    """
    T = len(weights)
    cell, margin = min(max(270 / T, 7.0), 22.0), 58
    levels: dict[int, list[str]] = {}
    for i, row in enumerate(weights):
        for j, w in enumerate(row[: i + 1]):
            if all_finite(w) and (k := round(20 * min(max(w, 0.0), 1.0) ** 0.5)):
                levels.setdefault(k, []).append(f"M{j} {i}h1v1h-1z")
    end = margin + cell * T
    shapes = [f'<g transform="translate({margin} {margin}) scale({cell:.3f})" shape-rendering="crispEdges">']
    for k, squares in sorted(levels.items()):
        shapes.append(f'<path d="{"".join(squares)}" fill="{BLUE}" fill-opacity="{k / 20:g}"/>')
    shapes.append("</g>")
    shapes.append(path([(margin, margin), (margin, end), (end, end), (end, end - cell)], FAINT, 1))
    size = 10 if cell >= 10 else 9
    every = ceil((size + 1) / cell)  # labels that overlap cannot be read
    for k in range(0, T, every):
        words = shorten(pieces[k].replace(" ", "·"), margin - 8, size)
        middle = margin + cell * (k + 0.5)
        shapes.append(text(margin - 4, middle + 3.5, words, "end", INK, size))
        shapes.append(text(middle + 3.5, margin - 4, words, "start", INK, size, -90))
    wide = max(WIDTH, ceil(end) + 8)
    for k, w in enumerate((0.01, 0.1, 0.25, 0.5, 1.0)):
        shapes.append(box(margin + 50 * k, end + 10, 14, 12, BLUE, w**0.5))
        shapes.append(text(margin + 50 * k + 18, end + 20, f"{w:g}", size=10))
    return figure(wide, ceil(end) + 30, title, shapes)
