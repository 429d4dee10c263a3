"""Optimise learned rewards too far, and see when to stop: python -m minirlhf.tools.overoptimise

Simulated people compare samples of a checkpoint. Each reward model learns from some of the comparisons. Then best-of-n
and PPO at several beta optimise it. Gold is the task's own reward, which none of them sees. A table and a figure show
both rewards on held-out prompts against d = √KL (`experiments/goodhart.py`). Each step is kept when it is done. Called
again, the tool goes on where it stopped. Proved by tests/tools/test_overoptimise.py.
"""

from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from minirlhf.evaluation.ask import Policy
from minirlhf.experiments.goodhart import (
    Proxy, best_of_points, law_figure, law_tables, order, policy_points, with_interval,
)
from minirlhf.experiments.trials import begun_anew, begun_with, kept, numbers, optimise, task_items
from minirlhf.harness.files import write_atomic
from minirlhf.harness.machine import Machine
from minirlhf.harness.options import option, parse, run_script
from minirlhf.lm import checkpoint
from minirlhf.preferences.config import Labeller, RewardConfig
from minirlhf.preferences.simulated import respond
from minirlhf.rl.config import PPOConfig
from minirlhf.rl.reward_model import LearnedReward, load_reward_model
from minirlhf.rl.rewards import call_rewards, prompt_text
from minirlhf.tasks import TASKS
from minirlhf.tools import make_preferences, train_reward

UNFINISHED = -3.0  # what a proxy of mean 0 and deviation 1 gives a response without an end
ROWS = 512  # responses sampled in one pass
BETAS = ("1", "0.3", "0.1", "0.03", "0.01", "0.003", "0")


@dataclass(frozen=True)
class Overoptimisation:
    """What is compared."""

    init: str = option("out/sft", "checkpoint folder of the reference, from which all else starts")
    task: str = option("reviews", "generated task, whose reward is gold", choices=TASKS)
    pairs: tuple[str, ...] = option(("250", "1000", "4000"), "numbers of comparisons, one per reward model")
    betas: tuple[str, ...] = option(BETAS, "of PPO: deviations of the learned reward given up for a nat of KL")
    temperature: float = option(0.1, "of the people: a gold reward this much higher is chosen with odds of e to 1")
    epochs: int = option(10, "passes of a reward model over its comparisons", least=1)
    iterations: int = option(60, "rounds of PPO", least=1)
    batch: int = option(128, "responses per round", least=1)
    prompts: int = option(100, "held-out prompts", least=2)
    best_of: int = option(256, "samples of the reference per held-out prompt, for best-of-n up to that n", least=2)
    samples: int = option(8, "samples of a policy per held-out prompt", least=1)
    out: str = option("out/overoptimise", "folder for all that is made")


def proxy_of(n: int, options: Overoptimisation, machine: Machine, device: torch.device) -> LearnedReward:
    """The reward model of n comparisons, made if it is not there."""
    out = Path(options.out)
    folder, prefs = out / f"rm.{n}", out / f"prefs.{n}.jsonl"
    if not (folder / "config.json").exists():  # written last
        # The number does not change a seed's comparisons: the 250 are the first of the 1000.
        asked = make_preferences.Options(options.init, options.task, n, out=str(prefs))
        make_preferences.write_preferences(asked, Labeller(options.temperature), machine)
        learnt = train_reward.Options((str(prefs),), options.init, out=str(folder), overwrite=True)
        with begun_anew():
            train_reward.make_reward_model(learnt, RewardConfig(options.epochs), machine)
    return load_reward_model(folder, device)


def sampled(reference: Policy, options: Overoptimisation, seed: int) -> dict[str, list]:
    """`best_of` answers of the reference per held-out prompt: index, response (None without an end), gold."""
    task, index = TASKS[options.task], [i for i in range(options.prompts) for _ in range(options.best_of)]
    records = task.records("test", options.prompts, 0)
    seeds = np.random.default_rng(seed).integers(2**63, size=len(index)).tolist()
    texts: list[str | None] = []
    for start in range(0, len(index), ROWS):
        part = slice(start, start + ROWS)
        asked = [records[i] for i in index[part]]
        texts += respond(reference.model, reference.tokenizer, asked, task.MAX_NEW, seeds[part])
    gold = [0.0 if said is None else task.reward(prompt_text(records[i]), said, records[i])
            for i, said in zip(index, texts)]  # fmt: skip
    return {"index": index, "response": texts, "gold": gold}


def scored(proxy: LearnedReward, records: list[dict], answers: list[tuple[int, str | None]]) -> np.ndarray:
    """The learned reward of each (index of the record, response): (n,)."""
    ended = [k for k, (_, said) in enumerate(answers) if said is not None]
    values = np.full(len(answers), UNFINISHED)  # (n,)
    asked = [(records[i], said) for i, said in answers if said is not None]
    values[ended] = call_rewards(lambda record: proxy, [(prompt_text(r), said, r) for r, said in asked])
    return values


def policy_line(
    n: int, beta: float, proxy: LearnedReward, reference: Policy, options: Overoptimisation, seed: int,
    dtype: torch.dtype,
) -> dict:  # fmt: skip
    """Train a policy by PPO on the proxy and measure it on each held-out prompt."""
    print(f"PPO on the reward of {n} comparisons, beta {beta:g}", flush=True)
    policy, P = replace(reference, model=deepcopy(reference.model)), options.prompts
    config = PPOConfig(
        iterations=options.iterations, batch=options.batch, beta=beta, missing_eos=UNFINISHED,
        save_every=options.iterations,
    )  # fmt: skip
    cost = optimise(policy, options.task, lambda record: proxy, config, seed, dtype)
    items = task_items(policy, reference, options.task, P, options.samples, seed)  # in the order of their prompts
    said = [(x["index"], x["response"] if x["stop"] == "eos" else None) for x in items]
    columns = {"gold": [x["scores"]["reward"] for x in items], "kl": [x["kl"] for x in items]}
    columns["proxy"] = scored(proxy, TASKS[options.task].records("test", P, 0), said)
    means = {name: np.reshape(values, (P, -1)).mean(1).tolist() for name, values in columns.items()}
    return {"pairs": n, "beta": beta, "seconds": cost["seconds"]} | means


def main() -> None:
    """Make what is not yet made, then print the table and draw the figure."""
    options, machine = parse(__doc__, Overoptimisation, Machine)
    device, dtype = machine.set_up()
    sizes, betas = numbers(options.pairs, "pairs", int, 1), numbers(options.betas, "betas", float, 0)
    reference, out = Policy(*checkpoint.load_chat(options.init)), Path(options.out)
    reference.model.to(device).eval()
    settings = {k: v for k, v in asdict(options).items() if k not in ("pairs", "betas", "out")}
    settings |= {"init": checkpoint.fingerprint(reference.model), "seed": machine.seed}
    begun_with(out, settings)
    records = TASKS[options.task].records("test", options.prompts, 0)
    samples = kept(out / "samples.json", lambda: sampled(reference, options, machine.seed))
    gold = np.reshape(samples["gold"], (options.prompts, options.best_of))  # (P, N)
    models = []
    for n in sizes:
        reward = proxy_of(n, options, machine, device)
        values = scored(reward, records, list(zip(samples["index"], samples["response"])))
        proxy = np.reshape(values, gold.shape)  # (P, N)
        fixed = reward, reference, options, machine.seed, dtype
        lines = [kept(out / f"ppo.{n}.{beta}.json", partial(policy_line, n, beta, *fixed)) for beta in betas]
        points = {"best-of-n": best_of_points(gold, proxy), "PPO": policy_points(lines, gold, proxy)}
        models.append(Proxy(n, order(gold, proxy), points))
    start = gold.mean(1)  # (P,)
    said = f"gold reward of the reference {with_interval(start)}"
    write_atomic(out / "overoptimise.svg", law_figure(models, float(start.mean())).encode())
    print(f"\n{options.task}: {said}\n\n{law_tables(models, start)}\n\n± and [ ]: 95 %")
    print(f"\nwritten: {out / 'overoptimise.svg'}")


if __name__ == "__main__":
    run_script(main)
