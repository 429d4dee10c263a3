"""The share of what can be achieved, with its interval."""

import numpy as np
import pytest

from minirlhf.evaluation.optimum import reference_optimum, regret_metrics

UNIT = np.arange(40)


def test_the_interval_of_one_unit_is_unknown_in_json_too():
    rows = [{"index": 0, "scores": {"reward": 0.5}}] * 300
    known = reference_optimum(rows, 0.3, UNIT[:1])
    assert known == {"effective_size": 300, "value": 0.5, "low": None, "high": None}


def test_a_reward_that_no_best_of_n_earns_is_worth_none_and_not_infinity():
    """All samples of the reference earn 0; the policy says only what the reference never would."""
    sampled = {m: [{"index": i, "tokens": 1, "kl": 0.0, "scores": {"reward": r}, "log_ratio": x} for i in range(40)]
               for m, r, x in (("ref", 0.0, 0.0), ("pi", 1.0, 500.0))}  # fmt: skip
    sampled = {m: rows * 10 for m, rows in sampled.items()}
    worth = regret_metrics(sampled, "ref", "pi", 0.3, UNIT)[1]["worth"]
    assert worth == {"value": None, "low": None, "high": None, "effective_size": pytest.approx(400)}
