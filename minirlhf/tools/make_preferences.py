"""Simulated people compare samples of a checkpoint: python -m minirlhf.tools.make_preferences --task reviews

Each line of the file is one comparison, with the gold rewards of both answers. Proved by
tests/tools/test_make_preferences.py.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minirlhf.harness.files import UserError, writable, write_atomic
from minirlhf.harness.machine import Machine
from minirlhf.harness.options import option, parse, run_script
from minirlhf.preferences.config import Labeller
from minirlhf.tasks import TASKS


@dataclass(frozen=True)
class Options:
    """What is compared."""

    init: str = option("out/sft", "checkpoint folder whose responses are compared")
    task: str = option("reviews", "generated task; its own reward is the gold reward", choices=TASKS)
    pairs: int = option(1000, "comparisons to make", least=1)
    responses: int = option(2, "responses per prompt; all their pairs are compared", least=2)
    out: str = option("prefs.jsonl", "the file to write")


def main() -> None:
    """From the command line."""
    write_preferences(*parse(__doc__, Options, Labeller, Machine, without=("dtype",)))


def write_preferences(options: Options, labeller: Labeller, machine: Machine, task: object = None) -> None:
    """Sample, judge and write. task: with the names of a task's module, for that of the options. Raises UserError."""
    device, _ = machine.set_up()
    from minirlhf.lm import checkpoint  # here: --help does not wait for torch
    from minirlhf.preferences.simulated import make_pairs

    (model, tokenizer), task = checkpoint.load_chat(options.init), task or TASKS[options.task]
    model.to(device)
    if Path(options.out).is_dir():
        raise UserError(f"--out {options.out}: a folder; give a file's name")
    writable(Path(options.out).parent)
    lines, left_out = make_pairs(model, tokenizer, task, options.pairs, options.responses, labeller, machine.seed)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_atomic(options.out, text.encode("utf-8", "backslashreplace"))
    right = [(1 + np.sign(line["gold_chosen"] - line["gold_rejected"])) / 2 for line in lines]
    share = f"{np.mean(right):.1%} as the gold reward has it, ties 1/2"
    print(f"{options.out}: {len(lines)} comparisons, {share}")
    if left_out:
        print(f"left out: {', '.join(f'{count} {why}' for why, count in left_out.items())}")


if __name__ == "__main__":
    run_script(main)
