"""What a closed study of people's judgements says: python -m minirlhf.tools.judgements out/judgements

Win rates, strengths, biases, agreement of the annotators, and of rewards with them, as a table and as
judged.json in the study's folder. `--reward model:out/rm` and `--gold reviews` score the same answers;
`--export prefs.jsonl` writes what a reward model trains on; `--more` counts in studies of other pairs of
models. Proved by tests/tools/test_judgements.py.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minirlhf.annotation import export
from minirlhf.annotation.pairs import records_by_prompt
from minirlhf.annotation.results import analyse, read_studies
from minirlhf.annotation.trust import ATTENTION, Scores
from minirlhf.evaluation.items import read_sets
from minirlhf.harness.files import UserError, write_atomic
from minirlhf.harness.options import option, parse, run_script
from minirlhf.rl.reward_files import load_reward
from minirlhf.rl.rewards import RewardOf, call_rewards, prompt_text
from minirlhf.tasks import TASKS

NAME = 26  # columns of a row's name
CELL = 25  # and of what follows


@dataclass(frozen=True)
class Judged:
    """What to report."""

    study: str = option("out/judgements", "folder of a closed study", bare=True)
    more: tuple[str, ...] = option((), "folders of further studies to count in")
    reward: str = option("", "a reward to hold against people: model:FOLDER or FILE.py:FUNCTION")
    gold: str = option("", "a task whose own reward to hold against people")
    items: str = option("", "items.jsonl that the studies were made from; none: where it was then")
    export: str = option("", "file for the preferences, .jsonl; test prompts go to NAME.test.jsonl")
    seed: int = option(0, "decides the bootstrap's resamples", least=0)


def rewards_of(options: Judged, rows: Sequence[dict], sources: Sequence[str]) -> dict[str, Scores]:
    """The scores of every answer by --reward and --gold, as far as they are asked for. Raises UserError."""
    judges: dict[str, RewardOf] = {}
    if options.reward:
        reward = load_reward(options.reward)
        judges["reward"] = lambda record: reward
    if options.gold:
        if options.gold not in TASKS:
            raise UserError(f"--gold {options.gold}: no such task; there are {', '.join(TASKS)}")
        judges["gold"] = lambda record: TASKS[options.gold].reward
    items = dict.fromkeys([options.items] if options.items else sources) if judges else ()
    records = records_by_prompt([s for path in items if Path(path).is_file() for s in read_sets(path)])
    for row in rows:
        prompt = row["prompt"]
        if options.gold and records.get(prompt, {}).get("task") != options.gold:
            where = "give --items, the items.jsonl of evaluate.py that the study was made from"
            raise UserError(f"--gold {options.gold}: no record of it has the prompt {prompt!r:.60}; {where}")
        asked = {"messages": row["messages"]} if "messages" in row else {"prompt": prompt}
        records.setdefault(prompt, asked)
    answers = dict.fromkeys((row["prompt"], row[k]["response"]) for row in rows for k in "ab")
    cases = [(prompt_text(records[prompt]), said, records[prompt]) for prompt, said in answers]
    return {name: dict(zip(answers, call_rewards(reward_of, cases))) for name, reward_of in judges.items()}


def shown(x: dict | None, signed: bool = False) -> str:
    """A value with its interval, or a dash."""
    if x is None or x["value"] is None:
        return "-"
    sign = "+" if signed else ""
    interval = "" if x["low"] is None else f" [{x['low']:{sign}.3f}, {x['high']:{sign}.3f}]"
    return f"{x['value']:{sign}.3f}{interval}"


def line(name: str, *cells: str, width: int = NAME) -> str:
    """A row of a table: its name, cut to its column, and cells."""
    name = name if len(name) < width else f"{name[: width - 2]}…"
    return f"{name:<{width}}{''.join(f'{cell:<{CELL}}' for cell in cells)}".rstrip()


def annotator_lines(checks: dict[str, dict]) -> list[str]:
    """A line an annotator; those left out stand in brackets."""
    head = f"{'judged':>6}{'s/item':>7}  {'attention':<10}{'consistent':<11}{'left preferred':<22}longer"
    lines = [line("annotator", head, width=22)]
    for name, x in checks.items():
        attention, consistent = (f"{x[k]['k']}/{x[k]['n']}" for k in ("attention", "consistency"))
        cells = f"{x['judged']:>6}{x['seconds']:>7.1f}  {attention:<10}{consistent:<11}"
        cells += f"{shown(x['left']):<22}{shown(x['longer'])}"
        lines.append(line(f"({name})" if x["excluded"] else name, cells, width=22))
    return lines


def contest_lines(c: dict, studies: Sequence[dict]) -> list[str]:
    """The table of one pair of models."""
    lines = [line(f"{c['model']} against {c['against']}", f"{'W':>6}{'T':>6}{'L':>6}   {'win rate [95 %]':<24}p")]
    for name, x in [*c["annotators"].items(), ("all, the majority", c["all"])]:
        p = "" if x["p"] is None else f"{x['p']:.4f}" if x["p"] >= 1e-4 else "< 0.0001"
        lines.append(line(name, f"{x['wins']:>6}{x['ties']:>6}{x['losses']:>6}   {shown(x):<24}{p}"))
    rest = {"all, every judgement": c["pooled"], "at equal length": c["length_controlled"]}
    lines += [line(name, f"{'':<21}{shown(x)}  {x.get('why', '')}") for name, x in rest.items()]
    of_these = [x["identical"] for x in studies if set(x["models"]) == {c["model"], c["against"]}]
    if n := len(set().union(*of_these)):
        rate = (c["pairs"]["n"] * c["pairs"]["rate"] + n / 2) / (c["pairs"]["n"] + n)
        lines.append(line("with identical answers", f"{'':<21}{rate:.3f}, {n} pairs that nobody saw"))
    return [*lines, power_line(c["power"])]


def power_line(power: dict) -> str:
    """What this many prompts can show, and how many it would take."""
    n, least = power["prompts"], power["minimum_detectable"]
    if least is None:
        return f"{n} prompts, too few or all alike: how many it would take cannot be told"
    words = f"{n} prompts show a win rate {100 * least:.0f} points from 50 %"
    for what, needed in (("the rate seen", power["needed_for_seen"]), ("60 %", power["needed_for_60"])):
        more = "never enough" if needed is None else "enough" if needed <= n else f"{needed - n:.0f} more"
        words += f"; for {what}: {more}"
    return words


def table_lines(title: str, columns: dict[str, dict], signed: bool = False) -> list[str]:
    """A table.  columns: title -> row -> estimate."""
    names = dict.fromkeys(name for column in columns.values() for name in column)
    cells = {name: [shown(column.get(name), signed) for column in columns.values()] for name in names}
    return [line(title, *columns), *(line(name, *row) for name, row in cells.items())]


def outcome_lines(x: dict, studies: Sequence[dict]) -> list[str]:
    """The tables of one set of judgements."""
    lines = []
    for contest in x["contests"]:
        lines += ["", *contest_lines(contest, studies)]
    lines += ["", *table_lines("strength, log-odds", x["strengths"], signed=True)]
    lines.append(line("the left side", "", "", shown(x["side"], signed=True)))
    lines += [f"  {why}" for why in x["undetermined"]]
    if x["regularised"]:
        lines.append("  a model never lost or never won: half a judgement of each outcome is added to all")
    lines += ["", f"left answer preferred {shown(x['left'])}; longer {shown(x['longer'])}"]
    lines += ["", *table_lines("annotators agree", x["agreement"])]
    return [*lines, "", *table_lines("who agrees with whom", x["triangle"])]


def table(report: dict) -> str:
    """The report for the terminal, at most 100 columns."""
    lines = annotator_lines(report["annotators"]) + outcome_lines(report["everybody"], report["studies"])
    if "attentive" in report:
        lines += ["", f"== without those who passed fewer than {ATTENTION:.0%} of their attention items =="]
        left = report["attentive"]
        lines += outcome_lines(left, report["studies"]) if left else ["nobody is left"]
    return "\n".join(lines)


def main() -> None:
    """Read, analyse, print, export."""
    (options,) = parse(__doc__.splitlines()[0], Judged)
    rows, studies = read_studies([options.study, *options.more])
    rewards = rewards_of(options, rows, [study["source"] for study in studies])
    report = {"version": 1, "studies": studies} | analyse(rows, rewards, options.seed)
    print(table(report))
    target = Path(options.study) / "judged.json"
    write_atomic(target, json.dumps(report, indent=1).encode())
    print(f"\n± and [ ]: 95 %. Written: {target}")
    if options.export:
        kept = [row for row in rows if not report["annotators"][row["annotator"]]["excluded"]]
        test, n, n_test = export.write(options.export, export.preferences(kept))
        print(f"{options.export}: {n} preferences; {test}: {n_test}, of other prompts")
        print("judge the models that come of it on prompts that are in neither")


if __name__ == "__main__":
    run_script(main)
