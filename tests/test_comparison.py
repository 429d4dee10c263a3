"""Two evaluations paired by item: what is paired, what is compared, what is refused."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from minirlhf import evidence
from minirlhf.comparison import compare_runs, comparison_text, run
from minirlhf.evidence import VERSION, TestSet
from minirlhf.files import UserError
from minirlhf.stats import holm, paired_difference

PROMPTS = [f"prompt {i}" for i in range(30)]
METRICS = [
    "reward", "reward, greedy", "unparsable", "unparsable, greedy",
    "KL to reference, nats", "entropy, nats/answer", "length, tokens",
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
    models = {m: {"sha256": f"{folder.name} {m}"} for of in sets.values() for m in of}
    about = {"settings": {}, "seed": 0, "models": models, "reference": next(iter(models))} | about
    evidence.write(folder / "items.jsonl", about, made)
    (folder / "report.json").write_text(json.dumps({"version": VERSION} | about))
    return str(folder / "report.json")


@pytest.fixture
def compare(tmp_path):
    """A function of two models' items, or of two dicts of sets, that compares two runs of them."""
    def compare(old, new, old_run=None, new_run=None) -> dict:
        sides = [x if isinstance(x, dict) else {"task": {"ppo": x}} for x in (old, new)]
        paths = [write(tmp_path / name, side, **(run or {}))
                 for name, side, run in zip(("old", "new"), sides, (old_run, new_run))]  # fmt: skip
        return compare_runs(*paths)

    return compare


def metrics(part: dict) -> dict[str, dict]:
    return {row["metric"]: row for row in part["metrics"]}


def counts(part: dict) -> dict[str, tuple[int, int]]:
    """Answers paired and changed, by kind."""
    return {kind: (x["paired"], x["changed"]) for kind, x in part["answers"].items()}


def test_a_difference_is_new_minus_old_of_the_means_of_each_prompt(compare):
    old, new = answers(), answers(shift=0.1, noise=1)
    (part,) = compare(old, new)["comparisons"]
    means = [np.array([np.mean([x["scores"]["reward"] for x in rows if x["index"] == i and x["sample"] >= 0])
                       for i in range(30)]) for rows in (old, new)]  # fmt: skip
    d, row = paired_difference(means[1], means[0], 0, 2000), metrics(part)["reward"]
    assert (row["value"], row["p"], row["n"]) == (pytest.approx(d.difference), d.p_value, 30)
    assert (row["low"], row["high"]) == pytest.approx(d.bootstrap_interval)
    assert (row["old"], row["new"]) == pytest.approx([x.mean() for x in means])
    assert row["minimum_detectable"] == pytest.approx(d.minimum_detectable_effect)
    assert row["verdict"] == "better" and row["value"] > 0
    assert list(metrics(part)) == METRICS


def test_greedy_answers_and_samples_are_compared_apart(compare):
    new = answers()
    for x in new:
        x["scores"]["reward"] += 1.0 if x["sample"] < 0 else 0.0
    rows = metrics(compare(answers(), new)["comparisons"][0])
    assert rows["reward, greedy"]["value"] == pytest.approx(1) and rows["reward"]["value"] == 0


def test_a_run_compared_with_itself_shows_nothing(compare):
    same = {"models": {"ppo": {"sha256": "1"}}}
    c = compare(answers(), answers(), same, same)
    (part,) = c["comparisons"]
    assert {(x["value"], x["p"], x["verdict"]) for x in part["metrics"]} == {(0, 1, "no difference shown")}
    assert counts(part) == {"greedy": (30, 0), "sampled": (60, 0)}
    assert c["same_weights"] == ["ppo"] and c["settings"] == {}


def test_items_are_paired_by_prompt_and_not_by_place(compare):
    (part,) = compare(answers(), answers(PROMPTS[::-1]))["comparisons"]
    assert all(row["value"] == 0 and row["n"] == 30 for row in part["metrics"])
    assert part["answers"]["sampled"]["changed"] == 0


def test_prompts_of_one_run_alone_are_counted_and_left_out(compare):
    new = answers([*PROMPTS[3:], "a", "b"])
    for x in new:
        x["scores"]["reward"] += 100.0 if x["prompt"] in "ab" else 0.0
    (part,) = compare(answers(), new)["comparisons"]
    assert part["prompts"] == {"both": 27, "only_old": 3, "only_new": 2}
    assert metrics(part)["reward"]["n"] == 27 and metrics(part)["reward"]["value"] == 0


def test_samples_that_only_one_run_drew_are_left_out(compare):
    (part,) = compare(answers(samples=2), answers(samples=5))["comparisons"]
    assert counts(part) == {"greedy": (30, 0), "sampled": (60, 0)}
    assert metrics(part)["reward"]["value"] == 0


def test_answers_that_changed_are_counted(compare):
    new = answers()
    for x in new[:7]:  # of prompts 0, 1 and 2: greedy, two samples, greedy, two samples, greedy
        x["response"] = "another"
    (part,) = compare(answers(), new)["comparisons"]
    assert counts(part) == {"greedy": (30, 3), "sampled": (60, 4)}


def test_records_that_ask_the_same_are_one_unit_and_keep_their_order(compare):
    twice = [*PROMPTS, *PROMPTS]
    (part,) = compare(answers(twice), answers(twice, shift=0.1, noise=1))["comparisons"]
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
    (part,) = compare(old, new, {"records": old_records}, {"records": new_records})["comparisons"]
    assert part["prompts"]["both"] == 40 and metrics(part)["reward"]["n"] == 20
    assert metrics(part)["reward"]["value"] == 0 and part["answers"]["sampled"]["changed"] == 0


def test_entropy_and_length_are_those_of_an_answer(compare):
    """Twice as long at the same entropy a token is twice both."""
    new = answers()
    for x in new:
        x["entropy"], x["tokens"] = 2 * x["entropy"], 2 * x["tokens"]
    rows = metrics(compare(answers(), new)["comparisons"][0])
    assert rows["entropy, nats/answer"]["value"] == pytest.approx(rows["entropy, nats/answer"]["old"])
    assert rows["length, tokens"]["value"] == pytest.approx(rows["length, tokens"]["old"])


def test_verdicts_know_what_is_good(compare):
    new = answers(shift=-0.5)
    for x in new:
        x["scores"]["unparsable"], x["kl"], x["tokens"] = 1.0, x["kl"] + 1, 1
    rows = metrics(compare(answers(), new)["comparisons"][0])
    assert rows["reward"]["verdict"] == "worse" and rows["unparsable"]["verdict"] == "worse"
    assert rows["KL to reference, nats"]["verdict"] == "higher"
    assert rows["length, tokens"]["verdict"] == "lower"


def test_only_models_of_one_name_in_one_set_are_compared(compare):
    """Wherever they stand in the two runs; sets and models of one run alone are left out."""
    old = {title: {"sft": answers(), "ppo": answers(shift=5.0)} for title in "abc"}
    new = {title: {"dpo": answers(shift=9.0), "sft": answers()} for title in "dba"}
    parts = compare(old, new)["comparisons"]
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
    parts = compare(same, same | {"a": {"ppo": nudged}})["comparisons"]
    rewards = [metrics(part)["reward"] for part in parts]
    assert [row["p_holm"] for row in rewards] == pytest.approx(list(holm([row["p"] for row in rewards])))
    assert 0.05 / 3 < rewards[0]["p"] < 0.05 and rewards[0]["verdict"] == "no difference shown"
    rows = metrics(parts[0])
    assert rows["KL to reference, nats"]["verdict"] == "higher" and "p_holm" not in rows["reward, greedy"]


def test_settings_that_differ_are_told_and_folders_are_not(compare):
    settings = [{"max_new": 8, "samples": 2, "out": "a", "models": ["ppo=a"], "show": 2, "from_": ""},
                {"max_new": 9, "samples": 2, "out": "b", "models": ["ppo=b"], "show": 0, "from_": "x"}]
    c = compare(answers(), answers(), *({"settings": s, "seed": seed} for seed, s in enumerate(settings)))
    assert c["settings"] == {"max_new": [8, 9], "seed": [0, 1]} and c["same_weights"] == []
    assert "--seed: 0 in the old run, 1 in the new" in comparison_text(c)
    assert "--max-new: 8 in the old run, 9 in the new" in comparison_text(c)


def test_without_rewards_the_rest_is_compared(compare):
    (part,) = compare(answers(scores={}), answers(scores={}))["comparisons"]
    assert list(metrics(part)) == METRICS[4:]


@pytest.mark.filterwarnings("error")
def test_one_prompt_is_undefined_with_a_reason_and_the_json_is_json(compare):
    c = compare(answers(["one"]), answers(["one"], shift=1.0))
    row = metrics(c["comparisons"][0])["reward"]
    assert row["verdict"] == "undefined" and "fewer than 2" in row["undefined"] and row["value"] is None
    json.dumps(c, allow_nan=False)
    assert "undefined" in comparison_text(c)


@pytest.mark.filterwarnings("error")
def test_greedy_answers_alone_are_compared_as_far_as_they_go(compare):
    rows = metrics(compare(answers(samples=0), answers())["comparisons"][0])
    assert rows["reward, greedy"]["verdict"] == "no difference shown"
    assert rows["reward"]["verdict"] == "undefined" and rows["reward"]["old"] is None


def test_the_table_has_every_figure_within_100_columns(compare):
    c = compare(answers(), answers([*PROMPTS[1:], "new"], shift=0.5))
    text = comparison_text(c)
    (part,) = c["comparisons"]
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
    assert [part["set"] for part in c["comparisons"]] == ["a"] and c["without_common_prompt"] == ["b"]
    assert "b: no prompt in common" in comparison_text(c).splitlines()


# refusals


def refused(old: str, new: str) -> str:
    with pytest.raises(UserError) as error:
        compare_runs(old, new)
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
def two(tmp_path):
    """Two runs that can be compared."""
    return [write(tmp_path / name, {"task": {"ppo": answers()}}) for name in ("old", "new")]


def test_a_report_of_another_version_is_refused(two):
    for text in ('{"version": 1}', "{}"):
        Path(two[1]).write_text(text)
        assert two[1] in refused(*two) and "version" in refused(*two)


def test_missing_files_are_refused(two):
    items = Path(two[1]).with_name("items.jsonl")
    items.unlink()
    assert str(items) in refused(*two)
    Path(two[0]).unlink()
    assert two[0] in refused(*two)


def test_a_broken_line_is_refused_by_its_number(two):
    items = Path(two[0]).with_name("items.jsonl")
    lines = items.read_text().splitlines()
    lines[41] = lines[41][:-3]
    items.write_text("\n".join(lines))
    assert "line 42" in refused(*two) and str(items) in refused(*two)


@pytest.mark.parametrize("key", ["response", "scores", "tokens", "kl", "entropy"])
def test_a_response_that_lacks_something_is_refused(two, key):
    items = Path(two[0]).with_name("items.jsonl")
    lines = [json.loads(line) for line in items.read_text().splitlines()]
    lines[-1].pop(key)
    items.write_text("\n".join(map(json.dumps, lines)))
    assert f"'{key}' is missing" in refused(*two)


def test_the_command_wants_two_reports_prints_and_returns_the_comparison(two, capsys):
    for paths in (two[:1], [*two, two[0]]):
        with pytest.raises(UserError, match="--compare .*report.json: give .* two"):
            run(paths)
    assert run(two) == compare_runs(*two)
    assert capsys.readouterr().out == comparison_text(compare_runs(*two)) + "\n"
