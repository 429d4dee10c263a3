"""Compare models on held-out prompts: base, SFT and PPO, with intervals and verdicts.

python evaluate.py                                         out/base, out/sft, out/ppo on their tasks -> out/eval
python evaluate.py --prompt "47+85="                       what each model answers
python evaluate.py --data mine.jsonl --models a=DIR b=DIR  your own prompts and models
python evaluate.py --text novel.txt                        perplexity and bits per byte of long texts
python evaluate.py --from out/eval/items.jsonl             every number and figure again, without the models
python evaluate.py --reports old/report.json report.json   two evaluations, by item; training runs: better, or lucky?
python evaluate.py --reports */report.json --against grpo  ppo less grpo, say, paired by seed and prompt
"""

import time
from dataclasses import replace
from pathlib import Path

from minirlhf.evaluation import items, reports
from minirlhf.evaluation.answer import answer_lines, chief_rows
from minirlhf.evaluation.catalogue import metric_names
from minirlhf.evaluation.cite import ENDING, cite
from minirlhf.evaluation.config import Evaluation
from minirlhf.evaluation.table import number, optimum_line, side_by_side, text_table
from minirlhf.harness.files import writable, write_atomic, write_json
from minirlhf.harness.machine import Machine
from minirlhf.harness.options import parse, run_script
from minirlhf.rl.options import RewardOptions, Turns


def main() -> None:
    """Items from models or from a file, then everything that follows from it."""
    options, judged, turns, machine = parse(__doc__, Evaluation, RewardOptions, Turns, Machine)
    device, dtype = machine.set_up()
    # Imported here: --help does not wait for torch.
    from minirlhf.evaluation.collect import check_sets, collect_items, load_models, print_answers
    from minirlhf.evaluation.long_texts import read_texts, score_lines, score_texts
    from minirlhf.evaluation.report import build
    from minirlhf.html.page import page
    from minirlhf.rl.turns import speaking
    from minirlhf.tasks import reply_of_task

    if options.reports:
        return reports.print_comparison(options.reports, options.against)
    if not (options.text or options.prompt or options.check_data):  # they write nothing
        writable(options.out)  # what is wrong is said before the work
    start, wanted = time.perf_counter(), metric_names(options.metrics)
    if options.from_:
        run, sets = items.read_items(options.from_)
    else:
        models, runs, folders = load_models(options, device, dtype)
        models = {name: replace(x, speak=speaking(turns, reply_of_task)) for name, x in models.items()}
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
    if options.format:
        path = out / f"table.{ENDING[options.format]}"
        write_atomic(path, cite(report, options.format, list if options.all else chief_rows).encode("utf-8", "replace"))
    for s in sets:
        task = report["tasks"][s.title]
        rows = task["metrics"] if options.all else chief_rows(task["metrics"])
        print("\n" + text_table(s.title, rows, list(report["models"]), report["against"]))
        if options.all and task.get("optimum"):
            print(optimum_line(task["optimum"], report["reference"], report["last"]))
        if options.all and (ngram := task.get("ngram")):  # what a model must beat to have learnt more than local counts
            said = f"{ngram['order']}-gram of {ngram['answers']:,} training answers (Kneser-Ney)"
            print(f"reference perplexity of a {said}: {number(ngram['perplexity'])}")
        if options.show:
            print(f"\n{side_by_side(s.items, options.show, run['seed'])}")
    trained = [f"{name} {m['cost']['seconds']:.0f} s" for name, m in report["models"].items() if m.get("cost")]
    print("\n±: the longer side of a 95 % interval over prompts. By p, or H: Holm's p over a model's rewards of all sets."
          f"\nn: prompts that would show the difference. Training took {', '.join(trained) or 'unknown time'}."
          f"{'' if options.all else ' All rows, and J*: --all'}\n\nWritten: {out}/report.html, report.json, items.jsonl"
          f"{f', {path.name}' if options.format else ''}")
    for alarm in report["alarms"]:
        print(f"\nALARM {alarm['what']}\n      {alarm['why']}\n      {alarm['remedy']}")
    print("\n" + "\n".join(answer_lines(report)))


if __name__ == "__main__":
    run_script(main)
