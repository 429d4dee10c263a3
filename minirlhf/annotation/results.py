"""What people's judgements say of models: who won, by how much, and what it would take to know better.

    win rate    (W + T/2) / N of b against a, each prompt once, by the majority of its judgements: five people
                who judge one prompt are not five prompts
    strengths   Bradley-Terry: ties by Davidson, ties as half wins, and with the left side's advantage
    power       the win rate's least detectable distance from 1/2, and the prompts that less would need

`read_studies` opens closed studies, and `analyse` gives plain dicts, None where a number is undefined. A
pair shown again checks the judge (`trust.py`) and is no second judgement. Annotators below ATTENTION are
left out by a rule older than the judgements; results stand with and without them. Of each two models a is
the same everywhere, whatever a study calls it. Proved by tests/annotation/test_results.py.
"""

from collections.abc import Sequence
from itertools import combinations
from math import nan
from operator import itemgetter
from pathlib import Path
from statistics import median

import numpy as np

from minirlhf.annotation import trust
from minirlhf.annotation.log import read_key, read_logs, read_study
from minirlhf.annotation.trust import SCORE, Scores, decided, estimate, grouped, measured, of_kind, plain
from minirlhf.harness.files import UserError
from minirlhf.metrics.bradley_terry import Judgement, Strengths, length_controlled, strengths
from minirlhf.metrics.paired_tests import minimum_detectable_effect, prompts_needed, win_rate

EFFECT = 0.1  # a win rate of 60 % against 50 %: what a study should be able to see
SIDES = {"a": "b", "b": "a"}


def results(folder: str | Path) -> tuple[list[dict], dict]:
    """The judgements of a study that hold, skipped places left out; and its key. UserError before close.

    Each is {"item", "prompt", perhaps "messages", "annotator", "kind": "pair", "duplicate" or "attention",
    "a" and "b": {"model", "response"}, "left": which of them stood there, "choice": "a", "b", "tie" or "bad",
    "seconds", "good": the right answer to an attention item, else None, "study": its hash}. a and b are the
    study's models, whatever their side. A duplicate has the item id of its original.
    """
    folder = Path(folder)
    key, (study, name) = read_key(folder), read_study(folder)
    model, rows = dict(zip("ab", key["models"])), []
    for annotator, events in read_logs(folder).items():
        for event, shown, secret in zip(events, study["places"], key["places"]):
            if event["do"] == "skip":
                continue
            on = {"left": secret["left"], "right": SIDES[secret["left"]]}
            asked = {k: shown[k] for k in ("prompt", "messages") if k in shown}
            row = asked | {"study": name, "annotator": annotator, "seconds": event["seconds"]} | secret
            row |= {name: {"model": model[name], "response": shown[side]} for side, name in on.items()}
            rows.append(row | {"choice": on.get(event["do"], event["do"])})
    return rows, key


def read_studies(folders: Sequence[str]) -> tuple[list[dict], list[dict]]:
    """The rows of all studies, the same way round, and what else is known of each study. Raises UserError."""
    rows, studies, seen = [], [], {}
    for folder in folders:
        own, key = results(folder)
        if key["study"] in seen:
            raise UserError(f"{folder}: the same study as {seen[key['study']]}")
        seen[key["study"]] = folder
        rows += own
        about = {"folder": str(folder), "models": key["models"], "source": key.get("source", "")}
        studies.append(about | {"identical": key["identical"]})  # pairs that nobody saw; another study may hold them
    if not of_kind(rows, "pair"):
        raise UserError(f"{', '.join(folders)}: no pair was judged")
    return same_way_round(rows), studies


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


def wins(scores: Sequence[float]) -> dict:
    """W, T, L, the win rate with Wilson's interval and the sign test, of scores above, at and below 1/2."""
    signs = np.sign(np.asarray(scores) - 0.5)  # (n,)
    w = win_rate(*(int((signs == s).sum()) for s in (1, 0, -1)))
    counts = {"wins": w.wins, "ties": w.ties, "losses": w.losses}
    return counts | estimate(w.rate, w.interval, len(signs), p=plain(w.p_value))


def contest(rows: Sequence[dict], seed: int) -> dict:
    """Everything about b against a; `rows` are of kind pair and have the two the same way round."""
    scores = [1 - SCORE[row["choice"]] for row in rows]
    prompts = [row["prompt"] for row in rows]
    of_prompt, of_pair = (trust.sums([(row[key], s) for row, s in zip(rows, scores)]) for key in ("prompt", "item"))
    means, pairs = of_prompt[:, 0] / of_prompt[:, 1], of_pair[:, 0] / of_pair[:, 1]  # (prompts,), (pairs,)
    each = grouped(rows, itemgetter("annotator"))
    delta = [len(row["b"]["response"]) - len(row["a"]["response"]) for row in rows]
    n, sd, shift = len(means), float(means.std(ddof=1)) if len(means) > 1 else nan, float(means.mean() - 0.5)
    return {
        "model": rows[0]["b"]["model"],
        "against": rows[0]["a"]["model"],
        "annotators": {name: wins([1 - SCORE[row["choice"]] for row in own]) for name, own in each.items()},
        "all": wins(means),
        "pooled": trust.mean_by_prompt(list(zip(prompts, scores)), seed),
        "pairs": {"n": len(pairs), "rate": float(pairs.mean())},
        "length_controlled": measured(length_controlled(delta, scores, prompts, seed=seed)),
        "power": {
            "prompts": n,
            "minimum_detectable": plain(minimum_detectable_effect(sd, n)),
            "needed_for_60": plain(prompts_needed(sd, EFFECT)),
            "needed_for_seen": plain(prompts_needed(sd, shift)),
        },
    }  # fmt: skip


def differences(s: Strengths) -> dict:
    """How much stronger one model is than another, for each two."""
    return {
        f"{s.models[i]} - {s.models[j]}": estimate(s.theta[i] - s.theta[j], s.differences[i, j], s.judgements)
        for j, i in combinations(range(len(s.models)), 2)
    }


def outcome(rows: Sequence[dict], rewards: dict[str, Scores], seed: int) -> dict:
    """All that a set of judgements says."""
    pairs = of_kind(rows, "pair")
    compared = [
        Judgement(row["a"]["model"], row["b"]["model"], SCORE[row["choice"]], row["prompt"], side)
        for row in pairs
        for side in [1 if row["left"] == "a" else -1]
    ]
    contests = grouped(pairs, lambda row: (row["a"]["model"], row["b"]["model"]))
    laws = {"Davidson's ties": ("davidson", False), "ties half": ("half", False), "with the side": ("davidson", True)}
    fits = {law: strengths(compared, *how, seed=seed) for law, how in laws.items()}
    sided = fits["with the side"]
    kept = {"with ties": pairs, "without ties": decided(rows)}
    triangle = {name: trust.triangle(some, rewards, seed) for name, some in kept.items()}
    triangle["without ties"]["truth - people"] = trust.ceiling(triangle["without ties"]["people - people"])
    return {
        "contests": [contest(group, seed) for group in contests.values()],
        "strengths": {law: differences(fit) for law, fit in fits.items()},
        "side": estimate(sided.side, sided.side_interval, sided.judgements),
        "undetermined": list(dict.fromkeys(fit.undefined for fit in fits.values() if fit.undefined)),
        "regularised": any(fit.regularised for fit in fits.values()),
        "left": trust.left(rows),
        "longer": trust.longer(rows),
        "agreement": {name: trust.annotators(some, seed) for name, some in kept.items()},
        "triangle": triangle,
    }


def analyse(rows: Sequence[dict], rewards: dict[str, Scores], seed: int = 0) -> dict:
    """The report.  rows: as `read_studies` gives them.  rewards: name -> its score of every answer in the rows.

    {"annotators": checks of each, "everybody": `outcome`}, and, where the rule leaves somebody out,
    "attentive": the outcome without them, None where nobody is left.
    """
    checks = {
        name: {
            "judged": len(own),
            "seconds": median(row["seconds"] for row in own),
            "attention": trust.attention(own),
            "consistency": trust.consistency(own),
            "left": trust.left(own),
            "longer": trust.longer(own),
            "excluded": not trust.attentive(own),
        }
        for name, own in grouped(rows, itemgetter("annotator")).items()
    }
    report = {"annotators": checks, "everybody": outcome(rows, rewards, seed)}
    kept = [row for row in rows if not checks[row["annotator"]]["excluded"]]
    if len(kept) < len(rows):
        report["attentive"] = outcome(kept, rewards, seed) if of_kind(kept, "pair") else None
    return report
