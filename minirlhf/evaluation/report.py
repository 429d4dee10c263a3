"""report.json: every number of an evaluation, made from its evidence alone.

Every metric carries the value and 95 % interval of each model, and the paired difference between each other
model and the reference with its interval, p-value and verdict. Proved by tests/evaluation/test_report.py.
"""

from collections.abc import Sequence

from minirlhf.evaluation.alarms import alarms
from minirlhf.evaluation.catalogue import metric_table
from minirlhf.evaluation.items import VERSION, TestSet
from minirlhf.evaluation.metric import plain, view_of
from minirlhf.evaluation.optimum import regret_metrics
from minirlhf.evaluation.panels import best_of_curve, best_of_reference, calibration, choose, lengths, samples, wins
from minirlhf.evaluation.verdicts import adjust, compare
from minirlhf.metrics.scores import perplexity


def build(run: dict, sets: Sequence[TestSet], names: Sequence[str] = ()) -> dict:
    """report.json: every number of an evaluation from its evidence alone. names: of `catalogue.METRICS`.

    Raises UserError as `metric_table` does.
    """
    models, reference = list(run["models"]), run["reference"]
    last, seed = models[-1], run["seed"]
    report = {"version": VERSION} | run | {"last": last, "tasks": {}}
    trained_on = {prompt for s in sets for prompt in (s.about.get("trained_on") or ())}
    report["alarms"] = alarms(run["models"], {s.title: s.items for s in sets}, trained_on)
    for s in sets:
        view = view_of(s, run.get("vocabulary", 0))
        metrics, optimum = metric_table(view, names), None
        if s.about.get("beta"):
            known = s.about.get("optimum")
            more, optimum = regret_metrics(view.sampled, reference, last, s.about["beta"], view.unit, known)
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
