"""How far to optimise a proxy: the gold reward against the distance from the reference, and its peak.

    d = √KL(π ‖ ref)        R = gold reward − that of the reference
    best-of-n   R(d) = d (α − β d)        peak d* = α / 2β,          R* = α² / 4β
    RL          R(d) = d (α − β ln d)     peak d* = e^{α/β − 1},     R* = β d*

α is what the first steps earn and β how fast the proxy stops being worth optimising. Divided by d both laws
are linear in (α, β): least squares. Source: Gao et al. 2022, "Scaling laws for reward model
overoptimization". Proved by tests/experiments/test_goodhart_laws.py.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"best-of-n": lambda d: d, "rl": np.log}


@dataclass(frozen=True)
class Fit:
    """A law with its peak; nan, with the reason, where the points do not determine one."""

    kind: str
    alpha: float
    beta: float
    d_peak: float  # inf where β <= 0: the law has no peak, more is better
    r_peak: float  # R there, inf with it
    d_seen: float  # the largest distance among the points: a peak beyond it is extrapolated
    d_interval: tuple[float, float]  # 95 %, of d_peak
    misfit: float  # √(χ² / (n − 2)): much above 1, the points obey another law
    undefined: str = ""

    def value(self, d: np.ndarray) -> np.ndarray:
        """R(d) for d >= 0, 0 at 0."""
        d = np.asarray(d, dtype=float)
        safe = np.where(d > 0, d, 1.0)
        return np.where(d > 0, d * (self.alpha - self.beta * KINDS[self.kind](safe)), 0.0)

    @property
    def stop(self) -> float:
        """Where to stop: at the peak, at the last point if that is before it, or at 0 if that loses."""
        d = min(self.d_peak, self.d_seen)
        return d if self.value(d) > 0 else 0.0


def peak(kind: str, alpha: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(d*, R*) of each law, (n,) twice: (0, 0) where every step loses, (inf, inf) where there is no peak."""
    b = np.where(beta > 0, beta, 1.0)
    if kind == "best-of-n":
        up = np.maximum(alpha, 0.0)
        d, R = up / (2 * b), up**2 / (4 * b)
    else:
        d = np.exp(np.minimum(alpha / b - 1, 700.0))
        R = b * d
    return np.where(beta > 0, d, math.inf), np.where(beta > 0, R, math.inf)


def least_squares(kind: str, d: np.ndarray, R: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(α, β) of each row of R, (2, B), where Σ w (R / d − α + β f(d))² is least, f(d) = d or ln d.

    d, weights: (n,).  R: (B, n).
    """
    A = np.column_stack([np.ones_like(d), -KINDS[kind](d)]) * np.sqrt(weights)[:, None]  # (n, 2)
    return np.linalg.lstsq(A, (R / d * np.sqrt(weights)).T, rcond=None)[0]  # (2, B)


def fit(
    kind: str, d: Sequence[float], R: Sequence[float], errors: Sequence[float], n_resamples: int = 2000, seed: int = 0
) -> Fit:
    """The law through points (d, R); the reference, d = 0, is on it anyway and left out.

    d: (n,) √KL in √nats.  R: (n,) gold reward less the reference's.  errors: (n,) standard errors of R. Points
    count by the precision of R / d, (d / error)², and the 95 % interval is that of fits to
    R + errors · max(1, misfit) · N(0, 1): a law that the points do not obey is not known better for having
    precise points.  kind: "best-of-n" or "rl".
    Undefined for fewer than three different d above 0: two points obey any such law.
    """
    d, R, sigma = (np.asarray(x, dtype=float) for x in (d, R, errors))  # (n,) each
    nan = math.nan
    nothing = Fit(kind, nan, nan, nan, nan, nan, (nan, nan), nan)
    if not (np.isfinite(d) & np.isfinite(R) & np.isfinite(sigma)).all():
        return replace(nothing, undefined="a point that is not finite")
    if (d < 0).any() or (sigma[d > 0] <= 0).any():
        return replace(nothing, undefined="a distance below 0, or an error that is not above 0")
    d, R, sigma = d[d > 0], R[d > 0], sigma[d > 0]
    if (n := len(np.unique(d))) < 3:
        return replace(nothing, undefined=f"{n} different distances above 0, three are needed")
    weights = (d / sigma) ** 2  # (n,)
    (alpha,), (beta,) = least_squares(kind, d, R[None], weights)
    (d_peak,), (r_peak,) = peak(kind, np.array([alpha]), np.array([beta]))
    found = Fit(kind, float(alpha), float(beta), float(d_peak), float(r_peak), float(d.max()), (nan, nan), nan)
    misfit = math.sqrt(float((weights * (R / d - found.value(d) / d) ** 2).sum()) / (len(d) - 2))
    noise = np.random.default_rng(seed).standard_normal((n_resamples, len(R)))  # (B, n)
    peaks, _ = peak(kind, *least_squares(kind, d, R + max(1.0, misfit) * sigma * noise, weights))  # (B,)
    low, high = np.quantile(peaks, [0.025, 0.975], method="nearest")  # of infinities there is no mean
    return replace(found, misfit=misfit, d_interval=(float(low), float(high)))
