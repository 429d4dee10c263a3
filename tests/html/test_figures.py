"""The figures: every number can be read back from the pixels, and nothing breaks them."""

import math
import re
from xml.etree import ElementTree

import pytest

from minirlhf.html import figures
from minirlhf.html.curves import curves_svg
from minirlhf.html.svg import BLUE, MUTED, SERIES

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = 'a<b & "c" </text><script>\u202e\x00\n' * 3
WILD = [None, math.nan, math.inf, -math.inf, 0.0, -0.0, 1e300, -1e300, 1e-300, 5, -7.25]


def parse(svg: str) -> ElementTree.Element:
    """The figure as XML, with what every figure promises: a role, a title, no number that is none."""
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img" and root.find(f"{SVG}title").text
    for e in root.iter():
        for value in e.attrib.values():
            assert not re.search(r"nan|inf|None", value), value
        assert e.tag[len(SVG) :] in "svg title rect line circle polygon polyline text g path".split()
    return root


def all_of(root: ElementTree.Element, tag: str, **attributes: str) -> list[ElementTree.Element]:
    """The elements of a tag that have these attributes."""
    names = {k.replace("_", "-"): v for k, v in attributes.items()}
    return [e for e in root.iter(SVG + tag) if all(e.get(k) == v for k, v in names.items())]


def at(e: ElementTree.Element, *names: str) -> tuple[float, ...]:
    """Attributes as numbers."""
    return tuple(float(e.get(name)) for name in names)


def words(root: ElementTree.Element) -> list[str]:
    return [e.text for e in root.iter(SVG + "text")]


def number(words: str) -> float | None:
    """What a tick says, None if it is no number."""
    try:
        return float(words.replace("−", "-"))
    except ValueError:
        return None


def reader(root: ElementTree.Element, anchor: str, where: str, bend=float, size: str = "11"):
    """pixel -> number, from the first and last tick of an axis; bend: its scale."""
    labels = all_of(root, "text", text_anchor=anchor, font_size=size)
    found = [(bend(number(e.text)), float(e.get(where))) for e in labels if number(e.text) is not None]
    (a, pa), (b, pb) = min(found), max(found)
    assert (pa < pb) == (where == "x")  # to the right, and upwards
    shift = 4 if where == "y" else 0  # a label's baseline is below the middle of its digits
    return lambda pixel: a + (b - a) * (pixel + shift - pa) / (pb - pa)


# frontier


REWARD = {"sft": {"value": 0.4, "low": 0.35, "high": 0.45}, "ppo": {"value": 0.9, "low": 0.85, "high": 0.95}}
KL = {"sft": {"value": 0.0, "low": 0.0, "high": 0.0}, "ppo": {"value": 4.0, "low": 3.0, "high": 5.0}}
BEST = [{"n": n, "kl_bound": math.log(n) - (n - 1) / n, "reward": 1 - 0.6**n} for n in (1, 2, 4, 8, 16)]


def test_a_frontier_places_models_their_intervals_and_best_of_n():
    root = parse(figures.frontier("t", REWARD, KL, BEST, ["sft", "ppo"]))
    kl, reward = reader(root, "middle", "x", math.sqrt), reader(root, "end", "y")
    curve = [tuple(map(float, p.split(","))) for p in all_of(root, "polyline")[0].get("points").split()]
    assert [kl(x) ** 2 for x, _ in curve] == pytest.approx([b["kl_bound"] for b in BEST], abs=0.02)
    assert [reward(y) for _, y in curve] == pytest.approx([b["reward"] for b in BEST], abs=0.005)
    up, across = all_of(root, "line", stroke=SERIES[1], stroke_width="2")
    assert [reward(y) for y in at(up, "y1", "y2")] == pytest.approx([0.85, 0.95], abs=0.005)
    assert [kl(x) ** 2 for x in at(across, "x1", "x2")] == pytest.approx([3, 5], abs=0.03)
    mark = [tuple(map(float, p.split(","))) for p in all_of(root, "polygon")[-1].get("points").split()]
    x, y = (sum(v) / len(mark) for v in zip(*mark))
    assert (x, y) == pytest.approx((float(up.get("x1")), float(across.get("y1"))), abs=0.1)
    assert (kl(x) ** 2, reward(y)) == (pytest.approx(4, abs=0.03), pytest.approx(0.9, abs=0.005))


def test_the_axis_says_that_the_kl_of_best_of_n_is_a_bound():
    assert any("KL ≤" in w for w in words(parse(figures.frontier("t", REWARD, KL, BEST, ["sft", "ppo"]))))


def test_a_model_without_a_number_is_named_as_such():
    reward, kl = REWARD | {"base": {"value": 0.1}}, KL | {"base": {"value": None}}
    assert "base (no number)" in words(parse(figures.frontier("t", reward, kl, [], ["base", "sft", "ppo"])))


# lengths


def test_answers_stand_at_their_length_and_reward_and_their_number_shows():
    models = {"ppo": {"points": [[10, 0.0], [50, 1.0]] + [[30, 0.5]] * 4, "correlation": -0.1234}}
    root = parse(figures.lengths("t", models, ["sft", "ppo"]))
    length, reward = reader(root, "middle", "x"), reader(root, "end", "y")
    dots = {round(length(x)): (round(reward(y), 1), r) for x, y, r in
            (at(e, "cx", "cy", "r") for e in all_of(root, "circle", fill_opacity="0.55"))}
    assert {k: v[0] for k, v in dots.items()} == {10: 0, 50: 1, 30: 0.5}
    assert dots[30][1] == pytest.approx(2 * dots[10][1], rel=0.05)  # four times the area
    assert {e.get("fill") for e in all_of(root, "circle", fill_opacity="0.55")} == {SERIES[1]}
    assert "r = −0.12" in words(root)


def test_all_models_share_the_axes_of_their_panels():
    models = {"a": {"points": [[1, 0.0]], "correlation": None}, "b": {"points": [[99, 1.0]], "correlation": 0.5}}
    root = parse(figures.lengths("t", models, ["a", "b"]))
    ticks = [e.text for e in all_of(root, "text", text_anchor="middle") if number(e.text) is not None]
    assert ticks[: len(ticks) // 2] == ticks[len(ticks) // 2 :] and "r undefined" in words(root)


def test_a_thousand_equal_answers_are_one_disc():
    root = parse(figures.lengths("t", {"a": {"points": [[5, 1.0]] * 1000, "correlation": None}}, ["a"]))
    assert len(all_of(root, "circle", fill_opacity="0.55")) == 1


# reliability


def test_a_reliability_diagram_has_a_point_and_a_bar_a_bin_and_their_counts():
    bins = [{"count": 10, "confidence": 0.25, "accuracy": 0.5, "low": 0.3, "high": 0.8},
            {"count": 0, "confidence": None, "accuracy": None, "low": None, "high": None},
            {"count": 40, "confidence": 0.9, "accuracy": 0.7, "low": 0.6, "high": 0.75}]
    root = parse(figures.reliability("t", {"bins": bins}))
    confidence = reader(root, "middle", "x")
    ys = {number(e.text): float(e.get("y")) - 4 for e in all_of(root, "text", text_anchor="end")}
    assert ys[1] < ys[0.5]

    def accuracy(pixel: float) -> float:
        return 0.5 + 0.5 * (pixel - ys[0.5]) / (ys[1] - ys[0.5])

    dots = [at(e, "cx", "cy") for e in all_of(root, "circle")]
    assert [(round(confidence(x), 2), round(accuracy(y), 2)) for x, y in dots] == [(0.25, 0.5), (0.9, 0.7)]
    bars = [[accuracy(y) for y in at(e, "y1", "y2")] for e in all_of(root, "line", stroke=BLUE)]
    assert bars == [pytest.approx([0.3, 0.8], abs=0.01), pytest.approx([0.6, 0.75], abs=0.01)]
    heights = [float(e.get("height")) for e in all_of(root, "rect", fill=MUTED)]
    assert heights[1] == pytest.approx(4 * heights[0]) and "40" in words(root)


def test_the_diagonal_goes_from_0_to_1():
    root = parse(figures.reliability("t", {"bins": [{"count": 1, "confidence": 0.5, "accuracy": 0.5}]}))
    lines = [at(e, "x1", "y1", "x2", "y2") for e in all_of(root, "line", stroke=MUTED)]
    ((x1, y1, x2, y2),) = [p for p in lines if p[1] != p[3]]
    (dot,) = all_of(root, "circle")
    assert at(dot, "cx", "cy") == pytest.approx(((x1 + x2) / 2, (y1 + y2) / 2), abs=0.1)


# heat maps


def cells(root: ElementTree.Element) -> dict[tuple[int, int], float]:
    """(row, column) -> opacity."""
    found = {}
    for e in all_of(root, "path"):
        for column, row in re.findall(r"M(\d+) (\d+)h1v1h-1z", e.get("d")):
            assert (int(row), int(column)) not in found
            found[int(row), int(column)] = float(e.get("fill-opacity"))
    return found


@pytest.mark.parametrize("T", [1, 3, 48])
def test_a_map_has_a_cell_for_each_token_and_each_before_it_and_none_above_the_diagonal(T):
    weights = [[1 / T] * T for _ in range(T)]  # what stands above the diagonal is not drawn even if it is there
    found = cells(parse(figures.heat_map("t", ["x"] * T, weights)))
    assert set(found) == {(i, j) for i in range(T) for j in range(i + 1)}


def test_the_opacity_of_a_cell_is_the_root_of_its_weight_as_in_the_legend():
    root = parse(figures.heat_map("t", ["a", "b", "c"], [[1, 0, 0], [0.25, 0.75, 0], [0, 0.09, None]]))
    found = cells(root)
    assert found == {(0, 0): 1.0, (1, 0): 0.5, (1, 1): 0.85, (2, 1): 0.3}
    key = {float(w): float(e.get("fill-opacity")) for w, e in
           zip([w for w in words(root) if re.fullmatch(r"[\d.]+", w)], all_of(root, "rect", fill=BLUE))}
    assert all(opacity == pytest.approx(w**0.5, abs=1e-3) for w, opacity in key.items()) and len(key) == 5


def test_labels_stand_at_their_cells_and_never_on_each_other():
    """Few tokens are all labelled, many every so often; rows and columns alike."""
    for T in (3, 48):
        root = parse(figures.heat_map("t", [f"t{i}" for i in range(T)], [[1 / T] * T] * T))
        group = all_of(root, "g")[0].get("transform")
        margin, scale = (float(re.search(rf"{word}\(([\d.]+)", group)[1]) for word in ("translate", "scale"))
        rows = [(e.text, *at(e, "y", "font-size")) for e in all_of(root, "text", text_anchor="end")]
        assert len(rows) == T if T == 3 else 10 < len(rows) < T
        for name, y, size in rows:
            assert y - 3.5 == pytest.approx(margin + scale * (int(name[1:]) + 0.5), abs=0.1)
        assert all(b[1] - a[1] >= a[2] for a, b in zip(rows, rows[1:]))
        turned = [e.text for e in root.iter(SVG + "text") if e.get("transform")]
        assert turned == [name for name, _, _ in rows]


# all of them


def drawings(words: str, x: float | None) -> list[str]:
    """Every figure, with these words and this number wherever there is one."""
    names = "value low high reward confidence accuracy kl_bound minimum_detectable rate"
    estimate: dict = dict.fromkeys(names.split(), x) | {"undefined": words}
    order = [words, "other"]
    return [
        figures.frontier(words, {words: estimate}, {words: estimate}, [estimate | {"n": 4}], order),
        figures.lengths(words, {words: {"points": [[x, x], [3, 1]], "correlation": x}}, order),
        figures.reliability(words, {"bins": [estimate | {"count": 3}]}),
        curves_svg({words: [[{"step": i, "loss": x, f"share/{words}": 0.1 * i} for i in (1, 2)]], "b": []}, words),
        figures.heat_map(words, [words, words], [[1, x], [x, 0.5]]),
    ]


@pytest.mark.parametrize("x", WILD)
def test_no_number_breaks_a_figure(x):
    """Missing, not finite, 0, huge or tiny: what cannot be drawn is left out."""
    for svg in drawings("name", x):
        root = parse(svg)
        assert not [w for w in words(root) if re.search(r"\b(nan|inf|None)\b", w)]


def test_no_words_break_a_figure():
    for svg in drawings(HOSTILE, 0.5):
        root = parse(svg)
        width = float(root.get("width"))
        assert root.find(f"{SVG}title").text.startswith('a<b & "c" </text><script>⟨U+202E⟩⟨U+0000⟩')
        assert all(0 <= float(e.get("x")) <= width for e in root.iter(SVG + "text"))
