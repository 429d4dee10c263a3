"""The command that trains a reward model."""

import json
import os
import re
import signal

import numpy as np
import pytest
import torch

from minirlhf.lm import checkpoint
from minirlhf.lm.model import GPT, GPTConfig
from minirlhf.lm.records import messages_of, validation_split
from minirlhf.lm.tokenizer import PAD, SPECIALS, Tokenizer
from minirlhf.preferences import train_reward
from minirlhf.preferences.train_reward import accumulate_pairs, fit_rewards, measure
from minirlhf.rl.reward_files import load_reward
from minirlhf.rl.reward_model import load_reward_model, predict_rewards
from minirlhf.tools import train_dpo, train_reward as tools_train_reward
from minirlhf.tools.train_reward import main


def comparison(prompt, chosen="a", rejected="b", **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


@pytest.fixture
def call(run_main, monkeypatch, tmp_path, make_policy, tokenizer):
    """A function that runs the command in a folder with a checkpoint `sft` and 60 prompts' comparisons."""
    monkeypatch.chdir(tmp_path)
    for name, liking in (("sft", 1), ("endless", -9)):  # for ending
        policy = make_policy(0, context=48)
        with torch.no_grad():
            policy.ln_f.bias.add_(liking * policy.wte.weight[tokenizer.eos_id])
        checkpoint.save(name, policy, tokenizer, {})
    bare = Tokenizer(specials=("<|endoftext|>",))
    checkpoint.save("base", GPT(GPTConfig(bare.vocab_size, 8, 1, 1, 4)), bare, {})
    records = [comparison(f"say {i // 2}", "good" * (1 + i % 3), "bad" * (1 + i % 4)) for i in range(120)]
    files = {
        "prefs": records,
        "equal": [comparison("p", "a", "a")],
        "plain": [{"prompt": "p", "response": "r"}],
        "half": [{"prompt": "p", "chosen": "a"}],
        "label": [comparison("p", p=1.5)],
        "one": [comparison("2")],  # which 20 % hold out
        "more": [*records, comparison("say 0", "good", "worse")],
        "labels": [{"text": f"{word} {i}", "label": word} for i in range(60) for word in ("good", "bad")],
        "single": [{"text": "good", "label": "good"}],
        "long": [*records, *(comparison(f"say {i}", "good" * 20, "bad") for i in range(30))],
    }
    for name, lines in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "empty.jsonl").write_text("")

    def call(*argv):
        return run_main(main, "reward_model", *argv, "--threads", "1")

    return call


GOOD = "--data prefs.jsonl --init sft --out rm --lr 0.01 --batch 8".split()


def test_the_command_trains_measures_normalises_and_saves(call, tmp_path, monkeypatch):
    scaled = []
    original = train_reward.reference_texts
    monkeypatch.setattr(train_reward, "reference_texts", lambda *a: scaled.append(original(*a)) or scaled[0])
    status, out, err = call(*GOOD)
    assert status == 0, err
    reward = load_reward_model("rm")
    good, bad = reward(["say 1", "say 1"], ["good", "bad"], [{}, {}])
    assert good > bad
    assert reward.tokenizer.special_ids[PAD] == 260
    of_reference = predict_rewards(reward.model, scaled[0])
    assert float(of_reference.mean()) == pytest.approx(0, abs=1e-4)
    assert float(of_reference.std(correction=0)) == pytest.approx(1, abs=1e-4)
    run = json.loads((tmp_path / "rm" / "run.json").read_text())
    held_out = run["held_out"]
    assert run["stage"] == "reward" and set(run["normalisation"]) == {"mean", "std"}
    assert "loss" in (tmp_path / "rm" / "log.html").read_text()  # as every training
    assert held_out["accuracy"] > 0.9 and held_out["interval"][0] < held_out["accuracy"]
    assert f"{held_out['pairs']} held-out comparisons: accuracy {held_out['accuracy']:.3f}" in out
    assert f"the longer one {held_out['longer']:.3f}" in out and "ECE" in out


def test_what_is_measured_are_the_rewards_before_they_are_normalised(call, tmp_path):
    """σ(Δ) is a probability on the scale of training alone."""
    assert call(*GOOD)[0] == 0
    run, reward = json.loads((tmp_path / "rm" / "run.json").read_text()), load_reward_model("rm")
    records = [json.loads(line) for line in (tmp_path / "prefs.jsonl").read_text().splitlines()]
    records = [r for r in records if validation_split(str([m["content"] for m in messages_of(r)]), 20) == "validation"]
    prompts = [r["prompt"] for r in records]
    both = [reward(prompts, [r[key] for r in records], records) for key in ("chosen", "rejected")]
    delta = (np.array(both[0]) - np.array(both[1])) * run["normalisation"]["std"]
    assert len(records) == run["held_out"]["pairs"] and abs(run["normalisation"]["std"] - 1) > 0.1
    assert run["held_out"]["loss"] == pytest.approx(np.log1p(np.exp(-delta)).mean(), rel=1e-4)


def test_no_prompt_is_both_trained_on_and_held_out(call, monkeypatch):
    seen = {}

    def caught(model, groups, *rest):
        seen["train"] = groups
        return fit_rewards(model, groups, *rest)

    monkeypatch.setattr(train_reward, "fit_rewards", caught)
    monkeypatch.setattr(train_reward, "measure", lambda delta, pairs: seen.update(held=pairs) or measure(delta, pairs))
    assert call(*GOOD)[0] == 0
    decode = Tokenizer(specials=(*SPECIALS, PAD)).decode
    train, held = ({decode(pair.texts[0]).partition("<|assistant|>")[0] for pair in pairs}
                   for pairs in ([p for group in seen["train"] for p in group], seen["held"]))  # fmt: skip
    assert train and held and not train & held and len(train | held) == 60
    assert sum(map(len, seen["train"])) + len(seen["held"]) == 120


def test_the_reference_is_the_model_as_it_came(call, monkeypatch):
    """Its responses are sampled before training, those that end, to prompts of the file."""
    drawn = []
    original = train_reward.respond

    def watched(model, tokenizer, records, max_new, seeds):
        drawn.append((checkpoint.fingerprint(model), {r["prompt"] for r in records}, len(set(seeds))))
        return original(model, tokenizer, records, max_new, seeds)

    monkeypatch.setattr(train_reward, "respond", watched)
    model, tokenizer = checkpoint.load("sft")
    tokenizer.add_specials([PAD])
    checkpoint.resize_vocabulary(model, 261)
    assert call(*GOOD)[0] == 0
    ((sha, prompts, seeds),) = drawn
    assert sha == checkpoint.fingerprint(model) and seeds == 256
    assert len(prompts) > 40 and prompts <= {f"say {i}" for i in range(60)}


def test_the_command_resumes_to_the_same_bytes(call, tmp_path, monkeypatch):
    assert call(*GOOD)[0] == 0
    weights = (tmp_path / "rm" / "model.safetensors").read_bytes()
    calls = []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return accumulate_pairs(*arguments)

    monkeypatch.setattr(train_reward, "accumulate_pairs", stopping)
    again = [*GOOD, "--out", "again"]
    status, _, err = call(*again)
    assert status == 130 and "--resume" in err.splitlines()[-1]
    assert load_reward_model("again") and "held_out" in json.loads((tmp_path / "again" / "run.json").read_text())
    assert call(*again, "--resume")[0] == 0
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == weights


def test_a_run_that_is_extended_goes_on_from_the_rewards_that_were_learnt(call, tmp_path, monkeypatch):
    """Not from those of deviation 1 that were written."""
    assert call(*GOOD)[0] == 0
    run, written = json.loads((tmp_path / "rm" / "run.json").read_text()), load_reward_model("rm").model
    begun = []

    def caught(model, *rest):
        begun.append(model.score.weight.detach().clone())
        return accumulate_pairs(model, *rest)

    monkeypatch.setattr(train_reward, "accumulate_pairs", caught)
    status, _, err = call(*GOOD, "--epochs", "4", "--resume")
    assert status == 0, err
    torch.testing.assert_close(begun[0], written.score.weight * run["normalisation"]["std"])


@pytest.mark.parametrize("module", [tools_train_reward, train_dpo])
def test_a_resume_on_other_comparisons_is_refused_by_name(call, module, monkeypatch):
    monkeypatch.setattr(tools_train_reward, "main", module.main)
    argv = [*GOOD, "--epochs", "0.1"]
    assert call(*argv)[0] == 0
    status, _, err = call(*argv, "--resume", "--data", "more.jsonl")
    assert status == 2 and "saved with data = " in err


def test_texts_that_lose_their_beginning_are_counted(call, tmp_path):
    """Thirty chosen answers of 80 tokens, in a context of 48; the rejected ones fit."""
    status, out, _ = call(*GOOD, "--data", "long.jsonl", "--epochs", "0.1")
    assert status == 0 and "30 of 300 texts cut at the front, prompt first: longer than the context of 48" in out
    run = json.loads((tmp_path / "rm" / "run.json").read_text())
    assert (run["pairs"], run["dropped"], run["cut"]) == (150, 0, 30)


def test_with_nothing_held_out_nothing_is_measured(call, tmp_path):
    status, out, _ = call(*GOOD, "--held-out", "0")
    assert status == 0 and "held-out" not in out
    assert "held_out" not in json.loads((tmp_path / "rm" / "run.json").read_text())


def test_records_with_a_label_make_a_classifier(call, tmp_path):
    """From a base model as well, which gets the roles; its classes are rewards by name."""
    for init in ("sft", "base"):
        status, out, err = call(*"--data labels.jsonl --out classes --lr 0.01 --batch 8".split(), "--init", init)
        assert status == 0 and "held-out texts: accuracy" in out, err
    status, out, _ = call(*"--data labels.jsonl --out classes --lr 0.01 --batch 8 --init sft --epochs 6".split())
    run = json.loads((tmp_path / "classes" / "run.json").read_text())
    assert run["stage"] == "reward" and run["held_out"]["accuracy"] > 0.9 and "normalisation" not in run
    good, bad = (load_reward(f"model:classes:{label}")[0](["say", "say"], ["good 3", "bad 3"], [{}, {}])
                 for label in ("good", "bad"))  # fmt: skip
    assert good[0] > good[1] and bad[0] < bad[1] and max(good + bad) <= 0


@pytest.mark.parametrize("argv, message", [
    ("--init sft", "--data: name a file of comparisons"),
    ("--data missing.jsonl --init sft", "missing.jsonl: No such file"),
    ("--data empty.jsonl --init sft", "empty.jsonl: no data"),
    ("--data equal.jsonl --init sft", "--data: no comparison to train on: of 1, 1 are of equals"),
    ("--data prefs.jsonl --init sft --held-out 100", "--held-out 100: must be at most 99"),
    ("--data one.jsonl --init sft", "0 are of equals, 0 too long, 1 held out; --held-out 0 trains on all"),
    ("--data plain.jsonl --init sft", "plain.jsonl: record 1 has no 'chosen'"),
    ("--data half.jsonl --init sft", "half.jsonl, line 1: 'rejected' is missing"),
    ("--data label.jsonl --init sft", "label.jsonl, line 1: 'p' must be a probability"),
    ("--data single.jsonl --init sft", "--data: 1 labelled texts of 1 classes, . held out: nothing to learn"),
    ("--data prefs.jsonl --init nowhere", "nowhere: no such checkpoint folder"),
    ("--data prefs.jsonl --init base", "base: its tokenizer has no <|user|>"),
    ("--data prefs.jsonl --init endless", "endless: 0 of 256 responses end"),
    ("--data prefs.jsonl --init sft --lr 0", "all .* reference responses have one reward"),
    ("--data prefs.jsonl --init sft --resume", "there is nothing to resume"),
    ("--data prefs.jsonl --init sft --epochs 0", "--epochs 0.0: must be above 0"),
    ("--data prefs.jsonl --init sft --centre 1", "no option --centre"),
])  # fmt: skip
def test_wrong_use_ends_in_one_line_and_status_2(call, argv, message):
    status, _, err = call(*argv.split())
    lines = [line for line in err.splitlines() if line.startswith("reward_model: ")]
    assert status == 2 and len(lines) == 1 and err.endswith(lines[0] + "\n") and re.search(message, lines[0])
    assert "Traceback" not in err
