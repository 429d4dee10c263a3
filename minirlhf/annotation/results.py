"""What people's judgements say of models: who won, by how much, and what it would take to know better.

    win rate    (W + T/2) / N of b against a, each prompt once, by the majority of its judgements: five people
                who judge one prompt are not five prompts
    strengths   Bradley-Terry: ties by Davidson, ties as half wins, and with the left side's advantage
    power       the win rate's least detectable distance from 1/2, and the prompts that less would need

`analyse` takes the rows of `log.results` and gives plain dicts, None where a number is undefined. A
pair shown again checks the judge (`trust.py`) and is no second judgement. Annotators below ATTENTION are
left out by a rule older than the judgements; results stand with and without them. Of each two models a is
the same everywhere, whatever a study calls it. Proved by tests/annotation/test_results.py.
"""

from collections.abc import Sequence
from itertools import combinations
from math import nan
from statistics import median

import numpy as np

from minirlhf.annotation import trust
from minirlhf.annotation.trust import SCORE, Scores, estimate, of_kind, plain
from minirlhf.metrics.bradley_terry import Judgement, Strengths, length_controlled, strengths
from minirlhf.metrics.paired_tests import minimum_detectable_effect, prompts_needed, win_rate

EFFECT = 0.1  # a win rate of 60 % against 50 %: what a study should be able to see
SIDES = {"a": "b", "b": "a"}


def wins(scores: Sequence[float]) -> dict:
    """W, T, L, the win rate with Wilson's interval and the sign test, of scores above, at and below 1/2."""
    signs = np.sign(np.asarray(scores) - 0.5)  # (n,)
    w = win_rate(*(int((signs == s).sum()) for s in (1, 0, -1)))
    counts = {"wins": w.wins, "ties": w.ties, "losses": w.losses}
    return counts | estimate(w.rate, w.interval, len(signs), p=plain(w.p_value))


def same_way_round(rows: Sequence[dict]) -> list[dict]:
    """The rows, a and b of each two models as in the first row of them."""
    first: dict[frozenset, str] = {}
    turned = []
    for row in rows:
        a, b = row["a"]["model"], row["b"]["model"]
        if first.setdefault(frozenset((a, b)), a) != a:
            names = {key: SIDES.get(row[key], row[key]) for key in ("left", "choice", "good")}
            row = row | {"a": row["b"], "b": row["a"]} | names
        turned.append(row)
    return turned


def by_models(rows: Sequence[dict]) -> list[list[dict]]:
    """The rows of kind pair of each two models."""
    groups: dict[tuple, list[dict]] = {}
    for row in of_kind(rows, "pair"):
        groups.setdefault((row["a"]["model"], row["b"]["model"]), []).append(row)
    return list(groups.values())


def contest(rows: Sequence[dict], seed: int) -> dict:
    """Everything about b against a; `rows` are of kind pair and have the two the same way round."""
    scores = [(row["prompt"], 1 - SCORE[row["choice"]]) for row in rows]
    pooled, means = trust.by_prompt(scores, seed)
    names = dict.fromkeys(row["annotator"] for row in rows)
    each = {name: [1 - SCORE[row["choice"]] for row in rows if row["annotator"] == name] for name in names}
    delta = [len(row["b"]["response"]) - len(row["a"]["response"]) for row in rows]
    _, by_pair = trust.by_prompt([(row["item"], 1 - SCORE[row["choice"]]) for row in rows], seed)
    fair = length_controlled(delta, [s for _, s in scores], [prompt for prompt, _ in scores], seed=seed)
    n, sd, shift = len(means), float(means.std(ddof=1)) if len(means) > 1 else nan, float(means.mean() - 0.5)
    return {
        "model": rows[0]["b"]["model"],
        "against": rows[0]["a"]["model"],
        "annotators": {name: wins(own) for name, own in each.items()},
        "all": wins(means),
        "pooled": pooled,
        "pairs": {"n": len(by_pair), "rate": float(by_pair.mean())},
        "length_controlled": estimate(fair.rate, fair.interval, len(rows), why=fair.undefined),
        "power": {
            "prompts": n,
            "minimum_detectable": plain(minimum_detectable_effect(sd, n)),
            "needed_for_60": plain(prompts_needed(sd, EFFECT)),
            "needed_for_seen": plain(prompts_needed(sd, shift)),
        },
    }  # fmt: skip


def of_strengths(s: Strengths) -> dict:
    """Strengths as plain numbers."""
    differences = [
        {"model": s.models[i], "against": s.models[j], "se": plain(s.standard_error(i, j))}
        | estimate(s.theta[i] - s.theta[j], s.differences[i, j], s.judgements)
        for j, i in combinations(range(len(s.models)), 2)
    ]
    return {
        "theta": {m: estimate(t, x, s.judgements) for m, t, x in zip(s.models, s.theta, s.intervals)},
        "differences": differences,
        "nu": plain(s.nu),
        "side": estimate(s.side, s.side_interval, s.judgements),
        "regularised": s.regularised,
        "regularised_resamples": plain(s.regularised_resamples),
        "why": s.undefined,
    }


def outcome(rows: Sequence[dict], rewards: dict[str, Scores], seed: int) -> dict:
    """All that a set of judgements says."""
    compared = [
        Judgement(row["a"]["model"], row["b"]["model"], SCORE[row["choice"]], row["prompt"], side)
        for row in of_kind(rows, "pair")
        for side in [1 if row["left"] == "a" else -1]
    ]
    models = {"davidson": ("davidson", False), "half": ("half", False), "side": ("davidson", True)}
    ties = {"with ties": True, "without ties": False}
    return {
        "contests": [contest(group, seed) for group in by_models(rows)],
        "strengths": {k: of_strengths(strengths(compared, *how, seed=seed)) for k, how in models.items()},
        "left": trust.left(rows),
        "longer": trust.longer(rows),
        "agreement": {name: trust.annotators(rows, kept, seed) for name, kept in ties.items()},
        "triangle": {name: trust.triangle(rows, rewards, kept, seed) for name, kept in ties.items()},
    }


def analyse(rows: Sequence[dict], rewards: dict[str, Scores], seed: int = 0) -> dict:
    """The report. rewards: name -> its score of every answer in the rows.

    {"annotators": checks of each, "everybody": `outcome`}, and, where the rule leaves somebody out,
    "attentive": the outcome without them, None where nobody is left.
    """
    rows, checks = same_way_round(rows), {}
    for name in dict.fromkeys(row["annotator"] for row in rows):
        own = [row for row in rows if row["annotator"] == name]
        checks[name] = {
            "judged": len(own),
            "seconds": median(row["seconds"] for row in own),
            "attention": trust.attention(own),
            "consistency": trust.consistency(own),
            "left": trust.left(own),
            "longer": trust.longer(own),
            "excluded": not trust.attentive(own),
        }
    report = {"annotators": checks, "everybody": outcome(rows, rewards, seed)}
    kept = [row for row in rows if not checks[row["annotator"]]["excluded"]]
    if len(kept) < len(rows):
        report["attentive"] = outcome(kept, rewards, seed) if of_kind(kept, "pair") else None
    return report
