"""Strengths: published values, closed forms, the gradient at the maximum, invariances, what is undefined."""

from math import exp, log

import numpy as np
import pytest

from minirlhf.metrics.bradley_terry import PSEUDO, Judgement, length_controlled, strengths


def judged(*table: tuple, side: int = 0) -> list[Judgement]:
    """Judgements of (a, b, wins, ties, losses), each of a prompt of its own."""
    rows = [
        (a, b, score)
        for a, b, *counts in table
        for score, n in zip((1, 0.5, 0), counts)
        for _ in range(n)
    ]
    return [Judgement(a, b, score, prompt, side) for prompt, (a, b, score) in enumerate(rows)]


def random_judgements(seed: int, n: int = 200, left: float = 0.4) -> list[Judgement]:
    """Of three models with ties, where the left side is worth `left`."""
    rng = np.random.default_rng(seed)
    theta, rows = {"x": 0.0, "y": 0.5, "z": 1.0}, []
    for prompt in range(n):
        a, b = rng.permutation(list(theta))[:2]
        side = int(rng.choice([-1, 1]))
        d = theta[a] - theta[b] + left * side
        p = np.array([exp(d / 2), 0.6, exp(-d / 2)])
        rows.append(Judgement(a, b, float(rng.choice([1, 0.5, 0], p=p / p.sum())), prompt, side))
    return rows


CYCLE = [("A", "B", 2, 0, 3), ("A", "D", 1, 0, 4), ("B", "C", 5, 0, 3), ("C", "D", 1, 0, 3)]
THREE = [("base", "sft", 10, 10, 30), ("base", "rl", 8, 6, 36), ("sft", "rl", 15, 10, 25)]


def test_strengths_of_the_published_example():
    """The example of Wikipedia's article on the model, and of arena-rank's own test."""
    s = strengths(judged(*CYCLE))
    place = {name: i for i, name in enumerate(s.models)}
    theta = [s.theta[place[name]] for name in "ABCD"]
    assert theta == pytest.approx([-0.44654524, 0.04240257, -0.41580307, 0.81994573], abs=1e-8)
    assert np.exp(theta) == pytest.approx([0.63983482, 1.04331440, 0.65981020, 2.27037663], abs=1e-8)
    assert s.errors[place["D"], place["A"]] == pytest.approx(0.9077109657, abs=1e-9)
    assert s.theta.sum() == pytest.approx(0, abs=1e-12) and not s.regularised


@pytest.mark.parametrize(
    "ties, theta, nu, se",
    [
        # d = log(W / L), ν = T / √(W L); Var d = 1/W + 1/L
        ("davidson", log(30 / 20), 10 / (30 * 20) ** 0.5, (1 / 30 + 1 / 20) ** 0.5),
        # d = log((W + T/2) / (L + T/2))
        ("half", log(35 / 25), 0.0, (1 / 35 + 1 / 25) ** 0.5),
    ],
)
def test_two_models_have_a_closed_form(ties, theta, nu, se):
    s = strengths(judged(("A", "B", 30, 10, 20)), ties)
    assert s.theta[0] - s.theta[1] == pytest.approx(theta, abs=1e-9)
    assert s.nu == pytest.approx(nu, abs=1e-9) and s.errors[0, 1] == pytest.approx(se, abs=1e-9)


@pytest.mark.parametrize(
    "ties, sft, rl, nu", [("half", 0.8514662, 1.2605768, 0.0), ("davidson", 1.068401, 1.581122, 0.486075)]
)
def test_three_models_with_ties(ties, sft, rl, nu):
    """Values of an independent optimiser."""
    s = strengths(judged(*THREE), ties)
    assert s.models == ("base", "sft", "rl")
    assert s.theta - s.theta[0] == pytest.approx([0, sft, rl], abs=1e-6)
    assert s.nu == pytest.approx(nu, abs=1e-6)


def test_ties_as_half_wins_pull_strengths_together():
    half, davidson = (strengths(judged(*THREE), ties).theta for ties in ("half", "davidson"))
    assert (np.abs(np.subtract.outer(half, half)) <= np.abs(np.subtract.outer(davidson, davidson))).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_maximum_is_where_expected_counts_are_those_seen(seed):
    """The score equations of an exponential family, by a loop over the judgements."""
    rows = random_judgements(seed)
    s = strengths(rows, side=True, n_resamples=2)
    strength = dict(zip(s.models, s.theta))
    excess = dict.fromkeys([*s.models, "ties", "left"], 0.0)
    for x in rows:
        d = strength[x.a] - strength[x.b] + s.side * x.side
        p = np.array([exp(d / 2), s.nu, exp(-d / 2)])
        p /= p.sum()
        won = x.score - (p[0] + p[1] / 2)
        excess[x.a] += won
        excess[x.b] -= won
        excess["left"] += won * x.side
        excess["ties"] += (x.score == 0.5) - p[1]
    assert list(excess.values()) == pytest.approx([0] * 5, abs=1e-7)


def test_the_side_takes_what_belongs_to_it():
    """A judge who always prefers the left finds two models equal, if each stood there as often."""
    rows = [Judgement("x", "y", (side == 1) != (k == 0), k, side) for k in range(20) for side in (1, -1)]
    s = strengths(rows, side=True)
    assert s.theta[0] == pytest.approx(0, abs=1e-9) and s.side == pytest.approx(log(38 / 2), abs=1e-9)
    assert s.side_interval[0] > 1
    assert strengths(rows, side=False).side == 0


def test_it_does_not_matter_which_model_is_named_first():
    rows = random_judgements(0)
    turned = [Judgement(x.b, x.a, 1 - x.score, x.prompt, -x.side) for x in rows]
    s, t = (strengths(r, side=True) for r in (rows, turned))
    order = [t.models.index(name) for name in s.models]
    assert t.theta[order] == pytest.approx(s.theta, abs=1e-9) and t.side == pytest.approx(s.side, abs=1e-9)
    assert t.differences[np.ix_(order, order)] == pytest.approx(s.differences, abs=1e-7)


def test_an_undefeated_model_stays_finite_and_is_flagged():
    """Half a win and half a loss are added: log(10.5 / 0.5), with the error of these counts."""
    s = strengths(judged(("A", "B", 10, 0, 0)))
    d, se = log((10 + PSEUDO) / PSEUDO), (1 / (10 + PSEUDO) + 1 / PSEUDO) ** 0.5
    assert s.regularised and s.theta[0] - s.theta[1] == pytest.approx(d, abs=1e-9)
    assert s.differences[0, 1] == pytest.approx([d - 1.959964 * se, d + 1.959964 * se], abs=1e-5)


def test_what_is_added_does_not_hang_on_the_sides_seen():
    rows = [x._replace(side=1 if x.prompt % 2 else -1) for x in judged(("A", "B", 10, 0, 0))]
    assert strengths(rows).theta == pytest.approx(strengths(judged(("A", "B", 10, 0, 0))).theta, abs=1e-9)


def test_nothing_is_added_where_the_data_suffice():
    s = strengths(judged(("A", "B", 1000, 0, 1)))
    assert not s.regularised and s.theta[0] - s.theta[1] == pytest.approx(log(1000), abs=1e-9)


@pytest.mark.parametrize("lost", [0, 2])
def test_models_that_nothing_joins_are_not_ranked(lost):
    s = strengths(judged(("A", "B", 3, 0, lost), ("C", "D", 1, 2, 2)))
    assert np.isnan(s.theta).all() and np.isnan(s.differences).all()
    assert s.undefined == "no chain of comparisons joins all of A, B, C, D"


def test_sides_that_never_changed_are_said():
    s = strengths(judged(("A", "B", 3, 1, 2), side=1), side=True)
    assert np.isnan(s.theta).all() and "never swapped" in s.undefined
    assert not strengths(judged(("A", "B", 3, 1, 2), side=1)).undefined


def test_no_judgements_and_one_prompt_have_no_interval():
    assert strengths([]).undefined == "no judgements"
    s = strengths([x._replace(prompt="one") for x in judged(*THREE)])
    assert np.isfinite(s.theta).all() and np.isnan(s.differences).all()


def test_the_interval_of_a_difference_agrees_with_the_information():
    """For independent prompts, about ± 1.96 standard errors."""
    s = strengths(random_judgements(4, 600, 0.0), n_resamples=1000)
    for i, j in ((0, 1), (1, 2), (0, 2)):
        width = s.differences[i, j, 1] - s.differences[i, j, 0]
        assert width == pytest.approx(2 * 1.96 * s.errors[i, j], rel=0.12)
    assert s.differences[0, 1] == pytest.approx(-s.differences[1, 0][::-1])


def test_prompts_are_resampled_whole():
    """Ten judgements of each prompt that all agree are worth one: the interval is as wide."""
    once = judged(("A", "B", 12, 4, 8))
    many = [x for x in once for _ in range(10)]
    one, ten = (strengths(rows).differences[0, 1] for rows in (once, many))
    assert ten == pytest.approx(one, abs=0.02)


def test_a_seed_decides_the_resamples():
    rows = random_judgements(1, 60)
    a, b, c = (strengths(rows, seed=seed).differences for seed in (0, 0, 1))
    assert (a == b).all() and (a != c).any()


@pytest.mark.parametrize("bad", [Judgement("A", "A", 1, 0), Judgement("A", "B", 0.7, 0)])
def test_a_judgement_that_is_none_is_refused(bad):
    with pytest.raises(ValueError, match="two models with a score of 1, 0.5 or 0"):
        strengths([bad])


DELTA = [30, -10, 50, 5, -40, 20, 60, -5, 15, -20]
SCORES = [1, 0, 1, 1, 0, 1, 1, 0, 0, 1]


def test_length_controlled_win_rate_of_known_data():
    """Values of an independent logistic regression."""
    x = length_controlled(DELTA, SCORES, range(10))
    assert x.value == pytest.approx(0.527360, abs=1e-6) and x.n == 10
    assert x.interval[0] < x.value < x.interval[1]


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
    assert 0.3 < x.value < 0.7


@pytest.mark.parametrize("delta, why", [([3, 3, 3], "as much"), ([1], "fewer than 2")])
def test_without_differences_in_length_there_is_no_control(delta, why):
    x = length_controlled(delta, [1] * len(delta), range(len(delta)))
    assert np.isnan(x.value) and why in x.undefined


def test_length_control_undoes_a_judge_who_likes_length():
    """Wins are of length alone: near 1/2 at equal length, however often b is longer."""
    rng = np.random.default_rng(0)
    delta = rng.normal(20, 30, 200)
    score = (rng.random(200) < 1 / (1 + np.exp(-2 * np.tanh(delta / 30)))).astype(float)
    x = length_controlled(delta, score, range(200))
    assert score.mean() > 0.6 and x.interval[0] < 0.5 < x.interval[1]
