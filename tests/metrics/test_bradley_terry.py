"""Strengths: published values, closed forms, the gradient at the maximum, invariances, what is undefined."""

from math import exp, log

import numpy as np
import pytest

from minirlhf.metrics.bradley_terry import PSEUDO, length_controlled, strengths


def judged(*table: tuple) -> tuple[list, list, list]:
    """Arguments of `strengths` from (a, b, b's wins, ties, losses), each judgement of a prompt of its own."""
    rows = [
        ((a, b), score)
        for a, b, *counts in table
        for score, n in zip((1, 0.5, 0), counts)
        for _ in range(n)
    ]
    return *map(list, zip(*rows)), list(range(len(rows)))


def random_judgements(seed: int, n: int = 200) -> tuple[list, list, list]:
    """Of three models, with ties."""
    rng = np.random.default_rng(seed)
    theta, pairs, scores = {"x": 0.0, "y": 0.5, "z": 1.0}, [], []
    for _ in range(n):
        a, b = rng.permutation(list(theta)).tolist()[:2]
        d = theta[b] - theta[a]
        p = np.array([exp(d / 2), 0.6, exp(-d / 2)])
        pairs.append((a, b))
        scores.append(float(rng.choice([1, 0.5, 0], p=p / p.sum())))
    return pairs, scores, list(range(n))


CYCLE = [("B", "A", 2, 0, 3), ("D", "A", 1, 0, 4), ("C", "B", 5, 0, 3), ("D", "C", 1, 0, 3)]
THREE = [("base", "sft", 30, 10, 10), ("base", "rl", 36, 6, 8), ("sft", "rl", 25, 10, 15)]


def test_strengths_of_the_published_example():
    """The example of Wikipedia's article on the model, and of arena-rank's own test."""
    theta = dict(zip("ABCD", [-0.44654524, 0.04240257, -0.41580307, 0.81994573]))
    found = strengths(*judged(*CYCLE))
    assert len(found) == 6
    for name, x in found.items():
        b, a = name.split(" - ")
        assert x.value == pytest.approx(theta[b] - theta[a], abs=1e-7) and not x.note


def test_two_models_have_a_closed_form():
    """d = log((W + T/2) / (L + T/2))."""
    (x,) = strengths(*judged(("A", "B", 30, 10, 20))).values()
    assert x.value == pytest.approx(log(35 / 25), abs=1e-9) and x.n == 60


def test_three_models_with_ties():
    """Values of an independent optimiser."""
    found = strengths(*judged(*THREE))
    assert list(found) == ["sft - base", "rl - base", "rl - sft"]
    assert [x.value for x in found.values()] == pytest.approx([0.8514662, 1.2605768, 0.4091106], abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_maximum_is_where_expected_wins_are_those_seen(seed):
    """The score equations, by a loop over the judgements."""
    pairs, scores, prompts = random_judgements(seed)
    found = strengths(pairs, scores, prompts)
    first = pairs[0][0]
    theta = {first: 0.0} | {name.split(" - ")[0]: x.value for name, x in found.items() if name.endswith(f"- {first}")}
    excess = dict.fromkeys("xyz", 0.0)
    for (a, b), score in zip(pairs, scores):
        won = score - 1 / (1 + exp(theta[a] - theta[b]))
        excess[b] += won
        excess[a] -= won
    assert list(excess.values()) == pytest.approx([0] * 3, abs=1e-7)


def test_it_does_not_matter_which_model_is_named_first():
    pairs, scores, prompts = random_judgements(0)
    one = strengths(pairs, scores, prompts)
    turned = strengths([(b, a) for a, b in pairs], [1 - score for score in scores], prompts)
    for name, x in one.items():
        b, a = name.split(" - ")
        if name in turned:
            same = turned[name]
            assert (x.value, x.low, x.high) == pytest.approx((same.value, same.low, same.high), abs=1e-7)
        else:
            other = turned[f"{a} - {b}"]
            assert (x.value, x.low, x.high) == pytest.approx((-other.value, -other.high, -other.low), abs=1e-7)


def test_an_undefeated_model_stays_finite_and_is_flagged():
    """Half a win and half a loss are added: log(10.5 / 0.5), with the error of these counts."""
    (x,) = strengths(*judged(("A", "B", 10, 0, 0))).values()
    d, se = log((10 + PSEUDO) / PSEUDO), (1 / (10 + PSEUDO) + 1 / PSEUDO) ** 0.5
    assert x.value == pytest.approx(d, abs=1e-9) and "never lost" in x.note
    assert (x.low, x.high) == pytest.approx((d - 1.959964 * se, d + 1.959964 * se), abs=1e-5)


def test_what_is_added_is_as_much_for_each_pair_of_models():
    """Whichever way round its judgements name the two."""
    pairs, scores, prompts = judged(("A", "B", 10, 0, 0))
    mixed = [(b, a) if k % 2 else (a, b) for k, (a, b) in enumerate(pairs)]
    turned = strengths(mixed, [1 - s if k % 2 else s for k, s in enumerate(scores)], prompts)
    assert turned["B - A"].value == pytest.approx(strengths(pairs, scores, prompts)["B - A"].value, abs=1e-9)


def test_nothing_is_added_where_the_data_suffice():
    (x,) = strengths(*judged(("A", "B", 1000, 0, 1))).values()
    assert not x.note and x.value == pytest.approx(log(1000), abs=1e-9)


@pytest.mark.parametrize("lost", [0, 2])
def test_models_that_nothing_joins_are_not_ranked(lost):
    found = strengths(*judged(("A", "B", 3, 0, lost), ("C", "D", 1, 2, 2)))
    assert len(found) == 6 and all(np.isnan([x.value, x.low, x.high]).all() for x in found.values())
    assert {x.note for x in found.values()} == {"no chain of comparisons joins all models"}


def test_one_prompt_has_no_interval():
    pairs, scores, _ = judged(*THREE)
    for x in strengths(pairs, scores, ["one"] * len(pairs)).values():
        assert np.isfinite(x.value) and np.isnan([x.low, x.high]).all()


def test_the_interval_of_a_difference_agrees_with_the_information():
    """For independent prompts, about ± 1.96 standard errors: Var d = 1 / wins + 1 / losses."""
    (x,) = strengths(*judged(("A", "B", 300, 0, 200))).values()
    assert x.high - x.low == pytest.approx(2 * 1.96 * (1 / 300 + 1 / 200) ** 0.5, rel=0.1)


def test_prompts_are_resampled_whole():
    """Ten judgements of each prompt that all agree are worth one: the interval is as wide."""
    once = judged(("A", "B", 12, 4, 8))
    (one,), (ten,) = (strengths(*(list(part) * k for part in once)).values() for k in (1, 10))
    assert (ten.low, ten.high) == pytest.approx((one.low, one.high), abs=0.02)


def test_a_seed_decides_the_resamples():
    rows = random_judgements(1, 60)
    assert strengths(*rows, seed=0) == strengths(*rows, seed=0) != strengths(*rows, seed=1)


DELTA = [30, -10, 50, 5, -40, 20, 60, -5, 15, -20]
SCORES = [1, 0, 1, 1, 0, 1, 1, 0, 0, 1]


def test_length_controlled_win_rate_of_known_data():
    """Values of an independent logistic regression."""
    x = length_controlled(DELTA, SCORES, range(10))
    assert x.value == pytest.approx(0.527360, abs=1e-6) and x.n == 10
    assert x.low < x.value < x.high


def test_a_tie_is_half_a_win_at_its_length():
    """The logistic regression of y with y = 1/2, by steps up its likelihood."""
    y = np.array([0.5, 0, 0.5, 1, 0, 1, 1, 0, 0, 1])
    z = np.stack([np.ones(10), np.tanh(DELTA / np.std(DELTA, ddof=1))])  # (2, 10)
    b = np.zeros(2)
    for _ in range(3000):
        b += 0.5 * z @ (y - 1 / (1 + np.exp(-b @ z)))
    assert length_controlled(DELTA, y, range(10)).value == pytest.approx(1 / (1 + np.exp(-b[0])), abs=1e-9)


def test_length_that_decides_everything_leaves_a_finite_rate():
    x = length_controlled([5, 9, -4, -7], [1, 1, 0, 0], range(4))
    assert 0.3 < x.value < 0.7 and x.note.startswith("length alone decides, or a model never lost")


def test_ten_wins_in_ten_are_not_known_exactly_at_equal_length():
    """As in `strengths`: resamples of wins alone have no spread. Beside it Wilson's bound for 10 of 10 is 0.72."""
    x = length_controlled(DELTA, [1] * 10, range(10))
    assert x.low < 0.75 and 0.99 < x.high < 1 and "half a prompt" in x.note


def test_the_interval_of_nearly_all_wins_does_not_end_where_added_judgements_put_it():
    """19 of 20: resamples of wins alone, a third, would all say log 41."""
    x = strengths([("a", "b")] * 20, [1] * 19 + [0], range(20))["b - a"]
    assert x.value == pytest.approx(np.log(19)) and x.high > 1.2 * np.log(41)


def test_an_interval_by_the_standard_error_takes_the_place_of_a_tail_that_was_added():
    """17 of 20: of the resamples 4 % have wins alone, more than the tail of 2.5 %. In log-odds both sides are equal."""
    scores = [1] * 17 + [0] * 3
    x = strengths([("a", "b")] * 20, scores, range(20))["b - a"]
    assert x.high - x.value == pytest.approx(x.value - x.low) and not x.note
    rate = length_controlled(DELTA * 2, [1] * 9 + [0] + [1] * 8 + [0, 0], range(20))
    low, value, high = (np.log(p / (1 - p)) for p in (rate.low, rate.value, rate.high))
    assert high - value == pytest.approx(value - low) and not rate.note


@pytest.mark.parametrize("lost", [0, 1])
def test_five_judges_who_agree_are_one_where_nearly_all_was_won(lost):
    """5 x 20 judgements of 20 prompts end where 20 do."""
    scores = [1] * (20 - lost) + [0] * lost
    one, five = (strengths([("a", "b")] * 20 * k, scores * k, [*range(20)] * k)["b - a"] for k in (1, 5))
    assert (five.value, five.low, five.high) == pytest.approx((one.value, one.low, one.high))
    one, five = (length_controlled(DELTA * 2 * k, scores * k, [*range(20)] * k) for k in (1, 5))
    assert (five.value, five.low, five.high) == pytest.approx((one.value, one.low, one.high), abs=0.01)


@pytest.mark.parametrize("delta", [[3, 3, 3], [1]])
def test_without_differences_in_length_there_is_no_control(delta):
    x = length_controlled(delta, [1] * len(delta), range(len(delta)))
    assert np.isnan(x.value) and "differ in length" in x.note


def test_length_control_undoes_a_judge_who_likes_length():
    """Wins are of length alone: near 1/2 at equal length, however often b is longer."""
    rng = np.random.default_rng(0)
    delta = rng.normal(20, 30, 200)
    score = (rng.random(200) < 1 / (1 + np.exp(-2 * np.tanh(delta / 30)))).astype(float)
    x = length_controlled(delta, score, range(200))
    assert score.mean() > 0.6 and x.low < 0.5 < x.high
