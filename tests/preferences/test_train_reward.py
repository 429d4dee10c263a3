"""Learning from comparisons: the loss, what is trained in a step, what is measured, the loop and the command."""

import dataclasses
import json
import os
import signal
from collections import Counter
from itertools import combinations
from math import exp, log, nan, sqrt

import numpy as np
import pytest
import torch

from minirlhf.harness.files import Diverged, Interrupted, UserError
from minirlhf.harness.folders import load_state
from minirlhf.harness.loop import Run
from minirlhf.lm import checkpoint
from minirlhf.lm.model import GPT, GPTConfig
from minirlhf.preferences import train_reward
from minirlhf.preferences.comparisons import Judged
from minirlhf.preferences.config import RewardConfig
from minirlhf.preferences.train_reward import (
    accumulate_pairs, fit_rewards, learn, measure, measure_labels, preference_loss, sign_agreement, summary,
)
from minirlhf.rl.reward_model import RewardModel, predict_rewards

CONFIG = RewardConfig(epochs=3, batch=2, lr=1e-2, warmup=2, save_every=2, micro_rows=2)
MARGINS = [2.0, -1.0, 0.0, 0.5, 3.0, -0.2]  # differences of rewards of published figures


def texts_of(n, seed=0):
    """n different texts of 3 to 9 ids."""
    rng = np.random.default_rng(seed)
    return [(i, *rng.integers(50, size=rng.integers(2, 9)).tolist()) for i in range(n)]


def groups_of(sizes):
    """Prompts with so many comparisons each, all of texts of their own."""
    texts = iter(texts_of(2 * sum(sizes)))
    return [[Judged((next(texts), next(texts))) for _ in range(n)] for n in sizes]


def fresh(seed=0, dropout=0.0):
    """A new reward model with a head that says something; torch's generator stands where it left it."""
    torch.manual_seed(seed)
    model = RewardModel(GPT(GPTConfig(50, context=32, layers=1, heads=2, width=16, dropout=dropout)))
    torch.nn.init.normal_(model.score.weight)
    return model


def run(model, out, config=CONFIG, groups=None, **told):
    """`fit_rewards` on the CPU."""
    groups = groups or groups_of([1, 3, 2, 1, 1])
    return fit_rewards(model, groups, config, Run(out, init=checkpoint.fingerprint(model.trunk), **told))


def gradients(model, pairs, micro_rows):
    """(loss, gradients) of one step."""
    model.zero_grad(set_to_none=True)
    loss = accumulate_pairs(model, pairs, micro_rows, torch.float32)
    return loss, [p.grad.clone() for p in model.parameters() if p.requires_grad]


def same_weights(a, b):
    """Whether two models are the same to the bit."""
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def logged(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


# The loss


@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 1.0])
def test_two_answers_of_one_reward_cost_log_2_whatever_was_preferred(p):
    assert float(preference_loss(torch.zeros(3, dtype=torch.float64), p)) == pytest.approx(log(2), abs=1e-15)


def test_the_preference_loss_is_minus_the_log_probability_of_the_choice():
    """σ(1) = .731: chosen with certainty, rejected with certainty, and half of the time."""
    delta, sigma = torch.ones(1, dtype=torch.float64), 1 / (1 + exp(-1))
    assert float(preference_loss(delta)) == pytest.approx(-log(sigma))
    assert float(preference_loss(delta, 0.0)) == pytest.approx(-log(1 - sigma))
    assert float(preference_loss(delta, 0.5)) == pytest.approx(-(log(sigma) + log(1 - sigma)) / 2)


def loss_of(delta, p=1.0, rejected=0.0):
    """The loss of one comparison, by a model that gives these rewards."""
    rewards = torch.tensor([rejected + delta, rejected], dtype=torch.float64, requires_grad=True)
    pair = Judged(((1,), (2,)), p)
    said = lambda texts, dtype: rewards
    said.trunk = None  # a function has no size
    return accumulate_pairs(said, [pair], 1, torch.float32)


def test_equal_rewards_cost_log_2():
    assert loss_of(0.0) == pytest.approx(log(2), abs=1e-12)
    assert loss_of(0.0, p=0.3, rejected=2.0) == pytest.approx(log(2), abs=1e-7)


def test_the_mean_loss_of_published_margins():
    assert sum(map(loss_of, MARGINS)) / 6 == pytest.approx(0.5756900140, abs=1e-9)


@pytest.mark.parametrize("delta, p", [(1.0, 1.0), (-0.4, 0.8), (1.3, 0.1), (1.8, 0.0)])
def test_the_loss_is_the_cross_entropy_with_the_label(delta, p):
    said = 1 / (1 + exp(-delta))
    wanted = -p * log(said) - (1 - p) * log(1 - said)
    assert loss_of(delta, p) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("p", [1.0, 0.7])
def test_swapping_the_responses_and_the_label_changes_nothing(p):
    assert loss_of(0.9, p) == pytest.approx(loss_of(-0.9, 1 - p), abs=1e-6)


def test_a_loss_of_hopeless_pairs_is_finite():
    assert loss_of(-1e4) == 1e4 and loss_of(1e4) == 0.0


def test_a_fresh_model_has_a_loss_of_log_2_and_no_preference(make_gpt):
    loss, grads = gradients(RewardModel(make_gpt()), groups_of([4])[0], 8)
    assert loss == pytest.approx(log(2), abs=1e-6)
    assert any(g.abs().max() > 0 for g in grads)


@pytest.mark.parametrize("micro_rows", [1, 2, 5, 64])
def test_loss_and_gradient_are_the_mean_over_comparisons_however_they_are_cut(micro_rows):
    """Soft labels; some responses are in several comparisons."""
    a, b, c, d = texts_of(4)
    pairs = [Judged((a, b)), Judged((a, c), 0.8), Judged((c, b)), Judged((d, a), 0.2), Judged((a, b), 0.6)]
    model = fresh()
    loss, grads = gradients(model, pairs, micro_rows)
    model.zero_grad(set_to_none=True)
    total = 0.0
    for pair in pairs:
        chosen, rejected = (model([ids]) for ids in pair.texts)
        m = chosen - rejected
        each = -pair.wanted * torch.sigmoid(m).log() - (1 - pair.wanted) * torch.sigmoid(-m).log()
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
    accumulate_pairs(fresh(), [Judged((x, y)) for x, y in combinations(texts, 2)], 64, torch.float32)
    assert sorted(seen) == sorted(texts)


def test_it_recovers_known_rewards_up_to_a_constant(make_gpt, tmp_path):
    """From p = σ(r_a − r_b) of all pairs of six texts, where the loss has one minimum."""
    true = torch.tensor([0.0, 1.0, -1.0, 0.5, 2.0, -0.5])
    texts = texts_of(6)
    sure = torch.sigmoid(true[:, None] - true[None])
    pairs = [Judged((texts[i], texts[j]), float(sure[i, j])) for i, j in combinations(range(6), 2)]
    model = fresh()
    config = RewardConfig(epochs=400, batch=1, lr=1e-2, warmup=0, weight_decay=0.0, save_every=1000)
    run(model, tmp_path, config, [pairs])
    rewards = predict_rewards(model, texts)
    torch.testing.assert_close(rewards - rewards.mean(), true - true.mean(), atol=0.05, rtol=0)


# What is trained


def test_a_step_holds_all_comparisons_of_its_prompts_and_an_epoch_each_once(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(
        train_reward, "accumulate_pairs",
        lambda model, pairs, *rest: steps.append(pairs) or accumulate_pairs(model, pairs, *rest),
    )
    groups = groups_of([1, 3, 2, 1, 1, 4])
    cost = run(fresh(), tmp_path, dataclasses.replace(CONFIG, epochs=2), groups)
    assert cost["steps"] == len(steps) == 6
    for pairs in steps:
        assert [pairs.count(pair) for group in groups for pair in group if group[0] in pairs] == [1] * len(pairs)
    for epoch in (steps[:3], steps[3:]):
        assert Counter(pair for pairs in epoch for pair in pairs) == Counter(p for group in groups for p in group)
    assert steps[:3] != steps[3:]


# The loop


def test_it_learns_to_tell_the_chosen_from_the_rejected(tmp_path):
    """What decides is one token in the middle; of pairs it was not trained on nearly all are right."""
    rng = np.random.default_rng(0)
    pairs = []
    for i in range(150):
        a, b = rng.integers(10, 50, size=(2, 6)).tolist()
        a[3], b[2] = 1, 2
        pairs.append(Judged(((*a, 0), (*b, 0))))
    model = fresh()
    run(model, tmp_path, dataclasses.replace(CONFIG, epochs=3, batch=10), [[pair] for pair in pairs[:100]])
    chosen, rejected = (predict_rewards(model, [x.texts[k] for x in pairs[100:]]) for k in (0, 1))
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
        return accumulate_pairs(*arguments)

    monkeypatch.setattr(train_reward, "accumulate_pairs", stopping)
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


def test_there_must_be_something_to_resume_and_a_run_that_fails_at_once_leaves_an_old_one(tmp_path):
    with pytest.raises(UserError, match="nothing to resume"):
        run(fresh(), tmp_path, resume=True)
    run(fresh(), tmp_path)
    with pytest.raises(IndexError):
        run(fresh(), tmp_path, groups=[[Judged(((1, 60), (2,)))]])  # no such id
    assert (tmp_path / "train_state.pt").exists()


def test_a_run_that_diverges_leaves_the_last_good_state(tmp_path, monkeypatch):
    calls = []

    def poisoned(model, *arguments):
        loss = accumulate_pairs(model, *arguments)
        calls.append(1)
        if len(calls) > 2:
            model.score.weight.grad.fill_(nan)
        return loss

    monkeypatch.setattr(train_reward, "accumulate_pairs", poisoned)
    with pytest.raises(Diverged, match="step 7: .*5 steps in a row.*train_state.pt"):
        run(fresh(), tmp_path)
    state = load_state(tmp_path / "train_state.pt")
    assert all(x.isfinite().all() for x in state["parts"]["model"].values())
    assert logged(tmp_path)[2]["skipped"] == 1


def test_once_trained_it_has_no_dropout(tmp_path):
    """Accuracy, scale and whatever else is measured after `fit_rewards` is of the whole network."""
    model, texts = fresh(dropout=0.5), texts_of(5)
    run(model, tmp_path)
    assert predict_rewards(model, texts).tolist() == predict_rewards(model, texts).tolist()


def test_epochs_must_be_above_0():
    with pytest.raises(UserError, match="--epochs 0"):
        RewardConfig(epochs=0)


@pytest.mark.parametrize("percent", [100, 101])
def test_not_everything_can_be_held_out(percent):
    with pytest.raises(UserError, match=f"--held-out {percent}: must be at most 99"):
        RewardConfig(held_out=percent)


# What is measured


def pairs_with(**lists):
    """Pairs whose fields are given by lists; chosen and rejected have the lengths given, or 3 and 2."""
    n = len(next(iter(lists.values())))
    lengths = lists.pop("lengths", [(3, 2)] * n)
    rows = [dict(zip(lists, values)) for values in zip(*lists.values())] or [{}] * n
    return [Judged(((1,) * a, (2,) * b), **row) for (a, b), row in zip(lengths, rows)]


def test_accuracy_counts_a_tie_as_a_half_and_has_wilsons_interval():
    figures = measure(np.array(MARGINS), pairs_with(wanted=[1.0] * 6))
    assert figures["accuracy"] == pytest.approx(3.5 / 6, abs=1e-12) and figures["pairs"] == 6
    assert figures["loss"] == pytest.approx(0.5756900140, abs=1e-9)
    z, k, n = 1.959963984540054, 3.5, 6
    centre, half = (k + z * z / 2) / (n + z * z), z * sqrt(k * (n - k) / n + z * z / 4) / (n + z * z)
    assert figures["interval"] == pytest.approx((centre - half, centre + half), abs=1e-9)


def test_the_measured_loss_is_the_one_that_is_trained():
    figures = measure(np.array([1.0]), pairs_with(wanted=[0.75]))
    assert figures["loss"] == pytest.approx(0.75 * log(1 + exp(-1)) + 0.25 * log(1 + exp(1)), abs=1e-9)


def test_agreement_with_a_soft_label_is_the_probability_of_the_side_taken():
    got = sign_agreement(np.array([2.0, -2.0, 0.0, -1.0]), np.array([0.8, 0.8, 0.8, 0.0]))
    assert got.tolist() == pytest.approx([0.8, 0.2, 0.5, 1.0])


def test_the_baseline_chooses_the_longer_whatever_the_rewards_say():
    figures = measure(np.array([1.0, 1.0, -1.0, 1.0]), pairs_with(lengths=[(5, 2), (2, 5), (4, 4), (6, 1)]))
    assert figures["longer"] == 2.5 / 4 and figures["accuracy"] == 3 / 4


def test_calibration_holds_what_is_said_against_how_often_it_is_so():
    """σ(|log 3|) = 0.75, of which 2 in 4 are right, and σ(|log 9|) = 0.9, of which 1 in 1."""
    delta = np.array([log(3), -log(3), log(3), -log(3), log(9) - 1e-9])
    figures = measure(delta, pairs_with(wanted=[1.0] * 5))
    assert np.array(figures["calibration"]) == pytest.approx(np.array([[0.75, 0.5, 4], [0.9, 1.0, 1]]), abs=1e-6)
    assert figures["ece"] == pytest.approx((4 * 0.25 + 0.1) / 5, abs=1e-6)


def test_the_order_of_the_gold_rewards_is_counted_where_they_differ():
    figures = measure(np.array([1.0, 1.0, 1.0, 0.0]), pairs_with(gold=[0.5, -0.5, 0.0, 0.25]))
    assert figures["gold"] == 1.5 / 3
    assert "gold" not in measure(np.array([1.0]), pairs_with(gold=[0.0]))


# Labels


def classifier(seed=0, K=3):
    """A fresh classifier with a head that says something."""
    torch.manual_seed(seed)
    model = RewardModel(GPT(GPTConfig(50, context=32, layers=1, heads=2, width=16)), [f"class {k}" for k in range(K)])
    torch.nn.init.normal_(model.score.weight)
    return model


def texts_by_class(n, seed=0):
    """n texts of prompts of their own, each with one token, 1, 2 or 3, that is its class."""
    rng = np.random.default_rng(seed)
    texts = []
    for label in rng.integers(3, size=n).tolist():
        ids = rng.integers(10, 50, size=6).tolist()
        ids[int(rng.integers(6))] = 1 + label
        texts.append(Judged(((*ids, 0),), label))
    return texts


@pytest.mark.parametrize("micro_rows", [1, 2, 64])
def test_the_loss_of_labels_is_their_mean_cross_entropy_however_they_are_cut(micro_rows):
    model, texts = classifier(), [*texts_by_class(4), *texts_by_class(1)]
    loss, grads = gradients(model, texts, micro_rows)
    model.zero_grad(set_to_none=True)
    nll = [-(z := model([x.texts[0]])[0]).sub(z.exp().sum().log())[x.wanted] for x in texts]
    total = torch.stack(nll).mean()
    total.backward()
    assert loss == pytest.approx(total.item(), abs=1e-5)
    for got, p in zip(grads, model.parameters(), strict=True):
        torch.testing.assert_close(got, p.grad, atol=1e-5, rtol=1e-4)


def test_a_fresh_classifier_has_a_loss_of_log_k(make_gpt):
    loss, _ = gradients(RewardModel(make_gpt(), ["a", "b", "c"]), texts_by_class(5), 8)
    assert loss == pytest.approx(log(3), abs=1e-6)


def test_a_classifier_learns_and_is_measured_on_texts_held_out(tmp_path, capsys):
    texts, model = texts_by_class(300), classifier()
    config = RewardConfig(epochs=6, batch=10, lr=1e-2, warmup=2)
    told = []
    learn(model, [[x] for x in texts[:200]], texts[200:], config, Run(tmp_path, save=lambda about, _: told.append(about)))
    said = told[-1]["held_out"]
    assert said["accuracy"] > 0.9 > said["commonest"] and said["texts"] == 100
    out = capsys.readouterr().out
    assert "200 labelled texts, 120 steps" in out and f"100 held-out texts: accuracy {said['accuracy']:.3f} [" in out


def test_labels_are_measured_by_accuracy_loss_and_the_commonest_label():
    logits = torch.tensor([[2.0, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 0.5]])
    figures = measure_labels(logits, [Judged(((1,),), label) for label in (0, 1, 2, 2)])
    assert (figures["accuracy"], figures["commonest"], figures["texts"]) == (3 / 4, 2 / 4, 4)
    by_hand = [log(exp(2) + 2) - 2, log(exp(1) + 2) - 1, log(exp(1) + 2), log(exp(0.5) + 2) - 0.5]
    assert figures["loss"] == pytest.approx(sum(by_hand) / 4, abs=1e-6)
    assert figures["interval"][0] < 3 / 4 < figures["interval"][1]
    sure = [exp(2) / (exp(2) + 2), exp(1) / (exp(1) + 2), exp(0.5) / (exp(0.5) + 2)]  # the second of two texts, one wrong
    gaps = [1 - sure[0], 2 * (sure[1] - 1 / 2), 1 - sure[2]]
    assert figures["ece"] == pytest.approx(sum(gaps) / 4, abs=1e-6)
    assert figures["f1"] == pytest.approx((2 / 2 + 2 / 3 + 2 / 3) / 3)  # of the classes 0, 1 and 2
    assert summary(figures).startswith("4 held-out texts: accuracy 0.750 [0.301, 0.954], the commonest label 0.500, macro")
