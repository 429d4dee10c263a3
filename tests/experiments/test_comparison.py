"""The comparison of algorithms: what a row is, fair and resumable runs, one optimum, and paired tables."""

import re
from math import exp, log
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from minirlhf.evaluation.ask import Policy
from minirlhf.experiments import comparison
from minirlhf.experiments.comparison import (
    CALIBRATION, CHOICES, TUNING_SEED, Contest, config_of, means_of, paired_table, rounds_of, runs_of, start_of, tables,
)
from minirlhf.experiments.config import UNDONE, Comparison
from minirlhf.experiments.trials import Questions, task_items
from minirlhf.harness.files import UserError
from minirlhf.metrics.paired_tests import holm
from minirlhf.metrics.training_runs import crossed_t
from minirlhf.rl.config import ALGORITHMS, PPOConfig
from minirlhf.tasks import arithmetic

BAR = SimpleNamespace(set_postfix_str=lambda name: None, update=lambda: None)


def contest(tmp_path, start=None, reward=None, **options) -> Contest:
    task = Questions("arithmetic", arithmetic.MAX_NEW, reward or arithmetic.reward, arithmetic.records)
    return Contest(task, start, Comparison(out=str(tmp_path), **options), torch.float32)


# rows


def test_every_algorithm_is_a_row_by_default_and_all_rows_differ():
    rows = Comparison().algos
    assert rows == (*ALGORITHMS, *UNDONE)
    assert len({config_of(row, 1e-3, 9, Comparison()).algorithm for row in rows}) == len(rows)


@pytest.mark.parametrize("row, choices", [
    ("grpo", {}), ("grpo:kl_in=reward", {"kl_in": "reward"}), ("grpo:kl-in=reward", {"kl_in": "reward"}),
    ("ppo:whiten=no", {"whiten": False}), ("rloo:whiten=yes", {"whiten": True}),
    ("ppo:lam=0.9,clip=0.1", {"lam": 0.9, "clip": 0.1}), ("ppo:epochs=3,warmup=2", {"epochs": 3, "warmup": 2}),
    ("dr-grpo:group=4,lr=2e-3", {"group": 4, "lr": 2e-3}), ("ppo:beta=0.1", {"beta": 0.1}),
])  # fmt: skip
def test_a_row_is_an_algorithm_with_some_choices_replaced_and_all_else_alike(row, choices):
    alike = {"iterations": 9, "batch": 24, "lr": 1e-3, "beta": 0.5, "minibatches": 4, "warmup": 1, "save_every": 9}
    found = config_of(row, 1e-3, 9, Comparison(batch=24, beta=0.5, iterations=77))
    assert found == PPOConfig(**{"algo": row.partition(":")[0]} | alike | choices)


@pytest.mark.parametrize("row, message", [
    ("sarsa", "sarsa: not one of ppo"), ("ppo:kl_im=loss", "no choice 'kl_im'; there are epochs"),
    ("ppo:iterations=3", "no choice 'iterations'"), ("ppo:config=c.json", "no choice 'config'"),
    ("ppo:help=yes", "no choice 'help'"), ("ppo:", "no choice ''"), ("ppo:lam=x", "lam: invalid float value: 'x'"),
    ("ppo:lam", "lam: invalid float"), ("ppo:epochs=1.5", "epochs: invalid int"), ("ppo:whiten=3", "whiten.*'3'"),
    ("ppo:lam=yes", "lam: expected one argument"), ("ppo:lam=2", "lam 2.0: must be at most 1"),
    ("grpo:lam=0.9", "lam can do nothing where --baseline is group_std"), ("grpo:kl=k1", "kl k1 in the loss"),
    ("grpo:group=256", "batch 128: less than a group of 256"),
])  # fmt: skip
def test_a_row_that_is_none_is_refused_by_its_name(row, message):
    with pytest.raises(UserError, match=f"^--algos {row}: .*{message}"):
        config_of(row, 1e-3, 9, Comparison())


def test_a_row_chooses_all_but_what_makes_runs_unequal():
    assert {"kl_in", "whiten", "lam", "clip", "group", "epochs", "minibatches", "lr"} <= set(CHOICES)
    assert not {"iterations", "batch", "max_new"} & set(CHOICES)


# runs


@pytest.fixture
def ran(monkeypatch) -> list[tuple[str, float, int, int]]:
    """(algorithm, lr, seed, rounds) of each training; the lower rate is better in tuning, and worse after it."""
    calls = []

    def optimise(policy, task, reward_of, config, seed, dtype):
        calls.append((config.algo, config.lr, seed, config.iterations))
        return {"cpu": 1.0, "log": [{"cpu": x} for x in (9, 10, 10.5, 11, 11.5, 15)]}

    def judge(self, policy, samples, split="test"):
        _, lr, seed, _ = calls[-1]
        assert split == ("train" if seed == TUNING_SEED else "test")
        return [], {"reward": [-lr if seed == TUNING_SEED else lr], "kl": [0.0]}

    monkeypatch.setattr(comparison, "optimise", optimise)
    monkeypatch.setattr(Contest, "judge", judge)
    return calls


START = Policy(torch.nn.Linear(1, 1), None)


def test_the_rate_is_chosen_on_a_seed_and_on_prompts_that_are_not_reported(ran, tmp_path):
    """The best of the tuning runs on prompts of training, not the best of the runs in the table."""
    runs = runs_of("ppo", [1e-3, 1e-4], contest(tmp_path, START, seeds=2), BAR)
    assert [x[1:3] for x in ran] == [(1e-3, TUNING_SEED), (1e-4, TUNING_SEED), (1e-4, 0), (1e-4, 1)]
    assert [x["lr"] for x in runs] == [1e-4, 1e-4]
    assert len(list((tmp_path / "arithmetic").glob("*, tuning.json"))) == 2  # an older version's `seed 1000` is not read


def test_a_run_is_judged_on_prompts_of_the_split_that_is_asked_for(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(comparison, "task_items", lambda *words, split: asked.append((words[3:], split)) or [])
    here = contest(tmp_path, START, held_out=3)
    for split in ("test", "train"):
        here.judge(START, 2, split)
    assert asked == [((3, 2), "test"), ((3, 2), "train")]


@pytest.mark.parametrize("row, rates", [("ppo", [1e-3]), ("ppo:lr=1e-3", [1e-2, 1e-4])])
def test_one_rate_is_not_tuned(row, rates, ran, tmp_path):
    runs_of(row, rates, contest(tmp_path, START, seeds=2), BAR)
    assert [x[1:3] for x in ran] == [(1e-3, 0), (1e-3, 1)]


def test_what_is_done_is_not_done_again(ran, tmp_path):
    """More rates and more seeds make what is missing; every row has runs of its own."""
    runs_of("ppo", [1e-3], contest(tmp_path, START, seeds=2), BAR)
    runs_of("ppo", [1e-3], contest(tmp_path, START, seeds=2), BAR)
    assert len(ran) == 2
    runs_of("ppo", [1e-3], contest(tmp_path, START, seeds=3), BAR)
    assert [x[2] for x in ran] == [0, 1, 2]
    runs_of("ppo:whiten=no", [1e-3], contest(tmp_path, START, seeds=1), BAR)
    assert len(ran) == 4 and (tmp_path / "arithmetic/ppo whiten=no, lr 0.001, seed 0.json").exists()


def test_cpu_seconds_become_rounds_by_the_median_cost_of_the_first_and_all_seeds_have_as_many(ran, tmp_path):
    """Half a second per round, though the first took 1 and the last 3.5; a critic's start costs one; kept."""
    assert rounds_of("grpo", 1e-3, contest(tmp_path, START, cpu_seconds=10.2)) == 20
    assert ran == [("grpo", 1e-3, TUNING_SEED, CALIBRATION + 1)]
    assert rounds_of("ppo", 1e-3, contest(tmp_path, START, cpu_seconds=10.2)) == 19
    assert rounds_of("grpo", 1e-3, contest(tmp_path, START, cpu_seconds=0.1)) == 1 and len(ran) == 2
    runs_of("grpo", [1e-3], contest(tmp_path, START, cpu_seconds=10.2, seeds=2), BAR)
    assert ran[2:] == [("grpo", 1e-3, 0, 20), ("grpo", 1e-3, 1, 20)]
    assert rounds_of("grpo", 1e-3, contest(tmp_path, START, iterations=7)) == 7


def test_a_run_keeps_what_it_reached_on_each_prompt(make_policy, tokenizer, tmp_path, monkeypatch):
    """Of two sampled answers to each of 30; the policy that is judged is the one that was trained."""
    def optimise(policy, *_):
        policy.model.load_state_dict(make_policy(1, context=64).state_dict())
        return {"cpu": 3.0, "log": []}

    monkeypatch.setattr(comparison, "optimise", optimise)
    start = Policy(make_policy(0, context=64), tokenizer)
    here = contest(tmp_path, start, lambda p, r, x: float(len(r)), held_out=30, samples=2, seeds=1)
    (run,) = runs_of("rloo", [1e-3], here, BAR)
    items = task_items(Policy(make_policy(1, context=64), tokenizer), start, here.task, 30, 2)
    for name, column in (("reward", [x["scores"]["reward"] for x in items]), ("kl", [x["kl"] for x in items])):
        assert run["means"][name] == pytest.approx(np.reshape(column, (30, 2)).mean(1).tolist())
    assert sum(run["means"]["kl"]) > 1 and (run["cpu"], run["log"], run["lr"]) == (3.0, [], 1e-3)
    J = means_of(run, 0.5)["J"]
    assert J.tolist() == pytest.approx([r - 0.5 * k for r, k in zip(run["means"]["reward"], run["means"]["kl"])])


# the optimum


def test_the_optimum_is_that_of_samples_of_the_start(make_policy, tokenizer, tmp_path):
    """Of rewards 1 and 0: J_ref is the share p of ones, J* = β log(1 − p + p exp(1 / β))."""
    start = Policy(make_policy(0, context=64), tokenizer)
    sizes = {"held_out": 10, "reference_samples": 80, "beta": 0.5}
    known = start_of(contest(tmp_path, start, lambda p, r, x: float(len(r) > 2), **sizes))
    p = float(np.mean(known["means"]["reward"]))
    assert 0 < p < 1 and p * 800 == pytest.approx(round(p * 800)) and len(known["means"]["reward"]) == 10
    best = 0.5 * log(1 - p + p * exp(2))
    assert known["room"] == pytest.approx(best - p) and known["known"].startswith(f"J* = {best:.3f} on ")


@pytest.mark.parametrize("reward, beta, said", [
    (lambda p, r, x: float(len(r)), 0.01, r"J\* is not known: it rests on \d+ effective samples, fewer than 200"),
    (lambda p, r, x: float(len(r)), 0.0, r"J\* is not known: there is none without a beta"),
    (lambda p, r, x: 0.0, 0.5, r"J\* = 0.000 on 800 effective samples, no more than the start has"),
], ids=["few samples", "no beta", "nothing to gain"])  # fmt: skip
def test_where_there_is_no_share_of_the_optimum_it_is_said_why(reward, beta, said, make_policy, tokenizer, tmp_path):
    start, sizes = Policy(make_policy(0, context=64), tokenizer), {"held_out": 10, "reference_samples": 80}
    known = start_of(contest(tmp_path, start, reward, beta=beta, **sizes))
    assert known["room"] is None and re.match(said, known["known"])


# tables


def run_of(reward: float, kl: float = 1.0, seed: int = 0, n: int = 40, **more) -> dict:
    rng = np.random.default_rng(seed)
    means = {"reward": (reward + 0.1 * rng.normal(size=n)).tolist(), "kl": (kl + 0.1 * rng.normal(size=n)).tolist()}
    return {"lr": 1e-3, "rounds": 9, "cpu": 2.5, "means": means} | more


def rows_of(text: str) -> dict[str, list[str]]:
    """First cell -> the others, of all tables."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {name: cells for name, *cells in lines}


@pytest.fixture
def table(tmp_path):
    def table(found: dict, room: float | None, against: str, **options):
        start = run_of(0.2, 0.0, 99) | {"room": room, "known": "what is known of J*"}
        start["means"]["kl"] = [0.0] * 40
        here = contest(tmp_path, beta=0.1, seeds=len(next(iter(found.values()))), **options)
        return *tables(found, start, here, against), means_of(start, 0.1)

    return table


def test_the_table_shows_mean_spread_and_share_the_best_first_and_the_start_last(table):
    found = {"ppo": [run_of(0.5, 1, 1), run_of(0.6, 1, 2)], "grpo": [run_of(0.8, 1, 3), run_of(0.9, 1, 4)]}
    text, shares, start = table(found, 1.2, "ppo")
    rows = rows_of(text)
    assert list(rows)[:5] == ["row", "---", "grpo", "ppo", "SFT"]
    means = [means_of(run, 0.1) for run in found["grpo"]]
    J = [x["J"].mean() for x in means]
    assert shares["grpo"] == pytest.approx([(x - start["J"].mean()) / 1.2 for x in J])
    share, reward, kl, objective, *rest = rows["grpo"]
    assert objective == f"{np.mean(J):.3f} ±{np.std(J, ddof=1):.3f}" and rest == ["0.001", "9", "2.5 ±0.0"]
    assert share == f"{np.mean(shares['grpo']):.3f} ±{np.std(shares['grpo'], ddof=1):.3f}"
    assert reward.startswith(f"{np.mean([x['reward'].mean() for x in means]):.3f} ±")
    assert kl.startswith(f"{np.mean([x['kl'].mean() for x in means]):.2f} ±")
    assert rows["SFT"] == ["0.000", f"{start['reward'].mean():.3f}", "0.00", f"{start['J'].mean():.3f}", "", "", ""]


def test_without_an_optimum_the_column_is_dropped_and_the_rest_stays(table):
    found = {"ppo": [run_of(0.5, 1, s) for s in (1, 2)], "grpo": [run_of(0.8, 1, s) for s in (3, 4)]}
    text, shares, _ = table(found, None, "ppo")
    assert shares == {} and "share" not in text and "; what is known of J*\n" in text
    assert rows_of(text)["row"] == ["reward", "KL, nats", "J", "lr", "rounds", "CPU s"] and "grpo − ppo" in text


def test_a_difference_has_the_crossed_interval_over_runs_and_prompts_and_holms_verdict(table):
    """Of three rows against the chosen one and against the start; of KL no way is better."""
    found = {name: [run_of(r, k, seed + s) for s in range(3)]
             for name, r, k, seed in (("a", 0.5, 1, 10), ("b", 0.53, 3, 20), ("c", 0.9, 2, 30))}  # fmt: skip
    text, _, start = table(found, None, "a")
    rows, beta = rows_of(text), 0.1
    means = {name: [means_of(run, beta) for run in runs] for name, runs in found.items()}
    assert [name for name in rows if "−" in name] == ["c − SFT", "a − SFT", "b − SFT", "c − a", "b − a"]
    for column, name in enumerate(("reward", "kl", "J")):
        tested = {x: crossed_t(np.stack([m[name] - n[name] for m, n in zip(means[x], means["a"])])) for x in "cb"}
        adjusted = dict(zip("cb", holm([p for _, p in tested.values()])))
        for x, ((low, high), _) in tested.items():
            d = np.mean([m[name] - n[name] for m, n in zip(means[x], means["a"])])
            up = "higher" if name == "kl" else "better"
            word = "not shown" if adjusted[x] > 0.05 else up if d > 0 else "worse"
            assert rows[f"{x} − a"][column] == f"{d:+.3f} [{low:+.3f}, {high:+.3f}] {word}"
    low, high = crossed_t(np.stack([m["reward"] - start["reward"] for m in means["c"]]))[0]
    assert rows["c − SFT"][0].endswith(f"[{low:+.3f}, {high:+.3f}] better")


def test_rows_are_one_family():
    """One p of about .03 in a family of three is no longer a difference, and alone it is."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(8, 30))
    base = [{"reward": x, "kl": x, "J": x} for x in np.zeros((8, 30))]

    def shifted(scale: float) -> list[dict]:
        x = noise - noise.mean() + scale
        return [{"reward": y, "kl": y, "J": y} for y in x]

    scale = next(s for s in np.arange(0.1, 1, 0.01) if crossed_t(np.stack([x["J"] for x in shifted(s)]))[1] < 0.03)
    nothing = [{k: v + n for k, v in x.items()} for x, n in zip(base, 0.5 * rng.normal(size=(8, 30)))]
    alone = rows_of(paired_table({"a": base, "b": shifted(scale)}, base, "a"))
    assert alone["b − a"][2].endswith("better")
    three = rows_of(paired_table({"a": base, "b": shifted(scale), "c": nothing, "d": nothing}, base, "a"))
    assert three["b − a"][2].endswith("not shown")


def test_one_seed_has_no_interval(table):
    text, _, _ = table({"ppo": [run_of(0.5)], "grpo": [run_of(0.8, 1, 3)]}, None, "ppo")
    assert rows_of(text)["grpo − ppo"][0].endswith("undefined") and "[" not in rows_of(text)["grpo − ppo"][0]
