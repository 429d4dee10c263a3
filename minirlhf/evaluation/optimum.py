"""J = E r − β KL of the models, and the share of what can be achieved that each reaches, as metrics with intervals.

J* is that of training where it is known, else it rests on samples (rl/optimum.py).
Proved by tests/evaluation/test_optimum.py.
"""

from collections.abc import Callable, Sequence

import numpy as np

from minirlhf.evaluation.metric import Items, Metric, or_none, per_unit, ratio
from minirlhf.metrics.intervals import corpus_interval
from minirlhf.metrics.scores import divide
from minirlhf.rl.optimum import LEAST, best_of_n, effective_size, equivalent_n, mixture_weights, optimal_objective


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


def regret_metrics(
    sampled: Items, reference: str, policy: str, beta: float, unit: np.ndarray, known: dict | None = None
) -> tuple[list[Metric], dict]:
    """J = E r − β KL of every model, the share of (J* − J_ref) it reaches, and what is known of the optimum.

    J* is that of training, `known` of `Achieved.optimum`, or else rests on the sampled items of `reference` and
    `policy` together, which hold their log_ratio, as best-of-n does. The share is left out where J* rests on
    fewer than LEAST effective samples or leaves less to gain than a tenth of a nat of KL costs.
    """
    pooled = sampled[reference] + sampled[policy]
    rewards, log_ratio = (np.array(x) for x in zip(*((x["scores"]["reward"], x["log_ratio"]) for x in pooled)))
    weights = mixture_weights(log_ratio, len(sampled[reference]) / len(pooled))  # (N,)
    J = per_unit(sampled, unit, lambda x: (x["scores"]["reward"] - beta * x["kl"], 1))  # (n, 2) each
    optimum, Z, J_star = soft_optimum(pooled, weights, beta, unit)
    if known:
        optimum, J_star = dict(known), lambda sums: np.full(len(sums), known["value"])

    def share(sums: np.ndarray) -> np.ndarray:
        own, ref, best = ratio(sums[:, :2]), ratio(sums[:, 2:4]), J_star(sums[:, 4:])
        return 100 * divide(own - ref, np.where(best - ref > beta / 10, best - ref, 0.0))

    metrics = [Metric(f"J = reward - {beta:g} KL", 1, ratio, J)]
    if optimum["effective_size"] >= LEAST:
        metrics.append(Metric("share of J* - J(ref), %", 1, share, {m: np.hstack([J[m], J[reference], Z]) for m in J}))
    own = float(np.mean([x["scores"]["reward"] for x in sampled[policy]]))
    tokens = {m: float(np.mean([x["tokens"] for x in sampled[m]])) for m in (reference, policy)}
    optimum |= {"best_of": {str(k): best_of_n(rewards, weights, k) for k in (1, 2, 4, 8, 16, 32, 64, 128)}}
    optimum |= {"beta": beta, "reward": own, "worth": or_none(equivalent_n(own, rewards, weights)), "tokens": tokens}
    return metrics, optimum
