"""A simulated annotator: judges a study as people do, blind, by the gold reward of a generated task.

python -m minirlhf.tools.simulate_judge --annotator ada --seed 1     out/judgements, as a person named ada would

It sees what a person sees, through the same session and log. It chooses the left answer with the probability of
Bradley and Terry (`simulated.Labeller`). Equal rewards are a tie. Proved by tests/tools/test_simulate_judge.py.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from minirlhf.annotation import log
from minirlhf.annotation.pairs import records_by_prompt, shown_prompt
from minirlhf.evaluation.items import read_sets
from minirlhf.harness.files import UserError
from minirlhf.harness.machine import load_torch
from minirlhf.harness.options import option, parse, run_script
from minirlhf.lm.records import task_named
from minirlhf.preferences.config import Labeller
from minirlhf.tasks import TASKS, reward_of_task

BESIDE = -1.0  # for an answer beside the point; rewards lie in [0, 1]
GoldReward = Callable[[str, str], float]  # prompt as it is shown, response -> reward


@dataclass(frozen=True)
class Simulation:
    """Who judges what."""

    study: str = option("out/judgements", "folder of the study", bare=True)
    annotator: str = option("simulated", "the name to judge under")
    items: str = option("out/eval/items.jsonl", "items.jsonl that the study was made from")
    seed: int = option(0, "decides the random choices", least=0)


def judge_session(session: log.Session, gold: GoldReward, labeller: Labeller, seed: int) -> int:
    """Judge all items that are left in the session. Returns their number."""
    rng, begun = np.random.default_rng(seed), session.place
    while "left" in (item := session.item()):
        left, right = (gold(item["prompt"], item[side]) for side in ("left", "right"))
        p = labeller.prefers_first(left, right, len(item["left"]), len(item["right"]))
        choice = "tie" if left == right else "left" if rng.random() < p else "right"
        session.act(choice, item["place"])
    return session.place - begun


def gold_of(items: str) -> GoldReward:
    """The tasks' own rewards for answers to the prompts of an items.jsonl. Raises UserError.

    An answer that no model gave to this prompt, as in an attention item, is worth BESIDE: a person would see it.
    """
    load_torch()
    from minirlhf.rl.rewards import ask, prompt_text  # here: --help does not wait for torch

    sets = read_sets(items)
    records = records_by_prompt(sets)
    said = {
        (shown_prompt(s.records[x["index"]]), x["response"]) for s in sets for rows in s.items.values() for x in rows
    }

    def gold(prompt: str, response: str) -> float:
        record = records.get(prompt, {})
        if task_named(record) not in TASKS:
            raise UserError(f"--items {items}: no generated task has the prompt {prompt!r:.60}: no gold reward")
        if (prompt, response) not in said:
            return BESIDE
        return ask(reward_of_task(record), [(prompt_text(record), response, record)])[0]

    return gold


def main() -> None:
    """Wire study, reward and simulated person together."""
    options, labeller = parse(__doc__, Simulation, Labeller)
    with log.Session(options.study, options.annotator) as session:
        done = judge_session(session, gold_of(options.items), labeller, options.seed)
    print(f"{options.annotator}: {done} items judged in {options.study}")


if __name__ == "__main__":
    run_script(main)
