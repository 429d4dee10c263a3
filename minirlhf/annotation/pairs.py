"""Which answers people compare: two models' answers to the same prompts, in random order and on random sides.

It makes study.json, which a judge sees, and key.json, which nobody sees before the end, from the responses in
evaluate.py's items.jsonl. n pairs become:

    identical     both texts are equal: a tie that needs no judge, so it is counted and not shown
    pair          model a stands on the left as often as on the right, ± 1
    duplicate     1 pair in 10, shown again at least 10 places later with sides swapped: is the judge consistent?
    attention     1 extra per 20 pairs: one model's answer against the other's to another prompt: is the judge awake?

An attention item tests something only where answers to other prompts are visibly wrong. The study holds the turns of
a conversation as `messages`, too. Proved by tests/annotation/test_pairs.py.
"""

import json
import random
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import NamedTuple

from minirlhf.harness.files import UserError
from minirlhf.lm.records import question_of

LATER = 10  # places from a pair to its duplicate, at least


class AnswerPair(NamedTuple):
    """A prompt and the two models' answers to it."""

    prompt: str
    a: str
    b: str


class Showing(NamedTuple):
    """A pair at its place. left: "a" or "b".  good: the right answer of an attention item, else None."""

    kind: str
    pair: AnswerPair
    left: str
    good: str | None = None


def item_id(pair: AnswerPair) -> str:
    """Hash of the prompt and both texts. These are sorted, or it would tell which text is the first model's."""
    content = json.dumps([pair.prompt, *sorted(pair[1:])])
    return sha256(content.encode()).hexdigest()[:16]


def turns_before(record: dict) -> list[dict]:
    """The messages that a response to the record answers."""
    return [{k: message[k] for k in ("role", "content")} for message in question_of(record)]


def shown_prompt(record: dict) -> str:
    """The prompt as judges see it. Later steps identify the prompt by this text.

    If it has several turns, each follows its role. Lines are indented, or a turn could hold what looks like the next.
    """
    turns = turns_before(record)
    if len(turns) == 1:
        return turns[0]["content"]
    return "\n\n".join(f"{turn['role']}\n{turn['content']}".replace("\n", "\n  ") for turn in turns)


def records_by_prompt(sets: Iterable) -> dict[str, dict]:
    """Shown prompt -> the record it comes from, of sets that have `records`."""
    return {shown_prompt(record): record for s in sets for record in s.records}


def candidates(records: Sequence[dict], answers: Sequence[tuple[dict, dict]], rng: random.Random) -> list[AnswerPair]:
    """All different pairs of two models on a test set, in random order: one per prompt, then second samples.

    records: what was asked.  answers: both models' answers to one record, with equal index and sample, as in
    items.jsonl. Greedy answers are used only if there are no sampled ones.
    """
    prompts = [shown_prompt(record) for record in records]
    sampled = any(x["sample"] >= 0 for x, _ in answers)
    of_prompt: list[list[AnswerPair]] = [[] for _ in prompts]
    for x, y in answers:
        if x["sample"] >= 0 or not sampled:
            of_prompt[x["index"]].append(AnswerPair(prompts[x["index"]], x["response"], y["response"]))
    for pairs in of_prompt:
        rng.shuffle(pairs)
    different: dict[str, AnswerPair] = {}
    for nth in map(list, zip(*of_prompt)):
        rng.shuffle(nth)
        for pair in nth:
            different.setdefault(item_id(pair), pair)
    return list(different.values())


def attention_items(pool: Sequence[AnswerPair], n: int, rng: random.Random) -> list[Showing]:
    """Up to n: an answer to each of the first prompts in `pool`, against the other model's to another prompt.

    The right answer is equally often from each model, and equally often on each side.
    """
    made: list[Showing] = []
    start = rng.randrange(4)
    for pair in pool:
        k = start + len(made)
        if len(made) == n:
            break
        good = k // 2 % 2  # 0: the answer of a
        own = pair[1 + good]
        others = (q[2 - good] for q in pool if q.prompt != pair.prompt)
        wrong = [text for text in others if text.strip() not in ("", own.strip())]
        if own.strip() and wrong:
            texts = (own, rng.choice(wrong)) if good == 0 else (rng.choice(wrong), own)
            made.append(Showing("attention", AnswerPair(pair.prompt, *texts), "ab"[k % 2], "ab"[good]))
    return made


def arrange(pairs: Sequence[AnswerPair], spare: Sequence[AnswerPair], rng: random.Random) -> list[Showing]:
    """Pairs, duplicates and attention items (made of `spare` where that suffices) in the order of showing."""
    n = len(pairs)
    checks = attention_items([*spare, *pairs], (n + 10) // 20, rng)
    order: list = [*pairs, *checks]
    rng.shuffle(order)
    early = [i for i in range(len(order) - LATER + 1) if isinstance(order[i], AnswerPair)]
    again = set(rng.sample(early, min((n + 5) // 10, len(early))))
    # Alternate over those shown twice, then over the others: each part and the whole are balanced.
    flip = rng.randrange(2)
    rest = [i for i, x in enumerate(order) if isinstance(x, AnswerPair) and i not in again]
    rng.shuffle(rest)
    for k, i in enumerate([*rng.sample(sorted(again), len(again)), *rest]):
        order[i] = Showing("pair", order[i], "ab"[(k + flip) % 2])
    later: dict[int, list[Showing]] = {}  # before which of `order`
    for i in sorted(again):
        showing = Showing("duplicate", order[i].pair, "ba"["ab".index(order[i].left)])
        later.setdefault(rng.randint(i + LATER, len(order)), []).append(showing)
    return [showing for i in range(len(order) + 1) for showing in [*later.get(i, []), *order[i : i + 1]]]


def make_places(
    records: Sequence[dict], answers: Sequence[tuple[dict, dict]], n: int, seed: int
) -> tuple[list[dict], dict]:
    """The places of a study of at most n pairs, of what `candidates` takes, and their key. Raises UserError."""
    rng = random.Random(seed)
    found = candidates(records, answers, rng)
    pairs, spare = found[:n], found[n:]
    shown = [pair for pair in pairs if pair.a != pair.b]
    if not shown:
        raise UserError(f"all {len(pairs)} pairs are identical: nothing to judge")
    turns = {shown_prompt(record): turns_before(record) for record in records}
    places, secrets = [], []
    for kind, pair, left, good in arrange(shown, spare, rng):
        first, second = (pair.a, pair.b) if left == "a" else (pair.b, pair.a)
        asked = {"messages": turns[pair.prompt]} if len(turns[pair.prompt]) > 1 else {}
        places.append({"prompt": pair.prompt, "left": first, "right": second} | asked)
        secrets.append({"item": item_id(pair), "kind": kind, "left": left, "good": good})
    return places, {"identical": {item_id(pair): pair.prompt for pair in pairs if pair.a == pair.b}, "places": secrets}
