"""What people's judgements say: who won, by how much, how far judges can be trusted, and how many prompts it takes.

    win rate       (W + T/2) / N. Each prompt counts once, by the majority of its judgements: five people who judge
                   one prompt are not five prompts. Identical answers, which nobody saw, are ties
    strengths      Bradley-Terry, for any number of models
    power          the least distance of the win rate from 1/2 that can be detected, and how many prompts are needed
    attention      an item with one right answer                    is the judge awake?
    consistency    a pair shown again with its sides swapped        is the judge sure?
    left, longer   share of decided pairs won by that answer        is the judge biased?
    triangle       agreement of people, reward model, gold reward   does the reward measure what people want?

A tie and "both bad" count the same: half a win. A pair shown again checks the judge and is no second judgement.
Annotators below ATTENTION are left out, by a rule fixed before the first judgement. The report has results with
and without them. Proved by tests/annotation/test_results.py.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from math import isnan, nan
from statistics import median

import numpy as np

from minirlhf.annotation.rows import Row, decided, grouped, of_kind
from minirlhf.metrics.agreement import Measure, cohen_kappa, krippendorff_alpha
from minirlhf.metrics.bradley_terry import length_controlled, places, strengths
from minirlhf.metrics.intervals import clustered_se, corpus_interval, standard_error, unseen, wilson
from minirlhf.metrics.paired_tests import minimum_detectable_effect, prompts_needed, win_rate
from minirlhf.metrics.scores import divide

ATTENTION = 0.8  # the rule, fixed before the first judgement: an annotator with a smaller share right is left out
EFFECT = 0.1  # a win rate of 60 % against 50 %: what a study should be able to see
Scores = dict[tuple[str, str], float]  # (prompt, response) -> what a reward gives it


def by_prompt(prompts: Sequence[str], values: Sequence[float]) -> np.ndarray:
    """For each prompt the sum of its values and their number: (P, 2)."""
    _, place = places(prompts)
    return np.stack([np.bincount(place, values), np.bincount(place)], 1)


def mean_by_prompt(prompts: Sequence[str], values: Sequence[float], seed: int) -> Measure:
    """The mean of the values, in [0, 1], with its bootstrap interval over prompts; the bound where all are the same."""
    interval = corpus_interval(by_prompt(prompts, values), lambda s: divide(s[:, 0], s[:, 1]), seed=seed)
    value, n = sum(values) / len(values) if values else nan, len(set(prompts))
    return Measure(value, *(unseen(value, n, 0.0, 1.0) if n > 1 and isnan(interval[0]) else interval), len(values))


def share_by_prompt(prompts: Sequence[str], values: Sequence[bool]) -> Measure:
    """The share of the values that are true, with Wilson's interval for n', the independent values they are worth.

        n' = p (1 − p) / SE²        SE: prompts are clusters.  n' <= n.  If SE is 0, n' is the number of prompts

    n' is n if every prompt occurs once. Source: Kish 1965, design effect.
    """
    if not values:
        return Measure()
    n, p, se = len(values), sum(values) / len(values), clustered_se(values, prompts)
    worth = min(p * (1 - p) / se**2, n) if se > 1e-9 else len(set(prompts))
    return Measure(p, *wilson(p * worth, worth), n)


def left(rows: Sequence[Row]) -> Measure:
    """How often the left answer won. Sides are random, so it is 1/2 unless the judge has a habit."""
    rows = decided(rows)
    return share_by_prompt([row.prompt for row in rows], [row.score == row.left for row in rows])


def longer(rows: Sequence[Row]) -> Measure:
    """How often the answer with more characters won. That is no bias by itself: longer answers may be better."""
    rows = [row for row in decided(rows) if len(row.answers[0]) != len(row.answers[1])]
    won = [row.score == (len(row.answers[1]) > len(row.answers[0])) for row in rows]
    return share_by_prompt([row.prompt for row in rows], won)


def annotator_checks(rows: Sequence[Row]) -> dict:
    """Checks of one annotator.  attention, consistency: [right ones, all]; skipped ones do not count."""
    attention = [row.score == row.good for row in of_kind(rows, "attention")]
    first = {row.item: row.score for row in of_kind(rows, "pair")}
    again = [row.score == first[row.item] for row in of_kind(rows, "duplicate") if row.item in first]
    return {
        "judged": len(rows), "seconds": median(row.seconds for row in rows),
        "attention": [sum(attention), len(attention)], "consistency": [sum(again), len(again)],
        "left": left(rows), "longer": longer(rows), "excluded": sum(attention) < ATTENTION * len(attention),
    }  # fmt: skip


def win_counts(scores: Sequence[float]) -> dict:
    """W, T, L (scores above, at and below 1/2), the win rate with Wilson's interval, and the sign test."""
    signs = np.sign(np.asarray(scores) - 0.5)  # (n,)
    counts = win_rate(*(int((signs == s).sum()) for s in (1, 0, -1)))
    return counts | asdict(Measure(counts["rate"], counts["low"], counts["high"], len(signs)))


def contest(rows: Sequence[Row], identical: dict[str, str], seed: int) -> dict:
    """Everything about model 1 against model 0.  rows: of kind "pair".  identical: item -> prompt, unseen."""
    scores, prompts = [row.score for row in rows], [row.prompt for row in rows]
    of_prompt = by_prompt([*prompts, *identical.values()], [*scores, *[0.5] * len(identical)])  # (P, 2)
    means = of_prompt[:, 0] / of_prompt[:, 1]  # (P,)
    lengths = [len(b) - len(a) for a, b in (row.answers for row in rows)]
    n, sd = len(means), standard_error(means) * len(means) ** 0.5
    effects = {"the rate seen": float(means.mean() - 0.5), "60 %": EFFECT}
    needed = {name: prompts_needed(sd, effect) for name, effect in effects.items()}
    by_annotator = grouped(rows, lambda row: row.annotator)
    return {
        "models": rows[0].models,
        "annotators": {who: win_counts([row.score for row in own]) for who, own in by_annotator.items()},
        "all": win_counts(means),
        "pooled": mean_by_prompt(prompts, scores, seed),
        "length_controlled": length_controlled(lengths, scores, prompts, seed),
        "identical": len(identical),
        "power": {"prompts": n, "minimum_detectable": minimum_detectable_effect(sd, n), "needed": needed},
    }


def preference(scores: Scores, row: Row) -> float:
    """Which answer of a row's pair a reward prefers, on the scale of Row.score."""
    a, b = (scores[row.prompt, answer] for answer in row.answers)
    return 0.5 + 0.5 * float(np.sign(b - a))


def triangle(rows: Sequence[Row], rewards: dict[str, Scores], seed: int) -> dict:
    """Agreement of people and rewards, two at a time: the mean over pairs of 1 − |s − t|. Scores s, t are 1, ½ or 0.

    Krippendorff's alpha subtracts what people would agree on by chance. Two people have Cohen's kappa, too.
    """
    items = grouped(rows, lambda row: row.item).values()
    both = [two for group in items for two in combinations(group, 2)]
    said = {"people - people": [(x.prompt, x.score, y.score) for x, y in both]}
    for name, scores in rewards.items():
        said[f"{name} - people"] = [(row.prompt, preference(scores, row), row.score) for row in rows]
    for one, other in combinations(rewards, 2):
        said[f"{one} - {other}"] = [
            (row.prompt, preference(rewards[one], row), preference(rewards[other], row)) for row, *_ in items
        ]
    found = {
        who: mean_by_prompt([prompt for prompt, _, _ in values], [1 - abs(s - t) for _, s, t in values], seed)
        for who, values in said.items()
    }
    found["Krippendorff's alpha"] = krippendorff_alpha([[row.score for row in group] for group in items], seed)
    if len(people := sorted({row.annotator for row in rows})) == 2:
        by_annotator = [{row.annotator: row.score for row in group} for group in items]
        twice = [tuple(scores[name] for name in people) for scores in by_annotator if len(scores) == 2]
        found["Cohen's kappa"] = cohen_kappa(twice, seed)
    return found


def outcome(rows: Sequence[Row], studies: Sequence[dict], rewards: dict[str, Scores], seed: int) -> dict:
    """All that a set of judgements says."""
    pairs = of_kind(rows, "pair")
    contests = []
    for models, own in grouped(pairs, lambda row: row.models).items():
        unseen: dict[str, str] = {}
        for study in studies:
            unseen |= study["identical"] if set(study["models"]) == set(models) else {}
        contests.append(contest(own, unseen, seed))
    return {
        "contests": contests,
        "strengths": strengths(*zip(*[(row.models, row.score, row.prompt) for row in pairs]), seed),
        "left": left(rows),
        "longer": longer(rows),
        "agreement": {
            "with ties": triangle(pairs, rewards, seed), "without ties": triangle(decided(rows), rewards, seed)
        },
    }  # fmt: skip


def analyse(rows: Sequence[Row], studies: Sequence[dict], rewards: dict[str, Scores], seed: int = 0) -> dict:
    """The report as plain data.  rows, studies: from `read_studies`.  rewards: name -> its score of every answer.

    Returns {"studies", "annotators": `annotator_checks` of each, "everybody": `outcome`}. If the rule leaves somebody
    out, "attentive" is the outcome without them, or None if nobody is left.
    """
    annotators = {name: annotator_checks(own) for name, own in grouped(rows, lambda row: row.annotator).items()}
    report = {"studies": studies, "annotators": annotators, "everybody": outcome(rows, studies, rewards, seed)}
    kept = [row for row in rows if not annotators[row.annotator]["excluded"]]
    if len(kept) < len(rows):
        report["attentive"] = outcome(kept, studies, rewards, seed) if of_kind(kept, "pair") else None
    # As JSON has it: dataclasses are dicts, and numbers that are not finite are None.
    return json.loads(json.dumps(report, default=asdict), parse_constant=lambda name: None)
