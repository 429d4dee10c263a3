"""The generated tasks: splits that cannot leak, exact rewards, and a review grammar whose law is known."""

import hashlib
import json
import math
import os
import random
import re
import subprocess
import sys
from collections import Counter
from itertools import product

import pytest

from minirlhf.harness.files import UserError
from minirlhf.tasks import (
    DEFAULT, TASKS, arithmetic, booking, entities, reviews, reward_of_task, sentiment, summary, task_of, translation,
)
from minirlhf.tasks.sources import parse_tasks
from minirlhf.tasks.splits import task_split
from train_sft import Data

EVERY = [(task, split) for task in TASKS.values() for split in ("train", *task.EVAL_SPLITS)]
IDS = [f"{task.NAME}-{split}" for task, split in EVERY]


def operands(record: dict) -> tuple[int, ...]:
    """The operands of an arithmetic prompt, read off its text, the smaller one first."""
    return tuple(sorted(map(int, record["prompt"].rstrip("=").split("+"))))


@pytest.mark.parametrize("task, split", EVERY, ids=IDS)
def test_every_generated_response_earns_what_it_should(task, split):
    for record in task.records(split, 200, 3):
        prompt, response = record["prompt"], record["response"]
        assert record["task"] == task.NAME
        assert prompt == prompt.strip() and response == response.strip() and prompt and response
        values = task.score(prompt, response, record)
        if task is booking:  # a hasty clerk's: tests/tasks/test_booking.py
            assert 0.0 <= task.reward(prompt, response, record) <= 1.0
        elif task is reviews:
            assert values["grammatical"] == 1.0 and 0.0 <= task.reward(prompt, response, record) <= 1.0
        else:
            assert task.reward(prompt, response, record) == 1.0
            assert all(v == (name != "unparsable") for name, v in values.items())


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_junk_around_a_right_answer_earns_nothing_more(task):
    """0 for an exact reward; less than the answer alone for a graded one: chrF, facts, entities."""
    for record in task.records("test", 50, 0):
        prompt, right = record["prompt"], record["response"]
        for wrong in (f"{right} {right}", f"answer: {right}", f"{right}x", f"x{right}", f"{right}\nx",
                      right[:-1], "", " ", "%$#", "\ud800"):
            value = task.reward(prompt, wrong, record)
            assert 0.0 <= value < 1.0
            if task not in (translation, summary, entities) and not (task is reviews and wrong == f"{right} {right}"):
                assert value == 0.0
            assert task.score(prompt, wrong, record).get("exact match", 0.0) == 0.0
        if task in (sentiment, arithmetic):
            assert task.reward(prompt, f" {right}\n", record) == 1.0


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_no_prompt_is_in_two_splits_and_none_twice_in_a_held_out_one(task):
    train = {r["prompt"] for r in task.records("train", 8000, 0)}
    held = {split: [r["prompt"] for seed in (0, 1) for r in task.records(split, 300, seed)]
            for split in task.EVAL_SPLITS}
    for split, prompts in held.items():
        assert len(set(prompts[:300])) == 300 and len(set(prompts)) > 350  # another seed, other prompts
        assert train.isdisjoint(prompts)
        assert all(set(prompts).isdisjoint(held[other]) for other in held if other != split)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_documents_hold_nothing_that_is_held_out(task):
    documents = set(task.documents(8000, 0))
    assert all(text == text.strip() and text for text in documents)
    for split in task.EVAL_SPLITS:
        for record in task.records(split, 300, 2):
            prompt, response = record["prompt"], record["response"]
            held = {prompt, f"{prompt} {response}", f"{prompt}{response}"}
            if task is sentiment:
                held.add(prompt.removesuffix(" sentiment:"))
            if task is translation:
                held |= {prompt.removeprefix("english: ").removesuffix(" chinese:"), response}
            assert documents.isdisjoint(held)
    if task is arithmetic:
        train = {operands(r) for r in arithmetic.records("train", 40000, 0)}
        assert {tuple(sorted(map(int, d.split("=")[0].split("+")))) for d in documents} <= train
        assert all(int(d.split("=")[1]) == sum(map(int, d.split("=")[0].split("+"))) for d in documents)


@pytest.mark.parametrize("name", ["qa", "summary", "entities"])
def test_no_training_text_is_one_that_a_held_out_question_is_about(name):
    """By the text itself, whatever is asked about it: what stands before the question or cue."""
    text = lambda said: re.match(r"([^.?]+\.){5}|.*\.", said)[0]  # noqa: E731
    held = {text(r["prompt"]) for split in TASKS[name].EVAL_SPLITS for r in TASKS[name].records(split, 50, 0)}
    trained = [*TASKS[name].documents(1000, 0), *(r["prompt"] for r in TASKS[name].records("train", 1000, 0))]
    assert len(held) > 90 and held.isdisjoint(map(text, trained))


def test_a_run_that_names_no_task_learns_four():
    assert [task.NAME for task in DEFAULT] == ["reviews", "sentiment", "arithmetic", "translation"]
    assert set(parse_tasks(Data().task)) == {task.NAME for task in DEFAULT}


def test_no_document_of_any_task_is_a_held_out_review_of_sentiment():
    """The other way round from the test above: by the rule of the split, for every text there is."""
    for task in (reviews, sentiment):
        assert {reviews.text_split(text) for text in task.documents(3000, 1)} == {"train"}
    # Short reviews are so few that two draws must meet, were they not kept apart.
    short = {r["prompt"].removesuffix(" sentiment:") for r in sentiment.records("test", 3000, 0)}
    assert short.isdisjoint(sentiment.documents(15000, 1))


def test_records_and_documents_depend_on_the_seed_alone_not_on_the_process():
    program = (
        "import hashlib, json\n"
        "from minirlhf.tasks import TASKS\n"
        "out = [[t.records(s, 50, 7) for s in ('train', *t.EVAL_SPLITS)] + t.documents(50, 7)"
        " for t in TASKS.values()]\n"
        "print(hashlib.sha256(json.dumps(out).encode()).hexdigest())\n"
    )
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    seed = "1" if os.environ.get("PYTHONHASHSEED") == "0" else "0"  # not that of this process
    there = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True,
                           env=os.environ | path | {"PYTHONHASHSEED": seed}).stdout  # fmt: skip
    here = [[t.records(s, 50, 7) for s in ("train", *t.EVAL_SPLITS)] + t.documents(50, 7)
            for t in TASKS.values()]
    assert there == hashlib.sha256(json.dumps(here).encode()).hexdigest() + "\n"
    for task in TASKS.values():
        assert task.records("train", 50, 7) != task.records("train", 50, 8)
        assert task.documents(50, 7) != task.documents(50, 8)


@pytest.mark.parametrize("task", [reviews, arithmetic, translation], ids=lambda task: task.NAME)
def test_more_prompts_than_there_are_is_an_error_that_says_how_many_there_are(task):
    with pytest.raises(UserError, match="which has") as error:
        task.records("test", 10**9, 0)
    available = int(re.search(r"which has (\d+); ask for fewer", str(error.value))[1])
    assert available > 300
    if task is not translation:
        assert len({r["prompt"] for r in task.records("test", available, 0)}) == available
    with pytest.raises(UserError):
        task.records("test", available + 1, 0)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_an_unknown_split_is_an_error_that_lists_the_known_ones(task):
    with pytest.raises(ValueError, match="train, validation, test"):
        task.records("dev", 1, 0)


def test_the_held_out_shares_are_near_a_tenth():
    shares = Counter(task_split(str(i)) for i in range(20000))
    for counts in (
        shares,
        {s: len(reviews.subjects(s)) for s in shares},
        {s: len(arithmetic.operand_pairs(s)) for s in shares},
        {s: translation.frames(s)[1][-1] for s in shares},
        Counter(reviews.text_split(r["response"]) for r in reviews.records("train", 5000, 0)),
    ):
        total = sum(counts.values())
        assert counts["train"] / total == pytest.approx(0.8, abs=0.03)
        assert counts["validation"] / total == pytest.approx(0.1, abs=0.02)
        assert counts["test"] / total == pytest.approx(0.1, abs=0.02)


# Arithmetic


def test_no_unordered_operand_pair_is_in_two_splits():
    splits = ("train", *arithmetic.EVAL_SPLITS[:3])
    seen = {s: {tuple(sorted(p)) for p in arithmetic.operand_pairs(s)} for s in splits}
    for one, other in product(seen, repeat=2):
        assert one == other or seen[one].isdisjoint(seen[other])
    assert all(operands(r) in seen["train"] for r in arithmetic.records("train", 3000, 0))


def test_the_held_out_range_and_length_are_never_trained_on():
    left = {r["prompt"].split("+")[0] for r in arithmetic.records("train", 20000, 0)}
    assert left == {str(a) for a in range(100) if not 40 <= a < 50}
    held = {r["prompt"].split("+")[0] for r in arithmetic.records("test_range", 600, 0)}
    assert held == {str(a) for a in range(40, 50)}
    assert all(min(operands(r)) >= 100 for r in arithmetic.records("test_long", 1000, 0))
    # A 4 in the tens is not new: training shows it on the right.
    assert {b for _, b in arithmetic.operand_pairs("train")} == set(range(100))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_split_says_nothing_about_a_digit_of_the_sum(split):
    """A linear hash once decided the split by (a + b) mod 10: no held-out answer was ever trained on."""
    pairs = arithmetic.operand_pairs(split)
    for digit in (lambda a, b: a + b, lambda a, b: a, lambda a, b: b, lambda a, b: a - b):
        counts = Counter(digit(a, b) % 10 for a, b in pairs)
        expected = len(pairs) / 10
        chi2 = sum((counts[d] - expected) ** 2 / expected for d in range(10))
        # 9 degrees of freedom; mirrored pairs go together, which doubles the variance. 1 in 10**5 is 39 x 2.
        assert chi2 < 78


# Sentiment


def test_the_label_is_the_sign_of_the_review_and_no_class_is_rare():
    records = sentiment.records("train", 5000, 0)
    for record in records[:500]:
        text = record["prompt"].removesuffix(" sentiment:")
        total = next(sum(c) for d in reviews.DOMAINS if (c := reviews.parse_review(text, d)) is not None)
        assert record["label"] == ("positive" if total > 0 else "negative" if total < 0 else "neutral")
    counts = Counter(r["label"] for r in records)
    assert set(counts) == set(sentiment.LABELS) and min(counts.values()) > 0.2 * len(records)


@pytest.mark.parametrize("text, label", [
    ("positive", "positive"), (" negative\n", "negative"), ("neutral", "neutral"), ("Positive", None),
    ("positive.", None), ("positive negative", None), ("not positive", None), ("", None),
])
def test_a_label_is_parsed_exactly(text, label):
    earned = [name for name in sentiment.LABELS if sentiment.reward("", text, {"label": name}) == 1.0]
    assert earned == ([label] if label else [])
    assert sentiment.score("", text, {"label": "neutral"})["unparsable"] == (label is None)


# Translation


def test_the_translation_is_one_to_one():
    pairs = [(r["prompt"], r["response"]) for r in translation.records("train", 50000, 0)]
    assert len(set(pairs)) > 45000
    assert len({e for e, _ in pairs}) == len({c for _, c in pairs}) == len(set(pairs))


@pytest.mark.parametrize("english, chinese", [
    (("my mother", "buy", "red", "apple", "past", "two", "", "yesterday"), "我妈妈昨天买了两个红苹果。"),
    (("he", "sell", "old", "car", "past", "a", "in beijing", "last week"), "他上周在北京卖了一辆旧车。"),
    (("i", "read", "interesting", "story", "past not", "those", "at the library", ""), "我没在图书馆读那些有趣的故事。"),
    (("she", "wash", "white", "shirt", "want not", "this", "at home", "now"), "她现在不想在家洗这件白衬衫。"),
    (("we", "eat", "", "egg", "future", "many", "", "tonight"), "我们今晚会吃很多鸡蛋。"),
    (("the doctor", "borrow", "black", "pen", "future not", "that", "", "tomorrow"), "医生明天不会借那支黑笔。"),
])
def test_chinese_word_order_measure_words_and_aspect(english, chinese):
    frame, setting = translation.Frame(*english[:4]), translation.Setting(*english[4:])
    assert setting in translation.settings_of(frame.verb)
    assert translation.chinese(frame, setting) == chinese


@pytest.mark.parametrize("frame, setting, expected", [
    (("i", "read", "old", "book"), ("past", "a", "", ""), "i read an old book."),
    (("she", "read", "long", "story"), ("want", "ten", "at home", "today"),
     "she wants to read ten long stories at home today."),
    (("they", "buy", "", "watch"), ("want not", "these", "", ""), "they do not want to buy these watches."),
    (("he", "buy", "", "egg"), ("want not", "that", "", ""), "he does not want to buy that egg."),
    (("you", "see", "", "tree"), ("past not", "this", "in the park", "last night"),
     "you did not see this tree in the park last night."),
])
def test_english_agreement_articles_and_plurals(frame, setting, expected):
    assert translation.english(translation.Frame(*frame), translation.Setting(*setting)) == expected


def test_translation_is_learnable_and_large():
    records = translation.records("train", 20000, 0)
    assert 120 <= len({char for r in records for char in r["response"]}) <= 180
    assert len({r["prompt"] for r in records}) > 19000
    words = [len(r["prompt"].split()) - 2 for r in records]  # without the two cues
    assert 0.9 < sum(6 <= w <= 12 for w in words) / len(words) and max(words) <= 15


def test_the_translation_reward_is_graded():
    record = {"reference": "我妈妈昨天买了两个红苹果。"}
    near = translation.reward("", "我妈妈昨天买了三个红苹果。", record)
    far = translation.reward("", "医生想画一只鸟。", record)
    assert 1.0 > near > far >= 0.0 == translation.reward("", "xyz", record)


# Reviews

TINY = {
    "DOMAINS": {"d": reviews.Domain("go", "p q", "r", "thing", "kind")},
    "COUNTS": {1: 0.3, 2: 0.5, 3: 0.2},
    "FORMS": {"{opener}the {aspect} was {adverb}{adjective}.": 0.5,
              "the {first} {adjective} {link} {second} {adjective}.": 0.2, "i {wish} {again}.": 0.3},
    "FREE": {"opener": {"": 0.6, "so, ": 0.4}, "adverb": {"": 0.75, "very ": 0.25}, "link": {"and": 1.0}},
    "SLOTS": {"adjective": {1: ("good",), 0: ("fair",), -1: ("bad",)},
              "wish": {1: ("will", "shall"), 0: ("may",), -1: ("never",)}},
    "FAITHFUL": 0.7,
}


@pytest.fixture
def tiny():
    """The module with the tables of a grammar that is small enough to enumerate."""
    caches = (reviews._tables, reviews._forms, reviews._class_entropy)
    with pytest.MonkeyPatch.context() as patch:
        for name, table in TINY.items():
            patch.setattr(reviews, name, table)
        for cache in caches:
            cache.cache_clear()
        yield
    for cache in caches:
        cache.cache_clear()


def enumerate_tiny() -> dict[str, float]:
    """Every text of TINY and its probability, by walking through all choices, mood first."""
    texts = Counter()
    free = TINY["FREE"] | {"aspect": {a: 1 / 3 for a in "pqr"}, "first": {"p": 0.5, "q": 0.5}, "second": {"r": 1.0},
                     "again": {"go": 1.0}}
    for mood in (1, 0, -1):
        sentences = []
        for template, form_p in TINY["FORMS"].items():
            fields = re.findall(r"{(\w+)}", template)
            options = [list(free[f].items()) if f in free else
                       [(w, (0.7 if c == mood else 0.15) / len(words))
                        for c, words in TINY["SLOTS"][f].items() for w in words]
                       for f in fields]
            for choice in product(*options):
                text = re.sub(r"{\w+}", "%s", template) % tuple(word for word, _ in choice)
                sentences.append((text, form_p * math.prod(p for _, p in choice)))
        for count, count_p in TINY["COUNTS"].items():
            for chosen in product(sentences, repeat=count):
                texts[" ".join(text for text, _ in chosen)] += count_p / 3 * math.prod(p for _, p in chosen)
    return texts


def test_log_probability_and_entropy_equal_enumeration_on_a_tiny_grammar(tiny):
    texts = enumerate_tiny()
    assert len(texts) > 50000 and sum(texts.values()) == pytest.approx(1, abs=1e-9)
    some = random.Random(0).sample(sorted(texts), 5000) + sorted(texts, key=len)[:200]
    for text in some:
        log_p = reviews.log_probability(text, "new kind thing")
        assert log_p == pytest.approx(math.log(texts[text]), abs=1e-9)
    brute = -sum(p * math.log(p) for p in texts.values())
    assert reviews.entropy_of("new kind thing") == pytest.approx(brute, abs=1e-9)


def test_the_sampler_draws_from_the_law_that_log_probability_states(tiny):
    texts, rng, n = enumerate_tiny(), random.Random(0), 15000
    drawn = Counter(reviews.sample_review("kind thing", rng)[0] for _ in range(n))
    assert set(drawn) <= set(texts)
    likely = [t for t, p in texts.items() if p * n > 15]
    assert len(likely) > 40
    chi2 = sum((drawn[t] - texts[t] * n) ** 2 / (texts[t] * n) for t in likely)
    assert chi2 < len(likely) + 5 * math.sqrt(2 * len(likely))


@pytest.mark.parametrize("subject", ["new thai bistro", "old spy film", "grand beach hotel"])
def test_entropy_is_the_mean_of_minus_log_probability(subject):
    rng, n = random.Random(0), 10000
    values = [-reviews.log_probability(reviews.sample_review(subject, rng)[0], subject) for _ in range(n)]
    mean = sum(values) / n
    error = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)
    assert abs(mean - reviews.entropy_of(subject)) < 4 * error


def test_parse_returns_the_classes_that_were_drawn():
    rng = random.Random(0)
    for subject in reviews.subjects("test"):
        text, classes = reviews.sample_review(subject, rng)
        assert reviews.parse_review(text, reviews.domain_of(subject)) == classes


@pytest.mark.parametrize("text", [
    "", " ", ".", "the food was great", "the food was great. ", " the food was great.",
    "the food was great..", "The food was great.", "the food was great.\n", "the plot was great.",
    "the food was great!",
    "the  food was great.", "the food was great.the food was bad.",
    "the food was great.  the food was bad.",
    "the food was really.", "the food was great and the food was great.", "the food was . great.",
    "the food was great and the soup was bad.", "i would gladly watch it again.",
    "the food was great. the food was great. the food was great. the food was great.",
])
def test_what_the_grammar_cannot_write_does_not_parse(text):
    record = {"subject": "new thai bistro"}
    assert reviews.parse_review(text, "restaurant") is None
    assert reviews.log_probability(text, "new thai bistro") == -math.inf
    assert reviews.score("", text, record) == {"grammatical": 0.0}


@pytest.mark.parametrize("text, value", [
    ("the food was great.", 4 / 6), ("the food was average.", 3 / 6), ("the food was awful.", 2 / 6),
    ("the food was great and the service was superb. i loved the soup.", 1.0),
    ("i loved the soup. the food was truly great and the menu was lovely.", 0.0),  # no adverb in a pair
    ("for me, i would gladly eat here again. overall, i loved the soup. the wine was simply superb.", 1.0),
    ("the food was great but the service was bad. i hated the soup.", 2 / 6),
    ("the food was bad but the wine was bad. the food was bad but the wine was bad.", 0.0),
])
def test_the_reward_counts_slots(text, value):
    assert reviews.reward("", text, {"subject": "new thai bistro"}) == pytest.approx(value)


def test_a_noun_has_one_domain_and_a_word_one_class():
    nouns = [noun for d in reviews.DOMAINS.values() for noun in d.nouns.split()]
    assert len(nouns) == len(set(nouns))
    assert all(not set(d.first.split()) & set(d.second.split()) for d in reviews.DOMAINS.values())
    for classes in reviews.SLOTS.values():
        assert len(set().union(*classes.values())) == sum(map(len, classes.values()))
    with pytest.raises(ValueError, match="no domain"):
        reviews.domain_of("new thai spaceship")


def test_reviews_are_many_and_of_readable_length():
    records = reviews.records("train", 5000, 0)
    assert len({r["response"] for r in records}) > 4500 and len({r["prompt"] for r in records}) > 2000
    tokens = [len(re.findall(r"\w+|[.,]", r["response"])) for r in records]
    assert 14 < sum(tokens) / len(tokens) < 18 and max(tokens) < reviews.MAX_NEW
    mean = sum(reviews.reward(r["prompt"], r["response"], r) for r in records) / len(records)
    assert mean == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("task, split", EVERY, ids=IDS)
def test_a_record_is_of_the_task_that_made_it(task, split):
    for record in task.records(split, 20, 3):
        assert task_of(record) is task
        assert all(task_of({k: v for k, v in record.items() if k != field}) is None for field in task.FIELDS)


@pytest.mark.parametrize("record", [
    {}, {"task": "poetry"}, {"task": ["reviews"]}, {"task": None}, {"task": "reviews", "response": "a"},
    {"task": "translation", "reference": ["a", "b"]}, {"task": "sentiment", "label": 1},
], ids=str)
def test_a_users_own_record_is_of_no_task_whatever_it_calls_one(record):
    assert task_of({"prompt": "p"} | record) is None


@pytest.mark.parametrize("name", TASKS)
def test_the_reward_of_a_record_is_that_of_its_task(name):
    assert reward_of_task({"task": name}) is TASKS[name].reward
