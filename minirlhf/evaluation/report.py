"""report.json: every number of an evaluation, made from its items alone.

Every metric carries the value and 95 % interval of each model, and the paired difference between each other model
and the one that all are compared with, with its interval, p-value and verdict. KL and J are to the reference of each.
Proved by tests/evaluation/test_report.py.
"""

from collections.abc import Sequence

from minirlhf.evaluation.alarms import alarms
from minirlhf.evaluation.catalogue import metric_table
from minirlhf.evaluation.items import VERSION, TestSet
from minirlhf.evaluation.metric import or_none, view_of
from minirlhf.evaluation.optimum import regret_metrics
from minirlhf.evaluation.panels import (
    best_of_curve, best_of_reference, calibration_panel, choose_examples, length_panel, sample_panel, win_panel,
)
from minirlhf.evaluation.verdicts import adjust, compare_models
from minirlhf.harness.loop import bar
from minirlhf.metrics.scores import perplexity


def build(run: dict, sets: Sequence[TestSet], names: Sequence[str] = ()) -> dict:
    """report.json from the items alone. names: of `catalogue.METRICS`. Raises UserError as `metric_table` does."""
    models, against, reference = run["models"], run["against"], run["reference"]
    last, seed = list(models)[-1], run["seed"]
    others = [m for m in models if models[m]["reference"] != reference]
    report = {"version": VERSION} | run | {"last": last, "tasks": {}}
    trained_on = {prompt for s in sets for prompt in (s.about.get("trained_on") or ())}
    report["alarms"] = alarms(models, {s.title: s.items for s in sets}, trained_on, against)
    for s in bar(len(sets), "verdicts", iterable=sets, unit=" sets", leave=False):
        view = view_of(s, run.get("vocabulary", 0), reference)
        metrics, optimum = metric_table(view, names), None
        if beta := s.about.get("beta"):
            known = s.about.get("optimum")
            more, optimum = regret_metrics(view.sampled, reference, last, beta, view.unit, known, others)
            metrics += more
        rows = compare_models(metrics, against, seed)
        task = {"prompts": len(s.records), "units": int(view.unit.max()) + 1, "metrics": rows}
        task |= {"temperatures": view.temperatures, "samples": 1 + max(x["sample"] for x in s.items[last])}
        if last != against:
            task["wins"] = win_panel(view, against, last)
        if by_length := length_panel(view):
            best = optimum["best_of"] if optimum else best_of_reference(view, reference)
            task |= {"best_of_n": best_of_curve(best), "lengths": by_length}
        if optimum:
            task["optimum"] = optimum
        if ngram := s.about.get("ngram"):
            task["ngram"] = ngram | {"perplexity": or_none(perplexity(ngram["nll"], ngram["tokens"]))}
        task["calibration"] = calibration_panel(s.texts, seed)
        task["examples"] = sample_panel(view, choose_examples(view, against, last, seed), last)
        task["attention"] = s.about.get("attention")
        report["tasks"][s.title] = task
    adjust([row for task in report["tasks"].values() for row in task["metrics"] if row["primary"]])
    return report
