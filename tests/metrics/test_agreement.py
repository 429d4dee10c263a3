"""Agreement beyond chance: published tables, definitions by hand, and what is undefined."""

import json
import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from minirlhf.metrics.agreement import cohen_kappa, krippendorff_alpha, raw_agreement

GOLDEN = json.loads((Path(__file__).parents[1] / "golden.json").read_text(encoding="utf-8"))["agreement"]
R1, R2, R3 = (list(GOLDEN[name]) for name in ("r1", "r2", "r3"))
TWO, THREE = list(zip(R1, R2)), list(zip(R1, R2, R3))
# Krippendorff's example as in Wikipedia: 3 coders, 15 units, * where one is missing.
CODERS = "* * * * * 3 4 1 2 1 1 3 3 * 3", "1 * 2 1 3 3 4 3 * * * * * * *", "* * 2 1 3 4 4 * 2 1 1 3 3 * 4"
UNITS = [[None if x == "*" else int(x) for x in unit] for unit in zip(*(line.split() for line in CODERS))]


def test_measures_of_known_ratings():
    assert cohen_kappa(TWO).value == pytest.approx(GOLDEN["cohen12"], abs=1e-9)
    assert raw_agreement(TWO).value == pytest.approx(GOLDEN["raw12"], abs=1e-9)
    assert krippendorff_alpha(TWO).value == pytest.approx(GOLDEN["alpha12"], abs=1e-9)
    assert raw_agreement(THREE).value == pytest.approx(GOLDEN["raw123"], abs=1e-9)
    assert krippendorff_alpha(THREE).value == pytest.approx(GOLDEN["alpha123"], abs=1e-9)


@pytest.mark.parametrize("level, value", [("nominal", 0.6913580247), ("interval", 0.8108448928)])
def test_alpha_of_the_published_table_with_gaps(level, value):
    found = krippendorff_alpha(UNITS, level)
    assert found.value == pytest.approx(value, abs=1e-9)
    assert found.n == sum(unit.count(None) < 2 for unit in UNITS) == 12


def test_cohen_is_one_minus_the_odds_of_disagreement_to_chance():
    """κ of a confusion matrix by the textbook: p_o = 0.7, p_e = 0.5 · 0.6 + 0.5 · 0.4."""
    items = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert cohen_kappa(items).value == pytest.approx((0.7 - 0.5) / (1 - 0.5), abs=1e-12)


def test_raw_agreement_counts_every_label_once():
    """An item of three labels has three pairs, but counts three halves of one of two."""
    items = [["a", "a", "b"], ["a", "a"], ["b", None]]
    pairs = [x == y for x, y in combinations(items[0], 2)]
    assert raw_agreement(items).value == pytest.approx((3 * np.mean(pairs) + 2 * 1) / 5)
    assert raw_agreement(items).n == 2


def test_agreement_of_dice_is_none():
    rng = np.random.default_rng(0)
    items = rng.choice(["a", "b", "tie"], (1000, 2), p=[0.6, 0.3, 0.1]).tolist()
    for measure in (cohen_kappa, krippendorff_alpha):
        assert abs(measure(items).value) < 0.08
    assert raw_agreement(items).value == pytest.approx(0.46, abs=0.05)


@pytest.mark.parametrize("measure", [cohen_kappa, krippendorff_alpha])
def test_one_category_alone_is_undefined_and_raw_agreement_says_1(measure):
    items = [["a", "a"]] * 6
    found = measure(items)
    assert math.isnan(found.value) and found.undefined == "all labels are of one category" and found.n == 6
    assert all(map(math.isnan, found.interval))
    assert raw_agreement(items).value == 1


@pytest.mark.parametrize("measure", [cohen_kappa, krippendorff_alpha, raw_agreement])
def test_nothing_labelled_twice_is_undefined(measure):
    found = measure([["a", None], [None, "b"]])
    assert math.isnan(found.value) and found.undefined == "no item was labelled twice" and found.n == 0


def test_perfect_agreement_is_1_and_perfect_disagreement_of_two_is_minus_1():
    same, opposite = [["a", "a"], ["b", "b"]] * 5, [["a", "b"], ["b", "a"]] * 5
    assert cohen_kappa(same).value == pytest.approx(1) and cohen_kappa(opposite).value == pytest.approx(-1)


def test_cohen_is_of_two_raters():
    with pytest.raises(ValueError, match="two raters"):
        cohen_kappa(THREE)


def test_interval_alpha_forgives_a_near_miss():
    near, far = ([[0, 0], [1, 1], [2, 2], [x, 0]] for x in (1, 2))
    shifted = [[3 * x + 7 for x in item] for item in far]
    close, off, moved = (krippendorff_alpha(items, "interval").value for items in (near, far, shifted))
    assert close > off and moved == pytest.approx(off)


def test_the_interval_is_over_items():
    """Two labels an item, independent items: of raw agreement it is the bootstrap of a share."""
    items = [["a", "a"]] * 70 + [["a", "b"]] * 30
    low, high = raw_agreement(items).interval
    assert low == pytest.approx(0.61, abs=0.011) and high == pytest.approx(0.79, abs=0.011)
    assert raw_agreement(items, seed=0) == raw_agreement(items, seed=0)
