"""What is logged of a round: that it is right, by loops over responses, and that watching changes nothing."""

import json
import re
import signal
from math import nan
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from minirlhf.harness.files import UserError
from minirlhf.harness.loop import Interrupted, Run
from minirlhf.lm import checkpoint
from minirlhf.lm.config import LoRAOptions
from minirlhf.lm.generation import Sampling
from minirlhf.lm.model import ScalarHead
from minirlhf.rl import optimum
from minirlhf.rl.config import PPOConfig
from minirlhf.rl.ppo import models_of, train
from minirlhf.rl.rollout import Models, collect
from minirlhf.rl.watch import SHOWN, Description, Gold, Optimum, Progress, explained_variance
from minirlhf.rl.options import Watch

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


def test_of_conversations_no_gold_is_logged(rollout, tokenizer):
    """Their records hold the first prompt alone, and a gold reward may read what was said behind it. Other tasks have it."""
    gold = Gold(lambda record: lambda *case: 1.0, tokenizer, lambda records: any("asks" in r for r in records))
    plain, talk = {"prompt": "p", "task": "x"}, {"prompt": "p", "task": "y", "asks": 1}
    mixed = [talk, plain] * 4
    assert gold(rollout, mixed, 0.1) == {"gold/x": pytest.approx(float(rollout.ended[1::2].float().mean()))}
    assert gold(rollout, [talk] * 8, 0.1) == {}


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


# What a run shows, measures and keeps on its way

HELD_OUT = [{"prompt": "ab", "task": "x"}, {"prompt": "b", "task": "y"}, {"prompt": "a longer", "task": "y"}]
ALL = Watch(show_every=2, eval_every=2, eval_prompts=("p",), keep_every=2, keep_best=True)


def ascii_share(prompt: str, response: str, record: dict) -> float:
    """A reward that varies from answer to answer."""
    return sum(map(str.isascii, response)) / max(len(response), 1)


def learn(policy, tokenizer, out, options=ALL, lora=LoRAOptions(), reward=ascii_share, rounds=4, save_every=3, **more):
    """Train with a Progress. Returns what was logged."""
    config = PPOConfig(iterations=rounds, batch=8, minibatches=2, lr=2e-2, warmup=0, beta=0.01, max_new=6, save_every=save_every)
    told = Run(out, about={"stage": "ppo"}, **checkpoint.keeping(out, policy, tokenizer, lora, str(out.parent / "base")), **more)
    models = models_of(lora.adapt(policy), tokenizer, config.algorithm, ref=lora.reference(policy))
    watchers = [Description(config.algorithm)]
    if options:
        watchers.insert(0, Progress(options, models, config, told, HELD_OUT, lambda record: reward))
    train(models, lambda step: TASKS, lambda record: reward, config, told, watchers)
    if options:
        watchers[0].last()
    return logged(out)


def logged(out) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def weights_in(folder) -> list[torch.Tensor]:
    return list(checkpoint.load(folder)[0].state_dict().values())


def same(a: list, b: list) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("lora", [LoRAOptions(), LoRAOptions(lora=2), LoRAOptions(lora=2, merge=True)], ids=["whole", "lora", "merged"])
def test_what_is_watched_changes_no_bit_and_what_is_kept_loads(lora, make_policy, tokenizer, tmp_path):
    """The folder of a round holds what the run is when it ends after that round."""
    checkpoint.save(tmp_path / "base", make_policy(0), tokenizer, {})
    plain = learn(make_policy(0), tokenizer, tmp_path / "plain", None, lora)
    watched = learn(make_policy(0), tokenizer, tmp_path / "watched", ALL, lora)
    assert same(weights_in(tmp_path / "plain"), weights_in(tmp_path / "watched"))
    for a, b in zip(plain, watched, strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"}.items() <= b.items()
    found = {path.name: weights_in(path) for path in (tmp_path / "watched").glob("round-*")}
    assert set(found) == {"round-2"} and not same(found["round-2"], weights_in(tmp_path / "watched"))
    assert checkpoint.read_run(tmp_path / "watched" / "round-2") | {"rounds": 2, "stage": "ppo"} == checkpoint.read_run(
        tmp_path / "watched" / "round-2")  # fmt: skip


def test_a_kept_round_is_the_policy_after_so_many_rounds(make_policy, tokenizer, tmp_path):
    learn(make_policy(0), tokenizer, tmp_path / "run")
    signalled = lambda prompt, response, record: ascii_share(prompt, response, record)
    policy, rounds = make_policy(0), []

    def stop(rollout, records, beta):
        rounds.append(1)
        return signal.raise_signal(signal.SIGINT) or {} if len(rounds) == 2 else {}

    config = PPOConfig(iterations=4, batch=8, minibatches=2, lr=2e-2, warmup=0, beta=0.01, max_new=6)
    with pytest.raises(Interrupted):
        train(models_of(policy, tokenizer, config.algorithm), lambda step: TASKS, lambda record: signalled, config,
              Run(tmp_path / "stopped"), [stop])  # fmt: skip
    assert same(weights_in(tmp_path / "run" / "round-2"), list(policy.state_dict().values()))


def test_held_out_prompts_are_scored_before_the_first_round_and_every_so_many(make_policy, tokenizer, tmp_path):
    """By task and in all, each time by the same random numbers: at a learning rate of almost 0 nothing moves."""
    log = learn(make_policy(0), tokenizer, tmp_path / "run", Watch(eval_every=2, eval_prompts=("p",)))
    assert [x["step"] for x in log if "held_out" in x] == [1, 3]
    for x in log[::2]:
        assert x["held_out"] == pytest.approx((x["held_out/x"] + 2 * x["held_out/y"]) / 3)
    first = Progress(ALL, models_of(make_policy(0), tokenizer, ALGORITHM), PPOConfig(max_new=6), Run(tmp_path / "x"), HELD_OUT,
                     lambda record: ascii_share)  # fmt: skip
    assert first.score() == first.score() == {k: v for k, v in log[0].items() if k.startswith("held_out")}


def test_the_best_on_held_out_prompts_is_kept_and_the_start_is_none(make_policy, tokenizer, tmp_path, capsys):
    log = learn(make_policy(0), tokenizer, tmp_path / "run", Watch(eval_every=1, keep_best=True), rounds=6)
    last = float(re.search(r"run: held-out reward ([\d.]+) after the last round", capsys.readouterr().out)[1])
    scores = [x["held_out"] for x in log] + [last]
    best = scores.index(max(scores))
    assert best and checkpoint.read_run(tmp_path / "run" / "best")["rounds"] == best
    learn(make_policy(0), tokenizer, tmp_path / "flat", Watch(eval_every=1, keep_best=True), reward=lambda *case: 1.0, rounds=2)
    assert not (tmp_path / "flat" / "best").exists()  # never above the start


def test_an_extended_run_knows_the_best_that_was_found_behind_the_last_round(make_policy, tokenizer, tmp_path):
    """It was kept when the run's own state had been written. Of half a checkpoint, as a kill leaves it, nothing is known."""
    model = make_policy(0)
    save = lambda about, parts, folder: checkpoint.save(folder, model, tokenizer, about)
    progress = Progress(Watch(keep_best=True), SimpleNamespace(value_head=None), PPOConfig(), Run(tmp_path, save=save), [], None)
    progress.rounds = 4
    progress.keep_best(0.9)
    again = Progress(Watch(keep_best=True), None, PPOConfig(), Run(tmp_path), [], None)
    again.load_state_dict({"rounds": 4, "best": 0.6})
    assert (again.rounds, again.best) == (4, 0.9)
    (tmp_path / "best" / "config.json").unlink()
    again.load_state_dict({"rounds": 4, "best": 0.6})
    assert again.best == 0.6


def test_some_answers_are_shown_a_line_each_and_logged(make_policy, tokenizer, tmp_path, capsys):
    log = learn(make_policy(0), tokenizer, tmp_path / "run", Watch(show_every=2))
    shown = [x["samples"] for x in log if "samples" in x]
    assert [x["step"] for x in log if "samples" in x] == [1, 3] and all(len(x) == SHOWN for x in shown)
    assert {x["task"] for x in shown[0]} == {"x", "y"} and {x["prompt"] for x in shown[0]} <= {x["prompt"] for x in TASKS}
    for x in shown[0]:
        assert x["reward"] in (0, pytest.approx(ascii_share("", x["response"], {})))  # 0: no end
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("round ")]
    assert len(lines) == 2 * SHOWN and all(line.isprintable() for line in lines)
    assert lines[0] == f"round 1: {shown[0][0]['reward']:6.3f}  {shown[0][0]['prompt']!r} -> {shown[0][0]['response']!r}"


def test_what_is_shown_of_a_long_prompt_and_answer_is_marked_as_cut(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("minirlhf.rl.watch.transcripts", lambda rollout, tokenizer: ["b" * 101])
    models = SimpleNamespace(tokenizer=None)
    progress = Progress(ALL, models, PPOConfig(), Run(tmp_path / "x"), [], None)
    progress.show(SimpleNamespace(scores=torch.ones(1)), [{"prompt": "a" * 61}])
    assert f"  …'{'a' * 60}' -> '{'b' * 100}'…\n" in capsys.readouterr().out


def test_a_run_resumed_is_a_run_in_one_go_with_the_best_and_the_rounds_kept(make_policy, tokenizer, tmp_path):
    """Stopped behind a round that is the best so far, and killed, so that rounds are done again."""
    whole = learn(make_policy(0), tokenizer, tmp_path / "whole", save_every=1)
    calls = []

    def reward(prompt, response, record):
        calls.append(1)
        if len(calls) == stop:
            signal.raise_signal(signal.SIGINT)
        return ascii_share(prompt, response, record)

    stop = 20
    with pytest.raises(Interrupted):
        learn(make_policy(0), tokenizer, tmp_path / "parts", reward=reward, save_every=1)
    assert 1 < len(logged(tmp_path / "parts")) < 4
    parts = learn(make_policy(0), tokenizer, tmp_path / "parts", save_every=1, resume=True)
    strip = lambda log: [{k: v for k, v in x.items() if k != "seconds"} for x in log]
    assert strip(parts) == strip(whole)
    for name in ("best", "round-2", "."):
        assert same(weights_in(tmp_path / "whole" / name), weights_in(tmp_path / "parts" / name))
        assert checkpoint.read_run(tmp_path / "whole" / name).get("rounds") == checkpoint.read_run(tmp_path / "parts" / name).get("rounds")


def test_a_held_out_reward_that_fails_ends_the_run_with_what_was_before(make_policy, tokenizer, tmp_path):
    """No watcher has counted its round, so that a resume counts it once."""
    def fails_in_the_second_round(prompt, response, record):
        return 1 / (not (tmp_path / "run" / "log.jsonl").exists())

    config = PPOConfig(iterations=3, batch=8, minibatches=1, beta=0.1, max_new=6)
    models, told, counts = models_of(make_policy(0), tokenizer, config.algorithm), Run(tmp_path / "run"), Optimum(0.1)
    held_out = [{"prompt": letter} for letter in "abcdefgh"]  # some answers end
    progress = Progress(Watch(eval_every=1), models, config, told, held_out, lambda record: fails_in_the_second_round)
    with pytest.raises(UserError, match="all before step 2 is saved"):
        train(models, lambda step: TASKS, lambda record: ascii_share, config, told, [progress, counts])
    assert progress.rounds == 1 and counts.state_dict()["x"]["n"] == 4


def test_a_checkpoint_that_cannot_be_written_ends_the_run(make_policy, tokenizer, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "round-2").write_text("in the way")
    with pytest.raises(OSError):
        learn(make_policy(0), tokenizer, tmp_path / "run")


@pytest.mark.parametrize("state", [{}, {"rounds": -1, "best": 0.0}, {"rounds": 1, "best": "x"}, {"rounds": 1}])
def test_a_state_of_something_else_is_refused(state, make_policy, tokenizer, tmp_path):
    progress = Progress(ALL, None, PPOConfig(), Run(tmp_path / "x"), [], None)
    with pytest.raises(ValueError):
        progress.load_state_dict(state)
