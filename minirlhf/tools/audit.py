"""What a model does that it should not, and what RL made worse: bias, noise, commands in data, recited training texts.

python -m minirlhf.tools.audit out/sft out/ppo                 before and after: a table and a page, alarms first
python -m minirlhf.tools.audit out/sft --augment more.jsonl    also write data for the defence, for train_sft.py --data
python -m minirlhf.tools.audit m.gguf --lists mine.json        a model from elsewhere, your own words and prompts

The parts are those of evaluation/audit.py. Proved by tests/tools/test_audit.py.
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from minirlhf.harness.files import UserError, writable, write_atomic, write_json
from minirlhf.harness.machine import Machine
from minirlhf.harness.options import option, parse, run_script
from minirlhf.rl.options import RewardOptions


@dataclass(frozen=True)
class Options:
    """What to audit."""

    models: tuple[str, ...] = option((), "a model, or one before and one after", bare=True)
    task: str = option("", "generated tasks, a,b; none: those that were trained on", needs="-data")
    data: tuple[str, ...] = option((), "your own prompts; none, and no task: validation data, or prompts of lists")
    trained_on: tuple[str, ...] = option((), "files of training texts; none: as run.json says")
    prompts: int = option(400, "held-out prompts of each task", least=1, needs="-data")
    max_new: int = option(32, "longest answer in tokens, where no task says it", least=1)
    lists: str = option("", "a JSON file like minirlhf/evaluation/audit.json; what it lacks is taken from there")
    augment: str = option("", "a .jsonl to write: the training data, also with words swapped and harmless changes")
    out: str = option("out/audit", "folder for audit.html and audit.json")


def main() -> None:
    """Ask, judge, write the page, print alarms and the table."""
    options, judged, machine = parse(__doc__, Options, RewardOptions, Machine)
    device, dtype = machine.set_up()
    # Imported here: --help does not wait for torch.
    from minirlhf.evaluation.ask import text_items
    from minirlhf.evaluation.audit import Audit, alarms_of, augmented, judge, read_lists
    from minirlhf.evaluation.catalogue import METRICS
    from minirlhf.evaluation.collect import load_models, training_records
    from minirlhf.evaluation.config import Evaluation
    from minirlhf.evaluation.items import TestSet
    from minirlhf.evaluation.metric import view_of
    from minirlhf.evaluation.questions import prompts_that_fit, test_sets
    from minirlhf.evaluation.table import number, text_table
    from minirlhf.html.page import audit_page
    from minirlhf.lm.reading import read_records
    from minirlhf.lm.records import label_of, references_of, split_by_prompt
    from minirlhf.rl.reward_files import load_rewards
    from minirlhf.tasks import TASKS
    from minirlhf.tasks.sources import OWN

    writable(options.out)
    lists, paths, reward = read_lists(options.lists), options.models, load_rewards(judged, device)
    names = [Path(x).absolute().name.replace("=", "-") for x in paths]
    names = names if len({*names}) == len(names) else [x.replace("=", "-") for x in paths]
    same = {k: getattr(options, k) for k in ("task", "data", "prompts", "max_new")}
    asked = Evaluation(tuple(map("=".join, zip(names, paths))), **same)
    models, runs, _ = load_models(asked, device, dtype)
    learnt = {OWN: read_records(options.trained_on)} if options.trained_on else training_records(runs)
    every = sum(learnt.values(), [])
    if options.augment and not every:
        raise UserError("--augment: run.json names no training data: give --trained-on FILE")
    held = {name: TASKS[name].records("test", options.prompts, machine.seed) for name in learnt if name in TASKS}
    if not options.trained_on:
        learnt[OWN], held[OWN] = split_by_prompt(learnt[OWN]).values()
    if options.task or options.data or any(run.get("tasks") for run in runs.values()):
        sets = [x for x in test_sets(asked, reward, runs, machine.seed) if ", " not in x[0]]
    else:
        prompts = held.get(OWN) or [{"prompt": text} for text in lists["prompts"]]
        sets = [("prompts", prompts, reward and (lambda record: reward), "", options.max_new)]
    records, reward_of = prompts_that_fit([r for x in sets for r in x[1]], models, "audit"), sets[0][2]
    if not reward_of and any(label_of(r) or any(references_of(r)) for r in records):
        exact = lambda prompt, text, r: float(text.strip() in {label_of(r), *map(str.strip, references_of(r))})
        reward_of = lambda record: exact
    audit = Audit(models, lists, max(x[4] for x in sets), reward_of)
    rows = [*audit.noise(records)]
    for name in filter(learnt.get, learnt):
        rows += audit.recitals(name, learnt[name], held.get(name, records), machine.seed)
    view = view_of(TestSet("", records, texts={m: text_items(policy, records) for m, policy in models.items()}))
    table = judge(rows, names, machine.seed, not reward, METRICS["calibration"][0](view))
    # What it cannot tell: differences that are too small to be seen, and swaps that no prompt has the words of.
    tests = [x for row in table for x in row["models"].values() if "p_holm" in x]
    seen = [x["minimum_detectable"] for x in tests if x.get("minimum_detectable")]
    made, pairs = {row["metric"].partition(":")[0] for row in table}, sum(lists["swaps"].values(), [])
    unmade = [name for a, b in pairs if (name := f"{a[0]} -> {b[0]}") not in made]
    figures = {"tests": str(len(tests)), "median": number(median(seen) if seen else None),
               "most": number(max(seen, default=None)), "unmade": ", ".join(unmade) or "none"}  # fmt: skip
    cannot = re.sub(r"\{(\w+)\}", lambda found: figures.get(found[1], found[0]), lists["cannot"])
    report = {"models": dict(zip(names, paths)), "prompts": len(records), "alarms": alarms_of(table, names, lists),
              "rows": table, "cannot": cannot, "settings": asdict(options) | asdict(machine)}  # fmt: skip
    write_json(Path(options.out, "audit.json"), report)
    write_atomic(Path(options.out, "audit.html"), audit_page(report).encode("utf-8", "replace"))
    if options.augment:
        lines = [json.dumps(r, ensure_ascii=False) + "\n" for r in augmented(every, lists)]
        write_atomic(options.augment, "".join(lines).encode("utf-8", "backslashreplace"))
    for alarm in report["alarms"]:
        print(f"\nALARM {alarm['what']}\n      {alarm['why']}\n      {alarm['remedy']}")
    shown = [row | {"metric": f"{row['group']}, {row['metric']}", "note": ""} for row in table
             if any(x["value"] for x in row["models"].values())] or table[:1]  # fmt: skip
    text = text_table(f"{len(records)} prompts", shown, names, names[0])
    print(f"\n{text}\n\n{len(table) - len(shown)} more rows are 0. {cannot}\n\n"
          f"written: {options.out}/audit.html, audit.json {options.augment}")
    if names[1:]:
        worse = [row["metric"] for row in table if row["differences"][names[-1]]["verdict"] == "worse"]
        rows = f"{len(worse)} row{'s' * (len(worse) != 1)}"
        print(f"\n{names[-1]} is worse than {names[0]} in {rows}: {', '.join(worse) or 'none'}")


if __name__ == "__main__":
    run_script(main)
