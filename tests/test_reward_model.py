"""Learning from comparisons: the loss, what is trained in a step, what is measured, the loop and the command."""

import dataclasses
import json
import os
import re
import signal
import sys
from collections import Counter
from itertools import combinations
from math import exp, log, nan, sqrt

import numpy as np
import pytest
import torch

from minirlhf import checkpoint, dpo, reward_model
from minirlhf.data import messages_of, split_of
from minirlhf.files import UserError, load_state
from minirlhf.learned_reward import RewardModel, load_reward_model, rewards_of
from minirlhf.loop import Diverged, Interrupted, Run
from minirlhf.model import GPT, GPTConfig
from minirlhf.preferences import Pair
from minirlhf.reward_model import RewardConfig, accumulate, agreement, fit, measure
from minirlhf.runtime import run_script
from minirlhf.tokenizer import PAD, SPECIALS, Tokenizer

CONFIG = RewardConfig(epochs=3, batch=2, lr=1e-2, warmup=2, save_every=2, micro_rows=2)
MARGINS = [2.0, -1.0, 0.0, 0.5, 3.0, -0.2]  # differences of rewards of published figures


def texts_of(n, seed=0):
    """n different texts of 3 to 9 ids."""
    rng = np.random.default_rng(seed)
    return [(i, *rng.integers(50, size=rng.integers(2, 9)).tolist()) for i in range(n)]


def groups_of(sizes):
    """Prompts with so many comparisons each, all of texts of their own."""
    texts = iter(texts_of(2 * sum(sizes)))
    return [[Pair(next(texts), next(texts)) for _ in range(n)] for n in sizes]


def fresh(seed=0, dropout=0.0):
    """A new reward model with a head that says something; torch's generator stands where it left it."""
    torch.manual_seed(seed)
    model = RewardModel(GPT(GPTConfig(50, context=32, layers=1, heads=2, width=16, dropout=dropout)))
    torch.nn.init.normal_(model.score.weight)
    return model


def run(model, out, config=CONFIG, groups=None, **told):
    """`fit` on the CPU."""
    groups = groups or groups_of([1, 3, 2, 1, 1])
    return fit(model, groups, config, Run(out, init=checkpoint.fingerprint(model.trunk), **told))


def gradients(model, pairs, micro_rows):
    """(loss, gradients) of one step."""
    model.zero_grad(set_to_none=True)
    loss = accumulate(model, pairs, micro_rows, torch.float32)
    return loss, [p.grad.clone() for p in model.parameters() if p.requires_grad]


def same_weights(a, b):
    """Whether two models are the same to the bit."""
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def logged(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


# The loss


def loss_of(delta, p=1.0, margin=0.0, rejected=0.0):
    """The loss of one comparison, by a model that gives these rewards."""
    rewards = torch.tensor([rejected + delta, rejected], dtype=torch.float64, requires_grad=True)
    pair = Pair((1,), (2,), p, margin)
    return accumulate(lambda texts, dtype: rewards, [pair], 1, torch.float32)


def test_equal_rewards_cost_log_2():
    assert loss_of(0.0) == pytest.approx(log(2), abs=1e-12)
    assert loss_of(0.0, p=0.3, rejected=2.0) == pytest.approx(log(2), abs=1e-7)
    assert loss_of(0.5, margin=0.5) == pytest.approx(log(2), abs=1e-12)


def test_the_mean_loss_of_published_margins():
    assert sum(map(loss_of, MARGINS)) / 6 == pytest.approx(0.5756900140, abs=1e-9)


@pytest.mark.parametrize("delta, p, margin", [(1.5, 1.0, 0.5), (-0.4, 0.8, 0.0), (0.3, 0.1, -1.0), (2.0, 0.0, 0.2)])
def test_the_loss_is_the_cross_entropy_with_the_label(delta, p, margin):
    said = 1 / (1 + exp(margin - delta))
    wanted = -p * log(said) - (1 - p) * log(1 - said)
    assert loss_of(delta, p, margin) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("p, margin", [(1.0, 0.0), (0.7, 0.5)])
def test_swapping_the_responses_and_the_label_changes_nothing(p, margin):
    assert loss_of(0.9, p, margin) == pytest.approx(loss_of(-0.9, 1 - p, -margin), abs=1e-6)


def test_a_loss_of_hopeless_pairs_is_finite():
    assert loss_of(-1e4) == 1e4 and loss_of(1e4) == 0.0


def test_a_fresh_model_has_a_loss_of_log_2_and_no_preference(make_gpt):
    loss, grads = gradients(RewardModel(make_gpt()), groups_of([4])[0], 8)
    assert loss == pytest.approx(log(2), abs=1e-6)
    assert any(g.abs().max() > 0 for g in grads)


@pytest.mark.parametrize("micro_rows", [1, 2, 5, 64])
def test_loss_and_gradient_are_the_mean_over_comparisons_however_they_are_cut(micro_rows):
    """Soft labels and margins; some responses are in several comparisons."""
    a, b, c, d = texts_of(4)
    pairs = [Pair(a, b), Pair(a, c, 0.8), Pair(c, b, 1.0, 0.5), Pair(d, a, 0.2, -0.3), Pair(a, b, 0.6)]
    model = fresh()
    loss, grads = gradients(model, pairs, micro_rows)
    model.zero_grad(set_to_none=True)
    total = 0.0
    for pair in pairs:
        chosen, rejected = model([pair.chosen]), model([pair.rejected])
        m = chosen - rejected - pair.margin
        each = -pair.p * torch.sigmoid(m).log() - (1 - pair.p) * torch.sigmoid(-m).log()
        total = total + each.sum() / len(pairs)
    total.backward()
    assert loss == pytest.approx(total.item(), abs=1e-5)
    for got, p in zip(grads, (p for p in model.parameters() if p.requires_grad), strict=True):
        torch.testing.assert_close(got, p.grad, atol=1e-5, rtol=1e-4)


def test_a_response_in_several_comparisons_goes_through_the_network_once(monkeypatch):
    seen = []
    forward = RewardModel.forward
    monkeypatch.setattr(
        RewardModel, "forward", lambda self, texts, dtype: seen.extend(map(tuple, texts)) or forward(self, texts, dtype)
    )
    texts = texts_of(4)
    accumulate(fresh(), [Pair(x, y) for x, y in combinations(texts, 2)], 64, torch.float32)
    assert sorted(seen) == sorted(texts)


def test_it_recovers_known_rewards_up_to_a_constant(make_gpt, tmp_path):
    """From p = σ(r_a − r_b) of all pairs of six texts, where the loss has one minimum."""
    true = torch.tensor([0.0, 1.0, -1.0, 0.5, 2.0, -0.5])
    texts = texts_of(6)
    sure = torch.sigmoid(true[:, None] - true[None])
    pairs = [Pair(texts[i], texts[j], float(sure[i, j])) for i, j in combinations(range(6), 2)]
    model = fresh()
    config = RewardConfig(epochs=400, batch=1, lr=1e-2, warmup=0, weight_decay=0.0, save_every=1000)
    run(model, tmp_path, config, [pairs])
    rewards = rewards_of(model, texts)
    torch.testing.assert_close(rewards - rewards.mean(), true - true.mean(), atol=0.05, rtol=0)


# What is trained


def test_a_step_holds_all_comparisons_of_its_prompts_and_an_epoch_each_once(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(
        reward_model, "accumulate", lambda model, pairs, *rest: steps.append(pairs) or accumulate(model, pairs, *rest)
    )
    groups = groups_of([1, 3, 2, 1, 1, 4])
    cost = run(fresh(), tmp_path, dataclasses.replace(CONFIG, epochs=2), groups)
    assert cost["steps"] == len(steps) == 6
    for pairs in steps:
        assert [pairs.count(pair) for group in groups for pair in group if group[0] in pairs] == [1] * len(pairs)
    for epoch in (steps[:3], steps[3:]):
        assert Counter(pair for pairs in epoch for pair in pairs) == Counter(p for group in groups for p in group)
    assert steps[:3] != steps[3:]


# What is measured


def pairs_with(**lists):
    """Pairs whose fields are given by lists; chosen and rejected have the lengths given, or 3 and 2."""
    n = len(next(iter(lists.values())))
    lengths = lists.pop("lengths", [(3, 2)] * n)
    rows = [dict(zip(lists, values)) for values in zip(*lists.values())] or [{}] * n
    return [Pair((1,) * a, (2,) * b, **row) for (a, b), row in zip(lengths, rows)]


def test_accuracy_counts_a_tie_as_a_half_and_has_wilsons_interval():
    figures = measure(np.array(MARGINS), pairs_with(p=[1.0] * 6))
    assert figures["accuracy"] == pytest.approx(3.5 / 6, abs=1e-12) and figures["pairs"] == 6
    assert figures["loss"] == pytest.approx(0.5756900140, abs=1e-9)
    z, k, n = 1.959963984540054, 3.5, 6
    centre, half = (k + z * z / 2) / (n + z * z), z * sqrt(k * (n - k) / n + z * z / 4) / (n + z * z)
    assert figures["interval"] == pytest.approx((centre - half, centre + half), abs=1e-9)


def test_the_measured_loss_is_the_one_that_is_trained():
    figures = measure(np.array([1.0]), pairs_with(p=[0.75], margin=[0.5]))
    assert figures["loss"] == pytest.approx(0.75 * log(1 + exp(-0.5)) + 0.25 * log(1 + exp(0.5)), abs=1e-9)


def test_agreement_with_a_soft_label_is_the_probability_of_the_side_taken():
    got = agreement(np.array([2.0, -2.0, 0.0, -1.0]), np.array([0.8, 0.8, 0.8, 0.0]))
    assert got.tolist() == pytest.approx([0.8, 0.2, 0.5, 1.0])


def test_the_baseline_chooses_the_longer_whatever_the_rewards_say():
    figures = measure(np.array([1.0, 1.0, -1.0, 1.0]), pairs_with(lengths=[(5, 2), (2, 5), (4, 4), (6, 1)]))
    assert figures["longer"] == 2.5 / 4 and figures["accuracy"] == 3 / 4


def test_calibration_holds_what_is_said_against_how_often_it_is_so():
    """σ(|log 3|) = 0.75, of which 2 in 4 are right, and σ(|log 9|) = 0.9, of which 1 in 1."""
    delta = np.array([log(3), -log(3), log(3), -log(3), log(9) - 1e-9])
    figures = measure(delta, pairs_with(p=[1.0] * 5))
    assert np.array(figures["calibration"]) == pytest.approx(np.array([[0.75, 0.5, 4], [0.9, 1.0, 1]]), abs=1e-6)
    assert figures["ece"] == pytest.approx((4 * 0.25 + 0.1) / 5, abs=1e-6)


def test_the_order_of_the_gold_rewards_is_counted_where_they_differ():
    figures = measure(np.array([1.0, 1.0, 1.0, 0.0]), pairs_with(gold=[0.5, -0.5, 0.0, 0.25]))
    assert figures["gold"] == 1.5 / 3
    assert "gold" not in measure(np.array([1.0]), pairs_with(gold=[0.0]))


# The loop


def test_it_learns_to_tell_the_chosen_from_the_rejected(tmp_path):
    """What decides is one token in the middle; of pairs it was not trained on nearly all are right."""
    rng = np.random.default_rng(0)
    pairs = []
    for i in range(150):
        a, b = rng.integers(10, 50, size=(2, 6)).tolist()
        a[3], b[2] = 1, 2
        pairs.append(Pair((*a, 0), (*b, 0)))
    model = fresh()
    run(model, tmp_path, dataclasses.replace(CONFIG, epochs=3, batch=10), [[pair] for pair in pairs[:100]])
    chosen, rejected = (rewards_of(model, [getattr(x, k) for x in pairs[100:]]) for k in ("chosen", "rejected"))
    assert (chosen > rejected).float().mean() > 0.9
    losses = [record["loss"] for record in logged(tmp_path)]
    assert losses[-1] < losses[0] - 0.3


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tmp_path):
    models = [fresh(dropout=0.2) for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1)):
        torch.manual_seed(5)
        run(model, tmp_path, seed=seed)
    assert same_weights(models[0], models[1]) and not same_weights(models[0], models[2])


@pytest.mark.parametrize("stop_in", [1, 2, 5, 8])
def test_a_run_that_is_interrupted_and_resumed_gives_the_same_bits(tmp_path, monkeypatch, stop_in):
    """With dropout, whose random numbers have to go on where they were."""
    straight, stopped, resumed = (fresh(dropout=0.2) for _ in range(3))
    torch.manual_seed(5)
    cost = run(straight, tmp_path / "a")
    calls = []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) == stop_in:
            os.kill(os.getpid(), signal.SIGTERM)
        return accumulate(*arguments)

    monkeypatch.setattr(reward_model, "accumulate", stopping)
    torch.manual_seed(5)
    with pytest.raises(Interrupted, match=f"after step {stop_in} of 8; .*--resume"):
        run(stopped, tmp_path / "b")
    torch.manual_seed(77)
    again = run(resumed, tmp_path / "b", resume=True)
    assert cost["steps"] == 8 and len(calls) == 8
    assert same_weights(straight, resumed) and again["tokens"] == cost["tokens"]
    assert [record["step"] for record in logged(tmp_path / "b")] == list(range(1, 9))


@pytest.mark.parametrize("change, message", [
    ({"config": dataclasses.replace(CONFIG, lr=0.5)}, "lr = 0.01, now 0.5"),
    ({"seed": 1}, "seed = 0, now 1"),
    ({"data": "other"}, "data = , now other"),
    ({"model": fresh(1)}, "init = "),
])  # fmt: skip
def test_a_resume_of_another_run_is_refused_by_name(tmp_path, change, message):
    run(fresh(), tmp_path)
    with pytest.raises(UserError, match=message):
        run(change.pop("model", fresh()), tmp_path, resume=True, **change)


def test_there_must_be_something_to_resume_and_a_new_run_forgets_an_old_one(tmp_path):
    with pytest.raises(UserError, match="nothing to resume"):
        run(fresh(), tmp_path, resume=True)
    run(fresh(), tmp_path)
    with pytest.raises(IndexError):
        run(fresh(), tmp_path, groups=[[Pair((1, 60), (2,))]])  # no such id
    assert not (tmp_path / "train_state.pt").exists()


def test_a_run_that_diverges_leaves_the_last_good_state(tmp_path, monkeypatch):
    calls = []

    def poisoned(model, *arguments):
        loss = accumulate(model, *arguments)
        calls.append(1)
        if len(calls) > 2:
            model.score.weight.grad.fill_(nan)
        return loss

    monkeypatch.setattr(reward_model, "accumulate", poisoned)
    with pytest.raises(Diverged, match="step 7: .*5 steps in a row.*train_state.pt"):
        run(fresh(), tmp_path)
    state = load_state(tmp_path / "train_state.pt")
    assert all(x.isfinite().all() for x in state["model"].values())
    assert logged(tmp_path)[2]["skipped"] == 1


def test_once_trained_it_has_no_dropout(tmp_path):
    """Accuracy, scale and whatever else is measured after `fit` is of the whole network."""
    model, texts = fresh(dropout=0.5), texts_of(5)
    run(model, tmp_path)
    assert rewards_of(model, texts).tolist() == rewards_of(model, texts).tolist()


def test_epochs_must_be_above_0():
    with pytest.raises(UserError, match="--epochs 0"):
        RewardConfig(epochs=0)


@pytest.mark.parametrize("percent", [100, 101])
def test_not_everything_can_be_held_out(percent):
    with pytest.raises(UserError, match=f"--held-out {percent}: must be below 100"):
        RewardConfig(held_out=percent)


# The command


def comparison(prompt, chosen="a", rejected="b", **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


@pytest.fixture
def call(monkeypatch, capsys, tmp_path, make_policy, tokenizer):
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
        "long": [*records, *(comparison(f"say {i}", "good" * 20, "bad") for i in range(30))],
    }
    for name, lines in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "empty.jsonl").write_text("")

    def call(*argv):
        monkeypatch.setattr(sys, "argv", ["reward_model", *map(str, argv), "--threads", "1"])
        try:
            run_script(reward_model.main)
            status = 0
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return call


GOOD = "--data prefs.jsonl --init sft --out rm --lr 0.01 --batch 8".split()


def test_the_command_trains_measures_normalises_and_saves(call, tmp_path, monkeypatch):
    scaled = []
    original = reward_model.reference_texts
    monkeypatch.setattr(reward_model, "reference_texts", lambda *a: scaled.append(original(*a)) or scaled[0])
    status, out, err = call(*GOOD)
    assert status == 0, err
    reward = load_reward_model("rm")
    assert reward("say 1", "good", {}) > reward("say 1", "bad", {})
    assert reward.tokenizer.special_ids[PAD] == 260
    of_reference = rewards_of(reward.model, scaled[0])
    assert float(of_reference.mean()) == pytest.approx(0, abs=1e-4)
    assert float(of_reference.std(correction=0)) == pytest.approx(1, abs=1e-4)
    run = json.loads((tmp_path / "rm" / "run.json").read_text())
    held_out = run["held_out"]
    assert run["stage"] == "reward" and set(run["normalisation"]) == {"mean", "std"}
    assert held_out["accuracy"] > 0.9 and held_out["interval"][0] < held_out["accuracy"]
    assert f"{held_out['pairs']} held-out comparisons: accuracy {held_out['accuracy']:.3f}" in out
    assert f"the longer one {held_out['longer']:.3f}" in out and "ECE" in out


def test_what_is_measured_are_the_rewards_before_they_are_normalised(call, tmp_path):
    """σ(Δ) is a probability on the scale of training alone, which train_state.pt holds."""
    assert call(*GOOD)[0] == 0
    run, reward = json.loads((tmp_path / "rm" / "run.json").read_text()), load_reward_model("rm")
    reward.model.load_state_dict(load_state("rm/train_state.pt")["model"])
    records = [json.loads(line) for line in (tmp_path / "prefs.jsonl").read_text().splitlines()]
    records = [r for r in records if split_of(str([m["content"] for m in messages_of(r)]), 20) == "validation"]
    both = [reward.many([(r["prompt"], r[key], r) for r in records]) for key in ("chosen", "rejected")]
    delta = np.array(both[0]) - np.array(both[1])
    assert len(records) == run["held_out"]["pairs"] and abs(run["normalisation"]["std"] - 1) > 0.1
    assert run["held_out"]["loss"] == pytest.approx(np.log1p(np.exp(-delta)).mean(), rel=1e-4)


def test_no_prompt_is_both_trained_on_and_held_out(call, monkeypatch):
    seen = {}

    def caught(model, groups, *rest):
        seen["train"] = groups
        return fit(model, groups, *rest)

    monkeypatch.setattr(reward_model, "fit", caught)
    monkeypatch.setattr(reward_model, "measure", lambda delta, pairs: seen.update(held=pairs) or measure(delta, pairs))
    assert call(*GOOD)[0] == 0
    decode = Tokenizer(specials=(*SPECIALS, PAD)).decode
    train, held = ({decode(pair.chosen).partition("<|assistant|>")[0] for pair in pairs}
                   for pairs in ([p for group in seen["train"] for p in group], seen["held"]))  # fmt: skip
    assert train and held and not train & held and len(train | held) == 60
    assert sum(map(len, seen["train"])) + len(seen["held"]) == 120


def test_the_reference_is_the_model_as_it_came(call, monkeypatch):
    """Its responses are sampled before training, those that end, to prompts of the file."""
    drawn = []
    original = reward_model.respond

    def watched(model, tokenizer, records, max_new, seeds):
        drawn.append((checkpoint.fingerprint(model), {r["prompt"] for r in records}, len(set(seeds))))
        return original(model, tokenizer, records, max_new, seeds)

    monkeypatch.setattr(reward_model, "respond", watched)
    model, tokenizer = checkpoint.load("sft")
    tokenizer.add_specials([PAD])
    model.resize_vocabulary(261)
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
        return accumulate(*arguments)

    monkeypatch.setattr(reward_model, "accumulate", stopping)
    again = [*GOOD, "--out", "again"]
    status, _, err = call(*again)
    assert status == 130 and "--resume" in err.splitlines()[-1]
    assert not (tmp_path / "again" / "config.json").exists()
    assert call(*again, "--resume")[0] == 0
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("module", [reward_model, dpo])
def test_a_resume_on_other_comparisons_is_refused_by_name(call, module, monkeypatch):
    monkeypatch.setattr(reward_model, "main", module.main)
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


@pytest.mark.parametrize("argv, message", [
    ("--init sft", "--data: name a file of comparisons"),
    ("--data missing.jsonl --init sft", "missing.jsonl: No such file"),
    ("--data empty.jsonl --init sft", "empty.jsonl: no data"),
    ("--data equal.jsonl --init sft", "equal.jsonl: no comparison to train on: of 1, 1 are of equals"),
    ("--data prefs.jsonl --init sft --held-out 100", "--held-out 100: must be below 100"),
    ("--data one.jsonl --init sft", "0 are of equals, 0 too long, 1 held out; --held-out 0 trains on all"),
    ("--data plain.jsonl --init sft", "plain.jsonl: record 1 has no 'chosen'"),
    ("--data half.jsonl --init sft", "half.jsonl, line 1: 'rejected' is missing"),
    ("--data label.jsonl --init sft", "label.jsonl, line 1: 'p' must be a probability"),
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
