"""Values, differences, intervals and verdicts."""

from math import nan

import pytest

from minirlhf.evaluation.verdicts import adjust
from minirlhf.metrics.paired_tests import Difference, verdict


@pytest.mark.parametrize("value, p, direction, said", [
    (2.0, 0.01, 1, "better"), (-2.0, 0.01, 1, "worse"), (2.0, 0.01, -1, "worse"), (-2.0, 0.01, -1, "better"),
    (2.0, 0.01, 0, "higher"), (-2.0, 0.01, 0, "lower"),
    *((2.0, 0.06, direction, "no difference shown") for direction in (-1, 0, 1)),
    *((nan, nan, direction, "undefined") for direction in (-1, 0, 1)),
])  # fmt: skip
def test_a_verdict_says_what_is_good_or_else_which_way(value, p, direction, said):
    assert verdict(Difference(9, value, (nan, nan), p), direction) == said


def differences(*p: float | None) -> list[dict]:
    verdicts = ["better" if x is not None and x <= 0.05 else "no difference shown" for x in p]
    return [{"differences": {"ppo": {"p": x, "verdict": v}}} for x, v in zip(p, verdicts)]


def test_a_verdict_that_does_not_survive_holm_is_taken_back():
    """0.01 × 3 survives; 0.03 × 2 does not, and so neither does what stands behind it."""
    rows = differences(0.03, 0.01, 0.04)
    adjust(rows)
    got = [row["differences"]["ppo"] for row in rows]
    assert [d["p_holm"] for d in got] == pytest.approx([0.06, 0.03, 0.06])
    assert [d["verdict"] for d in got] == ["no difference shown", "better", "no difference shown"]
    assert [d["p"] for d in got] == [0.03, 0.01, 0.04]


def test_one_primary_metric_keeps_its_p_and_each_model_is_a_family_of_its_own():
    rows = differences(0.04)
    rows[0]["differences"]["base"] = {"p": 0.03, "verdict": "worse"}
    adjust(rows)
    assert {m: (d["p_holm"], d["verdict"]) for m, d in rows[0]["differences"].items()} == {
        "ppo": (0.04, "better"), "base": (0.03, "worse")
    }


def test_an_undefined_p_stays_undefined_and_counts_in_the_family():
    rows = differences(None, 0.02)
    rows[0]["differences"]["ppo"]["verdict"] = "undefined"
    adjust(rows)
    assert [row["differences"]["ppo"]["p_holm"] for row in rows] == [None, 0.04]
    assert [row["differences"]["ppo"]["verdict"] for row in rows] == ["undefined", "better"]
