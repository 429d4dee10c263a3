"""The share of what can be achieved, with its interval."""

import numpy as np

from minirlhf.evaluation.optimum import reference_optimum

UNIT = np.arange(40)


def test_the_interval_of_one_unit_is_unknown_in_json_too():
    rows = [{"index": 0, "scores": {"reward": 0.5}}] * 300
    known = reference_optimum(rows, 0.3, UNIT[:1])
    assert known == {"effective_size": 300, "value": 0.5, "low": None, "high": None}
