"""Values, differences, intervals and verdicts."""

from math import nan

import numpy as np
import pytest

from minirlhf.evaluation.metric import Metric, ratio
from minirlhf.evaluation.verdicts import RESAMPLES, adjust, compare_models, metric_interval
from minirlhf.metrics.calibration import calibration_statistics, ece_from_statistics, ece_if_calibrated
from minirlhf.metrics.intervals import corpus_interval, unseen, wilson
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


def test_what_could_be_seen_is_of_a_test_among_several():
    """Six tests ask 3.48 standard errors, where one asks 2.80."""
    rows = differences(*[0.3] * 6)
    rows[0]["differences"]["ppo"] |= {"n": 100, "minimum_detectable": 0.1, "prompts_needed": 200}
    rows[1]["differences"]["ppo"] |= {"minimum_detectable": None, "prompts_needed": None}
    adjust(rows)
    found, none = (row["differences"]["ppo"] for row in rows[:2])
    assert found["minimum_detectable"] == pytest.approx(0.1 * 3.4799 / 2.8016, rel=1e-4)
    assert found["prompts_needed"] == 309 and none["minimum_detectable"] is none["prompts_needed"] is None


@pytest.mark.parametrize("n, seen", [(7, None), (8, 0.1)])
def test_among_several_tests_few_prompts_can_show_nothing(n, seen):
    """At best p is 2 / 2^n, and six tests ask it to be 0.05 / 6."""
    rows = differences(*[0.3] * 6)
    rows[0]["differences"]["ppo"] |= {"n": n, "minimum_detectable": 0.08052, "prompts_needed": 2}
    adjust(rows)
    d = rows[0]["differences"]["ppo"]
    assert d["minimum_detectable"] == (seen and pytest.approx(seen, rel=1e-3)) and d["prompts_needed"] == 8


@pytest.mark.parametrize("ones", [0, 1, 2, 5, 100, 199, 200])
def test_the_interval_of_a_share_of_0s_and_1s_is_wilsons_or_what_was_not_seen(ones):
    """The first that differs makes it wider. The bootstrap's would become narrower, and cover 85 %."""
    rows = np.column_stack([[1.0] * ones + [0.0] * (200 - ones), np.ones(200)])
    low, high = metric_interval(Metric("x", 1, ratio, {}), rows)
    assert (low, high) == pytest.approx(wilson(ones, 200) if 0 < ones < 200 else unseen(ones / 200, 200, 0, 1))
    assert high - low > 0.018


def test_few_conversations_of_unequal_length_have_students_interval():
    """The bootstrap of five covers 82 %."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        turns, level = rng.integers(2, 5, 5), 0.5 + 0.2 * rng.normal(size=5)
        rows = np.column_stack([turns * level, turns])
        low, high = metric_interval(Metric("x", 1, ratio, {}, bounded=False), rows)
        covered += low <= 0.5 <= high
    assert covered >= 184


def test_two_models_that_are_calibrated_are_not_told_apart_by_what_chance_makes_of_their_error():
    """The confidences of one spread over all bins, those of the other lie in one."""
    rng = np.random.default_rng(0)
    confidence = {"a": rng.uniform(0.05, 1, (200, 10)), "b": rng.choice([0.99, 0.999], (200, 10))}
    tables = {m: np.array([calibration_statistics(p, rng.random(10) < p) for p in x]) for m, x in confidence.items()}
    floor = {m: float(ece_if_calibrated(x.ravel(), n_simulations=200).mean()) for m, x in confidence.items()}
    got = []
    for known, said in (({}, "worse"), (floor, "no difference shown")):
        (row,) = compare_models([Metric("x", -1, ece_from_statistics, tables, "calibration", floor=known)], "b")
        got.append(row["differences"]["a"])
        assert got[-1]["verdict"] == said
    chance = floor["a"] - floor["b"]
    assert got[1]["minimum_detectable"] == pytest.approx(got[0]["minimum_detectable"] + chance)
    assert got[1]["prompts_needed"] > 200 > got[0]["prompts_needed"]


def test_two_models_of_equal_errors_are_not_told_apart_though_chance_makes_one_of_them():
    """The one is calibrated and its confidences spread; the other is off by as much."""
    rng = np.random.default_rng(0)
    rows = {m: np.column_stack([rng.normal(0.1, 0.02, 60), np.ones(60)]) for m in "ab"}
    rows["a"][:, 0] += rows["b"][:, 0].mean() - rows["a"][:, 0].mean()
    (row,) = compare_models([Metric("x", -1, ratio, rows, "calibration", floor={"a": 0.1, "b": 0.02})], "b")
    assert row["differences"]["a"]["verdict"] == "no difference shown" and row["differences"]["a"]["p"] > 0.9


def test_of_many_conversations_of_unequal_length_a_share_has_a_bound_or_the_bootstraps_interval():
    rng = np.random.default_rng(0)
    turns, metric = rng.integers(2, 5, 40), Metric("x", 1, ratio, {})
    rows = np.column_stack([turns * rng.random(40), turns])
    assert metric_interval(metric, rows) == corpus_interval(rows, ratio, RESAMPLES)
    assert metric_interval(metric, np.column_stack([turns, turns])) == pytest.approx(unseen(1, 40, 0, 1))


def test_an_undefined_p_stays_undefined_and_counts_in_the_family():
    rows = differences(None, 0.02)
    rows[0]["differences"]["ppo"]["verdict"] = "undefined"
    adjust(rows)
    assert [row["differences"]["ppo"]["p_holm"] for row in rows] == [None, 0.04]
    assert [row["differences"]["ppo"]["verdict"] for row in rows] == ["undefined", "better"]
