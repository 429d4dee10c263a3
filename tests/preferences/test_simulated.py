"""Simulated people: the law of what they choose, and files of comparisons that the reader takes back."""

from itertools import combinations
from math import exp, log
from types import SimpleNamespace

import pytest

from minirlhf.harness.files import UserError
from minirlhf.preferences import simulated
from minirlhf.preferences.config import Labeller
from minirlhf.preferences.simulated import comparison_line, make_pairs, respond

RECORD = {"task": "x", "prompt": "p", "response": "model answer", "subject": "s"}
PROMPTS = [{"prompt": prompt} for prompt in ("a", "more words", "bc", "d")]


def logit(p: float) -> float:
    """log p / (1 − p)."""
    return log(p / (1 - p))


def share_of_a(gold_a: float, gold_b: float, labeller: Labeller, n: int = 2000) -> float:
    """How often "aa" is chosen over "b", over n equally spaced u: the integral over u, to 1/n."""
    lines = [comparison_line(RECORD, "aa", "b", gold_a, gold_b, labeller, (i + 0.5) / n) for i in range(n)]
    return sum(line["chosen"] == "aa" for line in lines) / n


@pytest.fixture
def task():
    """A generated task whose gold reward is the length of the response."""
    return SimpleNamespace(
        MAX_NEW=8,
        records=lambda split, n, seed: [{**PROMPTS[(i + seed) % 4], "split": split} for i in range(n)],
        reward=lambda prompt, response, record: float(len(response)),
    )


@pytest.fixture
def pairs_of(make_policy, tokenizer, task):
    """A function: `make_pairs` of a tiny policy."""
    def make(n: int = 40, responses: int = 2, labeller: Labeller = Labeller(), seed: int = 0):
        return make_pairs(make_policy(0), tokenizer, task, n, responses, labeller, seed)

    return make


@pytest.mark.parametrize("gold_a, gold_b, temperature", [(1.0, 0.0, 0.5), (0.2, 0.7, 1.0), (0.4, 0.4, 0.1)])
def test_a_response_is_chosen_with_the_bradley_terry_probability(gold_a, gold_b, temperature):
    expected = 1 / (1 + exp(-(gold_a - gold_b) / temperature))
    labeller = Labeller(temperature)
    assert labeller.prefers_first(gold_a, gold_b, 9, 3) == pytest.approx(expected, abs=1e-12)
    assert share_of_a(gold_a, gold_b, labeller) == pytest.approx(expected, abs=1e-3)


def test_the_biases_add_log_odds():
    """Of 0.25 for each of 3 − 7 characters, and of 0.5 for being first."""
    plain = logit(Labeller(2.0).prefers_first(1.0, 0.0, 3, 7))
    assert plain == pytest.approx(0.5, abs=1e-12)
    assert logit(Labeller(2.0, length_bias=0.25).prefers_first(1.0, 0.0, 3, 7)) == pytest.approx(plain - 1)
    assert logit(Labeller(2.0, position_bias=0.5).prefers_first(1.0, 0.0, 3, 7)) == pytest.approx(plain + 0.5)
    biased = Labeller(2.0, length_bias=0.25, position_bias=0.5)
    assert logit(biased.prefers_first(1.0, 0.0, 3, 7)) == pytest.approx(plain - 0.5)
    assert share_of_a(0.0, 0.0, Labeller(1.0, length_bias=2.0)) == pytest.approx(1 / (1 + exp(-2)), abs=1e-3)


def test_without_a_position_bias_it_does_not_matter_who_is_first():
    labeller = Labeller(0.7, length_bias=0.3)
    there, back = labeller.prefers_first(0.9, 0.2, 5, 11), labeller.prefers_first(0.2, 0.9, 11, 5)
    assert there + back == pytest.approx(1, abs=1e-12)


def test_a_hopeless_case_is_a_probability_still():
    assert Labeller(1e-6).prefers_first(0.0, 1.0, 1, 1) == 0.0
    assert Labeller(1e-6).prefers_first(1.0, 0.0, 1, 1) == 1.0


def test_a_temperature_of_0_is_refused():
    with pytest.raises(UserError, match="--temperature 0"):
        Labeller(0.0)


def test_a_line_holds_the_prompt_the_choice_and_both_golds():
    assert comparison_line(RECORD, "aa", "b", 0.25, 0.75, Labeller(0.1), 0.5) == {
        "task": "x", "prompt": "p", "subject": "s",
        "chosen": "b", "rejected": "aa", "gold_chosen": 0.75, "gold_rejected": 0.25,
    }  # fmt: skip


def test_as_many_pairs_as_asked_for_none_identical_or_empty(pairs_of):
    """Of this policy's responses some are empty, some equal, some never end, and these are counted."""
    lines, left_out = pairs_of(100)
    assert len(lines) == 100
    assert all(line["chosen"] and line["rejected"] and line["chosen"] != line["rejected"] for line in lines)
    assert set(left_out) == {"identical", "unfinished or empty"} and min(left_out.values()) > 0


def test_gold_is_the_tasks_reward_of_each_response_to_training_prompts(pairs_of):
    for line in pairs_of()[0]:
        assert (line["gold_chosen"], line["gold_rejected"]) == (len(line["chosen"]), len(line["rejected"]))
        assert line["split"] == "train"


def test_the_pairs_are_of_responses_to_one_prompt(make_policy, tokenizer, task, monkeypatch):
    """All pairs of the three that were sampled for each, in their order."""
    said = []

    def numbered(model, tokenizer, records, max_new, seeds):
        said.extend(f"{r['prompt']} {i}" for i, r in enumerate(records, len(said)))
        assert max_new == 8 and len(set(seeds)) == len(seeds)
        return said[-len(records) :]

    monkeypatch.setattr(simulated, "respond", numbered)
    lines, _ = make_pairs(None, tokenizer, task, 12, 3, Labeller(1.0, position_bias=1e3), 0)
    wanted = [pair for i in range(4) for pair in combinations(said[3 * i : 3 * i + 3], 2)]
    assert [(line["chosen"], line["rejected"]) for line in lines] == wanted
    assert all(line["chosen"].startswith(line["prompt"]) for line in lines)


def test_the_seed_decides_everything(pairs_of):
    first, again, other = pairs_of(seed=0), pairs_of(seed=0), pairs_of(seed=1)
    assert first == again and first[0] != other[0]
    assert pairs_of(10)[0] == first[0][:10]


def test_who_judges_has_no_influence_on_what_is_judged(pairs_of):
    def texts(labeller):
        return [{line["chosen"], line["rejected"]} for line in pairs_of(labeller=labeller)[0]]

    assert texts(Labeller()) == texts(Labeller(5.0, 1.0, -2.0))


@pytest.mark.parametrize("bias, sign", [(50.0, 1), (-50.0, -1)])
def test_a_length_bias_decides_over_the_gold_reward(pairs_of, bias, sign):
    lines, _ = pairs_of(labeller=Labeller(10.0, length_bias=bias))
    assert all(sign * (len(line["chosen"]) - len(line["rejected"])) >= 0 for line in lines)


def test_hard_labels_are_drawn_anew_for_each_pair(pairs_of):
    """At a temperature that hides the gold reward, about half of 200 say what it says."""
    lines, _ = pairs_of(200, labeller=Labeller(1e6))
    unequal = [x for x in lines if x["gold_chosen"] != x["gold_rejected"]]
    assert 0.35 < sum(x["gold_chosen"] > x["gold_rejected"] for x in unequal) / len(unequal) < 0.65


def test_a_model_that_always_says_the_same_is_refused(make_policy, tokenizer, task, monkeypatch):
    monkeypatch.setattr(simulated, "respond", lambda model, tokenizer, records, *rest: ["same"] * len(records))
    with pytest.raises(UserError, match="--pairs 5: only 0 pairs can be compared; left out: .* identical"):
        make_pairs(None, tokenizer, task, 5, 2, Labeller(), 0)


def test_a_response_that_did_not_end_is_none(make_policy, tokenizer):
    texts = respond(make_policy(0), tokenizer, PROMPTS * 20, 3, range(80))
    assert None in texts and len([text for text in texts if text is not None]) > 10
