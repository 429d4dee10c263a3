"""The tables that one would cite, of report.json, with what they rest on: Markdown, LaTeX, or CSV.

CSV has a line for each set, metric and model; the others have a table for each set, and no text is markup in them.
Proved by tests/evaluation/test_cite.py.
"""

import csv
import io
import re
from collections.abc import Callable, Sequence

from minirlhf.evaluation.answer import ends
from minirlhf.evaluation.table import SHORT, number, one_line

ENDING = {"markdown": "md", "latex": "tex", "csv": "csv"}
COLUMNS = """set metric group primary direction model value low high against difference_value difference_low
    difference_high p p_holm decided_by verdict n prompts samples seed sha256""".split()
MARKDOWN = {c: f"\\{c}" for c in "\\`*_[]<>|~$&#"}
LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {c: f"{{{c}}}" for c in "[]*`\"'-"}  # in a row's first place, or in pairs
LATEX |= {c: rf"\text{x}{{}}" for c, x in zip("\\~^<>|", "backslash asciitilde asciicircum less greater bar".split())}


def cite(report: dict, kind: str, chosen: Callable[[Sequence[dict]], Sequence[dict]] = list) -> str:
    """The whole file. kind: of ENDING.  chosen: which of a set's metrics; CSV has them all."""
    if kind == "csv":
        return as_csv(report)
    lines, tex, escapes = [], kind == "latex", str.maketrans(LATEX if kind == "latex" else MARKDOWN)
    prints = ", ".join(f"{name} {m['sha256'][:12]}" for name, m in report["models"].items())
    for title, task in report["tasks"].items():
        head, *body = cells(report, chosen(task["metrics"]))
        note = (f"{title}: {task['prompts']} prompts (n = {task['units']} independent), {task['samples']} answers to "
                f"each at temperature 1, seed {report['seed']}. Brackets hold 95 % intervals over prompts. p: a paired "
                "permutation test; Holm: p adjusted for a model's primary metrics of all sets; verdicts at 5 %. KL and J "
                f"are to {report['reference']}. Weights, sha256: {prints}.")  # fmt: skip
        *head, note = (one_line(x).translate(escapes) for x in (*head, note))
        body = [[one_line(name).translate(escapes), *row] for name, *row in body]  # the other cells are numbers
        if tex:  # an interval stands below its value: side by side they are wider than a page
            stacked = [[re.sub(r"(.+) (\[.+)", r"\\shortstack[r]{\1\\\\{}\2}", x) for x in row] for _, *row in body]
            rows = [[line[0], *(re.sub("[-<]", r"$\g<0>$", x) for x in row)] for line, row in zip(body, stacked)]
            lines += [r"\begin{table}\centering\footnotesize\setlength{\tabcolsep}{3pt}", rf"\caption{{{note}}}",
                      rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", rf"{' & '.join(head)} \\ \hline",
                      *(rf"{' & '.join(row)} \\" for row in rows), r"\end{tabular}\end{table}", ""]  # fmt: skip
        else:
            rows = [head, [":--", *["--:"] * (len(head) - 1)], *body]
            lines += [*(f"| {' | '.join(row)} |" for row in rows), "", note, ""]
    return "\n".join(lines)


def cells(report: dict, rows: Sequence[dict]) -> list[list[str]]:
    """Heading and rows: metric, each model's value and interval, and of the last difference, p, rule and verdict."""
    last, against = report["last"], report["against"]
    out = [["metric", *report["models"], *([f"{last} - {against}", "p", "by", "verdict"] if last != against else [])]]
    for row in rows:
        out.append([row["metric"], *(f"{number(x['value'])} {ends(x)}".strip() for x in row["models"].values())])
        if last != against:
            d = row["differences"][last]
            p = "-" if (p := d[d["decided_by"]]) is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
            by, verdict = "Holm" if d["decided_by"] == "p_holm" else "p", SHORT.get(d["verdict"], d["verdict"])
            out[-1] += [f"{number(d['value'], True)} {ends(d)}".strip(), p, by, verdict]
    return out


def as_csv(report: dict) -> str:
    """A field is empty where a number is undefined, or there is none."""
    lines = csv.DictWriter(file := io.StringIO(), COLUMNS, extrasaction="ignore", lineterminator="\n")
    lines.writeheader()
    for title, task in report["tasks"].items():
        for row in task["metrics"]:
            for model, x in row["models"].items():
                d = {f"difference_{k}" if k in x else k: v for k, v in row["differences"].get(model, {}).items()}
                about = {"set": title, "model": model, "seed": report["seed"], "against": report["against"] * bool(d)}
                lines.writerow(task | row | report["models"][model] | x | d | about)
    return file.getvalue()
