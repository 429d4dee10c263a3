"""Compare algorithms from one SFT model: python -m minirlhf.tools.compare_algorithms --init out/sft

python -m minirlhf.tools.compare_algorithms --algos ppo grpo grpo:kl_in=reward "ppo:whiten=no,lam=1" --against ppo
python -m minirlhf.tools.compare_algorithms --prompts p.jsonl --reward mine.py:fn --algos ppo grpo --seeds 3
python -m minirlhf.tools.compare_algorithms --cpu-seconds 60

Each row gets as many rounds and responses, and one round more where a critic must be fitted first; or as much CPU
time. Its learning rate is chosen from the same few, on a separate seed and on prompts of training. Then it runs on
`seeds` seeds. Tables and curves follow (`experiments/comparison.py`). Called again, the tool goes on where it stopped.
Proved by tests/tools/test_compare_algorithms.py.
"""

from pathlib import Path

from minirlhf.experiments.config import Comparison, OwnPrompts
from minirlhf.harness.files import UserError, write_atomic
from minirlhf.harness.machine import Machine
from minirlhf.harness.options import parse, run_script
from minirlhf.rl.options import RewardOptions, Turns

CURVES = "step", "reward", "kl"  # of log.jsonl


def main() -> None:
    """Run what is not yet run, then print the tables and draw the figures."""
    kinds = Comparison, OwnPrompts, RewardOptions, Turns, Machine
    options, own, judged, turns, machine = parse(__doc__, *kinds, without=("seed",))
    device, dtype = machine.set_up()
    from tqdm import tqdm  # here: --help does not wait for torch

    from minirlhf.evaluation.ask import Policy
    from minirlhf.experiments.comparison import Contest, config_of, runs_of, start_of, tables
    from minirlhf.experiments.trials import begun_with, numbers, questions
    from minirlhf.html.curves import curves_svg
    from minirlhf.html.svg import strip_plot
    from minirlhf.lm import checkpoint
    from minirlhf.rl.turns import speaking
    from minirlhf.tasks import reply_of_task

    rates = numbers(options.lrs, "lrs", float, 1e-9, 1)
    rows = list(dict.fromkeys(options.algos))
    if (against := options.against or rows[0]) not in rows:
        raise UserError(f"--against {against}: not one of the rows {', '.join(rows)}")
    runs = {row: len({config_of(row, lr, options.iterations, options).lr for lr in rates}) for row in rows}
    start, out = Policy(*checkpoint.load_chat(options.init), speak=speaking(turns, reply_of_task)), Path(options.out)
    start.model.to(device).eval()
    same = "iterations", "cpu_seconds", "batch", "beta", "held_out", "samples"
    settings = {k: getattr(options, k) for k in same} | {"init": checkpoint.fingerprint(start.model), "dtype": str(dtype)}
    asked = questions(options.task, own, judged, start, turns)
    begun_with(out, settings | asked[0].about)
    for task in asked:
        contest = Contest(task, start, options, dtype)
        known = start_of(contest)
        total = sum(options.seeds + n * (n > 1) for n in runs.values())
        with tqdm(total=total, desc="runs", smoothing=0.0, dynamic_ncols=True) as bar:
            found = {row: runs_of(row, rates, contest, bar) for row in rows}
        text, shares = tables(found, known, contest, against)
        write_atomic(out / f"algorithms.{task.NAME}.md", f"{text}\n".encode())
        logs = {row: [[{k: x[k] for k in CURVES} for x in run["log"]] for run in runs] for row, runs in found.items()}
        write_atomic(out / f"curves.{task.NAME}.svg", curves_svg(logs, f"{task.NAME}: training", 2).encode())
        if shares:
            title = f"{task.NAME}: what each algorithm reaches of the optimum"
            plot = strip_plot(title, "share of J* − J(ref)", list(shares.items()))
            write_atomic(out / f"algorithms.{task.NAME}.svg", plot.encode())
        print(f"\n{text}\n\nwritten: {out}/algorithms.{task.NAME}.md, curves.{task.NAME}.svg")


if __name__ == "__main__":
    run_script(main)
