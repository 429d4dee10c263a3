"""Openings of film reviews that a chat model is to end, so that a learnt reward finds them positive.

Two classifiers learn from different reviews: one is the reward, and the other, gold, tells whether it is true.
Proved by tests/real/test_openings.py.
"""

from pathlib import Path

import numpy as np

from minirlhf.evaluation.items import read_sets
from minirlhf.experiments.goodhart import Proxy, best_of_points, law_figure, law_tables, order, policy_points
from minirlhf.harness.files import UserError, write_atomic
from minirlhf.real.reviews import split

ASK = "Finish this sentence of a film review in a few words: {}"
WORDS = 6  # of a review, which are its opening
LEARNT, JUDGED, PROMPTS, TEST = 2000, 500, 900, 100  # reviews of each classifier, and to measure it; openings


def record_of(text: str, label: str) -> dict | None:
    """An opening and the whole review; None for one that has little more."""
    words = text.split()
    opening = " ".join(words[:WORDS])
    return {"prompt": ASK.format(opening), "response": text, "label": label} if len(words) >= 2 * WORDS else None


def files(path: str) -> dict[str, list[dict]]:
    """Reviews of both classifiers, each with those that measure it; openings to learn from and to test on."""
    learnt, held_out = split(path, record_of)
    if len(learnt) < 2 * LEARNT + PROMPTS or len(held_out) < JUDGED + TEST:
        raise UserError(f"{path}: {len(learnt)} reviews to learn from and {len(held_out)} to test on are too few")
    judges = {name: learnt[i * LEARNT : (i + 1) * LEARNT] + held_out[:JUDGED] for i, name in enumerate(("rm", "gold"))}
    return judges | {"prompts": learnt[2 * LEARNT :][:PROMPTS], "test": held_out[JUDGED:][:TEST]}


def scores(items: list[dict]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reward, gold and KL of the sampled answers, (P, N) each."""
    sampled = [x for x in items if x["sample"] >= 0]
    proxy, gold = (next(k for k in sampled[0]["scores"] if f"/{name}:" in k) for name in ("rm", "gold"))
    columns = [[x["scores"][proxy], x["scores"][gold], x["kl"]] for x in sampled]
    return tuple(np.reshape(columns, (-1, 1 + sampled[-1]["sample"], 3)).transpose(2, 0, 1))


def write_figure(own: Path) -> str:
    """openings.svg in the folder of a seed, from what its steps evaluated; its table. Raises UserError."""
    (many,), (asked,) = (read_sets(own / name / "items.jsonl") for name in ("best", "test"))
    proxy, gold, _ = scores(many.items["base"])  # (P, N) each
    points = {"best-of-n": best_of_points(gold, proxy)}
    for algo in ("ppo", "rloo"):
        lines = []
        for name in (name for name in asked.items if name.startswith(algo)):
            liked, real, kl = (x.mean(1) for x in scores(asked.items[name]))  # (P,) each
            lines.append({"beta": float(name.removeprefix(algo)), "kl": kl, "gold": real, "proxy": liked})
        points[algo.upper()] = policy_points(lines, gold, proxy)
    model = Proxy(LEARNT, order(gold, proxy), points, "labels")
    write_atomic(own / "openings.svg", law_figure([model], float(gold.mean())).encode())
    return law_tables([model], gold.mean(1))
