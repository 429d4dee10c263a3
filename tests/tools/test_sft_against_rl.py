"""The runner of the study: its rewards, prompts and arms are what they are said to be, and it resumes."""

import json
import random
import shutil
import sys
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import redirect_stdout
from io import StringIO
from time import sleep

import numpy as np
import pytest
import torch

from minirlhf.evaluation.ask import Policy, Protocol, sample_items, text_items
from minirlhf.experiments import arms as experiment, questions, study as runner, trials
from minirlhf.experiments.arms import BEST_OF_SAMPLES, Arm, arms, longest_reward, random_reward
from minirlhf.experiments.claims import BEST_OF, drift_measures
from minirlhf.experiments.config import StudyOptions
from minirlhf.experiments.questions import held_out_words
from minirlhf.harness.files import Diverged, Interrupted, UserError
from minirlhf.harness.loop import Run
from minirlhf.lm.chat import render
from minirlhf.metrics.scores import expectation_adjusted_distinct
from minirlhf.tasks import TASKS, reviews, reward_of_task
from minirlhf.tools import sft_against_rl

pytestmark = pytest.mark.filterwarnings("ignore:the vocabulary has")  # of the sums' digits no pair is merged
TINY = StudyOptions(
    task="arithmetic", seeds=1, labels=("10", "40"), base_steps=2, steps=2, iterations=1, batch=4, prompts=3,
    samples=2, width=8, rows=4, workers=1,
)  # fmt: skip


def test_the_random_reward_is_a_function_that_knows_nothing():
    """Uniform on [0, 1), the same every time, another for another prompt."""
    x = np.array([random_reward("a", str(i), {}) for i in range(2000)])
    assert (0 <= x).all() and (x < 1).all() and abs(x.mean() - 0.5) < 0.03 and abs(x.var() - 1 / 12) < 0.01
    assert random_reward("a", "1", {}) == x[1] != random_reward("b", "1", {})
    assert abs(np.corrcoef(x, np.arange(2000))[0, 1]) < 0.07
    assert random_reward("ab", "c", {}) != random_reward("a", "bc", {})


def test_the_longest_answer_earns_the_most():
    record = {"task": "arithmetic"}
    earned = [longest_reward("1+1=", "2" * n, record) for n in (0, 1, 8, 32, 33)]
    assert earned == [0, 1 / 32, 1 / 4, 1, 1]


@pytest.mark.parametrize("task", experiment.STUDIED)
def test_prompts_outside_of_training_are_not_in_it(task):
    """Nor are those of the test; and every set asks for something that can earn a reward."""
    trained = {r["prompt"] for r in TASKS[task].records("train", 20_000, 0)}
    sets = questions.question_sets(task, 50, 0)
    assert len(sets) == 3 and [*sets][0] == "test"
    for records in sets.values():
        assert len(records) == 50 and not trained & {r["prompt"] for r in records}
        for r in records:
            assert r["prompt"] == r["prompt"].strip() and TASKS[task].reward(r["prompt"], r["response"], r) >= 0
    best = [TASKS[task].reward(r["prompt"], r["response"], r) for records in sets.values() for r in records]
    assert max(best) == 1 and min(best) == (1 if task == "arithmetic" else 0)


def test_reworded_prompts_ask_the_same_in_a_form_that_training_lacks():
    for task in experiment.STUDIED:
        sets, trained = questions.question_sets(task, 50, 0), TASKS[task].records("train", 2000, 0)
        for plain, other in zip(sets["test"], sets["reworded"]):
            assert {**plain, "prompt": ""} == {**other, "prompt": ""}
            assert plain.get("subject", "") in other["prompt"]
        form = " " if task == "arithmetic" else "."
        assert all(form in r["prompt"] for r in sets["reworded"])
        assert not any(form in r["prompt"] for r in trained)
    assert questions.question_sets("arithmetic", 1, 0)["reworded"][0]["prompt"].count(" ") == 3


def test_held_out_words_never_stood_in_their_place():
    """The first word was never first, the second never beside this noun; the domain is that of the noun."""
    trained = [s.split() for s in reviews.subjects("train")]
    first, beside = {s[0] for s in trained}, {(s[1], s[2]) for s in trained}
    known = {word for s in trained for word in s}
    for record in reviews.records("test", 100, 0):
        other = held_out_words(record, random.Random(record["prompt"]))
        a, b, noun = other["subject"].split()
        assert noun == record["subject"].split()[2] and a not in first and (b, noun) not in beside and {a, b} <= known
        assert other["subject"] in other["prompt"]
        assert reviews.parse_review(other["response"], reviews.domain_of(record["subject"])) is not None


def test_seeds_are_asked_different_prompts():
    a, b = (questions.question_sets("reviews", 50, s)["test"] for s in (0, 1))
    assert [r["prompt"] for r in a] != [r["prompt"] for r in b]


def test_rivals_of_ppo_begin_where_it_does_and_take_its_time():
    for task in experiment.STUDIED:
        table = arms(task, [100, 1000])
        for n in (100, 1000):
            assert table[f"ppo{n}"].start == table[f"more{n}"].start == f"sft{n}"
            assert table[f"more{n}"].match == f"ppo{n}" and table[f"more{n}"].labels == n
        others = ["sft-hot", "ppo-hot", "random", "longest"] + ["picked"] * (task == "reviews")
        assert {table[name].start for name in others} == {"sft1000"} and table["ppo0"].start == "base"
        assert table["sft-hot"].rate == table["ppo-hot"].rate == 5
        known = list(table)
        for name, arm in table.items():
            assert all(known.index(x) < known.index(name) for x in (arm.start, arm.match) if x)
    assert max(BEST_OF) <= BEST_OF_SAMPLES


@pytest.fixture
def fitted(monkeypatch):
    """What `fit` was given, without training: the examples of every step, and the config; `then` changes the model."""
    seen: dict = {"steps": [], "then": lambda model, step: None}

    def fit(model, batch_of, validation, config, *_):
        for step in range(config.steps):
            seen["steps"].append(batch_of(step))
            seen["then"](model, step)
        seen["config"] = config
        return {"tokens": 7, "steps": config.steps}

    monkeypatch.setattr(experiment, "fit", fit)
    return seen


def sft(model, tokenizer, tmp_path, labels: int, task: str = "arithmetic", most_steps: int = 50, **arm) -> None:
    arm = Arm("base", "sft", labels, **arm)
    experiment.train_sft(Policy(model, tokenizer), task, arm, most_steps, StudyOptions(rows=4, lr=1e-3), Run(tmp_path))


def test_sft_sees_its_labels_and_no_others(fitted, model, tokenizer, tmp_path, monkeypatch):
    """Of 20, 16 are for training and 4 for validation."""
    judged = []

    def loss(model, examples):
        judged.append([tuple(e.ids) for e in examples])
        return 1.0, 1

    monkeypatch.setattr(experiment, "evaluate_loss", loss)
    sft(model, tokenizer, tmp_path, 20)
    all_labels = [tuple(render(r, tokenizer).ids) for r in TASKS["arithmetic"].records("train", 20_000, 0)]
    trained = {tuple(e.ids) for step in fitted["steps"] for e in step}
    assert {x for row in judged for x in row} == {*all_labels[:4]} and trained == {*all_labels[4:20]}


def test_sft_stops_after_100_epochs_unless_it_takes_the_time_of_ppo(fitted, model, tokenizer, tmp_path):
    """4 of 5 examples are for training, 4 a step."""
    sft(model, tokenizer, tmp_path, 5, most_steps=150)
    assert fitted["config"].steps == 100
    sft(model, tokenizer, tmp_path, 5, most_steps=150, match="ppo5")
    assert fitted["config"].steps == 150


def test_sft_keeps_the_weights_of_the_lowest_validation_loss(fitted, model, tokenizer, tmp_path):
    """Each step moves the model away; the start is the best. At 5 times the rate the last is kept."""
    def worse(model, step):
        with torch.no_grad():
            model.wte.weight.mul_(-3)

    fitted["then"] = worse
    before = model.wte.weight.clone()
    sft(model, tokenizer, tmp_path, 20, match="ppo")
    assert torch.equal(model.wte.weight, before)
    sft(model, tokenizer, tmp_path, 20, match="ppo", rate=5.0)
    assert not torch.equal(model.wte.weight, before) and fitted["config"].lr == pytest.approx(5e-3)


def test_picked_labels_are_those_of_the_highest_reward(fitted, model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "evaluate_loss", lambda *_: (1.0, 1))
    sft(model, tokenizer, tmp_path, 200, "reviews", match="ppo", picked=True)
    records = TASKS["reviews"].records("train", 20_000, 0)[:200]
    good = {tuple(render(r, tokenizer).ids) for r in records if reviews.reward("", r["response"], r) == 1}
    trained = {tuple(e.ids) for step in fitted["steps"] for e in step}
    assert trained < good and len(good) - len(trained) == max(len(good) // 5, 1)


def test_ppo_sees_prompts_without_responses(model, tokenizer, tmp_path, monkeypatch):
    seen = {}

    def train(models, records_of, reward_of, config, *rest):
        seen.update(records=[r for step in range(5) for r in records_of(step)], reward=reward_of({}), lr=config.lr)
        seen.update(out=rest[0].out)
        (tmp_path / "log.jsonl").touch()
        return {}

    monkeypatch.setattr(trials, "train", train)
    monkeypatch.setattr(trials, "start_critic", lambda *_: None)
    arm = Arm("sft10", "ppo", reward="random", rate=5.0)
    experiment.train_ppo(Policy(model, tokenizer), "arithmetic", arm, StudyOptions(batch=4, ppo_lr=1e-3), Run(tmp_path))
    assert len(seen["records"]) == 5 * 8 and not any("response" in r for r in seen["records"])
    assert seen["reward"] is random_reward and seen["lr"] == pytest.approx(5e-3) and seen["out"] == tmp_path


@pytest.mark.parametrize("task", experiment.STUDIED)
def test_measures_are_those_of_an_evaluation_a_row_a_prompt(make_policy, tokenizer, task):
    """Sums over two samples of each of three prompts, and the greedy answer's; the answers that are told apart."""
    policy, other = (Policy(make_policy(seed, context=128), tokenizer) for seed in (0, 1))
    sets = questions.question_sets(task, 3, 0)
    found = questions.measure_model(policy, other, task, sets, 2, 0, 0)
    assert list(found) == list(sets) and all(set(found[name]) <= set(found["test"]) for name in sets)
    items = sample_items(policy, other, sets["test"], Protocol(reward_of_task, TASKS[task].MAX_NEW, 2, 0))
    of = {i: [x for x in items if x["index"] == i] for i in range(3)}  # the greedy one first
    rows = {name: np.array(table) for name, table in found["test"].items()}
    assert rows["reward, greedy"].tolist() == [[xs[0]["scores"]["reward"], 1] for xs in of.values()]
    for name, key in (("KL to reference, nats", "kl"), ("length, tokens", "tokens")):
        assert rows[name] == pytest.approx(np.array([[xs[1][key] + xs[2][key], 2] for xs in of.values()]))
    assert rows["entropy, nats/token"][:, 1].tolist() == rows["length, tokens"][:, 0].tolist()
    told_apart = [[0.5 + 0.5 * (xs[1]["response"] != xs[2]["response"]), 1] for xs in of.values()]
    assert rows["distinct answers"].tolist() == told_apart
    texts = text_items(policy, sets["test"])
    assert rows["reference perplexity"] == pytest.approx(np.array([[x["nll"], x["tokens"], x["bytes"]] for x in texts]))
    if task == "reviews":
        ids = [[x["ids"] for x in xs[1:]] for xs in of.values()]
        V = tokenizer.vocab_size
        assert rows["EAD-2"][:, 0] == pytest.approx([expectation_adjusted_distinct(x, 2, V) for x in ids])
    wanted = {measure for measure, _ in drift_measures(task == "reviews").values()}
    assert wanted <= set(rows) and all(len(table) == 3 for table in rows.values())


def test_equal_prompts_are_rows_of_their_own(make_policy, tokenizer):
    policy, records = Policy(make_policy(0, context=128), tokenizer), TASKS["arithmetic"].records("test", 1, 0) * 2
    found = questions.measure_model(policy, policy, "arithmetic", {"reworded": records}, 2, 0, 0)
    assert len(found["reworded"]["reward"]) == 2


def test_diversity_is_taken_of_equally_many_samples(make_policy, tokenizer):
    """best-of-n draws 6 of one model; of these, diversity and KL look at the first 3, and the reward at all."""
    policy, other = (Policy(make_policy(seed, context=128), tokenizer) for seed in (0, 1))
    sets = {"test": reviews.records("test", 2, 0)}
    few, many = (questions.measure_model(policy, other, "reviews", sets, 3, n, 0)["test"] for n in (0, 6))
    assert [n for _, n in few["reward"]] == [3, 3] and [n for _, n in many["reward"]] == [6, 6]
    assert {k for k in many if k.startswith("reward, best")} == {f"reward, best of {n}" for n in (2, 4, 6)}
    of_all = {"reward", "grammatical"}
    assert {k: v for k, v in few.items() if k not in of_all} == {
        k: v for k, v in many.items() if k not in of_all and not k.startswith("reward, best")
    }
    assert few["KL to reference, nats"][0][0] > 0


COMMAND = "study --task arithmetic --seeds 1 --labels 10 40 --base-steps 2 --steps 2 --iterations 1 --batch 4"
COMMAND += " --prompts 3 --samples 2 --width 8 --rows 4 --workers 1 --out"
NAMES = list(arms("arithmetic", [10, 40]))


class Inline(Executor):
    """Runs what it is given at once, in this process."""

    def __init__(self, *_) -> None: ...

    def submit(self, function, /, *arguments) -> Future:
        future: Future = Future()
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)
        return future


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole study of a tiny model, its folder and what it printed."""
    folder, said = tmp_path_factory.mktemp("study"), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
        patch.setattr(runner, "ProcessPoolExecutor", Inline)
        patch.setattr(sys, "argv", [*COMMAND.split(), str(folder)])
        sft_against_rl.main()
    return folder, said.getvalue()


@pytest.fixture
def again(finished, tmp_path, monkeypatch):
    """A copy of its folder, where cells are put back as they were, in no time; and the names of those."""
    folder, ran = shutil.copytree(finished[0], tmp_path / "again"), []

    def run_cell(task, seed, name, options):
        arm = arms(task, [10, 40])[name]
        assert all((folder / task / str(seed) / x / "result.json").exists() for x in (arm.start, arm.match) if x)
        ran.append(name)
        sleep(0.01)  # in which one that did not wait for it would begin
        cell = f"{task}/{seed}/{name}"
        shutil.copytree(finished[0] / cell, folder / cell, dirs_exist_ok=True)

    monkeypatch.setattr(runner, "run_cell", run_cell)
    monkeypatch.setattr(runner, "ProcessPoolExecutor", Inline)
    return folder, ran


def results(folder) -> dict[str, dict]:
    return {name: json.loads((folder / "arithmetic/0" / name / "result.json").read_text()) for name in NAMES}


def options(folder, **changes) -> StudyOptions:
    """Those of the command."""
    return StudyOptions(**{**TINY.__dict__, "out": str(folder), **changes})


def test_the_whole_runs(finished):
    folder, said = finished
    for name, x in results(folder).items():
        assert (folder / "arithmetic/0" / name / "model.safetensors").exists()
        assert not (folder / "arithmetic/0" / name / "train_state.pt").exists()
        assert x["cpu"] > 0 and x["failed"] == "" and set(x["sets"]) == {"test", "held-out range", "reworded", "run"}
    assert said == (folder / "study.md").read_text() + "\n" and "not run" not in said
    assert {p.name for p in folder.glob("*.svg")} == {"study.arithmetic.svg", "study.labels.svg"}


def test_cost_adds_up_from_the_base_model(finished):
    line = results(finished[0])
    run = {name: x["sets"]["run"] for name, x in line.items()}
    total = sum(line[name]["cpu"] for name in ("base", "sft40", "ppo40"))
    assert run["ppo40"]["cpu"] == [[pytest.approx(total), 1]]
    assert run["ppo40"]["trained"] == [[sum(line[name]["tokens"] for name in ("base", "sft40", "ppo40")), 1]]
    assert run["ppo40"]["us a token"] == [[pytest.approx(1e6 * line["ppo40"]["cpu"] / line["ppo40"]["tokens"]), 1]]
    ratio = line["ppo40"]["cpu"] / line["sft40"]["cpu"] * line["sft40"]["steps"]
    assert line["more40"]["steps"] == max(1, round(ratio))


def test_what_is_done_is_not_done_again(again, finished, monkeypatch, capsys):
    folder, ran = again
    monkeypatch.setattr(sys, "argv", [*COMMAND.split(), str(folder)])
    sft_against_rl.main()
    assert capsys.readouterr().out == finished[1] and not ran


def test_arms_without_a_result_are_run(again):
    """Of ppo40 only the checkpoint stands there, as when a kill came; of the last there is nothing."""
    folder, ran = again
    (folder / "arithmetic/0/ppo40/result.json").unlink()
    shutil.rmtree(folder / f"arithmetic/0/{NAMES[-1]}")
    done = runner.run_cells(options(folder))
    assert ran == ["ppo40", NAMES[-1]] and list(done) == [("arithmetic", 0, name) for name in NAMES]


def test_more_seeds_and_tasks_are_added(again, monkeypatch):
    """What another seed wants is run; the settings are those that the folder was begun with."""
    folder, _ = again
    asked = []
    monkeypatch.setattr(runner, "run_cell", lambda *cell: asked.append(cell[:3]) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        runner.run_cells(options(folder, seeds=2, task="arithmetic,reviews", workers=1))
    assert asked == [("reviews", 0, "base")]


def test_other_settings_want_another_folder(again):
    folder, ran = again
    for changed, message in (({"steps": 3}, "steps 2, not 3"), ({"labels": ("10", "50")}, r"labels \[10, 40\], not")):
        with pytest.raises(UserError, match=f"begun with {message}.*; choose another --out"):
            runner.run_cells(options(folder, **changed))
    assert not ran


def test_in_two_processes_each_waits_for_those_it_needs(again, monkeypatch):
    """Here they are threads; `again` checks that what each needs is there."""
    folder, ran = again
    shutil.rmtree(folder / "arithmetic")
    monkeypatch.setattr(runner, "ProcessPoolExecutor", lambda workers, *_: ThreadPoolExecutor(workers))
    assert len(runner.run_cells(options(folder, workers=2))) == len(NAMES) and sorted(ran) == sorted(NAMES)


def test_ctrl_c_leaves_what_is_finished(again, monkeypatch, capsys):
    folder, ran = again
    shutil.rmtree(folder / "arithmetic")
    whole_cell = runner.run_cell

    def interrupted(task, seed, name, options):
        if name == NAMES[3]:
            raise KeyboardInterrupt
        whole_cell(task, seed, name, options)

    monkeypatch.setattr(runner, "run_cell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runner.run_cells(options(folder))
    assert ran == NAMES[:3] and "call the tool again to go on" in capsys.readouterr().out
    monkeypatch.setattr(runner, "run_cell", whole_cell)
    assert len(runner.run_cells(options(folder))) == len(NAMES) and ran == NAMES


def test_a_run_that_diverges_is_judged_as_it_ended(finished, tmp_path, monkeypatch):
    folder = shutil.copytree(finished[0], tmp_path / "again")

    def train(*_):
        raise Diverged("round 1: not finite")

    monkeypatch.setattr(trials, "train", train)
    before = results(folder)["sft40"]
    experiment.run_cell("arithmetic", 0, "ppo40", options(folder))
    line, name = results(folder)["ppo40"], "reference perplexity"
    assert line["failed"] == "round 1: not finite"
    assert line["sets"]["test"][name] == before["sets"]["test"][name]


def test_an_arm_that_is_stopped_is_begun_anew_when_the_tool_is_called_again(tmp_path, monkeypatch):
    """The study has no --resume, of which the loop speaks."""
    def train_base(*arguments):
        raise Interrupted("stopped after step 1; go on with --resume")

    monkeypatch.setattr(experiment, "train_base", train_base)
    with pytest.raises(Interrupted, match="it keeps the runs done and begins this one anew"):
        experiment.run_cell("arithmetic", 0, "base", StudyOptions(out=str(tmp_path)))


@pytest.mark.parametrize("labels", ["", "x", "1", "30000", "10 -5"])
def test_labels_that_are_no_numbers_of_examples_are_refused(labels):
    with pytest.raises(UserError, match="--labels .*: give numbers from 2 to 20000"):
        experiment.label_counts(StudyOptions(labels=tuple(labels.split())))


def test_labels_rise_and_stand_once():
    assert experiment.label_counts(StudyOptions(labels=("30", "4", "30"))) == [4, 30]


@pytest.mark.parametrize("argv, message", [
    ("--width 7", "--width 7: cannot be split among 4 heads"), ("--width 0", "--width 0: must be at least 1"),
    ("--lr -1", "--lr -1.0: must be above 0"), ("--ppo-lr 0", "--ppo-lr 0.0: must be above 0"),
])  # fmt: skip
def test_what_no_model_can_be_trained_with_is_refused_before_the_folder_is_begun(argv, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["study", *argv.split()])
    with pytest.raises(UserError, match=message):
        sft_against_rl.main()
    assert not list(tmp_path.iterdir())


def test_a_task_whose_reward_is_a_label_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["study", "--task", "sentiment"])
    with pytest.raises(UserError, match="sentiment: not one of reviews, arithmetic"):
        sft_against_rl.main()
