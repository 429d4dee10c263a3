"""Calibration: if a model says things with confidence p, is a share p of them right?

    ECE = Σ_b (n_b / N) |acc_b − conf_b|        T* = argmin_T NLL(softmax(z / T))

ECE, the expected calibration error, is no distance from perfection by itself: noise alone makes every |acc_b − conf_b|
positive, the more the fewer items a bin has. So publish N, the number of bins, the interval over prompts and the ECE
under perfect calibration (`ece_if_calibrated`) with it. Resampling adds noise to noise, so `intervals.pivot` turns the
interval round. Without items a result is nan.
Proved by tests/metrics/test_calibration.py.
"""

import math
from collections.abc import Sequence

import numpy as np

from minirlhf.metrics.intervals import wilson
from minirlhf.metrics.scores import divide


def _binned(confidence: Sequence[float], correct: Sequence[bool], n_bins: int) -> tuple[np.ndarray, ...]:
    """Both as floats, and each confidence's bin: (N,) each. Bins have equal width: (l, r], the first one [0, r]."""
    confidence, correct = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=float)
    return confidence, correct, np.searchsorted(np.arange(1, n_bins) / n_bins, confidence, side="left")


def reliability_bins(confidence: Sequence[float], correct: Sequence[bool], n_bins: int = 15) -> list[dict]:
    """A reliability diagram: the non-empty bins of equal width, from low to high confidence.

    confidence: (N,) in [0, 1].  correct: (N,) 0 or 1. Each bin has its count, mean confidence and accuracy (the share
    correct). Wilson's 95% interval of the accuracy, low to high, takes the items as independent.
    """
    confidence, correct, bins = _binned(confidence, correct, n_bins)
    rows = []
    for n, total, right in zip(*(np.bincount(bins, x, n_bins).tolist() for x in (None, confidence, correct))):
        if n:
            low, high = wilson(right, n)
            rows.append({"count": n, "confidence": total / n, "accuracy": right / n, "low": low, "high": high})
    return rows


def calibration_statistics(confidence: Sequence[float], correct: Sequence[bool], n_bins: int = 15) -> np.ndarray:
    """Sufficient statistics of ECE for the items of one prompt, to be summed over prompts.

    Returns (M + 1,): Σ (correct − confidence) for each of M = n_bins bins of equal width, then the number of items.
    """
    confidence, correct, bins = _binned(confidence, correct, n_bins)
    return np.append(np.bincount(bins, correct - confidence, n_bins), len(confidence))


def ece_from_statistics(statistics: np.ndarray) -> np.ndarray:
    """ECE from summed statistics: (..., M + 1) -> (...). It serves paired tests of two models, too."""
    statistics = np.asarray(statistics, dtype=float)
    return divide(np.abs(statistics[..., :-1]).sum(axis=-1), statistics[..., -1])


def expected_calibration_error(confidence: Sequence[float], correct: Sequence[bool], n_bins: int = 15) -> float:
    """ECE = Σ_b (n_b / N) |acc_b − conf_b|. nan without items.  Source: Guo et al. 2017, eq. 3."""
    return float(ece_from_statistics(calibration_statistics(confidence, correct, n_bins)))


def ece_if_calibrated(
    confidence: Sequence[float], n_bins: int = 15, n_simulations: int = 1000, seed: int = 0
) -> np.ndarray:
    """The ECE of a perfectly calibrated model with these confidences, simulated S = n_simulations times: (S,).

        y_i ~ Bernoulli(conf_i), independently

    Their mean is the part of a measured ECE that is no miscalibration. The share of them >= the measured ECE is
    a p-value of perfect calibration, if the items are independent.  confidence: (N,).
    Source: Bröcker and Smith 2007 (consistency resampling), who draw the confidences anew, too.
    """
    confidence = np.asarray(confidence, dtype=float)
    rng = np.random.default_rng(seed)
    correct = (rng.random(len(confidence)) < confidence for _ in range(n_simulations))  # (N,) each
    return np.array([expected_calibration_error(confidence, y, n_bins) for y in correct])


def fit_temperature(logits: np.ndarray, labels: Sequence[int]) -> float:
    """The T > 0 that minimises the NLL of softmax(logits / T). Fit it on a split that is not reported.

    In s = 1/T the NLL is convex. Its derivative is Σ_i (E_{softmax(s z_i)}[z_i] − z_{i,y_i}), its second derivative
    Σ_i Var_{softmax(s z_i)}[z_i]. Newton's method finds the minimum, between bounds that are too low and too high.
    The result is 0.0 if every label has the largest logit: more confidence is always better. It is inf if equal
    probabilities are best, and nan if all logits of each item are equal.
    logits: (N, K).  labels: (N,) int.  Source: Guo et al. 2017, section 4.2.
    """
    logits, labels = np.asarray(logits, dtype=float), np.asarray(labels)
    z = logits - logits.max(axis=1, keepdims=True, initial=-math.inf)  # (N, K)
    target = z[np.arange(len(z)), labels].sum()
    if not z.any():
        return math.nan

    def derivatives(s: float) -> tuple[float, float]:
        p = np.exp(s * z)  # (N, K)
        p /= p.sum(axis=1, keepdims=True)
        mean = (p * z).sum(axis=1)  # (N,)
        return float(mean.sum() - target), float((p * z * z).sum() - mean @ mean)

    if target == 0:
        return 0.0
    if derivatives(0.0)[0] >= 0:
        return math.inf
    low, high, s = 0.0, math.inf, 1.0
    for _ in range(100):
        slope, curvature = derivatives(s)
        low, high = (s, high) if slope < 0 else (low, s)
        step = float(s - divide(slope, curvature))
        if abs(step - s) <= 1e-9 * s:
            break
        s = step if low < step < high else (low + min(high, 3 * s)) / 2
    return 1 / s
