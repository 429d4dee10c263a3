"""Optimise learned rewards too far, and see when to stop: python -m minirlhf.tools.overoptimise

Simulated people compare samples of a checkpoint; a reward model learns from some of the comparisons; then
best-of-n and PPO at several beta make the most of it. The task's own reward, which none of them sees, is
gold: both on held-out prompts against d = √KL, in a table and a figure (`goodhart.py`). Each step is kept as
soon as it is done; called again, the tool goes on where it stopped. Proved by tests/test_overoptimise.py.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from minirlhf import checkpoint
from minirlhf.data import Mixture
from minirlhf.evaluation import sample_items
from minirlhf.files import UserError, write_atomic
from minirlhf.goodhart import Study, best_of_points, markdown, order, plot, policy_points, with_interval
from minirlhf.learned_reward import LearnedReward, load_reward_model
from minirlhf.model import GPT
from minirlhf.ppo import PPOConfig, train
from minirlhf.preferences import respond
from minirlhf.rollout import prompt_text
from minirlhf.loop import Interrupted, Run
from minirlhf.runtime import Machine, option, parse, run_script
from minirlhf.sources import reward_of_task
from minirlhf.tasks import TASKS
from minirlhf.tokenizer import Tokenizer
from minirlhf.watch import Description

UNFINISHED = -3.0  # what a proxy of mean 0 and deviation 1 gives a response without an end
ROWS = 512  # responses sampled in one pass
MEASURED = ("pairs", "beta", "gold", "kl", "proxy")  # in a line of results.jsonl
BETAS = ("1", "0.3", "0.1", "0.03", "0.01", "0.003", "0")


@dataclass(frozen=True)
class Overoptimisation:
    """What is compared."""

    init: str = option("out/sft", "checkpoint folder: the reference, from which all else starts")
    task: str = option("reviews", f"generated task, whose reward is gold: one of {', '.join(TASKS)}")
    pairs: tuple[str, ...] = option(("250", "1000", "4000"), "comparisons that a reward model learns from")
    betas: tuple[str, ...] = option(BETAS, "of PPO: deviations of the learned reward given up for a nat")
    temperature: float = option(0.1, "of the people: a gold reward this much higher is chosen e to 1")
    epochs: int = option(10, "passes of a reward model over its comparisons", least=1)
    iterations: int = option(60, "rounds of PPO", least=1)
    batch: int = option(128, "responses a round", least=1)
    prompts: int = option(100, "held-out prompts", least=2)
    best_of: int = option(256, "samples of the reference for each, for best-of-n up to that n", least=2)
    samples: int = option(8, "samples of a policy for each", least=1)
    out: str = option("out/overoptimise", "folder for all that is made")


def numbers(words: tuple[str, ...], name: str, kind: type) -> list:
    """The words as numbers, each once. Raises UserError."""
    try:
        values = list(dict.fromkeys(kind(word) for word in words))
    except ValueError:
        values = []
    if not values or min(values) < (1 if kind is int else 0) or not np.isfinite(values).all():
        raise UserError(f"--{name} {' '.join(words)}: give numbers of 0 or more; of comparisons, 1 or more")
    return values


def command(module: str, **options) -> None:
    """Run a command of ours in a process of its own. Raises UserError if it fails; it has said why."""
    words = [word for k, v in options.items() for word in (f"--{k}", str(v))]
    if subprocess.run([sys.executable, "-m", module, *words]).returncode:
        raise UserError(f"{module} failed, see above")


def check_settings(path: Path, settings: dict) -> None:
    """Write the settings, or hold them against those that the folder was begun with. Raises UserError."""
    if not path.exists():
        write_atomic(path, json.dumps(settings, indent=1).encode())
    try:
        before = checkpoint.read_json(path)
    except UserError as error:
        raise UserError(f"{error}; delete it, and call again with the options that the folder was begun with") from None
    if changed := [k for k in settings if before.get(k) != settings[k]]:
        what = f"{changed[0]} {before.get(changed[0])}, not {settings[changed[0]]}"
        raise UserError(f"{path.parent}: was begun with {what}; choose another --out")


def read_lines(path: Path, keys: Sequence[str], remedy: str) -> list[dict]:
    """The objects of a .jsonl file, none if there is no file; a last line that was cut off is passed over.

    Raises UserError, which ends in the remedy, for any other line that is no object with these keys.
    """
    *whole, _ = path.read_bytes().split(b"\n") if path.exists() else [b""]
    lines = []
    for number, data in enumerate(whole, 1):
        try:
            line = json.loads(data)
        except (ValueError, RecursionError):
            line = None
        if not isinstance(line, dict) or any(key not in line for key in keys):
            raise UserError(f"{path}, line {number}: damaged; {remedy}")
        lines.append(line)
    return lines


def proxy_of(n: int, options: Overoptimisation, machine: Machine, device: torch.device) -> LearnedReward:
    """The reward model of n comparisons, made if it is not there."""
    out = Path(options.out)
    folder, prefs = out / f"rm.{n}", out / f"prefs.{n}.jsonl"
    if not (folder / "config.json").exists():  # written last
        common = {"init": options.init, "seed": machine.seed, "device": device, "threads": machine.threads}
        # However many are wanted, a seed's comparisons are the same: those of 250 are among those of 1000.
        people = {"task": options.task, "temperature": options.temperature}
        command("minirlhf.preferences", pairs=n, out=prefs, **people, **common)
        learning = {"epochs": options.epochs, "dtype": machine.dtype}
        command("minirlhf.reward_model", data=prefs, out=folder, **learning, **common)
    return load_reward_model(folder, device)


def sampled(reference: tuple[GPT, Tokenizer], options: Overoptimisation, seed: int) -> list[dict]:
    """`best_of` answers of the reference to each held-out prompt, with gold; None is one without an end.

    Raises UserError for a file in which one is missing.
    """
    path, task = Path(options.out) / "samples.jsonl", TASKS[options.task]
    asked = [i for i in range(options.prompts) for _ in range(options.best_of)]
    if not path.exists():
        records = task.records("test", options.prompts, 0)
        seeds = np.random.default_rng(seed).integers(2**63, size=len(asked)).tolist()
        lines = []
        for start in range(0, len(asked), ROWS):
            part = asked[start : start + ROWS]
            texts = respond(*reference, [records[i] for i in part], task.MAX_NEW, seeds[start : start + ROWS])
            for i, said in zip(part, texts):
                gold = 0.0 if said is None else task.reward(prompt_text(records[i]), said, records[i])
                lines.append(json.dumps({"index": i, "response": said, "gold": gold}))
        write_atomic(path, "".join(x + "\n" for x in lines).encode())
    remedy = "delete it, and the same samples are drawn again"
    samples = read_lines(path, ("index", "response", "gold"), remedy)
    if [x["index"] for x in samples] != asked:
        raise UserError(f"{path}: not {options.best_of} samples of each of {options.prompts} prompts; {remedy}")
    return samples


def scored(proxy: LearnedReward, records: list[dict], answers: list[tuple[int, str | None]]) -> np.ndarray:
    """The proxy of each (index of the record, response), (n,)."""
    ended = [k for k, (_, said) in enumerate(answers) if said is not None]
    values = np.full(len(answers), UNFINISHED)  # (n,)
    asked = [records[answers[k][0]] for k in ended]
    values[ended] = proxy.many([(prompt_text(r), answers[k][1], r) for r, k in zip(asked, ended)])
    return values


def policy_line(
    n: int,
    beta: float,
    proxy: LearnedReward,
    reference: tuple[GPT, Tokenizer],
    options: Overoptimisation,
    seed: int,
    dtype: torch.dtype,
) -> dict:
    """Train a policy by PPO on the proxy and measure it on each held-out prompt: a line of results.jsonl."""
    task, policy, P = TASKS[options.task], deepcopy(reference[0]), options.prompts
    config = PPOConfig(
        iterations=options.iterations, batch=options.batch, beta=beta, missing_eos=UNFINISHED,
        save_every=options.iterations, max_new=task.MAX_NEW,
    )  # fmt: skip
    sets = {options.task: (task.records("train", 20_000, seed), options.batch)}
    torch.manual_seed(seed)
    try:
        with tempfile.TemporaryDirectory() as folder:
            _, cost = train(
                policy, reference[1], Mixture(sets, seed).step, lambda record: proxy, config,
                Run(Path(folder), seed, dtype), [Description(config.row)],
            )  # fmt: skip
    except Interrupted:  # what `train` saved is gone with its folder
        raise Interrupted("stopped; called again, the tool begins this policy anew, behind what is done") from None
    records = task.records("test", P, 0)
    items = sample_items(policy, *reference, records, reward_of_task, task.MAX_NEW, options.samples, seed)
    items = [x for x in items if x["sample"] >= 0]  # in the order of their prompts
    answers = [(x["index"], x["response"] if x["stop"] == "eos" else None) for x in items]
    columns = {"gold": [x["scores"]["reward"] for x in items], "kl": [x["kl"] for x in items]}
    columns["proxy"] = scored(proxy, records, answers)
    means = {name: np.reshape(values, (P, -1)).mean(1).tolist() for name, values in columns.items()}
    return {"pairs": n, "beta": beta, "seconds": cost["seconds"]} | means


def main() -> None:
    """Make what is not yet made, then print the table and draw the figure."""
    options, machine = parse(__doc__.splitlines()[0], Overoptimisation, Machine)
    device, dtype = machine.set_up()
    sizes, betas = numbers(options.pairs, "pairs", int), numbers(options.betas, "betas", float)
    if options.task not in TASKS:
        raise UserError(f"--task {options.task}: there are {', '.join(TASKS)}")
    model, tokenizer = checkpoint.load_chat(options.init)
    reference, out = (model.to(device).eval(), tokenizer), Path(options.out)
    settings = {k: v for k, v in asdict(options).items() if k not in ("pairs", "betas", "out")}
    settings |= {"init": checkpoint.fingerprint(model), "seed": machine.seed}
    check_settings(out / "settings.json", settings)
    records = TASKS[options.task].records("test", options.prompts, 0)
    samples = sampled(reference, options, machine.seed)
    gold = np.reshape([x["gold"] for x in samples], (options.prompts, options.best_of))  # (P, N)
    results, studies = out / "results.jsonl", []
    for n in sizes:
        reward = proxy_of(n, options, machine, device)
        values = scored(reward, records, [(x["index"], x["response"]) for x in samples])
        proxy = np.reshape(values, gold.shape)  # (P, N)
        kept = read_lines(results, MEASURED, "delete that line, and its policy is trained again")
        done = {x["beta"]: x for x in kept if x["pairs"] == n}
        for beta in [beta for beta in betas if beta not in done]:
            print(f"PPO on the reward of {n} comparisons, beta {beta:g}", flush=True)
            done[beta] = policy_line(n, beta, reward, reference, options, machine.seed, dtype)
            kept.append(done[beta])
            write_atomic(results, "".join(json.dumps(line) + "\n" for line in kept).encode())
        points = {"best-of-n": best_of_points(gold, proxy)}
        points["PPO"] = policy_points([done[beta] for beta in betas], gold, proxy)
        studies.append(Study(n, order(gold, proxy), points))
    start = gold.mean(1)  # (P,)
    said = f"gold reward of the reference {with_interval(start)}"
    print(f"\n{options.task}: {said}\n\n{markdown(studies, start)}\n\n± and [ ]: 95 %")
    write_atomic(out / "overoptimise.svg", plot(studies, float(start.mean())).encode())
    print(f"\nwritten: {out / 'overoptimise.svg'}")


if __name__ == "__main__":
    run_script(main)
