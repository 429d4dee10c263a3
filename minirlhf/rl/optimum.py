"""How much of what can be achieved has been achieved: the optimum of the objective, and best-of-n.

    J(π) = E_π r − β KL(π ‖ ref)      J* = max J = β log E_ref exp(r / β)      J* − J(π) = β KL(π ‖ π*)

J* wants no training, only rewards of samples of the reference; but few of those are good, so the weights
exp(r / β) rest on a handful. A trained policy is where they are large: samples y ~ π, each counted
ref(y) / π(y) times, say the same with less noise. `effective_size` tells on how many equal ones a figure rests;
on few, J* comes out too low: E log of a mean <= log E. It tells nothing of rewards that were never sampled, and J* is
then too low on many, too.

Both figures here are taken over all prompts together, as if the best of them could be had for any: where prompts
differ, or replies of an environment that is random, their limits are upper bounds (Jensen), and what is said of a
policy errs on the low side. Proved by tests/rl/test_optimum.py, against the enumerated optimum of `theory/oracle.py`.
"""

from math import inf, isfinite, nan

import numpy as np

LEAST = 200  # effective samples, below which no figure that rests on them is shown
MOST = 1e4  # the largest best-of-n that is looked for


def mixture_weights(log_ratio: np.ndarray, share: float) -> np.ndarray:
    """How often each sample of a mixture counts for one of the reference: ref / (a ref + (1 − a) π), at most 1 / a.

    log_ratio: (n,) log π − log ref of whole responses, of which the share `a` was sampled from the reference and the
    rest from π.  Source: defensive mixtures, Hesterberg 1995.
    """
    return 1 / (share + (1 - share) * np.exp(log_ratio))


def optimal_objective(rewards: np.ndarray, weights: np.ndarray, beta: float) -> float:
    """J* = β log (Σ w exp(r / β) / n). rewards, weights: (n,), w as above, or 1 for samples of the reference."""
    top = rewards.max()
    return float(top + beta * np.log(np.mean(weights * np.exp((rewards - top) / beta))))


def effective_size(rewards: np.ndarray, weights: np.ndarray, beta: float) -> float:
    """(Σ v)² / Σ v² of v = w exp(r / β): how many equally weighted samples would be as good. Source: Kong 1992."""
    v = weights * np.exp((rewards - rewards.max()) / beta)
    return float(v.sum() ** 2 / (v * v).sum())


def best_law(mass: np.ndarray, n: np.ndarray | float) -> np.ndarray:
    """The law of the best of n, (...), samples over L rising levels of weights `mass` (..., L): F(x)ⁿ − F(x−)ⁿ."""
    F = mass.cumsum(-1) / mass.sum(-1, keepdims=True)  # (..., L)
    return np.diff(F ** np.asarray(n)[..., None], prepend=0.0)


def best_of_n(rewards: np.ndarray, weights: np.ndarray, n: float) -> tuple[float, float]:
    """(E of the best reward of n samples of the reference, on how many effective samples that rests).

    rewards, weights: as in `optimal_objective`. A sample has its share in the chance of its level; as `effective_size`.
    """
    levels, level = np.unique(rewards, return_inverse=True)
    mass = np.bincount(level, weights)  # (L,)
    law = best_law(mass, n)
    v = weights * np.divide(law, mass, out=np.zeros_like(law), where=mass > 0)[level]  # (n,), of sum 1
    return float(law @ levels), float(1 / (v * v).sum())


def best_of_table(rewards: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """n -> best-of-n, for powers of 2 up to 128 if that rests on LEAST effective samples, and for 1."""
    table = {str(2**k): best_of_n(rewards, weights, 2**k) for k in range(8)}
    return {n: value for n, (value, size) in table.items() if n == "1" or size >= LEAST}


def equivalent_n(reward: np.ndarray, levels: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """The n for which best-of-n earns `reward`, from 1 to MOST; infinity if more would be needed, 0 if even 1 earns
    more. Over the samples of all prompts together: where prompts differ, too few.

    reward: (B,).  levels: (L,), rising.  mass: (B, L), as in `best_law`. Returns (B,).
    """
    slack = 1e-9 * max(1.0, float(np.abs(levels).max()))  # sums of rounded weights
    low, high = np.zeros(len(reward)), np.full(len(reward), np.log(MOST))  # (B,) each
    start, end = (best_law(mass, np.exp(n)) @ levels for n in (low, high))
    for _ in range(30):
        middle = (low + high) / 2
        less = best_law(mass, np.exp(middle)) @ levels < reward  # (B,)
        low, high = np.where(less, middle, low), np.where(less, high, middle)
    return np.where(end < reward - slack, inf, np.where(start > reward + slack, 0.0, np.exp(high)))


def share_of(J: np.ndarray | float, J_ref: np.ndarray | float, J_star: np.ndarray | float, beta: float) -> np.ndarray:
    """(J − J_ref) / (J* − J_ref), the part reached of what can be gained.

    nan where that is no more than a tenth of a nat of KL costs: there is nothing to gain.
    """
    room = np.asarray(J_star - J_ref, dtype=float)
    return (J - J_ref) / np.where(room > beta / 10, room, nan)


class Achieved:
    """J and the share (J − J_ref) / (J* − J_ref) of one task, round by round, from the rollouts themselves.

    J_ref is the reward of the first round, when the policy is the reference. J* rests on every response so far,
    each weighted by ref / π of the policy that sampled it: on the way from ref to π* they bridge the gap that
    samples of the two ends leave. Source: adaptive importance sampling, Oh and Berger 1992.
    """

    def __init__(self, beta: float, state: dict | None = None) -> None:
        self.beta = beta
        self.state = state or {}

    def add(self, rewards: np.ndarray, log_ratio: np.ndarray) -> dict[str, float | None]:
        """The figures of a round. rewards: (n,).  log_ratio: (n,) log π − log ref of the responses.

        The share is None while J* rests on fewer than LEAST effective samples, and where there is nothing to gain.
        """
        log_v = rewards / self.beta - log_ratio  # (n,)
        if not self.state:
            self.state = {"reward": float(rewards.mean()), "n": 0, "first": -inf, "second": -inf}
        s = self.state
        s["n"] += len(rewards)
        s["first"] = float(np.logaddexp.reduce([s["first"], *log_v]))
        s["second"] = float(np.logaddexp.reduce([s["second"], *(2 * log_v)]))
        J, best = float((rewards - self.beta * log_ratio).mean()), self.optimum()
        share = nan if best["value"] is None else float(share_of(J, s["reward"], best["value"], self.beta))
        return {
            "objective": J,
            "optimum": best["value"],
            "effective_size": best["effective_size"],
            "share": share if isfinite(share) else None,
        }

    def optimum(self) -> dict[str, float | None]:
        """J* with its 95 % interval and effective samples; no value while they are fewer than LEAST.

        The interval knows the noise of independent responses alone, neither groups nor what pooling prompts adds.
        """
        s = self.state
        effective = float(np.exp(2 * s["first"] - s["second"]))
        if effective < LEAST:
            return {"effective_size": effective, "value": None}
        J_star = float(self.beta * (s["first"] - np.log(s["n"])))
        spread = 1 / effective - 1 / s["n"]  # of log of a mean, to first order; 0 where no two rewards differ
        half = 1.96 * self.beta * spread**0.5 if spread > 1e-12 else nan
        low, high = (x if isfinite(x) else None for x in (J_star - half, J_star + half))
        return {"effective_size": effective, "value": J_star, "low": low, "high": high}
