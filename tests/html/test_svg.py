"""Plots: well-formed, to scale, and safe with any text."""

import math
import re
from xml.etree import ElementTree

import pytest

from minirlhf.html.svg import (
    DARK, GROUND, INK, MUTED, SERIES, Axis, axes, breadth, dark_rules, label, legend, marker, shorten, strip_plot, text,
    ticks, visible,
)


def test_a_plot_is_well_formed_whatever_the_names():
    """Also those that would end a tag."""
    name = 'a<b & "c" </text><script>'
    root = ElementTree.fromstring(strip_plot(name, name, [(name, [0.5])]))
    texts = [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count(name) == 3 and not list(root.iter("{http://www.w3.org/2000/svg}script"))


def test_a_long_name_of_a_row_stays_within_the_plot():
    name = "reinforce-baseline:gamma=0.99,value-clip=0.5"
    root = ElementTree.fromstring(strip_plot("t", "x", [(name, [0.5])]))
    (shown,) = [e.text for e in root.iter("{http://www.w3.org/2000/svg}text") if (e.text or "").startswith("reinforce")]
    assert shown.endswith("…") and breadth(shown) <= 180


def test_values_stand_to_scale_and_the_bar_at_their_mean():
    plot = strip_plot("t", "x", [("a", [0.0, 1.0, 0.5]), ("b", [0.25])])
    xs = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', plot)]
    bars = [float(x) for x in re.findall(r'<line x1="([\d.]+)" [^>]* stroke-width="2"', plot)]
    assert xs[2] == pytest.approx((xs[0] + xs[1]) / 2, abs=0.1) == pytest.approx(bars[0], abs=0.1)
    assert xs[3] == pytest.approx(xs[0] + (xs[1] - xs[0]) / 4, abs=0.1) == pytest.approx(bars[1], abs=0.1)


def test_what_lies_outside_the_axis_stands_at_its_edge():
    plot = strip_plot("t", "x", [("a", [-3.0, -0.5, -0.25, 1.0])])
    first, second, third, last = (float(x) for x in re.findall(r'<circle cx="([\d.]+)"', plot))
    assert first == second and third == pytest.approx(first + (last - first) / 6, abs=0.1)
    assert "x (beyond the axis, on its edge: 1)" in plot


@pytest.mark.parametrize("low, high, wanted", [
    (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
    (0.0, 37.0, [0, 10, 20, 30]),
    (-0.3, 0.3, [-0.2, 0.0, 0.2]),
    (2.0, 2.05, [2.0, 2.01, 2.02, 2.03, 2.04, 2.05]),
])
def test_ticks_are_round_numbers(low, high, wanted):
    assert ticks(low, high) == pytest.approx(wanted)


# text


def test_what_cannot_be_seen_is_spelled_out_and_the_rest_is_left_alone():
    """Controls, bidi overrides, lone surrogates, noncharacters and line separators; not what scripts need."""
    hidden = "\x00\x1b\r\x85\u202e\u2066\u200b\ufeff\ud800\uffff\u2028"
    assert visible(hidden) == "".join(f"⟨U+{ord(c):04X}⟩" for c in hidden)
    plain = "a\tb\nc 你好 👩\u200d🔬 می\u200cخواهم é <&>\"'"
    assert visible(plain) == plain


def test_a_text_that_fits_is_kept_and_a_longer_one_ends_in_an_ellipsis_within_the_width():
    assert shorten("short", 100) == "short"
    for words in ("W" * 80, "a rather long name of a metric", "翻译" * 30):
        cut = shorten(words, 100)
        assert cut.endswith("…") and words.startswith(cut[:-1]) and len(cut) > 4 and breadth(cut) <= 100
    assert breadth("翻译", 10) == 20


def test_a_text_is_one_line_and_one_element():
    assert shorten("a\nb", 100) == "a↵b"
    element = ElementTree.fromstring(text(1, 2, '</text><script>"', turn=-90))
    assert element.text == '</text><script>"' and element.get("transform") == "rotate(-90 1.0 2.0)"


# axes


@pytest.mark.parametrize("kind, values, shares", [
    ("even", (2.0, 3.0, 6.0), 0.25),
    ("log", (1.0, 10.0, 10000.0), 0.25),
    ("root", (0.0, 1.0, 16.0), 0.25),
])
def test_an_axis_goes_evenly_by_ratios_or_by_square_root(kind, values, shares):
    axis = Axis.over(values, 40, 320, kind)
    low, between, high = map(axis.place, values)
    assert (between - low) / (high - low) == pytest.approx(shares)
    assert 40 <= low < high <= 320


def test_a_root_axis_takes_what_is_below_0_for_0():
    """Such as a KL of two equal models, but for rounding."""
    axis = Axis.over([-1e-9, -2e-9], 40, 320, "root")
    assert axis.place(-1e-9) == 40 and axis.high == 1


def test_an_axis_may_run_upwards():
    axis = Axis(0.0, 10.0, 200, 100)
    assert (axis.place(0), axis.place(5), axis.place(10)) == (200, 150, 100)


@pytest.mark.parametrize("values", [
    [], [None], [math.nan, math.inf], [0.0], [5.0, 5.0], [-3.0], [1e12, 1e12], [1e-12, 2e-12], [-1e12, 1e12],
    [1e6, 1e6 + 1e-9], [0.0, None, 1.0, -math.inf], [3e38, 1.0],
])  # fmt: skip
def test_every_set_of_numbers_has_an_axis_with_distinct_ticks_that_holds_them(values):
    """None, one, equal ones, and of any size; what is no number has no say."""
    axis = Axis.over(values, 40, 320)
    known = [x for x in values if x is not None and math.isfinite(x)]
    assert all(40 < axis.place(x) < 320 for x in known) and axis.low < axis.high
    labels = [label(x) for x in axis.ticks()]
    assert 2 <= len(labels) == len(set(labels)) <= 8
    assert all(40 - 1e-6 <= axis.place(x) <= 320 + 1e-6 for x in axis.ticks())


def test_a_log_axis_has_powers_of_ten_and_a_root_axis_squares():
    assert Axis.over([1.0, 1e4], 0, 1, "log").ticks() == [1.0, 10.0, 100.0, 1000.0, 10000.0]
    assert Axis.over([2.0, 5.0], 0, 1, "log").ticks() == [2.0, 3.0, 4.0, 5.0, 6.0]
    assert Axis.over([0.0, 22.0], 0, 1, "root").ticks() == [0.0, 1.0, 4.0, 9.0, 16.0]


def test_a_label_has_a_real_minus_and_none_before_a_zero():
    assert (label(-0.5), label(-0.0), label(1e-5)) == ("−0.5", "0", "1e−05")


def test_the_numbers_of_a_plot_stand_where_its_axes_place_them():
    """Tick by tick, with its line; and 0 is at the bottom."""
    x, y = Axis(0.0, 7.0, 50, 330), Axis(-0.2, 0.6, 120, 20)
    root = ElementTree.fromstring(f"<g>{''.join(axes(x, y, 'across', 'up'))}</g>")
    words = {e.text: (float(e.get("x")), float(e.get("y"))) for e in root.iter("text")}
    assert words["4"][0] == pytest.approx(x.place(4), abs=0.1)
    assert words["0.4"][1] - 4 == pytest.approx(y.place(0.4), abs=0.1) and y.place(0.4) < y.place(0.2)
    lines = {tuple(float(e.get(k)) for k in ("x1", "y1", "x2", "y2")) for e in root.iter("line")}
    upright = {(x.place(v), 20, x.place(v), 120) for v in (0, 2, 4, 6)}
    assert lines == upright | {(50, round(y.place(v), 1), 330, round(y.place(v), 1)) for v in (-0.2, 0, 0.2, 0.4, 0.6)}
    assert {"across", "up"} <= set(words)


# models and themes


def test_models_differ_in_shape_as_well_as_colour():
    """Six of them, so that colour alone never tells them apart."""
    marks = [ElementTree.fromstring(marker(10, 10, i)) for i in range(6)]
    colours = [m.get("stroke") or m.get("fill") for m in marks]
    shapes = [(m.tag, m.get("points"), m.get("fill") == "#ffffff") for m in marks]
    assert len(set(colours)) == 6 == len(set(shapes))


def test_a_legend_breaks_its_line_before_the_edge():
    names = [f"model {i}" for i in range(6)]
    shapes, bottom = legend(names, 200)
    words = [e for e in ElementTree.fromstring(f"<g>{''.join(shapes)}</g>").iter("text")]
    assert [e.text for e in words] == names
    assert all(float(e.get("x")) + breadth(e.text) <= 200 for e in words)
    assert bottom == 18 * len({e.get("y") for e in words}) > 18


def test_the_dark_rules_exchange_each_colour_of_fill_and_stroke():
    rules = dict(re.findall(r"svg \[((?:fill|stroke)=\"#\w{6}\")\]\{(?:fill|stroke):(#\w{6})\}", dark_rules()))
    assert rules == {f'{part}="{light}"': dark for light, dark in DARK.items() for part in ("fill", "stroke")}


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb. Source: WCAG 2.1."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    """1 … 21. Source: WCAG 2.1."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_words_and_marks_stand_out_from_the_ground_in_both_themes():
    """4.5 for words and 3 for marks, as WCAG 2.1 wants."""
    for theme in ({}, DARK):
        ground = theme.get(GROUND, GROUND)
        assert all(contrast(theme.get(c, c), ground) >= 4.5 for c in (INK, MUTED))
        assert all(contrast(theme.get(c, c), ground) >= 3 for c in SERIES)
