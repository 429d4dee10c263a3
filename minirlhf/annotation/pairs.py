"""Which answers people compare: two models' answers to the same prompts, in an order and on sides by chance.

From the responses in evaluate.py's items.jsonl to the content of study.json, which a judge sees, and of
key.json, which nobody sees before the end. Of n pairs:

    identical     texts equal: a tie that needs no judge, counted and not shown
    pair          a on the left as often as on the right, ± 1
    duplicate     1 in 10, shown again at least 10 places later with sides swapped: is the judge consistent?
    attention     1 in 20 more, one model's answer against the other's to another prompt: is the judge awake?

An attention item tests something only where answers to other prompts are visibly wrong. Of a conversation the
prompt is every turn before the answer, and the study holds these as `messages`, too.
Proved by tests/annotation/test_pairs.py.
"""

import json
import random
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from minirlhf.harness.files import UserError
from minirlhf.lm.records import check_record, messages_of

LATER = 10  # places between a pair and its duplicate, at least
KEYS = {"set": str, "model": str, "index": int, "sample": int, "prompt": str, "response": str}


class Pair(NamedTuple):
    """A prompt and the two models' answers to it."""

    prompt: str
    a: str
    b: str


class Showing(NamedTuple):
    """A pair at its place. left: "a" or "b".  good: the right answer of an attention item, else None."""

    kind: str
    pair: Pair
    left: str
    good: str | None = None


def item_id(pair: Pair) -> str:
    """Hash of the prompt and both texts. Sorted, or it would tell which text is the first model's."""
    content = json.dumps([pair.prompt, *sorted(pair[1:])])
    return sha256(content.encode()).hexdigest()[:16]


def turns_before(record: dict) -> list[dict]:
    """The messages that a response to the record answers."""
    messages = [{k: message[k] for k in ("role", "content")} for message in messages_of(record)]
    return messages[: len(messages) - (messages[-1]["role"] == "assistant")]


def shown_prompt(record: dict) -> str:
    """The prompt as judges see it, by which all that comes later knows it: several turns behind their roles.

    Their lines are indented, or a turn could hold what looks like the next one.
    """
    turns = turns_before(record)
    if len(turns) == 1:
        return turns[0]["content"]
    return "\n\n".join(f"{turn['role']}\n{turn['content']}".replace("\n", "\n  ") for turn in turns)


def read_responses(path: str | Path) -> list[dict]:
    """The lines of items.jsonl that are responses: of `kind` response, or of none. Raises UserError.

    `prompt` is what judges see. Where the line of `kind` prompt has several turns, `messages` holds them.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; evaluate.py writes it") from None
    rows, asked = [], {}
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines, which cuts at U+2028 in a string
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: a JSON object is wanted, this is a {type(row).__name__}")
        record = row.get("record")
        if row.get("kind") == "prompt" and isinstance(record, dict) and "messages" in record:
            check_record(record, f"{path}, line {number}")
            asked[row.get("set"), str(row.get("index"))] = record
        if row.get("kind", "response") != "response":
            continue
        if wrong := [k for k, kind in KEYS.items() if type(row.get(k)) is not kind]:
            key = wrong[0]
            why = f"{key!r} is {row.get(key)!r:.40}, not a {KEYS[key].__name__}"
            raise UserError(f"{path}, line {number}: {why}")
        record = asked.get((row["set"], str(row["index"])))
        if record and len(turns := turns_before(record)) > 1:
            row |= {"prompt": shown_prompt(record), "messages": turns}
        rows.append(row)
    if not rows:
        raise UserError(f"{path}: no responses in it; evaluate.py writes them")
    return rows


def candidates(rows: Sequence[dict], models: Sequence[str], title: str, rng: random.Random) -> list[Pair]:
    """All different pairs of the two models on a set, in random order: one a prompt, then second samples.

    A pair is of equal index and sample; greedy answers only where there are no sampled ones. UserError.
    """
    def known(values: set[str]) -> str:
        return ", ".join(sorted(values))

    if len(models) != 2 or models[0] == models[1]:
        raise UserError(f"--models {' '.join(models)}: give two names of models")
    sets = {row["set"] for row in rows}
    if title not in sets and (title or len(sets) > 1):
        raise UserError(f"--set {title or 'is missing'}: the responses are of {known(sets)}")
    rows = [row for row in rows if row["set"] == title or not title]
    there = {row["model"] for row in rows}
    if missing := [name for name in models if name not in there]:
        raise UserError(f"--models {missing[0]}: the responses are of {known(there)}")
    prompts: dict[int, str] = {}
    texts: dict[int, dict[int, dict[str, str]]] = {}  # index -> sample -> model -> response
    for row in (row for row in rows if row["model"] in models):
        index, sample, model = row["index"], row["sample"], row["model"]
        answers = texts.setdefault(index, {}).setdefault(sample, {})
        if prompts.setdefault(index, row["prompt"]) != row["prompt"]:
            raise UserError(f"index {index} has two prompts: these are responses of more than one evaluation")
        if answers.setdefault(model, row["response"]) != row["response"]:
            raise UserError(f"index {index}, sample {sample} of {model} stands there twice and differs: "
                            "these are responses of more than one evaluation")
    for samples in texts.values():
        for sample in [k for k, answers in samples.items() if len(answers) < 2]:
            del samples[sample]
    sampled = any(k >= 0 for samples in texts.values() for k in samples)
    rounds: list[list[Pair]] = []
    for index in sorted(texts):
        samples = sorted(k for k in texts[index] if k >= 0 or not sampled)
        rng.shuffle(samples)
        for depth, k in enumerate(samples):
            rounds += [[]] if depth == len(rounds) else []
            rounds[depth].append(Pair(prompts[index], *(texts[index][k][name] for name in models)))
    for pairs in rounds:
        rng.shuffle(pairs)
    different: dict[str, Pair] = {}
    for pair in sum(rounds, []):
        different.setdefault(item_id(pair), pair)
    return list(different.values())


def attention(pool: Sequence[Pair], n: int, rng: random.Random) -> list[Showing]:
    """Up to n: an answer to each of the first prompts in `pool`, against the other model's to another prompt.

    The right answer is of either model, and on either side, equally often.
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
            made.append(Showing("attention", Pair(pair.prompt, *texts), "ab"[k % 2], "ab"[good]))
    return made


def arrange(pairs: Sequence[Pair], spare: Sequence[Pair], rng: random.Random) -> list[Showing]:
    """Pairs, duplicates and attention items (made of `spare` where that suffices) in the order of showing."""
    n = len(pairs)
    checks = attention([*spare, *pairs], (n + 10) // 20, rng)
    order: list = [*pairs, *checks]
    rng.shuffle(order)
    early = [i for i in range(len(order) - LATER + 1) if isinstance(order[i], Pair)]
    again = set(rng.sample(early, min((n + 5) // 10, len(early))))
    # Alternate over those shown twice, then over the others: each part and the whole are balanced.
    flip = rng.randrange(2)
    rest = [i for i, x in enumerate(order) if isinstance(x, Pair) and i not in again]
    rng.shuffle(rest)
    for k, i in enumerate([*rng.sample(sorted(again), len(again)), *rest]):
        order[i] = Showing("pair", order[i], "ab"[(k + flip) % 2])
    later: dict[int, list[Showing]] = {}  # before which of `order`
    for i in sorted(again):
        showing = Showing("duplicate", order[i].pair, "ba"["ab".index(order[i].left)])
        later.setdefault(rng.randint(i + LATER, len(order)), []).append(showing)
    return [showing for i in range(len(order) + 1) for showing in [*later.get(i, []), *order[i : i + 1]]]


def make(
    rows: Sequence[dict], models: Sequence[str], title: str, n: int, question: str, seed: int
) -> tuple[dict, dict]:
    """(study, key) of n pairs, or as many as there are, as `judgements.create` takes them. UserError."""
    rng = random.Random(seed)
    found = candidates(rows, models, title, rng)
    pairs, spare = found[:n], found[n:]
    shown = [pair for pair in pairs if pair.a != pair.b]
    if not shown:
        raise UserError(f"{' and '.join(models)}: all of {len(pairs)} pairs are identical: nothing to judge")
    turns = {row["prompt"]: {"messages": row["messages"]} for row in rows if "messages" in row}
    places, secrets = [], []
    for kind, pair, left, good in arrange(shown, spare, rng):
        first, second = (pair.a, pair.b) if left == "a" else (pair.b, pair.a)
        places.append({"prompt": pair.prompt, "left": first, "right": second} | turns.get(pair.prompt, {}))
        secrets.append({"item": item_id(pair), "kind": kind, "left": left, "good": good})
    study = {"question": question, "pairs": len(pairs), "auto_ties": len(pairs) - len(shown)}
    key = {"models": list(models), "set": title or rows[0]["set"], "seed": seed}
    key["identical"] = [item_id(pair) for pair in pairs if pair.a == pair.b]
    return study | {"places": places}, key | {"places": secrets}
