"""Test what people say of SFT and RL: python -m minirlhf.tools.study

On each task and seed, one base model, and from it the arms of `experiment.py`, SFT and PPO with their rivals and
controls. `claims.py` says what the results say to each claim. Every finished arm is a line in results.jsonl and a
checkpoint under TASK/SEED/ARM; called again, the study goes on where it stopped. Proved by tests/test_study.py.
"""

import json
import os
import signal
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from minirlhf import checkpoint
from minirlhf.claims import with_divergence
from minirlhf.examination import PROSE, test_sets
from minirlhf.experiment import STUDIED, Study, arms, numbers, run_cell, settings
from minirlhf.files import UserError
from minirlhf.runtime import Interrupted, parse, run_script
from minirlhf.sources import parse_tasks
from minirlhf.study_report import write_report


class Inline(Executor):
    """Runs what it is given at once, in this process."""

    def submit(self, function, /, *arguments) -> Future:
        future: Future = Future()
        future.set_result(function(*arguments))
        return future


def quiet_worker() -> None:
    """Ctrl-C is the parent's to handle; in a loop of training it still ends the cell."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def plan(options: Study, done: dict[tuple, dict]) -> list[tuple[str, int, str]]:
    """The cells still to be run, each behind those it needs; one again whose checkpoint is needed and gone."""
    cells = []
    for seed in range(options.seeds):
        for task in parse_tasks(options.task):
            table = arms(task, numbers(options))
            wanted = {name for name in table if (task, seed, name) not in done}
            for name in reversed(table):
                start = table[name].start
                if name in wanted and start and not whole(Path(options.out) / task / str(seed) / start, options):
                    wanted.add(start)
            cells += [(task, seed, name) for name in table if name in wanted]
    return cells


def whole(folder: Path, options: Study) -> bool:
    """Whether a checkpoint stands there and was made with these settings."""
    if not (folder / "config.json").exists():
        return False
    return checkpoint.read_json(folder / "run.json").get("settings") == settings(options)


def read_results(path: Path, options: Study) -> dict[tuple, dict]:
    """(task, seed, arm) -> the last line of these settings. A line that a kill cut off is passed over."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    made = {}
    for text in lines:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and line.get("settings") == settings(options):
            made[line["task"], line["seed"], line["arm"]] = line
    return made


def run(options: Study) -> dict[tuple, dict]:
    """Run the cells that are not yet run, and return the lines of all. Ctrl-C leaves what is finished intact."""
    path = Path(options.out) / "results.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.read_bytes().endswith(b"\n"):  # what a kill cut off must not swallow the next line
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")
    done = read_results(path, options)
    waiting, running = plan(options, done), {}
    stale = {*waiting}

    def finish(future: Future) -> None:
        cell, line = running.pop(future), future.result()
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        done[cell] = line
        stale.discard(cell)
        bar.set_postfix_str(" ".join(map(str, cell)))
        bar.update(1)

    pool = Inline() if options.workers == 0 else ProcessPoolExecutor(
        options.workers, get_context("spawn"), initializer=quiet_worker
    )  # fmt: skip
    with tqdm(total=len(waiting), desc="cells", smoothing=0.0, dynamic_ncols=True) as bar, pool:
        try:
            while waiting or running:
                for cell in list(waiting):
                    task, seed, name = cell
                    arm = arms(task, numbers(options))[name]
                    needs = [(task, seed, x) for x in (arm.start, arm.match) if x]
                    if len(running) < max(options.workers, 1) and not stale & {*needs}:
                        before = {x[2]: done[x] for x in needs}
                        running[pool.submit(run_cell, *cell, options, before)] = cell
                        waiting.remove(cell)
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    finish(future)
        except (KeyboardInterrupt, Interrupted):
            tqdm.write("waiting for the arms that are under way; called again, the study goes on")
            for future in wait(running).done:
                if future.exception() is None:
                    finish(future)
            raise
    return done


def main() -> None:
    """Run what is not yet run, then print the verdicts and the tables and draw the figures."""
    (options,) = parse(__doc__.splitlines()[0], Study)
    tasks = parse_tasks(options.task)
    if unknown := [task for task in tasks if task not in STUDIED]:
        raise UserError(f"--task {unknown[0]}: not one of {', '.join(STUDIED)}")
    numbers(options)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the workers would outlive this process
    try:
        cells = with_divergence(run(options))
    finally:
        signal.signal(signal.SIGTERM, before)
    cells = {key: line for key, line in cells.items() if key[0] in tasks and key[1] < options.seeds}
    sets = {task: list(test_sets(task, 2, 0)) for task in tasks}
    print(write_report(cells, sets, numbers(options), PROSE, Path(options.out)))


if __name__ == "__main__":
    run_script(main)
