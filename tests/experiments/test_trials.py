"""What the experiments share: each result is made once, of one kind of settings, and by PPO as it was asked for."""

import json
from dataclasses import replace

import pytest
import torch

from minirlhf.evaluation.ask import Policy
from minirlhf.experiments import trials
from minirlhf.experiments.trials import begun_with, kept, markdown_table, numbers, optimise, task_items
from minirlhf.harness.files import Interrupted, UserError
from minirlhf.rl.config import PPOConfig
from minirlhf.tasks import TASKS


@pytest.mark.parametrize("words, kind, least, most", [
    ("", int, 0, 9), ("x", float, 0, 9), ("-1", float, 0, 9), ("1.5", int, 0, 9), ("nan", float, 0, float("inf")),
    ("inf", float, 0, float("inf")), ("1 10", int, 1, 9),
])  # fmt: skip
def test_numbers_that_are_none_are_refused(words, kind, least, most):
    with pytest.raises(UserError, match=f"--pairs {words}: give numbers"):
        numbers(words.split(), "pairs", kind, least, most)


def test_numbers_stand_once_in_their_order():
    assert numbers(("0.1", "0", "0.10"), "betas", float, 0) == [0.1, 0.0]


def test_what_was_made_is_kept_to_the_last_bit(tmp_path):
    made = []

    def make() -> dict:
        made.append(1)
        return {"x": 0.1 + 0.2, "y": [None, "é"]}

    for _ in range(2):
        assert kept(tmp_path / "a/b.json", make) == {"x": 0.1 + 0.2, "y": [None, "é"]}
    assert made == [1]


def test_what_failed_is_not_kept(tmp_path):
    with pytest.raises(ZeroDivisionError):
        kept(tmp_path / "b.json", lambda: {"x": 1 / 0})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", '{"epochs": 1', "[1]"])
def test_a_damaged_file_is_named_with_the_remedy(text, tmp_path):
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(UserError, match="b.json: .*; delete it, and it is made again"):
        kept(tmp_path / "b.json", dict)


def test_settings_are_those_that_the_folder_was_begun_with(tmp_path):
    begun_with(tmp_path, {"epochs": 1, "lr": 0.1})
    begun_with(tmp_path, {"epochs": 1, "lr": 0.1})
    with pytest.raises(UserError, match="begun with epochs 1, not 2; choose another --out"):
        begun_with(tmp_path, {"epochs": 2, "lr": 0.1})
    assert json.loads((tmp_path / "settings.json").read_text()) == {"epochs": 1, "lr": 0.1}


@pytest.mark.parametrize("algo", ["ppo", "grpo"])
def test_a_policy_is_trained_as_asked_on_as_many_responses(algo, monkeypatch):
    """Those of a group count one by one; the prompts are the training's of that seed."""
    seen = {}

    def train(models, batch_of, reward_of, config, run, watchers):
        seen.update(asked=[batch_of(step) for step in range(9)], reward=reward_of({}), rest=(run.seed, run.dtype))
        seen.update(config=config, drawn=torch.rand(1), whole=run.out.parent.is_dir(), out=run.out)
        return {"seconds": 1.5}

    monkeypatch.setattr(trials, "train", train)
    monkeypatch.setattr(trials, "models_of", lambda *_: None)
    monkeypatch.setattr(trials, "start_critic", lambda *a: seen.update(before=a[1:]))
    config = PPOConfig(algo=algo, batch=24, iterations=9)
    cost = optimise(Policy(None, None), "arithmetic", lambda record: "reward", config, 3, torch.float32)
    torch.manual_seed(3)
    assert cost == {"seconds": 1.5} and seen["config"] == replace(config, max_new=TASKS["arithmetic"].MAX_NEW)
    assert seen["drawn"] == torch.rand(1)
    assert [len(records) * config.algorithm.group for records in seen["asked"]] == [24] * 9
    prompts = {record["prompt"] for record in TASKS["arithmetic"].records("train", 20_000, 3)}
    assert {record["prompt"] for records in seen["asked"] for record in records} <= prompts
    assert seen["reward"] == "reward" and seen["rest"] == (3, torch.float32)
    assert seen["before"][1]({}) == "reward" and seen["before"][2] == seen["config"]  # the critic starts like that
    assert seen["whole"] and not seen["out"].parent.exists() and seen["out"].name == algo


def test_a_run_that_is_stopped_is_begun_anew_when_the_tool_is_called_again(monkeypatch):
    """The tools have no --resume, of which the loop speaks: the state was in a folder that is gone."""
    def train(*arguments):
        raise Interrupted("stopped after round 1; go on with --resume")

    monkeypatch.setattr(trials, "train", train)
    monkeypatch.setattr(trials, "models_of", lambda *_: None)
    monkeypatch.setattr(trials, "start_critic", lambda *_: None)
    with pytest.raises(Interrupted, match="it keeps the runs done and begins this one anew"):
        optimise(Policy(None, None), "arithmetic", lambda record: None, PPOConfig(), 3, torch.float32)


def test_answers_are_sampled_on_prompts_that_no_training_has(make_policy, tokenizer):
    """Two to each of five; the greedy one is left out, and the KL is to the reference."""
    policy, other = (Policy(make_policy(seed, context=64), tokenizer) for seed in (0, 1))
    items = task_items(policy, other, "arithmetic", 5, 2)
    assert [(x["index"], x["sample"]) for x in items] == [(i, k) for i in range(5) for k in range(2)]
    assert [x["prompt"] for x in items[::2]] == [r["prompt"] for r in TASKS["arithmetic"].records("test", 5, 0)]
    assert sum(x["kl"] for x in items) > 0 and all("reward" in x["scores"] for x in items)
    assert task_items(policy, other, "arithmetic", 5, 2, 1) != items


def test_a_table_has_words_on_the_left_and_numbers_on_the_right():
    assert markdown_table(["a", "b", "c"], [["x", "y", "1"]], 2) == "| a | b | c |\n| --- | --- | --: |\n| x | y | 1 |"
