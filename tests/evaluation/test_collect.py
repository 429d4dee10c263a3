"""From models to items: what is asked of whom, and what is known besides."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from minirlhf.evaluation import collect
from minirlhf.evaluation.ask import Policy, Protocol, fitted_temperature, sample_items, text_items
from minirlhf.evaluation.collect import (
    collect_items, load_models, ngram_baseline, optimum_of_training, temperatures, training_records,
)
from minirlhf.evaluation.config import Evaluation
from minirlhf.evaluation.items import read_items, write_items
from minirlhf.evaluation.questions import shots_of
from minirlhf.evaluation.report import build
from minirlhf.harness.files import UserError
from minirlhf.lm import checkpoint
from minirlhf.lm.chat import render, render_prompt
from minirlhf.lm.gguf_models import write_gguf
from minirlhf.lm.model import GPT, GPTConfig
from minirlhf.lm.records import prompt_of
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.metrics import ngram
from minirlhf.rl.options import RewardOptions
from minirlhf.tasks import TASKS, reward_of_task
from minirlhf.tasks.sources import OWN

QA = [("system", "s"), ("user", "q"), ("assistant", "12"), ("user", "r"), ("assistant", "好")]
CONVERSATION = {"messages": [{"role": role, "content": content} for role, content in QA]}
PAIRS = [{"prompt": "ab", "response": "x"}, {"prompt": "cd", "response": "yes"}]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder, the current one, with a reward and data of the user's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def length(prompt, response, record): return len(response) / 10\n")
    lines = [*PAIRS, CONVERSATION, {"text": "no prompt"}]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    return tmp_path


@pytest.fixture
def ask(make_policy, tokenizer, files):
    """A function that collects items from three models: (run, sets). chat, runs, own: of single ones; make: of each.

    own: tokenizers.
    """
    def ask(runs=None, chat=None, names=("base", "sft", "ppo"), make=None, own={}, **options) -> tuple:
        make = make or (lambda i: make_policy(i, context=320))
        roles = dict.fromkeys(names, True) | (chat or {})
        models = {name: Policy(make(i), own.get(name, tokenizer), roles[name]) for i, name in enumerate(names)}
        judged = RewardOptions(options.pop("reward", ()))
        options = Evaluation(**{"prompts": 3, "samples": 2, "max_new": 4, **options})
        runs = dict.fromkeys(models, {}) | (runs or {})
        return collect_items(options, judged, 5, models, runs, {name: str(files / name) for name in models})

    return ask


MINE = {"data": ("own.jsonl",), "reward": ("mine.py:length",)}

def test_the_bar_counts_every_answer_that_is_sampled_also_those_that_only_the_optimum_needs(ask, monkeypatch):
    """Four prompts, two samples and a greedy answer each, of three models; and 5 + 1 of the reference."""
    bars, made = [], collect.bar
    monkeypatch.setattr(collect, "bar", lambda *given, **more: bars.append(made(*given, **more)) or bars[-1])
    ask(**MINE)
    ask(**MINE, beta=0.1, reference_samples=5)
    assert [(bar.n, bar.total) for bar in bars] == [(4 * 3 * 3, 4 * 3 * 3), (4 * 3 * 3 + 4 * 6, 4 * 3 * 3 + 4 * 6)]


# What is asked


def test_generated_tasks_are_asked_in_each_of_their_test_splits(ask):
    """As many prompts as wanted, by the seed; what their reward measures is told."""
    _, sets = ask(task="arithmetic,sentiment")
    wanted = [("arithmetic", split) for split in ("test", "test_range", "test_long")] + [("sentiment", "test")]
    assert [s.title for s in sets] == ["arithmetic", "arithmetic, range", "arithmetic, long", "sentiment"]
    for s, (name, split) in zip(sets, wanted):
        assert s.records == TASKS[name].records(split, 3, 5) and s.about["reward"] == TASKS[name].REWARD


def test_without_a_task_the_models_are_asked_what_any_of_them_was_trained_on(ask):
    runs = {"base": {"tasks": {"sentiment": 1.0}, "seed": 0}, "ppo": {"tasks": {"sentiment": 0.5}, "seed": 0}}
    assert [s.title for s in ask(runs)[1]] == ["sentiment"]
    with pytest.raises(UserError, match="give --task, or --data"):
        ask()


def test_own_data_are_asked_turn_by_turn_and_texts_are_passed_over(ask):
    _, (s,) = ask(**MINE)
    assert s.title == "data" and s.records[:2] == PAIRS and s.about["reward"] == ""
    assert s.records[2:] == [{"messages": CONVERSATION["messages"][:n], "conversation": 2} for n in (3, 5)]


def test_shots_are_of_what_the_models_were_trained_on_or_of_files_and_for_all_or_for_some(
    ask, make_policy, tokenizer, files, monkeypatch
):
    """Never a test prompt. Answers, texts and the fitted temperature are of the models as they are asked."""
    monkeypatch.setattr(collect, "fitted_temperature", lambda policy, records: 1.0 + len(policy.shots))
    runs = {"ppo": {"tasks": {"arithmetic": 1.0}, "seed": 0, "data": {"examples": 50}}}
    trained, asked = TASKS["arithmetic"].records("train", 50, 0), TASKS["arithmetic"].records("test", 3, 5)
    lines = [{"prompt": "1?", "response": "one"}, *({k: r[k] for k in ("prompt", "response")} for r in asked)]
    (files / "shots.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    protocol = Protocol(reward_of_task, TASKS["arithmetic"].MAX_NEW, samples=2, seed=5)
    for given, examples, shown in (
        ({"shots": 2}, trained, ["base", "sft", "ppo"]),
        ({"shots": 1, "shots_from": ("shots.jsonl",), "shots_for": ("sft",)}, [{"prompt": "1?", "response": "one"}], ["sft"]),
    ):
        _, (s, *_) = ask(runs, task="arithmetic", **given)
        assert s.records == asked  # what a report pairs by: the questions alone
        assert {x["scores"]["reward"] for x in s.items["ppo"]} <= {0.0, 1.0}  # of the last question
        begun = shots_of(s.records, examples, given["shots"], 5)
        models = {name: Policy(make_policy(i, context=320), tokenizer) for i, name in enumerate(s.texts)}
        models |= {name: replace(models[name], shots=begun) for name in shown}
        assert s.about["temperatures"] == {name: 1.0 + len(policy.shots) for name, policy in models.items()}
        for name, policy in models.items():
            compared = models["ppo"].model if name != "base" else None
            assert s.items[name] == sample_items(policy, models["sft"], s.records, protocol, compared)
            assert s.texts[name] == text_items(policy, s.records, s.about["temperatures"].get(name))
    with pytest.raises(UserError, match="--shots-for rl: not one of base, sft, ppo"):
        ask(runs, task="arithmetic", shots=2, shots_for=("rl",))
    with pytest.raises(UserError, match="arithmetic behind --shots 40: no prompt of 3 records fits"):
        ask(runs, task="arithmetic", shots=40)


def test_every_model_is_asked_in_its_own_way_and_its_own_tokens_are_scored(ask, make_policy, tokenizer):
    """A base model as a document, the others with roles; of two it is told what the last thinks of them."""
    _, (s,) = ask(chat={"base": False}, task="sentiment")
    base, sft, ppo = (Policy(make_policy(i, context=320), tokenizer, chat=i > 0) for i in range(3))
    protocol = Protocol(reward_of_task, max_new=8, samples=2, seed=5)
    for name, policy, by in (("base", base, None), ("sft", sft, ppo.model), ("ppo", ppo, ppo.model)):
        assert s.items[name] == sample_items(policy, sft, s.records, protocol, compared=by)
        assert s.texts[name] == text_items(policy, s.records, s.about["temperatures"].get(name))


# What is known of the models


def test_the_run_tells_the_models_apart_and_what_they_are(ask, make_policy, files):
    (files / "ppo").mkdir()
    lines = [{"step": i, "reward": i / 2} for i in (1, 2)]
    (files / "ppo" / "log.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    run, _ = ask({"ppo": {"stage": "rloo", "seed": 7, "cost": {"steps": 3}}}, **MINE)
    assert (run["reference"], run["seed"], run["vocabulary"]) == ("sft", 5, 260)
    assert run["settings"]["samples"] == 2 and run["environment"]["torch"]
    assert run["environment"]["sampling"] == "torch.float32"
    for i, name in enumerate(("base", "sft", "ppo")):
        assert run["models"][name]["sha256"] == checkpoint.fingerprint(make_policy(i, context=320))
    ppo = run["models"]["ppo"]
    assert (ppo["stage"], ppo["seed"], ppo["cost"], ppo["folder"]) == ("rloo", 7, {"steps": 3}, str(files / "ppo"))
    assert ppo["curves"] == [{"name": "reward", "x": "step", "points": [[1, 0.5], [2, 1.0]]}]
    assert run["models"]["sft"] | {"stage": None, "cost": None, "curves": []} == run["models"]["sft"]


def test_where_there_is_no_sft_the_first_model_is_the_reference(ask):
    assert ask(names=("a", "b"), **MINE)[0]["reference"] == "a"
    assert ask(names=("a", "b"), reference="b", **MINE)[0]["reference"] == "b"
    with pytest.raises(UserError, match="--reference c: not one of a, b"):
        ask(names=("a", "b"), reference="c", **MINE)


def test_models_of_different_tokenizers_are_refused_by_name(ask, make_policy, tokenizer):
    with pytest.raises(UserError, match="b and a have different tokenizers"):
        models = {"a": Policy(make_policy(0), tokenizer), "b": Policy(make_policy(0, layers=1), tokenizer)}
        checkpoint.resize_vocabulary(models["b"].model, 261)
        collect_items(Evaluation(), RewardOptions(), 0, models, dict.fromkeys(models, {}), {})


def test_a_model_and_its_copy_in_another_format_are_compared(make_policy, tokenizer, files):
    """A folder and a GGUF file: their ids mean the same."""
    model = make_policy(0, context=320)
    raw, tensors = checkpoint.config_to_json(model.config, tokenizer.eos_id), checkpoint.to_huggingface(model)
    write_gguf(files / "copy.gguf", raw, tensors, tokenizer)
    copy, theirs = checkpoint.load(files / "copy.gguf")
    models = {"a": Policy(model, tokenizer), "b": Policy(copy.eval(), theirs)}
    options = Evaluation(samples=1, max_new=4, data=("own.jsonl",))
    _, (s,) = collect_items(options, RewardOptions(), 0, models, dict.fromkeys(models, {}), {})
    assert [x["kl"] for x in s.items["b"]] == [0.0] * len(s.items["a"])


def test_of_the_default_models_those_that_are_there_are_loaded_and_a_base_model_knows_no_roles(
    files, make_policy, tokenizer
):
    for name, stage in (("base", "base"), ("sft", "sft")):
        checkpoint.save(files / "out" / name, make_policy(0), tokenizer, {"stage": stage})
    models, runs, folders = load_models(Evaluation(), "cpu", torch.bfloat16)
    assert {policy.dtype for policy in models.values()} == {torch.bfloat16}
    assert list(models) == ["base", "sft"] and folders == {"base": "out/base", "sft": "out/sft"}
    assert {name: policy.chat for name, policy in models.items()} == {"base": False, "sft": True}
    assert not models["sft"].model.training
    assert runs["sft"] == {"stage": "sft"} and checkpoint.read_run("nowhere") == {}


@pytest.mark.parametrize("models", [("good",), ("a=x", "a=y"), ("a=",)])
def test_models_want_a_name_and_a_folder_each(models):
    with pytest.raises(UserError, match="name=PATH"):
        load_models(Evaluation(models=models), "cpu")


# What the models have seen


def test_the_generated_records_of_training_are_made_again():
    """From the number of examples and the seed of each run: those of another seed are others."""
    def run(**other):
        return {"data": {"examples": 30, "data": []}, "seed": 7, "tasks": {"arithmetic": 2.0}} | other

    of_sft = TASKS["arithmetic"].records("train", 30, 7)
    assert training_records({"sft": run(), "ppo": run()}) == {"arithmetic": of_sft, OWN: []}
    other = run(seed=8, data={"examples": 40, "prompts": []}, tasks={"arithmetic": 1.0, "sentiment": 0.5})
    assert training_records({"sft": run(), "ppo": other}) == {
        "arithmetic": of_sft + TASKS["arithmetic"].records("train", 40, 8),
        "sentiment": TASKS["sentiment"].records("train", 40, 8),
        OWN: [],
    }
    assert not any(training_records({"gpt2": {}, "x": run(tasks={"gone": 1.0}, data={})}).values())


def test_the_records_of_training_are_read_again_from_files_that_are_still_there(files):
    """Those of SFT and of RL, each file once."""
    (files / "more.jsonl").write_text('{"prompt": "more"}\n')
    (files / "corpus.txt").write_text("raw text")
    runs = {"sft": {"data": {"data": ["own.jsonl", "gone.jsonl", "corpus.txt"]}, "seed": 0},
            "ppo": {"data": {"prompts": ["more.jsonl", "own.jsonl"]}, "seed": 0}}  # fmt: skip
    assert training_records(runs) == {OWN: [{"prompt": "more"}, *PAIRS, CONVERSATION]}


def test_test_prompts_that_were_trained_on_are_found(ask, files):
    """Generated ones and a user's own; `about` names them as the items do, and an alarm is raised."""
    seen = TASKS["arithmetic"].records("train", 4, 9)[2]["prompt"]
    (files / "test.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in (seen, "new", "ab")))
    runs = {"sft": {"data": {"examples": 4}, "seed": 9, "tasks": {"arithmetic": 1.0}},
            "ppo": {"data": {"prompts": ["own.jsonl"]}, "seed": 0}}  # fmt: skip
    run, (s,) = ask(runs, data=("test.jsonl",))
    assert s.about["trained_on"] == [seen, "ab"]
    assert any("2 of 3 prompts" in alarm["what"] for alarm in build(run, [s])["alarms"])


def test_a_conversation_was_trained_on_if_all_of_it_was(ask, files):
    """The same last question after something else is another prompt."""
    other = {"messages": [{"role": "system", "content": "t"}, *CONVERSATION["messages"][1:]]}
    for name, record in (("other", other), ("same", CONVERSATION)):
        (files / f"{name}.jsonl").write_text(json.dumps(record) + "\n")
    runs = {"sft": {"data": {"data": ["own.jsonl"]}, "seed": 0}}
    assert ask(runs, data=("other.jsonl",))[1][0].about["trained_on"] == []
    assert ask(runs, data=("same.jsonl",))[1][0].about["trained_on"] == ["r"]
    assert ask(data=("same.jsonl",))[1][0].about["trained_on"] == []


def test_an_n_gram_of_training_answers_says_what_is_easy_about_the_records_own(tokenizer):
    """− log p of each last answer and its EOS; unanswered records teach nothing and are not scored."""
    seen = [*PAIRS, CONVERSATION, {"prompt": "z"}]
    asked = [{"prompt": "ab", "response": "xx"}, {"prompt": "z"}, CONVERSATION]
    got = ngram_baseline(seen, asked, tokenizer)
    model = ngram.fit_ngram([render(r, tokenizer).ids for r in seen[:3]], 4, 260)
    nll = 0.0
    for record, tokens in ((asked[0], 3), (CONVERSATION, 4)):
        ids = render(record, tokenizer).ids
        nll -= float(model.log_prob(ids)[len(ids) - tokens :].sum())
    assert got == {"order": 4, "answers": 3, "nll": pytest.approx(nll), "tokens": 7}
    assert ngram_baseline(seen[3:], asked, tokenizer) is None
    assert ngram_baseline(seen, asked[1:2], tokenizer) is None


# Temperatures


@pytest.fixture
def letters(tokenizer):
    """A function that makes models which know how frequent the bytes of answers are, each surer than the last."""
    texts = [r["response"] for task in TASKS.values() for r in task.records("train", 200, 0)]
    counts = np.bincount([i for t in texts for i in [*tokenizer.encode(t), tokenizer.eos_id]], minlength=260)

    def letters(i: int) -> GPT:
        model = GPT(GPTConfig(tokenizer.vocab_size, context=320, layers=1, heads=1, width=8)).eval()
        with torch.no_grad():
            for x in (model.wte.weight, model.ln_f.weight, model.ln_f.bias):
                x.zero_()
            model.ln_f.bias[0] = i + 1.0
            model.wte.weight[:, 0] = torch.tensor(counts + 1).log()
        return model

    return letters


def test_each_model_has_one_temperature_a_task_fitted_on_its_validation_split(ask, letters, tokenizer, monkeypatch):
    """In its own way of asking; the three test splits of a task share them."""
    asked = []

    def noted(policy, records):
        asked.append(records)
        return fitted_temperature(policy, records)

    monkeypatch.setattr("minirlhf.evaluation.collect.fitted_temperature", noted)
    _, sets = ask(task="arithmetic", make=letters, chat={"base": False})
    assert len(sets) == len(asked) == 3
    records, fitted = TASKS["arithmetic"].records("validation", 200, 5), {}
    for i, name in enumerate(("base", "sft", "ppo")):
        policy = Policy(letters(i), tokenizer, chat=name != "base")
        fitted[name] = fitted_temperature(policy, records)
        for s in sets:
            assert s.texts[name] == text_items(policy, s.records, fitted[name])
    assert asked == [records] * 3 and all(s.about["temperatures"] == fitted for s in sets)
    assert fitted["ppo"] == pytest.approx(3 * fitted["base"], rel=0.1)


@pytest.mark.parametrize("name", TASKS)
def test_no_prompt_that_a_temperature_is_fitted_on_is_one_of_a_test(name, monkeypatch):
    seen = []
    fitted = lambda policy, records: seen.extend(records) or 2.0  # noqa: E731
    monkeypatch.setattr("minirlhf.evaluation.collect.fitted_temperature", fitted)
    assert temperatures(name, {"m": Policy(None, None)}, 5) == {"m": 2.0} and len(seen) == 200
    for split in TASKS[name].EVAL_SPLITS:
        if split.startswith("test"):
            tested = {prompt_of(r) for seed in (5, 6) for r in TASKS[name].records(split, 200, seed)}
            assert not tested & {prompt_of(r) for r in seen}


@pytest.mark.parametrize("options, limit", [
    (MINE, None), ({"task": "arithmetic"}, math.inf), ({"task": "arithmetic"}, 0.0),
])
def test_without_a_validation_split_or_a_best_temperature_there_is_none(options, limit, ask, letters, monkeypatch):
    if limit is not None:
        monkeypatch.setattr("minirlhf.evaluation.collect.fitted_temperature", lambda policy, records: limit)
    run, sets = ask(make=letters, **options)
    assert not any(s.about["temperatures"] or "tempered" in s.texts["sft"][0] for s in sets)
    assert "calibration error at T" not in json.dumps(build(run, sets))


# What could be achieved


TRAINING = {"beta": 0.3, "temperature": 1.0, "missing_eos": 0.0}


@pytest.mark.parametrize("other", [
    {}, {"reference": "b"}, {"data": {"reward": ["mine.py:length"]}}, {"training": {"beta": 0.1}},
    {"training": {"temperature": 0.7}}, {"training": {"missing_eos": -1.0}},
    {"optimum": {"reviews": {"value": None}}},
])
def test_the_optimum_of_training_is_taken_for_the_objective_it_was_of(other):
    """Of the same reference, reward, β, temperature and score of what did not end; and where it is known."""
    run = {"reference": "a", "data": {"reward": []}, "optimum": {"reviews": {"value": 0.9}}} | other
    run |= {"training": TRAINING | other.get("training", {})}
    wanted = {"beta": 0.3, "missing_eos": 0.0}
    assert optimum_of_training(run, "a", wanted, (), "reviews") == (None if other else {"value": 0.9})
    assert optimum_of_training(run, "a", wanted, (), "reviews, range") is None


def test_the_beta_is_that_of_training_unless_another_is_given(ask):
    runs = {"ppo": {"training": TRAINING}}
    assert ask(runs, **MINE)[1][0].about["beta"] == 0.3
    assert ask(runs, beta=0.7, **MINE)[1][0].about["beta"] == 0.7


@pytest.mark.parametrize("change", [
    {"runs": {}}, {"reward": ()}, {"chat": {"sft": False}}, {"reference": "ppo"},
], ids=["no beta", "no reward", "asked in other ids", "no policy"])
def test_without_beta_reward_or_a_common_prompt_there_is_no_optimum(change, ask):
    _, (s,) = ask(**{"runs": {"ppo": {"training": TRAINING}}, **MINE, **change})
    assert not {"beta", "optimum"} & s.about.keys()


def test_models_that_are_asked_in_two_formats_have_no_common_optimum(ask):
    wordy = Tokenizer()
    wordy.chat = replace(wordy.chat, system="be so kind")
    for own, known in (({"ppo": wordy}, False), ({"ppo": wordy, "sft": wordy}, True)):
        _, (s,) = ask(runs={"ppo": {"training": TRAINING}}, own=own, **MINE)
        assert ("optimum" in s.about) == known


def test_more_samples_of_the_reference_tell_the_optimum_where_training_did_not(ask):
    """With a β so large that all of them count alike it is their mean reward, and more."""
    _, (s,) = ask(beta=1000.0, reference_samples=100, **MINE)
    known = s.about["optimum"]
    rewards = [x["scores"]["reward"] for x in s.items["sft"] if x["sample"] >= 0]
    assert known["effective_size"] == pytest.approx(400, rel=1e-3)
    assert known["low"] < known["value"] < known["high"]
    assert known["value"] == pytest.approx(sum(rewards) / 8, abs=0.2)
    assert ask(beta=1000.0, **MINE)[1][0].about["optimum"] is None


def test_behind_examples_the_optimum_of_training_is_none(ask, files):
    """Training asked its reference without; as here, where another model alone has them."""
    (files / "shots.jsonl").write_text('{"prompt": "1?", "response": "one"}')
    known = {"training": TRAINING, "data": {"reward": ["mine.py:length"]}, "optimum": {"data": {"value": 0.9}}}
    known["reference"] = ask(**MINE)[0]["models"]["sft"]["sha256"]
    for names, optimum in (((), None), (("base",), {"value": 0.9})):
        given = {"shots": 1, "shots_from": ("shots.jsonl",), "shots_for": names}
        assert ask({"ppo": known}, **MINE, **given)[1][0].about["optimum"] == optimum


def test_where_training_cut_shorter_its_optimum_is_none(ask):
    known = {"training": TRAINING, "data": {"reward": ["mine.py:length"]}, "optimum": {"data": {"value": 0.9}}}
    known["reference"] = ask(**MINE)[0]["models"]["sft"]["sha256"]
    for max_new, optimum in ((7, None), (8, {"value": 0.9}), (9, {"value": 0.9})):
        assert ask({"ppo": known | {"max_new": max_new}}, **MINE, max_new=8)[1][0].about["optimum"] == optimum


# The whole way


def test_the_attention_of_the_last_model_is_that_of_its_median_answer(ask, tokenizer):
    run, (s,) = ask(**MINE)
    shown = s.about["attention"]
    (median,) = [x for x in build(run, [s])["tasks"]["data"]["examples"] if x["rule"] == "median"]
    assert (shown["model"], shown["index"]) == ("ppo", median["index"])
    (said,) = [x["ids"] for x in s.items["ppo"] if (x["index"], x["sample"]) == (median["index"], 0)]
    asked = render_prompt(s.records[median["index"]], tokenizer)
    assert "".join(shown["pieces"]) == tokenizer.decode(asked + said)
    assert len(shown["maps"]) == 4 and len(shown["maps"][0]["weights"]) == len(asked + said)


@pytest.mark.parametrize("names", [[], ["all"]], ids=["default", "all"])
@pytest.mark.parametrize("options", [{"task": "translation"}, MINE], ids=["task", "own"])
def test_evidence_that_was_written_and_read_gives_the_same_report(options, names, ask, letters, tmp_path):
    run, sets = ask({"ppo": {"training": TRAINING}}, make=letters, **options)
    write_items(tmp_path / "items.jsonl", run, sets)
    again = build(*read_items(tmp_path / "items.jsonl"), names)
    assert ("calibration error at T" in json.dumps(again)) == ("task" in options)
    assert json.dumps(again) == json.dumps(build(run, sets, names))


def test_where_there_is_no_model_it_is_said_what_makes_one(tmp_path, monkeypatch, capsys):
    """And not that nothing is no name=PATH."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no models there; run train_sft.py first"):
        load_models(Evaluation(), "cpu")
    assert capsys.readouterr().out == ""
