"""Compare models on held-out prompts: base, SFT and PPO, with intervals and verdicts.

python evaluate.py                                         out/base, out/sft, out/ppo on their tasks -> out/eval
python evaluate.py --prompt "47+85="                       what each model answers
python evaluate.py --data mine.jsonl --models a=DIR b=DIR  your own prompts and models
python evaluate.py --text novel.txt                        perplexity and bits per byte of long texts
python evaluate.py --from out/eval/items.jsonl             every number and figure again, without the models
python evaluate.py --reports old/report.json report.json   two evaluations, by item; training runs: better, or lucky?
"""

import time
from pathlib import Path

from minirlhf.evaluation import items, reports
from minirlhf.evaluation.catalogue import metric_names
from minirlhf.evaluation.config import Evaluation
from minirlhf.evaluation.table import ngram_line, optimum_line, side_by_side, text_table
from minirlhf.harness.files import write_atomic, write_json
from minirlhf.harness.machine import Machine
from minirlhf.harness.options import parse, run_script
from minirlhf.rl.config import RewardOptions


def main() -> None:
    """Items from models or from a file, then everything that follows from it."""
    options, judged, machine = parse(__doc__, Evaluation, RewardOptions, Machine)
    from minirlhf.evaluation.collect import check_sets, collect_items, load_models, print_answers  # here: --help does not wait for torch
    from minirlhf.evaluation.long_texts import read_texts, score_lines, score_texts
    from minirlhf.evaluation.report import build
    from minirlhf.html.page import page

    device, dtype = machine.set_up()
    if options.reports:
        return reports.print_comparison(options.reports)
    start, wanted = time.perf_counter(), metric_names(options.metrics)  # a wrong name is said before the work
    if options.from_:
        run, sets = items.read_items(options.from_)
    else:
        models, runs, folders = load_models(options, device, dtype)
        if options.text:
            texts = read_texts(options.text, options.map)
            return print("\n".join(score_lines(score_texts(texts, models, runs, options.stride))))
        if options.prompt:
            return print_answers(options, machine.seed, models, runs)
        if options.check_data:
            return check_sets(options, machine.seed, list(models.values())[-1], runs)
        run, sets = collect_items(options, judged, machine.seed, models, runs, folders)
    out = Path(options.out)
    items.write_items(out / "items.jsonl", run, sets)  # first: whatever fails below, --from goes on with it
    report = build(run, sets, wanted or metric_names(run["settings"].get("metrics", "")))
    report["seconds"] = time.perf_counter() - start
    write_json(out / "report.json", report)
    write_atomic(out / "report.html", page(report).encode("utf-8", "replace"))
    for alarm in report["alarms"]:
        print(f"ALARM {alarm['what']}\n      {alarm['why']}\n      {alarm['remedy']}")
    names = list(report["models"])
    for s in sets:
        task = report["tasks"][s.title]
        print(f"\n{text_table(s.title, task['metrics'], names, report['against'])}")
        if task.get("optimum"):
            print(optimum_line(task["optimum"], report["reference"], report["last"]))
        if task.get("ngram"):
            print(ngram_line(task["ngram"]))
        if options.show:
            print(f"\n{side_by_side(s.items, options.show, run['seed'])}")
    print("\ntraining cost")
    for name, model in report["models"].items():
        if cost := model["cost"]:
            print(f"  {name:<8} {cost['seconds']:7.0f} s {cost['tokens']:12,} tokens {cost['steps']:6} steps")
    print("\n±: the longer side of a 95 % interval over prompts; n: prompts that would show a difference as seen."
          "\nBy p: a test beside the interval, which may differ at its edge; by H: Holm's p over all rewards."
          f"\nWritten: {out}/report.html, report.json, items.jsonl")


if __name__ == "__main__":
    run_script(main)
