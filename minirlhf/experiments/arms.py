"""The arms of the study of SFT and RL: how each is trained and judged. A cell is one (task, seed, arm).

    base        raw text of the task, no labels               sft-hot    like moreN, at 5 times the learning rate
    sftN        base + SFT on N labelled examples             ppo-hot    like ppoN, at 5 times the learning rate
    ppoN        sftN + PPO on unlabelled prompts              random     like ppoN, the reward is a hash of the answer
    moreN       sftN + SFT for the CPU time that ppoN took    longest    like ppoN, the reward is the answer's length
    picked      like moreN, on the labelled answers of the    ppo0       base + PPO, without SFT
                highest reward alone (reviews)

The arms picked, sft-hot, ppo-hot, random and longest exist for the largest N alone. `tools/sft_against_rl.py` runs
the arms and `claims.py` compares them. Proved by tests/tools/test_sft_against_rl.py.
"""

import json
import time
from collections.abc import Sequence
from contextlib import redirect_stderr
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from math import inf
from pathlib import Path

import torch

from minirlhf.evaluation.ask import Policy
from minirlhf.experiments.config import StudyOptions
from minirlhf.experiments.questions import PROSE, measure_model, question_sets
from minirlhf.experiments.trials import Questions, begun_anew, numbers, optimise
from minirlhf.harness.device import choose_dtype
from minirlhf.harness.files import Diverged, read_json, write_atomic
from minirlhf.harness.loop import Run
from minirlhf.lm import checkpoint
from minirlhf.lm.batches import Mixture
from minirlhf.lm.chat import render
from minirlhf.lm.config import FitConfig
from minirlhf.lm.examples import document_examples
from minirlhf.lm.model import GPT, GPTConfig
from minirlhf.lm.sft import evaluate_loss, fit
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.rl.config import PPOConfig
from minirlhf.tasks import TASKS, reward_of_task

CPU = torch.device("cpu")
BEST_OF_SAMPLES = 16  # drawn from the SFT model on the most labels, for best-of-n
HOT = 5.0
# Tasks whose reward needs no label: it reads the prompt or the answer. Sentiment's reward is a label in disguise.
STUDIED = ("reviews", "arithmetic")
HEADS = 4  # of attention


@dataclass(frozen=True)
class Arm:
    """How a cell's model is made."""

    start: str  # the arm it goes on from
    how: str  # base, sft, ppo
    labels: int = 0
    match: str = ""  # the arm whose CPU time this one may take
    reward: str = "task"
    rate: float = 1.0  # times the usual learning rate
    picked: bool = False


def arms(task: str, labels: Sequence[int]) -> dict[str, Arm]:
    """name -> arm. Each arm stands behind those that it needs."""
    most = max(labels)
    sft, ppo = f"sft{most}", f"ppo{most}"
    table = {"base": Arm("", "base")}
    table |= {f"sft{n}": Arm("base", "sft", n) for n in labels}
    table |= {f"ppo{n}": Arm(f"sft{n}", "ppo") for n in labels}
    table |= {f"more{n}": Arm(f"sft{n}", "sft", n, match=f"ppo{n}") for n in labels}
    if task in PROSE:
        table["picked"] = Arm(sft, "sft", most, match=ppo, picked=True)
    table |= {"ppo0": Arm("base", "ppo")}
    table |= {kind: Arm(sft, "ppo", reward=kind) for kind in ("random", "longest")}
    return table | {"sft-hot": Arm(sft, "sft", most, match=ppo, rate=HOT), "ppo-hot": Arm(sft, "ppo", rate=HOT)}


def task_scale(task: str) -> int:
    """The factor on a task's steps and responses: 2 where answers are short, which are cheap and say little."""
    return 1 if task in PROSE else 2


def random_reward(prompt: str, response: str, record: dict) -> float:
    """A number in [0, 1) that the prompt and the response decide and that means nothing."""
    digest = blake2b(f"{prompt}\0{response}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def longest_reward(prompt: str, response: str, record: dict) -> float:
    """Characters of the response / (4 × the task's budget of tokens), at most 1."""
    return min(len(response) / (4 * TASKS[record["task"]].MAX_NEW), 1.0)


REWARDS = {  # name -> record -> reward
    "task": reward_of_task, "random": lambda record: random_reward, "longest": lambda record: longest_reward,
}  # fmt: skip


def train_base(task: str, options: StudyOptions, run: Run) -> tuple[Policy, dict]:
    """A model of the task's raw text, and its cost. The tokenizer also learns from the prompts, which bear no label."""
    documents = TASKS[task].documents(20_000, run.seed)
    prompts = [r["prompt"] for r in TASKS[task].records("train", 20_000, run.seed)]
    tokenizer = Tokenizer.train(documents + prompts, 1024)
    torch.manual_seed(run.seed)
    model = GPT(GPTConfig(tokenizer.vocab_size, context=128, layers=2, heads=HEADS, width=options.width))
    examples = [e for text in documents for e in document_examples({"text": text}, tokenizer, 128)]
    config = FitConfig(options.base_steps, options.lr, min(50, options.base_steps // 4), save_every=10**9)
    cost = fit(model, Mixture({task: (examples, options.rows)}, run.seed).step, [], config, run)
    return Policy(model, tokenizer, chat=False), cost


def train_sft(policy: Policy, task: str, arm: Arm, most_steps: int, options: StudyOptions, run: Run) -> dict:
    """SFT on the arm's labelled examples. A fifth of them, at most 200, serve for validation: they are labels, too.

    The weights of the lowest validation loss are kept, the start's included. 100 examples are soon learnt by heart,
    and anyone would stop in time. At 5 times the rate the last weights are kept, or the damage would be hidden.
    """
    records = TASKS[task].records("train", 20_000, run.seed)[: arm.labels]
    if arm.picked:
        earned = [TASKS[task].reward(r["prompt"], r["response"], r) for r in records]
        top = max(earned)
        records = [r for r, x in zip(records, earned) if x == top]
    examples = [render(r, policy.tokenizer) for r in records]
    n = min(max(len(examples) // 5, 1), 200)
    validation, examples = examples[:n], examples[n:] or examples
    steps = most_steps if arm.match else max(1, min(most_steps, 100 * len(examples) // options.rows))
    model, best = policy.model, {"loss": inf}

    def keep() -> None:
        nll, count = evaluate_loss(model, validation)
        if nll / count < best["loss"]:
            best.update(loss=nll / count, weights=deepcopy(model.state_dict()))

    batches = Mixture({task: (examples, options.rows)}, run.seed)

    def batch_of(step: int) -> list:
        if step % max(1, steps // 10) == 0 and arm.rate == 1:
            keep()
        return batches.step(step)

    config = FitConfig(steps, options.lr * arm.rate, min(50, steps // 4), save_every=10**9)
    cost = fit(model, batch_of, [], config, run)
    if arm.rate == 1:
        keep()
        model.load_state_dict(best["weights"])
    return cost


def train_ppo(policy: Policy, task: str, arm: Arm, options: StudyOptions, run: Run) -> dict:
    """PPO with the task's reward or another."""
    config = PPOConfig(
        iterations=options.iterations, batch=options.batch * task_scale(task), lr=options.ppo_lr * arm.rate,
        warmup=max(1, options.iterations // 9), save_every=10**9,
    )  # fmt: skip
    def unlabelled(*which) -> list[dict]:
        return [{k: v for k, v in r.items() if k != "response"} for r in TASKS[task].records(*which)]

    asked = Questions(task, TASKS[task].MAX_NEW, TASKS[task].reward, unlabelled)
    return optimise(policy, asked, REWARDS[arm.reward], config, run.seed, run.dtype, run.out)


def label_counts(options: StudyOptions) -> list[int]:
    """The numbers of labelled examples, rising. Raises UserError."""
    return sorted(numbers(options.labels, "labels", int, 2, 20_000))


def shared_settings(options: StudyOptions) -> dict:
    """What all arms of a folder must be made with: all but how many seeds and tasks, where and how fast."""
    kept = {k: v for k, v in asdict(options).items() if k not in ("task", "seeds", "workers", "out")}
    return kept | {"labels": label_counts(options), "dtype": str(choose_dtype("auto", CPU))}


def run_cell(task: str, seed: int, name: str, options: StudyOptions) -> None:
    """Train and judge one model, after the arms that it needs. Writes its checkpoint and last its result.json."""
    torch.set_num_threads(1)
    arm = arms(task, label_counts(options))[name]
    folder = Path(options.out) / task / str(seed)
    out = folder / name
    out.mkdir(parents=True, exist_ok=True)
    before = {x: read_json(folder / x / "result.json") for x in (arm.start, arm.match) if x}
    run = Run(out, seed, choose_dtype("auto", CPU), overwrite=True)
    begin, failed, cost = time.process_time(), "", {"tokens": 0, "steps": 0}
    with (out / "stderr.txt").open("w", encoding="utf-8") as file, redirect_stderr(file), begun_anew():  # bars
        if arm.how == "base":
            policy, cost = train_base(task, options, run)
            start = policy
        else:
            policy = Policy(*checkpoint.load(folder / arm.start))
            start = replace(policy, model=deepcopy(policy.model).eval())
            torch.manual_seed(seed)
            begin = time.process_time()
            try:
                if arm.how == "sft":
                    steps = options.steps * task_scale(task)
                    if arm.match:  # the fair rival: as many steps as fit in the CPU time of PPO
                        own = before[arm.start]
                        steps = max(1, round(before[arm.match]["cpu"] / own["cpu"] * own["steps"]))
                    cost = train_sft(policy, task, arm, steps, options, run)
                else:
                    cost = train_ppo(policy, task, arm, options, run)
            except Diverged as error:
                failed = str(error)
        cpu = time.process_time() - begin
        policy.model.eval()
        reference = start if arm.how == "ppo" or arm.match else policy
        questions = question_sets(task, options.prompts, seed)
        best_of = BEST_OF_SAMPLES if name == f"sft{max(label_counts(options))}" else 0
        sets = measure_model(policy, reference, task, questions, options.samples, best_of, seed)
    (out / "train_state.pt").unlink(missing_ok=True)
    spent = {"cpu": cpu, "trained": cost["tokens"]}
    if arm.start:  # the costs of the arms before it count, too
        spent = {key: own + before[arm.start]["sets"]["run"][key][0][0] for key, own in spent.items()}
    spent["us a token"] = 1e6 * cpu / max(cost["tokens"], 1)
    sets["run"] = {key: [[value, 1.0]] for key, value in spent.items()}
    line = {"start": arm.start, "cpu": cpu, "tokens": cost["tokens"], "steps": cost["steps"], "failed": failed}
    checkpoint.save(out, policy.model, policy.tokenizer, {"settings": shared_settings(options), "arm": asdict(arm)})
    write_atomic(out / "result.json", json.dumps(line | {"sets": sets}).encode())
