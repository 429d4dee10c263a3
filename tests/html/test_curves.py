"""The curves of training: the axes that a person would draw, and means and bands read back from the pixels."""

import json
import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from minirlhf.evaluation.panels import CURVES, POINTS
from minirlhf.html.curves import QUANTITIES, axis_of, block_lines, curves_html, curves_svg, draw_log, panels, series

SVG = "{http://www.w3.org/2000/svg}"


def log(n: int = 20, **figures) -> list[dict]:
    """Records of n steps; a figure is a function of the step. "__" stands for "/"."""
    return [{"step": i} | {k.replace("__", "/"): f(i) for k, f in figures.items()} for i in range(1, n + 1)]


def panel(groups: dict, name: str) -> ElementTree.Element:
    """The shapes of one quantity."""
    return ElementTree.fromstring(f"<g>{''.join(panels(groups)[name])}</g>")


def names(*runs: list[dict]) -> list[str]:
    return list(panels({"a": runs}))


def spots(e: ElementTree.Element) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split(","))) for pair in e.get("points").split()]


def scale(root: ElementTree.Element):
    """The value at a height, from the lowest and the highest tick: a label's baseline is 4 below its line."""
    ticks = [(float(e.text.replace("−", "-")), float(e.get("y")) - 4) for e in root.iter("text")
             if e.get("text-anchor") == "end" and re.fullmatch(r"−?[\d.]+", e.text or "")]  # fmt: skip
    (a, low), (b, high) = min(ticks), max(ticks)
    return lambda y: a + (b - a) * (y - low) / (high - low)


def test_a_curve_goes_through_its_points():
    root = panel({"a": [log(3, loss=lambda i: [1.0, 3.0, 2.0][i - 1])]}, "loss")
    (line,) = root.iter("polyline")
    assert [scale(root)(y) for _, y in spots(line)] == pytest.approx([1, 3, 2], abs=0.02)


def test_several_runs_are_their_mean_with_a_band_from_the_lowest_to_the_highest():
    runs = [log(9, reward=lambda i, k=k: k * i / 30) for k in (0, 1, 2)]
    rows = series(runs, "reward")
    assert rows == [pytest.approx([i, i / 30, 0, 2 * i / 30]) for i in range(1, 10)]
    root = panel({"a": runs}, "reward")
    (area, line), value = root.iter("polyline"), scale(root)
    assert float(area.get("fill-opacity")) < 0.5 and line.get("fill") == "none" and float(area.get("stroke-width")) == 0
    assert [value(y) for _, y in spots(line)] == pytest.approx([r[1] for r in rows], abs=0.01)
    corners = [value(y) for _, y in spots(area)]
    assert corners == pytest.approx([r[2] for r in rows] + [r[3] for r in rows][::-1], abs=0.01)
    assert all("a: mean and range of 3" in draw({"a": runs}) for draw in (curves_svg, curves_html))


def test_a_mean_is_of_steps_that_all_runs_have():
    """A shorter run, or one that logged null, would make it jump."""
    runs = [log(9, kl=lambda i: 1.0), log(5, kl=lambda i: None if i == 2 else 3.0)]
    assert series(runs, "kl") == [[i, 2.0, 1.0, 3.0] for i in (1, 3, 4, 5)]


def test_one_run_has_neither_band_nor_legend_and_says_its_first_and_last_value():
    groups = {"mine": [log(9, kl=lambda i: i / 4)]}
    assert "fill-opacity" not in curves_svg(groups) and "mine" not in curves_svg(groups)
    assert "0.25 → 2.25" in curves_svg(groups)


@pytest.mark.parametrize("kind, low, high, wanted", [
    ("unit", 0.999, 1.0, (0, 1)), ("unit", 0.2, 0.3, (0, 1)), ("share", -1300.0, 3.0, (-0.5, 1)),
    ("share", 0.9, 0.95, (-0.5, 1)), ("zero", 2.0, 4.0, (0, 4.2)), ("zero", -0.5, 4.0, (-0.5, 4.2)), ("zero", 0, 0, (0, 1)),
])  # fmt: skip
def test_an_axis_is_as_a_person_would_draw_it(kind, low, high, wanted):
    axis = axis_of(kind, low, high, 100, 0)
    assert (axis.low, axis.high) == pytest.approx(wanted) and axis.kind == "even"


def test_a_reward_beyond_0_and_1_and_a_loss_have_their_own_axes():
    assert axis_of("unit", -2.0, 0.5, 100, 0).low < -2 and axis_of("unit", 0.5, 1.2, 100, 0).high > 1.2
    assert [axis_of("loss", low, 4.0, 100, 0).kind for low in (0.5, 2.0, 0.0)] == ["log", "even", "even"]


def test_what_lies_beyond_an_axis_is_drawn_on_its_edge_and_that_is_said():
    root = panel({"a": [log(9, share__x=lambda i: -7.0 if i < 3 else 0.5)]}, "share/x")
    (line,) = root.iter("polyline")
    assert [scale(root)(y) for _, y in spots(line)] == pytest.approx([-0.5, -0.5] + 7 * [0.5], abs=0.02)
    assert any("beyond the axis, on its edge: 2" in e.text for e in root.iter("text"))


def test_a_share_is_absent_where_it_is_null_and_where_noise_is_all_there_is():
    shown = log(share__x=lambda i: i / 20, share__null=lambda i: None, share__noise=lambda i: (-1) ** i * 5.0)
    assert names(shown) == ["share/x"]


def test_each_of_several_tasks_has_a_panel_instead_of_their_mixture():
    one, two = {"reward__x": lambda i: 0.5}, {"reward__x": lambda i: 0.5, "reward__y": lambda i: 0.2}
    assert names(log(reward=lambda i: 0.4, **two)) == ["reward/x", "reward/y"]
    assert names(log(reward=lambda i: 0.4, **one)) == ["reward"]


def test_panels_have_one_axis_of_steps():
    groups = {"a": [log(100, kl=lambda i: i, ended=lambda i: 1.0 if i > 50 else None)]}
    ticks = [[e.get("x") for e in panel(groups, name).iter("text") if e.text == "60"] for name in ("kl", "ended")]
    assert ticks[0] == ticks[1] != []


def test_a_line_ends_where_steps_are_missing():
    """And goes from measure to measure where these are rare."""
    at = lambda steps: {"a": [[{"step": i, "kl": 1.0 * i} for i in steps]]}
    drawn = lambda steps: [len(spots(e)) for e in panel(at(steps), "kl").iter("polyline")]
    assert drawn([1, 2, 3, 20, 21, 22, 23]) == [3, 4] and drawn([1, 200, 400, 500]) == [4] and drawn([1, 2]) == [2]


def test_a_line_keeps_its_colour_in_every_panel():
    groups = {"a": [log(kl=lambda i: 1.0 * i)], "b": [log(kl=lambda i: 2.0 * i, ended=lambda i: 1.0)]}
    colours = [[e.get("stroke") for e in panel(groups, name).iter("polyline")] for name in ("kl", "ended")]
    assert colours[0][1:] == colours[1] and len(set(colours[0])) == 2


def test_a_long_run_is_thinned():
    assert len(series([log(1000, loss=lambda i: i)], "loss")) == POINTS


def test_a_report_keeps_nothing_that_cannot_be_drawn():
    assert set(CURVES) <= set(QUANTITIES)


def test_what_is_no_figure_breaks_nothing():
    """Of a log of another program, or samples of answers."""
    odd = [{"step": i, "samples": [{"reward": 1}], "reward": "high", "kl": math.nan, "loss/": [], "share": {}} for i in (1, 2)]
    assert curves_html({"a": [odd], "b": [[]], "c": []}) == "" and ElementTree.fromstring(curves_svg({"a": [odd]})).tag == f"{SVG}svg"


def test_block_lines_are_from_the_lowest_to_the_highest_of_reward_and_kl():
    runs = log(8, reward=lambda i: i / 10, kl=lambda i: 9.0 - i)
    assert block_lines({"a": [runs]}) == ["a  reward  ▁▂▃▄▅▆▇█  0.1 -> 0.8", "a  KL      █▇▆▅▄▃▂▁  8 -> 1"]


def test_held_out_scores_have_a_line_of_their_own_and_the_lines_stand_below_one_another():
    rl, sft = log(2, reward=lambda i: i / 2), log(2, validation_loss=float)
    rl[0]["held_out"] = 0.25
    assert block_lines({"a": [rl], "bc": [sft]}) == [
        "a   reward      ▁█  0.5 -> 1", "a   held out    ▁  0.25 -> 0.25", "bc  validation  ▁█  1 -> 2",
    ]  # fmt: skip


def test_block_lines_of_sft_are_its_losses_and_a_constant_is_flat():
    lines = block_lines({"a": [log(100, loss=lambda i: 2.0)], "b": [[]]})
    assert lines == [f"a  loss  {40 * '▁'}  2 -> 2"]


WORDS = '</div><script>alert(1)</script><img src=//x.y/z>\u202e\x00\n'


def drawn_log(folder, goes_on: bool) -> str:
    """log.html of a run with hostile samples."""
    records = log(5, reward=lambda i: i / 5)
    for x in records[::2]:
        x["samples"] = [{"task": WORDS, "prompt": f"{WORDS} p{x['step']}", "response": WORDS, "reward": 0.25}]
    folder.mkdir()
    (folder / "log.jsonl").write_text("".join(json.dumps(x) + "\n" for x in records))
    draw_log(folder, goes_on)
    return (folder / "log.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("goes_on", [True, False])
def test_the_page_of_a_log_runs_nothing_asks_for_nothing_and_reloads_while_the_run_goes_on(goes_on, tmp_path):
    html, opened, seen = drawn_log(tmp_path / "run", goes_on), [], []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            seen.append((tag, dict(attributes)))
            opened.append(tag) if tag != "meta" else None

        def handle_endtag(self, tag):
            assert opened.pop() == tag

    Reader().feed(html)
    assert not opened and not {"script", "img", "link", "iframe"} & {tag for tag, _ in seen}
    assert not [a for _, a in seen if {"src", "href", "onload"} & a.keys()]
    assert [a["content"] for _, a in seen if a.get("http-equiv") == "refresh"] == ["20"] * goes_on
    assert html.count("<svg ") == 1 and all(f"p{step}" in html for step in (1, 3, 5)) and "reward 0.250" in html
    assert html.index("p5") < html.index("p1")  # the last first
    assert f"run: 5 rounds{' so far' * goes_on}</h1>" in html
