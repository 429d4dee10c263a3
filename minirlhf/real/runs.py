"""The runs as lists of commands of the three scripts, and the walk through one, which goes on where it stopped.

Proved by tests/real/test_runs.py.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from minirlhf.harness.files import UserError, read_json, write_json
from minirlhf.real import sums

ROOT = Path(__file__).parents[2]
RIGHT = f"{Path(sums.__file__)}:right"
ONE = "--threads 1 --seed {seed}"  # two seeds go side by side on two cores, and each gives the same bits
ADAPT = f"--init {{model}} --lora 16 {ONE}"
LEARN = f"{ADAPT} --prompts {{data}}/labels.jsonl --reward {RIGHT} --lr 3e-4 --beta 0.05 --batch 64 --minibatches 2 --max-new 12 --iterations 24 --warmup 2"
MODELS = "--models base={model} few={out}/few/sft many={out}/many/sft grpo={out}/grpo rloo={out}/rloo ppo={out}/ppo"
JUDGE = f"{MODELS} --against base {ONE} --show 20 --all"
SCORE = f"{JUDGE} --reward {RIGHT} --max-new 12 --metrics reward,best,kl,entropy,length"
SUMS = {
    "few": f"train_sft.py {ADAPT} --data {{data}}/few.jsonl --lr 5e-4 --batch 8 --steps 50 --out {{out}}/few",
    "many": f"train_sft.py {ADAPT} --data {{data}}/labels.jsonl --lr 5e-4 --batch 8 --steps 125 --out {{out}}/many",
    **{algo: f"train_ppo.py {LEARN} --algo {algo} --out {{out}}/{algo}" for algo in ("grpo", "rloo", "ppo")},
    **{name: f"evaluate.py {SCORE} --samples {4 if name == 'test' else 1} --data {{data}}/{name}.jsonl --out {{out}}/{name}"
       for name in sums.SETS},
    "others": f"evaluate.py {JUDGE} --max-new 40 --samples 1 --metrics kl,length --data {{data}}/others.jsonl --out {{out}}/others",
}
RUNS: dict[str, tuple[Callable[[Path], None], dict[str, str]]] = {"sums": (sums.write_files, SUMS)}  # data; name -> command


def command_of(words: str, **places: str) -> list[str]:
    """A step's command; --resume alone where its training was stopped."""
    script, *options = [word.format(**places) for word in words.split()]
    folder = Path(options[options.index("--out") + 1])
    if any((folder / sub / "train_state.pt").exists() for sub in ("", "sft")):
        options = ["--resume", "--out", str(folder)]
    return [sys.executable, str(ROOT / script), *options]


def walk(run: str, model: str, out: Path, seed: int) -> float:
    """Make what of a run is not yet made, each step's words in NAME.txt; returns its seconds in all. Raises UserError."""
    make, steps = RUNS[run]
    make(out / "data")
    done = read_json(out / "seconds.json", {"*": 0.0}) if (out / "seconds.json").exists() else {}
    own = out / str(seed)
    for name, words in steps.items():
        if (key := f"{seed} {name}") in done:
            continue
        command = command_of(words, model=model, data=str(out / "data"), out=str(own), seed=str(seed))
        print(f"\n{name}: {' '.join(command[1:])}", flush=True)
        start = time.perf_counter()
        own.mkdir(parents=True, exist_ok=True)
        with open(own / f"{name}.txt", "w", encoding="utf-8") as file:
            status = subprocess.run(command, stdout=file).returncode
        if status:
            raise UserError(f"{name}: ended with status {status}; call this again, and it goes on from there")
        print((own / f"{name}.txt").read_text(encoding="utf-8").rstrip().rsplit("\n\n", 1)[-1])
        done[key] = time.perf_counter() - start
        write_json(out / "seconds.json", done)
    return sum(seconds for key, seconds in done.items() if key.startswith(f"{seed} "))
