"""Numbers that mislead: each test is named for the fault that it keeps out, and tries cases of its kind."""

import dataclasses
import importlib
import json
import os
import shutil
from itertools import product
from math import inf, isnan, nan
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate
from minirlhf.evaluation.alarms import alarms
from minirlhf.evaluation.ask import Policy
from minirlhf.evaluation.collect import collect_items, kl_references, load_models, rl_runs
from minirlhf.evaluation.config import Evaluation
from minirlhf.evaluation.metric import Metric, ratio
from minirlhf.evaluation.optimum import regret_metrics, worth
from minirlhf.evaluation.report import build
from minirlhf.evaluation.table import text_table
from minirlhf.evaluation.verdicts import compare_models
from minirlhf.harness import options
from minirlhf.harness.files import UserError
from minirlhf.html.page import page
from minirlhf.lm import checkpoint
from minirlhf.metrics.agreement import cohen_kappa, krippendorff_alpha
from minirlhf.metrics.bradley_terry import length_controlled, strengths
from minirlhf.metrics.calibration import ece_from_statistics
from minirlhf.metrics.intervals import corpus_interval, t_interval
from minirlhf.metrics.overlap import bleu_from_statistics
from minirlhf.metrics.paired_tests import paired_corpus
from minirlhf.metrics.scores import macro_f1, precision_recall_f1
from minirlhf.metrics.training_runs import crossed_t, independent_t
from minirlhf.rl.options import RewardOptions
from minirlhf.rl.optimum import LEAST, Achieved, share_of

ROOT = Path(__file__).parents[2]

# 1. Worth best-of-n


def two_levels(n: int, right: float, own: float, seed: int) -> tuple:
    """What `worth` takes: n samples of a reference that is right so often, and a policy's mean reward, over 100 units."""
    rng = np.random.default_rng(seed)
    rewards = (rng.random(n) < right).astype(float)
    policy = np.column_stack([rng.binomial(8, own, 100), np.full(100, 8.0)])
    return policy, rewards, np.ones(n), np.arange(n) % 100


@pytest.mark.parametrize("seed, right", list(product(range(3), [0.02, 0.1, 0.4])))
def test_fault_01_worth_best_of_n_has_its_own_size_and_interval_or_none(seed, right):
    """1 − (1 − p)ⁿ = r has the n log(1 − r) / log(1 − p): near it, in the interval, if p is known from 200 samples."""
    many, few = (worth(*two_levels(n, right, 0.6, seed)) for n in (40_000, int(40 / right)))
    true = np.log(0.4) / np.log(1 - right)
    assert many["effective_size"] > LEAST and many["low"] < many["value"] < many["high"]
    assert many["low"] * 0.93 < true < many["high"] * 1.07
    assert few["effective_size"] < LEAST and few | {"effective_size": 0} == {
        "value": None, "low": None, "high": None, "effective_size": 0}  # fmt: skip


def test_the_interval_of_a_worth_covers_it():
    """Of 60 trials 57 are expected; 50 is 4 standard deviations below."""
    true = np.log(0.4) / np.log(0.9)
    found = [worth(*two_levels(4000, 0.1, 0.6, seed)) for seed in range(60)]
    assert sum(x["low"] <= true <= x["high"] for x in found) >= 50


# 2. Several training runs


@pytest.mark.parametrize("runs", [2, 3, 4, 5])
def test_fault_02_few_runs_on_shared_prompts_reject_in_5_percent(runs):
    """At most 5.5 %, here with three standard errors on top, whatever part of the noise is whose; the prompts' alone."""
    rng, trials, n = np.random.default_rng(runs), 500, 30
    for training, prompt, rest in ((0.0, 0.0, 1.0), (0.3, 1.0, 1.0), (1.0, 0.2, 1.0), (0.5, 0.5, 0.1)):
        noise = training * rng.normal(size=(trials, runs, 1)) + prompt * rng.normal(size=(trials, 1, n))
        tables = noise + rest * rng.normal(size=(trials, runs, n))
        missed = np.mean([not low <= 0 <= high for low, high in map(interval_alone, tables)])
        assert missed <= 0.055 + 3 * (0.05 * 0.95 / trials) ** 0.5


def interval_alone(d: np.ndarray) -> tuple[float, float]:
    """That of `crossed_t`, whose p takes longer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("minirlhf.metrics.training_runs.bisect", lambda *_: nan)
        patch.setattr("minirlhf.metrics.training_runs.t_quantile", lambda _, df: T[df])
        return crossed_t(d)[0]


T = {1: 12.7062, 2: 4.30265, 3: 3.18245, 4: 2.77645, 29: 2.04523}  # t .975, as printed in every table


def test_the_half_width_is_that_of_the_formula_worked_by_hand():
    """MS_A 13.5, MS_P 6.5, MS_E 1.5 of 2 runs on 3 prompts: h² 6 = 12.7062² 13.5 + 4.30265² 5; and p where h is |d̄|."""
    (low, high), p = crossed_t(np.array([[1.0, 2, 3], [3, 4, 8]]))
    assert (high - low) / 2 == pytest.approx(((T[1] ** 2 * 13.5 + T[2] ** 2 * 5) / 6) ** 0.5, rel=1e-5)
    assert p > 0.05 and low < 0 < high


# 3. Intervals of no width

CONSTANTS = [0.0, 1 / 6, 0.3, 0.1 + 0.2, 1.0, 7.25, -3.0]


def only(x: dict, low: str = "low", high: str = "high") -> None:
    """Fails for an interval of no width, or of what rounding leaves."""
    if x[low] is not None:
        assert x[high] - x[low] > 1e-9


@pytest.mark.parametrize("a, b, n, direction", list(product(CONSTANTS, CONSTANTS[:5], [7, 29, 84], [0, 1])))
def test_fault_03_no_interval_has_no_width_of_means(a, b, n, direction):
    """Neither of a value nor of a difference; what could be detected is unknown, and a share has its bound."""
    rng = np.random.default_rng(n)
    weights = rng.permutation(n)  # another order of sums
    tables = {m: np.column_stack([np.full(n, x), np.ones(n)])[weights] for m, x in (("ppo", a), ("sft", b))}
    (row,) = compare_models([Metric("x", direction, ratio, tables)], "sft")
    for x in (*row["models"].values(), row["differences"]["ppo"]):
        only(x)
    d = row["differences"]["ppo"]
    assert d["minimum_detectable"] is None and d["prompts_needed"] is None and d["value"] == pytest.approx(a - b)
    if direction and 0 <= a <= 1:
        epsilon = 1 - 0.025 ** (1 / n)
        ends = row["models"]["ppo"]["low"], row["models"]["ppo"]["high"]
        assert ends == pytest.approx((a - epsilon * a, a + epsilon * (1 - a)))
        assert d["low"] <= d["value"] <= d["high"] and d["low"] >= -1 and d["high"] <= 1


def test_the_end_of_84_prompts_that_are_all_wrong_is_4_percent_unless_a_reward_may_be_anything():
    tables = {"m": np.column_stack([np.zeros(84), np.ones(84)])}
    for bounded, high in ((True, 1 - 0.025 ** (1 / 84)), (False, None)):
        (row,) = compare_models([Metric("reward", 1, ratio, tables, bounded=bounded)], "m")
        assert row["models"]["m"]["high"] == pytest.approx(high)


@pytest.mark.parametrize("combine, row", [
    (macro_f1, [1, 0, 1, 0, 1, 0]), (macro_f1, [0, 0, 0, 1, 1, 0]), (bleu_from_statistics, [4, 4, 0, 0, 0, 0, 4, 3, 2, 1]),
    (bleu_from_statistics, [4, 4, 4, 3, 2, 1, 4, 3, 2, 1]), (ece_from_statistics, [0.0, 0.25, 1.0]),
    (lambda s: precision_recall_f1(s)[0][:, 0], [1, 0, 1, 0, 1, 0]),
    (lambda s: precision_recall_f1(s)[1][:, 0], [0, 0, 0, 1, 1, 0]),
    (lambda s: np.exp(s[:, 0] / s[:, 1]), [3.3, 3.0]),
])  # fmt: skip
@pytest.mark.parametrize("n", [2, 10, 40])
@pytest.mark.parametrize("group", ["quality", "calibration"])
def test_no_metric_of_sums_has_an_interval_of_no_width(combine, row, n, group):
    tables = {"a": np.tile(np.array(row, float), (n, 1)), "b": np.tile(np.array(row, float), (n, 1))}
    (found,) = compare_models([Metric("x", 1, combine, tables, group)], "b")
    for x in (*found["models"].values(), found["differences"]["a"]):
        only(x)
    assert found["differences"]["a"]["minimum_detectable"] is None


def test_nor_has_any_other_interval_of_the_package():
    equal, names = np.full(40, 0.3), [str(i) for i in range(40)]
    both = [("a", "b")] * 40
    intervals = [
        t_interval(equal), corpus_interval(np.column_stack([equal, np.ones(40)]), ratio),
        paired_corpus(equal[:, None], equal[:, None] - 0.2, lambda s: s[:, 0]).bootstrap_interval,
        crossed_t(np.full((3, 9), 0.3))[0], crossed_t(np.zeros((3, 9)))[0], independent_t([0.3] * 3)[0],
        crossed_t(np.array([[1.0, -1.0], [-1.0, 1.0]]) + 0.3)[0],  # equal means of runs and of prompts
    ]  # fmt: skip
    measures = [strengths(both, [0.5] * 40, names)["b - a"], length_controlled(range(40), [0.5] * 40, names),
                krippendorff_alpha([[1, 1], [0, 0]] * 9), cohen_kappa([(1, 1), (0, 0)] * 9)]  # fmt: skip
    for low, high in [*intervals, *((m.low, m.high) for m in measures)]:
        assert isnan(low) or high - low > 1e-9
    known = Achieved(0.1)
    known.add(np.full(500, 0.7), np.zeros(500))
    assert known.optimum() == {"effective_size": pytest.approx(500), "value": pytest.approx(0.7), "low": None, "high": None}


def test_the_kl_of_the_reference_to_itself_is_0_by_definition_and_keeps_its_interval(make_evaluation):
    run, sets = make_evaluation([{"prompt": f"p{i}"} for i in range(9)], lambda m, i, k: m[0] * (i + k + 2))
    rows = {row["metric"]: row["models"] for row in build(run, sets, ["kl", "estimates"])["tasks"]["made"]["metrics"]}
    for name in ("KL to reference, nats", "KL by k1, nats", "KL by k3, nats"):
        assert rows[name]["sft"] == {"value": 0, "low": 0, "high": 0}
        assert rows[name]["ppo"]["high"] > rows[name]["ppo"]["low"]


# 4. One rule


@pytest.mark.parametrize("seed", range(4))
def test_fault_04_a_row_says_which_rule_decided_and_goes_by_it(seed, make_evaluation):
    """In report.json, the table and the page; also where the interval leaves out 0 and p does not agree."""
    rng = np.random.default_rng(seed)
    better = rng.integers(0, 3, 60)
    records = [{"prompt": f"p{i}"} for i in range(60)]
    run, sets = make_evaluation(records, lambda m, i, k: "x" * (3 + (m == "ppo") * int(better[i] == 1) - i % 2))
    report = build(run, sets)
    rows = report["tasks"]["made"]["metrics"]
    lines = text_table("made", rows, list(report["models"]), "sft").splitlines()
    assert lines[0].endswith(" by verdict")
    for row, line in zip(rows, lines[2:]):
        for model, d in row["differences"].items():
            assert d["decided_by"] == ("p_holm" if row["primary"] else "p")
            p = d[d["decided_by"]]
            shown = d["verdict"] not in ("undefined", "no difference shown")
            assert (p is not None and p <= 0.05 and d["value"] != 0) == shown
        rule = {"p": " p  ", "p_holm": " H  "}[row["differences"]["ppo"]["decided_by"]]
        assert rule + row["differences"]["ppo"]["verdict"].replace("no difference", "not") in line
    html = page(report)
    assert "</span><small>by Holm’s p&nbsp;" in html and "</span><small>by p&nbsp;" in html


def test_a_quantity_of_a_figure_has_no_interval_beside_that_of_the_table(make_evaluation):
    """The calibration error in a caption is the table's, and has no bootstrap of its own."""
    run, sets = make_evaluation([{"prompt": f"p{i}", "response": "yes"} for i in range(40)], lambda m, i, k: "yes")
    task = build(run, sets)["tasks"]["made"]
    (row,) = [row for row in task["metrics"] if row["metric"] == "calibration error"]
    for model, panel in task["calibration"].items():
        assert panel["ece"] == pytest.approx(row["models"][model]["value"])
        assert panel.keys() == {"ece", "expected", "n", "bins"}


# 5. References


def hashes(**trained: str | None) -> tuple[dict, dict]:
    """(run.json, weights) of models that are named as their weights, from what each was trained against."""
    return {m: {"reference": x} if x else {} for m, x in trained.items()}, {m: m for m in trained}


@pytest.mark.parametrize("case, given, against, wanted", [
    (dict(base=None, sft=None, ppo="sft"), "", "sft", dict(base="sft", sft="sft", ppo="sft")),
    (dict(sft=None, ppo="sft", grpo="sft"), "", "ppo", dict(sft="sft", ppo="sft", grpo="sft")),
    (dict(ppo="gone", grpo="gone"), "", "ppo", dict(ppo="ppo", grpo="ppo")),
    (dict(one=None, two=None, a="one", b="two"), "", "one", dict(one="two", two="two", a="one", b="two")),
    (dict(sft=None, ppo="sft", more="ppo"), "", "sft", dict(sft="ppo", ppo="ppo", more="ppo")),
    (dict(base=None, sft=None, ppo="sft"), "base", "sft", dict(base="base", sft="base", ppo="base")),
], ids=["usual", "two policies", "not there", "two starts", "in a row", "given"])  # fmt: skip
def test_fault_05_kl_is_to_what_a_policy_was_trained_against_whatever_it_is_compared_with(case, given, against, wanted):
    """By fingerprint among the models, or given; and where the two differ, or it is not there, an alarm says so."""
    runs, weights = hashes(**case)
    assert kl_references(given, against, runs, weights) == wanted
    models = {m: {"sha256": m, "reference": wanted[m], "trained_against": case[m]} for m in case}
    rung = {alarm["what"].split(":")[0] for alarm in alarms(models, {}, (), against)}
    expected = {"other reference" for m, x in case.items() if x and x != wanted[m]}
    expected |= {"two yardsticks" for m, x in case.items() if x and x == wanted[m] and against not in (m, x)}
    assert rung == expected


@pytest.fixture
def folder(tmp_path, monkeypatch, make_policy, tokenizer):
    """A function that saves a checkpoint of its own weights in out/NAME, trained against those of out/START."""
    monkeypatch.chdir(tmp_path)
    weights = {}

    def save(name: str, stage: str, start: str = "", age: int = 0) -> None:
        model = make_policy(len(weights), context=128)
        weights[name] = checkpoint.fingerprint(model)
        run = {"stage": stage, "seed": 0} | ({"reference": weights[start]} if start else {})
        run |= {"training": {"beta": 0.5}} if start else {}
        checkpoint.save(f"out/{name}", model, tokenizer, run)
        os.utime(f"out/{name}/config.json", (1e9 - age, 1e9 - age))

    return save


def test_j_and_share_are_to_the_start_of_both_policies_whichever_they_are_compared_with(folder, tmp_path, run_main):
    """The numbers of GRPO are the same, its difference is to PPO."""
    for name, start in (("sft", ""), ("ppo", "sft"), ("grpo", "sft")):
        folder(name, name, start)
    (tmp_path / "mine.py").write_text("def length(prompt, response, record): return len(response) / 10\n")
    (tmp_path / "own.jsonl").write_text("".join(f'{{"prompt": "p{i}"}}\n' for i in range(6)))
    reports = {}
    for against in ("sft", "ppo"):
        argv = "--models sft=out/sft ppo=out/ppo grpo=out/grpo --data own.jsonl --reward mine.py:length --max-new 6".split()
        status, out, err = run_main(evaluate.main, "evaluate.py", *argv, "--against", against, "--out", against)
        assert status == 0 and ("ALARM two yardsticks" in out) == (against == "ppo"), err
        reports[against] = json.loads((tmp_path / against / "report.json").read_text("utf-8"))
    first, second = (r["tasks"]["data"]["metrics"] for r in reports.values())
    assert [row["models"] for row in first] == [row["models"] for row in second]
    assert [list(rows[0]["differences"]) for rows in (first, second)] == [["ppo", "grpo"], ["sft", "grpo"]]
    assert all(r["reference"] == "sft" for r in reports.values())
    (kl,) = [row for row in second if row["metric"].startswith("KL to")]
    assert kl["models"]["sft"]["value"] == 0 and kl["models"]["ppo"]["value"] > 0


def test_without_models_the_rl_that_began_at_the_sft_model_is_taken_and_the_rest_is_named(folder, tmp_path, capsys):
    """All of it, the newest last, so that this is compared; SFT trained anew leaves the old PPO out."""
    for name, stage, start, age in (("sft", "sft", "", 0), ("ppo", "ppo", "sft", 5), ("old", "rloo", "sft", 9),
                                    ("dpo", "dpo", "sft", 1), ("rm", "reward", "", 1)):  # fmt: skip
        folder(name, stage, start, age)
    (tmp_path / "out/ppo/adapter_config.json").write_text("{}")  # a folder with both is one model
    assert rl_runs("out/sft") == ["out/old", "out/ppo"]
    (tmp_path / "out/ppo/adapter_config.json").unlink()
    run = json.loads((tmp_path / "out/ppo/run.json").read_text())
    shutil.copytree(tmp_path / "out/ppo", tmp_path / "out/p50")
    (tmp_path / "out/p50/run.json").write_text(json.dumps(run | {"pruned": 0.5}))  # a copy is no run
    models, _, folders = load_models(Evaluation(), torch.device("cpu"))
    assert list(models) == ["sft", "old", "ppo"] and "sft=out/sft old=out/old ppo=out/ppo" in capsys.readouterr().out
    folder("sft", "sft")  # trained anew
    assert rl_runs("out/sft") == [] and "out/ppo is left out" in capsys.readouterr().out
    assert list(load_models(Evaluation(), torch.device("cpu"))[0]) == ["sft"]


def test_an_unknown_name_is_refused_for_either(make_policy, tokenizer):
    models = {"a": Policy(make_policy(0, context=64), tokenizer)}
    for option in ("against", "reference"):
        with pytest.raises(UserError, match="not one of a"):
            collect_items(Evaluation(**{option: "b"}), RewardOptions(), 0, models, {"a": {}}, {"a": "a"})


# 6. Options


class Read(Exception):
    """The classes of a script's options."""


def parsers() -> dict[str, tuple]:
    """script or tool -> (module, classes of options, fields that are none there)."""
    found = {}
    for path in [*ROOT.glob("*.py"), *ROOT.glob("minirlhf/tools/*.py")]:
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))

        def parse(description: str, *classes: type, without: tuple[str, ...] = ()) -> None:
            raise Read(classes, without)

        if hasattr(module, "main") and hasattr(module, "parse"):
            with pytest.MonkeyPatch.context() as patch, pytest.raises(Read) as read:
                patch.setattr(module, "parse", parse)
                module.main()
            found[path.stem] = read.value.args
    return found


SCRIPTS = parsers()


def fields_of(script: str) -> dict[str, dataclasses.Field]:
    classes, without = SCRIPTS[script]
    return {f.name: f for cls in classes for f in dataclasses.fields(cls) if f.name not in without}


def flag(name: str) -> str:
    return "--" + name.rstrip("_").replace("_", "-")


def words(f: dataclasses.Field, value: str = "") -> list[str]:
    """The option as it is typed, with a value that its limits allow, and none that stands for nothing."""
    kind, limits = f.type, f.metadata
    if kind is bool:
        return [flag(f.name)]
    if not value and kind in (int, float):
        value = str(kind(max(limits["least"], 1) if limits["most"] >= 1 else limits["most"]))
        value = str(kind(min(float(value), limits["most"])) or 1)
    value = value or (next(iter(limits["choices"])) if limits["choices"] else "x")
    return [value] if limits.get("bare") else [flag(f.name), value]


def run(script: str, argv: list[str]) -> str:
    """The error line, or ""."""
    classes, without = SCRIPTS[script]
    try:
        options.parse("", *classes, argv=argv, without=without)
    except UserError as error:
        return str(error)
    return ""


def conflicts() -> list[tuple[str, str, list[str]]]:
    """(script, option, what stands beside it) for everything that a field declares to be idle."""
    found = []
    for script in SCRIPTS:
        fields = fields_of(script)
        for name, f in fields.items():
            for other, g in fields.items():
                if "only" in g.metadata and name not in (other, *g.metadata["only"].split()):
                    found.append((script, name, words(g)))
            for need in f.metadata.get("needs", "").split():
                if need.startswith("-") and need[1:] in fields:
                    found.append((script, name, words(fields[need[1:]])))
    return found


CONFLICTS = conflicts()
ALGORITHMS = {  # the options of RL that act under each, of those that some ignore
    "ppo": "gamma lam clip clip_high value_clip value_coefficient", "reinforce": "gamma lam",
    "reinforce-baseline": "gamma lam value_clip value_coefficient", "a2c": "gamma lam value_clip value_coefficient",
    "rloo": "", "grpo": "clip clip_high", "dr-grpo": "clip clip_high", "dapo": "clip clip_high",
}  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
def test_fault_06_an_option_that_cannot_act_is_refused_in_every_script(script):
    """Each that is declared, beside each that makes it idle; in one line, which names both."""
    wanted = [x for f in fields_of(script).values() if f.metadata.get("bare") and f.type is not str for x in words(f)]
    for _, name, beside in [x for x in CONFLICTS if x[0] == script]:
        said = run(script, [*wanted, *words(fields_of(script)[name]), *beside])
        shown = name if fields_of(script)[name].metadata.get("bare") else flag(name)
        assert said.startswith(f"{shown} can do nothing ") and "\n" not in said, (name, beside, said)
    for name in fields_of(script):  # what is declared names options that there are
        f = fields_of(script)[name].metadata
        everywhere = {other for s in SCRIPTS for other in fields_of(s)} | {"algorithm"}
        named = [need.lstrip("-").partition("=")[0].partition(".")[0] for part in f.get("needs", "").split()
                 for need in part.split("|")]  # fmt: skip
        assert {*named, *f.get("only", "").split()} <= everywhere


@pytest.mark.parametrize("algo, name", list(product(ALGORITHMS, ALGORITHMS["ppo"].split())))
def test_an_option_of_rl_acts_under_some_algorithms_and_is_refused_under_the_others(algo, name):
    said = run("train_ppo", ["--algo", algo, *words(fields_of("train_ppo")[name], "0.9")])
    assert (said == "") == (name in ALGORITHMS[algo].split()), said
    assert not said or said.startswith(f"{flag(name)} can do nothing where --")


@pytest.mark.parametrize("script, argv, refused", [
    ("evaluate", "--from x --reference sft", True), ("evaluate", "--from x --metrics all --show 0 --out y", False),
    ("evaluate", "--reports a b --models a=b", True), ("evaluate", "--reports a b --seed 3", True),
    ("evaluate", "--reports a b --task reviews", True), ("evaluate", "--from x --out y --task reviews", True),
    ("evaluate", "--data d --prompts 5", True), ("evaluate", "--data d --max-new 5 --seed 1", False),
    ("evaluate", "--max-new 5", True), ("evaluate", "--prompt x --max-new 5", False),
    ("evaluate", "--data d --beta 0.1", True), ("evaluate", "--data d --beta 0.1 --reward r", False),
    ("evaluate", "--text t --stride 3 --models a=b", False), ("evaluate", "--stride 3", True),
    ("evaluate", "--text t --prompt p", True), ("train_sft", "--data d --task reviews", True),
    ("train_sft", "--init i --layers 3", True), ("train_sft", "--init i --steps 3 --lr 1e-4", False),
    ("train_sft", "--base-steps 0 --base-lr 1", True), ("train_ppo", "--prompts p --task reviews", True),
    ("train_ppo", "--algo grpo --gamma 0.9", True), ("train_ppo", "--algo grpo --baseline value --gamma 0.9", False),
    ("train_ppo", "--baseline group --group 4 --lam 0.9", True), ("train_ppo", "--gamma 0 --lam 0.9", True),
    ("train_ppo", "--kl-horizon 99", True), ("train_ppo", "--kl-horizon 99 --kl-target 2", False),
    ("train_ppo", "--algo rloo --ratio clipped --clip 0.1", False), ("train_ppo", "--kl k2 --beta 0", True),
    ("annotate", "close --annotator ada", True), ("annotate", "make --seed 3 --pairs 4", False),
    ("annotate", "judge --pairs 4", True), ("annotate", "close --early", False), ("doctor", "--explain --dtype float32", True),
    ("judgements", "--items i", True), ("judgements", "--items i --gold reviews", False),
    ("evaluate", "--reports a b --against c", False), ("compare_algorithms", "--prompts p --task reviews", True),
    ("compare_algorithms", "--seed 1", True), ("make_preferences", "--dtype float32", True),
], ids=str)  # fmt: skip
def test_what_is_refused_and_what_is_not(script, argv, refused):
    assert bool(run(script, argv.split())) == refused


def test_an_option_of_a_config_file_counts_as_given(tmp_path):
    (tmp_path / "c.json").write_text('{"gamma": 0.9, "algo": "rloo"}')
    argv = ["--config", str(tmp_path / "c.json")]
    assert run("train_ppo", argv).startswith("--gamma can do nothing where --baseline is leave_one_out")
    assert run("train_ppo", [*argv, "--algo", "ppo"]) == ""


# 7. The share


@pytest.mark.parametrize("seed", range(20))
def test_fault_07_no_share_is_said_of_what_leaves_nothing_to_gain(seed):
    """Of rewards all alike, or alike but for less than a tenth of a nat costs; else it is a number, in log and report."""
    rng = np.random.default_rng(seed)
    beta, level, n = float(rng.uniform(0.01, 1)), float(rng.normal()), 900
    for spread in (0.0, 1e-9, 0.02 * beta, 5 * beta):
        achieved = Achieved(beta)
        rounds = [level + spread * rng.integers(0, 2, n) for _ in range(2)]
        said = [achieved.add(r, rng.normal(0, 0.01, n)) for r in rounds][-1]
        assert said["effective_size"] >= LEAST and (said["share"] is None) == (spread < beta)
        assert said["share"] is None or abs(said["share"]) < 10
    assert isnan(share_of(0.1, 0.5, 0.5, beta)) and share_of(1.0, 0.0, 2.0, 0.1) == 0.5
    assert isnan(share_of(-9.0, 0.5, 0.4, beta)) and share_of(-inf, 0.0, 1.0, 0.1) == -inf


def test_the_report_has_no_share_there_either():
    rows = {m: [{"index": i % 40, "tokens": 1, "kl": k, "log_ratio": 0.0, "scores": {"reward": 0.5 + 1e-6 * (i % 2)}}
                for i in range(400)] for m, k in (("ref", 0.0), ("pi", 3.0))}  # fmt: skip
    metrics, _ = regret_metrics(rows, "ref", "pi", 0.1, np.arange(40))
    (row,) = [row for row in compare_models(metrics, "ref") if row["metric"].startswith("share")]
    assert row["models"]["pi"] == {"value": None, "low": None, "high": None}
