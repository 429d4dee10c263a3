"""The laws of over-optimisation: exact recovery, closed-form peaks, and what no law can be fitted to."""

import math

import numpy as np
import pytest

from minirlhf.experiments.goodhart_laws import fit, peak

D = np.array([0.3, 0.7, 1.0, 1.5, 2.2, 3.0])
E = np.full(len(D), 1e-3)  # errors
LAWS = {"best-of-n": lambda d, a, b: d * (a - b * d), "rl": lambda d, a, b: d * (a - b * np.log(d))}


@pytest.mark.parametrize(
    "kind, alpha, beta, d, R", [("best-of-n", 1, 0.2, 2.5, 1.25), ("rl", 1, 0.4, 4.4816890703, 1.7926756281)]
)
def test_the_peak_has_a_closed_form(kind, alpha, beta, d, R):
    """Known values; and no point nearby is higher."""
    found = fit(kind, D, LAWS[kind](D, alpha, beta), E)
    assert (found.alpha, found.beta) == (pytest.approx(alpha, abs=1e-9), pytest.approx(beta, abs=1e-9))
    assert (found.d_peak, found.r_peak) == (pytest.approx(d, abs=1e-8), pytest.approx(R, abs=1e-8))
    nearby = np.linspace(0.5 * d, 1.5 * d, 101)
    assert LAWS[kind](nearby, alpha, beta).max() <= R + 1e-9
    assert found.value(d) == pytest.approx(R, abs=1e-8) and found.value(0.0) == 0


@pytest.mark.parametrize("kind", LAWS)
def test_the_reference_itself_is_on_every_law(kind):
    R = LAWS[kind](D, 1, 0.3)
    with_zero = fit(kind, [0.0, *D], [0.0, *R], [0.0, *E])  # nor has it an error
    assert with_zero.alpha == pytest.approx(1) and with_zero.beta == pytest.approx(0.3) and not with_zero.undefined


def test_points_with_errors_count_by_their_precision():
    """numpy's weighted line; a point known to nothing changes nothing."""
    rng = np.random.default_rng(1)
    R, errors = LAWS["rl"](D, 1, 0.4) + 0.05 * rng.standard_normal(len(D)), np.linspace(0.02, 0.2, len(D))
    slope, intercept = np.polyfit(np.log(D), R / D, 1, w=D / errors)
    found = fit("rl", D, R, errors)
    assert (found.alpha, found.beta) == (pytest.approx(intercept), pytest.approx(-slope))
    useless = fit("rl", [*D, 2.5], [*R, 99.0], [*errors, 1e6])
    assert useless.alpha == pytest.approx(found.alpha, abs=1e-3)


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Of 200 studies with noise as stated, about 95 %, or a little more as misfits widen them."""
    rng, errors, inside = np.random.default_rng(2), np.full(len(D), 0.05), 0
    for seed in range(200):
        R = LAWS["best-of-n"](D, 1, 0.2) + errors * rng.standard_normal(len(D))
        low, high = fit("best-of-n", D, R, errors, 200, seed).d_interval
        inside += low <= 2.5 <= high
    assert inside >= 185


def test_a_law_that_the_points_do_not_obey_is_said_and_not_known_well():
    """Points of the other law, ten times as precise: no narrower interval, and a misfit far above 1."""
    R = LAWS["rl"](D, 1, 0.9)
    rough, fine = (fit("best-of-n", D, R, np.full(len(D), error)) for error in (0.01, 0.001))
    assert fine.misfit == pytest.approx(10 * rough.misfit) and fine.misfit > 50
    widths = [f.d_interval[1] - f.d_interval[0] for f in (rough, fine)]
    assert widths[1] == pytest.approx(widths[0], rel=1e-6)
    assert fit("rl", D, R, np.full(len(D), 0.01)).misfit == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("kind", LAWS)
def test_a_law_that_only_rises_has_no_peak(kind):
    found = fit(kind, D, LAWS[kind](D, 1, -0.1), np.full(len(D), 1e-3))
    assert found.d_peak == found.r_peak == math.inf and found.stop == D.max()
    assert found.d_interval == (math.inf, math.inf)


def test_a_peak_beyond_the_last_point_is_no_place_to_stop():
    assert fit("best-of-n", D, LAWS["best-of-n"](D, 1, 0.1), E).stop == 3.0
    assert fit("best-of-n", D, LAWS["best-of-n"](D, 1, 0.5), E).stop == pytest.approx(1.0)


def test_where_every_step_loses_the_peak_is_at_the_start():
    assert peak("best-of-n", np.array([-1.0]), np.array([0.2])) == (np.array([0.0]), np.array([0.0]))
    assert fit("best-of-n", D, LAWS["best-of-n"](D, -1, 0.2), E).stop == 0


def test_a_law_that_would_gain_far_out_is_not_followed_there():
    """With α and β below 0 it falls before it rises; at the last point it still loses."""
    found = fit("best-of-n", D, LAWS["best-of-n"](D, -1, -0.2), E)
    assert found.d_peak == math.inf and found.stop == 0


def test_a_peak_out_of_floats_is_not_nan():
    d, R = peak("rl", np.array([1.0]), np.array([1e-9]))
    assert d > 1e300 and R > 0


@pytest.mark.parametrize(
    "d, R, errors, why",
    [
        ([1, 2], [1, 1], [1, 1], "2 different distances"),
        ([1, 1, 2, 0], [1, 1, 1, 0], [1, 1, 1, 0], "2 different distances"),
        ([], [], [], "0 different distances"),
        ([1, 2, 3], [1, math.nan, 1], [1, 1, 1], "not finite"),
        ([1, 2, 3], [1, 1, 1], [0.1, math.inf, 0.1], "not finite"),
        ([-1, 2, 3], [1, 1, 1], [1, 1, 1], "below 0"),
        ([1, 2, 3], [1, 1, 1], [0.1, 0.0, 0.1], "not above 0"),
    ],
)
def test_what_determines_no_law_is_undefined(d, R, errors, why):
    found = fit("rl", d, R, errors)
    assert why in found.undefined and math.isnan(found.d_peak) and math.isnan(found.alpha)
