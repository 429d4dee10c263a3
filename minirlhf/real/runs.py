"""The runs as lists of commands, the walk through one, which goes on where it stopped, and what its seeds came to.

Proved by tests/real/test_runs.py.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from minirlhf.evaluation.table import markdown_table, number
from minirlhf.harness.files import UserError, can_resume, read_json, write_atomic, write_json
from minirlhf.real import openings, reviews, sums

ALGOS = "grpo", "rloo", "ppo"
BETAS = "0", "0.1", "0.3", "1"
ONE = "--threads 1 --seed {seed}"  # two seeds go side by side on two cores, and each gives the same bits
START = f"--init {{model}} --lora 16 {ONE}"
CHANGES = {  # of RLOO on sums, the last as it is
    "beta0": "--beta 0", "beta0.2": "--beta 0.2", "rank2": "--lora 2", "rank64": "--lora 64",
    "qv": "--lora-on q_proj v_proj", "lr1e-4": "--lr 1e-4", "lr1e-3": "--lr 1e-3", "cool": "--temperature 0.7", "asis": "",
}  # fmt: skip
ROUNDS = "--lr 3e-4 --warmup 2 --minibatches 2"


def path_of(module) -> str:
    """The file of a task, from here."""
    return os.path.relpath(module.__file__)


def sft(name: str, data: str, steps: int) -> dict[str, str]:
    """A step of fine-tuning."""
    words = f"--data {{data}}/{data}.jsonl --lr 5e-4 --batch 8 --steps {steps}"
    return {name: f"train_sft.py {START} {words} --out {{out}}/{name}"}


def rl(name: str, words: str) -> dict[str, str]:
    """A step of reinforcement learning."""
    return {name: f"train_ppo.py {words} --out {{out}}/{name}"}


def judge(name: str, words: str, models: dict[str, str], against: str = "base", data: str = "") -> dict[str, str]:
    """A step of evaluation. models: name -> folder below that of the seed.  data: where it is not called as the step."""
    given = "".join(f" {model}={{out}}/{folder}" for model, folder in models.items())
    how = f"--against {against} --reference base {ONE} --score-dtype bfloat16 --all"
    return {name: f"evaluate.py --models base={{model}}{given} {how} {words} --data {{data}}/{data or name}.jsonl --out {{out}}/{name}"}


def best_of(data: str, words: str) -> dict[str, str]:
    """A step of many samples of the model as it is."""
    return judge("best", f"{words} --samples 16", {}, data=data)


def classifier(name: str, seed: str = "{seed}") -> dict[str, str]:
    """A step of training a head of classes; `seed` another one than the run's."""
    words = f"--init {{model}} --lora 16 --threads 1 --seed {seed} --epochs 1 --batch 16 --lr 5e-4"
    return {name: f"-m minirlhf.tools.train_reward {words} --data {{data}}/{name}.jsonl --out {{out}}/{name}"}


def of_sums() -> tuple[str, str]:
    """The reward of sums, and the options of learning by it."""
    reward = f"--reward {path_of(sums)}:right --max-new 12"
    return reward, f"{START} {ROUNDS} {reward} --prompts {{data}}/labels.jsonl --beta 0.05 --batch 64 --iterations 24"


def others(models: dict[str, str]) -> dict[str, str]:
    """Are other questions still answered?"""
    return judge("others", "--max-new 40 --samples 1 --show 20 --metrics kl,length,surprise", models)


def sums_steps() -> dict[str, str]:
    """SFT and RL from the same model at equal answers, and PPO behind SFT on few; then what each has learnt."""
    reward, learn = of_sums()
    models = {"few": "few/sft", "many": "many/sft"} | {name: name for name in (*ALGOS, "fewppo")}
    steps = sft("few", "few", 50) | sft("many", "labels", 125)
    for algo in ALGOS:
        steps |= rl(algo, f"{learn} --algo {algo}")
    steps |= rl("fewppo", f"{learn.replace('{model}', '{out}/few/sft')} --algo ppo")
    steps |= judge("test", f"{reward} --samples 1 --metrics reward,kl,length", models)
    for name in ("reworded", "three", "minus"):  # longer sums have longer answers
        steps |= judge(name, f"{reward} --max-new 24 --samples 1 --metrics reward,length", models)
    return steps | best_of("some", f"{reward} --metrics reward,best,length") | others(models)


def settings_steps() -> dict[str, str]:
    """RLOO on sums with one setting changed at a time: what breaks the text, and what keeps it."""
    reward, learn = of_sums()
    steps = {}
    for name, change in CHANGES.items():
        steps |= rl(name, f"{learn} --algo rloo {change}")
    models = {name: name for name in CHANGES}
    return steps | judge("some", f"{reward} --samples 2 --metrics reward,kl,length", models) | others(models)


def reviews_steps() -> dict[str, str]:
    """SFT and RL on the right label, with and without a penalty, one after the other, and a classifier with a head."""
    reward = f"--reward {path_of(reviews)}:right --max-new 6"
    learn = f"--lora 16 {ONE} --algo rloo --warmup 2 --minibatches 2 {reward} --batch 128 --prompts {{data}}/labels.jsonl"
    steps = sft("few", "few", 50) | sft("many", "labels", 125)
    for name, beta in {"rl": 0.05, "rl0": 0.0}.items():
        steps |= rl(name, f"--init {{model}} {learn} --lr 3e-4 --beta {beta} --iterations 24")
    steps |= rl("both", f"--init {{out}}/few/sft {learn} --lr 1e-4 --beta 0.05 --iterations 10")
    steps["head"] = classifier("head")["head"].replace("{data}/head.jsonl", "{data}/labels.jsonl {data}/test.jsonl")
    models = {"few": "few/sft", "many": "many/sft", "rl": "rl", "rl0": "rl0", "both": "both"}
    words = f"{reward} --samples 1 --metrics reward,accuracy,f1,calibration,kl,length"
    steps |= judge("test", words, models, "few")
    for k in reviews.SHOTS:  # as many labels to learn from, or to read in front of each review
        steps |= sft(f"sft{k}", f"few{k}", 20)
        given = f"{reward} --samples 1 --metrics reward,accuracy,f1,length --shots {k} --shots-from {{data}}/few{k}.jsonl"
        given += f" --shots-for base --reference sft{k}"  # whose prompts are short: no KL is asked for here
        steps |= judge(f"shots{k}", given, {f"sft{k}": f"sft{k}/sft"}, data="some")
    return steps


def openings_steps() -> dict[str, str]:
    """Two classifiers, policies that one of them rewards at four β, and both rewards of what they write."""
    judges, way = "--reward model:{out}/rm:positive model:{out}/gold:positive:0", "--missing-eos -3 --max-new 24"
    learn = f"{START} {ROUNDS} --reward model:{{out}}/rm:positive {way} --prompts {{data}}/prompts.jsonl --batch 64"
    steps = classifier("rm") | classifier("gold", "1{seed}")
    for algo in ("ppo", "rloo"):
        for beta in BETAS:
            steps |= rl(f"{algo}{beta}", f"{learn} --algo {algo} --beta {beta} --iterations 12")
    every = {f"{algo}{beta}": f"{algo}{beta}" for algo in ("ppo", "rloo") for beta in BETAS}
    words = "--samples 2 --show 4 --metrics reward,perplexity,kl,surprise,distinct,length"
    steps |= judge("test", f"{judges} {way} {words}", every)
    return steps | best_of("test", f"{judges} {way} --metrics reward,best,length")


Steps = dict[str, str]  # name -> command
RUNS: dict[str, tuple[Callable[[str], dict[str, list[dict]]], Callable[[], Steps]]] = {
    "sums": (sums.files, sums_steps), "reviews": (reviews.files, reviews_steps),
    "openings": (openings.files, openings_steps), "settings": (sums.files, settings_steps),
}  # fmt: skip


def command_of(words: str, **places: str) -> list[str]:
    """A step's command; --resume alone where its training was stopped."""
    command = [word.format(**places) for word in words.split()]
    folder = Path(command[command.index("--out") + 1])
    if can_resume(folder) or can_resume(folder / "sft"):
        first = next(i for i, word in enumerate(command) if word.startswith("--"))
        command = [*command[:first], "--resume", "--out", str(folder)]
    return [sys.executable, *command]


@contextmanager
def left_to_the_step() -> Iterator[None]:
    """Ctrl-C reaches the step, too: it saves, and would be killed meanwhile if this raised."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def walk(run: str, model: str, source: str, out: Path, seed: int, only: Sequence[str] = ()) -> float:
    """Make what of a run is not yet made, each step's words in NAME.txt; returns its seconds in all. Raises UserError.

    source: the file of reviews.  only: the steps to make; none: all. All that stands in `out` is of one model and of
    the same records.
    """
    files, steps = RUNS[run]
    if unknown := {*only} - {*steps()}:
        raise UserError(f"--only {unknown.pop()}: {run} has the steps {', '.join(steps())}")
    for name, records in files(source).items():
        path, content = out / "data" / f"{name}.jsonl", "".join(f"{json.dumps(r)}\n" for r in records).encode()
        if path.exists() and path.read_bytes() != content:
            raise UserError(f"{path}: was begun with other records; choose another --out")
        write_atomic(path, content)
    own = out / str(seed)
    kept = own / "steps.json"
    spent = read_json(kept, {"*": {"seconds": 0.0, "done": (0, 1), "words?": ""}}) if kept.exists() else {}
    for name, words in steps().items():
        places = {"model": os.path.relpath(model), "data": "DATA", "out": "OUT", "seed": str(seed)}
        made = words.format(**places)  # what decides its result
        was = spent.get(name, {"seconds": 0.0, "done": 0})
        if was.get("words", made) != made:
            raise UserError(f"{kept}: {name} was begun with {was['words']}, not {made}; choose another --out")
        if was["done"] or only and name not in only:
            continue
        command = command_of(words, model=model, data=str(out / "data"), out=str(own), seed=str(seed))
        print(f"\n{name}: python {' '.join(command[1:])}", flush=True)
        start = time.perf_counter()
        own.mkdir(parents=True, exist_ok=True)
        with open(own / f"{name}.txt", "w", encoding="utf-8") as file, left_to_the_step():
            status = subprocess.run(command, stdout=file, env=os.environ | {"PYTHONIOENCODING": "utf-8"}).returncode
        spent[name] = {"seconds": was["seconds"] + time.perf_counter() - start, "done": int(status == 0), "words": made}
        write_json(kept, spent)
        if status == 130:
            raise KeyboardInterrupt
        if status:
            raise UserError(f"{name}: ended with status {status}; call this again, and it goes on from there")
        print((own / f"{name}.txt").read_text(encoding="utf-8").rstrip().rsplit("\n\n", 1)[-1])
    return sum(step["seconds"] for step in spent.values())


def seeds_table(out: Path) -> str:
    """What the seeds that were evaluated came to: of each test set the mean of each metric and model, with the least
    and the most; and how often each model was what against the one compared with."""
    tables = []
    for name in dict.fromkeys(path.parent.name for path in sorted(out.glob("*/*/report.json"))):
        reports = [read_json(path) for path in sorted(out.glob(f"*/{name}/report.json"))]
        found = [next(iter(r["tasks"].values()))["metrics"] for r in reports]
        # The name of a learnt reward holds its folder, and that the seed.
        by_name = [{re.sub("model:.*/", "", row["metric"]): row["models"] for row in metrics} for metrics in found]
        rows, names = [], list(dict.fromkeys(name for metrics in by_name for name in metrics))
        for model in reports[0]["models"]:
            cells = []
            for metric in names:  # J* is not known in every seed
                values = [metrics[metric][model]["value"] for metrics in by_name if metric in metrics]
                known = [x for x in values if x is not None]
                ends = f" ({number(min(known))}–{number(max(known))})" if len(known) > 1 else ""
                cells.append(number(sum(known) / len(known)) + ends if known else "–")
            first = [metrics[0]["differences"].get(model) for metrics in found]
            said = Counter(d["verdict"] for d in first if d)
            rows.append([model, *cells, ", ".join(f"{n} {verdict}" for verdict, n in said.items())])
        title = f"{name}, {len(reports)} seed{'s' * (len(reports) > 1)}"
        head = [title, *names, f"first, against {reports[0]['against']}"]
        tables.append(markdown_table(head, rows))
    return "\n\n".join(tables)
