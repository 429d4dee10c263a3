"""Agreement beyond chance: published tables, definitions by hand, and what is undefined."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from minirlhf.metrics.agreement import cohen_kappa, krippendorff_alpha

GOLDEN = json.loads((Path(__file__).parents[1] / "golden.json").read_text(encoding="utf-8"))["agreement"]
R1, R2, R3 = (list(GOLDEN[name]) for name in ("r1", "r2", "r3"))
# Krippendorff's example as in Wikipedia: 3 coders, 15 units, * where one is missing.
CODERS = "* * * * * 3 4 1 2 1 1 3 3 * 3", "1 * 2 1 3 3 4 3 * * * * * * *", "* * 2 1 3 4 4 * 2 1 1 3 3 * 4"
UNITS = [[x for x in unit if x != "*"] for unit in zip(*(line.split() for line in CODERS))]


@pytest.mark.parametrize("raters, key", [((R1, R2), "alpha12"), ((R1, R2, R3), "alpha123")])
def test_alpha_of_known_ratings(raters, key):
    assert krippendorff_alpha(list(zip(*raters))).value == pytest.approx(GOLDEN[key], abs=1e-9)


def test_alpha_of_the_published_table_with_gaps():
    found = krippendorff_alpha(UNITS)
    assert found.value == pytest.approx(0.6913580247, abs=1e-9)
    assert found.n == sum(len(unit) >= 2 for unit in UNITS) == 12


def test_agreement_of_dice_is_none():
    items = np.random.default_rng(0).choice(["a", "b", "tie"], (1000, 2), p=[0.6, 0.3, 0.1]).tolist()
    assert abs(krippendorff_alpha(items).value) < 0.08


def test_perfect_agreement_is_1():
    assert krippendorff_alpha([["a", "a"], ["b", "b"]] * 5).value == pytest.approx(1)


@pytest.mark.parametrize("items, note", [
    ([["a", "a"], ["a", "a", "a", "a"]] * 6, "all labels are of one category"),
    ([["a"], ["b"], []], "no item was labelled twice"),
])  # fmt: skip
def test_what_is_undefined_says_why(items, note):
    found = krippendorff_alpha(items)
    assert found.note == note and all(map(math.isnan, (found.value, found.low, found.high)))


def test_the_interval_is_over_items():
    """Items copied ten times are ten times as many: the interval is about √10 as narrow."""
    items = [["a", "a"]] * 30 + [["a", "b"]] * 15 + [["b", "b"]] * 30
    one, ten = krippendorff_alpha(items), krippendorff_alpha(items * 10)
    assert one.low < one.value < one.high
    assert (one.high - one.low) / (ten.high - ten.low) == pytest.approx(10**0.5, rel=0.1)
    assert krippendorff_alpha(items, seed=0) == one != krippendorff_alpha(items, seed=1)


def test_kappa_of_known_ratings():
    assert cohen_kappa(list(zip(R1, R2))).value == pytest.approx(GOLDEN["cohen12"], abs=1e-9)


def test_kappa_by_hand():
    """Seen 0.7; by chance 0.6 x 0.5 + 0.4 x 0.5 = 0.5."""
    items = [("a", "a")] * 4 + [("a", "b")] * 2 + [("b", "a")] + [("b", "b")] * 3
    assert cohen_kappa(items).value == pytest.approx((0.7 - 0.5) / (1 - 0.5), abs=1e-12)


def test_kappa_knows_the_raters_apart():
    """One always says a: they agree as often as chance has it. Alpha, blind to who said what, calls that less."""
    items = [("a", "a"), ("a", "b")] * 6
    assert cohen_kappa(items).value == pytest.approx(0, abs=1e-12) and krippendorff_alpha(items).value < -0.2


def test_without_two_raters_or_two_labels_kappa_is_undefined():
    for items, note in (([], "no item was labelled by both"), ([("a", "a")] * 3, "all labels are of one category")):
        assert math.isnan(cohen_kappa(items).value) and cohen_kappa(items).note == note
