"""Evaluations of several training runs: is RL better than its reference, or was one run lucky?

    d_s = mean over prompts of last − reference, in run s        d̄ ± t · se, for new runs on new prompts

If every run was put to prompts of its own (`--seed` of its own), the d_s are independent draws and se = s/√S.
If all were put to the same prompts, these are a sample, too: `seeds.compare_runs`. Three runs have a
t of 4.3, two of 12.7: what few runs cannot show, more prompts cannot mend. The rewards of all sets are one
family, and their verdicts go by Holm's adjusted p. Proved by tests/test_several_runs.py.
"""

from collections.abc import Callable, Sequence

import numpy as np

from minirlhf.analysis import per_unit, plain, ratio, units
from minirlhf.comparison import DRIFT, adjust_rewards, read_run
from minirlhf.data import prompt_of
from minirlhf.evidence import TestSet
from minirlhf.files import UserError
from minirlhf.report import SHORT, cell, number, word
from minirlhf.seeds import compare_runs, independent_t

Values = tuple[np.ndarray, np.ndarray]  # the last model's and the reference's, (n units,) each


def run(paths: Sequence[str]) -> dict:
    """Print the comparison over the runs whose report.json these are, and return it. Raises UserError."""
    if len(paths) < 2:
        raise UserError(f"--runs {' '.join(paths)}: give the report.json of two training runs or more")
    found = compare(paths)
    print(lines(found))
    return found


def compare(paths: Sequence[str]) -> dict:
    """last − reference over all runs, for each set and quantity of all, as a dict for JSON.

    Raises UserError for what cannot be read, and where the runs compare other models or share no set.
    """
    runs, sets = zip(*(read_run(path) for path in paths))
    names = [(list(run["models"])[-1], run["reference"]) for run in runs]
    for path, name, about in zip(paths, names, runs):
        if name != names[0] or name[0] == name[1]:
            raise UserError(f"{path}: {name[0]} - {name[1]}, where {paths[0]} has {' - '.join(names[0])}: evaluate two "
                            "models of a training run each, always by the same names")  # fmt: skip
    weights = [about["models"][names[0][0]].get("sha256") for about in runs]
    if same := [path for i, path in enumerate(paths) if weights[i] and weights[i] in weights[:i]]:
        raise UserError(f"{same[0]}: {names[0][0]} has the weights of another of these runs: that is one run, not two")
    titles = [title for title in sets[0] if all(title in of for of in sets)]
    if not titles:
        raise UserError(f"{', '.join(paths)}: no test set is in all of them")
    parts = []
    for title in titles:
        of_run = [of[title] for of in sets]
        questions = [[prompt_of(record) for record in s.records] for s in of_run]
        shared = all(asked == questions[0] for asked in questions)
        rows = []
        for name, direction, value in quantities(of_run, names[0]):
            rows.append({"metric": name, "direction": direction}
                        | difference([values(s, *names[0], value) for s in of_run], shared, direction))  # fmt: skip
        parts.append({"set": title, "shared_prompts": shared, "metrics": rows})
    adjust_rewards(parts)
    return {"runs": list(paths), "last": names[0][0], "reference": names[0][1], "sets": parts}


def quantities(runs: Sequence[TestSet], names: Sequence[str]) -> list[tuple[str, int, Callable[[dict], float]]]:
    """(name, direction, value of an item) of what every response of both models has a number for."""
    items = [x for s in runs for name in names for x in s.items[name]]
    scores = [name for name in items[0]["scores"] if all(name in x["scores"] for x in items)]
    table = [(name, -1 if name == "unparsable" else 1, lambda x, name=name: x["scores"][name]) for name in scores]
    return table + [(name, 0, value) for name, value in DRIFT.items()]


def values(s: TestSet, last: str, reference: str, value: Callable[[dict], float]) -> Values:
    """The mean of a quantity over each unit's sampled responses, of both models: (n units,) each."""
    sampled = {m: [x for x in s.items[m] if x["sample"] >= 0] for m in (last, reference)}
    sums = per_unit(sampled, units(s.records), lambda x: (value(x), 1))  # (n, 2) each
    return ratio(sums[last]), ratio(sums[reference])


def difference(tables: Sequence[Values], shared: bool, direction: int) -> dict:
    """One quantity as a plain dict: each run's difference, their mean, its interval, p and verdict."""
    by_run = [float((a - b).mean()) for a, b in tables]
    figures = {"value": np.mean(by_run)}
    if shared and len(tables[0][0]) > 1:
        c = compare_runs(np.stack([a for a, _ in tables]), np.stack([b for _, b in tables]))
        interval, figures["p"] = c.interval, c.p_value
        figures |= {"from_training": c.from_training, "from_prompts": c.from_prompts, "from_both": c.from_both}
    else:
        interval, figures["p"] = independent_t(by_run)
    figures |= zip(("low", "high"), interval)
    better = "better" if (figures["value"] > 0) == (direction >= 0) else "worse"
    verdict = "undefined" if np.isnan(figures["p"]) else better if figures["p"] <= 0.05 else "no difference shown"
    return {"by_run": by_run} | {k: plain(x) for k, x in figures.items()} | {"verdict": word(verdict, direction)}


def lines(found: dict) -> str:
    """What `compare` found, for the terminal: each run's difference stands beside the mean."""
    head, count = f"{found['last']} - {found['reference']}", len(found["runs"])
    out = [f"run {i}: {path}" for i, path in enumerate(found["runs"], 1)]
    for part in found["sets"]:
        width = max(24, len(part["set"]))
        top = f"{part['set']:<{width}}" + "".join(f"{f'run {i}':>9}" for i in range(1, count + 1))
        out += ["", f"{top}{head:>17}  verdict", "-" * (width + 9 * count + 30)]
        for row in part["metrics"]:
            each = "".join(f"{number(x, signed=True):>9}" for x in row["by_run"])
            said = SHORT.get(row["verdict"], row["verdict"])
            out.append(f"{row['metric']:<{width}}{each}{cell(row, signed=True):>17}  {said}")
    prompts = {True: "the same prompts", False: "prompts of its own"}
    kinds = " or ".join(prompts[kind] for kind in {part["shared_prompts"]: 0 for part in found["sets"]})
    return "\n".join([*out, f"\n±: 95 %, for new training runs on new prompts, from {count} runs, each on {kinds}; the "
                            "verdicts on rewards go by Holm's p over the sets"])  # fmt: skip
