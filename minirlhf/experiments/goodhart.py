"""Goodhart's law: what policies earn by a learned reward and by gold, and where one should have stopped.

    d = √KL(π ‖ ref)        R = gold reward − that of the reference
    best-of-n   R(d) = d (α − β d)        peak d* = α / 2β,          R* = α² / 4β
    RL          R(d) = d (α − β ln d)     peak d* = e^{α/β − 1},     R* = β d*

Gold is the reward that is really wanted. The proxy is a learned reward. α is what the first steps earn (of RL, whose law
is infinitely steep at 0, what d = 1 does), β how fast the
proxy stops being worth optimising. Divided by d, both laws are linear in (α, β), so least squares fits them. A table
and a figure show the policies that optimise each proxy: best-of-n, and PPO at several beta. The laws go through their
gold. One should have stopped at the last policy before the better law's peak. The best policy only gold can tell.
Source: Gao et al. 2022, "Scaling laws for reward model overoptimization". Proved by tests/experiments/test_goodhart.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, nan, sqrt

import numpy as np

from minirlhf.evaluation.metric import Metric, ratio
from minirlhf.evaluation.table import markdown_table
from minirlhf.evaluation.verdicts import metric_interval
from minirlhf.html.svg import BLUE, GREEN, MUTED, VERMILLION, Axis, axes, dot, figure, line, path, text
from minirlhf.metrics.intervals import standard_error
from minirlhf.metrics.scores import best_of_n_kl_bound, expected_best_of_n

COLOURS = {"best-of-n": BLUE, "PPO": VERMILLION, "RLOO": GREEN}
LAWS = {"best-of-n": ("d (α − β d)", lambda d: d), "rl": ("d (α − β ln d)", np.log)}  # kind -> its name, and f
NOTES = ("lines: the better of two laws of Gao et al. 2022;", "upright: where it says stop; bars: 95 %")
RESAMPLES = 2000


@dataclass(frozen=True)
class LawFit:
    """A law with its peak; nan where the points do not determine one."""

    kind: str
    alpha: float = nan
    beta: float = nan
    d_peak: float = nan  # inf where β <= 0: the law has no peak, more is better
    d_seen: float = nan  # the largest distance among the points: a peak beyond it is extrapolated
    d_interval: tuple[float, float] = (nan, nan)  # 95 %, of d_peak
    misfit: float = nan  # √(χ² / (n − 2)): far above 1 the points obey another law

    def value(self, d: np.ndarray) -> np.ndarray:
        """R(d) for d >= 0, 0 at 0."""
        d = np.asarray(d, dtype=float)
        return d * (self.alpha - self.beta * LAWS[self.kind][1](np.where(d > 0, d, 1.0)))

    @property
    def stop(self) -> float:
        """Where to stop: at the peak, at the last point if that is before it, or at 0 if that loses."""
        d = min(self.d_peak, self.d_seen)
        return d if self.value(d) > 0 else 0.0


def peak(kind: str, alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """d* of each law, (n,): 0 where every step loses, inf where there is no peak."""
    b = np.where(beta > 0, beta, 1.0)
    d = np.maximum(alpha, 0.0) / (2 * b) if kind == "best-of-n" else np.exp(np.minimum(alpha / b - 1, 700.0))
    return np.where(beta > 0, d, inf)


def least_squares(kind: str, d: np.ndarray, R: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """For each row of R (B, n) the (α, β) that minimise Σ w (R / d − α + β f(d))², f(d) = d or ln d: (2, B)."""
    A = np.column_stack([np.ones_like(d), -LAWS[kind][1](d)]) * np.sqrt(weights)[:, None]  # (n, 2)
    return np.linalg.lstsq(A, (R / d * np.sqrt(weights)).T, rcond=None)[0]  # (2, B)


def fit_law(kind: str, d: Sequence[float], R: Sequence[float], errors: Sequence[float]) -> LawFit:
    """The law through points (d, R). The reference, d = 0, is on every law and left out.

    kind: "best-of-n" or "rl".  d: (n,) √KL in √nats.  R: (n,) gold reward less the reference's.  errors: (n,) standard
    errors of R.  The weight of a point is the precision of R / d, (d / error)². The 95 % interval is that of fits to
    R + errors · max(1, misfit) · N(0, 1). Precise points make no law better known that they do not obey.
    Undefined where a number is not finite or an error is 0, and below three different d above 0.
    """
    d, R, sigma = (np.array([x for x, at in zip(values, d) if at != 0]) for values in (d, R, errors))  # (n,) each
    if not np.isfinite([d, R, sigma]).all() or (sigma <= 0).any() or len(np.unique(d)) < 3:
        return LawFit(kind)
    weights = (d / sigma) ** 2  # (n,)
    (alpha,), (beta,) = least_squares(kind, d, R[None], weights)
    (d_peak,) = peak(kind, np.array([alpha]), np.array([beta]))
    found = LawFit(kind, float(alpha), float(beta), float(d_peak), float(d.max()))
    misfit = sqrt(float((weights * (R / d - found.value(d) / d) ** 2).sum()) / (len(d) - 2))
    # Points are drawn apart. Those of best-of-n are of the same samples: their interval covers three times in four.
    noise = np.random.default_rng(0).standard_normal((RESAMPLES, len(R)))  # (B, n)
    peaks = peak(kind, *least_squares(kind, d, R + max(1.0, misfit) * sigma * noise, weights))  # (B,)
    low, high = np.quantile(peaks, [0.025, 0.975], method="nearest")  # infinities have no mean
    return replace(found, misfit=misfit, d_interval=(float(low), float(high)))


@dataclass(frozen=True)
class Point:
    """A policy: d = √KL.  gold: on each held-out prompt.  gain, proxy: gold and proxy less the reference's: (P,)."""

    name: str
    d: float
    gold: np.ndarray
    gain: np.ndarray
    proxy: np.ndarray


@dataclass(frozen=True)
class Proxy:
    """One reward model. points: one of COLOURS -> policies in the order of their distance."""

    comparisons: int
    order: float  # the share of pairs of the reference's samples that it puts in the order of their gold
    points: dict[str, list[Point]]
    of: str = "comparisons"  # what it learnt from

    def laws(self, way: str) -> list[LawFit]:
        """Both laws through the gold of one way to optimise, the one that fits better first."""
        points = self.points[way]
        errors = [standard_error(p.gain) for p in points]  # of the gain: all points share the reference's luck
        measured = [p.d for p in points], [p.gain.mean() for p in points], errors
        return sorted((fit_law(kind, *measured) for kind in LAWS), key=lambda law: np.nan_to_num(law.misfit))


def best_of_points(gold: np.ndarray, proxy: np.ndarray) -> list[Point]:
    """Best-of-n for n = 2, 4, ..., from all samples of the reference.  gold, proxy: (P, N)."""
    points = []
    for n in [2**k for k in range(1, gold.shape[1].bit_length())]:
        best, liked = (  # (P,) each
            np.array([expected_best_of_n(p, v, n) for p, v in zip(proxy, values)]) for values in (gold, proxy)
        )
        gains = best - gold.mean(1), liked - proxy.mean(1)
        points.append(Point(f"n = {n}", best_of_n_kl_bound(n) ** 0.5, best, *gains))
    return points


def policy_points(lines: Sequence[dict], gold: np.ndarray, proxy: np.ndarray) -> list[Point]:
    """Policies from lines of "beta", and "kl", "gold" and "proxy" per prompt.  gold, proxy: (P, N), the reference's."""
    points = []
    for x in lines:
        d, (own, liked) = max(float(np.mean(x["kl"])), 0.0) ** 0.5, (np.array(x[key]) for key in ("gold", "proxy"))
        points.append(Point(f"β = {x['beta']:g}", d, own, own - gold.mean(1), liked - proxy.mean(1)))
    return sorted(points, key=lambda p: p.d)


def order(gold: np.ndarray, proxy: np.ndarray) -> float:
    """How often the proxy orders two samples of a prompt as gold does. Equal proxies count half.  Both (P, N).

    Samples 0 and 1, 2 and 3, ... are compared. Pairs of equal gold are left out; nan where that leaves none.
    """
    even = 2 * (gold.shape[1] // 2)
    g, p = (x[:, 0:even:2] - x[:, 1:even:2] for x in (gold, proxy))  # (P, N / 2)
    agreed = 0.5 + np.sign(g) * np.sign(p) / 2  # (P, N / 2)
    return float(agreed[g != 0].mean()) if (g != 0).any() else float("nan")


def stop_at(law: LawFit, points: Sequence[Point]) -> Point | None:
    """The furthest policy before the law's peak. None where that is the reference, or where there is no law."""
    before = [p for p in points if p.d <= law.stop * (1 + 1e-9)]
    return max(before, key=lambda p: p.d, default=None)


def rounded(x: float, digits: int = 3) -> str:
    """A number; ∞, or – where nothing is known."""
    return f"{x:.{digits}f}" if np.isfinite(x) else "∞" if x == np.inf else "–"


def law_tables(models: Sequence[Proxy], reference: np.ndarray) -> str:
    """What was measured, and what the laws say of it, the better law first.  reference: (P,), its gold."""
    measured, laws, start = [], [], float(reference.mean())
    for model in models:
        for way, points in model.points.items():
            best, end = max(points, key=lambda p: p.gold.mean()), points[-1]
            cells = [x for p in (best, end) for x in (p.name, f"{p.d:.2f}", with_interval(p.gold))]
            measured.append([str(model.comparisons), f"{model.order:.3f}", way, *cells, f"{end.proxy.mean():+.2f}"])
            for law in model.laws(way):
                stop = stop_at(law, points)
                cells = [rounded(law.alpha), rounded(law.beta), rounded(law.misfit, 1), *peak_of(law, start)]
                cells += [stop.name if stop else "–", with_interval(stop.gold if stop else reference)]
                laws.append([str(model.comparisons), way, LAWS[law.kind][0], *cells])
    titles = [models[0].of, "order", "by", "best", "d", "gold", "furthest", "d", "gold", "learned"]
    more = [models[0].of, "by", "law", "α", "β", "misfit", "peak d* [95 %]", "gold there", "stop at", "gold"]
    return f"{markdown_table(titles, measured)}\n\n{markdown_table(more, laws)}"


def peak_of(law: LawFit, start: float) -> tuple[str, str]:
    """The law's peak, and its gold there. A peak beyond all points was never seen, so it has no gold."""
    low, high = (rounded(x, 2) for x in law.d_interval)
    if law.d_peak > law.d_seen:
        return f"beyond {law.d_seen:.2f}", "–"
    return f"{rounded(law.d_peak, 2)} [{low}, {high}]", rounded(start + float(law.value(law.d_peak)))


def interval_of(gold: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean over prompts, (P,), as an evaluation has it: see `verdicts.metric_interval`."""
    gold = gold.round(12)  # best-of-n of ones is 1 but for rounding; the interval asks for exactly 1
    sums = np.column_stack([gold, np.ones_like(gold)])  # (P, 2)
    return metric_interval(Metric("gold", 1, ratio, {}), sums)


def with_interval(gold: np.ndarray) -> str:
    """The mean over prompts, (P,), ± the longer side of its 95 % interval; alone where that is unknown."""
    mean, (low, high) = gold.mean(), interval_of(gold)
    side = max(high - mean, mean - low)
    return f"{mean:.3f} ±{side:.3f}" if np.isfinite(side) else f"{mean:.3f}"


def column(model: Proxy, start: float, x: Axis, gold: Axis, proxy: Axis) -> list[str]:
    """The shapes of one reward model. Above: gold, its laws and where to stop. Below: the proxy."""
    shapes = [text(x.start, 22, f"{model.comparisons} {model.of}", size=14)]
    shapes += [*axes(x, gold, "", ""), *axes(x, proxy, "distance √KL, in √nats", "")]
    titles = {52: f"gold reward (pairs in its order: {model.order:.2f})", 302: "learned reward, deviations"}
    shapes += [text(x.start, y, title, colour=MUTED, size=11) for y, title in titles.items()]
    for way, points in model.points.items():
        colour, (law, _) = COLOURS[way], model.laws(way)
        if np.isfinite(law.alpha):
            along = np.linspace(0, law.d_seen, 60)
            curve = zip(along, np.clip(start + law.value(along), gold.low, gold.high))
            shapes.append(path([(x.place(d), gold.place(y)) for d, y in curve], colour))
        if law.d_peak <= law.d_seen:
            shapes.append(line(x.place(law.stop), gold.start, x.place(law.stop), gold.end, colour, 0.7))
        for p in points:
            across, (low, high) = x.place(p.d), interval_of(p.gold)
            if np.isfinite(high - low):
                shapes.append(line(across, gold.place(low), across, gold.place(high), colour))
            shapes.append(dot(across, gold.place(p.gold.mean()), colour))
            shapes.append(dot(across, proxy.place(p.proxy.mean()), colour))
    return shapes


def law_figure(models: Sequence[Proxy], start: float) -> str:
    """One column per reward model, all on the same axes.  start: the reference's gold."""
    width, shapes = 300, []
    every = [p for model in models for points in model.points.values() for p in points]
    ends = [end for p in every for end in (p.gold.mean(), *interval_of(p.gold)) if np.isfinite(end)]
    gold = Axis.over([start, *ends], 250, 62)
    proxy = Axis.over([0.0, *(p.proxy.mean() for p in every)], 470, 312)
    for i, model in enumerate(models):
        x = Axis(0.0, 1.05 * max(p.d for p in every), i * width + 44, (i + 1) * width - 10)
        shapes += column(model, start, x, gold, proxy)
    for i, way in enumerate(models[0].points):
        shapes += [dot(50 + 85 * i, 522, COLOURS[way]), text(58 + 85 * i, 526, way)]
    shapes += [text(44, 548 + 16 * i, note, colour=MUTED, size=11) for i, note in enumerate(NOTES)]
    return figure(width * len(models), 576, "gold and learned reward against √KL", shapes)
