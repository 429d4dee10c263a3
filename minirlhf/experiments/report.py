"""The study of SFT and RL on paper: verdicts in a table, one line per claim with its numbers, tables, figures.

Every number is an `Estimate` of `claims.py`, every verdict a `ClaimResult`; nothing is judged here.
Proved by tests/experiments/test_claims.py.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path

import numpy as np

from minirlhf.evaluation.table import markdown_table
from minirlhf.experiments.claims import (
    FLOOR, Cells, ClaimResult, Estimate, Term, claim_results, claims, decisive, drift_measures, estimate,
)
from minirlhf.harness.files import write_atomic
from minirlhf.html.svg import BLUE, MUTED, VERMILLION, Axis, axes, dot, figure, path, strip_plot, text

SERIES = {  # arm, less its number of labels -> name and colour
    "sft": ("SFT", MUTED), "more": ("SFT continued as long as PPO", VERMILLION), "ppo": ("SFT + PPO", BLUE),
}  # fmt: skip
BEGINNING = """# What people say of SFT and RL, tested

Made by `python -m minirlhf.tools.sft_against_rl`. The arms are those of `minirlhf/experiments/arms.py`. The verdicts
follow the rule of `minirlhf/experiments/claims.py`. Numbers are means over seeds, with [plain 95 % interval] and every
seed by itself. The interval is that of a bootstrap over seeds and prompts, or of t over seeds where that is wider.
A verdict goes by the p-value of that interval at 5 %, which Holm's method adjusts over all claims of a task. A plain
interval may therefore leave out 0 although its claim is not shown. Shares of runs that diverged have no interval. Their
p is that of the exact sign test over seeds, at least 1/16 with five. Reward is in [0, 1], and its intervals end there.
The table has the effect that decides a claim. "Holds here" speaks of these small models and tasks only. A run diverged
if training was cut off, or if it ended below the reward of the arm it started from, by more than prompts explain.
"""
KNOW = {  # what a reader has to know of a task before its verdicts
    "reviews": "Demonstrations earn 1/2 on average. SFT that imitates any number of them perfectly earns 1/2.",
    "arithmetic": "Every demonstration earns 1. The raw text of the base model holds sums with their answers.",
}


def fixed_number(x: float, digits: int = 3, sign: str = "") -> str:
    """Fixed digits, three or more significant ones for large numbers; – where it is undefined."""
    if not isfinite(x):
        return "–"
    return f"{x:{sign}.{digits}f}" if abs(x) < 10 else f"{x:{sign},.{max(digits - 2, 0) if abs(x) < 1000 else 0}f}"


def mean_interval(x: Estimate, sign: str = "") -> str:
    """Mean [low, high], without the brackets where there is no interval."""
    ends = f" [{fixed_number(x.low, sign=sign)}, {fixed_number(x.high, sign=sign)}]" if isfinite(x.low + x.high) else ""
    return fixed_number(x.value, sign=sign) + ends


def surely(finding: ClaimResult) -> str:
    """The adjusted p-value; nothing where there is none."""
    return f", p {finding.p_value:.3f}" if isfinite(finding.p_value) else ""


def claim_line(finding: ClaimResult) -> str:
    """The verdict, the claim, and each of its effects with every seed."""
    said = []
    for effect, x in zip(finding.claim.effects, finding.effects):
        if x.seeds:
            seeds = " ".join(fixed_number(v, sign="+") for v in x.seeds.values())
            said.append(f"{effect.name}: {mean_interval(x, '+')}, n = {len(x.seeds)}: {seeds}")
    if said and finding.floor:
        said.append(f"no arm earns {FLOOR} there, so none has much to lose")
    return f"- **{finding.verdict}**{surely(finding)}: {finding.claim.text}. {'; '.join(said)}".rstrip()


def verdict_table(found: dict[str, list[ClaimResult]]) -> str:
    """One row per claim, one column per task: the verdict, the effect that decides it and the claim's p-value."""
    def cell(task: str, text: str) -> str:
        for x in found[task]:
            if x.claim.text == text:
                word = x.verdict.removesuffix(" here")
                word = word if word.startswith("not ") else f"**{word}**"
                decided = f" {mean_interval(decisive(x.effects), '+')}{surely(x)}"
                return word if x.verdict == "not run" else word + decided
        return ""

    topics: dict[str, dict[str, None]] = {}
    for x in sum(found.values(), []):
        topics.setdefault(x.claim.topic, {})[x.claim.text] = None
    rows = [
        ["" if i else topic, text, *(cell(task, text) for task in found)]
        for topic, texts in topics.items() for i, text in enumerate(texts)
    ]  # fmt: skip
    return markdown_table(["", "claim", *found], rows, left=2 + len(found))


def names_of(cells: Cells, task: str) -> list[str]:
    """The arms that were run on a task, in the order in which they were first written down."""
    return list(dict.fromkeys(arm for t, _, arm in cells if t == task))


def arms_table(cells: Cells, task: str, sets: Sequence[str]) -> str:
    """Reward inside and outside of training, drift, cost and stability of every arm."""
    head = ["arm", "reward", "every seed", "sd", "greedy", *(f"{x}, reward" for x in sets), "KL, nats", "CPU s",
            "tokens, k", "diverged"]  # fmt: skip
    rows = []
    for arm in names_of(cells, task):
        def of(name: str, measure: str = "reward") -> Estimate:
            return estimate(cells, task, [Term(1, arm, name, measure)])

        x, lost = of("test"), of("run", "diverged").seeds.values()
        each = list(x.seeds.values())
        ended = replace(x, low=max(x.low, 0.0), high=min(x.high, 1.0))  # t over seeds does not know that
        row = [arm, mean_interval(ended), " ".join(map(fixed_number, each))]
        row += [fixed_number(float(np.std(each, ddof=1))) if len(each) > 1 else "–"]
        row += [fixed_number(of("test", "reward, greedy").value), *(fixed_number(of(name).value) for name in sets)]
        row += [fixed_number(of("test", "KL to reference, nats").value, 2), f"{of('run', 'cpu').value:.0f}"]
        rows.append([*row, f"{of('run', 'trained').value / 1000:.0f}", f"{sum(lost):.0f} of {len(lost)}"])
    return markdown_table(head, rows)


def drift_table(cells: Cells, task: str, prose: bool) -> str:
    """Diversity of samples; calibration and perplexity on the records' own responses."""
    columns = {name: measure for name, (measure, _) in drift_measures(prose).items()}
    columns = {"entropy, nats/token": columns.pop("entropy")} | columns | {"length, tokens": "length, tokens"}
    rows = [
        [arm, *(fixed_number(estimate(cells, task, [Term(1, arm, "test", x)]).value) for x in columns.values())]
        for arm in names_of(cells, task)
    ]
    return markdown_table(["arm", *columns], rows)


def labels_figure(cells: Cells, tasks: Sequence[str], labels: Sequence[int]) -> str:
    """Reward against labelled examples: one panel per task, one dot per seed, a line through the means."""
    shapes: list[str] = []
    for i, (name, colour) in enumerate(SERIES.values()):
        shapes += [dot(60 + 210 * i, 322, colour), text(70 + 210 * i, 326, name)]
    for i, task in enumerate(tasks):
        x, y = Axis.over(labels, 60 + 330 * i, 340 + 330 * i, "log"), Axis(0.0, 1.0, 260, 40)
        shapes += [text(x.start, 24, f"{task}: reward", size=14), *axes(x, y, "labelled examples", "")]
        for arm, (_, colour) in SERIES.items():
            known = [(x.place(n), e) for n in labels if (e := estimate(cells, task, [Term(1, f"{arm}{n}")])).seeds]
            shapes += [dot(at, y.place(reward), colour) for at, e in known for reward in e.seeds.values()]
            shapes.append(path([(at, y.place(e.value)) for at, e in known], colour, 2))
    return figure(60 + 330 * len(tasks), 340, "Reward against labelled examples", shapes)


def write_report(
    cells: Cells, sets: dict[str, list[str]], labels: Sequence[int], prose: Sequence[str], out: Path
) -> str:
    """study.md, which is returned, and the figures. sets: task -> its sets of prompts, "test" first."""
    found = {task: claim_results(cells, task, claims(labels, x[1:], task in prose)) for task, x in sets.items()}
    parts = [BEGINNING, verdict_table(found)]
    for task in sets:
        parts += [f"\n## {task}\n", *([f"{KNOW[task]}\n"] if task in KNOW else [])]
        parts += map(claim_line, found[task])
    for task, names in sets.items():
        parts += [f"\n## {task}: the arms\n", arms_table(cells, task, names[1:])]
        parts += [f"\n## {task}: diversity and drift\n", drift_table(cells, task, task in prose)]
        rows = [(arm, list(estimate(cells, task, [Term(1, arm)]).seeds.values())) for arm in names_of(cells, task)]
        plot = strip_plot(f"{task}: reward on held-out prompts", "reward, one dot per seed", rows)
        write_atomic(out / f"study.{task}.svg", plot.encode())
    write_atomic(out / "study.labels.svg", labels_figure(cells, list(sets), labels).encode())
    said = "\n".join(parts) + "\n"
    write_atomic(out / "study.md", said.encode())
    return said
