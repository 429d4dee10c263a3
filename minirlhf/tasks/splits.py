"""Which split an item belongs to, decided by a hash of the item itself.

Membership needs no stored lists and cannot drift. The same item is on the same side in every run, on every
machine and in every task. A linear hash will not do in place of blake2b. With two operands it can coincide
with a digit of their sum. Then the held-out answers never occur in train.
"""

import hashlib
import random
from collections.abc import Callable
from typing import Sequence

from minirlhf.harness.files import UserError


def task_split(key: str) -> str:
    """Returns "train" (80 % of all keys), "validation" (10 %) or "test" (10 %)."""
    bucket = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") % 100
    return "train" if bucket < 80 else "validation" if bucket < 90 else "test"


def check_split(split: str, known: Sequence[str]) -> None:
    """Raises ValueError that lists the splits a task has, unless `split` is one of them."""
    if split not in known:
        raise ValueError(f"unknown split {split!r}: this task has {', '.join(known)}")


def draw_items(items: Sequence, n: int, rng: random.Random, split: str) -> list:
    """n random items of a split. In train they may repeat, elsewhere they differ. Raises UserError for too few."""
    if split == "train":
        return rng.choices(items, k=n)
    if n > len(items):
        raise UserError(f"asked for {n} distinct prompts of the {split} split, which has {len(items)}; ask for fewer")
    return rng.sample(items, n)


def text_task(name: str, held_out: Sequence[str], make: Callable, split_of: Callable = task_split) -> tuple:
    """(records, documents) of a task that asks about texts. In a held-out split no text occurs twice.

    make(rng, split) -> (text, record) is called until n texts are of the split, so there must be far more of them.
    test_two and its like are on the side of test. Documents are prompts with responses, others than those of records.
    """
    def records(split: str, n: int, seed: int) -> list[dict]:
        check_split(split, ("train", *held_out))
        rng, side, out, seen = random.Random(f"{name} {split} {seed}"), split.partition("_")[0], [], set()
        while len(out) < n:
            text, record = make(rng, split)
            if split_of(text) == side and (split == "train" or text not in seen):
                seen.add(text)
                out.append(record)
        return out

    def documents(n: int, seed: int) -> list[str]:
        return [f"{record['prompt']} {record['response']}" for record in records("train", n, ~seed)]

    return records, documents
