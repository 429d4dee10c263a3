"""Simulated people, who compare two responses.

    P(a is chosen) = σ((gold_a − gold_b) / temperature + length_bias (len_a − len_b) + position_bias)

is the law of a person who sees a first: the Bradley-Terry law of a gold reward, and what people are known to get wrong.
Source: Bradley and Terry 1952; labels of a gold reward: Gao et al. 2022, section 2.1, where
the better one always wins.
Proved by tests/preferences/test_simulated.py.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from types import ModuleType

import numpy as np

from minirlhf.harness.files import UserError
from minirlhf.lm.chat import render_prompt
from minirlhf.lm.generation import Sampling, generate, responses_of
from minirlhf.lm.model import GPT
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.preferences.config import Labeller
from minirlhf.rl.rewards import ask, prompt_text

PROMPTS = 256  # answered at a time
PATIENCE = 50  # pairs that may be left out per pair that is wanted


def comparison_line(record: dict, a: str, b: str, gold_a: float, gold_b: float, labeller: Labeller, u: float) -> dict:
    """The line of a comparison of two responses, a shown first.  u: in [0, 1); below P(a is chosen) a is chosen."""
    first = u < labeller.prefers_first(gold_a, gold_b, len(a), len(b))
    chosen, rejected = ((a, gold_a), (b, gold_b)) if first else ((b, gold_b), (a, gold_a))
    line = {k: v for k, v in record.items() if k != "response"} | {"chosen": chosen[0], "rejected": rejected[0]}
    return line | {"gold_chosen": chosen[1], "gold_rejected": rejected[1]}


def respond(
    model: GPT, tokenizer: Tokenizer, records: Sequence[dict], max_new: int, seeds: Sequence[int]
) -> list[str | None]:
    """A response to each record, sampled at temperature 1; None where it did not end."""
    g = generate(model, [render_prompt(r, tokenizer) for r in records], Sampling(max_new), tokenizer.eos_id, seeds)
    return [tokenizer.decode(ids) if ended else None for ids, ended in zip(responses_of(g), g.ended.tolist())]


def make_pairs(
    model: GPT, tokenizer: Tokenizer, task: ModuleType, n: int, responses: int, labeller: Labeller, seed: int
) -> tuple[list[dict], Counter]:
    """The first n comparisons of two responses to a training prompt; and how many pairs were left out, by reason.

    All pairs of `responses` responses to a prompt are compared, in the order in which they were sampled.
    The pairs depend on the seed alone, not on who judges them. Raises UserError where hardly any can be compared.
    """
    lines: list[dict] = []
    left_out: Counter = Counter()
    rng = np.random.default_rng(seed)
    while left_out.total() <= PATIENCE * max(n, PROMPTS):
        records = task.records("train", PROMPTS, int(rng.integers(2**32)))
        asked = [record for record in records for _ in range(responses)]
        texts = respond(model, tokenizer, asked, task.MAX_NEW, rng.integers(2**63, size=len(asked)).tolist())
        for i, record in enumerate(records):
            for a, b in combinations(texts[i * responses : (i + 1) * responses], 2):
                u = rng.random()
                if not a or not b or a == b:
                    left_out["identical" if a and b else "unfinished or empty"] += 1
                    continue
                golds = ask(task.reward, [(prompt_text(record), text, record) for text in (a, b)])
                lines.append(comparison_line(record, a, b, *golds, labeller, u))
                if len(lines) == n:
                    return lines, left_out
    why = ", ".join(f"{count} {why}" for why, count in left_out.items())
    raise UserError(f"--pairs {n}: only {len(lines)} pairs can be compared; left out: {why}")
