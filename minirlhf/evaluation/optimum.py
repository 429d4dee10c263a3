"""J = E r − β KL of the models, and the share of what can be achieved that each reaches, as metrics with intervals.

J* is that of training where it is known, else it rests on samples (rl/optimum.py).
Proved by tests/evaluation/test_optimum.py.
"""

from collections.abc import Callable, Collection, Sequence
from math import inf, nan

import numpy as np

from minirlhf.evaluation.metric import Items, Metric, or_none, per_unit, ratio
from minirlhf.metrics.intervals import corpus_interval
from minirlhf.rl.optimum import (
    LEAST, MOST, best_of_n, best_of_table, effective_size, equivalent_n, mixture_weights, optimal_objective, share_of,
)


def soft_optimum(
    items: Sequence[dict], weights: np.ndarray, beta: float, unit: np.ndarray
) -> tuple[dict, np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """J* from sampled items: its value with 95 % interval, None if too few; sums of each unit; J* of such sums.

    weights: (N,) how many samples of the reference each stands for.  unit: (prompts,) of `units`.
    """
    rewards = np.array([x["scores"]["reward"] for x in items])  # (N,)
    top = rewards.max()
    lifted = [{"index": x["index"], "v": v} for x, v in zip(items, weights * np.exp((rewards - top) / beta))]
    Z = per_unit({"": lifted}, unit, lambda x: (x["v"], 1))[""]  # (n, 2)

    def J_star(sums: np.ndarray) -> np.ndarray:
        return top + beta * np.log(ratio(sums))

    known = {"effective_size": effective_size(rewards, weights, beta), "value": None}
    if known["effective_size"] >= LEAST:
        low, high = corpus_interval(Z, J_star)
        known |= {"value": optimal_objective(rewards, weights, beta), "low": or_none(low), "high": or_none(high)}
    return known, Z, J_star


def reference_optimum(items: Sequence[dict], beta: float, unit: np.ndarray) -> dict:
    """J* from sampled items of the reference alone, with its 95 % interval, or no value if too few."""
    return soft_optimum(items, np.ones(len(items)), beta, unit)[0]


def worth(own: np.ndarray, rewards: np.ndarray, weights: np.ndarray, unit: np.ndarray) -> dict:
    """The n at which best-of-n of the reference earns what the policy does, with 95 % interval and effective samples.

    own: (units, 2) the policy's rewards, summed, and their number.  rewards, weights, unit: (N,) of samples of the
    reference.  No value on fewer than LEAST effective samples; None for an n or an end beyond MOST.
    """
    levels, level = np.unique(rewards, return_inverse=True)
    mass = np.zeros((len(own), len(levels)))  # (units, L)
    np.add.at(mass, (unit, level), weights)
    tables = np.hstack([mass, own])  # (units, L + 2)

    def solve(sums: np.ndarray) -> np.ndarray:
        return equivalent_n(ratio(sums[:, -2:]), levels, sums[:, :-2])

    n = float(solve(tables.sum(0, keepdims=True))[0])
    found = {"value": None, "low": None, "high": None}
    found["effective_size"] = best_of_n(rewards, weights, min(max(n, 1.0), MOST))[1]
    if found["effective_size"] >= LEAST and n < inf:
        low, high = corpus_interval(tables, lambda sums: np.minimum(solve(sums), MOST), 1000)
        found |= {"value": n, "low": or_none(low), "high": or_none(high) if high < MOST else None}
    return found


def regret_metrics(
    sampled: Items, reference: str, policy: str, beta: float, unit: np.ndarray, known: dict | None = None,
    others: Collection[str] = (),
) -> tuple[list[Metric], dict]:  # fmt: skip
    """J = E r − β KL of every model, the share of (J* − J_ref) it reaches, and what is known of the optimum.

    J* is that of training, `known` of `Achieved.optimum`, or else rests on the sampled items of `reference` and
    `policy` together, which hold their log_ratio, as best-of-n does. The share is left out where J* rests on
    fewer than LEAST effective samples, and undefined as `share_of` has it, and for `others`, whose KL and J are to
    another model than `reference`.
    """
    pooled = sampled[reference] + sampled[policy]
    rewards, log_ratio = (np.array(x) for x in zip(*((x["scores"]["reward"], x["log_ratio"]) for x in pooled)))
    weights = mixture_weights(log_ratio, len(sampled[reference]) / len(pooled))  # (N,)
    J = per_unit(sampled, unit, lambda x: (x["scores"]["reward"] - beta * x["kl"], 1))  # (n, 2) each
    optimum, Z, J_star = soft_optimum(pooled, weights, beta, unit)
    if known and known["value"] is not None:
        optimum, J_star = dict(known), lambda sums: np.full(len(sums), known["value"])

    def share(sums: np.ndarray) -> np.ndarray:
        return 100 * share_of(ratio(sums[:, :2]), ratio(sums[:, 2:4]), J_star(sums[:, 4:]), beta)

    metrics = [Metric(f"J = reward - {beta:g} KL", 1, ratio, J, bounded=False)]
    if optimum["effective_size"] >= LEAST:
        tables = {m: np.hstack([J[m] * (nan if m in others else 1), J[reference], Z]) for m in J}
        metrics.append(Metric("share of J* - J(ref), %", 1, share, tables, fixed=reference))
    own = per_unit({"": sampled[policy]}, unit, lambda x: (x["scores"]["reward"], 1))[""]  # (n, 2)
    optimum |= {"beta": beta, "reward": float(ratio(own.sum(0, keepdims=True))[0])}
    optimum |= {"best_of": best_of_table(rewards, weights)}
    optimum["worth"] = worth(own, rewards, weights, unit[[x["index"] for x in pooled]])
    optimum["tokens"] = {m: float(np.mean([x["tokens"] for x in sampled[m]])) for m in (reference, policy)}
    return metrics, optimum
