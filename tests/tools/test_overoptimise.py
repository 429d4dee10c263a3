"""The experiment end to end on a tiny model, resumed and refused."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from minirlhf.evaluation.ask import Policy
from minirlhf.experiments import overoptimisation
from minirlhf.experiments.config import HELD_OUT, Overoptimisation
from minirlhf.experiments.goodhart import with_interval
from minirlhf.experiments.overoptimisation import UNFINISHED, policy_line, sampled, scored
from minirlhf.harness.files import Interrupted, UserError
from minirlhf.harness.machine import Machine
from minirlhf.lm import checkpoint
from minirlhf.lm.records import split_by_prompt
from minirlhf.preferences.config import Labeller, RewardConfig
from minirlhf.rl.config import PPOConfig
from minirlhf.tasks import TASKS
from minirlhf.tools import make_preferences, overoptimise, train_reward
from minirlhf.tools.overoptimise import proxy_of


@pytest.fixture
def options(tmp_path) -> Overoptimisation:
    """None of them as it is by default."""
    sizes = {"iterations": 5, "batch": 4, "held_out": 3, "best_of": 2, "samples": 2}
    people = {"temperature": 0.7, "epochs": 4}
    return Overoptimisation(init="start", task="arithmetic", out=str(tmp_path), **sizes, **people)


@pytest.fixture
def experiment(make_policy, tokenizer, tmp_path, monkeypatch, capsys):
    """A function that runs the tool on a tiny model, gold being length: what it said, and what it ran."""
    policy = make_policy(0, context=64)
    with torch.no_grad():
        policy.ln_f.bias.add_(2 * policy.wte.weight[tokenizer.eos_id])
    checkpoint.save(tmp_path / "sft", policy, tokenizer, {})
    monkeypatch.setattr(TASKS["arithmetic"], "MAX_NEW", 16)
    monkeypatch.setattr(TASKS["arithmetic"], "reward", lambda prompt, response, record: len(response) / 8)
    monkeypatch.setattr("minirlhf.preferences.simulated.PROMPTS", 16)
    monkeypatch.setattr("minirlhf.preferences.train_reward.REFERENCE", 16)
    ran: list[str] = []

    for module, name in ((make_preferences, "write_preferences"), (train_reward, "make_reward_model")):
        def noted(options, *rest, work=getattr(module, name)) -> None:
            ran.append(Path(options.out).name)
            work(options, *rest)

        monkeypatch.setattr(module, name, noted)

    def run(*words: str, task: tuple[str, ...] = ("--task", "arithmetic")) -> tuple[str, list[str]]:
        ran.clear()
        sizes = "--iterations 1 --batch 8 --held-out 6 --best-of 8 --samples 2 --epochs 1"
        folders = f"--init {tmp_path}/sft --out {tmp_path}/out --threads 1"
        monkeypatch.setattr(sys, "argv", ["overoptimise", *sizes.split(), *folders.split(), *task, *words])
        overoptimise.main()
        return capsys.readouterr().out, list(ran)

    return run


def test_it_runs_and_goes_on_where_it_stopped(experiment, tmp_path):
    """Two reward models, two policies of each; more betas make only what is missing."""
    said, ran = experiment("--pairs", "8", "16", "--betas", "0.5", "0")
    out = tmp_path / "out"
    assert ran == ["prefs.8.jsonl", "rm.8", "prefs.16.jsonl", "rm.16"]
    files = {f"ppo.{n}.{beta}.json": (n, beta) for n in (8, 16) for beta in (0.5, 0.0)}
    assert {x.name for x in out.glob("ppo.*")} == set(files)
    lines = {name: json.loads((out / name).read_text()) for name in files}
    assert {name: (x["pairs"], x["beta"]) for name, x in lines.items()} == files
    assert all(len(x[k]) == 6 for x in lines.values() for k in ("gold", "kl", "proxy"))
    few, many = ((out / f"prefs.{n}.jsonl").read_text().splitlines() for n in (8, 16))
    assert few == many[:8] and len(many) == 16
    assert said.count("| PPO |") == said.count("| best-of-n |") == 2 * (1 + 2)
    assert "16 comparisons" in (out / "overoptimise.svg").read_text()
    again, ran = experiment("--pairs", "8", "16", "--betas", "0.5", "0")
    assert not ran and "PPO on" not in again and again.split("\n\n")[-4:] == said.split("\n\n")[-4:]
    more, ran = experiment("--pairs", "8", "--betas", "0.5", "0.1", "0")
    assert not ran and more.count("PPO on") == 1 and "beta 0.1" in more
    assert {name: json.loads((out / name).read_text()) for name in files} == lines


def test_a_policy_whose_file_is_gone_is_measured_again(experiment, tmp_path):
    words, path = ("--pairs", "8", "--betas", "0.5", "0"), tmp_path / "out/ppo.8.0.0.json"
    experiment(*words)
    before = json.loads(path.read_text())
    path.unlink()
    said, ran = experiment(*words)
    assert not ran and said.count("PPO on") == 1 and "beta 0\n" in said
    assert json.loads(path.read_text()) | {"seconds": 0} == before | {"seconds": 0}


def test_people_and_reward_model_get_the_options(options, monkeypatch, tmp_path):
    asked, learnt, machine = [], [], Machine(seed=3, dtype="float32", threads=1)
    monkeypatch.setattr(make_preferences, "write_preferences", lambda *given: asked.extend(given))
    monkeypatch.setattr(train_reward, "make_reward_model", lambda *given: learnt.extend(given))
    monkeypatch.setattr("minirlhf.rl.reward_model.load_reward_model", lambda folder, device: folder)
    assert proxy_of(8, options, "questions", machine) == tmp_path / "rm.8"
    prefs = str(tmp_path / "prefs.8.jsonl")
    people = make_preferences.Options(init="start", task="arithmetic", pairs=8, out=prefs)
    assert asked == [people, Labeller(temperature=0.7), machine, "questions"]
    learning = train_reward.Options(data=(prefs,), init="start", out=str(tmp_path / "rm.8"), overwrite=True)
    assert learnt == [learning, RewardConfig(epochs=4), machine]


def test_the_reference_answers_held_out_prompts(options, monkeypatch, tmp_path):
    asked = []

    def respond(model, tokenizer, records, max_new, seeds):
        asked.extend(records)
        assert len(set(seeds)) == len(records)
        return ["1"] * len(records)

    monkeypatch.setattr(overoptimisation, "respond", respond)
    samples = sampled(Policy(None, None), TASKS["arithmetic"], options, 0)
    assert asked == [record for record in TASKS["arithmetic"].records("test", 3, 0) for _ in range(2)]
    assert samples["index"] == [0, 0, 1, 1, 2, 2] and samples["response"] == ["1"] * 6


def test_a_policy_is_trained_as_asked_and_measured_on_held_out_prompts(options, monkeypatch):
    """Two answers to each of three prompts; without an end the proxy is low."""
    seen = {}

    def optimise(policy, task, reward_of, config, seed, dtype):
        seen.update(config=config, reward=reward_of(None), trained=task.NAME, seed=seed, dtype=dtype)
        return {"seconds": 1.5}

    def answers(policy, reference, task, prompts, samples, seed):
        seen.update(task=task.NAME, prompts=prompts, samples=samples)
        return [{"index": i, "response": "12", "stop": "eos" if k else "length", "kl": i + k,
                 "scores": {"reward": 10 * i + k}} for i in range(3) for k in range(2)]  # fmt: skip

    monkeypatch.setattr(overoptimisation, "optimise", optimise)
    monkeypatch.setattr(overoptimisation, "task_items", answers)
    proxy = lambda prompt, response, record: 2.0  # noqa: E731
    start, machine = Policy(torch.nn.Linear(1, 1), None), Machine(seed=3, dtype="float32")
    line = policy_line(8, 0.25, proxy, start, TASKS["arithmetic"], options, machine)
    assert seen["config"] == PPOConfig(iterations=5, batch=4, beta=0.25, missing_eos=-3.0, save_every=5)
    assert seen["reward"] is proxy and (seen["seed"], seen["dtype"], seen["samples"]) == (3, torch.float32, 2)
    assert seen["task"] == seen["trained"] == "arithmetic" and seen["prompts"] == 3
    assert (line["pairs"], line["beta"], line["seconds"]) == (8, 0.25, 1.5)
    assert line["gold"] == [0.5, 10.5, 20.5] and line["kl"] == [0.5, 1.5, 2.5]
    assert line["proxy"] == [(UNFINISHED + 2) / 2] * 3


def test_other_settings_want_another_folder(experiment, tmp_path, monkeypatch):
    """Whatever decides a result: the checkpoint's content too, but not which sizes and betas are wanted."""
    seen = []
    monkeypatch.setattr("minirlhf.experiments.trials.begun_with", lambda out, settings: seen.append(settings) or 1 / 0)
    for words in ("--pairs 8", "--betas 1", "--epochs 2", "--seed 1", "--temperature 0.2"):
        with pytest.raises(ZeroDivisionError):
            experiment(*words.split())
    assert seen[0] == seen[1] and all(seen[0] != x for x in seen[2:])
    policy, _ = checkpoint.load(tmp_path / "sft")
    assert seen[0]["init"] == checkpoint.fingerprint(policy)


def test_an_answer_without_an_end_gets_the_low_reward_unread():
    asked = []
    proxy = lambda *case: asked.append(case) or float(len(case[1]))  # noqa: E731
    records = [{"prompt": "p"}, {"prompt": "q"}]
    values = scored(proxy, records, [(1, "abc"), (0, None), (0, "a")])
    assert values.tolist() == [3.0, UNFINISHED, 1.0]
    assert asked == [("q", "abc", records[1]), ("p", "a", records[0])]


def test_a_reward_model_that_is_stopped_is_begun_anew(options, monkeypatch):
    """No option is named that the tool does not have."""
    def train(*arguments):
        raise Interrupted("stopped after step 1; go on with --resume")

    monkeypatch.setattr(make_preferences, "write_preferences", lambda *given: None)
    monkeypatch.setattr(train_reward, "make_reward_model", train)
    with pytest.raises(Interrupted, match="it keeps the runs done and begins this one anew"):
        proxy_of(8, options, None, Machine())


def test_an_unknown_task_is_refused(experiment):
    with pytest.raises(UserError, match="--task poems"):
        experiment("--task", "poems")


def test_a_task_of_conversations_is_refused_before_any_work(experiment, tmp_path):
    """Its samples would be of one answer, its policies' of several."""
    with pytest.raises(UserError, match="--task booking: is of conversations"):
        experiment("--task", "booking")
    assert not (tmp_path / "out").exists()


def test_the_gold_and_the_proxy_are_of_the_same_answers(experiment, tmp_path):
    """What the table calls the reference's gold is the mean of the samples kept."""
    said, _ = experiment("--pairs", "8", "--betas", "1")
    samples = json.loads((tmp_path / "out/samples.json").read_text())
    assert samples["index"] == [i for i in range(6) for _ in range(8)]
    gold = [len(x) / 8 if x is not None else 0 for x in samples["response"]]
    assert samples["gold"] == gold
    assert f"gold reward of the reference {with_interval(np.reshape(gold, (6, 8)).mean(1))}\n" in said
    policy = json.loads((tmp_path / "out/ppo.8.1.0.json").read_text())
    halves = [16 * x for x in policy["gold"]]  # two sampled answers each, the greedy one left out
    assert any(halves) and halves == [round(x) for x in halves]


def test_on_own_prompts_the_users_reward_is_gold_and_nobody_else_sees_the_held_out_ones(experiment, tmp_path):
    """Comparisons are of training prompts; another reward wants another folder."""
    (tmp_path / "r.py").write_text("def gold(prompt, response, record):\n    return len(response) / 4 + record['n']\n")
    lines = [json.dumps({"prompt": f"word {i}", "n": i % 2}) for i in range(60)]
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    own = ("--prompts", f"{tmp_path}/p.jsonl", "--reward", f"{tmp_path}/r.py:gold", "--max-new", "16")
    said, ran = experiment("--pairs", "8", "--betas", "1", *own, task=())
    assert "data: gold reward of the reference" in said and ran == ["prefs.8.jsonl", "rm.8"]
    prefs = [json.loads(line) for line in (tmp_path / "out/prefs.8.jsonl").read_text().splitlines()]
    samples = json.loads((tmp_path / "out/samples.json").read_text())
    assert all(x["gold_chosen"] == len(x["chosen"]) / 4 + x["n"] for x in prefs) and len(samples["gold"]) == 6 * 8
    policy = json.loads((tmp_path / "out/ppo.8.1.0.json").read_text())
    assert len(policy["gold"]) == 6
    train, test = split_by_prompt([json.loads(line) for line in lines], HELD_OUT).values()
    assert {x["prompt"] for x in prefs} <= {x["prompt"] for x in train} and len(test) >= 6
    with pytest.raises(UserError, match="begun with reward"):
        experiment("--pairs", "8", "--betas", "1", *own[:3], f"{tmp_path}/r.py:gold:2", *own[4:], task=())
