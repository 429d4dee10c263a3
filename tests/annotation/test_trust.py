"""Checks of judges, people and rewards, on rows written by hand and counted by hand."""

import random

import pytest

from minirlhf.annotation import trust
from minirlhf.annotation.trust import SCORE
from minirlhf.metrics.intervals import wilson


def row(choice: str, item: str = "i", who: str = "ann", **more) -> dict:
    """A row of `results.results`; the prompt is the item's own, a's answer is longer."""
    return {
        "item": item, "prompt": f"prompt {item}", "annotator": who, "kind": "pair", "left": "a",
        "a": {"model": "sft", "response": f"long {item}"}, "b": {"model": "ppo", "response": item},
        "choice": choice, "seconds": 2.0, "good": None,
    } | more  # fmt: skip


def labelled(who: str, labels: str) -> list[dict]:
    """An annotator's judgements of items 0, 1, ..., from letters A, B and T."""
    words = {"A": "a", "B": "b", "T": "tie"}
    return [row(words[x], str(i), who) for i, x in enumerate(labels)]


def scores_of(rows: list[dict], favoured: str) -> trust.Scores:
    """A reward that gives the answer named by each letter of `favoured` more; T the same to both."""
    gains = {"A": (1.0, 0.0), "B": (0.0, 1.0), "T": (0.5, 0.5)}
    return {
        (r["prompt"], r[k]["response"]): gain
        for r, x in zip(rows, favoured) for k, gain in zip("ab", gains[x])
    }  # fmt: skip


def test_attention_counts_right_answers_to_attention_items_alone():
    rows = [row("a", kind="attention", good="a"), row("b", kind="attention", good="a"), row("a", good=None)]
    found = trust.attention(rows)
    assert (found["k"], found["n"], found["value"]) == (1, 2, 0.5)


@pytest.mark.parametrize("passed, kept", [(5, True), (4, True), (3, False), (0, False)])
def test_the_rule_is_four_of_five(passed, kept):
    rows = [row("a" if i < passed else "tie", kind="attention", good="a") for i in range(5)]
    assert trust.attentive(rows) == kept


def test_who_saw_no_attention_item_is_not_left_out():
    assert trust.attentive([row("a")])


def test_consistency_is_of_answers_not_of_sides():
    """Same answer on the other side is consistent; the same side again is another answer."""
    first = [row("a", "1"), row("a", "2"), row("tie", "3"), row("bad", "4"), row("b", "5")]
    said = (("a", "1"), ("b", "2"), ("a", "3"), ("tie", "4"))
    again = [row(choice, item, kind="duplicate", left="b") for choice, item in said]
    found = trust.consistency(first + again)
    assert (found["k"], found["n"]) == (2, 4)


def test_a_pair_that_was_skipped_at_first_is_not_held_against_anything():
    assert trust.consistency([row("b", "9", kind="duplicate")])["n"] == 0


def test_the_left_share_is_of_decided_pairs():
    """Ties have no side; duplicates, which are shown the other way round, would cancel what is looked for."""
    rows = [row("a"), row("b", left="b"), row("b"), row("tie"), row("bad")]
    rows.append(row("b", kind="duplicate", left="b"))
    assert (trust.left(rows)["k"], trust.left(rows)["n"]) == (2, 3)


def test_the_longer_share_leaves_out_what_is_equally_long():
    same = {"a": {"model": "sft", "response": "xx"}, "b": {"model": "ppo", "response": "yy"}}
    rows = [row("a", "1"), row("b", "2"), row("a", "3"), row("a", "4", **same), row("tie", "5")]
    assert (trust.longer(rows)["k"], trust.longer(rows)["n"]) == (2, 3)


def test_a_share_of_nothing_is_undefined():
    found = trust.left([row("tie")])
    assert found["n"] == 0 and found["value"] is found["low"] is None


def test_judges_who_saw_the_same_prompts_are_not_more_prompts():
    """Five who say the same of 40 prompts are worth 40, not 200; one alone has Wilson's interval of 40."""
    words = "ab" * 15 + "a" * 10
    five = [row(word, str(i), who) for who in "vwxyz" for i, word in enumerate(words)]
    for found, times in ((trust.left(five), 5), (trust.left(five[:40]), 1), (trust.longer(five), 5)):
        assert (found["k"], found["n"], found["prompts"]) == (25 * times, 40 * times, 40)
        assert (found["low"], found["high"]) == pytest.approx(wilson(25, 40))


def test_no_bias_is_found_in_judges_who_have_none():
    """Five agree on which answer is better; sides are drawn. 5 % of intervals miss 1/2; by Wilson, 30 %."""
    rng, missed = random.Random(0), 0
    for _ in range(300):
        rows = []
        for i in range(40):
            best = rng.choice("ab")
            rows += [row(best if rng.random() < 0.8 else "ab"[best == "a"], str(i), who) for who in "vwxyz"]
        found = trust.left(rows)
        missed += not found["low"] <= 0.5 <= found["high"]
    assert missed <= 15 + 4 * 15**0.5


def test_who_always_looks_left_has_an_interval():
    found = trust.left([row("a", str(i), who) for i in range(20) for who in ("ann", "bob")])
    assert (found["low"], found["high"]) == pytest.approx(wilson(20, 20))


def test_the_triangles_interval_is_by_prompt():
    """Twenty pairs of a prompt that all agree are worth one."""
    def rows(pairs: int) -> list[dict]:
        items = [(i, k) for i in range(10) for k in range(pairs)]
        return [row("a", f"{i} {k}", prompt=f"prompt {i}") for i, k in items]

    found = []
    for k in (1, 20):
        scores = scores_of(rows(k), "".join("AB"[i % 2] * k for i in range(10)))
        x = trust.triangle(rows(k), {"reward": scores}, 0)["reward - people"]
        found.append((x["value"], x["low"], x["high"], x["prompts"]))
    assert found[0] == pytest.approx(found[1])


def test_agreement_is_that_of_the_labels():
    """Cohen's golden ratings, as two annotators' choices; a and b may say bad for a tie."""
    r1, r2 = labelled("ann", "AABBAABBTT"), labelled("bob", "AABAABBBTA")
    r1[8]["choice"] = "bad"
    found = trust.annotators(r1 + r2, 0)
    assert found["Cohen's kappa"]["value"] == pytest.approx(0.5161290323, abs=1e-9)
    assert found["alpha"]["value"] == pytest.approx(0.5365853659, abs=1e-9)
    assert found["raw"]["value"] == pytest.approx(0.7) and found["raw"]["n"] == 10


def test_agreement_without_ties_is_of_decided_judgements():
    """Of A A B B A A B B with A A B A A B B B; what one calls a tie has one judgement, the other's."""
    rows = labelled("ann", "AABBAABBTT") + labelled("bob", "AABAABBBTA")
    found = trust.annotators(trust.decided(rows), 0)
    assert found["raw"]["value"] == pytest.approx(6 / 8) and found["raw"]["n"] == 8


def test_three_annotators_have_no_cohen():
    rows = labelled("ann", "AB") + labelled("bob", "AB") + labelled("cleo", "AA")
    found = trust.annotators(rows, 0)
    assert "Cohen's kappa" not in found and found["raw"]["value"] == pytest.approx(4 / 6)


def test_one_annotator_agrees_with_nobody():
    found = trust.annotators(labelled("ann", "AAB"), 0)
    assert found["raw"]["value"] is None and found["raw"]["why"] == "no item was labelled twice"


def test_the_triangle_by_hand():
    """1 − |s − t| with scores 1, ½, 0. People: A A T; reward A B A; gold T A B."""
    rows = labelled("ann", "AAT")
    rewards = {"reward": scores_of(rows, "ABA"), "gold": scores_of(rows, "TAB")}
    found = trust.triangle(rows, rewards, 0)
    assert found["reward - people"]["value"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert found["gold - people"]["value"] == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert found["reward - gold"]["value"] == pytest.approx((0.5 + 0 + 0) / 3)
    assert found["people - people"]["value"] is None
    decided = trust.triangle(trust.decided(rows), rewards, 0)
    assert decided["reward - people"]["value"] == pytest.approx(1 / 2)


def test_people_are_held_against_people_on_the_same_pair():
    rows = labelled("ann", "ABT") + labelled("bob", "AAA")
    found = trust.triangle(rows, {}, 0)["people - people"]
    assert found["value"] == pytest.approx((1 + 0 + 0.5) / 3) and found["n"] == 3


def test_the_ceiling_of_people_who_err_one_time_in_ten():
    """0.9² + 0.1² = 41 of 50; who agree half the time know nothing, and with less the law does not hold."""
    rows = labelled("ann", "A" * 50) + labelled("bob", "A" * 41 + "B" * 9)
    people = trust.triangle(rows, {}, 0)["people - people"]
    truth = trust.ceiling(people)
    assert people["value"] == pytest.approx(0.82)
    assert truth["value"] == pytest.approx(0.9) and truth["low"] < 0.9 < truth["high"]
    assert trust.ceiling({"value": 0.5, "low": 0.3, "high": 1.0, "n": 2})["low"] == 0.5
    assert trust.ceiling({"value": 0.4, "low": 0.3, "high": 1.0, "n": 2})["value"] is None
    assert trust.ceiling({"value": None, "low": None, "high": None, "n": 0})["value"] is None


def test_rewards_meet_once_a_pair_however_many_judged_it():
    rows = labelled("ann", "AB") + labelled("bob", "AB") + [row("a", "2", "bob")]
    rewards = {"reward": scores_of(rows[:2] + rows[4:], "ABA"), "gold": scores_of(rows[:2] + rows[4:], "ABB")}
    found = trust.triangle(rows, rewards, 0)
    assert found["reward - gold"]["n"] == 3 and found["reward - gold"]["value"] == pytest.approx(2 / 3)


def test_a_tie_and_both_bad_are_one_answer():
    assert SCORE["tie"] == SCORE["bad"] == 0.5
