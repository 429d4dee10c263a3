"""What people's judgements say: who won, by how much, how far the judges can be trusted, and what it takes to know.

    win rate       (W + T/2) / N, each prompt once, by the majority of its judgements: five people who judge
                   one prompt are not five prompts; identical answers, which nobody saw, are ties
    strengths      Bradley-Terry, of any number of models
    power          the win rate's least detectable distance from 1/2, and the prompts that less would need
    attention      an item with one right answer                    awake?
    consistency    a pair shown again with its sides swapped        sure?
    left, longer   share of decided pairs won by that answer        biased?
    triangle       agreement of people, reward model, gold reward   does the reward measure what people want?

A tie and "both bad" are one answer, half a win. A pair shown again checks the judge and is no second judgement.
Annotators below ATTENTION are left out by a rule older than the judgements; results stand with and without
them. Proved by tests/annotation/test_results.py.
"""

from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from itertools import combinations
from math import isfinite, isnan, nan
from statistics import median

import numpy as np

from minirlhf.annotation.rows import Row, decided, grouped, of_kind
from minirlhf.metrics.agreement import Measure, cohen_kappa, krippendorff_alpha
from minirlhf.metrics.bradley_terry import length_controlled, places, strengths
from minirlhf.metrics.intervals import clustered_se, corpus_interval, standard_error, unseen, wilson
from minirlhf.metrics.paired_tests import minimum_detectable_effect, prompts_needed, win_rate
from minirlhf.metrics.scores import divide

ATTENTION = 0.8  # the rule, there before the first judgement: who passes fewer of the checks is left out
EFFECT = 0.1  # a win rate of 60 % against 50 %: what a study should be able to see
Scores = dict[tuple[str, str], float]  # (prompt, response) -> what a reward gives it


def json_ready(x):
    """The report as JSON has it: no dataclass, and None for what is not finite."""
    if is_dataclass(x):
        x = asdict(x)
    if isinstance(x, dict):
        return {key: json_ready(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [json_ready(value) for value in x]
    return None if isinstance(x, float) and not isfinite(x) else x


def by_prompt(prompts: Sequence[str], values: Sequence[float]) -> np.ndarray:
    """The sum of each prompt's values, and their number: (P, 2)."""
    _, place = places(prompts)
    return np.stack([np.bincount(place, values), np.bincount(place)], 1)


def mean_by_prompt(prompts: Sequence[str], values: Sequence[float], seed: int) -> Measure:
    """The mean of the values, in [0, 1], with its bootstrap interval over prompts; the bound where all are the same."""
    interval = corpus_interval(by_prompt(prompts, values), lambda s: divide(s[:, 0], s[:, 1]), seed=seed)
    value, n = sum(values) / len(values) if values else nan, len(set(prompts))
    return Measure(value, *(unseen(value, n, 0.0, 1.0) if n > 1 and isnan(interval[0]) else interval), len(values))


def share_by_prompt(prompts: Sequence[str], values: Sequence[bool]) -> Measure:
    """How many of the values are true, with Wilson's interval for as many as they are worth.

        n' = p (1 − p) / SE²        SE of prompts as clusters; at most n; where SE is 0, the prompts

    n' is n where every prompt stands there once. Source: Kish 1965, design effect.
    """
    if not values:
        return Measure(nan, nan, nan, 0)
    n, p, se = len(values), sum(values) / len(values), clustered_se(values, prompts)
    worth = min(p * (1 - p) / se**2, n) if se > 1e-9 else len(set(prompts))
    return Measure(p, *wilson(p * worth, worth), n)


def left(rows: Sequence[Row]) -> Measure:
    """How often the left answer won: 1/2 but for the judge's habit, as sides are drawn."""
    rows = decided(rows)
    return share_by_prompt([row.prompt for row in rows], [row.score == row.left for row in rows])


def longer(rows: Sequence[Row]) -> Measure:
    """How often the answer of more characters won. Not a bias by itself: longer ones may be better."""
    rows = [row for row in decided(rows) if len(row.answers[0]) != len(row.answers[1])]
    won = [row.score == (len(row.answers[1]) > len(row.answers[0])) for row in rows]
    return share_by_prompt([row.prompt for row in rows], won)


def annotator_checks(rows: Sequence[Row]) -> dict:
    """One annotator.  attention, consistency: how many were right, and of how many; skipped ones do not count."""
    attention = [row.score == row.good for row in of_kind(rows, "attention")]
    first = {row.item: row.score for row in of_kind(rows, "pair")}
    again = [row.score == first[row.item] for row in of_kind(rows, "duplicate") if row.item in first]
    return {
        "judged": len(rows), "seconds": median(row.seconds for row in rows),
        "attention": [sum(attention), len(attention)], "consistency": [sum(again), len(again)],
        "left": left(rows), "longer": longer(rows), "excluded": sum(attention) < ATTENTION * len(attention),
    }  # fmt: skip


def win_counts(scores: Sequence[float]) -> dict:
    """W, T, L, the win rate with Wilson's interval and the sign test, of scores above, at and below 1/2."""
    signs = np.sign(np.asarray(scores) - 0.5)  # (n,)
    counts = win_rate(*(int((signs == s).sum()) for s in (1, 0, -1)))
    return counts | asdict(Measure(counts["rate"], counts["low"], counts["high"], len(signs)))


def contest(rows: Sequence[Row], identical: int, seed: int) -> dict:
    """Everything about model 1 against model 0.  rows: of kind pair.  identical: how many pairs nobody saw."""
    scores, prompts = [row.score for row in rows], [row.prompt for row in rows]
    of_prompt = by_prompt(prompts, scores)  # (P, 2)
    means = np.append(of_prompt[:, 0] / of_prompt[:, 1], [0.5] * identical)  # (P + identical,)
    sd = standard_error(means) * len(means) ** 0.5
    return {
        "models": rows[0].models,
        "annotators": {
            who: win_counts([row.score for row in own]) for who, own in grouped(rows, lambda row: row.annotator).items()
        },
        "all": win_counts(means),
        "pooled": mean_by_prompt(prompts, scores, seed),
        "length_controlled": length_controlled(
            [len(row.answers[1]) - len(row.answers[0]) for row in rows], scores, prompts, seed
        ),
        "identical": identical,
        "power": {
            "prompts": len(means),
            "minimum_detectable": minimum_detectable_effect(sd, len(means)),
            "needed": {
                "the rate seen": prompts_needed(sd, float(means.mean() - 0.5)), "60 %": prompts_needed(sd, EFFECT)
            },
        },
    }  # fmt: skip


def preference(scores: Scores, row: Row) -> float:
    """What a reward says of a row's pair, as a row's score."""
    a, b = (scores[row.prompt, answer] for answer in row.answers)
    return 0.5 + 0.5 * float(np.sign(b - a))


def triangle(rows: Sequence[Row], rewards: dict[str, Scores], seed: int) -> dict:
    """Agreement on pairs of each two among people and rewards: the mean of 1 − |s − t|, s and t being 1, ½ or 0.

    And Krippendorff's alpha, which takes off what people would agree on by chance; of two people Cohen's kappa, too.
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
        unseen = [study["identical"] for study in studies if set(study["models"]) == set(models)]
        contests.append(contest(own, len(set().union(*unseen)), seed))
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
    """The report, plain.  rows, studies: of `read_studies`.  rewards: name -> its score of every answer in the rows.

    {"studies", "annotators": `annotator_checks` of each, "everybody": `outcome`}, and, where the rule leaves somebody
    out, "attentive": the outcome without them, None where nobody is left.
    """
    annotators = {name: annotator_checks(own) for name, own in grouped(rows, lambda row: row.annotator).items()}
    report = {"studies": studies, "annotators": annotators, "everybody": outcome(rows, studies, rewards, seed)}
    kept = [row for row in rows if not annotators[row.annotator]["excluded"]]
    if len(kept) < len(rows):
        report["attentive"] = outcome(kept, studies, rewards, seed) if of_kind(kept, "pair") else None
    return json_ready(report)
