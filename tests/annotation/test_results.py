"""What closed studies hold, and what is said of models, against counts by hand."""

import json
from math import log

import pytest

from minirlhf.annotation import log as judgements
from minirlhf.annotation.results import analyse, contest, results, same_way_round
from minirlhf.metrics.intervals import wilson

LEFTS = "abbaab"
TURNS = [{"role": "user", "content": "p5"}]


@pytest.fixture
def study(tmp_path):
    """A function that judges a study of 6 places, for each annotator by such words, and closes it."""

    def judged(**said: str):
        places = [{"prompt": f"p{i}", "left": f"l{i}", "right": f"r{i}"} for i in range(6)]
        places[5]["messages"] = TURNS
        secret = [{"item": f"id{i % 5}", "kind": "pair", "left": LEFTS[i], "good": None} for i in range(6)]
        secret[4] |= {"kind": "attention", "good": "b"}
        secret[5] |= {"kind": "duplicate"}
        key = {"models": ["sft", "ppo"], "identical": [], "places": secret}
        judgements.create(tmp_path, {"question": "?", "places": places}, key)
        for name, words in said.items():
            with judgements.Session(tmp_path, name) as session:
                for word in words.split():
                    session.act(word, session.place - (word == "undo"), 1.5)
        judgements.close(tmp_path, early=True)
        return results(tmp_path)[0]

    return judged


def test_results_are_of_models_and_not_of_sides(study):
    rows = study(ann="left right tie bad right skip", bob="skip left")
    assert [(r["annotator"], r["item"]) for r in rows] == [
        ("ann", "id0"), ("ann", "id1"), ("ann", "id2"), ("ann", "id3"), ("ann", "id4"), ("bob", "id1")
    ]  # fmt: skip
    # LEFTS a b b a a: left is a; right is a; ...; right is b.
    assert [r["choice"] for r in rows] == ["a", "a", "tie", "bad", "b", "b"]
    assert [r["left"] for r in rows] == ["a", "b", "b", "a", "a", "b"]
    assert len(rows[0].pop("study")) == 16
    assert rows[0] == {
        "item": "id0", "prompt": "p0", "annotator": "ann", "kind": "pair",
        "a": {"model": "sft", "response": "l0"}, "b": {"model": "ppo", "response": "r0"}, "left": "a",
        "choice": "a", "seconds": 1.5, "good": None,
    }  # fmt: skip
    assert rows[1]["a"] == {"model": "sft", "response": "r1"}
    assert rows[1]["b"] == {"model": "ppo", "response": "l1"}
    assert (rows[4]["kind"], rows[4]["good"]) == ("attention", "b")


def test_results_hold_the_turns_that_were_shown(study):
    rows = study(ann="left " * 6)
    assert rows[5]["messages"] == TURNS and "messages" not in rows[0]


def test_results_hold_what_was_undone_last(study):
    assert [r["choice"] for r in study(ann="left undo right")] == ["b"]


def row(choice: str, prompt: str = "p", who: str = "ann", **more) -> dict:
    """A row of `results`, of sft and ppo; equal length."""
    return {
        "item": prompt, "prompt": prompt, "annotator": who, "kind": "pair", "left": "a", "choice": choice,
        "a": {"model": "sft", "response": f"{prompt} x"}, "b": {"model": "ppo", "response": f"{prompt} y"},
        "seconds": 2.0, "good": None,
    } | more  # fmt: skip


def votes(who: str, choices: str) -> list[dict]:
    """Judgements of prompts 0, 1, ..., from letters a, b, t (tie) and x (both bad), sides in turn."""
    words = {"t": "tie", "x": "bad"}
    return [row(words.get(c, c), str(i), who, left="ab"[i % 2]) for i, c in enumerate(choices)]


def test_the_win_rate_is_of_the_second_model_against_the_first():
    found = contest(votes("ann", "bbbbbatx"), 0)
    assert (found["model"], found["against"]) == ("ppo", "sft")
    own = found["annotators"]["ann"]
    assert (own["wins"], own["ties"], own["losses"]) == (5, 2, 1) and own["value"] == pytest.approx(6 / 8)
    assert (own["low"], own["high"]) == pytest.approx(wilson(6, 8))
    assert own["p"] == pytest.approx(2 * (6 + 1) / 2**6)  # sign test of 5 against 1


def test_all_have_one_vote_a_prompt():
    """Three annotators who say the same are three judgements of as many prompts as one saw."""
    rows = votes("ann", "bba") + votes("bob", "bba") + votes("cleo", "bbb")
    found = contest(rows, 0)
    assert (found["all"]["wins"], found["all"]["losses"], found["all"]["n"]) == (2, 1, 3)
    assert found["pooled"]["n"] == 9 and found["pooled"]["value"] == pytest.approx(7 / 9)
    assert found["all"]["p"] == contest(votes("ann", "bba"), 0)["all"]["p"]


def test_a_majority_can_be_a_tie():
    found = contest(votes("ann", "b") + votes("bob", "a"), 0)
    assert found["all"]["ties"] == 1 and found["all"]["value"] == 0.5


def test_pairs_and_prompts_are_not_the_same():
    """Two pairs of one prompt: one prompt, two pairs."""
    rows = [row("b", "p"), row("b", "p", item="second"), row("a", "q")]
    found = contest(rows, 0)
    assert found["all"]["n"] == 2 and found["pairs"] == {"n": 3, "rate": pytest.approx(2 / 3)}


def test_power_is_of_prompts():
    """Six wins, two losses: sd = √(3/14), MDE 2.8016 sd / √8, (2.8016 sd / 0.25)² = 26.9 for 25 points."""
    power = contest(votes("ann", "bbbabbba"), 0)["power"]
    assert power["prompts"] == 8 and power["minimum_detectable"] == pytest.approx(0.458516, abs=1e-5)
    assert power["needed_for_seen"] == 27 and power["needed_for_60"] == 169
    assert contest(votes("ann", "ab"), 0)["power"]["needed_for_seen"] is None


def test_models_the_other_way_round_are_turned():
    turned = {"a": {"model": "ppo", "response": "1 y"}, "b": {"model": "sft", "response": "1 x"}}
    check = row("b", "3", kind="attention", good="b", **turned)
    rows = same_way_round([row("b", "0"), row("a", "1", **turned), row("tie", "2", **turned), check])
    assert [(r["choice"], r["left"], r["good"], r["a"]["model"]) for r in rows] == [
        ("b", "a", None, "sft"), ("b", "b", None, "sft"), ("tie", "b", None, "sft"), ("a", "b", "a", "sft")
    ]  # fmt: skip
    assert contest(rows[:3], 0)["all"]["wins"] == 2


def test_it_does_not_matter_which_way_round_a_study_has_the_models():
    """The whole report, of two annotators who say the same of the same answers, in two studies."""
    def turn(x: dict) -> dict:
        names = {k: {"a": "b", "b": "a"}.get(x[k], x[k]) for k in ("left", "choice", "good")}
        return x | {"a": x["b"], "b": x["a"]} | names

    ann, bob = votes("ann", "abbatbbabb"), votes("bob", "abbatbbabb")
    bob.append(row("b", "1", "bob", kind="duplicate", left="a"))
    bob.append(row("a", "7", "bob", kind="attention", good="a"))
    rewards = {"reward": {(r["prompt"], r[k]["response"]): float(k == "b") for r in ann for k in "ab"}}
    report = analyse(same_way_round(ann + [turn(x) for x in bob]), rewards)
    assert report == analyse(ann + bob, rewards)
    agreement = report["everybody"]["agreement"]["with ties"]
    assert agreement["raw"]["value"] == agreement["alpha"]["value"] == 1
    assert report["everybody"]["triangle"]["with ties"]["people - people"]["value"] == 1


def test_a_pair_shown_again_is_held_against_what_the_same_annotator_said():
    rows = votes("ann", "b") + votes("bob", "a") + [row("a", "0", who, kind="duplicate") for who in ("ann", "bob")]
    checks = analyse(rows, {})["annotators"]
    found = [checks[who]["consistency"] for who in ("ann", "bob")]
    assert [(x["k"], x["n"]) for x in found] == [(0, 1), (1, 1)]


def test_checks_are_no_judgements():
    rows = votes("ann", "bba")
    checks = [row("a", "0", kind="duplicate"), row("a", "9", kind="attention", good="a")]
    plain, checked = (analyse(r, {})["everybody"]["contests"] for r in (rows, rows + checks))
    assert plain == checked


def test_strengths_are_those_of_the_votes():
    found = analyse(votes("ann", "b" * 30 + "t" * 10 + "a" * 20), {})["everybody"]["strengths"]
    davidson, half = (found[k]["ppo - sft"] for k in ("Davidson's ties", "ties half"))
    assert davidson["value"] == pytest.approx(log(30 / 20)) and half["value"] == pytest.approx(log(35 / 25))
    assert davidson["n"] == 60


def test_the_side_is_the_left_one():
    """Who always prefers what stands on the left finds the models equal, and the left better."""
    found = analyse(votes("ann", "ab" * 10), {})["everybody"]
    assert found["side"]["value"] > 1 and found["left"]["value"] == 1


def test_length_control_takes_the_second_models_side():
    """ppo's answers are longer where it wins: at equal length it is less good."""
    lengths = {"b": ("x", "x" * 30), "a": ("x" * 9, "x" * 10)}
    rows = []
    for i, choice in enumerate("bbbbbbabaa"):
        a, b = lengths["b" if i < 7 else "a"]
        texts = {"a": {"model": "sft", "response": a}, "b": {"model": "ppo", "response": b}}
        rows.append(row(choice, str(i), **texts))
    found = contest(rows, 0)
    assert found["length_controlled"]["value"] < found["pooled"]["value"]
    assert "as much" in contest(votes("ann", "ab"), 0)["length_controlled"]["why"]


def test_who_fails_the_checks_is_left_out_beside_the_whole():
    """bob fails; results stand with him and without him, and the others' are those of a study without him."""
    good, bad = votes("ann", "bbab"), votes("bob", "aaaa")
    checks = [row("b", "c", "bob", kind="attention", good="a")]
    report = analyse(good + bad + checks, {})
    assert [report["annotators"][name]["excluded"] for name in ("ann", "bob")] == [False, True]
    assert report["everybody"]["contests"][0]["all"] != report["attentive"]["contests"][0]["all"]
    assert report["attentive"]["contests"] == analyse(good, {})["everybody"]["contests"]
    assert "attentive" not in analyse(good, {})
    assert analyse(bad + checks, {})["attentive"] is None


def test_the_report_is_json_without_nan():
    report = analyse(votes("ann", "b") + votes("bob", "b"), {})
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_three_models_are_ranked_together():
    """base-sft, sft-ppo and base-ppo: notes' table of Davidson, θ of base at 0."""
    rows = []
    for a, b, w, t, n in (("base", "sft", 10, 10, 30), ("base", "rl", 8, 6, 36), ("sft", "rl", 15, 10, 25)):
        models = {"a": {"model": a, "response": "1"}, "b": {"model": b, "response": "22"}}
        choices = ["a"] * w + ["tie"] * t + ["b"] * n
        rows += [row(choice, f"{a}{b}{i}", **models) for i, choice in enumerate(choices)]
    report = analyse(rows, {})["everybody"]
    found = report["strengths"]["Davidson's ties"]
    assert found["sft - base"]["value"] == pytest.approx(1.068401, abs=1e-6)
    assert found["rl - base"]["value"] == pytest.approx(1.581122, abs=1e-6)
    assert len(report["contests"]) == 3
