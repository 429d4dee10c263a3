"""The theory of RL for language models, exactly: a world so small that every answer can be listed.

python -m minirlhf.tools.theory             gradient, optimum, values and samples, in a few seconds on one core

Every number is computed on the spot. `theory/oracle.py` lists all answers. `theory/tabular.py` meets them one token
at a time. The training loop's own functions are run on the same world. Proved by tests/tools/test_theory.py.
"""

from dataclasses import dataclass

from minirlhf.harness.machine import Machine
from minirlhf.harness.options import option, parse, run_script


@dataclass(frozen=True)
class Theory:
    """How long to learn."""

    steps: int = option(32_000, "tokens that a tabular learner sees at most", least=16)
    answers: int = option(4_000, "samples that a learner in the last block gets at most", least=16)
    runs: int = option(5, "learners per entry of the last block; it shows their median", least=1)
    seed: int = option(0, "decides the policy and all samples: same seed, same output", least=0)


def main() -> None:
    """Print the blocks as they are computed."""
    (options,) = parse(__doc__, Theory)
    Machine(options.seed, device="cpu", threads=1).set_up()  # the tables are too small for more
    from minirlhf.theory.demonstration import blocks  # here: --help does not wait for torch

    for block in blocks(options.steps, options.answers, options.runs, options.seed):
        print(block, flush=True)


if __name__ == "__main__":
    run_script(main)
