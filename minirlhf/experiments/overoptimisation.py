"""What over-optimisation measures: samples of the reference, and policies that PPO trains on a learned reward.

Gold is the reward of the task, or the user's own. Proved by tests/tools/test_overoptimise.py.
"""

from copy import deepcopy
from dataclasses import replace

import numpy as np

from minirlhf.evaluation.ask import Policy
from minirlhf.experiments.config import Overoptimisation
from minirlhf.experiments.trials import Questions, optimise, task_items
from minirlhf.harness.device import choose_device, choose_dtype
from minirlhf.harness.machine import Machine
from minirlhf.preferences.simulated import respond
from minirlhf.rl.config import PPOConfig
from minirlhf.rl.rewards import Reward, call_rewards, prompt_text

UNFINISHED = -3.0  # what a proxy of mean 0 and deviation 1 gives a response without an end
ROWS = 512  # responses sampled in one pass


def sampled(reference: Policy, task: Questions, options: Overoptimisation, seed: int) -> dict[str, list]:
    """`best_of` answers of the reference per held-out prompt: index, response (None without an end), gold."""
    records = task.records("test", options.held_out, 0)
    index = [i for i in range(len(records)) for _ in range(options.best_of)]
    seeds = np.random.default_rng(seed).integers(2**63, size=len(index)).tolist()
    texts: list[str | None] = []
    for start in range(0, len(index), ROWS):
        part = slice(start, start + ROWS)
        asked = [records[i] for i in index[part]]
        texts += respond(reference.model, reference.tokenizer, asked, task.MAX_NEW, seeds[part])
    gold = scored(task.reward, records, list(zip(index, texts)), 0.0).tolist()
    return {"index": index, "response": texts, "gold": gold}


def scored(
    reward: Reward, records: list[dict], answers: list[tuple[int, str | None]], unfinished: float = UNFINISHED
) -> np.ndarray:
    """The reward of each (index of the record, response): (n,). What did not end gets `unfinished`."""
    ended = [k for k, (_, said) in enumerate(answers) if said is not None]
    values = np.full(len(answers), unfinished)  # (n,)
    asked = [(records[i], said) for i, said in answers if said is not None]
    values[ended] = call_rewards(lambda record: reward, [(prompt_text(r), said, r) for r, said in asked])
    return values


def policy_line(
    n: int, beta: float, proxy: Reward, reference: Policy, task: Questions, options: Overoptimisation, machine: Machine
) -> dict:  # fmt: skip
    """Train a policy by PPO on the proxy and measure it on each held-out prompt."""
    print(f"PPO on the reward of {n} comparisons, beta {beta:g}", flush=True)
    policy, seed = replace(reference, model=deepcopy(reference.model)), machine.seed
    dtype = choose_dtype(machine.dtype, choose_device(machine.device))
    config = PPOConfig(
        iterations=options.iterations, batch=options.batch, beta=beta, missing_eos=UNFINISHED,
        save_every=options.iterations,
    )  # fmt: skip
    cost = optimise(policy, task, lambda record: proxy, config, seed, dtype)
    items = task_items(policy, reference, task, options.held_out, options.samples, seed)  # in order of their prompts
    said = [(x["index"], x["response"] if x["stop"] == "eos" else None) for x in items]
    columns = {"gold": [x["scores"]["reward"] for x in items], "kl": [x["kl"] for x in items]}
    columns["proxy"] = scored(proxy, task.records("test", options.held_out, 0), said)
    means = {name: np.reshape(values, (-1, options.samples)).mean(1).tolist() for name, values in columns.items()}
    return {"pairs": n, "beta": beta, "seconds": cost["seconds"]} | means
