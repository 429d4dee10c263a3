"""Named entities in a fixed text form:

    Anna Belmar of Tornak flew to Velkor. entities: -> person: Anna Belmar; group: Tornak; place: Velkor

Surnames, groups and places share one list of names. So the sentence tells the type of a name, and the name does not.
A name is two parts. A fifth of the names occurs in no training text, and test_names has no others. The split is by a
hash of the text, in test_names by a hash of each name as well.
"""

import random
import re
from collections import Counter
from functools import lru_cache
from itertools import product

from minirlhf.tasks.splits import task_split, text_task

NAME = "entities"
MAX_NEW = 48
FIELDS = ("entities",)
REWARD = "entity F1"
RL_WEIGHT = 1.0
EVAL_SPLITS = ("validation", "test", "test_names")
TYPES = ("person", "group", "place")

FIRST = "Anna Boris Clara David Emil Fatima George Hanna Ivan Julia Karim Lena Marco Nadia Oscar Petra Rosa Vera".split()
PARTS = ("Bel Tor Vel Kor Ost Nor Gal Mar Sun Lind Hal Dor Fen Wes Rav Zan Ash Bran Cal Dun Fal Gren Hol Jar Kast Lor",
         "mar nak kor vin dan ley ford ic sen berg ov ton by stad mir ham wick el una gate field mont rup lund ska tal")
SENTENCES = (
    "{person} of {group} flew to {place}.", "{person} met {person} in {place}.", "{group} opened a shop in {place}.",
    "The mayor of {place} thanked {person}.", "{group} bought {group} last year.", "{person} left {group} in May.",
    "Nobody in {place} knew {person}.", "The trains to {place} were late.", "The lawyers of {group} called {person}.",
)  # fmt: skip


@lru_cache(maxsize=None)
def names(held_out: bool) -> list[str]:
    """The names that training texts have, or those that only test_names has."""
    every = map("".join, product(*map(str.split, PARTS)))
    return [name for name in every if (task_split(f"{NAME} name {name}") != "train") == held_out]


def _record(rng: random.Random, split: str) -> tuple[str, dict]:
    form = " ".join(rng.sample(SENTENCES, rng.choice((1, 2, 2))))
    types = re.findall(r"\{(\w+)\}", form)
    chosen = rng.sample(names(split == "test_names"), len(types))  # no name twice
    chosen = [f"{rng.choice(FIRST)} {name}" if kind == "person" else name for kind, name in zip(types, chosen)]
    text, answer = re.sub(r"\{\w+\}", "{}", form).format(*chosen), "; ".join(map(": ".join, zip(types, chosen)))
    return text, {"task": NAME, "prompt": f"{text} entities:", "response": answer, "entities": answer}


records, documents = text_task(NAME, EVAL_SPLITS, _record)


def parse_entities(answer: str) -> list[tuple[str, str]]:
    """(type, name) of each part of "type: name; type: name"; ("", part) of what is no such part."""
    parts = [(part, *part.partition(": ")) for part in re.split("; ?", answer.strip()) if part]
    return [(kind, name) if kind in TYPES and name else ("", part) for part, kind, _, name in parts]


def entity_counts(answer: str, right: str) -> tuple[int, int, int]:
    """How many entities are right, in the answer, and there. What is no `type: name` is a wrong one.

    F1 of the sums over texts is seqeval's micro F1, and CoNLL-2003's, as long as no text has a name twice.
    """
    said, true = Counter(parse_entities(answer)), Counter(parse_entities(right))
    return (said & true).total(), said.total(), true.total()


def reward(prompt: str, response: str, record: dict) -> float:
    """F1 of the text's own entities."""
    right, said, there = entity_counts(response, record["entities"])
    return 2 * right / (said + there)


def score(prompt: str, response: str, record: dict) -> dict[str, float]:
    """{"unparsable"}: 1.0 where some part is no `type: name`, or nothing is said."""
    return {"unparsable": float("" in dict(parse_entities(response) or [("", "")]))}
