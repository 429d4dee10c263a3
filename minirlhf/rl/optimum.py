"""How much of what can be achieved has been achieved: the optimum of the objective, and best-of-n.

    J(π) = E_π r − β KL(π ‖ ref)      J* = max J = β log E_ref exp(r / β)      J* − J(π) = β KL(π ‖ π*)

J* wants no training, only rewards of samples of the reference; but few of those are good, so the weights
exp(r / β) rest on a handful. A trained policy is where they are large: samples y ~ π, each counted
ref(y) / π(y) times, say the same with less noise. `effective_size` tells on how many equal ones a figure rests;
on few, J* comes out too low: E log of a mean <= log E.

Both figures here are taken over all prompts together, as if the best of them could be had for any: where
prompts differ, their limits are upper bounds (Jensen), and what is said of a policy errs on the low side.
Proved by tests/rl/test_optimum.py, against the enumerated optimum of `theory/oracle.py`.
"""

from math import inf

import numpy as np

LEAST = 200  # effective samples, below which J* is not shown


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


def best_of_n(rewards: np.ndarray, weights: np.ndarray, n: float) -> float:
    """E of the best reward of n samples of the reference, (Σ over levels x) x (F(x)ⁿ − F(x−)ⁿ); n may be a fraction.

    rewards, weights: as in `optimal_objective`; F is the weighted law of the rewards.
    """
    order = np.argsort(rewards, kind="stable")
    F = np.cumsum(weights[order]) / weights.sum()  # (n,)
    return float(np.diff(F**n, prepend=0.0) @ rewards[order])


def equivalent_n(reward: float, rewards: np.ndarray, weights: np.ndarray, most: float = 1e4) -> float:
    """The n for which best-of-n earns `reward`, from 1 to `most`; infinity if more would be needed, 0 if even 1 earns
    more. Over the samples of all prompts together: where prompts differ, too few."""
    slack = 1e-9 * max(1.0, float(np.abs(rewards).max()))  # sums of rounded weights
    if best_of_n(rewards, weights, most) < reward - slack:
        return inf
    if best_of_n(rewards, weights, 1) > reward + slack:
        return 0.0
    low, high = 0.0, np.log(most)
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if best_of_n(rewards, weights, np.exp(middle)) < reward else (low, middle)
    return float(np.exp(high))


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

        The share is None while J* rests on fewer than LEAST effective samples.
        """
        log_v = rewards / self.beta - log_ratio  # (n,)
        if not self.state:
            self.state = {"reward": float(rewards.mean()), "n": 0, "first": -inf, "second": -inf}
        s = self.state
        s["n"] += len(rewards)
        s["first"] = float(np.logaddexp.reduce([s["first"], *log_v]))
        s["second"] = float(np.logaddexp.reduce([s["second"], *(2 * log_v)]))
        J, best = float((rewards - self.beta * log_ratio).mean()), self.optimum()
        room = None if best["value"] is None else best["value"] - s["reward"]
        return {
            "objective": J,
            "optimum": best["value"],
            "effective_size": best["effective_size"],
            "share": (J - s["reward"]) / room if room and room > 0 else None,
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
        half = 1.96 * self.beta * max(1 / effective - 1 / s["n"], 0.0) ** 0.5  # of log of a mean, to first order
        return {"effective_size": effective, "value": J_star, "low": J_star - half, "high": J_star + half}
