"""Reviews: `review of the new thai bistro:` -> one to three sentences, from a grammar with a known law.

    mood ~ uniform {1, 0, -1};   each slot's class = mood with probability 0.6, the others 0.2 each
    text = 1-3 sentences, each an opener and a form, whose fields are filled independently

A slot is a word of opinion. Its class is 1 (positive), 0 (neutral) or -1 (negative). The mood is never shown, so a
model has to carry what it has said so far. Every text has one derivation, so its probability and the law's entropy
are exact. A language model's loss on these texts can be compared with the best loss there is.

The reward is the text's positivity, (positive slots - negative slots) / 3 clipped to [-1, 1] and moved
to [0, 1]. The grammar itself earns 1/2 on average.
"""

import math
import random
import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Sequence

from minirlhf.tasks.splits import check_split, draw_items, task_split

NAME = "reviews"
MAX_NEW = 48
FIELDS = ("subject", "response")
REWARD = "sentiment"
RL_WEIGHT = 4.0
EVAL_SPLITS = ("validation", "test")
CLASSES = (1, 0, -1)


@dataclass(frozen=True)
class Domain:
    """The words of one kind of subject, separated by spaces. `first` and `second` share no aspect."""

    again: str
    first: str
    second: str
    nouns: str
    kinds: str


def _uniform(texts: Sequence[str], total: float = 1.0) -> dict[str, float]:
    return {text: total / len(texts) for text in texts}


def _words(positive: str, neutral: str, negative: str) -> dict[int, tuple[str, ...]]:
    return {1: tuple(positive.split()), 0: tuple(neutral.split()), -1: tuple(negative.split())}


# The grammar. Probabilities of counts, of forms and of each table in FREE sum to 1.
FAITHFUL = 0.6  # the probability that a slot takes the mood's class; the other two share the rest
COUNTS = {1: 0.2, 2: 0.5, 3: 0.3}  # number of sentences -> probability
# Template -> probability. Its one full stop is at its end; its fields are names in FREE, in SLOTS, or those of the
# domain (aspect, from either list; first; second; again).
FORMS = {
    "{opener}the {aspect} was {adverb}{adjective}.": 0.4,
    "{opener}the {first} was {adjective} {conjunction} the {second} was {adjective}.": 0.2,
    "{opener}i {verb} the {aspect}.": 0.2,
    "{opener}i would {wish} {again} again.": 0.2,
}
FREE = {  # field -> text -> probability, the same in every domain
    "opener": {"": 0.5} | _uniform(("overall, ", "for me, ", "in short, ", "this time, ", "in truth, ",
                                    "all told, ", "as expected, ", "as always, "), 0.5),
    "adverb": {"": 0.5} | _uniform(("really ", "quite ", "rather ", "truly ", "simply ", "frankly "), 0.5),
    "conjunction": _uniform(("and", "but", "while", "yet")),
}  # fmt: skip
SLOTS = {  # field -> class -> equally likely words, at least one
    "adjective": _words("great lovely superb wonderful excellent fantastic amazing brilliant",
                        "average ordinary standard typical normal plain okay passable",
                        "awful terrible horrible dreadful poor bad weak disappointing"),
    "verb": _words("loved enjoyed liked admired adored praised",
                   "noticed noted remembered expected recalled accepted",
                   "hated disliked loathed resented detested regretted"),
    "wish": _words("gladly happily surely eagerly", "maybe perhaps possibly sometimes", "never hardly not scarcely"),
}  # fmt: skip
SIZES = "new old little big popular famous local modern classic cheap fancy simple trendy humble quirky grand"
DOMAINS = {
    "restaurant": Domain("eat here", "food soup bread coffee", "service menu wine terrace",
            "bistro restaurant diner cafe", "thai italian indian greek mexican french turkish vegan"),
    "film": Domain("watch it", "plot script ending dialogue", "acting music casting",
            "film movie thriller drama", "horror spy crime war space family school sports"),
    "hotel": Domain("stay here", "room bed bathroom", "breakfast pool view",
            "hotel hostel inn resort", "beach city mountain airport lake island garden family"),
    "book": Domain("read it", "plot prose opening ending", "hero setting humour",
            "novel book story saga", "fantasy mystery romance history travel pirate ghost school"),
    "device": Domain("buy it", "screen battery speaker", "design price software",
            "phone tablet laptop camera", "business student gaming travel outdoor school office pocket"),
    "concert": Domain("see it", "music sound band", "venue lighting crowd",
            "concert show festival gig", "jazz rock folk soul punk blues opera choir"),
    "course": Domain("take it", "teacher pace content", "room schedule homework",
            "course class workshop lesson", "cooking painting dance yoga chess piano writing swimming"),
    "museum": Domain("visit it", "collection guide building", "shop layout view",
            "museum exhibition gallery tour", "art railway science toy history folk fashion space"),
}  # fmt: skip


def domain_of(subject: str) -> str:
    """The domain of a subject such as "new thai bistro", by its last word. Raises ValueError if unknown."""
    noun = subject.rpartition(" ")[2]
    for name, domain in DOMAINS.items():
        if noun in domain.nouns.split():
            return name
    raise ValueError(f"no domain has the subject {subject!r}")


@lru_cache(maxsize=None)
def _tables(domain: str) -> dict[str, dict[str, float]]:
    """Every field that carries no class -> text -> probability."""
    own = DOMAINS[domain]
    first, second = own.first.split(), own.second.split()
    return FREE | {"aspect": _uniform(first + second), "first": _uniform(first),
                   "second": _uniform(second), "again": {own.again: 1.0}}  # fmt: skip


@lru_cache(maxsize=None)
def _forms(domain: str) -> list[tuple[re.Pattern, list[str], list[str]]]:
    """For each form: a pattern that captures the fields, the fixed texts around them, the fields' names."""
    free, forms = _tables(domain), []
    for template in FORMS:
        fixed, fields = (part := re.split(r"\{(\w+)\}", template))[::2], part[1::2]
        pattern = re.escape(fixed[0])
        for field, text in zip(fields, fixed[1:]):
            options = free[field] if field in free else sum(SLOTS[field].values(), ())
            pattern += f"({'|'.join(map(re.escape, options))}){re.escape(text)}"
        forms.append((re.compile(pattern), fixed, fields))
    return forms


def sample_review(subject: str, rng: random.Random) -> tuple[str, list[int]]:
    """A review of the subject and the classes of its slots, each 1, 0 or -1, in the text's order."""
    domain = domain_of(subject)
    free, mood = _tables(domain), rng.choice(CLASSES)
    count = rng.choices(*zip(*COUNTS.items()))[0]
    sentences, classes = [], []
    for _, fixed, fields in rng.choices(_forms(domain), FORMS.values(), k=count):
        text = fixed[0]
        for field, after in zip(fields, fixed[1:]):
            if field in free:
                text += rng.choices(*zip(*free[field].items()))[0] + after
            else:
                chosen = mood if rng.random() < FAITHFUL else rng.choice([c for c in CLASSES if c != mood])
                classes.append(chosen)
                text += rng.choice(SLOTS[field][chosen]) + after
        sentences.append(text)
    return " ".join(sentences), classes


def _derivation(text: str, domain: str) -> tuple[float, list[int]] | None:
    """(log-probability of all but the classes, classes) of the one derivation of the text, or None."""
    free, sentences, classes = _tables(domain), re.findall(r"[^ .][^.]*\.", text), []
    if " ".join(sentences) != text or len(sentences) not in COUNTS:
        return None
    log_p = math.log(COUNTS[len(sentences)])
    for sentence in sentences:
        for (pattern, _, fields), form_p in zip(_forms(domain), FORMS.values()):
            if match := pattern.fullmatch(sentence):
                break
        else:
            return None
        log_p += math.log(form_p)
        for field, value in zip(fields, match.groups()):
            if field in free:
                log_p += math.log(free[field][value])
            else:
                chosen = next(c for c, words in SLOTS[field].items() if value in words)
                classes.append(chosen)
                log_p -= math.log(len(SLOTS[field][chosen]))
    return log_p, classes


def _class_probability(classes: list[int]) -> float:
    """P(classes) = 1/3 Σ_mood Π_i P(class_i | mood)."""
    other = (1 - FAITHFUL) / 2
    return sum(math.prod(FAITHFUL if c == mood else other for c in classes) for mood in CLASSES) / 3


def parse_review(text: str, domain: str) -> list[int] | None:
    """The classes of the text's slots, each 1, 0 or -1; None unless the grammar writes exactly this text."""
    derivation = _derivation(text, domain)
    return derivation and derivation[1]


def log_probability(text: str, subject: str) -> float:
    """log P(text | subject) in nats, the mood summed out; -inf for a text the grammar cannot write."""
    known = _derivation(text, domain_of(subject))
    return known[0] + math.log(_class_probability(known[1])) if known else -math.inf


def _plogp(p: float) -> float:
    return -p * math.log(p) if p > 0 else 0.0


@lru_cache(maxsize=None)
def _class_entropy(slots: int) -> float:
    """Entropy of the classes of so many slots. The classes depend on each other, since the mood is summed out.
    Their probability depends only on how many there are of each."""
    total = 0.0
    for a, b in product(range(slots + 1), repeat=2):
        ways = math.comb(slots, a) * math.comb(slots - a, b) if a + b <= slots else 0
        total += ways * _plogp(_class_probability([1] * a + [0] * b + [-1] * (slots - a - b)))
    return total


def entropy_of(subject: str) -> float:
    """Exact entropy of a review of the subject, in nats per text.

        H = H(count) + E[count] (H(form) + E[H(fields | form)]) + E[H(classes | slots)]

    The fields, and the words within a class, are independent given the forms and the classes.
    """
    free = _tables(domain_of(subject))
    per_sentence, shapes = 0.0, []
    for template, p in FORMS.items():
        fields = re.findall(r"\{(\w+)\}", template)
        slots = [SLOTS[field] for field in fields if field in SLOTS]
        per_sentence += _plogp(p) + p * sum(_plogp(q) for f in fields if f in free for q in free[f].values())
        # One slot alone has each class with probability 1/3.
        per_sentence += p * sum(math.log(len(words)) / 3 for slot in slots for words in slot.values())
        shapes.append((p, len(slots)))
    total = 0.0
    for count, count_p in COUNTS.items():
        total += _plogp(count_p) + count_p * count * per_sentence
        for forms in product(shapes, repeat=count):
            p, slots = math.prod(p for p, _ in forms), sum(n for _, n in forms)
            total += count_p * p * _class_entropy(slots)
    return total


@lru_cache(maxsize=None)
def subjects(split: str) -> tuple[str, ...]:
    """All subjects of a split. Raises ValueError for an unknown split."""
    check_split(split, ("train", *EVAL_SPLITS))
    every = (f"{size} {kind} {noun}" for d in DOMAINS.values()
             for size in SIZES.split() for kind in d.kinds.split() for noun in d.nouns.split())
    return tuple(subject for subject in every if task_split(f"{NAME} {subject}") == split)


def text_split(text: str) -> str:
    """The split of a review text that is itself the question, as in `sentiment`."""
    return task_split(f"{NAME} text {text}")


def records(split: str, n: int, seed: int) -> list[dict]:
    """n records with "subject"; subjects repeat in train, with fresh reviews, and are distinct elsewhere.

    The split is by subject. Reviews are drawn independently in every split, so a short one may occur in
    two of them. Raises ValueError for an unknown split, UserError if it has fewer than n subjects.
    """
    rng = random.Random(f"{NAME} {split} {seed}")
    return [{"task": NAME, "prompt": f"review of the {subject}:", "response": sample_review(subject, rng)[0],
             "subject": subject} for subject in draw_items(subjects(split), n, rng, split)]


def documents(n: int, seed: int) -> list[str]:
    """n reviews of training subjects whose text is on the training side of `sentiment`, too."""
    rng = random.Random(f"{NAME} documents {seed}")
    out = []
    while len(out) < n:
        text, _ = sample_review(rng.choice(subjects("train")), rng)
        if text_split(text) == "train":
            out.append(text)
    return out


def reward(prompt: str, response: str, record: dict) -> float:
    """clip((positive - negative slots) / 3, -1, 1) moved to [0, 1]; 0 if the response does not parse."""
    classes = parse_review(response, domain_of(record["subject"]))
    return 0.0 if classes is None else (1 + max(-1.0, min(1.0, sum(classes) / 3))) / 2


def score(prompt: str, response: str, record: dict) -> dict[str, float]:
    """{"grammatical"}: 1.0 where the response parses."""
    return {"grammatical": float(parse_review(response, domain_of(record["subject"])) is not None)}
