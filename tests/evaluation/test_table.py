"""The report as text for the terminal."""

import pytest

from minirlhf.evaluation.table import (
    cell, markdown_table, number, one_line, optimum_line, side_by_side, text_table,
)


@pytest.mark.parametrize("x, text", [
    (0.0, "0.000"), (1.23456, "1.235"), (-1.23456, "-1.235"), (12.3456, "12.35"), (123.456, "123.5"),
    (1234.56, "1235"),
    (17832760.94, "2e+07"), (None, "-"),
])
def test_a_number_has_about_four_figures(x, text):
    assert number(x) == text
    assert number(x, signed=True) == (text if x is None or x < 0 else "+" + text)


def test_what_is_small_is_not_0_and_rounding_is():
    """A reward may be a length times 1e-4; a sum in another order differs by 1e-16."""
    assert number(1.23e-4) == "1e-04" and number(-4e-4, signed=True) == "-4e-04" and number(-6e-4) == "-0.001"
    assert number(-1e-9) == "0.000" and number(1e-16, signed=True) == "+0.000"


@pytest.mark.parametrize("signed", [False, True])
def test_a_number_of_any_size_has_at_most_7_characters(signed):
    """The perplexity of an untrained model on rare text may be anything."""
    for exponent in range(-12, 300):
        for x in (10.0**exponent, -9.99999 * 10.0**exponent):
            assert len(number(x, signed)) <= 7, x


def test_a_cell_is_a_value_and_the_longer_side_of_its_interval():
    assert cell({"value": 1.5, "low": 1.2, "high": 1.9}) == "1.500 ±0.400"
    assert cell({"value": 1.0, "low": 0.982, "high": 1.0}) == "1.000 ±0.018"
    assert cell({"value": 0.5, "low": -0.25, "high": 1.25}, signed=True) == "+0.500 ±0.750"
    assert cell({"value": 2.0, "low": None, "high": None}) == "2.000"


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


KNOWN = {"value": 0.9, "low": 0.88, "high": 0.92, "effective_size": 312.4,
         "worth": {"value": 31.7, "low": 28.1, "high": None, "effective_size": 240.2},
         "tokens": {"sft": 10.0, "ppo": 12.0}}


def test_the_optimum_is_told_with_its_interval_its_samples_and_the_cost_of_best_of_n():
    assert optimum_line(KNOWN, "sft", "ppo") == (
        "J* = 0.900 ±0.020, on 312 effective samples; ppo's reward is worth best-of-31.7 [28.1, or more] of "
        "sft, on 240, 317 tokens per answer against 12"
    )


def test_an_optimum_that_is_not_known_is_not_shown():
    none = KNOWN["worth"] | {"value": None}
    line = optimum_line(KNOWN | {"value": None, "effective_size": 12.0, "worth": none}, "sft", "ppo")
    assert line.startswith("J* is not shown: 12 effective samples are too few (more: --reference-samples); of sft, no best")
    assert "0.9" not in line


def test_a_worth_on_few_effective_samples_is_not_shown():
    """Its own, whatever J* rests on."""
    line = optimum_line(KNOWN | {"worth": KNOWN["worth"] | {"effective_size": 68.0}}, "sft", "ppo")
    assert line == "J* = 0.900 ±0.020, on 312 effective samples; worth in best-of-n is not shown, 68 are too few"


def test_a_policy_that_earns_less_than_one_answer_is_worth_none():
    assert "; of sft, one answer earns more than ppo's reward" in optimum_line(KNOWN | {"worth": KNOWN["worth"] | {"value": 0.0}}, "sft", "ppo")


def test_an_optimum_without_an_interval_is_told_without():
    line = optimum_line(KNOWN | {"low": None, "high": None}, "sft", "ppo")
    assert line.startswith("J* = 0.900, on 312 effective samples;")


def test_names_of_any_length_stand_apart_in_the_heading():
    names, value = ["before", "afterwards, much later"], {"value": 0.5, "low": 0.4, "high": 0.6}
    judged = value | {"verdict": "better", "decided_by": "p", "prompts_needed": None}
    row = {"metric": "reward", "models": dict.fromkeys(names, value), "differences": {names[1]: judged}}
    heading = text_table("data", [row], names, "before").splitlines()[0]
    assert heading.split() == f"data before {names[1]} {names[1]} - before by verdict".split()


def test_a_table_has_words_on_the_left_and_numbers_on_the_right():
    assert markdown_table(["a", "b", "c"], [["x", "y", "1"]], 2) == "| a | b | c |\n| --- | --- | --: |\n| x | y | 1 |"
