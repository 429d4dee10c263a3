"""The study of SFT and RL, run: every cell in a process of its own, the finished ones kept.

Proved by tests/tools/test_sft_against_rl.py.
"""

import signal
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from minirlhf.experiments.arms import arms, label_counts, run_cell, shared_settings
from minirlhf.experiments.claims import Cells
from minirlhf.experiments.config import StudyOptions
from minirlhf.experiments.trials import begun_with
from minirlhf.harness.files import Interrupted, read_json
from minirlhf.tasks.sources import parse_tasks


def run_cells(options: StudyOptions) -> Cells:
    """Run the arms that have no result, and return the results of all. Ctrl-C leaves what is finished intact."""
    tables = {task: arms(task, label_counts(options)) for task in parse_tasks(options.task)}
    cells = [(task, seed, name) for seed in range(options.seeds) for task, table in tables.items() for name in table]
    results = {(task, seed, name): Path(options.out) / task / str(seed) / name / "result.json"
               for task, seed, name in cells}  # fmt: skip
    begun_with(Path(options.out), shared_settings(options))
    waiting = [cell for cell in cells if not results[cell].exists()]
    running: dict[Future, tuple] = {}

    def ready(task: str, seed: int, name: str) -> bool:
        arm = tables[task][name]
        return all(results[task, seed, x].exists() for x in (arm.start, arm.match) if x)

    # The parent handles Ctrl-C. Inside a training loop it still ends the cell.
    pool = ProcessPoolExecutor(options.workers, get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN))
    with tqdm(total=len(waiting), desc="cells", smoothing=0.0, dynamic_ncols=True) as bar, pool:
        try:
            while waiting or running:
                for cell in list(waiting):
                    if len(running) < options.workers and ready(*cell):
                        running[pool.submit(run_cell, *cell, options)] = cell
                        waiting.remove(cell)
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    future.result()
                    bar.set_postfix_str(" ".join(map(str, running.pop(future))))
                    bar.update(1)
        except (KeyboardInterrupt, Interrupted):
            tqdm.write("waiting for the arms that are running; call the tool again to go on")
            raise
    return {cell: read_json(path) for cell, path in results.items()}
