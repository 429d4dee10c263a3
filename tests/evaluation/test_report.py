"""The comparison as people and programs read it."""

import dataclasses
import json
from math import nan

import numpy as np
import pytest

from minirlhf.evaluation.items import TestSet
from minirlhf.evaluation.metric import Metric, ratio
from minirlhf.evaluation.report import build
from minirlhf.evaluation.table import cell, optimum_line, text_table
from minirlhf.evaluation.verdicts import compare_models
from minirlhf.harness.files import UserError
from minirlhf.metrics.calibration import calibration_statistics, ece_from_statistics
from minirlhf.metrics.intervals import corpus_interval, pivot, t_interval
from minirlhf.metrics.paired_tests import holm, paired_corpus
from minirlhf.tasks import TASKS

N = 40


def metric(name="reward", direction=1, shift=1.0, scale=0.1, **other) -> Metric:
    """A mean of three models on the same prompts: base as sft, ppo higher by `shift`."""
    rng = np.random.default_rng(0)
    one = np.ones(N)
    values = {"base": rng.normal(0, scale, N), "sft": rng.normal(0, scale, N)}
    values["ppo"] = values["sft"] + shift + rng.normal(0, scale, N)
    statistics = {m: np.column_stack([x, one]) for m, x in values.items()} | other
    return Metric(name, direction, ratio, statistics)


def compared(*metrics: Metric) -> list[dict]:
    return compare_models(metrics, "sft")


# compare


def test_values_intervals_and_differences_are_those_of_the_statistics():
    """The value of the whole, its bootstrap interval, and the paired test against the reference."""
    m = metric()
    (row,) = compared(m)
    a, b = m.statistics["ppo"], m.statistics["sft"]
    means = {name: float(s[:, 0].mean()) for name, s in m.statistics.items()}
    assert {name: x["value"] for name, x in row["models"].items()} == pytest.approx(means)
    assert (row["models"]["ppo"]["low"], row["models"]["ppo"]["high"]) == corpus_interval(a, ratio, 2000, 0)
    d, expected = row["differences"]["ppo"], paired_corpus(a, b, ratio, 0, 2000)
    assert d["value"] == pytest.approx(means["ppo"] - means["sft"]) and d["n"] == N
    assert (d["low"], d["high"]) == expected.bootstrap_interval and d["p"] == expected.p_value
    assert d["minimum_detectable"] == expected.minimum_detectable_effect


def test_each_model_but_the_reference_is_compared_with_it():
    (row,) = compared(metric())
    assert list(row["models"]) == ["base", "sft", "ppo"] and list(row["differences"]) == ["base", "ppo"]


@pytest.mark.parametrize("direction, shift, verdict", [
    (1, 1.0, "better"), (1, -1.0, "worse"), (-1, 1.0, "worse"), (-1, -1.0, "better"),
    (0, 1.0, "higher"), (0, -1.0, "lower"), (0, 0.0, "no difference shown"), (1, 0.0, "no difference shown"),
])
def test_the_verdict_knows_which_direction_is_good(direction, shift, verdict):
    (row,) = compared(metric(direction=direction, shift=shift))
    assert row["differences"]["ppo"]["verdict"] == verdict


@pytest.mark.parametrize("direction", [-1, 0, 1])
def test_a_model_equal_to_the_reference_shows_no_difference(direction):
    m = metric(direction=direction)
    twins = {"sft": m.statistics["sft"], "ppo": m.statistics["sft"].copy()}
    (row,) = compared(Metric("x", direction, ratio, twins))
    d = row["differences"]["ppo"]
    assert (d["value"], d["low"], d["high"], d["p"]) == (0, None, None, 1) and d["verdict"] == "no difference shown"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("ppo", [
    np.zeros((N, 2)),
    np.column_stack([np.full(N, nan), np.ones(N)]),
], ids=["0/0", "nan"])
def test_what_is_not_finite_is_none_and_undefined_with_a_reason(ppo):
    """In JSON that every program reads, and as a dash in the table; the other models keep their numbers."""
    rows = compared(metric(ppo=ppo))
    text = json.dumps(rows, allow_nan=False)
    assert "NaN" not in text and "Infinity" not in text
    assert rows[0]["models"]["ppo"] == {"value": None, "low": None, "high": None}
    d = rows[0]["differences"]["ppo"]
    assert (d["value"], d["low"], d["high"], d["p"], d["verdict"]) == (None, None, None, None, "undefined")
    assert d["undefined"]
    assert rows[0]["models"]["base"]["value"] is not None
    assert "undefined" not in rows[0]["differences"]["base"]
    line = text_table("t", rows, ["base", "sft", "ppo"], "sft").splitlines()[-1]
    assert line.split()[-4:] == ["-", "-", "p", "undefined"]


def test_one_prompt_has_a_value_and_no_interval():
    m = metric()
    (row,) = compared(Metric("x", 1, ratio, {k: s[:1] for k, s in m.statistics.items()}))
    assert row["models"]["ppo"]["value"] is not None and row["models"]["ppo"]["low"] is None
    assert row["differences"]["ppo"]["undefined"] == "fewer than 2 prompts"


def small(values: np.ndarray, direction=1) -> tuple[float, float]:
    """The interval of a mean over these units."""
    m = Metric("x", direction, ratio, {"sft": np.column_stack([values, np.ones(len(values))])})
    (row,) = compared(m)
    return row["models"]["sft"]["low"], row["models"]["sft"]["high"]


def test_a_share_of_0_or_1_has_the_interval_of_its_count():
    """Clopper and Pearson: 200 of 200 may be .9817, for a resample has no width. Without ends nothing is known."""
    assert small(np.ones(200)) == pytest.approx((0.025 ** (1 / 200), 1))
    assert small(np.zeros(200)) == pytest.approx((0, 1 - 0.025 ** (1 / 200)))
    assert small(np.zeros(200), direction=0) == (None, None)


def test_a_mean_over_few_units_has_students_interval():
    """Of −1, 0 and 1: ± 4.302653 / √3. A share is held in [0, 1]."""
    half = 4.302653 / 3**0.5
    assert small(np.array([-1.0, 0, 1])) == pytest.approx((-half, half))
    assert small(np.array([0.0, 0.5, 1])) == (0, 1)
    x = np.random.default_rng(0).normal(size=30)
    assert small(x) == corpus_interval(np.column_stack([x, np.ones(30)]), ratio, 2000, 0)


def test_a_difference_over_few_units_has_students_interval():
    a, b = np.array([1.0, 3, 2]), np.array([0.0, 1, 1])
    table_of = {m: np.column_stack([x, np.ones(3)]) for m, x in (("ppo", a), ("sft", b))}
    (row,) = compared(Metric("x", 1, ratio, table_of))
    d = row["differences"]["ppo"]
    assert (d["low"], d["high"]) == pytest.approx(t_interval(a - b)) and d["value"] == pytest.approx(4 / 3)


def test_the_interval_of_a_calibration_error_lies_below_its_resamples():
    """They add noise to noise: so does the estimate to the truth, and the interval is turned round it."""
    rng = np.random.default_rng(0)
    tables = np.array([calibration_statistics(p, rng.random(18) < p) for p in rng.uniform(0.1, 1, (200, 18))])
    (row,) = compared(Metric("ECE", -1, ece_from_statistics, {"sft": tables}, "calibration"))
    got, (low, high) = row["models"]["sft"], corpus_interval(tables, ece_from_statistics, 2000, 0)
    assert low > got["value"] and got["low"] <= got["value"] <= got["high"] < high
    assert (got["low"], got["high"]) == pivot(got["value"], low, high)


def test_a_metric_says_what_it_depends_on():
    """In the JSON, and below the table."""
    m = metric("BLEU")
    assert "note" not in compared(m)[0]
    rows = compared(m, dataclasses.replace(m, note="tok:13a"))
    assert rows[1]["note"] == "tok:13a"
    assert text_table("t", rows, list(m.statistics), "sft").splitlines()[-1] == "BLEU: tok:13a"


def test_an_interval_is_wider_where_prompts_belong_together(make_evaluation):
    """Twelve prompts, or four that are asked three times: the same answers, a third of the evidence."""
    def half(records: list[dict]) -> float:
        run, sets = make_evaluation(records, lambda m, i, k: m[0] * (1 + i % 4))
        task = build(run, sets, ["reward"])["tasks"]["made"]
        assert (task["prompts"], task["units"]) == (12, len({r["prompt"] for r in records}))
        x = task["metrics"][0]["models"]["sft"]
        return x["high"] - x["low"]

    apart, equal = ([{"prompt": f"{i % n}"} for i in range(12)] for n in (12, 4))
    assert half(equal) > 1.4 * half(apart)


# Several verdicts


def test_the_primary_metrics_of_all_sets_are_one_family_and_no_other_is(make_evaluation):
    """Base is better on 6 of 12 prompts, p = 1/32 a set: of three sets, too little."""
    more = {"base": 2, "sft": 99, "ppo": 4}  # on every so many prompts
    records = [{"prompt": f"{i}"} for i in range(12)]
    run, (s,) = make_evaluation(records, lambda m, i, k: "x" * (i % 3 + (i % more[m] == 1)))
    s.items["sft"] = [x | {"scores": {"reward": x["index"] % 3}} for x in s.items["sft"]]
    sets = [TestSet(title, s.records, s.items, s.texts, {"reward": "merit"}) for title in "abc"]
    rows = [row for task in build(run, sets)["tasks"].values() for row in task["metrics"]]
    primary = [row for row in rows if row["primary"]]
    assert [row["metric"] for row in primary] == ["reward = merit"] * 3
    assert all(("p_holm" in d) == row["primary"] for row in rows for d in row["differences"].values())
    for model in ("base", "ppo"):
        family = [row["differences"][model] for row in primary]
        assert [d["p_holm"] for d in family] == pytest.approx(holm([d["p"] for d in family]))
        assert all(d["p_holm"] == 3 * d["p"] and d["verdict"] == "no difference shown" for d in family)
    assert primary[0]["differences"]["base"]["p"] == 1 / 32


# The whole report


PAIRS = [{"prompt": f"p{i}", "response": "x" * i} for i in range(5)]
MANY = [{"prompt": f"p{i}"} for i in range(90)]
CORNERS = {
    "three models": {},
    "one prompt": {"records": PAIRS[:1]},
    "one sample": {"samples": 1},
    "one model": {"models": ("sft",)},
    "two models": {"models": ("sft", "ppo")},
    "the last is the reference": {"models": ("base", "sft")},
    "constant rewards": {"reward": lambda text: 1},
    "equal responses": {"say": lambda m, i, k: "same"},
    "empty responses": {"say": lambda m, i, k: ""},
    "none ended": {"say": lambda m, i, k: "…"},
    "no reward": {"reward": None},
    "no answers": {"records": [{"prompt": f"p{i}"} for i in range(4)]},
    "an optimum": {"beta": 5.0, "records": MANY},
    "too few for an optimum": {"beta": 0.5},
    "nothing to gain": {"beta": 5.0, "records": MANY, "reward": lambda text: 1},
    "labels": {"records": [x | {"label": x["prompt"]} for x in PAIRS], "say": lambda m, i, k: "p1"},
    "all in one conversation": {"records": [x | {"conversation": 0} for x in PAIRS]},
    "a text of which nothing is known": {"records": [PAIRS[1], {"prompt": "p"}]},
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("names", [[], ["all"]], ids=["default", "all"])
@pytest.mark.parametrize("corner", CORNERS)
def test_the_report_is_json_and_every_line_of_it_can_be_told(corner, names, make_evaluation):
    """No NaN, whatever is missing or the same; a table of at most 100 columns; an optimum or why there is none."""
    say = lambda m, i, k: f"{m} {i * k}"
    case = {"records": PAIRS, "say": say} | CORNERS[corner]
    report = build(*make_evaluation(**case), names)
    json.dumps(report, allow_nan=False)
    task, models = report["tasks"]["made"], list(report["models"])
    assert task["prompts"] == len(case["records"]) and task["metrics"] and len(task["examples"]) == 4
    for row in task["metrics"]:
        assert list(row["models"]) == models and set(row["differences"]) == {*models} - {"sft"}
        assert all(d["verdict"] for d in row["differences"].values())
    lines = text_table("made", task["metrics"], models, "sft").splitlines()
    assert len(lines) == 2 + len(task["metrics"]) and max(map(len, lines)) <= 100
    assert ("optimum" in task) == ("beta" in case)
    if "beta" in case:
        known = case["records"] is MANY
        assert optimum_line(task["optimum"], "sft", "ppo").startswith("J* = " if known else "J* is not shown")


def test_an_optimum_on_one_prompt_has_no_interval(make_evaluation):
    run, sets = make_evaluation(PAIRS[:1], lambda m, i, k: m, beta=50.0, samples=150)
    task = build(run, sets, ["kl"])["tasks"]["made"]
    assert task["optimum"]["low"] is None and task["optimum"]["value"] is not None
    assert ["share" in row["metric"] for row in task["metrics"]] == [False, False, True]
    json.dumps(task, allow_nan=False)


def test_the_metrics_asked_for_are_those_told_and_others_are_refused(make_evaluation):
    run, sets = make_evaluation(PAIRS, lambda m, i, k: "some words")
    (row,) = build(run, sets, ["kl"])["tasks"]["made"]["metrics"]
    assert row["metric"] == "KL to reference, nats"
    with pytest.raises(UserError, match="--metrics f1 needs a label in some records"):
        build(run, sets, ["f1"])


def test_a_report_is_a_function_of_the_evidence(make_evaluation):
    run, sets = make_evaluation(PAIRS, lambda m, i, k: f"{m} {i * k}", beta=0.5)
    first = json.dumps(build(run, sets, ["all"]))
    assert json.dumps(build(run, sets, ["all"])) == first
    assert json.dumps(build(run | {"seed": 1}, sets, ["all"])) != first


# Table


@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0, 500.0, 5e4, 2e6, 3e9])
def test_no_line_of_three_models_is_wider_than_100_columns(size):
    """Nor do two columns run into each other, however large the numbers."""
    names = ["reference bits per byte", "share of J* - J(ref), %", "reward = exact match"]
    rows = compared(*(metric(name, shift=-size, scale=size) for name in names))
    lines = text_table("arithmetic, range", rows, ["base", "sft", "ppo"], "sft").splitlines()
    assert max(map(len, lines)) <= 100
    width = max(map(len, [*names, "arithmetic, range"]))
    for line in lines[2:]:
        assert len(line[width:].split()) in (4 * 2 + 2, 4 * 2 + 3)  # a value and ± for each, the rule, the verdict


def test_the_table_says_what_is_compared_with_what():
    """Title, models and difference in the head; a line a metric; columns of one width."""
    rows = compared(metric("reward"), metric("KL", direction=0), metric("ppl", direction=-1, shift=0.0))
    head, rule, *body = text_table("reviews", rows, ["base", "sft", "ppo"], "sft").splitlines()
    assert head.split() == ["reviews", "base", "sft", "ppo", "ppo", "-", "sft", "by", "verdict"]
    assert set(rule) == {"-"} and len(rule) == max(len(line) for line in [head, *body])
    assert [line.split()[0] for line in body] == ["reward", "KL", "ppl"]
    assert [line.rsplit(" p  ", 1)[1].split(",")[0] for line in body] == ["better", "higher", "not shown"]
    assert [line.index("ppo") + 3 for line in [head]] == [body[0].index(cell(rows[0]["models"]["ppo"])) + 12]


def test_prompts_needed_stand_beside_a_difference_that_is_not_shown_and_nowhere_else():
    """At most as wide as the columns leave, however little was seen: 12 billion are 1e10."""
    (row,) = compared(metric(shift=0.01))
    d = row["differences"]["ppo"]
    assert d["verdict"] == "no difference shown" and d["prompts_needed"] > N

    def last(**changes) -> str:
        rows = [row | {"differences": {"ppo": d | changes}}]
        return text_table("t", rows, ["base", "sft", "ppo"], "sft").splitlines()[-1]

    assert last().endswith(f" p  not shown, n {d['prompts_needed']:.0f}")
    assert last(prompts_needed=9876.0).endswith(" p  not shown, n 9876")
    assert last(prompts_needed=87654.0).endswith(" p  not shown, n 9e4")
    assert last(prompts_needed=1.2e10).endswith(" p  not shown, n 1e10")
    assert last(prompts_needed=None).endswith(" p  not shown") and last(verdict="better").endswith(" p  better")


def test_all_that_is_measured_of_generated_tasks_fits_the_first_column(make_evaluation):
    """23 characters, beside the widest cells, verdict and prompts needed."""
    for name, task in TASKS.items():
        records = task.records("test", 2, 0)
        run, (s,) = make_evaluation(records, lambda m, i, k: records[i]["response"], beta=0.025)
        s.about["reward"] = task.REWARD
        for rows in s.items.values():
            for x in rows:
                x["scores"] |= task.score(records[x["index"]]["prompt"], x["response"], records[x["index"]])
        known = {"value": 2.0, "low": 1.0, "high": 3.0, "effective_size": 999.0}
        s.about |= {"optimum": known, "temperatures": dict.fromkeys(s.texts, 1.5)}
        for x in sum(s.texts.values(), []):
            x["tempered"] = x["confidence"]
        assert max(len(row["metric"]) for row in build(run, [s], ["all"])["tasks"]["made"]["metrics"]) <= 23


@pytest.mark.parametrize("models", [["sft"], ["base", "sft"]])
def test_without_a_last_model_other_than_the_reference_there_is_no_difference(models):
    rows = compared(metric())
    assert "verdict" not in text_table("t", rows, models, "sft")
