"""report.json as text for the terminal: the table, one line a metric, and the samples side by side.

Proved by tests/evaluation/test_table.py.
"""

from collections.abc import Sequence

import numpy as np

from minirlhf.rl.optimum import LEAST

SHORT = {"no difference shown": "not shown"}  # so that a line of three models fits 100 columns
BY = {"p": "p", "p_holm": "H"}  # what decided, its p or Holm's


def number(x: float | None, signed: bool = False) -> str:
    """Four significant figures or so, at most 7 characters; a dash where undefined."""
    if x is None:
        return "-"
    # The perplexity of an untrained model must not run into the next column; a reward on a small scale is not 0.
    if abs(x) >= 1e5 or 1e-9 < abs(x) < 5e-4:
        return f"{x:+.0e}" if signed else f"{x:.0e}"
    digits = 3 if abs(x) < 10 else 2 if abs(x) < 100 else 1 if abs(x) < 1000 else 0
    x = x if round(x, digits) else 0.0  # no minus before a zero
    return f"{x:+.{digits}f}" if signed else f"{x:.{digits}f}"


def judged(d: dict, width: int) -> str:
    """A difference, what decided, and the verdict."""
    return f"{cell(d, signed=True):>{width}} {BY[d['decided_by']]:<2} {SHORT.get(d['verdict'], d['verdict'])}"


def text_table(title: str, rows: Sequence[dict], models: Sequence[str], against: str) -> str:
    """The rows as text: a column a model, value ± the longer side of its interval, and last − against, judged."""
    last = models[-1]
    width = max(len(title), *(len(row["metric"]) for row in rows))
    compared = last != against and len(models) > 1
    lines = [f"{title:<{width}}" + "".join(f" {name:>13}" for name in models)]
    if compared:
        lines[0] += f" {last + ' - ' + against:>13} by verdict"
    for row in rows:
        line = f"{row['metric']:<{width}}" + "".join(f"{cell(row['models'][name]):>14}" for name in models)
        if compared:
            d = row["differences"][last]
            line += judged(d, 14)
            if d["verdict"] == "no difference shown" and d["prompts_needed"]:
                n = d["prompts_needed"]
                line += f", n {n:.0f}" if n < 1e4 else f", n {n:.0e}".replace("+0", "").replace("+", "")
        lines.append(line.rstrip())
    notes = [f"{row['metric']}: {row['note']}" for row in rows if row.get("note")]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:], *notes])


def cell(estimate: dict, signed: bool = False) -> str:
    """A value ± the longer side of its interval."""
    if estimate["low"] is None:
        return number(estimate["value"], signed)
    side = max(estimate["high"] - estimate["value"], estimate["value"] - estimate["low"])
    return f"{number(estimate['value'], signed)} ±{number(side)}"


def optimum_line(optimum: dict, reference: str, policy: str) -> str:
    """What could be had, and what it costs to have it from the reference by choosing among many samples."""
    size = optimum["effective_size"]
    if optimum["value"] is None:
        line = f"J* is not shown: {size:.0f} effective samples are too few (more: --reference-samples)"
    else:
        line = f"J* = {cell(optimum)}, on {size:.0f} effective samples"
    tokens, own = optimum["tokens"], optimum["worth"]
    n, size = own["value"], own["effective_size"]
    if size < LEAST:
        return f"{line}; worth in best-of-n is not shown, {size:.0f} are too few"
    if not n:
        why = "no best-of-n that these samples show earns" if n is None else "one answer earns more than"
        return f"{line}; of {reference}, {why} {policy}'s reward"
    top = "or more" if own["high"] is None else f"{own['high']:.3g}"
    ends = "" if own["low"] is None else f" [{own['low']:.3g}, {top}]"
    line += f"; {policy}'s reward is worth best-of-{n:.3g}{ends} of {reference}, on {size:.0f}"
    return line + f", {n * tokens[reference]:.0f} tokens per answer against {tokens[policy]:.0f}"


def side_by_side(items: dict[str, list[dict]], wanted: int, seed: int) -> str:
    """Some prompts, chosen at random by the seed, with each model's first sample."""
    first = {name: {x["index"]: x for x in rows if x["sample"] == 0} for name, rows in items.items()}
    indices = sorted(next(iter(first.values())))
    chosen = sorted(np.random.default_rng(seed).choice(indices, min(wanted, len(indices)), replace=False).tolist())
    width = max(map(len, first))
    lines = []
    for index in chosen:
        lines.append(f"> {one_line(next(iter(first.values()))[index]['prompt'])}")
        for name, rows in first.items():
            x = rows[index]
            reward = f"{x['scores']['reward']:.2f} " if "reward" in x["scores"] else ""
            lines.append(f"  {name:<{width}} {reward}| {one_line(x['response'])}{'' if x['stop'] == 'eos' else ' …'}")
    return "\n".join(lines)


def one_line(text: str) -> str:
    """The text without line breaks and control characters, which could rearrange a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table: `left` columns of words, then right-aligned numbers."""
    rule = ["---"] * left + ["--:"] * (len(head) - left)
    lines = [" | ".join(row) for row in (head, rule, *rows)]
    return "\n".join(f"| {x} |" for x in lines)
