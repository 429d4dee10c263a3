"""What each trick of speed is worth: the package as it is beside a copy without the trick.

python .ci/ladder.py --init out/sft

A rung takes one trick out of a copy of the package, by a patch, and names commands that feel it. The two copies take
turns, each in a process of its own. The table has the median seconds and peak memory of both. For `bench` these are of
its row. For other commands they are CPU seconds and the peak of the whole command. Ratios are without / with. In the
commands, INIT stands for --init, and OUT for a new folder. Let nothing else run beside it.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Rung:
    """A trick, what takes it out, and commands that feel it."""

    name: str
    patches: tuple[tuple[str, str, str], ...]  # file in minirlhf/, a text that stands in it once, and what is put there
    commands: tuple[str, ...]


TRAINING, SAMPLING, GRPO = (f"bench --repeats 3 --rows {row} --sizes" for row in ("training", "sampling", "grpo"))
PPO = "train_ppo.py --init INIT --iterations 12 --out OUT"
LADDER = [
    Rung("sampling in the dtype of training", (
        ("tools/measure.py", "autocast(load.device, load.dtype)(generate)", "generate"),
    ), (f"{SAMPLING} small", f"{SAMPLING} baby")),
    Rung("a cache that grows by 16 columns", (
        ("lm/model.py", "F.pad(seen, (0, -seen.shape[1] % 16))", "seen"),
    ), (f"{SAMPLING} small", f"{SAMPLING} baby")),
    Rung("rows that ended leave in steps of 16, and a quarter at least", (
        ("lm/generation.py", "n = -(-left // 16) * 16", "n = left"),
        ("lm/generation.py", "n <= 0.75 * len(alive)", "n < len(alive)"),
    ), (PPO,)),
    Rung("a prompt is read once for all its answers", (
        ("lm/generation.py", "each if 2 * len(each) <= len(prompts) else ", ""),
        ("rl/rollout.py", "gcd(*asked.unique_consecutive(dim=0, return_counts=True)[1].tolist())", "1"),
    ), (f"{GRPO} smollm2",)),
    Rung("frozen layers in bfloat16", (
        ("lm/config.py", "hold_frozen(adapted, dtype or torch.float32)", "adapted"),
    ), (f"{GRPO} smollm2 --lora 8",)),
    Rung("passes of 970 tokens of SmolLM2, not 485", (
        ("lm/batches.py", '{"cpu": 2**24', '{"cpu": 2**23'),
    ), (f"{GRPO} smollm2",)),
    Rung("freed memory is kept", (
        ("harness/device.py", "mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, 2**31 - 1)", "mallopt"),
    ), (f"{TRAINING} small", f"{TRAINING} smollm2")),
    Rung("what torch imports to draw new weights is not imported", (
        ("lm/checkpoint.py", 'torch.device("meta"), Undrawn():', 'torch.device("meta"):'),
    ), ("evaluate.py --models sft=INIT --prompt hello",)),
    Rung("attention by hand, not torch's kernel", (
        ("lm/model.py", 'attention: str = "manual"', 'attention: str = "sdpa"'),
    ), (f"{TRAINING} small", f"{TRAINING} baby")),
    Rung("a uniform number and a cumulative sum draw a token, not torch.multinomial", (
        ("lm/generation.py", "uniforms = send(row_uniforms(seeds, R), device)", "uniforms = None"),
        ("lm/generation.py", "draw(probabilities, uniforms[alive, t])", "probabilities.multinomial(1).squeeze(1)"),
    ), (f"{SAMPLING} small",)),
    Rung("prompts of like length in one pass of sampling", (
        ("lm/generation.py", "sorted(range(len(prompts)), key=lambda i: lengths[i])", "range(len(prompts))"),
        ("evaluation/ask.py", "micro_batches([len(prompts[wanted[row][0]]) for row in rows], SAMPLED)",
         "micro_batches([0] * len(rows), SAMPLED)"),
    ), ("evaluate.py --models sft=INIT --out OUT",)),
    Rung("padding of prompts removed before scoring", (
        ("rl/rollout.py", "order = (~real).byte().argsort(dim=1, stable=True)",
         "order = torch.arange(real.shape[1], device=ids.device).expand_as(ids)"),
        ("rl/rollout.py", "T = round_up(int(real.sum(1).max()) - 1, 8, model.config.context)",
         "T = round_up(real.shape[1] - 1, 8, model.config.context)"),
        ("rl/rollout.py", "ids, spoken = (F.pad(x.gather(1, order), (0, T + 1))[:, : T + 1] for x in (ids, spoken))",
         "ids, spoken, real = (F.pad(x.gather(1, order), (0, T + 1))[:, : T + 1] for x in (ids, spoken, real))"),
        ("rl/rollout.py", "gather_true(model(ids[:, :-1]), spoken[:, 1:])",
         "gather_true(model(ids[:, :-1], real[:, :-1]), spoken[:, 1:])"),
    ), (PPO,)),
    Rung("few distinct shapes", (
        ("lm/batches.py", "max(n, min(-(-n // multiple) * multiple, limit))", "n"),
        ("lm/batches.py", "F.pad(places, (0, -n % 64))", "places"),
    ), ("train_sft.py --base-steps 150 --steps 150 --out OUT",)),
]  # fmt: skip


def without(rung: Rung, folder: Path) -> None:
    """Take the trick out of the package in `folder`. Raises SystemExit where a patch no longer fits."""
    for file, old, new in rung.patches:
        path = folder / "minirlhf" / file
        text = path.read_text("utf-8")
        if text.count(old) != 1:
            sys.exit(f"{rung.name}: {file} has {old!r} {text.count(old)} times, not once")
        path.write_text(text.replace(old, new), "utf-8")


def copy_of(folder: Path) -> Path:
    """The package and its scripts in `folder`."""
    shutil.copytree(ROOT / "minirlhf", folder / "minirlhf", ignore=shutil.ignore_patterns("__pycache__"))
    for script in ROOT.glob("*.py"):
        shutil.copy(script, folder)
    return folder


def measured(command: str, folder: Path, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds and peak GB of a command in a copy."""
    places = {"INIT": str(Path(options.init).resolve()), "OUT": str(folder / "out")}
    words = [next((w.replace(k, v) for k, v in places.items() if w.endswith(k)), w) for w in command.split()]
    bench = words[0] == "bench"
    words = ["-m", "minirlhf.tools.bench", "--json", *words[1:]] if bench else words
    asked = [sys.executable, *words, "--threads", str(options.threads)]
    shutil.rmtree(folder / "out", ignore_errors=True)
    with open(folder / "said", "w+", encoding="utf-8") as said:
        env = os.environ | {"PYTHONPATH": ""}
        process = subprocess.Popen(asked, cwd=folder, env=env, stdout=said, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = status
        said.seek(0)
        text = said.read()
    if status:
        sys.exit(f"{' '.join(asked)}\n{text[-3000:]}")
    if bench:
        (row,) = json.loads(text.splitlines()[-1])["rows"]
        return row["seconds"], row["peak_gb"]
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20


def main() -> None:
    """Run every rung, both copies in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--init", default="out/sft", help="the SFT model of the main run")
    parser.add_argument("--rungs", nargs="+", default=[], help="words of the names of the rungs that are wanted")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    print("| trick | command | with | without | time | memory |\n|---|---|--:|--:|--:|--:|", flush=True)
    for rung in LADDER:
        if options.rungs and not any(word in rung.name for word in options.rungs):
            continue
        with tempfile.TemporaryDirectory() as work:
            copies = [copy_of(Path(work, name)) for name in ("with", "without")]
            without(rung, copies[1])
            for command in rung.commands:
                runs = [[measured(command, copy, options) for copy in copies] for _ in range(options.repeats)]
                (here, held), (there, there_held) = ([statistics.median(x) for x in zip(*side)] for side in zip(*runs))
                sides = f"{here:.3g} s, {held:.2f} GB | {there:.3g} s, {there_held:.2f} GB"
                ratios = f"{there / here:.2f} | {there_held / held:.2f}"
                print(f"| {rung.name} | `{command}` | {sides} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
