"""How well rewards tell what was chosen, on comparisons held out: accuracy, loss, calibration, and the rule of length.

Proved by tests/preferences/test_measure.py.
"""

from collections.abc import Sequence

import numpy as np
import torch

from minirlhf.metrics.calibration import ece_if_calibrated, expected_calibration_error, reliability_bins
from minirlhf.metrics.intervals import wilson
from minirlhf.preferences.comparisons import Pair
from minirlhf.preferences.losses import preference_loss

BINS = 10  # of the calibration error


def agreement(delta: np.ndarray, p: np.ndarray) -> np.ndarray:
    """How probably the judge of a pair says what the sign of delta says, (N,): p, 1 − p, or 1/2 for a tie."""
    return 0.5 + np.sign(delta) * (p - 0.5)


def measure(delta: np.ndarray, pairs: Sequence[Pair]) -> dict:
    """How well differences of rewards, (N,), tell what was chosen: before `normalise` changes their scale.

    accuracy: the mean agreement, with Wilson's interval (of pairs: too narrow where a prompt has many).
    longer: that of choosing the longer one.  calibration: of each bin of σ(|Δ|) its mean, the agreement and
    the number of pairs; ece: their weighted mean distance; ece_if_calibrated: what chance alone makes of it.
    gold: of the pairs whose gold rewards differ, the share that is in their order.
    """
    columns = np.array([(pair.p, pair.margin, pair.gold) for pair in pairs], dtype=float)  # (N, 3)
    p, margin, gold = columns.T  # (N,) each
    length = np.array([len(pair.chosen) - len(pair.rejected) for pair in pairs])  # (N,)
    right = agreement(delta, p)  # (N,)
    confidence = 1 / (1 + np.exp(-np.abs(delta)))  # (N,)
    bins = reliability_bins(confidence, right, BINS)
    figures = {
        "pairs": len(pairs),
        "accuracy": float(right.mean()),
        "interval": wilson(float(right.sum()), len(pairs)),
        "longer": float(agreement(length, p).mean()),
        "loss": float(preference_loss(torch.from_numpy(delta - margin), torch.from_numpy(p))),
        "ece": float(expected_calibration_error(confidence, right, BINS)),
        "ece_if_calibrated": float(ece_if_calibrated(confidence, BINS).mean()),
        "calibration": [[b["confidence"], b["accuracy"], float(b["count"])] for b in bins],
    }
    if (known := gold != 0).any():
        figures["gold"] = float(agreement(delta, (1 + np.sign(gold)) / 2)[known].mean())
    return figures


def summary(held_out: dict) -> str:
    """What `measure` says, as lines to print."""
    low, high = held_out["interval"]
    text = f"{held_out['pairs']} held-out comparisons: accuracy {held_out['accuracy']:.3f}"
    text += f" [{low:.3f}, {high:.3f}], the longer one {held_out['longer']:.3f}, loss {held_out['loss']:.3f}"
    text += f"; order of the gold rewards {held_out['gold']:.3f}" if "gold" in held_out else ""
    bins = ", ".join(f"{said:.2f} -> {was:.2f} ({n:.0f})" for said, was, n in held_out["calibration"])
    chance = f"{held_out['ece_if_calibrated']:.3f} by chance alone"
    return f"{text}\ncalibration, said -> was (pairs): {bins}; ECE {held_out['ece']:.3f}, {chance}"
