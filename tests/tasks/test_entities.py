"""Named entities: the form is parsed, and F1 over all texts is seqeval's."""

import random

import numpy as np
import pytest

from minirlhf.metrics.scores import micro_f1, precision_recall_f1
from minirlhf.tasks import entities


def tags(text: str, found: list[tuple[str, str]]) -> list[str]:
    """The text's words as IOB2 tags."""
    words, out = text.replace(".", " .").split(), []
    out = ["O"] * len(words)
    for kind, name in found:
        parts = name.split()
        start = next(i for i in range(len(words)) if words[i : i + len(parts)] == parts)
        out[start : start + len(parts)] = [f"B-{kind}"] + [f"I-{kind}"] * (len(parts) - 1)
    return out


def spans(sequence: list[str]) -> set[tuple[int, int, str]]:
    """(start, end, type) of the chunks of IOB2 tags, as CoNLL's script has them."""
    out, start, kind = set(), 0, None
    for i, tag in enumerate([*sequence, "O"]):
        if kind and not tag == f"I-{kind}":
            out.add((start, i, kind))
            kind = None
        if tag.startswith("B-"):
            start, kind = i, tag[2:]
    return out


def noisy(n: int) -> list[tuple[str, list, list]]:
    """(text, right entities, said entities) with some missing, of a wrong type, without the first name, or invented."""
    rng, out = random.Random(0), []
    for record in entities.records("test", n, 0):
        right, said = entities.parse_entities(record["entities"]), []
        for kind, name in right:
            kind = rng.choice(entities.TYPES) if rng.random() < 0.2 else kind
            name = name.split()[-1] if rng.random() < 0.2 else name
            said += [(kind, name)] * (rng.random() < 0.8)
        said += [("place", word) for word in ("The", "Nobody") if word in record["prompt"] and rng.random() < 0.5]
        out.append((record["prompt"].removesuffix(" entities:"), right, said))
    return out


def written(found: list[tuple[str, str]]) -> str:
    return "; ".join(f"{kind}: {name}" for kind, name in found)


def test_precision_recall_and_f1_of_all_texts_are_those_of_tagged_spans_and_of_seqeval():
    cases = noisy(200)
    counts = np.sum([entities.entity_counts(written(said), written(right)) for _, right, said in cases], axis=0)
    right, said = [tags(t, r) for t, r, _ in cases], [tags(t, s) for t, _, s in cases]
    both = [(spans(a), spans(b)) for a, b in zip(right, said)]
    hits, n_said, n_right = (sum(map(len, x)) for x in ([a & b for a, b in both], [b for _, b in both], [a for a, _ in both]))
    assert list(counts) == [hits, n_said, n_right] and 0 < hits < min(n_said, n_right)
    ours = [float(x[0]) for x in precision_recall_f1(counts)]
    assert ours == pytest.approx([hits / n_said, hits / n_right, 2 * hits / (n_said + n_right)])
    seqeval = pytest.importorskip("seqeval.metrics")
    theirs = [f(right, said) for f in (seqeval.precision_score, seqeval.recall_score, seqeval.f1_score)]
    assert ours == pytest.approx(theirs)


ANNA = "person: Anna Belmar; group: Tornak; place: Velkor"


@pytest.mark.parametrize("answer, counts, f1", [
    (ANNA, [3, 3, 3], 1), ("place: Velkor; group: Tornak; person: Anna Belmar", [3, 3, 3], 1),
    ("person: Anna Belmar; group: Tornak", [2, 2, 3], 4 / 5),
    ("person: Anna Belmar; place: Tornak; place: Velkor", [2, 3, 3], 4 / 6),
    ("person: Belmar; group: Tornak; place: Velkor", [2, 3, 3], 4 / 6),
    (f"{ANNA}; place: Oslo", [3, 4, 3], 6 / 7), (f"{ANNA}; {ANNA}", [3, 6, 3], 6 / 9),
    ("Anna Belmar; group: Tornak", [1, 2, 3], 2 / 5), ("city: Velkor", [0, 1, 3], 0), ("person:", [0, 1, 3], 0),
    ("", [0, 0, 3], 0), ("; ", [0, 0, 3], 0),
])
def test_entities_by_hand(answer, counts, f1):
    assert list(entities.entity_counts(answer, ANNA)) == counts
    assert entities.reward("", answer, {"entities": ANNA}) == pytest.approx(f1)


def test_f1_over_texts_is_of_their_sums_and_no_mean():
    """1 of 1 and 0 of 3: 2·1 / (4 + 4), and not the mean of 1 and 0."""
    pairs = ("place: Oslo", "place: Oslo"), ("place: A; place: B; place: C", ANNA)
    assert float(micro_f1(np.sum([entities.entity_counts(*pair) for pair in pairs], axis=0))) == 2 / 8


@pytest.mark.parametrize("answer, value", [
    (ANNA, 0.0), ("person: Anna", 0.0), ("Anna", 1.0), ("", 1.0), (f"{ANNA}; Oslo", 1.0), ("city: Oslo", 1.0),
])
def test_what_is_no_type_and_name_is_unparsable(answer, value):
    assert entities.score("", answer, {"entities": ANNA}) == {"unparsable": value}


def test_the_entities_stand_in_the_text_each_once_and_in_its_order():
    for record in entities.records("train", 200, 0):
        text, found = record["prompt"], entities.parse_entities(record["entities"])
        places = [text.index(name) for _, name in found]
        assert places == sorted(places) and all(text.count(name) == 1 for _, name in found)
        assert len({name.split()[-1] for _, name in found}) == len(found) and {kind for kind, _ in found} <= {*entities.TYPES}


def test_a_fifth_of_the_names_is_in_no_training_text_and_test_names_has_no_other():
    held, known = entities.names(True), entities.names(False)
    assert not set(held) & set(known) and 0.1 < len(held) / len(held + known) < 0.3
    surnames = lambda split: {name.split()[-1] for r in entities.records(split, 200, 0)  # noqa: E731
                              for _, name in entities.parse_entities(r["entities"])}  # fmt: skip
    assert surnames("test_names") <= set(held)
    assert all(surnames(split) <= set(known) for split in ("train", "validation", "test"))
    assert not any(name in text for text in entities.documents(2000, 0) for name in held)


def test_a_name_says_nothing_of_its_type():
    seen = {kind: set() for kind in entities.TYPES}
    for record in entities.records("train", 2500, 0):
        for kind, name in entities.parse_entities(record["entities"]):
            seen[kind].add(name.split()[-1])
    assert all(len(names & set(entities.names(False))) > 450 for names in seen.values())
