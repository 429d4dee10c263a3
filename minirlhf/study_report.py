"""The study of SFT and RL on paper: a table of verdicts, a line a claim with its numbers, tables, figures.

Every number is an `Estimate` of `claims.py`, every verdict a `Finding`; nothing is judged here.
Proved by tests/test_claims.py.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path

import numpy as np

from minirlhf.claims import (
    BEST_OF, DRIFT, FLOOR, Cells, Estimate, Finding, Term, claims, decisive, estimate, findings,
)  # fmt: skip
from minirlhf.files import write_atomic
from minirlhf.svg import dot, figure, line, strip_plot, text, ticks

SERIES = {"sft": "#57606a", "more": "#d55e00", "ppo": "#0072b2"}  # arm, less its number of labels -> colour
NAMES = {"sft": "SFT", "more": "SFT continued as long as PPO", "ppo": "SFT + PPO", "base": "base"}
BEGINNING = """# What people say of SFT and RL, tested

`python -m minirlhf.tools.study`; the rule of the verdicts is `minirlhf/claims.py`, the arms are those of
`minirlhf/experiment.py`. Numbers: mean over seeds, [plain 95 % interval: bootstrap over seeds, then prompts,
or t over seeds where that is wider], and every seed by itself. Verdicts: by the p-value of that interval,
adjusted by Holm over all claims of a task, at 5 %; so a plain interval may leave out 0 and its claim not be
shown. Shares of runs that diverged: the exact sign test over seeds, no interval; of five its p is 1/16 at the
least. Reward is in [0, 1], and its intervals end there. The table has the effect that decides a claim.
On these small models and tasks only: "holds here" says no more. A run counts as diverged if training was cut
off, or if it ended with a reward below that of the arm it started from, by more than prompts explain.
"""
KNOW = {  # what a reader has to know of a task before its verdicts
    "reviews": "Demonstrations earn 1/2 on average: SFT that imitates them perfectly earns 1/2, on any number of them.",
    "arithmetic": "Every demonstration earns 1. The raw text of the base model holds sums with their answers.",
}


def number(x: float, digits: int = 3, sign: str = "") -> str:
    """Fixed digits, three or more significant ones for large numbers; – where it is undefined."""
    if not isfinite(x):
        return "–"
    return f"{x:{sign}.{digits}f}" if abs(x) < 10 else f"{x:{sign},.{max(digits - 2, 0) if abs(x) < 1000 else 0}f}"


def interval(x: Estimate, sign: str = "") -> str:
    """Mean [low, high], without the brackets where there is no interval."""
    ends = f" [{number(x.low, sign=sign)}, {number(x.high, sign=sign)}]" if isfinite(x.low + x.high) else ""
    return number(x.value, sign=sign) + ends


def reward(cells: Cells, task: str, arm: str, measure: str = "reward") -> str:
    """Mean [low, high] of a reward, which ends at 0 and 1, as t over seeds does not know."""
    x = estimate(cells, task, [Term(1, arm, "test", measure)])
    return interval(replace(x, low=max(x.low, 0.0), high=min(x.high, 1.0)))


def surely(finding: Finding) -> str:
    """The adjusted p-value; nothing where there is none."""
    return f", p {finding.p_value:.3f}" if isfinite(finding.p_value) else ""


def claim_line(finding: Finding) -> str:
    """The verdict, the claim, and each of its effects with every seed."""
    said = []
    for effect, x in zip(finding.claim.effects, finding.effects):
        if x.seeds:
            seeds = " ".join(number(v, sign="+") for v in x.seeds.values())
            said.append(f"{effect.name}: {interval(x, '+')}, n = {len(x.seeds)}: {seeds}")
    if said and finding.floor:
        said.append(f"no arm earns {FLOOR} there, so none has much to lose")
    return f"- **{finding.verdict}**{surely(finding)}: {finding.claim.text}. {'; '.join(said)}".rstrip()


def verdict_table(found: dict[str, list[Finding]]) -> str:
    """A row a claim, a column a task: the verdict, the effect that decides it and the claim's p-value."""
    def cell(task: str, text: str) -> str:
        for x in found[task]:
            if x.claim.text == text:
                word = x.verdict.removesuffix(" here")
                word = word if word.startswith("not ") else f"**{word}**"
                decided = f" {interval(decisive(x.effects), '+')}{surely(x)}"
                return word if x.verdict == "not run" else word + decided
        return ""

    topics: dict[str, dict[str, None]] = {}
    for x in sum(found.values(), []):
        topics.setdefault(x.claim.topic, {})[x.claim.text] = None
    rows = [
        ["" if i else topic, text, *(cell(task, text) for task in found)]
        for topic, texts in topics.items() for i, text in enumerate(texts)
    ]  # fmt: skip
    return table(["", "claim", *found], rows, left=2 + len(found))


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table, numbers on the right, behind `left` columns of words."""
    rule = ["---"] * left + ["--:"] * (len(head) - left)
    lines = [" | ".join(row) for row in (head, rule, *rows)]
    return "\n".join(f"| {x} |" for x in lines)


def names_of(cells: Cells, task: str) -> list[str]:
    """The arms that were run on a task, in the order in which they were first written down."""
    return list(dict.fromkeys(arm for t, _, arm in cells if t == task))


def arms_table(cells: Cells, task: str, sets: Sequence[str]) -> str:
    """Reward inside and outside of training, drift, cost and stability of every arm."""
    head = ["arm", "reward", "every seed", "sd", "greedy", *(f"{x}, reward" for x in sets), "KL, nats", "CPU s",
            "tokens, k", "diverged"]  # fmt: skip
    rows = []
    for arm in names_of(cells, task):
        each = list(estimate(cells, task, [Term(1, arm)]).seeds.values())
        row = [arm, reward(cells, task, arm), " ".join(number(x) for x in each)]
        row += [number(float(np.std(each, ddof=1))) if len(each) > 1 else "–"]
        row += [number(estimate(cells, task, [Term(1, arm, "test", "greedy")]).value)]
        row += [number(estimate(cells, task, [Term(1, arm, name)]).value) for name in sets]
        row += [number(estimate(cells, task, [Term(1, arm, "test", "KL")]).value, 2)]
        cpu, tokens, lost = (estimate(cells, task, [Term(1, arm, "run", x)]) for x in ("cpu", "trained", "diverged"))
        row += [f"{cpu.value:.0f}", f"{tokens.value / 1000:.0f}"]
        row += [f"{sum(lost.seeds.values()):.0f} of {len(lost.seeds)}"]
        rows.append(row)
    return table(head, rows)


def drift_table(cells: Cells, task: str) -> str:
    """Diversity, calibration and perplexity on the records' own responses."""
    def row(arm: str) -> list[str]:
        return [arm] + [number(estimate(cells, task, [Term(1, arm, "test", key)]).value) for key in (*DRIFT, "length")]

    head = ["arm", "entropy, nats/token", *list(DRIFT)[1:], "length, tokens"]
    return table(head, [row(arm) for arm in names_of(cells, task)])


def best_of_table(cells: Cells, task: str, sft: str, ppo: str) -> str:
    """What the best of n samples earns, and how many tokens an answer takes; and the same of PPO's one."""
    def row(name: str, arm: str, measure: str, n: int) -> list[str]:
        length = estimate(cells, task, [Term(1, arm, "test", "length")]).value
        return [name, reward(cells, task, arm, measure), number(n * length, 1)]

    rows = [row(f"best of {n} of {sft}", sft, f"best of {n}", n) for n in BEST_OF]
    return table(["answer", "reward", "tokens sampled"], [*rows, row(f"one of {ppo}", ppo, "reward", 1)])


def panel(left: float, title: str, axis: str, xs: Sequence[float], marks: Sequence[str]) -> list[str]:
    """The frame of a plot of rewards, 280 wide, with marks at the x places, from 0 to 1."""
    shapes = [text(left, 24, title, size=14), text(left + 140, 298, axis, "middle")]
    for y in ticks(0.0, 1.0):
        shapes += [line(left, height(y), left + 280, height(y), "#d0d7de")]
        shapes += [text(left - 6, height(y) + 4, f"{y:g}", "end")]
    return shapes + [text(left + 280 * x, 276, mark, "middle") for x, mark in zip(xs, marks)]


def height(reward: float) -> float:
    """The y of a reward in a panel."""
    return 260 - 220 * reward


def legend(y: float) -> list[str]:
    """The three series."""
    shapes, x = [], 60.0
    for name, colour in SERIES.items():
        shapes += [dot(x, y - 4, colour), text(x + 10, y, NAMES[name])]
        x += 40 + 7 * len(NAMES[name])
    return shapes


def labels_figure(cells: Cells, tasks: Sequence[str], labels: Sequence[int]) -> str:
    """Reward against labelled examples: a panel a task, a dot a seed, a line through the means."""
    shapes = legend(326)
    places = [(i + 0.5) / len(labels) for i in range(len(labels))]
    for i, task in enumerate(tasks):
        left = 60 + 330 * i
        shapes += panel(left, f"{task}: reward", "labelled examples", places, [f"{n:,}" for n in labels])
        for name, colour in SERIES.items():
            known = [(left + 280 * x, e) for n, x in zip(labels, places)
                     if (e := estimate(cells, task, [Term(1, f"{name}{n}")])).seeds]  # fmt: skip
            shapes += [dot(x, height(y), colour) for x, e in known for y in e.seeds.values()]
            for (x1, a), (x2, b) in zip(known, known[1:]):
                shapes.append(line(x1, height(a.value), x2, height(b.value), colour, 2))
    return figure(60 + 330 * len(tasks), 340, "Reward against labelled examples", shapes)


def cost_figure(cells: Cells, tasks: Sequence[str], labels: Sequence[int]) -> str:
    """Reward against the CPU seconds from scratch: a panel a task, a dot a seed, a line from SFT to what follows."""
    shapes = legend(326)
    for i, task in enumerate(tasks):
        left = 60 + 330 * i
        found = {}
        for name in [f"{kind}{n}" for kind in SERIES for n in labels]:
            cost, score = (estimate(cells, task, [t]) for t in (Term(1, name, "run", "cpu"), Term(1, name)))
            if score.seeds:
                found[name] = cost, score
        most = max((x for cost, _ in found.values() for x in cost.seeds.values()), default=1.0) * 1.05
        marks = ticks(0.0, most)
        shapes += panel(left, f"{task}: reward", "CPU seconds since the beginning", [x / most for x in marks],
                        [f"{x:g}" for x in marks])  # fmt: skip
        for name, (cost, score) in found.items():
            kind = name.rstrip("0123456789")
            where = [(left + 280 * x / most, height(y)) for x, y in zip(cost.seeds.values(), score.seeds.values())]
            shapes += [dot(*xy, SERIES[kind]) for xy in where]
            if kind != "sft" and (before := found.get(f"sft{name.removeprefix(kind)}")):
                start = left + 280 * before[0].value / most, height(before[1].value)
                shapes.append(line(*start, left + 280 * cost.value / most, height(score.value), SERIES[kind], 1.5))
    return figure(60 + 330 * len(tasks), 340, "Reward against CPU seconds", shapes)


def write_report(
    cells: Cells, sets: dict[str, list[str]], labels: Sequence[int], prose: Sequence[str], out: Path
) -> str:
    """study.md, which is returned, and the figures. sets: task -> its sets of prompts, "test" first."""
    found = {task: findings(cells, task, claims(labels, x[1:], task in prose)) for task, x in sets.items()}
    parts = [BEGINNING, verdict_table(found)]
    for task in sets:
        parts += [f"\n## {task}\n", *([f"{KNOW[task]}\n"] if task in KNOW else [])]
        topic = ""
        for finding in found[task]:
            if finding.claim.topic != topic:
                parts.append(f"\n{finding.claim.topic}\n" if topic else f"{finding.claim.topic}\n")
                topic = finding.claim.topic
            parts.append(claim_line(finding))
    most = max(labels)
    for task, names in sets.items():
        parts += [f"\n## {task}: the arms\n", arms_table(cells, task, names[1:])]
        parts += [f"\n## {task}: diversity and drift\n", drift_table(cells, task)]
        parts += [f"\n## {task}: best of n\n", best_of_table(cells, task, f"sft{most}", f"ppo{most}")]
        rows = [(arm, list(estimate(cells, task, [Term(1, arm)]).seeds.values())) for arm in names_of(cells, task)]
        plot = strip_plot(f"{task}: reward on held-out prompts", "reward, a dot a seed", rows, 0.0, 1.0)
        write_atomic(out / f"study.{task}.svg", plot.encode())
    write_atomic(out / "study.labels.svg", labels_figure(cells, list(sets), labels).encode())
    write_atomic(out / "study.cost.svg", cost_figure(cells, list(sets), labels).encode())
    said = "\n".join(parts) + "\n"
    write_atomic(out / "study.md", said.encode())
    return said
