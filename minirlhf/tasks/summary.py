"""Summaries of a market report. Who copies it all says nothing wrong, and yet has summed up nothing.

    here is the news from oslo. buyers paid 14% more for tea. it rained all morning. rice fell by 9%. summary:
    -> in oslo, tea rose 14%, rice fell 9%.

Statements are what full stops, commas and "and" end. Key facts are the place and the price moves. The reward is

    P = statements that stand in the report, each counted once / statements        R = key facts said / key facts
    (1 + β²) P R / (β² P + R) · clip((1 − words / words of the report) / 0.4, 0, 1)        β = 1/2

β is below 1 because an invention is worse than an omission. Three fifths of the report's words are free. A statement in
words that FORMS lacks counts as an invention. The split is by a hash of the report.
"""

import random
import re

from minirlhf.metrics.overlap import rouge
from minirlhf.tasks.splits import text_task

NAME = "summary"
MAX_NEW = 32
FIELDS = ("report", "reference")
REWARD = "facts"
RL_WEIGHT = 1.0
EVAL_SPLITS = ("validation", "test")

BETA, SAVED = 0.5, 0.4  # the share of the report's words that a summary should save
PLACES = "oslo rome paris cairo lima quito delhi tokyo seoul vienna boston dublin lagos lisbon madrid prague".split()
ITEMS = "tea rice wheat sugar coffee cotton copper silver gold corn salt cocoa rubber timber wool butter tin zinc".split()
OTHER = ("it rained all morning", "the stalls closed early", "nobody knows why", "the mayor was pleased")
FORMS = {  # kind of key fact -> how it is said: in a report as one of the first three, in a summary as the last
    "place": "here is the news from {place}|traders met in {place}|the market of {place} was open|in {place}",
    "up": "{item} rose by {n}%|{item} became {n}% dearer|buyers paid {n}% more for {item}|{item} rose {n}%",
    "down": "{item} fell by {n}%|{item} became {n}% cheaper|buyers paid {n}% less for {item}|{item} fell {n}%",
}
_PATTERNS = [(kind, re.compile(form.format(place=r"(?P<place>\w+)", item=r"(?P<item>\w+)", n=r"(?P<n>\d+)")))
             for kind, forms in FORMS.items() for form in forms.split("|")]  # fmt: skip


def statements(text: str) -> list[tuple]:
    """What the text says, in its order: (kind, what, ...) of a key fact, (wording,) of anything else."""
    *said, cut_off = re.split(r"[.,] ?| and ", text.strip())
    matches = [[(kind, m) for kind, form in _PATTERNS if (m := form.fullmatch(x))] or [("", x)] for x in said]
    facts = [(kind, *sorted(m.groupdict().items())) if kind else (m,) for (kind, m), *_ in matches]
    return facts + [(f"{cut_off} ...",)] * bool(cut_off)


def _record(rng: random.Random, split: str) -> tuple[str, dict]:
    moves = [{"item": item, "n": rng.randint(2, 40)} for item in rng.sample(ITEMS, rng.choice((2, 3)))]
    facts = [("place", {"place": rng.choice(PLACES)}), *((rng.choice(("up", "down")), move) for move in moves)]
    said = [rng.choice(FORMS[kind].split("|")[:3]).format(**words) for kind, words in facts]
    for other in rng.sample(OTHER, 2):
        said.insert(rng.randint(1, len(said)), other)
    report = ". ".join(said) + "."
    short = ", ".join(FORMS[kind].split("|")[-1].format(**words) for kind, words in facts) + "."
    return report, {"task": NAME, "prompt": f"{report} summary:", "response": short, "report": report, "reference": short}


records, documents = text_task(NAME, EVAL_SPLITS, _record)


def fact_scores(response: str, report: str) -> tuple[float, float]:
    """(P, R) of the formula above; 0 where nothing is said."""
    said, true = statements(response), set(statements(report))
    key = {fact for fact in true if len(fact) > 1}
    return len(true & set(said)) / max(len(said), 1), len(key & set(said)) / len(key)


def reward(prompt: str, response: str, record: dict) -> float:
    """The formula above, in [0, 1]."""
    P, R = fact_scores(response, record["report"])
    words, whole = (len(re.findall(r"[^\s.,]+", x)) for x in (response, record["report"]))  # spaces or not
    saved = 1 - words / whole
    return P and R and (1 + BETA**2) * P * R / (BETA**2 * P + R) * max(0.0, min(1.0, saved / SAVED))


def score(prompt: str, response: str, record: dict) -> dict[str, float]:
    """{"fact precision", "fact recall"}, P and R, and {"ROUGE-L F"} against the reference."""
    P, R = fact_scores(response, record["report"])
    return {"fact precision": P, "fact recall": R, "ROUGE-L F": rouge(response, [record["reference"]])["rougeL"]}
