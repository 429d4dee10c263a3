"""Reports of several evaluations: what has changed between two, or whether RL wins in more than one lucky run.

    two evaluations    d_i = new − old over the responses to prompt i that both have      paired test of the d_i
    training runs      d_s = mean over prompts of last − reference, in run s              d̄ ± t · se
    --against NAME     d_s = mean over prompts of another last model − NAME's, both of seed s

Without --against, `are_training_runs` tells by the reports what is meant. In two evaluations a model is compared with
the one of its name, sample by sample: equal seeds draw the k-th sample of both with the same random numbers. Training
runs that were put to prompts of their own are independent draws; if all were put to the same prompts, these are a
sample, too: `training_runs.crossed_t`. The rewards of all sets and models are one family, and their verdicts go by
Holm's adjusted p. Proved by tests/evaluation/test_reports.py.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from minirlhf.evaluation.catalogue import kl_metrics, length_metrics, score_metrics
from minirlhf.evaluation.items import VERSION, TestSet, read_items
from minirlhf.evaluation.metric import Metric, or_none, ratio, view_of
from minirlhf.evaluation.table import judged, number, text_table
from minirlhf.evaluation.verdicts import adjust, compare_models
from minirlhf.harness.files import UserError, read_json
from minirlhf.lm.records import prompt_of
from minirlhf.metrics.paired_tests import Difference, verdict
from minirlhf.metrics.training_runs import crossed_t, independent_t

# Settings that change no answer, or are compared elsewhere.
ELSEWHERE = ("models", "metrics", "show", "all", "format", "from_", "out", "reward_threads", "reward_timeout")
Sets = dict[str, TestSet]  # by title


def print_comparison(paths: Sequence[str], against: str = "") -> None:
    """Print what the report.json of several evaluations say together. Raises UserError. against: `paired_by_seed`'s."""
    if len(paths) < 2:
        raise UserError(f"--reports {' '.join(paths)}: give the report.json of two evaluations or more")
    abouts, sets = zip(*(read_report(path) for path in paths))
    are_runs, why = (True, "") if against else are_training_runs(abouts)
    rewards = [about["settings"].get("reward") or [] for about in abouts]
    if are_runs and (other := [path for path, reward in zip(paths, rewards) if reward != rewards[0]]):
        raise UserError(f"{other[0]}: not scored by the --reward of {paths[0]}: evaluate all by the same")
    if against:
        found = [compare_training_runs(*runs) for runs in paired_by_seed(paths, abouts, sets, against)]
        adjust([row for one in found for part in one["parts"] for row in part["metrics"] if row["primary"]])
        return print("\n\n".join(map(lines_of_runs, found)))
    print(why)
    if are_runs:
        print(lines_of_runs(compare_training_runs(paths, abouts, sets)))
    else:
        print(lines_of_evaluations(compare_evaluations(paths, abouts, sets)))


def read_report(path: str) -> tuple[dict, Sets]:
    """What an evaluation was, and its sets from the items.jsonl beside its report.json. Raises UserError."""
    if (version := read_json(Path(path)).get("version")) != VERSION:
        raise UserError(f"{path}: a report of version {version} and not {VERSION}: run evaluate.py again")
    about, sets = read_items(Path(path).parent / "items.jsonl")
    return about, {s.title: s for s in sets}


def are_training_runs(abouts: Sequence[dict]) -> tuple[bool, str]:
    """Whether the evaluations are of training runs of one recipe, or else two to be paired by item; and why.

    More than two are. So are two that compare the same models, if the last of them was trained with another seed.
    """
    if len(abouts) > 2:
        return True, f"{len(abouts)} reports, more than two: training runs of one recipe, each one shown"
    (last, reference), other = ((list(about["models"])[-1], about["against"]) for about in abouts)
    seeds = [about["models"].get(last, {}).get("seed") for about in abouts]
    if last == reference or (last, reference) != other:
        why = "not the same last model and reference in both"
    elif None in seeds:
        why = f"not known in both with which seed {last} was trained (evaluate again, and it is)"
    elif seeds[0] == seeds[1]:
        why = f"{last} trained with seed {seeds[0]} in both"
    else:
        return True, f"{last} trained with seeds {seeds[0]} and {seeds[1]}: training runs of one recipe, each one shown"
    return False, f"{why}: two evaluations, old and new, paired by item"


def measures(s: TestSet) -> list[Metric]:
    """What is compared, each a mean over answers: the scores, and how far a model has moved."""
    view = view_of(s)
    entropy = view.mean("entropy, nats/answer", 0, lambda x: x["entropy"])
    beta, J = s.about.get("beta"), []
    if beta is not None and "reward" in next(iter(view.sampled.values()))[0]["scores"]:
        J = [view.mean(f"J = reward - {beta:g} KL", 1, lambda x: x["scores"]["reward"] - beta * x["kl"])]
    return [*score_metrics(view), *kl_metrics(view), *J, entropy, *length_metrics(view)]


def compare_evaluations(paths: Sequence[str], abouts: Sequence[dict], sets: Sequence[Sets]) -> dict:
    """What has changed from the first to the second, by model and set. Raises UserError where nothing is in both."""
    parts, apart = [], []
    for title in shared(paths, "set", *sets):
        old, new = (of[title] for of in sets)
        first, second = ({prompt_of(record) for record in s.records} for s in (old, new))
        if not first & second:
            apart.append(title)
            continue
        counts = {"both": len(first & second), "only_old": len(first - second), "only_new": len(second - first)}
        for model in shared(paths, f"model of {title}", old.items, new.items):
            parts.append({"set": title, "model": model, "prompts": counts} | changes(old, new, model))
    if not parts:
        raise UserError(f"{' and '.join(paths)} have no prompt in common: the same --seed, or --data, for both")
    adjust([row for part in parts for row in part["metrics"] if row["primary"]])
    old, new = (about.get("settings", {}) | {"seed": about.get("seed")} for about in abouts)
    facts = [f"--{k.replace('_', '-')}: {v!r} in the old run, {new[k]!r} in the new"
             for k, v in old.items() if k in new and v != new[k] and k not in ELSEWHERE]  # fmt: skip
    old, new = ({name: m.get("sha256") for name, m in about["models"].items()} for about in abouts)
    facts += [f"{name}: the same weights in both runs" for name, sha in old.items() if sha and sha == new.get(name)]
    return {"facts": facts + [f"{title}: no prompt in common" for title in apart], "parts": parts}


def shared(paths: Sequence[str], what: str, a: Iterable[str], b: Iterable[str]) -> list[str]:
    """What stands in both, in the order of the first. Raises UserError if that is nothing."""
    if not (both := [x for x in a if x in b]):
        raise UserError(f"{' and '.join(paths)} have no {what} in common; they have, for example, "
                        f"{next(iter(a), None)!r:.50} and {next(iter(b), None)!r:.50}")  # fmt: skip
    return both


def changes(old: TestSet, new: TestSet, model: str) -> dict:
    """One model on the prompts that both evaluations asked: how many answers changed, and each metric."""
    a, b = (by_question(s.records, s.items[model]) for s in (old, new))
    pairs = [(x, b[key]) for key, x in a.items() if key in b]
    answers = {}
    for kind, greedy in (("greedy", True), ("sampled", False)):
        changed = [x["response"] != y["response"] for x, y in pairs if (x["sample"] < 0) == greedy]
        answers[kind] = {"paired": len(changed), "changed": sum(changed)}
    place = {index: i for i, index in enumerate(dict.fromkeys(x["index"] for x, _ in pairs))}
    items = {"old": [], "new": []}
    for x, y in pairs:
        scores_of_both = {name: score for name, score in x["scores"].items() if name in y["scores"]}
        items["old"].append(x | {"index": place[x["index"]], "scores": scores_of_both})
        items["new"].append(y | {"index": place[x["index"]]})
    both = TestSet("", [old.records[i] for i in place], items, about=old.about)
    return {"answers": answers, "metrics": compare_models(measures(both), "old")}


def by_question(records: Sequence[dict], items: Sequence[dict]) -> dict[tuple[str, int, int], dict]:
    """(what was asked, sample, which of the records that ask it) -> item."""
    found, seen = {}, Counter()
    for x in items:
        asked = prompt_of(records[x["index"]]), x["sample"]
        found[(*asked, seen[asked])] = x
        seen[asked] += 1
    return found


def lines_of_evaluations(found: dict) -> str:
    """What `compare_evaluations` found, for the terminal."""
    lines = [*found["facts"]]
    for part in found["parts"]:
        lines += ["", text_table(f"{part['set']}, {part['model']}", part["metrics"], ["old", "new"], "old")]
        lines.append("prompts: {both} in both runs, {only_old} only in the old, {only_new} only in the new\n"
                     "changed: {greedy[changed]} of {greedy[paired]} greedy answers, {sampled[changed]} of "
                     "{sampled[paired]} samples".format(**part["prompts"], **part["answers"]))  # fmt: skip
    return "\n".join(lines)


def compare_training_runs(paths: Sequence[str], abouts: Sequence[dict], sets: Sequence[Sets]) -> dict:
    """last − reference over all runs, for each set and quantity. Raises UserError for runs that do not compare."""
    names = [(list(about["models"])[-1], about["against"]) for about in abouts]
    last, reference = names[0]
    for path, (a, b) in zip(paths, names):
        if (a, b) != names[0] or a == b:
            raise UserError(f"{path}: {a} - {b}, where {paths[0]} has {last} - {reference}: evaluate two models of a "
                            "training run each, always by the same names")  # fmt: skip
    weights = [about["models"][last].get("sha256") for about in abouts]
    if same := [path for i, path in enumerate(paths) if weights[i] and weights[i] in weights[:i]]:
        raise UserError(f"{same[0]}: {last} has the weights of another of these runs: that is one run, not two")
    titles = [title for title in sets[0] if all(title in of for of in sets)]
    if not titles:
        raise UserError(f"{', '.join(paths)}: no test set is in all of them")
    parts = []
    for title in titles:
        of_run = [of[title] for of in sets]
        questions = [[prompt_of(record) for record in s.records] for s in of_run]
        same = all(asked == questions[0] for asked in questions)
        tables = [{m.name: m for m in measures(replace(s, items={k: s.items[k] for k in (last, reference)}))}
                  for s in of_run]
        rows = []
        for name, metric in tables[0].items():
            if all(name in table for table in tables):
                both = [[ratio(table[name].statistics[m]) for m in (last, reference)] for table in tables]
                gains = [a - b for a, b in both]  # (n units,) of each run
                rows.append({
                    "metric": name, "primary": metric.primary, "by_run": [float(x.mean()) for x in gains],
                    "differences": {"mean": mean_over_runs(gains, same, metric.direction)},
                })  # fmt: skip
        parts.append({"set": title, "shared_prompts": same, "metrics": rows})
    adjust([row for part in parts for row in part["metrics"] if row["primary"]])
    return {"runs": list(paths), "last": last, "reference": reference, "parts": parts}


def paired_by_seed(
    paths: Sequence[str], abouts: Sequence[dict], sets: Sequence[Sets], against: str
) -> Iterator[tuple[list[str], list[dict], list[Sets]]]:
    """Of each last model but that named `against`: its runs, each beside the one of `against` with the same seed.

    They are as `compare_training_runs` takes them, with `against` as the reference. Raises UserError.
    """
    runs: dict[str, dict[int | None, int]] = {}  # last model -> seed -> which report
    for i, (name, m) in enumerate([*about["models"].items()][-1] for about in abouts):
        if m.get("seed") is None or m["seed"] in runs.setdefault(name, {}):
            raise UserError(f"{paths[i]}: {name} of seed {m.get('seed')}: each seed must be known, and there once")
        runs[name][m["seed"]] = i
    if len(runs) < 2 or against not in runs:
        raise UserError(f"--against {against}: the last models of these reports are {', '.join(runs)}; give two")
    for name in [name for name in runs if name != against]:
        pairs = [(runs[name][seed], runs[against][seed]) for seed in sorted(runs[name].keys() & runs[against])]
        if len(pairs) < 2:
            raise UserError(f"{name} and {against}: fewer than two seeds that both were trained with")
        for i, j in pairs:
            for title in shared((paths[i], paths[j]), "set", sets[i], sets[j]):
                if [*map(prompt_of, sets[i][title].records)] != [*map(prompt_of, sets[j][title].records)]:
                    raise UserError(f"{paths[i]} and {paths[j]}: other prompts in {title}: evaluate with one --seed")
        yield (
            [f"{paths[i]} - {paths[j]}" for i, j in pairs],
            [{"models": {x: abouts[k]["models"][x] for x, k in ((against, j), (name, i))}, "against": against}
             for i, j in pairs],
            [{title: replace(s, items={against: sets[j][title].items[against], name: s.items[name]})
              for title, s in sets[i].items() if title in sets[j]} for i, j in pairs],
        )  # fmt: skip


def mean_over_runs(gains: Sequence[np.ndarray], same_prompts: bool, direction: int) -> dict:
    """The mean of differences (n units,) of each run, with its interval, p and verdict; of one run it has none.

    same_prompts: whether all runs were put to the same ones.
    """
    by_run = [float(x.mean()) for x in gains]
    crossed = same_prompts and len(gains) > 1 and len(gains[0]) > 1
    (low, high), p = crossed_t(np.stack(gains)) if crossed else independent_t(by_run)
    d = Difference(len(by_run), float(np.mean(by_run)), (low, high), p)
    mean = {"value": d.difference, "low": or_none(low), "high": or_none(high), "p": or_none(p)}
    return mean | {"verdict": verdict(d, direction), "decided_by": "p"}


def lines_of_runs(found: dict) -> str:
    """What `compare_training_runs` found, for the terminal: each run's difference stands beside the mean."""
    head, count = f"{found['last']} - {found['reference']}", len(found["runs"])
    lines = [f"run {i}: {path}" for i, path in enumerate(found["runs"], 1)]
    for part in found["parts"]:
        width = max(24, len(part["set"]))
        top = f"{part['set']:<{width}}" + "".join(f"{f'run {i}':>9}" for i in range(1, count + 1))
        lines += ["", f"{top}{head:>17} by verdict", "-" * (width + 9 * count + 30)]
        for row in part["metrics"]:
            each = "".join(f"{number(x, signed=True):>9}" for x in row["by_run"])
            lines.append(f"{row['metric']:<{width}}{each}{judged(row['differences']['mean'], 17)}")
    prompts = {True: "the same prompts", False: "prompts of its own"}
    kinds = " or ".join(prompts[kind] for kind in {part["shared_prompts"]: 0 for part in found["parts"]})
    said = f"±: 95 %, for new training runs on new prompts, from {count} runs, each on {kinds}; the verdicts on rewards"
    return "\n".join([*lines, "", f"{said} go by Holm's p over all sets and models"])
