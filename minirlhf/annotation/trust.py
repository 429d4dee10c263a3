"""How far judges can be trusted, people and rewards alike: checks of one judge, and agreement of several.

    attention      an item with one right answer                    awake?
    consistency    a pair shown again with its sides swapped        sure?
    left, longer   share of decided pairs won by that answer        biased?
    agreement      of annotators, with chance taken off             is there a thing to agree on?
    triangle       of people, reward model and gold reward          does the reward measure what people want?

Rows are those of `results.results`, numbers plain dicts with None where undefined. A tie and "both bad"
are one answer, half a win. Proved by tests/annotation/test_trust.py.
"""

from collections.abc import Callable, Hashable, Sequence
from itertools import combinations
from math import isfinite, nan
from operator import itemgetter

import numpy as np

from minirlhf.metrics.agreement import Measure, cohen_kappa, krippendorff_alpha, quotient, raw_agreement
from minirlhf.metrics.intervals import clustered_se, corpus_interval, wilson

ATTENTION = 0.8  # the rule, there before the first judgement: who passes fewer of the checks is left out
SCORE = {"a": 1.0, "b": 0.0, "tie": 0.5, "bad": 0.5}
Scores = dict[tuple[str, str], float]  # (prompt, response) -> what a reward gives it


def grouped(rows: Sequence[dict], key: Callable[[dict], Hashable]) -> dict[Hashable, list[dict]]:
    """The rows of each key, in their order."""
    groups: dict[Hashable, list[dict]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def of_kind(rows: Sequence[dict], kind: str) -> list[dict]:
    """The rows that are pairs, duplicates or attention items."""
    return [row for row in rows if row["kind"] == kind]


def decided(rows: Sequence[dict]) -> list[dict]:
    """The pairs of which one answer was preferred."""
    return [row for row in of_kind(rows, "pair") if row["choice"] in "ab"]


def plain(x: float) -> float | None:
    """The number, or None where it is not finite: JSON has no nan."""
    return float(x) if isfinite(x) else None


def estimate(value: float, interval: Sequence[float], n: int, **more) -> dict:
    """A number with its interval."""
    return {"value": plain(value), "low": plain(interval[0]), "high": plain(interval[1]), "n": n} | more


def measured(m: Measure) -> dict:
    """A measure as plain numbers."""
    return estimate(m.value, m.interval, m.n, why=m.undefined)


def share(k: int, n: int) -> dict:
    """k of n with Wilson's interval."""
    return estimate(k / n if n else nan, wilson(k, n), n, k=k)


def share_by_prompt(values: Sequence[tuple[str, bool]]) -> dict:
    """How many of (prompt, whether) are true, with Wilson's interval for as many as they are worth.

        n' = p (1 − p) / SE²        SE of prompts as clusters; at most n; where SE is 0, the prompts

    n' is n where every prompt stands there once: then it is `share`. Source: Kish 1965, design effect.
    """
    prompts, x = [prompt for prompt, _ in values], [float(value) for _, value in values]
    n, k = len(x), int(sum(x))
    p, se = (k / n, clustered_se(x, prompts)) if n else (nan, nan)
    worth = min(p * (1 - p) / se**2, n) if se > 1e-9 else len(set(prompts))
    return estimate(p, wilson(p * worth, worth) if n else (nan, nan), n, k=k, prompts=len(set(prompts)))


def sums(values: Sequence[tuple[str, float]]) -> np.ndarray:
    """Of (name, value), the sum of each name's values and their number: (names, 2)."""
    place = {name: i for i, name in enumerate(dict.fromkeys(name for name, _ in values))}
    table = np.zeros((len(place), 2))  # (P, 2)
    for name, value in values:
        table[place[name]] += value, 1
    return table


def mean_by_prompt(values: Sequence[tuple[str, float]], seed: int) -> dict:
    """The mean of (prompt, value), with its bootstrap interval over prompts."""
    table = sums(values)  # (P, 2)
    interval = corpus_interval(table, lambda s: quotient(s[:, 0], s[:, 1]), seed=seed)
    mean = sum(value for _, value in values) / len(values) if values else nan
    return estimate(mean, interval, len(values), prompts=len(table))


def attention(rows: Sequence[dict]) -> dict:
    """How many attention items were answered right."""
    checks = of_kind(rows, "attention")
    return share(sum(row["choice"] == row["good"] for row in checks), len(checks))


def attentive(rows: Sequence[dict]) -> bool:
    """Whether an annotator's judgements count; who saw no attention item has failed none."""
    value = attention(rows)["value"]
    return value is None or value >= ATTENTION


def consistency(rows: Sequence[dict]) -> dict:
    """How many pairs shown again, with sides swapped, got the same answer.  rows: of one annotator."""
    first = {row["item"]: SCORE[row["choice"]] for row in of_kind(rows, "pair")}
    again = [row for row in of_kind(rows, "duplicate") if row["item"] in first]  # else it was skipped at first
    return share(sum(SCORE[row["choice"]] == first[row["item"]] for row in again), len(again))


def left(rows: Sequence[dict]) -> dict:
    """How often the left answer won: 1/2 but for the judge's habit, as sides are drawn."""
    return share_by_prompt([(row["prompt"], row["choice"] == row["left"]) for row in decided(rows)])


def longer(rows: Sequence[dict]) -> dict:
    """How often the answer of more characters won. Not a bias by itself: longer ones may be better."""
    sizes = [(row, len(row["a"]["response"]) - len(row["b"]["response"])) for row in decided(rows)]
    return share_by_prompt([(x["prompt"], (x["choice"] == "a") == (d > 0)) for x, d in sizes if d])


def annotators(rows: Sequence[dict], seed: int) -> dict:
    """Agreement on those of the pairs that several judged."""
    names = dict.fromkeys(row["annotator"] for row in rows)
    groups = grouped(rows, itemgetter("item")).values()
    labels = [{row["annotator"]: SCORE[row["choice"]] for row in group} for group in groups]
    items = [[of_item.get(name) for name in names] for of_item in labels]
    measures = {
        "raw": raw_agreement(items, seed),
        "alpha": krippendorff_alpha(items, seed=seed),
        "alpha, interval": krippendorff_alpha(items, "interval", seed),
    }
    if len(names) == 2:
        measures["Cohen's kappa"] = cohen_kappa(items, seed)
    return {name: measured(m) for name, m in measures.items()}


def preference(scores: Scores, row: dict) -> float:
    """What a reward says of a row's pair: 1 where a's answer gets more, 0 where b's does, 0.5 for as much."""
    a, b = (scores[row["prompt"], row[k]["response"]] for k in "ab")
    return 0.5 + 0.5 * float(np.sign(a - b))


def triangle(rows: Sequence[dict], rewards: dict[str, Scores], seed: int) -> dict:
    """Agreement on pairs of each two among people and rewards: the mean of 1 − |s − t|, s and t being 1, ½ or 0."""
    pairs = grouped(rows, itemgetter("item")).values()
    both = [two for group in pairs for two in combinations(group, 2)]
    found = {"people - people": [(x["prompt"], SCORE[x["choice"]], SCORE[y["choice"]]) for x, y in both]}
    for name, scores in rewards.items():
        said = [(row["prompt"], preference(scores, row), SCORE[row["choice"]]) for row in rows]
        found[f"{name} - people"] = said
    for one, other in combinations(rewards, 2):
        found[f"{one} - {other}"] = [
            (row["prompt"], preference(rewards[one], row), preference(rewards[other], row)) for row, *_ in pairs
        ]
    agreed = {who: [(prompt, 1 - abs(s - t)) for prompt, s, t in values] for who, values in found.items()}
    return {who: mean_by_prompt(values, seed) for who, values in agreed.items()}


def ceiling(people: dict) -> dict:
    """How often the truth agrees with people, from how often they agree with each other.

        q = a² + (1 − a)²        a = (1 + √(2q − 1)) / 2

    if they err alike and independently; a reward that agrees with them more often has seen these judgements.
    None for q < 1/2.  people: an `estimate` of q.
    """
    best = {k: people[k] and (1 + max(2 * people[k] - 1, 0.0) ** 0.5) / 2 for k in ("value", "low", "high")}
    return (best if (people["value"] or 0) >= 0.5 else dict.fromkeys(best)) | {"n": people["n"]}
