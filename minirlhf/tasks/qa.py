"""Question answering: five sentences and a question -> the words that answer it.

    carl lives in rome. the boss of anna is carl. anna has a dog. anna lives in oslo. carl has a cat.
    where does carl live?                -> in rome    one triple (carl, home, rome): train, validation, test
    where does the boss of anna live?    -> in rome    two triples, (anna, boss, carl) before it: test_two

No question over two triples is in training. So test_two measures composition: each step is trained, their sequence
never. Its passage also says where anna lives. So who takes the boss of anna for anna is wrong, and who picks one of
both is right half of the time, in every split. The split is by a hash of the passage.
"""

import random

from minirlhf.metrics.overlap import token_f1
from minirlhf.tasks import arithmetic
from minirlhf.tasks.splits import text_task

NAME = "qa"
MAX_NEW = 8
FIELDS = ("answer",)
REWARD = "exact match"
RL_WEIGHT = 2.0
EVAL_SPLITS = ("validation", "test", "test_two")

PEOPLE = "anna boris carl dora emil fatima george hanna ivan julia karim lena marco nadia oscar petra".split()
LINKS = ("boss", "friend", "teacher", "cousin")
RELATIONS = (  # how it is said, how it is asked, what it can be; a link is a relation to another person
    ("{} lives {}", "where does {} live?", "in {}", "oslo rome paris cairo lima quito delhi tokyo seoul vienna"),
    ("{} works as {}", "what is the job of {}?", "a {}", "baker farmer nurse pilot tailor clerk judge cook guard poet"),
    ("{} has {}", "what pet does {} have?", "a {}", "dog cat horse parrot rabbit turtle goat hamster snake spider"),
    ("{} plays {}", "what does {} play?", "the {}", "flute violin piano guitar harp drums cello trumpet organ lute"),
)


def _record(rng: random.Random, split: str) -> tuple[str, dict]:
    (first, second), link = rng.sample(PEOPLE, 2), rng.choice(LINKS)
    asked = [(f"the {link} of {first} is {second}", f"who is the {link} of {{}}?", first, second)]
    for said, ask, answer, values in rng.sample(RELATIONS, 2):
        for person, value in zip((first, second), rng.sample(values.split(), 2)):
            asked.append((said.format(person, answer.format(value)), ask, person, answer.format(value)))
    two = split == "test_two"
    _, ask, person, answer = asked[-1] if two else rng.choice(asked)
    passage = ". ".join(said for said, *_ in rng.sample(asked, len(asked))) + "."
    prompt = f"{passage} {ask.format(f'the {link} of {first}' if two else person)}"
    return passage, {"task": NAME, "prompt": prompt, "response": answer, "answer": answer}


records, documents = text_task(NAME, EVAL_SPLITS, _record)
reward = arithmetic.reward  # 1.0 if the response is the record's answer


def score(prompt: str, response: str, record: dict) -> dict[str, float]:
    """{"token F1"}: SQuAD's, which forgives articles, punctuation, case, and in part a word too many."""
    return {"token F1": token_f1(response, [record["answer"]])}
