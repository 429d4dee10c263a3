"""Film reviews for a chat model: is it positive or negative? A right label is the reward.

Proved by tests/real/test_reviews.py.
"""

from random import Random

from minirlhf.harness.files import UserError
from minirlhf.lm.reading import read_records
from minirlhf.lm.records import label_of, split_by_prompt

ASK = (
    'Classify the sentiment of this movie review as "positive" or "negative".\n\nReview: {}\n\n'
    "Answer with one word, positive or negative."
)
HELD_OUT = 20  # percent, that of tools/train_reward.py too: the classifier is then held to the same reviews
TEST, SOME, LABELS, FEW = 1000, 150, 1000, 100
SHOTS = 2, 8  # labels to read in front of each review, or to learn from: half of them positive


def split(path: str, record_of) -> tuple[list[dict], list[dict]]:
    """The records that `record_of(text, label)` makes of a file's reviews, None for none: to learn from, and held out.

    In one order for every seed.  Raises UserError where a review has no text or no label.
    """
    reviews = {r.get("text"): label_of(r) for r in read_records([path])}
    if None in reviews or {*reviews.values()} != {"positive", "negative"}:
        raise UserError(f"{path}: not reviews: each line has a text, and the label positive or negative")
    records = [record for text, label in reviews.items() if (record := record_of(text, label))]
    Random(0).shuffle(records)
    learnt, held_out = split_by_prompt(records, HELD_OUT).values()
    return learnt, held_out


def files(path: str) -> dict[str, list[dict]]:
    """labels, the first of them as few; test, the first of it as some. Raises UserError where there are fewer reviews."""
    learnt, held_out = split(path, lambda text, label: {"prompt": ASK.format(text), "response": label, "label": label})
    if len(learnt) < LABELS or len(held_out) < TEST:
        raise UserError(f"{path}: {len(learnt)} reviews to learn from and {len(held_out)} to test on are too few")
    parts = {"labels": learnt[:LABELS], "few": learnt[:FEW], "test": held_out[:TEST], "some": held_out[:SOME]}
    each = [[r for r in learnt if r["label"] == label] for label in ("positive", "negative")]
    return parts | {f"few{k}": [r for of in each for r in of[: k // 2]] for k in SHOTS}


def right(prompt: str, response: str, record: dict) -> float:
    """Whether the answer is the label, and nothing else."""
    return float(response.strip() == record["label"])
