"""What is logged of a round: that it is right, by loops over responses, and that watching changes nothing."""

import json
from math import nan

import numpy as np
import pytest
import torch

from minirlhf.harness.loop import Run
from minirlhf.lm.generation import Sampling
from minirlhf.lm.model import ScalarHead
from minirlhf.rl import optimum
from minirlhf.rl.config import PPOConfig
from minirlhf.rl.ppo import models_of, train
from minirlhf.rl.rollout import Models, collect
from minirlhf.rl.watch import Description, Gold, Optimum, explained_variance

ALGORITHM = PPOConfig().algorithm
RECORDS = [{"prompt": "a"}, {"prompt": "longer"}, {"prompt": "bc"}, {"prompt": "b"}] * 2
TASKS = [record | {"task": "xy"[i % 2]} for i, record in enumerate(RECORDS)]
SHORT = lambda prompt, response, record: -float(len(response))


@pytest.fixture
def rollout(make_policy, tokenizer):
    """Eight ragged responses, with a critic that says something, and scores that tell them apart."""
    torch.manual_seed(7)
    head = ScalarHead(16)
    torch.nn.init.normal_(head.weight, std=0.1)
    models = Models(make_policy(0), head, make_policy(1), tokenizer)
    r = collect(models, RECORDS, lambda record: SHORT, range(8), Sampling(8, 0.7), 0.0)
    r.scores = torch.arange(8.0)
    return r


def test_groups_without_contrast_are_counted(rollout):
    r = rollout
    r.scores = torch.tensor([1.0, 1, 0, 1, 0, 0, 2, 2])
    assert Description(PPOConfig("rloo", group=2).algorithm)(r, RECORDS, 0.1)["no_contrast"] == 0.75


def test_what_is_described_equals_loops_over_responses(rollout):
    r = rollout
    records = [{"prompt": "p", "task": "x" if b < 2 else "y"} for b in range(8)]
    r.returns = 2 * r.values
    got = Description(ALGORITHM)(r, records, 0.5)
    kl = [float((r.logprobs - r.ref_logprobs)[b, r.mask[b]].sum()) for b in range(8)]
    assert got["reward"] == 3.5 and got["reward/x"] == 0.5 and got["reward/y"] == 4.5
    assert got["kl"] == pytest.approx(sum(kl) / 8, rel=1e-5)
    assert got["objective"] == pytest.approx(sum(s - 0.5 * k for s, k in zip(range(8), kl)) / 8, rel=1e-5)
    assert got["length"] == sum(map(len, (ids[m] for ids, m in zip(r.ids, r.mask)))) / 8
    assert got["ended"] == sum(r.ended.tolist()) / 8
    assert got["value"] == pytest.approx(float(r.values[r.mask].mean()), rel=1e-5)
    assert got["explained_variance"] == pytest.approx(0.75, abs=1e-5)  # G = 2 V: Var(V) / Var(2 V) is left
    grpo = Description(PPOConfig("grpo").algorithm)(r, records, 0.5)  # k3 in its loss, k1 in the log
    assert grpo["kl"] == got["kl"] and grpo["objective"] == got["objective"]
    assert 0 < got["sampler_gap"] < 1e-5


def test_explained_variance_of_four_predictions():
    """notes/evaluation.md, section 3, item 13."""
    values, returns = torch.tensor([1.1, 1.9, 3.2, 3.7]), torch.tensor([1.0, 2, 3, 4])
    got = explained_variance(values, returns, torch.ones(4).bool())
    assert float(got) == pytest.approx(0.9705, abs=1e-6)


def test_explained_variance_of_a_perfect_and_a_constant_prediction():
    """Whatever stands where the mask is False."""
    returns, mask = torch.tensor([[1.0, -2, nan], [3, nan, nan]]), torch.tensor([[True, True, False], [True, False, False]])
    assert float(explained_variance(returns, returns, mask)) == 1
    assert float(explained_variance(torch.full_like(returns, 7.0), returns, mask)) == pytest.approx(0)


@pytest.mark.parametrize("constant", [0.0, 0.1, 12345.6])
def test_explained_variance_of_a_constant_return_is_undefined(constant):
    """Also where the float32 mean of equal numbers is another number."""
    returns = torch.full((1000,), constant)
    assert explained_variance(torch.randn(1000), returns, torch.ones(1000).bool()).isnan()


@pytest.mark.parametrize("tasks", ["xyyxyyxy", ""])
def test_what_is_said_of_the_optimum_equals_loops_over_responses(rollout, pad_rollout, monkeypatch, tasks):
    """Each task by itself, without tasks all; log π/ref summed over a response, beside padding that is NaN."""
    r = rollout
    monkeypatch.setattr(optimum, "LEAST", 1)
    r.ref_logprobs = r.logprobs + 0.02 * (r.ref_logprobs - r.logprobs)  # so near that J* is above J_ref
    records = [{"task": task} for task in tasks] or RECORDS
    watch, slowly = Optimum(2.0), {name: optimum.Achieved(2.0) for name in set(tasks) or ["all"]}
    for scores in (r.scores, r.scores.flip(0)):  # two rounds
        r.scores, wanted = scores, {}
        for name, counted in slowly.items():
            rows = [b for b in range(8) if not tasks or tasks[b] == name]
            ratios = [sum((r.logprobs - r.ref_logprobs)[b, r.mask[b]].tolist()) for b in rows]
            own = counted.add(np.array([float(scores[b]) for b in rows]), np.array(ratios))
            J = np.mean([float(scores[b]) - 2 * ratio for b, ratio in zip(rows, ratios)])
            assert own["objective"] == pytest.approx(J) and own["share"] is not None
            wanted |= {f"{figure}/{name}": x for figure, x in own.items()}
        assert watch(pad_rollout(r, 2, 3), records, 2.0) == pytest.approx(wanted, rel=1e-5)
    assert watch.best() == {name: pytest.approx(counted.optimum(), rel=1e-5) for name, counted in slowly.items()}


def test_the_sampler_gap_is_the_mean_over_tokens(rollout):
    r = rollout
    r.sampled_logprobs = r.logprobs + torch.where(torch.arange(r.ids.shape[1]) % 2 == 0, 0.25, -0.25)
    assert Description(ALGORITHM)(r, RECORDS, 0.0)["sampler_gap"] == pytest.approx(0.25, rel=1e-5)


def test_a_gold_reward_is_a_mean_for_each_task_of_what_ended(rollout, tokenizer):
    """Of a reward of 1 or 2 that would be paid for half a text, too: the share that ended, once and twice."""
    r = rollout
    records = [{"prompt": "p", "task": "x" if b < 4 else "y"} for b in range(8)]
    gold = Gold(lambda record: lambda prompt, response, record: 1.0 + (record["task"] == "y"), tokenizer)
    figures = gold(r, records, 0.1)
    shares = r.ended.view(2, 4).float().mean(1).tolist()
    assert figures == pytest.approx({"gold/x": shares[0], "gold/y": 2 * shares[1]}) and 0 < sum(shares) < 2


def test_watching_changes_nothing(make_policy, tokenizer, tmp_path):
    """Neither weights nor what else is logged."""
    policies, logs = [], []
    for name, more in (("a", []), ("b", [Gold(lambda record: lambda *case: 1.0, tokenizer), Optimum(0.1)])):
        config = PPOConfig(iterations=2, batch=8, minibatches=3, lr=1e-2, beta=0.1, max_new=8)
        policies.append(make_policy(0))
        watchers = [Description(config.algorithm), *more]
        models = models_of(policies[-1], tokenizer, config.algorithm)
        train(models, lambda step: TASKS, lambda record: SHORT, config, Run(tmp_path / name), watchers)
        lines = (tmp_path / name / "log.jsonl").read_text().splitlines()
        logs.append([json.loads(line) for line in lines])
    assert all(torch.equal(a, b) for a, b in zip(*(policy.parameters() for policy in policies), strict=True))
    for plain, watched in zip(*logs, strict=True):
        assert {"gold/x", "gold/y", "objective/x", "share/y"} <= set(watched) - set(plain)
        assert {k: v for k, v in plain.items() if k != "seconds"}.items() <= watched.items()
