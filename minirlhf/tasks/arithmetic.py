"""Addition: `47+85=` -> `132`, with held-out pairs, a held-out operand range, and longer operands.

    train, validation, test    both operands in 0..99, split by a hash of the unordered pair: so the
                               mirror image of a held-out sum is held out too
    test_range                 the left operand in 40..49, the right one in 40..99
    test_long                  both operands in 100..999

In the first three the left operand is never in 40..49. The right one is so only beside a left one under 40.
So test_range shares no unordered pair with them. Yet the model has seen every digit in every place of the
right operand, and could know what a 4 is worth there.
"""

import random
from functools import lru_cache

from minirlhf.tasks.splits import check_split, draw_items, task_split

NAME = "arithmetic"
MAX_NEW = 8
FIELDS = ("answer",)
REWARD = "exact match"
RL_WEIGHT = 2.0
EVAL_SPLITS = ("validation", "test", "test_range", "test_long")

_HELD_OUT_RANGE = range(40, 50)


@lru_cache(maxsize=None)
def operand_pairs(split: str) -> tuple[tuple[int, int], ...]:
    """All operand pairs (left, right) of a split; not of test_long, which has too many to list."""
    low = _HELD_OUT_RANGE.start
    if split == "test_range":
        return tuple((a, b) for a in _HELD_OUT_RANGE for b in range(low, 100))
    return tuple(
        (a, b)
        for a in range(100) if a not in _HELD_OUT_RANGE
        for b in range(100) if b not in _HELD_OUT_RANGE or a < low
        if task_split(f"{NAME} {min(a, b)}+{max(a, b)}") == split
    )


def records(split: str, n: int, seed: int) -> list[dict]:
    """n records with "answer"; pairs repeat in train and are distinct elsewhere.

    Raises ValueError for an unknown split, UserError if the held-out split has fewer than n pairs.
    """
    check_split(split, ("train", *EVAL_SPLITS))
    rng = random.Random(f"{NAME} {split} {seed}")
    if split == "test_long":
        chosen = [(100 + i // 900, 100 + i % 900) for i in draw_items(range(900**2), n, rng, split)]
    else:
        chosen = draw_items(operand_pairs(split), n, rng, split)
    return [{"task": NAME, "prompt": f"{a}+{b}=", "response": str(a + b), "answer": str(a + b)} for a, b in chosen]


def documents(n: int, seed: int) -> list[str]:
    """n equations such as `47+85=132`, of training pairs only."""
    rng = random.Random(f"{NAME} documents {seed}")
    return [f"{a}+{b}={a + b}" for a, b in rng.choices(operand_pairs("train"), k=n)]


def reward(prompt: str, response: str, record: dict) -> float:
    """1.0 if the response, white space around it aside, is the answer, else 0.0."""
    return float(response.strip() == record["answer"])


def score(prompt: str, response: str, record: dict) -> dict[str, float]:
    """Nothing beside the reward."""
    return {}
