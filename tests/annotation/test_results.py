"""What is said of models and of judges, on rows written by hand, against counts by hand."""

import json
import random
from math import log

import pytest

from minirlhf.annotation.results import analyse, annotator_checks, contest, left, longer, triangle
from minirlhf.annotation.rows import Row, decided
from minirlhf.metrics.agreement import cohen_kappa
from minirlhf.metrics.intervals import wilson

SCORES = {"a": 0.0, "b": 1.0, "t": 0.5}


def row(score: float, prompt: str = "p", who: str = "ann", kind: str = "pair", item: str = "", **more) -> Row:
    """What one said of sft (0) and ppo (1), whose answers are equally long."""
    given = {
        "study": "s", "annotator": who, "kind": kind, "item": item or prompt, "prompt": prompt, "messages": None,
        "models": ("sft", "ppo"), "answers": (f"{prompt} x", f"{prompt} y"), "left": 0, "good": None, "score": score,
        "seconds": 2.0,
    }  # fmt: skip
    return Row(**given | more)


def votes(who: str, words: str, **more) -> list[Row]:
    """Judgements of prompts 0, 1, ..., from letters a (sft), b (ppo) and t (tie), sides in turn."""
    return [row(SCORES[word], str(i), who, left=i % 2, **more) for i, word in enumerate(words)]


def check(passed: bool, who: str = "ann", prompt: str = "check") -> Row:
    """An attention item, of which ppo's answer is right."""
    return row(float(passed), prompt, who, "attention", good=1)


def whole(rows: list[Row], identical: tuple[str, ...] = (), rewards: dict | None = None) -> dict:
    """The report of one study."""
    return analyse(rows, [{"models": ["ppo", "sft"], "identical": {item: f"of {item}" for item in identical}}], rewards or {})


def test_the_win_rate_is_of_the_second_model_against_the_first():
    found = contest(votes("ann", "bbbbbatt"), {}, 0)
    assert found["models"] == ("sft", "ppo")
    own = found["annotators"]["ann"]
    assert (own["wins"], own["ties"], own["losses"]) == (5, 2, 1) and own["value"] == pytest.approx(6 / 8)
    assert (own["low"], own["high"]) == pytest.approx(wilson(6, 8))
    assert own["p"] == pytest.approx(2 * (6 + 1) / 2**6)  # sign test of 5 against 1


def test_all_have_one_vote_a_prompt():
    """Three annotators who say the same are three judgements of as many prompts as one saw."""
    found = contest(votes("ann", "bba") + votes("bob", "bba") + votes("cleo", "bbb"), {}, 0)
    assert (found["all"]["wins"], found["all"]["losses"], found["all"]["n"]) == (2, 1, 3)
    assert found["pooled"].n == 9 and found["pooled"].value == pytest.approx(7 / 9)
    assert found["all"]["p"] == contest(votes("ann", "bba"), {}, 0)["all"]["p"]


def test_a_majority_can_be_a_tie():
    found = contest(votes("ann", "b") + votes("bob", "a"), {}, 0)
    assert found["all"]["ties"] == 1 and found["all"]["value"] == 0.5


def test_two_pairs_of_one_prompt_are_one_prompt():
    rows = [row(1, "p"), row(0, "p", item="second"), row(1, "q")]
    assert contest(rows, {}, 0)["all"]["n"] == 2 and contest(rows, {}, 0)["pooled"].n == 3


def test_identical_answers_are_ties_of_everybody_counted_once():
    """Two studies of the same models have one of them in common; one of other models has none."""
    rows = votes("ann", "bbba")
    studies = [{"models": list(models), "identical": {item: f"of {item}" for item in ids}} for models, ids in (
        (("sft", "ppo"), ["x", "y"]), (("ppo", "sft"), ["y", "z"]), (("sft", "dpo"), ["v"]),
    )]  # fmt: skip
    (found,) = analyse(rows, studies, {})["everybody"]["contests"]
    assert found["identical"] == 3 and (found["all"]["wins"], found["all"]["ties"], found["all"]["n"]) == (3, 3, 7)
    assert found["annotators"]["ann"]["ties"] == 0


def test_an_identical_pair_is_a_tie_of_its_prompt():
    """Not of another prompt: a second sample may be the same where the first differed."""
    rows = [row(1, "p"), row(1, "q")]
    found = contest(rows, {"x": "p", "y": "p", "z": "r"}, 0)
    assert (found["all"]["n"], found["power"]["prompts"], found["identical"]) == (3, 3, 3)
    assert (found["all"]["wins"], found["all"]["ties"]) == (2, 1)  # p has one win and two ties


def test_power_is_of_prompts():
    """Six wins, two losses: sd = √(3/14), MDE 2.8016 sd / √8, (2.8016 sd / 0.25)² = 26.9 for 25 points."""
    power = contest(votes("ann", "bbbabbba"), {}, 0)["power"]
    assert power["prompts"] == 8 and power["minimum_detectable"] == pytest.approx(0.458516, abs=1e-5)
    assert power["needed"] == {"the rate seen": 27, "60 %": 169}
    assert whole(votes("ann", "ab"))["everybody"]["contests"][0]["power"]["needed"]["the rate seen"] is None


def test_checks_are_no_judgements():
    rows, checks = votes("ann", "bba"), [row(0, "0", kind="duplicate"), check(True)]
    assert whole(rows)["everybody"]["contests"] == whole(rows + checks)["everybody"]["contests"]


def test_strengths_are_those_of_the_votes():
    found = whole(votes("ann", "b" * 30 + "t" * 10 + "a" * 20))["everybody"]["strengths"]
    assert found["ppo - sft"]["value"] == pytest.approx(log(35 / 25)) and found["ppo - sft"]["n"] == 60


def test_three_models_are_ranked_together():
    """base-sft, base-rl and sft-rl, ties as half wins: values of an independent optimiser."""
    rows = []
    for a, b, won, tied, lost in (("base", "sft", 30, 10, 10), ("base", "rl", 36, 6, 8), ("sft", "rl", 25, 10, 15)):
        words = "b" * won + "t" * tied + "a" * lost
        rows += [row(SCORES[word], f"{a}{b}{i}", models=(a, b)) for i, word in enumerate(words)]
    report = analyse(rows, [], {})["everybody"]
    assert report["strengths"]["sft - base"]["value"] == pytest.approx(0.8514662, abs=1e-6)
    assert report["strengths"]["rl - base"]["value"] == pytest.approx(1.2605768, abs=1e-6)
    assert len(report["contests"]) == 3


def test_length_control_takes_the_second_models_side():
    """ppo's answers are longer where it wins: at equal length it is less good."""
    rows = [
        row(SCORES[word], str(i), answers=("x", "x" * 30) if i < 7 else ("x" * 9, "x" * 10))
        for i, word in enumerate("bbbbbbabaa")
    ]
    found = contest(rows, {}, 0)
    assert found["length_controlled"].value < found["pooled"].value
    assert "differ in length" in contest(votes("ann", "ab"), {}, 0)["length_controlled"].note


def test_attention_counts_right_answers_to_attention_items_alone():
    assert annotator_checks([check(True), check(False), row(1)])["attention"] == [1, 2]


@pytest.mark.parametrize("passed, excluded", [(5, False), (4, False), (3, True), (0, True)])
def test_the_rule_is_four_of_five(passed, excluded):
    rows = [check(i < passed, prompt=str(i)) for i in range(5)]
    assert annotator_checks(rows)["excluded"] == excluded


def test_a_tie_fails_a_check_and_who_saw_none_is_not_left_out():
    assert annotator_checks([row(0.5, kind="attention", good=0)])["attention"] == [0, 1]
    assert not annotator_checks([row(1)])["excluded"]


def test_who_fails_the_checks_is_left_out_beside_the_whole():
    """bob fails; results stand with him and without him, and the others' are those of a study without him."""
    good, bad = votes("ann", "bbab"), votes("bob", "aaaa") + [check(False, "bob")]
    report = whole(good + bad)
    assert [report["annotators"][name]["excluded"] for name in ("ann", "bob")] == [False, True]
    assert report["everybody"]["contests"][0]["all"] != report["attentive"]["contests"][0]["all"]
    assert report["attentive"]["contests"] == whole(good)["everybody"]["contests"]
    assert "attentive" not in whole(good) and whole(bad)["attentive"] is None


def test_consistency_is_of_answers_not_of_sides():
    """Same answer on the other side is consistent; the same side again is another. What was skipped does not count."""
    first = [row(score, str(i)) for i, score in enumerate((0, 0, 0.5, 0.5, 1))]
    said = ((0, 0), (1, 1), (2, 0), (3, 0.5), (9, 1))
    again = [row(score, str(i), kind="duplicate", left=1) for i, score in said]
    assert annotator_checks(first + again)["consistency"] == [2, 4]


def test_a_pair_shown_again_is_held_against_what_the_same_annotator_said():
    rows = votes("ann", "b") + votes("bob", "a") + [row(0, "0", who, "duplicate") for who in ("ann", "bob")]
    found = whole(rows)["annotators"]
    assert [found[who]["consistency"] for who in ("ann", "bob")] == [[0, 1], [1, 1]]


def test_the_left_share_is_of_decided_pairs():
    """Ties have no side; duplicates, which are shown the other way round, would cancel what is looked for."""
    rows = [row(0, "1"), row(1, "2", left=1), row(1, "3"), row(0.5, "4"), row(1, "5", kind="duplicate", left=1)]
    assert (left(rows).value, left(rows).n) == (pytest.approx(2 / 3), 3)


def test_the_longer_share_leaves_out_what_is_equally_long():
    sizes = {"answers": ("long", "x")}
    rows = [row(0, "1", **sizes), row(1, "2", **sizes), row(0, "3", **sizes), row(0, "4"), row(0.5, "5", **sizes)]
    assert (longer(rows).value, longer(rows).n) == (pytest.approx(2 / 3), 3)


def test_judges_who_saw_the_same_prompts_are_not_more_prompts():
    """Five who say the same of 40 prompts are worth 40, not 200; one alone has Wilson's interval of 40."""
    five = [row(float(i >= 25), str(i), who, answers=("long", "x")) for who in "vwxyz" for i in range(40)]
    for found, times in ((left(five), 5), (left(five[:40]), 1), (longer(five), 5)):
        assert (found.value, found.n) == (25 / 40, 40 * times)
        assert (found.low, found.high) == pytest.approx(wilson(25, 40))


def test_no_bias_is_found_in_judges_who_have_none():
    """Five agree on which answer is better; sides are drawn. 5 % of intervals miss 1/2; by Wilson, 30 %."""
    rng, missed = random.Random(0), 0
    for _ in range(300):
        rows = []
        for i in range(40):
            best = rng.choice((0, 1))
            rows += [row(best if rng.random() < 0.8 else 1 - best, str(i), who) for who in "vwxyz"]
        found = left(rows)
        missed += not found.low <= 0.5 <= found.high
    assert missed <= 15 + 4 * 15**0.5


def test_who_always_looks_left_has_an_interval():
    found = left([row(0, str(i), who) for i in range(20) for who in ("ann", "bob")])
    assert (found.low, found.high) == pytest.approx(wilson(20, 20))


def scores_of(rows: list[Row], favoured: str) -> dict:
    """A reward that gives the answer named by each letter of `favoured` more; t the same to both."""
    gains = {"a": (1.0, 0.0), "b": (0.0, 1.0), "t": (0.5, 0.5)}
    return {(r.prompt, answer): gain for r, x in zip(rows, favoured) for answer, gain in zip(r.answers, gains[x])}


def test_the_triangle_by_hand():
    """1 − |s − t| with scores 1, ½, 0. People: a a t; reward a b a; gold t a b."""
    rows = votes("ann", "aat")
    rewards = {"reward": scores_of(rows, "aba"), "gold": scores_of(rows, "tab")}
    found = {who: x.value for who, x in triangle(rows, rewards, 0).items()}
    assert found["reward - people"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert found["gold - people"] == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert found["reward - gold"] == pytest.approx((0.5 + 0 + 0) / 3)
    assert found["people - people"] != found["people - people"]
    assert triangle(decided(rows), rewards, 0)["reward - people"].value == pytest.approx(1 / 2)


def test_two_people_have_a_kappa_of_what_both_judged_and_three_have_none():
    rows = votes("ann", "abta") + votes("bob", "aaab")
    kappa = triangle(rows, {}, 0)["Cohen's kappa"]
    assert (kappa.value, kappa.n) == (cohen_kappa([(0.0, 0.0), (1.0, 0.0), (0.5, 0.0), (0.0, 1.0)]).value, 4)
    assert "Cohen's kappa" not in triangle(rows + votes("eve", "a"), {}, 0)


def test_people_are_held_against_people_on_the_same_pair():
    found = triangle(votes("ann", "abt") + votes("bob", "aaa"), {}, 0)["people - people"]
    assert found.value == pytest.approx((1 + 0 + 0.5) / 3) and found.n == 3


def test_alpha_is_that_of_the_labels_with_ties_and_without():
    """The golden ratings of tests/golden.json; without ties, of aabbaabb and aabaabbb, 6 of 8 agree."""
    rows = votes("ann", "aabbaabbtt") + votes("bob", "aabaabbbta")
    found = whole(rows)["everybody"]["agreement"]
    assert found["with ties"]["Krippendorff's alpha"]["value"] == pytest.approx(0.5365853659, abs=1e-9)
    assert found["without ties"]["people - people"]["value"] == pytest.approx(6 / 8)
    assert found["without ties"]["Krippendorff's alpha"]["n"] == 8
    assert triangle(rows[:10], {}, 0)["Krippendorff's alpha"].note == "no item was labelled twice"


def test_the_triangles_interval_is_by_prompt():
    """Twenty pairs of a prompt that all agree are worth one."""
    found = []
    for k in (1, 20):
        rows = [row(0, f"prompt {i}", item=f"{i} {j}") for i in range(10) for j in range(k)]
        scores = scores_of(rows, "".join("ab"[i % 2] * k for i in range(10)))
        x = triangle(rows, {"reward": scores}, 0)["reward - people"]
        found.append((x.value, x.low, x.high))
    assert found[0] == pytest.approx(found[1])


def test_rewards_meet_once_a_pair_however_many_judged_it():
    rows = votes("ann", "ab") + votes("bob", "abb")
    rewards = {"reward": scores_of(rows[2:], "aba"), "gold": scores_of(rows[2:], "abb")}
    found = triangle(rows, rewards, 0)["reward - gold"]
    assert found.n == 3 and found.value == pytest.approx(2 / 3)


def test_the_report_is_json_without_nan():
    report = whole(votes("ann", "b") + votes("bob", "b"))
    assert json.loads(json.dumps(report, allow_nan=False)) == report
