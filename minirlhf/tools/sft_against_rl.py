"""Test what people say of SFT and RL: python -m minirlhf.tools.sft_against_rl

Each task and seed has one base model. The arms of `experiments/arms.py` start from it: SFT and PPO, their rivals and
controls. `experiments/claims.py` says what the results say to each claim. Every finished arm is a checkpoint under
TASK/SEED/ARM with its result.json. Called again, the study goes on where it stopped. Proved by
tests/tools/test_sft_against_rl.py.
"""

import signal
from pathlib import Path

from minirlhf.experiments.config import StudyOptions
from minirlhf.harness.files import UserError
from minirlhf.harness.machine import load_torch
from minirlhf.harness.options import parse, run_script


def main() -> None:
    """Run what is not yet run, then print the verdicts and the tables and draw the figures."""
    (options,) = parse(__doc__, StudyOptions)
    load_torch()
    from minirlhf.experiments.arms import HEADS, STUDIED, label_counts  # here: --help does not wait for torch
    from minirlhf.experiments.claims import with_divergence
    from minirlhf.experiments.questions import PROSE, question_sets
    from minirlhf.experiments.report import write_report
    from minirlhf.experiments.study import run_cells
    from minirlhf.tasks.sources import parse_tasks

    tasks = parse_tasks(options.task)
    if unknown := [task for task in tasks if task not in STUDIED]:
        raise UserError(f"--task {unknown[0]}: not one of {', '.join(STUDIED)}")
    if options.width % HEADS:
        raise UserError(f"--width {options.width}: cannot be split among {HEADS} heads")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the workers would outlive this process
    try:
        cells = with_divergence(run_cells(options))
    finally:
        signal.signal(signal.SIGTERM, before)
    sets = {task: list(question_sets(task, 2, 0)) for task in tasks}
    print(write_report(cells, sets, label_counts(options), PROSE, Path(options.out)))


if __name__ == "__main__":
    run_script(main)
