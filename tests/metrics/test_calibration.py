"""Calibration against published values and scikit-learn; its bias, interval and bars by simulation."""

import math

import numpy as np
import pytest

from minirlhf.metrics import calibration, intervals, paired_tests

CONFIDENCE = [0.1, 0.2, 0.35, 0.35, 0.6, 0.7, 0.8, 0.85, 0.9, 1.0]
CORRECT = [0, 0, 0, 1, 1, 1, 1, 0, 1, 1]
LOGITS = np.array([[2, 0, 0], [3, 1, 0], [0, 4, 0], [1, 0, 5], [2, 2.5, 0], [0, 0, 3]])
LABELS = np.array([0, 1, 1, 2, 0, 2])


def nll(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]


@pytest.mark.parametrize("n_bins, expected", [(5, 0.225), (1, 0.015), (10, 0.225), (15, 0.245)])
def test_expected_calibration_error_of_known_data(n_bins, expected):
    assert calibration.expected_calibration_error(CONFIDENCE, CORRECT, n_bins) == pytest.approx(expected)


def test_reliability_bins_equal_sklearns_calibration_curve():
    bins = calibration.reliability_bins(CONFIDENCE, CORRECT, 5)
    assert [b["accuracy"] for b in bins] == pytest.approx([0, 0.5, 1, 1, 2 / 3])
    assert [b["confidence"] for b in bins] == pytest.approx([0.15, 0.35, 0.6, 0.75, 0.9166666667])
    assert [b["count"] for b in bins] == [2, 2, 1, 2, 3]


@pytest.mark.parametrize("confidence, correct, expected", [([0], [1], 1), ([0.95, 1], [1, 0], 0.475)])
def test_confidences_of_exactly_0_and_1_have_a_bin(confidence, correct, expected):
    assert calibration.expected_calibration_error(confidence, correct) == pytest.approx(expected)


def test_confidence_on_an_edge_belongs_to_the_bin_below():
    for n_bins in (3, 7, 10, 49):
        for k in range(1, n_bins):
            bins = calibration.reliability_bins([k / n_bins, k / n_bins - 1e-3], [1, 0], n_bins)
            assert [b["count"] for b in bins] == [2]


def test_calibration_of_nothing_is_nan():
    assert math.isnan(calibration.expected_calibration_error([], []))


def test_random_confidences_have_sklearns_calibration():
    calibration_curve = pytest.importorskip("sklearn.calibration").calibration_curve
    rng = np.random.default_rng(0)
    for n_bins in (2, 5, 13):
        confidence, correct = rng.random(200), rng.integers(0, 2, 200)
        accuracy, mean = calibration_curve(correct, confidence, n_bins=n_bins)
        bins = calibration.reliability_bins(confidence, correct, n_bins)
        np.testing.assert_allclose([[b[key] for b in bins] for key in ("accuracy", "confidence")], [accuracy, mean])


def test_fitted_temperature_of_known_logits_minimises_the_nll():
    temperature = calibration.fit_temperature(LOGITS, LABELS)
    assert temperature == pytest.approx(1.257426, abs=1e-6)
    assert nll(LOGITS, LABELS).mean() == pytest.approx(0.5981573, abs=1e-7)
    best = nll(LOGITS / temperature, LABELS).mean()
    assert best == pytest.approx(0.5815345, abs=1e-7)
    for other in (temperature * 0.99, temperature * 1.01):
        assert nll(LOGITS / other, LABELS).mean() > best


def test_temperature_of_random_logits_equals_scipys_minimum():
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(0)
    for _ in range(30):
        logits, labels = rng.normal(0, 2, (40, 4)), rng.integers(0, 4, 40)
        labels = np.where(rng.random(40) < 0.6, logits.argmax(axis=1), labels)
        best = optimize.minimize_scalar(lambda s: nll(s * logits, labels).mean(), bounds=(1e-3, 10))
        assert 1 / calibration.fit_temperature(logits, labels) == pytest.approx(best.x, abs=1e-4)


def test_temperature_scales_with_the_logits_and_ignores_their_offset():
    temperature = calibration.fit_temperature(LOGITS, LABELS)
    assert calibration.fit_temperature(50 * LOGITS + 7, LABELS) == pytest.approx(50 * temperature)
    assert calibration.fit_temperature(LOGITS / 50, LABELS) == pytest.approx(temperature / 50)


def test_temperature_of_a_long_way_off_is_found_all_the_same():
    """Newton's steps from T = 1 overshoot where the curvature is next to nothing: the bracket holds them."""
    rng = np.random.default_rng(1)
    z = rng.normal(0, 3, (300, 5))
    labels = (z + rng.gumbel(size=z.shape)).argmax(axis=1)  # calibrated: T is about 1
    one = calibration.fit_temperature(z, labels)
    assert one == pytest.approx(1, abs=0.15)
    for scale in (1e-4, 1e-2, 1 / one, 30, 1e4):  # 1 / one: the first guess is the answer
        assert calibration.fit_temperature(scale * z, labels) == pytest.approx(scale * one, rel=1e-6)


def test_temperature_without_a_minimum_is_its_limit():
    assert calibration.fit_temperature(LOGITS, LOGITS.argmax(axis=1)) == 0
    assert calibration.fit_temperature(LOGITS, LOGITS.argmin(axis=1)) == math.inf
    assert math.isnan(calibration.fit_temperature(np.ones((2, 3)), [0, 1]))
    assert math.isnan(calibration.fit_temperature(np.empty((0, 3)), np.empty(0, dtype=int)))


def test_bars_of_a_reliability_diagram_are_wilsons():
    bins = calibration.reliability_bins(CONFIDENCE, CORRECT, 5)
    rights = [(0, 2), (1, 2), (1, 1), (2, 2), (2, 3)]
    assert [(b["low"], b["high"]) for b in bins] == [pytest.approx(intervals.wilson(k, n)) for k, n in rights]
    assert calibration.reliability_bins([], []) == []


@pytest.mark.parametrize("n_bins", [1, 5, 10, 15])
def test_ece_from_summed_statistics_is_ece(n_bins):
    parts = [slice(0, 3), slice(3, 4), slice(4, 10)]
    rows = [calibration.calibration_statistics(CONFIDENCE[p], CORRECT[p], n_bins) for p in parts]
    expected = calibration.expected_calibration_error(CONFIDENCE, CORRECT, n_bins)
    assert calibration.ece_from_statistics(sum(rows)) == pytest.approx(expected)
    assert calibration.ece_from_statistics(np.array([sum(rows), rows[1]])) == pytest.approx(
        [expected, calibration.expected_calibration_error(CONFIDENCE[3:4], CORRECT[3:4], n_bins)]
    )
    assert math.isnan(calibration.ece_from_statistics(calibration.calibration_statistics([], [], n_bins)))


def test_calibration_of_two_models_is_compared_through_its_statistics():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, (60, 10))
    right = rng.random((60, 10)) < confidence
    honest, boastful = (
        np.array([calibration.calibration_statistics(c, y) for c, y in zip(said, right)])
        for said in (confidence, np.minimum(confidence + 0.3, 1))
    )
    result = paired_tests.paired_corpus(boastful, honest, calibration.ece_from_statistics, n_resamples=500)
    assert paired_tests.verdict(result, direction=-1) == "worse"


def test_ece_if_calibrated_of_one_bin_is_its_closed_form():
    """One item of confidence p: ECE is 1 − p with probability p, else p, so 2 p (1 − p) on average."""
    simulated = calibration.ece_if_calibrated([0.3], n_simulations=4000)
    assert set(np.round(simulated, 12)) == {0.3, 0.7}
    assert simulated.mean() == pytest.approx(2 * 0.3 * 0.7, abs=4 * 0.4 * math.sqrt(0.21 / 4000))
    assert (calibration.ece_if_calibrated([0.0, 1.0, 1.0], n_simulations=20) == 0).all()


def test_ece_if_calibrated_falls_as_one_over_root_n_and_has_normal_theory_size():
    """One bin of n items at 0.5: |mean − 0.5| has the mean √(2/π) · 0.5/√n."""
    for n in (100, 400):
        simulated = calibration.ece_if_calibrated(np.full(n, 0.5), n_simulations=2000)
        assert simulated.mean() == pytest.approx(math.sqrt(2 / math.pi) * 0.5 / math.sqrt(n), rel=0.08)


def test_a_calibrated_model_is_called_so_in_95_percent_of_samples_and_another_is_not():
    rng = np.random.default_rng(0)
    rejected = []
    for trial in range(200):
        confidence = rng.uniform(0.5, 1, 80)
        null = calibration.ece_if_calibrated(confidence, 10, 99, seed=trial)
        for truth in (confidence, confidence - 0.3):
            correct = rng.random(80) < truth
            measured = calibration.expected_calibration_error(confidence, correct, 10)
            rejected.append((1 + (null >= measured - 1e-9).sum()) / 100 <= 0.05)
    assert np.mean(rejected[::2]) <= 0.1 and np.mean(rejected[1::2]) >= 0.95


def test_simulated_ece_is_a_function_of_the_seed():
    same, other = (calibration.ece_if_calibrated(CONFIDENCE, seed=s) for s in (1, 2))
    assert (calibration.ece_if_calibrated(CONFIDENCE, seed=1) == same).all() and (same != other).any()


def interval(confidence, correct, prompts, n_bins: int, **settings) -> tuple[float, float]:
    """The bootstrap interval of ECE over prompts, from the statistics of each."""
    confidence, correct, prompts = map(np.asarray, (confidence, correct, prompts))
    rows = [
        calibration.calibration_statistics(confidence[prompts == p], correct[prompts == p], n_bins)
        for p in np.unique(prompts)
    ]
    return intervals.corpus_interval(np.array(rows), calibration.ece_from_statistics, **settings)


def test_the_interval_of_ece_resamples_whole_prompts():
    """20 items of each prompt are right or wrong together: as many as 50 items, not 1000."""
    rng = np.random.default_rng(0)
    right = rng.random(50) < 0.5
    confidence, correct, prompts = np.full(1000, 0.8), np.repeat(right, 20), np.repeat(np.arange(50), 20)
    clustered = interval(confidence, correct, prompts, 1)
    independent = interval(confidence, correct, np.arange(1000), 1)
    assert clustered == pytest.approx(interval(confidence[::20], right, np.arange(50), 1), abs=1e-9)
    assert np.ptp(clustered) == pytest.approx(math.sqrt(20) * np.ptp(independent), rel=0.15)


def test_the_interval_of_ece_covers_the_error_of_an_overconfident_model():
    rng = np.random.default_rng(1)
    missed = 0
    for trial in range(200):
        confidence = rng.uniform(0.6, 1, 200)
        correct = rng.random(200) < confidence - 0.2
        low, high = interval(confidence, correct, np.arange(200), 1, n_resamples=300, seed=trial)
        missed += not low <= 0.2 <= high
    assert missed / 200 <= 0.09
