"""Plots: well-formed, to scale, and safe with any text."""

import re
from xml.etree import ElementTree

import pytest

from minirlhf.svg import strip_plot, ticks


def test_a_plot_is_well_formed_whatever_the_names():
    """Also those that would end a tag."""
    name = 'a<b & "c" </text><script>'
    root = ElementTree.fromstring(strip_plot(name, name, [(name, [0.5])], 0.0, 1.0))
    texts = [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count(name) == 3 and not list(root.iter("{http://www.w3.org/2000/svg}script"))


def test_values_stand_to_scale_and_the_bar_at_their_mean():
    plot = strip_plot("t", "x", [("a", [0.0, 1.0, 0.5]), ("b", [0.25])], 0.0, 1.0)
    xs = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', plot)]
    bars = [float(x) for x in re.findall(r'<line x1="([\d.]+)" [^>]* stroke-width="2"', plot)]
    assert xs[2] == pytest.approx((xs[0] + xs[1]) / 2, abs=0.1) == pytest.approx(bars[0], abs=0.1)
    assert xs[3] == pytest.approx(xs[0] + (xs[1] - xs[0]) / 4, abs=0.1) == pytest.approx(bars[1], abs=0.1)


def test_what_lies_outside_the_axis_stands_at_its_edge():
    plot = strip_plot("t", "x", [("a", [-3.0, 0.0])], 0.0, 1.0)
    first, second = re.findall(r'<circle cx="([\d.]+)"', plot)
    assert first == second


@pytest.mark.parametrize("low, high, wanted", [
    (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
    (0.0, 37.0, [0, 10, 20, 30]),
    (-0.3, 0.3, [-0.2, 0.0, 0.2]),
    (2.0, 2.05, [2.0, 2.01, 2.02, 2.03, 2.04, 2.05]),
])
def test_ticks_are_round_numbers(low, high, wanted):
    assert ticks(low, high) == pytest.approx(wanted)
