"""Two runs of evaluate.py, paired by item: what has changed from the old to the new, beyond luck?

    d_i = mean of new − old over the responses to prompt i that both runs have        paired test of the d_i

A model is compared with the one of its name, on the prompts that both were asked, sample by sample: equal
seeds draw the k-th sample of both with the same random numbers. The rewards of all sets and models are one
family, and their verdicts go by Holm's adjusted p. Proved by tests/test_comparison.py.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from minirlhf.analysis import plain, units
from minirlhf.checkpoint import read_json
from minirlhf.data import prompt_of
from minirlhf.evidence import VERSION, TestSet, read
from minirlhf.files import UserError
from minirlhf.report import RESAMPLES, SHORT, cell, number, word
from minirlhf.stats import holm, paired_difference, verdict

DRIFT: dict[str, Callable[[dict], float]] = {
    "KL to reference, nats": lambda x: x["kl"],
    "entropy, nats/answer": lambda x: x["entropy"],
    "length, tokens": lambda x: x["tokens"],
}
ELSEWHERE = ("models", "metrics", "show", "from_", "out")  # settings that change no answer, or are compared
Pairs = list[tuple[int, dict, dict]]  # unit of analysis, old item, new item


def run(paths: Sequence[str]) -> dict:
    """Print the comparison of two report.json, the old and the new, and return it. Raises UserError."""
    if len(paths) != 2:
        raise UserError(f"--compare {' '.join(paths)}: give the report.json of two evaluations, old and new")
    found = compare_runs(*paths)
    print(comparison_text(found))
    return found


def compare_runs(old: str, new: str, seed: int = 0) -> dict:
    """The comparison of two report.json, by the items.jsonl beside each, as a dict for JSON.

    Raises UserError for what cannot be read, and where no set, model or prompt is in both.
    """
    runs, sets = zip(*(read_run(path) for path in (old, new)))
    parts, apart = [], []
    for title in shared(old, new, "set", *sets):
        s, t = (of[title] for of in sets)
        first, second = ({prompt_of(record) for record in side.records} for side in (s, t))
        both, unit = len(first & second), units(s.records)  # (prompts,)
        counts = {"both": both, "only_old": len(first) - both, "only_new": len(second) - both}
        apart += [] if both else [title]
        for model in shared(old, new, f"model of {title}", s.items, t.items) if both else ():
            a, b = by_question(s.records, s.items[model]), by_question(t.records, t.items[model])
            pairs = [(int(unit[x["index"]]), x, b[key]) for key, x in a.items() if key in b]
            parts.append({"set": title, "model": model, "prompts": counts} | compare_answers(pairs, seed))
    if not parts:
        raise UserError(f"{old} and {new} have no prompt in common: the same --seed, or --data, for both")
    adjust_rewards(parts)
    first, second = (about.get("settings", {}) | {"seed": about.get("seed")} for about in runs)
    settings = {k: [v, second.get(k)] for k, v in first.items() if v != second.get(k) and k not in ELSEWHERE}
    weights = [{name: m.get("sha256") for name, m in about["models"].items()} for about in runs]
    same = [name for name, sha in weights[0].items() if sha and sha == weights[1].get(name)]
    about = {"old": old, "new": new, "settings": settings, "same_weights": same}
    return about | {"without_common_prompt": apart, "comparisons": parts}


def adjust_rewards(parts: Sequence[dict]) -> None:
    """Give the reward of each part Holm's p over all parts, and take back verdicts that do not survive it."""
    family = [row for part in parts for row in part["metrics"] if row["metric"] == "reward"]
    for row, p in zip(family, holm([np.nan if row["p"] is None else row["p"] for row in family])):
        row["p_holm"] = plain(p)
        if p > 0.05:
            row["verdict"] = "no difference shown"


def read_run(path: str) -> tuple[dict, dict[str, TestSet]]:
    """What an evaluation was, and title -> set, by the path of its report.json. Raises UserError."""
    if (version := read_json(Path(path)).get("version")) != VERSION:
        raise UserError(f"{path}: a report of version {version} and not {VERSION}: run evaluate.py again")
    items = Path(path).parent / "items.jsonl"
    about, sets = read(items)
    return about, {s.title: s for s in sets}


def shared(old: str, new: str, what: str, a: Mapping[str, object], b: Mapping[str, object]) -> list[str]:
    """What stands in both, in the order of the first. Raises UserError if that is nothing."""
    if not (both := [x for x in a if x in b]):
        raise UserError(f"{old} and {new} have no {what} in common; they have, for example, "
                        f"{next(iter(a), None)!r:.50} and {next(iter(b), None)!r:.50}")  # fmt: skip
    return both


def by_question(records: Sequence[dict], items: Sequence[dict]) -> dict[tuple[str, int, int], dict]:
    """(what was asked, sample, which of the records that ask it) -> item."""
    found, seen = {}, Counter()
    for x in items:
        asked = prompt_of(records[x["index"]]), x["sample"]
        found[(*asked, seen[asked])] = x
        seen[asked] += 1
    return found


def compare_answers(pairs: Pairs, seed: int) -> dict:
    """One model on one set: how many answers changed, and each metric with its paired test."""
    greedy, sampled = ([p for p in pairs if (p[1]["sample"] < 0) == first] for first in (True, False))
    answers = {kind: {"paired": len(some), "changed": sum(x["response"] != y["response"] for _, x, y in some)}
               for kind, some in (("greedy", greedy), ("sampled", sampled))}  # fmt: skip
    rows, (_, x, y) = [], pairs[0]
    for name in [name for name in x["scores"] if name in y["scores"]]:
        value, direction = (lambda x: x["scores"].get(name, np.nan)), -1 if name == "unparsable" else 1
        rows.append(difference(name, direction, sampled, value, seed))
        rows.append(difference(f"{name}, greedy", direction, greedy, value, seed))
    rows += [difference(name, 0, sampled, value, seed) for name, value in DRIFT.items()]
    return {"answers": answers, "metrics": rows}


def difference(name: str, direction: int, pairs: Pairs, value: Callable[[dict], float], seed: int) -> dict:
    """One metric as a plain dict: the mean over units in both runs, and new − old with its paired test."""
    by_unit: dict[int, list[tuple[float, float]]] = {}
    for unit, x, y in pairs:
        by_unit.setdefault(unit, []).append((value(x), value(y)))
    means = np.array([np.mean(values, axis=0) for values in by_unit.values()]).reshape(-1, 2)  # (n, 2)
    d = paired_difference(means[:, 1], means[:, 0], seed, RESAMPLES)
    before, after = means.mean(axis=0) if len(means) else (np.nan, np.nan)
    figures = {"old": before, "new": after, "value": d.difference, "p": d.p_value}
    figures |= zip(("low", "high"), d.bootstrap_interval)
    figures["minimum_detectable"] = d.minimum_detectable_effect
    row = {"metric": name, "direction": direction, "n": d.n} | {k: plain(x) for k, x in figures.items()}
    row["verdict"] = word(verdict(d, direction >= 0), direction)
    return row | ({"undefined": d.undefined} if d.undefined else {})


def comparison_text(c: dict) -> str:
    """What compare_runs found, as lines for the terminal."""
    flags = {name.replace("_", "-"): both for name, both in c["settings"].items()}
    lines = [f"--{flag}: {a!r} in the old run, {b!r} in the new" for flag, (a, b) in flags.items()]
    lines += [f"{name}: the same weights in both runs" for name in c["same_weights"]]
    lines += [f"{title}: no prompt in common" for title in c["without_common_prompt"]]
    for part in c["comparisons"]:
        title = f"{part['set']}, {part['model']}"
        width = max(24, len(title))
        lines += [f"\n{title:<{width}}{'old':>10}{'new':>10}{'new - old':>16}  verdict", "-" * (width + 65)]
        for row in part["metrics"]:
            line = f"{row['metric']:<{width}}{number(row['old']):>10}{number(row['new']):>10}"
            line += f"{cell(row, signed=True):>16}  {SHORT.get(row['verdict'], row['verdict'])}"
            if row["verdict"] == "no difference shown" and row["minimum_detectable"]:
                line += f", MDE {number(row['minimum_detectable'])}"
            lines.append(line)
        lines.append("prompts: {both} in both runs, {only_old} only in the old, {only_new} only in the new\n"
                     "changed: {greedy[changed]} of {greedy[paired]} greedy answers, {sampled[changed]} of "
                     "{sampled[paired]} samples".format(**part["prompts"], **part["answers"]))  # fmt: skip
    return "\n".join(lines)
