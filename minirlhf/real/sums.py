"""Sums for a chat model: what it is asked, what it must not have seen, and the reward.

A pair of numbers stands on one side of the split, in both orders: who has learnt 3 + 9 knows 9 + 3. Training asks the
smaller number first and the tests the larger, so that the order, too, is one that was never shown. Proved by
tests/real/test_sums.py.
"""

import re
from hashlib import blake2b
from itertools import combinations_with_replacement
from random import Random

ASK = "Calculate {} + {}. Reply with just the number."
APPLES = "If I have {} apples and get {} more, how many do I have? Answer with a number only."
TWO, THREE = range(10, 100), range(100, 1000)
SETS = {  # of held-out pairs: how many, how they are asked, the numbers, and the answer
    "test": (300, ASK, TWO, int.__add__),
    "reworded": (100, APPLES, TWO, int.__add__),
    "three": (100, ASK, THREE, int.__add__),
    "minus": (100, "Calculate {} - {}. Reply with just the number.", TWO, int.__sub__),
}
LABELS = 1000  # pairs to learn from
OTHERS = (  # what has nothing to do with sums: is it still answered?
    "What is the capital of France?", "Name three animals that live in the sea.", "Write a sentence about rain.",
    "What is the opposite of hot?", "How many days has a week?", "Which colour is the sky on a clear day?",
    "Give me a word that rhymes with cat.", "What do bees make?", "Who wrote Hamlet?", "Is ice warmer than steam?",
    "Translate 'good morning' into French.", "What is a noun?", "Why do we sleep?", "Name a fruit that is yellow.",
    "What is the largest planet of our solar system?", "Say hello to my friend Anna.", "What does a baker do?",
    "Write the first three letters of the alphabet.", "What comes after Monday?", "Tell me a fact about the moon.",
)  # fmt: skip


def held_out(a: int, b: int) -> bool:
    """Whether a pair, in whatever order, is for tests alone: a fifth of all."""
    return blake2b(f"{min(a, b)} {max(a, b)}".encode(), digest_size=1).digest()[0] < 51


def files(_: str) -> dict[str, list[dict]]:
    """labels, the first 100 of them as few, others, the test sets, and some of test; the same for every seed."""
    rng, asked = Random(0), {}
    for name, (n, ask, numbers, answer) in SETS.items():
        pairs = {tuple(sorted((rng.choice(numbers), rng.choice(numbers)), reverse=True)) for _ in range(20 * n)}
        pairs = sorted(pair for pair in pairs if held_out(*pair))
        asked[name] = [(ask, pair, answer) for pair in rng.sample(pairs, n)]
    pairs = [pair for pair in combinations_with_replacement(TWO, 2) if not held_out(*pair)]
    asked["labels"] = [(ASK, pair, int.__add__) for pair in rng.sample(pairs, LABELS)]
    asked |= {"few": asked["labels"][:100], "some": asked["test"][:100]}
    records = {name: [{"prompt": ask.format(*pair), "response": str(answer(*pair))} for ask, pair, answer in rows]
               for name, rows in asked.items()}  # fmt: skip
    return records | {"others": [{"prompt": question} for question in OTHERS]}


def right(prompt: str, response: str, record: dict) -> float:
    """Whether the last number of the answer is that of the record."""
    return float(re.findall(r"-?\d+", response)[-1:] == [record["response"]])
