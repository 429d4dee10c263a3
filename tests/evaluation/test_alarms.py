"""Alarms: each rings on items that deserve it, says what it saw, and is silent on healthy ones."""

import dataclasses
import random

import pytest

from minirlhf.evaluation import ask
from minirlhf.evaluation.alarms import LEAST, alarms
from minirlhf.lm.generation import generate
from minirlhf.metrics.intervals import wilson

MODELS = {"sft": {"sha256": "5f7aaaaaaaa", "stage": "sft"}, "ppo": {"sha256": "99bbbbbbbbb", "stage": "ppo"}}


def item(model: str, i: int, k: int, **other) -> dict:
    """A healthy response: sample k of `model` to prompt i. Half of the greedy answers are right."""
    right = (i + k + (model == "ppo")) % 2 == 0
    kl = 0.3 if model == "ppo" else 0.0
    return {
        "index": i, "sample": k, "prompt": f"prompt {i}", "reference": f"answer {i}", "stop": "eos",
        "tokens": 4, "response": f"answer {i}" if right else f"{model} {i}", "kl": kl,
        "k1": kl * (1 + (-1) ** (i + k)), "scores": {"reward": float(right), "unparsable": 0.0},
    } | other  # fmt: skip


def rows(model: str, prompts: int = 40, samples: int = 2, **other) -> list[dict]:
    return [item(model, i, k, **other) for i in range(prompts) for k in range(-1, samples)]


def both(**ppo) -> dict:
    return {"task": {"sft": rows("sft"), "ppo": rows("ppo", **ppo)}}


def heard(items: dict, models: dict = MODELS, train=()) -> list[str]:
    """The names of what rang, each with a reason, a remedy and no line break."""
    found = alarms(models, items, train)
    assert all(set(a) == {"what", "why", "remedy"} and all(a.values()) for a in found)
    assert not any("\n" in text for a in found for text in a.values())
    return [a["what"].partition(":")[0] for a in found]


def what(items: dict, models: dict = MODELS, train=()) -> str:
    """The one alarm's fact."""
    (alarm,) = alarms(models, items, train)
    return alarm["what"]


def test_healthy_evidence_rings_nothing():
    assert heard(both()) == []
    assert heard(both(), train={"another prompt"}) == []
    assert heard({"task": {"sft": rows("sft")}}, {"sft": MODELS["sft"]}) == []


def test_models_without_any_sample_ring_nothing():
    assert heard({"task": {m: [x for x in rows(m) if x["sample"] < 0] for m in MODELS}}) == []
    assert heard({}) == []


# same checkpoint


def test_one_checkpoint_under_three_names_is_one_alarm_that_names_them():
    """The answers of equal weights are equal too, which need not be said again."""
    models = {name: {"sha256": "5f7aaaaaaaa", "stage": "sft"} for name in ("a", "b", "c")}
    fact = what({"task": {name: rows("sft") for name in models}}, models)
    assert fact.startswith("same weights: a and b and c") and "5f7aaaaa" in fact


def greedy(n: int, different: int = 0, reference: str | None = None) -> dict:
    """Greedy answers of two models to n prompts, the same but for the first `different`; all wrong."""
    of = {m: [item(m, i, -1, response=f"said {i}", reference=reference) for i in range(n)] for m in MODELS}
    for x in of["ppo"][:different]:
        x["response"] = "another"
    of["ppo"].append(item("ppo", 0, 0, scores={"reward": 0.5}))  # so that the reward is not constant
    return {"task": of}


@pytest.mark.parametrize(
    "n, different, rings", [(40, 0, True), (40, 1, False), (200, 1, True), (200, 2, False)]
)
def test_more_than_99_percent_of_greedy_answers_in_common_ring(n, different, rings):
    assert heard(greedy(n, different)) == ["same answers"] * rings


def test_the_alarm_of_same_answers_counts_them():
    assert "199 of 200 prompts of task" in what(greedy(200, 1)) and "sft and ppo" in what(greedy(200, 1))


def test_models_that_agree_because_they_are_right_are_no_alarm():
    items = {"task": {m: rows(m) for m in MODELS}}
    for x in (x for of in items["task"].values() for x in of if x["sample"] < 0):
        x["response"] = x["reference"]
    assert heard(items) == []
    for x in (x for of in items["task"].values() for x in of if x["sample"] < 0):  # conversations with right last answers
        x |= {"answer": x["response"], "response": f"what? ‹that› {x['response']}"}
    assert heard(items) == []


def test_few_prompts_on_which_all_agree_are_no_alarm():
    assert heard(greedy(LEAST - 1)) == [] and heard(greedy(LEAST)) == ["same answers"]


def test_sampled_answers_do_not_count_as_greedy_ones():
    items = both()
    for x, y in zip(items["task"]["sft"], items["task"]["ppo"]):
        if x["sample"] >= 0:
            y["response"] = x["response"]
    assert heard(items) == []


# train/test overlap


def test_prompts_that_were_trained_on_are_counted_once_with_an_example():
    fact = what(both(), train=["prompt 3", "prompt 17", "another"])
    assert "2 of 40 prompts of task" in fact and "'prompt 3'" in fact


def test_unknown_training_prompts_are_no_overlap():
    assert heard(both(), train=[]) == []


# what the samples say of themselves


def cut(share: float, n: int = 100) -> dict:
    """The first share of ppo's n samples was cut off, half of them by the context."""
    items = {"task": {"sft": rows("sft"), "ppo": rows("ppo", n, 1)}}
    samples = [x for x in items["task"]["ppo"] if x["sample"] >= 0]
    for i, x in enumerate(samples[: round(share * n)]):
        x["stop"] = ("length", "context")[i % 2]
    return items


@pytest.mark.parametrize("share, rings", [(0.05, False), (0.06, True), (1.0, True)])
def test_fewer_than_95_percent_of_samples_that_end_ring(share, rings):
    assert heard(cut(share)) == ["no end"] * rings


def test_the_alarm_of_cut_responses_says_what_cut_them():
    fact = what(cut(0.1))
    assert "90 of 100 responses of ppo" in fact
    assert "5 were cut at the length" in fact and "5 at the context" in fact


def test_a_base_model_need_not_answer_and_is_known_by_its_stage_alone():
    of = cut(0.5)["task"]["ppo"]
    for x in of:
        x["scores"]["unparsable"], x["response"] = 1.0, "of"
    items, answering = {"task": {"base": of}}, ["no end", "unparsable", "one answer"]
    assert heard(items, {"base": {"sha256": "1", "stage": "base"}}) == []
    assert heard(items, {"base": {"sha256": "1", "stage": None}}) == answering
    assert heard(items, {"base": {"sha256": "1"}}) == answering


def test_a_base_model_with_a_wrong_kl_is_an_alarm_like_any():
    models = {"base": {"sha256": "1", "stage": "base"}}
    assert heard({"task": {"base": rows("ppo", kl=-1.0)}}, models) == ["negative KL"]


def test_greedy_answers_that_are_cut_off_are_not_samples():
    items = both()
    for x in items["task"]["ppo"]:
        x["stop"] = "length" if x["sample"] < 0 else "eos"
    assert heard(items) == []


@pytest.mark.parametrize("bad, rings", [(5, False), (6, True)])
def test_more_than_5_percent_unparsable_ring_with_their_interval(bad, rings):
    items = {"task": {"sft": rows("sft"), "ppo": rows("ppo", 100, 1)}}
    for x in [x for x in items["task"]["ppo"] if x["sample"] >= 0][:bad]:
        x["scores"]["unparsable"] = 1.0
    assert heard(items) == ["unparsable"] * rings
    if rings:
        low, high = wilson(6, 100)
        assert "6 of 100" in what(items) and f"6.0% [{low:.1%}, {high:.1%}]" in what(items)


# one answer


def mode(n: int, times: int, references: list[str] | None = None) -> dict:
    """Greedy answers of ppo to n prompts, of which `times` are "yes"; two samples tell rewards apart."""
    of = [item("ppo", i, -1, response="yes" if i < times else f"said {i}", reference=None) for i in range(n)]
    for x, reference in zip(of, references or []):
        x["reference"] = reference
    return {"task": {"ppo": of + [item("ppo", 0, k) for k in (0, 1)]}}


@pytest.mark.parametrize(
    "n, times, rings", [(40, 20, False), (40, 21, True), (40, 40, True), (LEAST - 1, LEAST - 1, False)]
)
def test_one_greedy_answer_to_more_than_half_of_the_prompts_rings(n, times, rings):
    assert heard(mode(n, times), MODELS) == ["one answer"] * rings


def test_the_alarm_of_one_answer_quotes_and_counts_it():
    assert "'yes' to 30 of 40 prompts of task" in what(mode(40, 30))


@pytest.mark.parametrize("times, rings", [(24, False), (32, False), (33, True), (40, True)])
def test_a_class_that_most_prompts_have_is_no_collapse(times, rings):
    """24 of 40 right answers are "yes": collapse begins half-way from there to 40."""
    assert heard(mode(40, times, ["yes"] * 24 + ["no"] * 16)) == ["one answer"] * rings


def test_equal_prompts_count_once():
    same = [item("ppo", 100 + i, -1, prompt="same", response="yes") for i in range(99)]
    assert heard({"task": {"ppo": rows("ppo") + same}}) == []


# KL


def with_gap(noise: list[float], samples: int = 1) -> dict:
    """k1 is off by noise[i] in all samples of prompt i."""
    of = [item("ppo", i, k, kl=0.5, k1=0.5 + gap) for i, gap in enumerate(noise) for k in range(samples)]
    return {"task": {"sft": rows("sft"), "ppo": of}}


def test_a_mean_kl_below_0_rings_and_rounding_does_not():
    assert heard(both(kl=-0.01, k1=-0.01)) == ["negative KL"]
    assert "-0.010 nats" in what(both(kl=-0.01, k1=-0.01))
    assert heard(both(kl=-1e-6, k1=-1e-6)) == []


def test_single_responses_of_negative_k1_are_no_alarm():
    assert heard(with_gap([-0.9, 0.9] * 20)) == []


@pytest.mark.parametrize("errors, rings", [(3.9, False), (4.1, True), (-4.1, True)])
def test_k1_more_than_4_standard_errors_from_the_exact_kl_rings(errors, rings):
    """The gaps of 100 prompts are ±1, so that their standard error is 0.1005."""
    assert heard(with_gap([errors * 0.10050378 + side for side in [1, -1] * 50])) == ["wrong KL"] * rings


def test_of_few_prompts_the_error_itself_is_uncertain():
    """Of 20 the limit is 4.90 of their standard errors."""
    for errors, rings in ((4.5, False), (5.1, True)):
        noise = [errors * 0.22941573 + side for side in [1, -1] * 10]
        assert heard(with_gap(noise)) == ["wrong KL"] * rings


def test_samples_of_one_prompt_count_as_one():
    """25 samples that share their prompt's error would make a standard error five times too small."""
    rng = random.Random(0)
    gaps = [rng.gauss(0, 1) for _ in range(40)]
    gaps = [gap - sum(gaps) / 40 + 0.3 for gap in gaps]  # 1.9 standard errors of prompts
    assert heard(with_gap(gaps, samples=25)) == []


def test_few_prompts_say_nothing_of_k1():
    assert heard(with_gap([0.5] * (LEAST - 1))) == [] and heard(with_gap([0.5] * LEAST)) == ["wrong KL"]


@pytest.mark.parametrize("temperature, rings", [(1.0, False), (0.4, True)])
def test_a_model_that_samples_what_it_does_not_score_is_found(
    make_policy, tokenizer, monkeypatch, temperature, rings
):
    """The evaluator's own sampling, sound and at a temperature that its scoring knows nothing of."""
    def colder(model, prompts, sampling, *rest):
        sampling = dataclasses.replace(sampling, temperature=temperature * sampling.temperature)
        return generate(model, prompts, sampling, *rest)

    monkeypatch.setattr("minirlhf.rl.rollout.generate", colder)
    records = [{"prompt": f"{i} says", "response": "x"} for i in range(60)]
    reward_of = lambda record: lambda prompt, response, record: float(len(response))  # noqa: E731
    asked = [ask.Policy(make_policy(seed), tokenizer, chat=False) for seed in (0, 1)]
    made = ask.sample_items(*asked, records, ask.Protocol(reward_of, 8, 2, 0))
    assert ("wrong KL" in heard({"task": {"ppo": made}})) == rings


# reward


@pytest.mark.parametrize("other", [0.0, 0.5])
def test_a_reward_that_is_one_number_rings_and_one_other_silences_it(other):
    items = both()
    for of in items["task"].values():
        for x in of:
            x["scores"]["reward"] = 0.25
    assert heard(items) == ["constant reward"] and "0.25 for all 240 responses" in what(items)
    items["task"]["ppo"][7]["scores"]["reward"] = other
    assert heard(items) == []


def test_without_a_reward_none_is_constant():
    assert heard(both(scores={}) | {"other": {"sft": rows("sft", scores={})}}) == []


def test_alarms_of_models_come_first_and_then_those_of_each_set():
    models = {m: {"sha256": "same", "stage": m} for m in MODELS}
    items = {"one": both(kl=-0.1, k1=-0.1)["task"], "two": both(stop="length")["task"]}
    assert heard(items, models) == ["same weights", "negative KL", "no end"]
    assert " on one" in alarms(models, items)[1]["what"] and " on two" in alarms(models, items)[2]["what"]
