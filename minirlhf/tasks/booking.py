"""Booking: a guest wants a table and forgets to say half of it; the policy asks, then books.

    hello, a table on friday  ->  how many people?  ‹we are four›  what time?  ‹at 7 pm›  booked: four, friday, 7 pm

Words of the simulated guest are drawn, and now and then it says more than was asked. The conversations to learn from
are of a hasty clerk: more often than not it guesses what it should ask for, and it asks for what it has been told. So
SFT learns to be hasty. Who never asks earns 0.176 at most (tests/tasks/test_booking.py). The split goes by two hashes,
of the request and of what is wanted: both are held out.
"""

import random
from collections.abc import Iterable

from minirlhf.harness.files import UserError
from minirlhf.tasks.splits import check_split, task_split

NAME = "booking"
MAX_NEW = 24  # of each answer
SLOTS = ("people", "day", "time")
FIELDS = (*SLOTS, "given")
REWARD = "right booking"
RL_WEIGHT = 1.0
EVAL_SPLITS = ("validation", "test")
VALUES = {
    "people": "two three four five six seven eight nine".split(),
    "day": "monday tuesday wednesday thursday friday saturday sunday".split(),
    "time": [f"{hour} pm" for hour in range(5, 11)] + [f"half past {hour}" for hour in range(5, 10)],
}
QUESTIONS = {"people": "how many people?", "day": "which day?", "time": "what time?"}
SAID = {  # how a guest says it, in an answer
    "people": ("{}", "we are {}", "{} people"), "day": ("{}", "on {}", "{}, please"),
    "time": ("{}", "at {}", "make it {}"),
}  # fmt: skip
BEGUN = {"people": "for {}", "day": "on {}", "time": "at {}"}  # and in a request
HELLO = ("", "hi, ", "hello, ", "good evening, ")
WISHES = "a table|i need a table|i would like a table|can i have a table|please book a table|a table please".split("|")
MORE, REPEAT, GUESS = 0.3, 0.15, 0.6  # how often a guest says more, and the clerk asks again, or does not ask
DRAWS = 10_000  # in a row that find no other request of a held-out split: there are no more
NEEDLESS = 0.1  # what a question costs whose answer was known


def wanted(rng: random.Random) -> dict[str, str]:
    """What a guest wants, and which of it the request says."""
    slots = {slot: rng.choice(VALUES[slot]) for slot in SLOTS}
    return slots | {"given": " ".join(slot for slot in SLOTS if rng.random() < 0.5)}


def records(split: str, n: int, seed: int) -> list[dict]:
    """n records of what is wanted and "given", with the clerk's "messages". No request occurs twice in a held-out
    split. Raises ValueError for an unknown split, UserError where it has too few requests."""
    check_split(split, ("train", *EVAL_SPLITS))
    rng, out, seen, draws = random.Random(f"{NAME} {split} {seed}"), [], set(), 0
    while len(out) < n:
        slots, draws = wanted(rng), draws + 1
        if draws > DRAWS:
            raise UserError(f"asked for {n} distinct prompts of {NAME}'s {split} split, which has fewer; ask for fewer")
        given = [BEGUN[slot].format(slots[slot]) for slot in slots["given"].split()]
        words = rng.choice(HELLO) + " ".join([rng.choice(WISHES), *given])
        sides = {task_split(f"{NAME} {x}") for x in (words, " ".join(slots[s] for s in SLOTS))}
        if sides != {split} or (split != "train" and words in seen):
            continue
        seen.add(words)
        draws = 0
        record = {"task": NAME, "prompt": words, **slots}
        messages = clerk(record, rng)
        out.append(record | {"response": messages[-1]["content"], "messages": messages})
    return out


def clerk(record: dict, rng: random.Random) -> list[dict]:
    """A whole conversation, as a hasty clerk has it."""
    messages = [{"role": "user", "content": record["prompt"]}]
    booked, order = dict(record), rng.sample(SLOTS, len(SLOTS))
    for slot in order:
        known = slot in told(record, messages)
        if rng.random() < (REPEAT if known else 1 - GUESS):
            messages.append({"role": "assistant", "content": QUESTIONS[slot]})
            messages.append({"role": "user", "content": reply(record | {"messages": messages}, rng)})
        elif not known:
            booked[slot] = rng.choice(VALUES[slot])
    return [*messages, {"role": "assistant", "content": booking(booked)}]


def booking(slots: dict) -> str:
    """The last answer."""
    return f"booked: {', '.join(slots[slot] for slot in SLOTS)}"


def told(record: dict, messages: Iterable[dict]) -> set[str]:
    """The slots that the guest has said: in the request, or in an answer."""
    heard = [f" {m['content'].replace(',', '')} " for m in [*messages][1:] if m["role"] == "user"]
    return {*record["given"].split(), *(slot for slot in SLOTS if any(f" {record[slot]} " in text for text in heard))}


def reply(conversation: dict, rng: random.Random) -> str | None:
    """What the guest answers; None to a booking."""
    said = conversation["messages"][-1]["content"].strip()
    if said.startswith("booked"):
        return None
    slot = next((slot for slot, question in QUESTIONS.items() if question == said), None)
    if slot is None:
        return "sorry?"
    words = [rng.choice(SAID[slot]).format(conversation[slot])]
    rest = [s for s in SLOTS if s not in told(conversation, conversation["messages"]) | {slot}]
    if rest and rng.random() < MORE:
        more = rng.choice(rest)
        words.append(BEGUN[more].format(conversation[more]))
    return ", ".join(words)


def needless(record: dict) -> int:
    """How many questions asked what had been told, or nothing that a guest understands."""
    messages, n = record.get("messages", []), 0
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            asked = next((slot for slot, question in QUESTIONS.items() if question == message["content"].strip()), None)
            n += asked is None or asked in told(record, messages[:i])
    return n


def reward(prompt: str, response: str, record: dict) -> float:
    """1 for what the guest wants, less NEEDLESS for each needless question before it; 0 for another booking."""
    return float(response.strip() == booking(record)) * max(0.0, 1 - NEEDLESS * needless(record))


def score(prompt: str, response: str, record: dict) -> dict[str, float]:
    """Whether the booking is right, and how many questions were needless."""
    return {"right": float(response.strip() == booking(record)), "needless": float(needless(record))}


def documents(n: int, seed: int) -> list[str]:
    """n requests of training, and what would be booked for each."""
    return [f"{r['prompt']}\n{booking(r)}" for r in records("train", n, seed)]
