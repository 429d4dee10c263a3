"""The comparison as people and programs read it."""

import json
from math import inf, nan

import numpy as np
import pytest

from minirlhf.evaluation import Metric, ratio
from minirlhf.report import cell, compare, number, one_line, optimum_line, plain, side_by_side, table, word
from minirlhf.stats import corpus_interval, paired_corpus

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
    return compare(metrics, "sft")


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


@pytest.mark.parametrize("verdict", ["no difference shown", "undefined"])
def test_other_verdicts_are_said_as_they_are(verdict):
    assert word(verdict, 0) == word(verdict, 1) == verdict


@pytest.mark.parametrize("direction", [-1, 0, 1])
def test_a_model_equal_to_the_reference_shows_no_difference(direction):
    m = metric(direction=direction)
    twins = {"sft": m.statistics["sft"], "ppo": m.statistics["sft"].copy()}
    (row,) = compared(Metric("x", direction, ratio, twins))
    d = row["differences"]["ppo"]
    assert (d["value"], d["low"], d["high"], d["p"]) == (0, 0, 0, 1) and d["verdict"] == "no difference shown"


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
    line = table("t", rows, ["base", "sft", "ppo"], "sft").splitlines()[-1]
    assert line.split()[-3:] == ["-", "-", "undefined"]


def test_one_prompt_has_a_value_and_no_interval():
    m = metric()
    (row,) = compared(Metric("x", 1, ratio, {k: s[:1] for k, s in m.statistics.items()}))
    assert row["models"]["ppo"]["value"] is not None and row["models"]["ppo"]["low"] is None
    assert row["differences"]["ppo"]["undefined"] == "fewer than 2 prompts"


def test_plain_numbers():
    assert [plain(x) for x in (nan, inf, -inf, 1)] == [None, None, None, 1.0]
    assert type(plain(np.float64(2))) is float


# Table


@pytest.mark.parametrize("x, text", [
    (0.0, "0.000"), (1.23456, "1.235"), (-1.23456, "-1.235"), (12.3456, "12.35"), (123.456, "123.5"),
    (1234.56, "1235"),
    (17832760.94, "2e+07"), (None, "-"),
])
def test_a_number_has_about_four_figures(x, text):
    assert number(x) == text
    assert number(x, signed=True) == (text if x is None or x < 0 else "+" + text)


def test_what_rounds_to_0_has_no_minus():
    assert number(-1e-9) == "0.000" and number(-4e-4, signed=True) == "+0.000"
    assert number(-6e-4) == "-0.001"


@pytest.mark.parametrize("signed", [False, True])
def test_a_number_of_any_size_has_at_most_7_characters(signed):
    """The perplexity of an untrained model on rare text may be anything."""
    for exponent in range(-12, 300):
        for x in (10.0**exponent, -9.99999 * 10.0**exponent):
            assert len(number(x, signed)) <= 7, x


def test_a_cell_is_a_value_and_half_its_interval():
    assert cell({"value": 1.5, "low": 1.2, "high": 1.9}) == "1.500 ±0.350"
    assert cell({"value": 0.5, "low": -0.25, "high": 1.25}, signed=True) == "+0.500 ±0.750"
    assert cell({"value": 2.0, "low": None, "high": None}) == "2.000"


@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0, 500.0, 5e4, 2e6, 3e9])
def test_no_line_of_three_models_is_wider_than_100_columns(size):
    """Nor do two columns run into each other, however large the numbers."""
    names = ["above the grammar's 20.12, %", "distinct-2 given the prompt", "reward = exact match"]
    rows = compared(*(metric(name, shift=-size, scale=size) for name in names))
    lines = table("translation, validation", rows, ["base", "sft", "ppo"], "sft").splitlines()
    assert max(map(len, lines)) <= 100
    width = max(map(len, [*names, "translation, validation"]))
    for line in lines[2:]:
        assert len(line[width:].split()) in (4 * 2 + 1, 4 * 2 + 2)  # a value and ± for each, and the verdict


def test_the_table_says_what_is_compared_with_what():
    """Title, models and difference in the head; a line a metric; columns of one width."""
    rows = compared(metric("reward"), metric("KL", direction=0), metric("ppl", direction=-1, shift=0.0))
    head, rule, *body = table("reviews", rows, ["base", "sft", "ppo"], "sft").splitlines()
    assert head.split() == ["reviews", "base", "sft", "ppo", "ppo", "-", "sft", "verdict"]
    assert set(rule) == {"-"} and len(rule) == max(len(line) for line in [head, *body])
    assert [line.split()[0] for line in body] == ["reward", "KL", "ppl"]
    assert [line.rsplit("  ", 1)[1] for line in body] == ["better", "higher", "not shown"]
    assert [line.index("ppo") + 3 for line in [head]] == [body[0].index(cell(rows[0]["models"]["ppo"])) + 12]


@pytest.mark.parametrize("models", [["sft"], ["base", "sft"]])
def test_without_a_last_model_other_than_the_reference_there_is_no_difference(models):
    rows = compared(metric())
    assert "verdict" not in table("t", rows, models, "sft")


# Samples


def items(texts: dict[str, list[str]], stop: str = "eos") -> dict[str, list[dict]]:
    """model -> a greedy item and a sample for each prompt."""
    return {
        name: [{"index": i, "sample": k, "prompt": f"prompt {i}", "response": ("greedy", text)[k + 1],
                "stop": stop, "scores": {"reward": i / 2}} for i, text in enumerate(said) for k in (-1, 0)]
        for name, said in texts.items()
    }


def test_side_by_side_shows_the_first_sample_of_each_model_to_the_same_prompts():
    shown = side_by_side(items({"a": ["x0", "x1"], "long": ["y0", "y1"]}), 5, 0)
    assert shown.splitlines() == [
        "> prompt 0", "  a    0.00 | x0", "  long 0.00 | y0",
        "> prompt 1", "  a    0.50 | x1", "  long 0.50 | y1",
    ]


def test_a_response_that_did_not_end_is_shown_with_an_ellipsis():
    assert side_by_side(items({"a": ["x"]}, "length"), 1, 0).endswith("| x …")


def test_the_prompts_shown_are_chosen_by_the_seed():
    """Not the first ones, which are seldom typical, and the same for the same seed."""
    many = items({"a": [f"x{i}" for i in range(50)]})
    picks = [side_by_side(many, 3, seed) for seed in range(5)]
    assert len(set(picks)) == 5 and picks[2] == side_by_side(many, 3, 2)
    assert all(pick.count(">") == 3 for pick in picks)


@pytest.mark.parametrize("text", [
    "a\nb", "a\rb", "a\x1b[2Jb", "a\x00b", "a\x07b", "a\u202eb", "a\u2028b", "a\x9bb"
])
def test_one_line_holds_nothing_that_moves_the_cursor(text):
    """Escape sequences, line breaks of all kinds, and marks that turn the direction of writing."""
    got = one_line(text)
    assert got.isprintable() and len(got) == len(text) and (got[0], got[-1]) == ("a", "b")


def test_one_line_keeps_ordinary_text_of_any_script():
    text = "naïve 今天天气很好 😀 “x” — y"
    assert one_line(text) == text


def test_a_response_cannot_break_the_lines_of_side_by_side():
    shown = side_by_side(items({"a": ["x\n> prompt 9\x1b[2J"]}), 1, 0)
    assert len(shown.splitlines()) == 2 and "\x1b" not in shown


# optimum_line


KNOWN = {"value": 0.9, "low": 0.88, "high": 0.92, "effective_size": 312.4, "worth": 31.7,
         "tokens": {"sft": 10.0, "ppo": 12.0}}


def test_the_optimum_is_told_with_its_interval_its_samples_and_the_cost_of_best_of_n():
    assert optimum_line(KNOWN, "sft", "ppo") == (
        "J* = 0.900 ±0.020, on 312 effective samples; ppo's reward is worth best-of-31.7 of sft, "
        "317 tokens an answer against 12"
    )


def test_an_optimum_that_is_not_known_is_not_shown():
    line = optimum_line(KNOWN | {"value": None, "effective_size": 12.0, "worth": inf}, "sft", "ppo")
    assert line.startswith("J* is not shown: 12 effective samples are too few (more: --reference-samples); no best-of-n of sft")
    assert "0.9" not in line
