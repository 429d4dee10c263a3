"""Gold and learned reward of policies: the laws through them, the place to stop, the table and the figure."""

import math

import numpy as np
import pytest

from minirlhf.experiments.goodhart import (
    COLOURS, Point, Proxy, best_of_points, column, fit_law, interval_of, law_figure, law_tables, order, peak,
    policy_points, stop_at, with_interval,
)
from minirlhf.html.svg import Axis, dot, line
from minirlhf.metrics.intervals import standard_error, t_interval, unseen

D = np.array([0.5, 1.0, 1.5, 2.0, 3.0, 4.0])
START = 0.3 + np.array([-0.2, -0.2, 0.2, 0.2])  # the reference's gold on four prompts


def point(name: str, d: float, gain: float, proxy: float = 1.0) -> Point:
    """A policy that gains this on the reference, a little different on each of four prompts."""
    noise = np.array([-0.01, 0.01, -0.01, 0.01])
    return Point(name, d, START + gain + noise, gain + noise, proxy + noise)


def study(comparisons: int = 100, alpha: float = 1.0, beta: float = 0.5) -> Proxy:
    """PPO that obeys the law of RL, with its peak at e^(α/β − 1), and best-of-n that only gains."""
    ppo = [point(f"β = {i}", d, d * (alpha - beta * np.log(d)), d) for i, d in enumerate(D)]
    best = [point(f"n = {i}", d, d) for i, d in enumerate(D[:3])]
    return Proxy(comparisons, 0.8, {"best-of-n": best, "PPO": ppo})


def test_best_of_n_starts_at_the_reference():
    """From four samples of two prompts: n = 2 and 4; n = 4 takes the best of all by the proxy."""
    gold, proxy = np.array([[1.0, 0, 0, 0], [0, 1, 1, 0]]), np.array([[3.0, 2, 1, 0], [9, 1, 2, 3]])
    two, four = best_of_points(gold, proxy)
    assert [p.name for p in (two, four)] == ["n = 2", "n = 4"]
    assert four.gold.tolist() == [1, 0]
    assert four.gain.tolist() == [1 - 0.25, 0 - 0.5] and four.proxy.tolist() == [3 - 1.5, 9 - 3.75]
    assert two.gain[0] == pytest.approx(3 / 6 - 0.25)  # the good one is in 3 of 6 pairs
    assert two.d == pytest.approx(0.1931471806**0.5) and four.d == pytest.approx(0.6362943611**0.5)


def test_policies_stand_in_the_order_of_their_distance_less_the_reference():
    gold, proxy = np.array([[0.2, 0.4], [0.5, 0.5]]), np.zeros((2, 2))
    measured = {"gold": [0.6, 0.9], "proxy": [1.0, 2.0]}
    lines = [{"beta": 0, "kl": [5, 4]} | measured, {"beta": 1, "kl": [0.5, 0]} | measured]
    near, far = policy_points(lines, gold, proxy)
    assert (near.name, near.d, far.d) == ("β = 1", 0.5, pytest.approx(4.5**0.5))
    assert near.gold.tolist() == [0.6, 0.9]
    assert near.gain == pytest.approx([0.3, 0.4]) and near.proxy.tolist() == [1, 2]


def test_a_kl_below_zero_is_no_distance():
    line = {"beta": 1, "kl": [-1e-6, 0.0], "gold": [0, 0], "proxy": [0, 0]}
    assert policy_points([line], np.zeros((2, 2)), np.zeros((2, 2)))[0].d == 0


def test_the_order_is_of_pairs_that_gold_tells_apart():
    """Pairs (0, 1) and (2, 3) of each prompt; the fifth sample has no partner."""
    gold = np.array([[0, 1, 1, 1, 9], [0, 1, 0.0, 1, 9]])
    proxy = np.array([[0, 5, 3, 1, 0], [0, 5, 2.0, 2, 0]])
    assert order(gold, proxy) == pytest.approx((1 + 1 + 0.5) / 3)
    assert np.isnan(order(np.ones((2, 4)), proxy[:, :4]))


def test_one_stops_at_the_last_policy_before_the_peak():
    """e^(1/0.5 − 1) = 2.718: after d = 2, not at 3."""
    s = study()
    law, other = s.laws("PPO")
    assert (law.kind, law.d_peak) == ("rl", pytest.approx(np.e, abs=1e-6)) and other.kind == "best-of-n"
    assert stop_at(law, s.points["PPO"]).d == 2.0
    assert stop_at(s.laws("best-of-n")[0], s.points["best-of-n"]).d == 1.5


def test_a_lucky_policy_on_the_way_is_not_where_to_stop():
    s = study()
    s.points["PPO"][1] = point("lucky", 1.0, 9.0)
    law, _ = study().laws("PPO")
    assert stop_at(law, s.points["PPO"]).d == 2.0


def test_the_law_that_fits_better_comes_first():
    """Points of the other law, and points that determine none."""
    points = [point(str(d), d, d * (1 - 0.2 * d)) for d in D]
    first, second = Proxy(1, 0.5, {"PPO": points}).laws("PPO")
    assert first.kind == "best-of-n" and first.misfit < 1 < second.misfit
    assert [math.isnan(law.alpha) for law in Proxy(1, 0.5, {"PPO": points[:2]}).laws("PPO")] == [True, True]


def test_where_every_step_loses_one_stops_at_the_reference():
    points = [point(str(d), d, -d) for d in D]
    law = fit_law("best-of-n", D, [p.gain.mean() for p in points], [standard_error(p.gain) for p in points])
    assert stop_at(law, points) is None
    assert stop_at(fit_law("rl", [1], [1], [1]), points) is None


def test_the_table_has_stop_best_and_end():
    """The best seen is that of the most gold, found without the law; gold is counted from 0."""
    measured, laws = (
        [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines()]
        for part in law_tables([study()], START).split("\n\n")
    )
    assert len(measured) == 2 + 2 and len(laws) == 2 + 4
    assert {len(row) for row in measured} == {len(row) for row in laws} == {10}
    gold = D * (1 - 0.5 * np.log(D))
    i = int(gold.argmax())
    assert measured[3][:5] == ["100", "0.800", "PPO", f"β = {i}", f"{D[i]:.2f}"]
    assert measured[3][5] == with_interval(START + gold[i] + [-0.01, 0.01, -0.01, 0.01])
    assert measured[3][6:8] == ["β = 5", "4.00"] and measured[3][9] == "+4.00"
    row = laws[4]
    assert row[:6] == ["100", "PPO", "d (α − β ln d)", "1.000", "0.500", "0.0"]
    assert row[6].startswith("2.72 [")
    assert row[7:9] == [f"{0.3 + 0.5 * np.e:.3f}", "β = 3"]
    assert row[9] == with_interval(START + gold[3] + [-0.01, 0.01, -0.01, 0.01])
    assert laws[2][6:8] == ["beyond 1.50", "–"]


def test_a_policy_without_noise_leaves_the_law_unknown_and_the_table_whole():
    """Equal gold on all prompts has no error to weigh it by."""
    points = [Point(str(d), d, START + d, np.full(4, d), np.zeros(4)) for d in D]
    s = Proxy(9, float("nan"), {"PPO": points})
    last = law_tables([s], START).splitlines()[-1]
    assert last.endswith(f"| – | – | – | – [–, –] | – | – | {with_interval(START)} |")
    assert "<svg" in law_figure([s], 0.3)


def test_the_interval_is_of_the_gold_itself_over_prompts():
    """Not of the gain, whose error lacks the prompts' own differences; Student's for few prompts."""
    p = point("a", 1.0, 0.5)
    low, high = interval_of(p.gold)
    assert (low, high) == pytest.approx(t_interval(p.gold)) and high - low > 20 * standard_error(p.gain)
    assert with_interval(p.gold) == f"0.800 ±{(high - low) / 2:.3f}"


def test_a_gold_of_0_or_1_on_every_prompt_is_not_known_exactly():
    """Clopper and Pearson's bound, also where the weights of best-of-n make 1 but for rounding."""
    _, high = unseen(0.0, 100, 0.0, 1.0)
    assert with_interval(np.zeros(100)) == f"0.000 ±{high:.3f}"
    assert with_interval(np.ones(100) - 2e-16) == f"1.000 ±{high:.3f}"


def test_a_gold_outside_0_and_1_that_is_the_same_on_every_prompt_has_no_interval_and_no_bar():
    point = Point("a", 1.0, np.full(100, 10.0), np.full(100, 9.0), np.zeros(100))
    assert with_interval(point.gold) == "10.000"
    picture = law_figure([Proxy(9, 0.5, {"PPO": [point]})], 1.0)
    assert "inf" not in picture and "nan" not in picture and picture.count("<circle") == 2 + 1


def test_of_a_skewed_gold_the_longer_side_is_given():
    gold = np.array([1.0] + [0.0] * 39)
    low, high = interval_of(gold)
    assert 0 < low and high - gold.mean() > gold.mean() - low
    assert with_interval(gold) == f"0.025 ±{high - 0.025:.3f}"


def test_a_point_stands_at_its_gold_with_the_interval_as_a_bar_and_at_its_proxy():
    x, gold, proxy = Axis(0, 5, 0, 100), Axis(-1, 5, 300, 0), Axis(-1, 5, 600, 300)
    s = study()
    shapes = column(s, 0.3, x, gold, proxy)
    for way, points in s.points.items():
        for p in points:
            across, ends = x.place(p.d), [gold.place(end) for end in interval_of(p.gold)]
            assert line(across, ends[0], across, ends[1], COLOURS[way]) in shapes
            assert dot(across, gold.place(p.gold.mean()), COLOURS[way]) in shapes
            assert dot(across, proxy.place(p.proxy.mean()), COLOURS[way]) in shapes


def test_the_figure_has_every_point_twice_and_a_line_at_the_peak():
    s = study()
    picture = law_figure([s, study(200, 1.0, 0.05)], 0.3)
    n = sum(len(points) for points in s.points.values())
    assert picture.count("<circle") == 2 * 2 * n + 2
    assert picture.count('stroke-width="0.7"') == 1  # the peak of the second lies beyond what was seen
    assert "100 comparisons" in picture and "200 comparisons" in picture and picture.count("<polyline") == 4
    assert "nan" not in picture


# The laws


X = np.array([0.3, 0.7, 1.0, 1.5, 2.2, 3.0])
E = np.full(len(X), 1e-3)  # errors
LAWS = {"best-of-n": lambda d, a, b: d * (a - b * d), "rl": lambda d, a, b: d * (a - b * np.log(d))}


@pytest.mark.parametrize(
    "kind, alpha, beta, d, R", [("best-of-n", 1, 0.2, 2.5, 1.25), ("rl", 1, 0.4, 4.4816890703, 1.7926756281)]
)
def test_the_peak_has_a_closed_form(kind, alpha, beta, d, R):
    """Known values; and no point nearby is higher."""
    found = fit_law(kind, X, LAWS[kind](X, alpha, beta), E)
    assert (found.alpha, found.beta) == (pytest.approx(alpha, abs=1e-9), pytest.approx(beta, abs=1e-9))
    assert (found.d_peak, found.value(found.d_peak)) == (pytest.approx(d, abs=1e-8), pytest.approx(R, abs=1e-8))
    nearby = np.linspace(0.5 * d, 1.5 * d, 101)
    assert LAWS[kind](nearby, alpha, beta).max() <= R + 1e-9
    assert found.value(d) == pytest.approx(R, abs=1e-8) and found.value(0.0) == 0


@pytest.mark.parametrize("kind", LAWS)
def test_the_reference_itself_is_on_every_law(kind):
    R = LAWS[kind](X, 1, 0.3)
    with_zero = fit_law(kind, [0.0, *X], [0.0, *R], [0.0, *E])  # nor has it an error
    assert with_zero.alpha == pytest.approx(1) and with_zero.beta == pytest.approx(0.3) 


def test_points_with_errors_count_by_their_precision():
    """numpy's weighted line; a point known to nothing changes nothing."""
    rng = np.random.default_rng(1)
    R, errors = LAWS["rl"](X, 1, 0.4) + 0.05 * rng.standard_normal(len(X)), np.linspace(0.02, 0.2, len(X))
    slope, intercept = np.polyfit(np.log(X), R / X, 1, w=X / errors)
    found = fit_law("rl", X, R, errors)
    assert (found.alpha, found.beta) == (pytest.approx(intercept), pytest.approx(-slope))
    useless = fit_law("rl", [*X, 2.5], [*R, 99.0], [*errors, 1e6])
    assert useless.alpha == pytest.approx(found.alpha, abs=1e-3)


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Of 200 studies with noise as stated, about 95 %, or a little more as misfits widen them."""
    rng, errors, inside = np.random.default_rng(2), np.full(len(X), 0.05), 0
    for _ in range(200):
        R = LAWS["best-of-n"](X, 1, 0.2) + errors * rng.standard_normal(len(X))
        low, high = fit_law("best-of-n", X, R, errors).d_interval
        inside += low <= 2.5 <= high
    assert inside >= 185


def test_a_law_that_the_points_do_not_obey_is_said_and_not_known_well():
    """Points of the other law, ten times as precise: no narrower interval, and a misfit far above 1."""
    R = LAWS["rl"](X, 1, 0.9)
    rough, fine = (fit_law("best-of-n", X, R, np.full(len(X), error)) for error in (0.01, 0.001))
    assert fine.misfit == pytest.approx(10 * rough.misfit) and fine.misfit > 50
    widths = [f.d_interval[1] - f.d_interval[0] for f in (rough, fine)]
    assert widths[1] == pytest.approx(widths[0], rel=1e-6)
    assert fit_law("rl", X, R, np.full(len(X), 0.01)).misfit == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("kind", LAWS)
def test_a_law_that_only_rises_has_no_peak(kind):
    found = fit_law(kind, X, LAWS[kind](X, 1, -0.1), np.full(len(X), 1e-3))
    assert found.d_peak == found.value(found.d_peak) == math.inf and found.stop == X.max()
    assert found.d_interval == (math.inf, math.inf)


def test_a_peak_beyond_the_last_point_is_no_place_to_stop():
    assert fit_law("best-of-n", X, LAWS["best-of-n"](X, 1, 0.1), E).stop == 3.0
    assert fit_law("best-of-n", X, LAWS["best-of-n"](X, 1, 0.5), E).stop == pytest.approx(1.0)


def test_where_every_step_loses_the_peak_is_at_the_start():
    assert peak("best-of-n", np.array([-1.0]), np.array([0.2])) == 0
    assert fit_law("best-of-n", X, LAWS["best-of-n"](X, -1, 0.2), E).stop == 0


def test_a_law_that_would_gain_far_out_is_not_followed_there():
    """With α and β below 0 it falls before it rises; at the last point it still loses."""
    found = fit_law("best-of-n", X, LAWS["best-of-n"](X, -1, -0.2), E)
    assert found.d_peak == math.inf and found.stop == 0


def test_a_peak_out_of_floats_is_not_nan():
    d = peak("rl", np.array([1.0]), np.array([1e-9]))
    assert 1e300 < d < math.inf


@pytest.mark.parametrize("d, R, errors", [
    ([1, 2], [1, 1], [1, 1]),
    ([1, 1, 2, 0], [1, 1, 1, 0], [1, 1, 1, 0]),
    ([], [], []),
    ([1, 2, 3], [1, math.nan, 1], [1, 1, 1]),
    ([1, 2, 3], [1, 1, 1], [0.1, math.inf, 0.1]),
    ([math.nan, 1, 2, 3], [1, 1, 1, 1], [1, 1, 1, 1]),
    ([1, 2, 3], [1, 1, 1], [0.1, 0.0, 0.1]),
])  # fmt: skip
def test_what_determines_no_law_is_undefined(d, R, errors):
    found = fit_law("rl", d, R, errors)
    assert all(math.isnan(x) for x in (found.alpha, found.beta, found.d_peak, found.misfit)) and found.stop == 0
