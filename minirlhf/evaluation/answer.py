"""What an evaluation says in short: the rows that say most, what each means, and what is gained at what price.

The price is the KL to the reference, and what of COSTS is worse. Proved by tests/evaluation/test_answer.py.
"""

import re
from collections.abc import Sequence

from minirlhf.evaluation.table import SHORT, number

MOST = 8  # rows of a set that are shown, unless all are asked for
CHIEF = ("reward, greedy", "gold$", "grammatical$", "accuracy", "F1, macro", r"fact \w+$", "entity F1", "exact match$",
         "reference perplexity", "KL to", "distinct-2", "J =", r"share of J\*", "BLEU", "entropy")  # after the reward
COSTS = (("gold",), ("grammatical",), ("reference perplexity",), ("distinct-2", "entropy"), ("ended",))
MEANING = {  # how a metric's name begins -> what it is; the evaluation chapter has the same table
    "reward": "mean reward of answers sampled at temperature 1; greedy takes the most probable token instead",
    "gold": "the task's own reward of the same answers, where they are judged by another",
    "grammatical": "the share of answers that the grammar can parse",
    "F1, macro": "mean over labels of F1, the harmonic mean of precision and recall; micro: of all answers together",
    "token F1": "SQuAD's F1 of the words that the answer shares with the right one; case and articles do not count",
    "fact": "precision: the share of a summary's statements that the report has; recall: of its key facts, those stated",
    "entity": "precision, recall or F1 of the entities of all texts together, as seqeval counts them",
    "BLEU": "n-gram precision of the answers against their references, lowered for short ones; 100: equal",
    "chrF": "F score of the character n-grams that answer and reference share; recall counts twice; 100: equal",
    "reference perplexity": "exp(loss per token) of the record's own answer: how surprising the data have become",
    "reference bits": "the same loss in bits per byte of text, which does not depend on the tokenizer",
    "above entropy": "how far that loss is above the grammar's exact entropy, the least that a model can have",
    "calibration error": "how far the confidence in the next token is from the share of right ones",
    "KL to reference": "how far the policy has moved: mean of log policy − log reference, exact at each position",
    "entropy": "how undecided the model is about each token that it writes",
    "distinct-2": "the share of different pairs of tokens in the answers to one prompt; high is varied",
    "self-BLEU": "BLEU of each answer against the others to its prompt; 100: all the same",
    "J =": "the objective that PPO maximises",
    "share of J*": "the part reached of what can be gained; J* = β log E_ref exp(reward / β) is the most there is",
}  # fmt: skip


def find(rows: Sequence[dict], *starts: str) -> list[dict]:
    """The rows whose metric begins with one of these, in the order of these."""
    return [row for start in starts for row in rows if row["metric"].startswith(start)]


def chief_rows(rows: Sequence[dict]) -> list[dict]:
    """At most MOST rows, in their own order: the primary metric, its greedy twin, the CHIEF, then as they come. Rows
    without a difference, or without a number, are the last to be taken."""
    def rank(row: dict) -> tuple:
        said = [d["value"] or None for d in row["differences"].values()] or [x["value"] for x in row["models"].values()]
        place = next((i for i, start in enumerate(CHIEF) if re.match(start, row["metric"])), len(CHIEF))
        return not row["primary"], said[-1] is None and not row["primary"], place

    best = sorted(rows, key=rank)[:MOST]
    return [row for row in rows if row in best]


def headline(rows: Sequence[dict]) -> dict:
    """The row that the answer goes by: the primary metric; without a reward the first of quality, else the first."""
    return max(rows, key=lambda row: (row["primary"], row["group"] == "quality"))


def price(rows: Sequence[dict], last: str, against: str) -> str:
    """What `last` paid for its difference from `against`, in words."""
    words = [f"KL {number(kl)}" for row in find(rows, "KL to") if (kl := row["models"][last]["value"])]
    for names in COSTS:
        worse = [row for row in find(rows, *names) if row["differences"][last]["verdict"] in ("worse", "lower")]
        for row in worse[:1]:
            name = row["metric"].removeprefix("reference ").split(",")[0].removesuffix(" per prompt")
            values = " -> ".join(number(row["models"][x]["value"]) for x in (against, last))
            change = number(row["differences"][last]["value"], True)
            words.append(f"{name} {values if row['group'] == 'drift' else change}")
    return ", ".join(words) or "nothing shown"


def ends(estimate: dict) -> str:
    """The interval, or nothing where there is none."""
    return "" if estimate["low"] is None else f"[{number(estimate['low'])}, {number(estimate['high'])}]"


def answer_lines(report: dict) -> list[str]:
    """A heading, and a line for each set: what both models have, difference, interval, verdict and price."""
    last, against = report["last"], report["against"]
    compared = last != against
    lines = [["", *([f"{against} -> {last}", "difference [95 %]", "verdict", ""] if compared else [f"{last} [95 %]"])]]
    for title, task in report["tasks"].items():
        row = headline(task["metrics"])
        old, new = (row["models"][x] for x in (against, last))
        lines.append([title if row["primary"] and compared else f"{title}, {row['metric']}"])
        if compared:
            d, paid = row["differences"][last], price(task["metrics"], last, against)
            lines[-1] += [f"{number(old['value'])} -> {number(new['value'])}", f"{number(d['value'], True)} {ends(d)}"]
            lines[-1] += [SHORT.get(d["verdict"], d["verdict"]), f" price: {paid}"]
        else:
            lines[-1] += [f"{number(new['value'])} {ends(new)}"]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return ["  ".join(f"{x:<{n}}" for x, n in zip(line, widths)).rstrip() for line in lines]
