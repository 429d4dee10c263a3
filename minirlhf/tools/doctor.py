"""What to look at first when RLHF misbehaves: a checkpoint, its prompts and its reward, examined in seconds.

python -m minirlhf.tools.doctor                                                 the RL in out/ that began at out/sft
python -m minirlhf.tools.doctor out/sft --prompts p.jsonl --reward mine.py:fn   before PPO on your own
python -m minirlhf.tools.doctor out/ppo --explain                               one response, token by token

A line is `ok`, `BROKEN` (exit status 1) or a `note`, with what was measured; under what is not ok stands
why it matters and what to do. The checks are those of `checks.py`. Proved by tests/tools/test_doctor.py.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from minirlhf.evaluation.config import START
from minirlhf.harness.files import UserError
from minirlhf.harness.machine import Machine
from minirlhf.harness.options import option, parse, run_script
from minirlhf.lm.reading import MAP
from minirlhf.rl.options import RewardOptions, Turns


@dataclass(frozen=True)
class Doctor:
    """What to examine."""

    checkpoint: str = option("", "checkpoint folder; none: the RL in out/ from out/sft, or that", bare=True)
    task: str = option("", "generated tasks, a,b; none: those that the checkpoint was trained on", needs="-prompts")
    prompts: tuple[str, ...] = option((), "your own files instead, of prompts or conversations")
    map: str = option("", MAP, needs="prompts")
    explain: bool = option(
        False, "print one response token by token, and examine nothing",
        only="checkpoint task prompts map reward reward_threads reward_timeout reward_once environment turns seed device "
             "threads")


def main() -> None:
    """Admit, then examine or explain."""
    options, judged, turns, machine = parse(__doc__, Doctor, RewardOptions, Turns, Machine)
    device, dtype = machine.set_up()
    from minirlhf.evaluation.collect import rl_runs  # here: --help does not wait for torch
    from minirlhf.tools.examination import GROUP, admit, examine, explain

    if not options.checkpoint and not Path(START).is_dir():
        raise UserError(f"no checkpoint in {START}: run train_sft.py first, or name a folder")
    broken = 0
    for folder in [options.checkpoint] if options.checkpoint else rl_runs(START) or [START]:
        patient = admit(folder, options, judged, turns, device, machine.seed)
        config, n = patient.config, len(patient.records)
        print(f"{folder}: {config.algo}, beta {config.beta:g}, temperature {config.temperature:g}, {str(dtype)[6:]}; "
              f"{n} prompts x {GROUP} responses; reference: {patient.reference_name}")
        if options.explain:
            print("\n".join(explain(patient, machine.seed)))
            continue
        for finding in examine(patient, dtype, machine.seed):
            print(finding, flush=True)
            broken += finding.ok is False
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    run_script(main)
