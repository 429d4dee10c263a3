"""The comparison as people read it: a table for the terminal, and report.json for programs.

Every metric carries the value and 95 % interval of each model, and the paired difference between each other
model and the reference with its interval, p-value and verdict. Primary metrics, one a set, are a family: their
verdicts go by Holm's adjusted p. Proved by tests/test_report.py.
"""

import math
from collections.abc import Sequence

import numpy as np

from minirlhf.alarms import alarms
from minirlhf.analysis import Metric, plain, ratio, regret_metrics, view_of
from minirlhf.evidence import VERSION, TestSet
from minirlhf.exhibits import best_of_curve, best_of_reference, calibration, choose, lengths, samples, wins
from minirlhf.intervals import clopper_pearson, corpus_interval, pivot, t_interval
from minirlhf.metrics import perplexity
from minirlhf.quantities import metric_table
from minirlhf.stats import Difference, holm, paired_corpus, verdict

RESAMPLES = 2000
FEW = 30  # units, below which a mean's bootstrap interval is too narrow: it covers 49 % at 2, 73 % at 3, 87 % at 8
SHORT = {"no difference shown": "not shown"}  # so that a line of three models fits 100 columns


def build(run: dict, sets: Sequence[TestSet], names: Sequence[str] = ()) -> dict:
    """report.json: every number of an evaluation from its evidence alone. names: of `quantities.METRICS`.

    Raises UserError as `metric_table` does.
    """
    models, reference = list(run["models"]), run["reference"]
    last, seed = models[-1], run["seed"]
    report = {"version": VERSION} | run | {"last": last, "tasks": {}}
    trained_on = {prompt for s in sets for prompt in (s.about.get("trained_on") or ())}
    report["alarms"] = alarms(run["models"], {s.title: s.items for s in sets}, trained_on)
    for s in sets:
        view = view_of(
            s.records, s.items, s.texts, s.about.get("reward", ""), run.get("vocabulary", 0), s.about.get("temperatures")
        )
        metrics, optimum = metric_table(view, names), None
        if s.about.get("beta"):
            known = s.about.get("optimum")
            more, optimum = regret_metrics(s.items, reference, last, s.about["beta"], view.unit, known)
            optimum |= {k: plain(optimum[k]) for k in ("worth", "value", "low", "high") if optimum.get(k) is not None}
            metrics += more
        rows = compare(metrics, reference, seed)
        task = {"prompts": len(s.records), "units": int(view.unit.max()) + 1, "metrics": rows}
        task["temperatures"] = view.temperatures
        task |= {"samples": 1 + max(x["sample"] for x in s.items[last])}
        if last != reference:
            task["wins"] = wins(view, reference, last)
        if by_length := lengths(view):
            best = optimum["best_of"] if optimum else best_of_reference(view, reference)
            task |= {"best_of_n": best_of_curve(best), "lengths": by_length}
        if optimum:
            task["optimum"] = optimum
        if ngram := s.about.get("ngram"):
            task["ngram"] = ngram | {"perplexity": plain(perplexity(ngram["nll"], ngram["tokens"]))}
        task["calibration"] = calibration(s.texts, seed)
        task["examples"] = samples(view, choose(view, reference, last, seed), last)
        task["attention"] = s.about.get("attention")
        report["tasks"][s.title] = task
    adjust([row for task in report["tasks"].values() for row in task["metrics"] if row["primary"]])
    return report


def compare(metrics: Sequence[Metric], reference: str, seed: int = 0) -> list[dict]:
    """Each metric as a plain dict: values and intervals of all models, each one's difference from the reference.

    NaN becomes None, so that the JSON is JSON.
    """
    rows = []
    for metric in metrics:
        row: dict = {"metric": metric.name, "group": metric.group, "direction": metric.direction}
        row |= {"primary": metric.primary, "models": {}, "differences": {}}
        row |= {"note": metric.note} if metric.note else {}
        for model, statistics in metric.statistics.items():
            value = float(metric.combine(statistics.sum(0, keepdims=True))[0])
            low, high = interval(metric, statistics, seed)
            row["models"][model] = {"value": plain(value), "low": plain(low), "high": plain(high)}
            if model == reference or reference not in metric.statistics:
                continue
            d = paired_corpus(statistics, metric.statistics[reference], metric.combine, seed, RESAMPLES)
            low, high = difference_interval(metric, statistics, metric.statistics[reference], d)
            row["differences"][model] = {
                "value": plain(d.difference),
                "low": plain(low),
                "high": plain(high),
                "p": plain(d.p_value),
                "n": d.n,
                "minimum_detectable": plain(d.minimum_detectable_effect),
                "prompts_needed": plain(d.prompts_needed),
                "verdict": word(verdict(d, metric.direction >= 0), metric.direction),
            } | ({"undefined": d.undefined} if d.undefined else {})
        rows.append(row)
    return rows


def interval(metric: Metric, statistics: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % interval of one model's metric, by the bootstrap over units; but where that is known not to cover:

    of a mean over fewer than FEW units Student's, and of a share that is 0 or 1 in all units Clopper and
    Pearson's, since a resample of equal values has no width. statistics: (n, d).
    """
    value = metric.combine(statistics.sum(0, keepdims=True))[0]
    means = unit_means(metric, statistics)
    share = metric.direction != 0 and means is not None and (0 <= means).all() and (means <= 1).all()
    if share and len(means) > 1 and value in (0, 1):
        return clopper_pearson(int(value) * len(means), len(means))
    if means is not None and 1 < len(means) < FEW:
        low, high = t_interval(means)
        return (max(low, 0.0), min(high, 1.0)) if share else (low, high)
    low, high = corpus_interval(statistics, metric.combine, RESAMPLES, seed)
    return pivot(value, low, high) if metric.group == "calibration" and metric.combine is not ratio else (low, high)


def difference_interval(
    metric: Metric, a: np.ndarray, b: np.ndarray, d: Difference
) -> tuple[float, float]:
    """95 % interval of metric(a) − metric(b): Student's for a mean over fewer than FEW units, else the bootstrap's."""
    first, second = unit_means(metric, a), unit_means(metric, b)
    if d.undefined or first is None or second is None or len(first) >= FEW:
        return d.bootstrap_interval
    return t_interval(first - second)


def unit_means(metric: Metric, statistics: np.ndarray) -> np.ndarray | None:
    """The metric of each unit, (n,), where it is a mean over units of equal size; else None."""
    if metric.combine is not ratio or (statistics[:, 1] != statistics[0, 1]).any() or not statistics[0, 1]:
        return None
    return ratio(statistics)


def adjust(rows: Sequence[dict], alpha: float = 0.05) -> None:
    """Give each difference Holm's p over these rows, model by model, and take back verdicts that do not survive it."""
    for model in {model for row in rows for model in row["differences"]}:
        family = [row["differences"][model] for row in rows if model in row["differences"]]
        adjusted = holm([math.nan if d["p"] is None else d["p"] for d in family])
        for d, p in zip(family, adjusted):
            d["p_holm"] = plain(p)
            if p > alpha:
                d["verdict"] = "no difference shown"


def word(verdict: str, direction: int) -> str:
    """A verdict on a quantity that is neither good nor bad says higher or lower."""
    return {"better": "higher", "worse": "lower"}.get(verdict, verdict) if direction == 0 else verdict


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


def table(title: str, rows: Sequence[dict], models: Sequence[str], reference: str) -> str:
    """The rows as text: a column a model, value ± the longer side of its interval, and last − reference with verdict."""
    last = models[-1]
    width = max(len(title), *(len(row["metric"]) for row in rows))
    compared = last != reference and len(models) > 1
    lines = [f"{title:<{width}}" + "".join(f"{name:>14}" for name in models)]
    if compared:
        lines[0] += f"{last + ' - ' + reference:>16}  verdict"
    for row in rows:
        line = f"{row['metric']:<{width}}" + "".join(f"{cell(row['models'][name]):>14}" for name in models)
        if compared:
            d = row["differences"][last]
            line += f"{cell(d, signed=True):>16}  {SHORT.get(d['verdict'], d['verdict'])}"
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
    tokens, n = optimum["tokens"], optimum["worth"]
    if n == 0:
        line += f"; {policy}'s reward is below one answer of {reference}"
    elif n is not None:
        line += f"; {policy}'s reward is worth best-of-{n:.3g} of {reference}"
        line += f", {n * tokens[reference]:.0f} tokens an answer against {tokens[policy]:.0f}"
    else:
        line += f"; no best-of-n of {reference} that these samples show earns {policy}'s reward"
    return line


def ngram_line(ngram: dict) -> str:
    """The perplexity that a transformer must beat to have learnt more than local counts."""
    model = f"{ngram['order']}-gram of {ngram['answers']:,} training answers"
    return f"reference perplexity of a {model} (Kneser-Ney): {number(ngram['perplexity'])}"


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
