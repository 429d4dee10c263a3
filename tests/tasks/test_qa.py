"""Questions over a passage: the answers follow from its triples, and two steps are never trained together."""

import re
from collections import Counter

from minirlhf.tasks import qa


SAID = r"(\w+) (lives in|works as a|has a|plays the) (\w+)|the (\w+) of (\w+) is (\w+)"
ASKED = {"where does X live": ("lives in", "in"), "what is the job of X": ("works as a", "a"),
         "what pet does X have": ("has a", "a"), "what does X play": ("plays the", "the")}  # fmt: skip


def read(record: dict) -> tuple[dict, tuple[str, str, str], str]:
    """(relation, person) -> value, in the passage's order; (relation, link or "", person) of the question; the words
    before the value in an answer."""
    passage, question = re.fullmatch(r"(.*)\. ([^.]*)\?", record["prompt"]).groups()
    found = {}
    for sentence in passage.split(". "):
        person, relation, value, link, whose, other = re.fullmatch(SAID, sentence).groups()
        found[(relation, person) if person else (link, whose)] = value or other
    assert len(found) == 5
    if question.startswith("who"):
        return found, (*re.fullmatch(r"who is the (\w+) of (\w+)", question).expand(r"\1  \2").split(" "),), ""
    link, person = re.search(r"(?:the (?!job)(\w+) of )?(\b(?:" + "|".join(qa.PEOPLE) + r"))\b", question).groups("")
    relation, article = ASKED[question.replace(f"the {link} of {person}" if link else person, "X")]
    return found, (relation, link, person), article


def test_the_answer_follows_from_the_passage_by_one_triple_or_by_two():
    for split in ("train", *qa.EVAL_SPLITS):
        for record in qa.records(split, 100, 1):
            facts, (relation, link, person), article = read(record)
            value = facts[relation, facts[link, person] if link else person]
            assert f"{article} {value}".strip() == record["answer"] == record["response"]


def test_no_question_over_two_triples_is_trained_on_and_test_two_has_no_other():
    for split in ("train", *qa.EVAL_SPLITS):
        assert {bool(read(record)[1][1]) for record in qa.records(split, 100, 2)} == {split == "test_two"}


def test_whoever_takes_the_boss_of_anna_for_anna_finds_an_answer_and_a_wrong_one():
    for record in qa.records("test_two", 100, 3):
        facts, (relation, _, person), article = read(record)
        assert f"{article} {facts[relation, person]}" != record["answer"]


def test_no_relation_is_rare_and_no_place_in_the_passage_gives_the_answer_away():
    asked = [(list(facts), relation, person) for facts, (relation, _, person), _ in map(read, qa.records("train", 2000, 0))]
    assert len(Counter(relation for _, relation, _ in asked)) == len(qa.RELATIONS) + len(qa.LINKS)
    assert min(Counter(relation for _, relation, _ in asked).values()) > 50
    assert min(Counter(keys.index((relation, person)) for keys, relation, person in asked).values()) > 0.15 * len(asked)
