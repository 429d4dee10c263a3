"""Reports together: which of the two is meant, what is paired, the mean of several runs, and what is refused."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from minirlhf.evaluation import items as items_file
from minirlhf.evaluation.items import VERSION, TestSet
from minirlhf.evaluation.reports import (
    are_training_runs, changes, compare_evaluations, compare_training_runs, lines_of_evaluations, lines_of_runs,
    measures, paired_by_seed, print_comparison, read_report,
)
from minirlhf.harness.files import UserError
from minirlhf.metrics.paired_tests import holm, paired_corpus
from minirlhf.metrics.training_runs import crossed_t

PROMPTS = [f"prompt {i}" for i in range(30)]
METRICS = [
    "reward", "reward, greedy", "unparsable",
    "KL to reference, nats", "entropy, nats/answer", "length, tokens", "ended with EOS",
]  # fmt: skip


def value(prompt: str, k: int, salt: int = 0) -> float:
    """A number in [0, 1) that depends on its arguments alone."""
    return float(np.random.default_rng([salt, k + 1, *prompt.encode()]).random())


def answers(prompts=PROMPTS, samples=2, shift=0.0, noise=0, **other) -> list[dict]:
    """A model's greedy and sampled responses; `shift` raises rewards, `noise` changes answers and rewards."""
    out = []
    for i, prompt in enumerate(prompts):
        for k in range(-1, samples):
            x = value(prompt, k)
            out.append({
                "index": i, "sample": k, "prompt": prompt, "response": f"{x:.3f}" + " noise" * bool(noise),
                "reference": "right",
                "stop": "eos", "tokens": 2 + int(10 * x), "ids": [], "kl": x, "k1": x, "k3": x, "entropy": 3 * x,
                "scores": {"reward": x + shift + (noise and value(prompt, k, noise)), "unparsable": 0.0},
            } | other)  # fmt: skip
    return out


def write(folder: Path, sets: dict[str, dict[str, list[dict]]], records=None, **about) -> str:
    """A run of evaluate.py, by the path of its report.json. sets: title -> model -> items."""
    made = []
    for title, items in sets.items():
        asked = {x["index"]: {"prompt": x["prompt"], "response": "right"} for x in next(iter(items.values()))}
        nothing = {"nll": None, "tokens": 0, "bytes": 0, "confidence": [], "correct": []}
        texts = {m: [{"index": i} | nothing for i in asked] for m in items}
        made.append(TestSet(title, records or list(asked.values()), items, texts))
    models = {m: {"sha256": f"{folder.name} {m}", "folder": ""} for of in sets.values() for m in of}
    about = {"settings": {}, "seed": 0, "models": models, "against": next(iter(models))} | about
    about |= {"reference": about["against"]}
    about["models"] = {m: {"reference": about["against"]} | x for m, x in about["models"].items()}
    items_file.write_items(folder / "items.jsonl", about, made)
    (folder / "report.json").write_text(json.dumps({"version": VERSION} | about))
    return str(folder / "report.json")


def of(function, *paths: str) -> dict:
    """What `compare_evaluations` or `compare_training_runs` says of reports."""
    return function(paths, *zip(*map(read_report, paths)))


# which is meant


def about(last="ppo", reference="sft", seed: int | None = 0) -> dict:
    return {"models": {reference: {}, last: {"seed": seed}}, "against": reference}


@pytest.mark.parametrize("abouts, runs, why", [
    ([about(seed=0), about(seed=1)], True, "ppo trained with seeds 0 and 1: training runs"),
    ([about(seed=0), about(seed=0)], False, "ppo trained with seed 0 in both: two evaluations"),
    ([about(seed=0), about(seed=None)], False,
     "not known in both with which seed ppo was trained (evaluate again, and it is): two"),
    ([about(seed=0), about("dpo", seed=1)], False, "not the same last model and reference in both: two"),
    ([about(seed=0), about(reference="base", seed=1)], False, "not the same last model and reference in both: two"),
    ([about("sft", seed=0), about("sft", seed=1)], False, "not the same last model and reference in both: two"),
    ([about(seed=0)] * 3, True, "3 reports, more than two: training runs"),
])  # fmt: skip
def test_the_reports_say_which_is_meant_and_a_line_says_why(abouts, runs, why):
    assert are_training_runs(abouts)[0] is runs and are_training_runs(abouts)[1].startswith(why)


@pytest.mark.parametrize("seeds, function, lines", [
    ((0, 0), compare_evaluations, lines_of_evaluations), ((0, 1), compare_training_runs, lines_of_runs),
])
def test_the_command_prints_why_and_what_was_found(seeds, function, lines, tmp_path, capsys):
    sides = {"sft": answers(), "ppo": answers(shift=1.0)}
    sft = {"sha256": "s", "folder": ""}
    models = [{"sft": sft, "ppo": sft | {"sha256": str(i), "seed": seed}} for i, seed in enumerate(seeds)]
    paths = [write(tmp_path / str(i), {"task": sides}, models=m) for i, m in enumerate(models)]
    print_comparison(paths)
    why, _, rest = capsys.readouterr().out.partition("\n")
    assert why == are_training_runs([{"models": m, "against": "sft"} for m in models])[1]
    assert rest == lines(of(function, *paths)) + "\n"


def test_one_report_is_not_enough(tmp_path):
    with pytest.raises(UserError, match="--reports one/report.json: give the report.json of two evaluations or more"):
        print_comparison(["one/report.json"])


# two evaluations


@pytest.fixture
def compare(tmp_path):
    """A function of two models' items, or of two dicts of sets, that compares two runs of them."""
    def compare(old, new, old_run=None, new_run=None) -> dict:
        sides = [x if isinstance(x, dict) else {"task": {"ppo": x}} for x in (old, new)]
        paths = [write(tmp_path / name, side, **(run or {}))
                 for name, side, run in zip(("old", "new"), sides, (old_run, new_run))]  # fmt: skip
        return of(compare_evaluations, *paths)

    return compare


def metrics(part: dict) -> dict[str, dict]:
    """name -> the difference of new and old, with the value of either."""
    return {row["metric"]: row["differences"]["new"] | {k: m["value"] for k, m in row["models"].items()}
            for row in part["metrics"]}  # fmt: skip


def counts(part: dict) -> dict[str, tuple[int, int]]:
    """Answers paired and changed, by kind."""
    return {kind: (x["paired"], x["changed"]) for kind, x in part["answers"].items()}


def test_a_difference_is_new_minus_old_of_the_means_of_each_prompt(compare):
    old, new = answers(), answers(shift=0.1, noise=1)
    (part,) = compare(old, new)["parts"]
    means = [np.array([np.mean([x["scores"]["reward"] for x in rows if x["index"] == i and x["sample"] >= 0])
                       for i in range(30)]) for rows in (old, new)]  # fmt: skip
    d = paired_corpus(means[1][:, None], means[0][:, None], lambda sums: sums[:, 0] / 30, 0, 2000)
    row = metrics(part)["reward"]
    assert (row["value"], row["p"], row["n"]) == (pytest.approx(d.difference), d.p_value, 30)
    assert (row["low"], row["high"]) == pytest.approx(d.bootstrap_interval)
    assert (row["old"], row["new"]) == pytest.approx([x.mean() for x in means])
    assert row["verdict"] == "better" and row["value"] > 0
    assert list(metrics(part)) == METRICS


def test_greedy_answers_and_samples_are_compared_apart(compare):
    new = answers()
    for x in new:
        x["scores"]["reward"] += 1.0 if x["sample"] < 0 else 0.0
    rows = metrics(compare(answers(), new)["parts"][0])
    assert rows["reward, greedy"]["value"] == pytest.approx(1) and rows["reward"]["value"] == 0


def test_a_run_compared_with_itself_shows_nothing(compare):
    same = {"models": {"ppo": {"sha256": "1", "folder": ""}}}
    c = compare(answers(), answers(), same, same)
    (part,) = c["parts"]
    assert {(x["value"], x["p"], x["verdict"]) for x in metrics(part).values()} == {(0, 1, "no difference shown")}
    assert counts(part) == {"greedy": (30, 0), "sampled": (60, 0)}
    assert c["facts"] == ["ppo: the same weights in both runs"]


def test_items_are_paired_by_prompt_and_not_by_place(compare):
    (part,) = compare(answers(), answers(PROMPTS[::-1]))["parts"]
    assert all(row["value"] == 0 and row["n"] == 30 for row in metrics(part).values())
    assert part["answers"]["sampled"]["changed"] == 0


def test_prompts_of_one_run_alone_are_counted_and_left_out(compare):
    new = answers([*PROMPTS[3:], "a", "b"])
    for x in new:
        x["scores"]["reward"] += 100.0 if x["prompt"] in "ab" else 0.0
    (part,) = compare(answers(), new)["parts"]
    assert part["prompts"] == {"both": 27, "only_old": 3, "only_new": 2}
    assert metrics(part)["reward"]["n"] == 27 and metrics(part)["reward"]["value"] == 0


def test_samples_that_only_one_run_drew_are_left_out(compare):
    (part,) = compare(answers(samples=2), answers(samples=5))["parts"]
    assert counts(part) == {"greedy": (30, 0), "sampled": (60, 0)}
    assert metrics(part)["reward"]["value"] == 0


def test_answers_that_changed_are_counted(compare):
    new = answers()
    for x in new[:7]:  # of prompts 0, 1 and 2: greedy, two samples, greedy, two samples, greedy
        x["response"] = "another"
    (part,) = compare(answers(), new)["parts"]
    assert counts(part) == {"greedy": (30, 3), "sampled": (60, 4)}


def test_records_that_ask_the_same_are_one_unit_and_keep_their_order(compare):
    twice = [*PROMPTS, *PROMPTS]
    (part,) = compare(answers(twice), answers(twice, shift=0.1, noise=1))["parts"]
    assert metrics(part)["reward"]["n"] == 30 and part["prompts"]["both"] == 30
    assert part["answers"]["sampled"]["paired"] == 120


def test_turns_of_a_conversation_are_told_apart_by_what_stands_before_them_and_are_one_unit(compare):
    """Their last words are the same; in the new run the conversations come in another order."""
    def talks(order: list[int]) -> tuple[list[dict], list[dict]]:
        records, items = [], []
        for i in order:
            turns = [{"role": "user", "content": f"I am {i}"}, {"role": "assistant", "content": "hello"}]
            turns += [{"role": "user", "content": "go on"}, {"role": "assistant", "content": "so"}]
            for end in (2, 4):
                said = {"prompt": turns[end - 2]["content"], "response": f"{i} {end}"}
                items += [x | said | {"index": len(records)} for x in answers([f"{i} {end}"])]
                records.append({"messages": turns[:end], "conversation": i})
        return records, items

    (old_records, old), (new_records, new) = talks(list(range(20))), talks(list(range(20))[::-1])
    (part,) = compare(old, new, {"records": old_records}, {"records": new_records})["parts"]
    assert part["prompts"]["both"] == 40 and metrics(part)["reward"]["n"] == 20
    assert metrics(part)["reward"]["value"] == 0 and part["answers"]["sampled"]["changed"] == 0


def test_entropy_and_length_are_those_of_an_answer(compare):
    """Twice as long at the same entropy a token is twice both."""
    new = answers()
    for x in new:
        x["entropy"], x["tokens"] = 2 * x["entropy"], 2 * x["tokens"]
    rows = metrics(compare(answers(), new)["parts"][0])
    assert rows["entropy, nats/answer"]["value"] == pytest.approx(rows["entropy, nats/answer"]["old"])
    assert rows["length, tokens"]["value"] == pytest.approx(rows["length, tokens"]["old"])


def test_verdicts_know_what_is_good(compare):
    new = answers(shift=-0.5)
    for x in new:
        x["scores"]["unparsable"], x["kl"], x["tokens"] = 1.0, x["kl"] + 1, 1
    rows = metrics(compare(answers(), new)["parts"][0])
    assert rows["reward"]["verdict"] == "worse" and rows["unparsable"]["verdict"] == "worse"
    assert rows["KL to reference, nats"]["verdict"] == "higher"
    assert rows["length, tokens"]["verdict"] == "lower"


def test_only_models_of_one_name_in_one_set_are_compared(compare):
    """Wherever they stand in the two runs; sets and models of one run alone are left out."""
    old = {title: {"sft": answers(), "ppo": answers(shift=5.0)} for title in "abc"}
    new = {title: {"dpo": answers(shift=9.0), "sft": answers()} for title in "dba"}
    parts = compare(old, new)["parts"]
    assert [(part["set"], part["model"]) for part in parts] == [("a", "sft"), ("b", "sft")]
    assert all(metrics(part)["reward"]["value"] == 0 for part in parts)


def test_rewards_are_one_family_and_only_they(compare):
    """One p of about 0.03 in a family of three is no longer a difference; that of the KL stands."""
    z = np.array([value(prompt, 0, 7) for prompt in PROMPTS])
    z = 1 + math.sqrt(30) / 2.25 * (z - z.mean()) / z.std(ddof=1)  # a mean 2.25 standard errors above 0
    nudged = answers()
    for x in nudged:
        x["scores"]["reward"] += z[x["index"]]
        x["kl"] += z[x["index"]]
    same = {title: {"ppo": answers()} for title in "abc"}
    parts = compare(same, same | {"a": {"ppo": nudged}})["parts"]
    rewards = [metrics(part)["reward"] for part in parts]
    assert [row["p_holm"] for row in rewards] == pytest.approx(list(holm([row["p"] for row in rewards])))
    assert 0.05 / 3 < rewards[0]["p"] < 0.05 and rewards[0]["verdict"] == "no difference shown"
    rows = metrics(parts[0])
    assert rows["KL to reference, nats"]["verdict"] == "higher" and "p_holm" not in rows["reward, greedy"]


def test_settings_that_differ_are_told_and_folders_are_not(compare):
    settings = [{"max_new": 8, "samples": 2, "out": "a", "models": ["ppo=a"], "show": 2, "from_": ""},
                {"max_new": 9, "samples": 2, "out": "b", "models": ["ppo=b"], "show": 0, "from_": "x"}]
    c = compare(answers(), answers(), *({"settings": s, "seed": seed} for seed, s in enumerate(settings)))
    assert c["facts"] == ["--max-new: 8 in the old run, 9 in the new", "--seed: 0 in the old run, 1 in the new"]


def test_without_rewards_the_rest_is_compared(compare):
    (part,) = compare(answers(scores={}), answers(scores={}))["parts"]
    assert list(metrics(part)) == METRICS[3:]


@pytest.mark.filterwarnings("error")
def test_one_prompt_is_undefined_with_a_reason_and_the_json_is_json(compare):
    c = compare(answers(["one"]), answers(["one"], shift=1.0))
    row = metrics(c["parts"][0])["reward"]
    assert row["verdict"] == "undefined" and "fewer than 2" in row["undefined"] and row["value"] is None
    json.dumps(c, allow_nan=False)
    assert "undefined" in lines_of_evaluations(c)


def test_scores_of_one_run_alone_are_left_out(compare):
    more = answers()
    for x in more:
        x["scores"] = x["scores"] | {"other": 1.0}
    for old, new in ((answers(), more), (more, answers())):
        assert list(metrics(compare(old, new)["parts"][0])) == METRICS


def test_without_a_reward_in_both_there_is_no_j(tmp_path):
    """The old evaluation knew reward and beta, and the new one had no --reward."""
    old, new = (read_report(method(tmp_path / name, "ppo", 0))[1]["task"] for name in ("old", "new"))
    old.about["beta"] = 0.5
    for x in new.items["ppo"]:
        x["scores"] = {}
    assert not any(row["metric"].startswith(("J ", "reward")) for row in changes(old, new, "ppo")["metrics"])


def test_the_table_has_every_figure_within_100_columns(compare):
    c = compare(answers(), answers([*PROMPTS[1:], "new"], shift=0.5))
    text = lines_of_evaluations(c)
    (part,) = c["parts"]
    assert all(len(line) <= 100 for line in text.splitlines())
    for name, row in metrics(part).items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"{name}  ")]
        assert f"{row['old']:.3f}" in line and f"{row['new']:.3f}" in line and f"{row['value']:+.3f}" in line
    assert "task, ppo" in text and "better" in text
    assert "prompts: 29 in both runs, 1 only in the old, 1 only in the new" in text
    assert "changed: 0 of 29 greedy answers, 0 of 58 samples" in text


def test_a_set_without_a_common_prompt_is_named_and_the_others_are_compared(compare):
    old, new = ({"a": {"ppo": answers()}, "b": {"ppo": answers(asked)}} for asked in (PROMPTS, ["x", "y"]))
    c = compare(old, new)
    assert [part["set"] for part in c["parts"]] == ["a"] and c["facts"][-1] == "b: no prompt in common"
    assert "b: no prompt in common" in lines_of_evaluations(c).splitlines()


# refusals


def refused(old: str, new: str) -> str:
    with pytest.raises(UserError) as error:
        of(compare_evaluations, old, new)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("sets, what", [
    ({"other": {"ppo": answers()}}, "no set in common"),
    ({"task": {"dpo": answers()}}, "no model of task in common"),
    ({"task": {"ppo": answers(["x", "y"])}}, "no prompt in common"),
], ids=["set", "model", "prompt"])  # fmt: skip
def test_runs_that_share_nothing_are_refused(tmp_path, sets, what):
    said = refused(write(tmp_path / "old", {"task": {"ppo": answers()}}), write(tmp_path / "new", sets))
    assert what in said and "old/report.json" in said and "new/report.json" in said


@pytest.fixture
def both(tmp_path):
    """Two runs that can be compared."""
    return [write(tmp_path / name, {"task": {"ppo": answers()}}) for name in ("old", "new")]


def test_a_report_of_another_version_is_refused(both):
    for text in ('{"version": 1}', "{}"):
        Path(both[1]).write_text(text)
        assert both[1] in refused(*both) and "version" in refused(*both)


def test_missing_files_are_refused(both):
    items = Path(both[1]).with_name("items.jsonl")
    items.unlink()
    assert str(items) in refused(*both)
    Path(both[0]).unlink()
    assert both[0] in refused(*both)


def test_a_broken_line_is_refused_by_its_number(both):
    items = Path(both[0]).with_name("items.jsonl")
    lines = items.read_text().splitlines()
    lines[41] = lines[41][:-3]
    items.write_text("\n".join(lines))
    assert "line 42" in refused(*both) and str(items) in refused(*both)


@pytest.mark.parametrize("key", ["response", "scores", "tokens", "kl", "entropy"])
def test_a_response_that_lacks_something_is_refused(both, key):
    items = Path(both[0]).with_name("items.jsonl")
    lines = [json.loads(line) for line in items.read_text().splitlines()]
    lines[-1].pop(key)
    items.write_text("\n".join(map(json.dumps, lines)))
    assert f"'{key}' is missing" in refused(*both)


# training runs


def prompts_of(s: int) -> list[str]:
    """Prompts that run s alone is asked."""
    return [f"{prompt} of {s}" for prompt in PROMPTS]


@pytest.fixture
def of_runs(tmp_path):
    """A function of each run's gain, or title -> gains, that compares the runs."""
    def of_runs(*gains, shared=False, noise=True, **more) -> dict:
        paths = []
        for s, gain in enumerate(gains):
            sets = {}
            for title, g in (gain if isinstance(gain, dict) else {"task": gain}).items():
                asked = PROMPTS if shared else prompts_of(s)
                sets[title] = {"sft": answers(asked), "ppo": answers(asked, shift=g, noise=(s + 1) * noise)}
            paths.append(write(tmp_path / str(s), sets, against="sft", **more))
        return of(compare_training_runs, *paths)

    return of_runs


def row(found: dict, metric: str = "reward", title: str = "task") -> dict:
    (part,) = [part for part in found["parts"] if part["set"] == title]
    found = next(row for row in part["metrics"] if row["metric"] == metric)
    return {"by_run": found["by_run"]} | found["differences"]["mean"]


def gain_of(s: int, shift: float) -> np.ndarray:
    """(prompts,) mean reward of ppo less that of sft in run s."""
    a, b = ([np.mean([x["scores"]["reward"] for x in rows if x["index"] == i and x["sample"] >= 0]) for i in range(30)]
            for rows in (answers(prompts_of(s), shift=shift, noise=s + 1), answers(prompts_of(s))))  # fmt: skip
    return np.array(a) - np.array(b)


def test_each_run_shows_its_difference_of_sampled_rewards(of_runs):
    seen = row(of_runs(0.1, 0.2, 0.3))["by_run"]
    assert seen == pytest.approx([gain_of(s, shift).mean() for s, shift in enumerate((0.1, 0.2, 0.3))])


def test_runs_on_prompts_of_their_own_are_independent_draws(of_runs):
    """Gains of exactly 1, 2 and 3: 2 ± 4.302653 / √3, and Student's p with 2 degrees of freedom."""
    seen = row(of_runs(1.0, 2.0, 3.0, noise=False))
    half = 4.302653 / math.sqrt(3)
    assert (seen["value"], seen["low"], seen["high"]) == pytest.approx((2, 2 - half, 2 + half), abs=1e-5)
    t = 2 * math.sqrt(3)
    assert seen["p"] == pytest.approx(1 - t / math.sqrt(t * t + 2))  # the t distribution of 2 degrees, exactly


def test_two_runs_have_a_t_of_12_7(of_runs):
    seen = row(of_runs(1.0, 2.0, noise=False))
    assert seen["high"] - seen["value"] == pytest.approx(12.7062 / 2, abs=1e-4)
    assert seen["p"] == pytest.approx(1 - 2 / math.pi * math.atan(3)) and seen["verdict"] == "no difference shown"


def test_runs_on_the_same_prompts_are_a_sample_of_both(of_runs):
    """What training_runs.crossed_t says of (S, n) differences."""
    gains = (0.1, 0.2, 0.4)
    found = of_runs(*gains, shared=True)
    table = [[[np.mean([x["scores"]["reward"] for x in rows if x["index"] == i and x["sample"] >= 0]) for i in range(30)]
              for rows in (answers(shift=gain, noise=s + 1), answers())] for s, gain in enumerate(gains)]  # fmt: skip
    (low, high), p = crossed_t(np.subtract(*np.array(table).transpose(1, 0, 2)))
    seen = row(found)
    assert found["parts"][0]["shared_prompts"]
    assert (seen["low"], seen["high"], seen["p"]) == pytest.approx((low, high, p))
    assert row(of_runs(*gains))["low"] != pytest.approx(seen["low"])


@pytest.mark.parametrize("shared", [False, True])
def test_runs_that_agree_to_the_bit_say_nothing_of_the_next(shared, of_runs):
    """Two runs of a coarse metric often do, by chance: a t of infinity would call that shown."""
    found = of_runs(0.25, 0.25, noise=False, shared=shared)
    seen = row(found)
    assert seen["value"] == pytest.approx(0.25) and seen["verdict"] == "undefined"
    assert seen["p"] is None and seen["low"] is None
    same = row(found, "unparsable")
    assert (same["value"], same["p"], same["verdict"]) == (0, 1, "no difference shown")


def test_rewards_go_by_holms_p_over_the_sets(of_runs):
    """Of two sets alike, each is shown alone at 5 %, and neither beside the other."""
    gains = (1.0, 1.2, 1.75)
    alone = row(of_runs(*gains, noise=False))
    assert 0.025 < alone["p"] < 0.05 and alone["verdict"] == "better"
    found = of_runs(*({"one": g, "two": g} for g in gains), noise=False)
    seen = [row(found, title=title) for title in ("one", "two")]
    assert [x["p_holm"] for x in seen] == pytest.approx(holm([alone["p"]] * 2).tolist())
    assert {x["verdict"] for x in seen} == {"no difference shown"}


@pytest.mark.parametrize("steps, verdict", [((1, 2, 3), "no difference shown"), ((1.5, 2, 2.5), "higher")])
def test_other_quantities_go_by_their_own_p(steps, verdict, tmp_path):
    """t of 3.46 and 6.93, of which 4.30 is the limit."""
    paths = []
    for s, step in enumerate(steps):
        sets = {"sft": answers(prompts_of(s)), "ppo": answers(prompts_of(s))}
        for x in sets["ppo"]:
            x["kl"] += step
        paths.append(write(tmp_path / str(s), {"task": sets}, against="sft"))
    assert row(of(compare_training_runs, *paths), "KL to reference, nats")["verdict"] == verdict


def test_a_lower_share_of_unparsable_answers_is_better_and_a_lower_kl_is_lower(tmp_path):
    paths = []
    for s in range(3):
        asked = prompts_of(s)
        sets = {"sft": answers(asked), "ppo": answers(asked)}
        for x in sets["ppo"]:
            x["kl"] -= 1 + s / 100
        for x in sets["sft"]:
            x["scores"] = x["scores"] | {"unparsable": 1 - s / 100}
        paths.append(write(tmp_path / str(s), {"task": sets}, against="sft"))
    found = of(compare_training_runs, *paths)
    assert (row(found, "unparsable")["value"], row(found, "unparsable")["verdict"]) == (pytest.approx(-0.99), "better")
    kl = row(found, "KL to reference, nats")
    assert (kl["value"], kl["verdict"]) == (pytest.approx(-1.01), "lower")


def test_only_sets_and_scores_of_all_runs_are_compared(of_runs):
    found = of_runs({"a": 0.1, "b": 0.1}, {"b": 0.2, "c": 0.1})
    assert [part["set"] for part in found["parts"]] == ["b"]


def test_the_table_shows_every_run_and_says_whose_prompts_they_are(of_runs):
    text = lines_of_runs(of_runs(1.0, 2.0, 3.0, noise=False))
    (line,) = [line for line in text.split("\n") if line.startswith("reward  ")]
    assert line.split() == ["reward", "+1.000", "+2.000", "+3.000", "+2.000", "±2.484", "H", "not", "shown"]
    assert "ppo - sft" in text and "3 runs, each on prompts of its own" in text
    assert "each on the same prompts" in lines_of_runs(of_runs(1.0, 2.0, shared=True))


def test_what_are_no_runs_of_one_recipe_is_refused(of_runs, tmp_path):
    of_runs(0.1, 0.2)
    first, second = (str(tmp_path / f"{s}/report.json") for s in (0, 1))
    sides = {"sft": answers(), "ppo": answers()}
    renamed = {"sft": answers(), "dpo": answers()}
    alone = write(tmp_path / "alone", {"task": sides}, against="ppo")
    other = write(tmp_path / "other", {"task": renamed}, against="sft")
    elsewhere = write(tmp_path / "elsewhere", {"else": sides}, against="sft")
    for paths, message in (
        ([first, first], "weights of another of these runs"),
        ([first, other], "dpo - sft, where .* has ppo - sft"), ([alone, alone], "ppo - ppo, .*: evaluate two models"),
        ([first, elsewhere], "no test set is in all"),
        ([first, str(tmp_path / "gone.json")], "gone.json"),
    ):
        with pytest.raises(UserError, match=message) as error:
            of(compare_training_runs, *paths)
        assert "\n" not in str(error.value)
    assert of(compare_training_runs, first, second)["last"] == "ppo"


# one method against another, by seed


def method(folder: Path, name: str, seed: int | None, shift: float = 0.0, prompts=PROMPTS, **more) -> str:
    """An evaluation of a model that was trained with that seed; its noise is the seed's and the method's."""
    noise = sum(name.encode()) + (seed or 0)
    sides = {"sft": answers(prompts), name: answers(prompts, shift=shift, noise=noise)}
    models = {"sft": {"sha256": "s", "folder": ""}, name: {"sha256": f"{name} {seed}", "folder": "", "seed": seed}}
    return write(folder / f"{name}{seed}", {"task": sides}, models=models, **more)


def printed(capsys, *paths: str, against: str) -> list[str]:
    print_comparison(paths, against)
    return capsys.readouterr().out.splitlines()


def test_runs_of_two_methods_are_paired_by_seed_in_whatever_order_they_come(tmp_path, capsys):
    """Mean and interval are those of the differences of equal seeds over runs and prompts."""
    ppo, grpo = [{s: method(tmp_path, name, s, shift) for s in seeds} for name, shift, seeds in (
        ("ppo", 0.5, (4, 5, 6)), ("grpo", 0.0, (6, 5, 4, 7)))]  # fmt: skip
    runs = list(paired_by_seed(*read(*grpo.values(), *ppo.values()), "grpo"))
    assert [x[0] for x in runs] == [[f"{ppo[s]} - {grpo[s]}" for s in (4, 5, 6)]]
    ((paths, abouts, sets),) = runs
    gains = [[np.mean([a["scores"]["reward"] - b["scores"]["reward"] for a, b in zip(s.items["ppo"], s.items["grpo"])
                       if a["index"] == i and a["sample"] >= 0]) for i in range(30)]
             for s in (of_run["task"] for of_run in sets)]  # fmt: skip
    (interval, _), d = crossed_t(np.array(gains)), np.mean(gains)
    row = compare_training_runs(paths, abouts, sets)["parts"][0]["metrics"][0]
    mean = row["differences"]["mean"]
    assert row["metric"] == "reward" and mean["value"] == pytest.approx(d)
    assert (mean["low"], mean["high"]) == pytest.approx(interval) and mean["verdict"] == "better"
    lines = printed(capsys, *grpo.values(), *ppo.values(), against="grpo")
    assert any("ppo - grpo by verdict" in line for line in lines) and any(line.startswith("reward ") for line in lines)


def read(*paths: str) -> tuple:
    return (paths, *zip(*map(read_report, paths)))


def test_several_methods_are_one_family(tmp_path, capsys):
    """Rewards of all of them against the chosen one go by Holm's p together."""
    paths = [method(tmp_path, name, s, shift) for name, shift in (("a", 0.0), ("b", 0.15), ("c", 0.0))
             for s in range(4)]  # fmt: skip
    found = [compare_training_runs(*x) for x in paired_by_seed(*read(*paths), "a")]
    alone = [x["parts"][0]["metrics"][0]["differences"]["mean"] for x in found]
    ps = [x["p"] for x in alone]
    joint = ["better" if p <= 0.05 and d["value"] > 0 else "worse" if p <= 0.05 else "not shown"
             for d, p in zip(alone, holm(ps))]  # fmt: skip
    said = [line.split()[-1] if not line.endswith("shown") else "not shown"
            for line in printed(capsys, *paths, against="a") if line.startswith("reward  ")]  # fmt: skip
    assert [x["last"] for x in found] == ["b", "c"] and said == joint
    assert joint != [x["verdict"].replace("no difference", "not") for x in alone]


def test_j_is_compared_where_the_evaluation_knew_beta(tmp_path):
    """It is reward − β KL; without a beta there is none."""
    report = method(tmp_path, "ppo", 0)
    about, sets = read_report(report)
    known = sets["task"]
    assert not any(m.name.startswith("J ") for m in measures(known))
    known.about["beta"] = 0.5
    found = {m.name: m for m in measures(known)}
    J = [np.mean([x["scores"]["reward"] - 0.5 * x["kl"] for x in known.items["ppo"]
                  if x["index"] == i and x["sample"] >= 0]) for i in range(30)]  # fmt: skip
    statistics = found["J = reward - 0.5 KL"].statistics["ppo"]
    assert (statistics[:, 0] / statistics[:, 1]).tolist() == pytest.approx(J)


@pytest.mark.parametrize("runs, against, message", [
    ([("ppo", 0), ("ppo", 1)], "grpo", "--against grpo: the last models of these reports are ppo; give two"),
    ([("ppo", 0), ("grpo", 0)], "dpo", "--against dpo: the last models of these reports are ppo, grpo"),
    ([("ppo", 0), ("grpo", 0)], "grpo", "ppo and grpo: fewer than two seeds"),
    ([("ppo", 0), ("ppo", 1), ("grpo", 2), ("grpo", 3)], "grpo", "ppo and grpo: fewer than two seeds"),
    ([("ppo", None), ("grpo", 0)], "grpo", "ppoNone/report.json: ppo of seed None: each seed must be known"),
    ([("ppo", 0), ("ppo", 0), ("grpo", 0)], "grpo", "ppo0/report.json: ppo of seed 0: .* there once"),
])  # fmt: skip
def test_methods_that_cannot_be_paired_are_refused(runs, against, message, tmp_path):
    paths = [method(tmp_path, name, seed) for name, seed in runs]
    with pytest.raises(UserError, match=message):
        print_comparison(paths, against)


def test_runs_of_one_seed_on_other_prompts_are_refused(tmp_path):
    paths = [method(tmp_path, name, s, prompts=PROMPTS if name == "ppo" else PROMPTS[::-1])
             for name in ("ppo", "grpo") for s in (0, 1)]  # fmt: skip
    with pytest.raises(UserError, match="other prompts in task: evaluate with one --seed"):
        print_comparison(paths, "grpo")


@pytest.mark.parametrize("against", ["grpo", ""])
def test_runs_that_were_scored_by_other_rewards_are_refused(against, tmp_path):
    """Their difference would be that of the rewards, which have the same name."""
    paths = [method(tmp_path, name, s, settings={"reward": ["a.py:f"] * s})
             for name in ("ppo", "grpo")[: 1 + bool(against)] for s in (0, 1)]  # fmt: skip
    with pytest.raises(UserError, match="ppo1/report.json: not scored by the --reward of .*ppo0/report.json"):
        print_comparison(paths, against)
