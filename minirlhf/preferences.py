"""Comparisons of two responses, and simulated people who make them.

    {"prompt": ..., "chosen": ..., "rejected": ...}          a line of the file (data.py reads and checks it)
     "p": 0.8        the probability that chosen is better, where it is not certain; 1 if absent
     "margin": 0.5   by how much the reward of chosen should be ahead; 0 if absent
     "gold_chosen": 1, "gold_rejected": 0.2    what they really earn, where it is known

    P(a is chosen) = σ((gold_a − gold_b) / temperature + length_bias (len_a − len_b) + position_bias)

is the law of a person who sees a first: the Bradley-Terry law of a gold reward, and what people are known to
get wrong. Here it is known what they really want, so a reward model can be held against it.
Source: Bradley and Terry 1952; labels of a gold reward: Gao et al. 2022, section 2.
Proved by tests/test_preferences.py.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import tanh
from pathlib import Path
from types import ModuleType

import numpy as np

from minirlhf import checkpoint
from minirlhf.data import messages_of, read_records, render_prompt, split_of
from minirlhf.files import UserError, write_atomic
from minirlhf.generation import generate
from minirlhf.learned_reward import text_ids
from minirlhf.model import GPT
from minirlhf.rollout import call_reward, prompt_text
from minirlhf.runtime import Machine, option, parse, run_script
from minirlhf.tasks import TASKS
from minirlhf.tokenizer import Tokenizer

PROMPTS = 256  # answered at a time
PATIENCE = 50  # pairs left out for each that is wanted, before giving up


@dataclass(frozen=True)
class Labeller:
    """The simulated people."""

    temperature: float = option(0.3, "a gold reward this much higher is chosen with odds of e to 1")
    length_bias: float = option(0.0, "log-odds for each character that a response is longer")
    position_bias: float = option(0.0, "log-odds for the response that is shown first")
    soft: bool = option(False, "write the probability itself, as p, instead of a choice")

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise UserError(f"--temperature {self.temperature}: must be above 0")

    def prefers_first(self, gold_a: float, gold_b: float, length_a: int, length_b: int) -> float:
        """P(a is chosen) where a is shown first, as above.  length: in characters."""
        logit = (gold_a - gold_b) / self.temperature + self.length_bias * (length_a - length_b)
        logit += self.position_bias
        return (1 + tanh(logit / 2)) / 2  # σ without overflow


def compare(record: dict, a: str, b: str, gold_a: float, gold_b: float, labeller: Labeller, u: float) -> dict:
    """The line that says which of two responses, a shown first, is chosen.

    u: in [0, 1), decides a hard label; with `soft` the likelier one is chosen, and p says how likely it is.
    """
    p = labeller.prefers_first(gold_a, gold_b, len(a), len(b))
    first = p >= 0.5 if labeller.soft else u < p
    chosen, rejected = ((a, gold_a), (b, gold_b)) if first else ((b, gold_b), (a, gold_a))
    line = {k: v for k, v in record.items() if k != "response"}
    line |= {"chosen": chosen[0], "rejected": rejected[0]}
    line |= {"p": max(p, 1 - p)} if labeller.soft else {}
    return line | {"gold_chosen": chosen[1], "gold_rejected": rejected[1]}


def respond(
    model: GPT, tokenizer: Tokenizer, records: Sequence[dict], max_new: int, seeds: Sequence[int]
) -> list[str | None]:
    """A response to each record, sampled at temperature 1; None where it did not end."""
    g = generate(model, [render_prompt(r, tokenizer) for r in records], max_new, tokenizer.eos_id, seeds)
    return [tokenizer.decode(ids) if ended else None for ids, ended in zip(g.responses(), g.ended.tolist())]


def judged_pairs(
    model: GPT, tokenizer: Tokenizer, task: ModuleType, responses: int, labeller: Labeller, seed: int
) -> Iterator[dict | str]:
    """Without end: a comparison of two responses to a training prompt, or why these two are not compared.

    All pairs of `responses` responses to a prompt are compared, in the order in which they were sampled.
    Which they are depends on the seed alone, not on who judges them.
    """
    rng = np.random.default_rng(seed)
    while True:
        records = task.records("train", PROMPTS, int(rng.integers(2**32)))
        asked = [record for record in records for _ in range(responses)]
        texts = respond(model, tokenizer, asked, task.MAX_NEW, rng.integers(2**63, size=len(asked)).tolist())
        for i, record in enumerate(records):
            for a, b in combinations(texts[i * responses : (i + 1) * responses], 2):
                u = rng.random()
                if not a or not b:
                    yield "unfinished or empty"
                elif a == b:
                    yield "identical"
                else:
                    golds = [call_reward(task.reward, prompt_text(record), text, record) for text in (a, b)]
                    yield compare(record, a, b, *golds, labeller, u)


def make_pairs(
    model: GPT, tokenizer: Tokenizer, task: ModuleType, n: int, responses: int, labeller: Labeller, seed: int
) -> tuple[list[dict], Counter]:
    """The first n comparisons of `judged_pairs`; and how many pairs were left out on the way, by reason.

    Raises UserError where hardly any pair can be compared.
    """
    lines: list[dict] = []
    left_out: Counter = Counter()
    for pair in judged_pairs(model, tokenizer, task, responses, labeller, seed):
        if isinstance(pair, str):
            left_out[pair] += 1
        else:
            lines.append(pair)
        if len(lines) == n:
            break
        if left_out.total() > PATIENCE * max(n, PROMPTS):
            why = ", ".join(f"{count} {why}" for why, count in left_out.items())
            raise UserError(f"--pairs {n}: only {len(lines)} pairs can be compared; left out: {why}")
    return lines, left_out


def read_preferences(paths: Sequence[str | Path]) -> list[dict]:
    """The comparisons in some .jsonl files. Raises UserError for a record that is none."""
    records = []
    for path in paths:
        for number, record in enumerate(read_records(path), 1):
            if "chosen" not in record:
                found = ", ".join(record)
                raise UserError(f"{path}: record {number} has no 'chosen' and 'rejected'; found {found}")
            records.append(record)
    return records


@dataclass(frozen=True)
class Pair:
    """A comparison: ids of prompt, response and EOS.  gold: the true difference of rewards, 0 if not known.

    margin: what Δ should be ahead by. Source: Touvron et al. 2023 (Llama 2), eq. 2.
    """

    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    p: float = 1.0
    margin: float = 0.0
    gold: float = 0.0


def pairs_by_prompt(
    records: Sequence[dict], tokenizer: Tokenizer, context: int, whole: bool = False
) -> tuple[dict[str, list[Pair]], Counter]:
    """The comparisons of each prompt; and how many were dropped, "equal" and "long", and how many texts "cut".

    whole: for DPO, which would learn from an answer without its question: what exceeds the context is dropped.
    A reward is read at the end: there it loses its beginning, and those that are equal then are dropped.
    """
    groups: dict[str, list[Pair]] = {}
    counts = Counter(equal=0, long=0, cut=0)
    for record in records:
        # One id more than fits shows what does not fit.
        texts = [text_ids(record, record[k], tokenizer, context + 1) for k in ("chosen", "rejected")]
        long = sum(len(ids) > context for ids in texts)
        chosen, rejected = (ids[-context:] for ids in texts)
        if whole and long:
            counts["long"] += 1
        elif chosen == rejected:
            counts["equal"] += 1
        else:
            counts["cut"] += long
            known = "gold_chosen" in record and "gold_rejected" in record
            gold = record["gold_chosen"] - record["gold_rejected"] if known else 0.0
            pair = Pair(chosen, rejected, float(record.get("p", 1)), float(record.get("margin", 0)), gold)
            groups.setdefault(str([m["content"] for m in messages_of(record)]), []).append(pair)
    return groups, counts


def comparisons(
    paths: Sequence[str], tokenizer: Tokenizer, context: int, percent: int, whole: bool = False
) -> tuple[list[dict], list[list[Pair]], list[Pair], dict[str, int]]:
    """(records, comparisons to train on by prompt, those of the held-out prompts, numbers "dropped" and "cut").

    whole: see `pairs_by_prompt`. Prints what was lost.  Raises UserError where nothing is left to train on.
    """
    if not paths:
        raise UserError("--data: name a file of comparisons; python -m minirlhf.preferences makes one")
    records = read_preferences(paths)
    groups, counts = pairs_by_prompt(records, tokenizer, context, whole)
    n, limit = len(records), f"the context of {context} tokens"
    if counts["equal"]:
        print(f"{counts['equal']} of {n} comparisons dropped: the two are equal within {limit}")
    if counts["long"]:
        print(f"{counts['long']} of {n} comparisons dropped: longer than {limit}")
    if counts["cut"]:
        print(f"{counts['cut']} of {2 * n} texts cut at the front, prompt first: longer than {limit}")
    split: dict[str, list[list[Pair]]] = {"train": [], "validation": []}
    for prompt, pairs in groups.items():
        split[split_of(prompt, percent)].append(pairs)
    held_out = [pair for pairs in split["validation"] for pair in pairs]
    if not split["train"]:
        why = f"of {n}, {counts['equal']} are of equals, {counts['long']} too long, {len(held_out)} held out"
        remedy = "--held-out 0 trains on all" if held_out else "give others, or a model of a longer context"
        raise UserError(f"{' '.join(paths)}: no comparison to train on: {why}; {remedy}")
    return records, split["train"], held_out, {"dropped": counts["equal"] + counts["long"], "cut": counts["cut"]}


@dataclass(frozen=True)
class Options:
    """What is compared."""

    init: str = option("out/sft", "checkpoint folder whose responses are compared")
    task: str = option("reviews", f"generated task, whose reward is gold: one of {', '.join(TASKS)}")
    pairs: int = option(1000, "comparisons to make", least=1)
    responses: int = option(2, "to each prompt; all pairs of them are compared", least=2)
    out: str = option("prefs.jsonl", "the file to write")


def main() -> None:
    """Sample, judge and write."""
    options, labeller, machine = parse(__doc__.splitlines()[0], Options, Labeller, Machine)
    device, _ = machine.set_up()
    if options.task not in TASKS:
        raise UserError(f"--task {options.task}: there are {', '.join(TASKS)}")
    model, tokenizer = checkpoint.load_chat(options.init)
    task = TASKS[options.task]
    lines, left_out = make_pairs(
        model.to(device), tokenizer, task, options.pairs, options.responses, labeller, machine.seed
    )
    write_atomic(options.out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
    right = [(1 + np.sign(line["gold_chosen"] - line["gold_rejected"])) / 2 for line in lines]
    share = f"{np.mean(right):.1%} as the gold reward has it, ties 1/2"
    print(f"{options.out}: {len(lines)} comparisons, {share}")
    if left_out:
        print(f"left out: {', '.join(f'{count} {why}' for why, count in left_out.items())}")


if __name__ == "__main__":
    run_script(main)
