"""Sentiment: a review followed by ` sentiment:` -> `positive`, `neutral` or `negative`.

The label is the sign of (positive slots - negative slots) in the review, which the grammar of
`reviews` knows exactly. The split goes by a hash of the review text.
"""

import random

from minirlhf.tasks import reviews
from minirlhf.tasks.splits import text_task

NAME = "sentiment"
MAX_NEW = 8
FIELDS = ("label",)
REWARD = "accuracy"
RL_WEIGHT = 0.5
EVAL_SPLITS = ("validation", "test")
LABELS = ("positive", "neutral", "negative")
documents = reviews.documents  # none of them one that a held-out split of this task can ask about


def _record(rng: random.Random, split: str) -> tuple[str, dict]:
    text, classes = reviews.sample_review(rng.choice(reviews.subjects("train")), rng)
    total = sum(classes)
    answer = "positive" if total > 0 else "negative" if total < 0 else "neutral"
    return text, {"task": NAME, "prompt": f"{text} sentiment:", "response": answer, "label": answer}


records, _ = text_task(NAME, EVAL_SPLITS, _record, reviews.text_split)


def reward(prompt: str, response: str, record: dict) -> float:
    """1.0 if the response is the record's label and nothing more, white space around it aside; else 0.0."""
    return float(response.strip() == record["label"])


def score(prompt: str, response: str, record: dict) -> dict[str, float]:
    """{"unparsable"}: 1.0 where the response is no label at all."""
    return {"unparsable": float(response.strip() not in LABELS)}
