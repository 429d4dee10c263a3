"""What the experiments share: each result is made once, of one kind of settings, and by PPO as it was asked for."""

import json
from dataclasses import replace

import pytest
import torch

from minirlhf.evaluation.ask import Policy
from minirlhf.experiments import trials
from minirlhf.experiments.config import OwnPrompts
from minirlhf.experiments.trials import (
    Questions, begun_anew, begun_with, kept, numbers, optimise, questions, task_items,
)
from minirlhf.harness.files import Diverged, Interrupted, UserError
from minirlhf.harness.loop import Unharmed
from minirlhf.rl.config import PPOConfig
from minirlhf.rl.options import RewardOptions
from minirlhf.rl.rollout import Models
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
    with pytest.raises(UserError, match="begun with lr 0.1, not None"):
        begun_with(tmp_path, {"epochs": 1})  # another kind of run: of a task and not of own prompts, say
    assert json.loads((tmp_path / "settings.json").read_text()) == {"epochs": 1, "lr": 0.1}


@pytest.mark.parametrize("algo", ["ppo", "grpo"])
def test_a_policy_is_trained_as_asked_on_as_many_responses(algo, monkeypatch):
    """Those of a group count one by one; the prompts are the training's of that seed."""
    seen = {}

    def train(models, batch_of, reward_of, config, run, watchers):
        run.out.mkdir()
        (run.out / "log.jsonl").write_text('{"step": 1, "reward": 0.5}\n')
        seen.update(asked=[batch_of(step) for step in range(9)], reward=reward_of({}), rest=(run.seed, run.dtype))
        seen.update(config=config, drawn=torch.rand(1), whole=run.out.parent.is_dir(), out=run.out)
        return {"seconds": 1.5}

    monkeypatch.setattr(trials, "train", train)
    monkeypatch.setattr(trials, "models_of", lambda *_: Models(None, None, None, None))
    monkeypatch.setattr(trials, "start_critic", lambda *a: seen.update(before=a[1:]))
    config = PPOConfig(algo=algo, batch=24, iterations=9)
    cost = optimise(Policy(None, None), TASKS["arithmetic"], lambda record: "reward", config, 3, torch.float32)
    torch.manual_seed(3)
    assert cost.pop("cpu") >= 0 and cost == {"seconds": 1.5, "log": [{"step": 1, "reward": 0.5}]}
    assert seen["config"] == replace(config, max_new=TASKS["arithmetic"].MAX_NEW)
    assert seen["drawn"] == torch.rand(1)
    assert [len(records) * config.algorithm.group for records in seen["asked"]] == [24] * 9
    prompts = {record["prompt"] for record in TASKS["arithmetic"].records("train", 20_000, 3)}
    assert {record["prompt"] for records in seen["asked"] for record in records} <= prompts
    assert seen["reward"] == "reward" and seen["rest"] == (3, torch.float32)
    assert seen["before"][1]({}) == "reward" and seen["before"][2] == seen["config"]  # the critic starts like that
    assert seen["whole"] and not seen["out"].parent.exists() and seen["out"].name == algo


@pytest.mark.parametrize("kind", [Interrupted, KeyboardInterrupt])
def test_a_run_that_is_stopped_is_begun_anew_when_the_tool_is_called_again(kind, monkeypatch):
    """The tools have no --resume, of which the loop speaks: the state was in a folder that is gone."""
    def train(*arguments):
        raise kind("stopped after round 1; go on with --resume")

    monkeypatch.setattr(trials, "train", train)
    monkeypatch.setattr(trials, "models_of", lambda *_: Models(None, None, None, None))
    monkeypatch.setattr(trials, "start_critic", lambda *_: None)
    with pytest.raises(Interrupted, match="it keeps the runs done and begins this one anew"):
        optimise(Policy(None, None), TASKS["arithmetic"], lambda record: None, PPOConfig(), 3, torch.float32)


@pytest.mark.parametrize("kind", [Diverged, Unharmed])
def test_a_run_that_fails_says_why_and_nothing_of_its_folder_which_is_gone(kind):
    with pytest.raises(kind, match="^the reason$"), begun_anew():
        try:
            raise kind("the reason")
        except kind:
            raise kind("/tmp/x/ppo: the reason; /tmp/x/ppo/train_state.pt is good") from None


def test_answers_are_sampled_on_prompts_that_no_training_has_unless_its_own_are_asked_for(make_policy, tokenizer):
    """Two to each of five; the greedy one is left out, and the KL is to the reference."""
    policy, other = (Policy(make_policy(seed, context=64), tokenizer) for seed in (0, 1))
    items = task_items(policy, other, TASKS["arithmetic"], 5, 2)
    assert [(x["index"], x["sample"]) for x in items] == [(i, k) for i in range(5) for k in range(2)]
    assert [x["prompt"] for x in items[::2]] == [r["prompt"] for r in TASKS["arithmetic"].records("test", 5, 0)]
    assert sum(x["kl"] for x in items) > 0 and all("reward" in x["scores"] for x in items)
    assert task_items(policy, other, TASKS["arithmetic"], 5, 2, 1) != items
    own = task_items(policy, other, TASKS["arithmetic"], 5, 2, split="train")
    assert [x["prompt"] for x in own[::2]] == [r["prompt"] for r in TASKS["arithmetic"].records("train", 5, 0)]


@pytest.fixture
def asked(make_policy, tokenizer, tmp_path, monkeypatch):
    """A function from lines of two files, and options, to the questions that a user's own prompts make."""
    (tmp_path / "r.py").write_text("def one(prompt, response, record):\n    return 1.0\n")
    monkeypatch.chdir(tmp_path)

    def asked(prompts: list[dict], others: list[dict] = (), reward: tuple = ("r.py:one",), **more) -> Questions:
        for name, records in (("p", prompts), ("q", others)):
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        own = OwnPrompts(("p.jsonl",), ("q.jsonl",) if others else (), **more)
        (found,) = questions("reviews", own, RewardOptions(reward), Policy(make_policy(0, context=64), tokenizer))
        return found

    return asked


def prompts_in(task: Questions, split: str, n: int = 10_000) -> list[str]:
    return [record["prompt"] for record in task.records(split, n, 0)]


def test_a_fifth_of_own_prompts_is_held_out_by_their_hash_and_no_prompt_is_on_both_sides(asked):
    """Whatever else is in the file, in whatever order; held-out prompts are distinct, and at most as many as asked."""
    words = [{"prompt": f"word {i % 300}"} for i in range(600)]
    task, again = asked(words), asked(words[::-1] + [{"prompt": f"more {i}"} for i in range(50)])
    test, train = prompts_in(task, "test"), set(prompts_in(task, "train"))
    assert 40 < len(test) < 80 and len(set(test)) == len(test)
    assert train | set(test) == {x["prompt"] for x in words} and not train & set(test)
    assert set(test) <= set(prompts_in(again, "test")) and len(prompts_in(task, "test", 7)) == 7
    assert len(prompts_in(task, "train", 50)) == 50 and task.reward(["a"], ["b"], [{}]) == [1.0]


def test_given_held_out_prompts_leave_training_and_stand_once(asked):
    words = [{"prompt": f"word {i}", "n": i} for i in range(20)]
    task = asked(words, [words[3], {"prompt": "new"}, words[3], {"prompt": "other"}])
    assert sorted(prompts_in(task, "test")) == ["new", "other", "word 3"]
    assert set(prompts_in(task, "train")) == {x["prompt"] for x in words} - {"word 3"}
    assert all("n" in record for record in task.records("train", 99, 0))  # the reward reads it


def test_what_decides_a_result_of_own_prompts_is_told_from_what_does_not(asked):
    words = [{"prompt": f"word {i}"} for i in range(40)]
    about = asked(words).about
    assert asked(words).about == about and about["max_new"] == 64
    changed = [asked(words[1:]), asked(words, max_new=9), asked(words, reward=("r.py:one:2",))]
    assert [[k for k in about if x.about[k] != about[k]] for x in changed] == [["prompts"], ["max_new"], ["reward"]]


@pytest.mark.parametrize("words, reward, message", [
    (20, (), "--prompts without --reward: say what is good"),
    (1, ("r.py:one",), "--prompts: . of 1 records to train on"),
])
def test_own_prompts_that_make_no_comparison_are_refused(words, reward, message, asked):
    with pytest.raises(UserError, match=message):
        asked([{"prompt": f"word {i}"} for i in range(words)], reward=reward)


def test_a_generated_task_has_its_reward_or_the_users(tmp_path, make_policy, tokenizer):
    (tmp_path / "r.py").write_text("def one(prompt, response, record):\n    return 1.0\n")
    start = Policy(make_policy(0, context=64), tokenizer)
    plain, other = questions("arithmetic,reviews", OwnPrompts(), RewardOptions(), start)
    assert [x.reward for x in (plain, other)] == [TASKS[x].reward for x in ("arithmetic", "reviews")]
    (own,) = questions("arithmetic", OwnPrompts(), RewardOptions((f"{tmp_path}/r.py:one",)), start)
    assert own.reward([""], [""], [{}]) == [1.0] and own.records("test", 3, 0) == TASKS["arithmetic"].records("test", 3, 0)
