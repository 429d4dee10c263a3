"""What a closed study of people's judgements says: python -m minirlhf.tools.judgements out/judgements

It reports win rates, strengths, biases, and how far annotators and rewards agree, as a table and as judged.json
in the study's folder. `--reward model:out/rm` and `--gold reviews` score the same answers. `--export prefs.jsonl`
writes what a reward model trains on. Proved by tests/tools/test_judgements.py.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minirlhf.annotation import export
from minirlhf.annotation.pairs import records_by_prompt
from minirlhf.annotation.results import ATTENTION, Scores, analyse
from minirlhf.annotation.rows import Row, read_studies
from minirlhf.evaluation.items import read_sets
from minirlhf.harness.files import UserError, write_atomic
from minirlhf.harness.machine import load_torch
from minirlhf.harness.options import option, parse, run_script
from minirlhf.lm.records import task_named
from minirlhf.rl.options import RewardOptions
from minirlhf.tasks import TASKS


@dataclass(frozen=True)
class Judged:
    """What to report."""

    study: str = option("out/judgements", "folder of a closed study", bare=True)
    more: tuple[str, ...] = option((), "folders of further studies to include")
    reward: str = option("", "a reward to compare with people: model:FOLDER or FILE.py:FUNCTION")
    gold: str = option("", "a task whose own reward is compared with people", choices=tuple(TASKS))
    items: str = option("", "items.jsonl that the studies were made from; empty: where it was", needs="reward|gold")
    export: str = option("", "file for the preferences, .jsonl; test prompts go to NAME.test.jsonl")
    seed: int = option(0, "decides the bootstrap's resamples", least=0)


def answer_scores(options: Judged, rows: Sequence[Row], sources: Sequence[str]) -> dict[str, Scores]:
    """The scores of every answer by --reward and --gold, if they are given. Raises UserError."""
    load_torch()
    from minirlhf.rl.reward_files import load_rewards  # here: --help does not wait for torch
    from minirlhf.rl.rewards import call_rewards, prompt_text

    judges = {}
    if options.reward:
        reward = load_rewards(RewardOptions((options.reward,)))
        judges["reward"] = lambda record: reward
    if options.gold:
        judges["gold"] = lambda record: TASKS[options.gold].reward
    if options.items and not Path(options.items).is_file():
        raise UserError(f"--items {options.items}: no such file")
    there = [options.items] if options.items else dict.fromkeys(path for path in sources if Path(path).is_file())
    records = records_by_prompt([s for path in (there if judges else ()) for s in read_sets(path)])
    for row in rows:
        if options.gold and task_named(records.get(row.prompt, {})) != options.gold:
            where = "give --items, the items.jsonl of evaluate.py that the study was made from"
            raise UserError(f"--gold {options.gold}: no record of this task has the prompt {row.prompt!r:.60}; {where}")
        records.setdefault(row.prompt, {"messages": row.messages} if row.messages else {"prompt": row.prompt})
    answers = dict.fromkeys((row.prompt, answer) for row in rows for answer in row.answers)
    cases = [(prompt_text(records[prompt]), said, records[prompt]) for prompt, said in answers]
    return {name: dict(zip(answers, call_rewards(reward_of, cases))) for name, reward_of in judges.items()}


def shown(x: dict, sign: str = "") -> str:
    """A value with its interval, or a dash."""
    if x["value"] is None:
        return "-"
    interval = "" if x["low"] is None else f" [{x['low']:{sign}.3f}, {x['high']:{sign}.3f}]"
    return f"{x['value']:{sign}.3f}{interval}"


def aligned(*rows: Sequence[str]) -> list[str]:
    """Rows of cells as lines, after an empty line. Each column is as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["", *("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths)).rstrip() for row in rows)]


def annotator_lines(checks: dict[str, dict]) -> list[str]:
    """One line per annotator. Those who are left out stand in brackets."""
    rows = [("annotator", "judged", "s/item", "attention", "consistent", "left preferred", "longer")]
    for name, x in checks.items():
        right = ["{}/{}".format(*x[check]) for check in ("attention", "consistency")]
        name = f"({name})" if x["excluded"] else name
        rows.append((name, str(x["judged"]), f"{x['seconds']:.1f}", *right, shown(x["left"]), shown(x["longer"])))
    return aligned(*rows)


def contest_lines(c: dict) -> list[str]:
    """The table of one pair of models."""
    rows = [("{1} against {0}".format(*c["models"]), "W", "T", "L", "win rate [95 %]", "p")]
    everybody = f"all, with {c['identical']} identical" if c["identical"] else "all, the majority"
    for name, x in [*c["annotators"].items(), (everybody, c["all"])]:
        p = f"{x['p']:.4f}" if x["p"] >= 1e-4 else "< 0.0001"
        rows.append((name, *(str(x[k]) for k in ("wins", "ties", "losses")), shown(x), p))
    for name, x in (("all, every judgement", c["pooled"]), ("at equal length", c["length_controlled"])):
        rows.append((name, "", "", "", shown(x), x["note"]))
    return [*aligned(*rows), power_line(**c["power"])]


def power_line(prompts: int, minimum_detectable: float | None, needed: dict) -> str:
    """What this many prompts can show, and how many would be needed."""
    if minimum_detectable is None:
        return f"{prompts} prompts are too few or all alike: how many are needed is unknown"
    words = f"{prompts} prompts can show a win rate {100 * minimum_detectable:.0f} points from 50 %"
    for what, n in needed.items():
        more = "never enough" if n is None else "enough" if n <= prompts else f"{n - prompts:.0f} more"
        words += f"; for {what}: {more}"
    return words


def outcome_lines(x: dict) -> list[str]:
    """The tables of one set of judgements."""
    lines = [line for contest in x["contests"] for line in contest_lines(contest)]
    lines += aligned(("strength", "log-odds", ""), *((k, shown(d, "+"), d["note"]) for k, d in x["strengths"].items()))
    lines += ["", f"left answer preferred {shown(x['left'])}; longer {shown(x['longer'])}"]
    sides = x["agreement"].values()  # if one of two people said only ties, there is no kappa without ties
    rows = [(who, *(shown(side[who]) if who in side else "-" for side in sides)) for who in x["agreement"]["with ties"]]
    return lines + aligned(("who agrees with whom", *x["agreement"]), *rows)


def main() -> None:
    """Read, analyse, print, export."""
    (options,) = parse(__doc__, Judged)
    rows, studies = read_studies([options.study, *options.more])
    rewards = answer_scores(options, rows, [study["source"] for study in studies])
    report = analyse(rows, studies, rewards, options.seed)
    target = Path(options.study) / "judged.json"
    write_atomic(target, json.dumps(report, indent=1).encode())
    lines = annotator_lines(report["annotators"])[1:] + outcome_lines(report["everybody"])
    if "attentive" in report:
        lines += ["", f"== without those who passed fewer than {ATTENTION:.0%} of their attention items =="]
        lines += outcome_lines(report["attentive"]) if report["attentive"] else ["nobody is left"]
    print(*lines, sep="\n")
    print(f"\n[ ]: 95 %. Written: {target}")
    if options.export:
        kept = [row for row in rows if not report["annotators"][row.annotator]["excluded"]]
        test, n, n_test = export.write_train_and_test(options.export, export.preferences(kept))
        print(f"{options.export}: {n} preferences; {test}: {n_test}, of other prompts")
        print("test a model trained on these with prompts that are in neither file")


if __name__ == "__main__":
    run_script(main)
