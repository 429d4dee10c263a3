"""PPO for a language model, from prompts to a better policy: the loop.

    repeat:  sample responses y ~ π_old to a batch of prompts
             r_t = −β (log π_old − log ref)(y_t)  + score(y) on the last token
             Â, G = GAE(r, V_old);  whiten Â over the batch
             for some epochs, for minibatches:  descend  L_clip(Â) + c_v L_value(G)

That is `ppo` of `algorithms.py`; the other algorithms run through the same loop. Policy and value function share
one trunk. Dropout is off throughout: the policy that is trained must be the one that sampled.
Source: Schulman et al. 2017, algorithm 1; Ziegler et al. 2019, section 2.2. Proved by tests/rl/test_ppo.py.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy

import numpy as np
import torch

from minirlhf.harness import ranks
from minirlhf.harness.device import autocast, hold_frozen
from minirlhf.harness.files import UserError
from minirlhf.harness.loop import Loop, Run
from minirlhf.lm.generation import Sampling
from minirlhf.lm.model import GPT, ScalarHead
from minirlhf.lm.optim import Stepper, learning_rate, make_adamw
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.rl.algorithms import advantages_of, surrogate
from minirlhf.rl.config import Algorithm, PPOConfig
from minirlhf.rl.losses import token_weights
from minirlhf.rl.rewards import RewardOf
from minirlhf.rl.rollout import Models, Rollout, collect, parts_of, score_tokens

LAYER_LR = 0.3  # the rate of the blocks, as a share of all else's: J rose from .80 to .84 by it, on reviews
# Sees a round's (rollout, records, beta) before the policy learns from it, and says what to log. With state_dict()
# and load_state_dict() it counts over rounds, also across a resume.
Watcher = Callable[[Rollout, list[dict], float], dict[str, float]]


def sample_round(
    models: Models, records: Sequence[dict], reward_of: RewardOf, config: PPOConfig, rng: np.random.Generator
) -> tuple[list[dict], Rollout]:
    """(The records, each `group` times; a response to each.) Raises UserError where there is no record."""
    group = config.algorithm.group
    if not records:
        raise UserError(f"--batch {config.batch}: not one prompt a round, at {group} responses to each; raise it")
    asked = [record for record in records for _ in range(group)]
    seeds, sampling = rng.integers(2**63, size=len(asked)).tolist(), Sampling(config.max_new, config.temperature)
    return asked, collect(models, asked, reward_of, seeds, sampling, config.missing_eos, config.micro_rows)


def steps_of(rollout: Rollout, group: int, most: int, rng: np.random.Generator) -> Iterator[Rollout]:
    """The rows of the steps of an epoch, drawn anew; the answers to a prompt stay together: it is read once."""
    groups = np.arange(len(rollout.scores)).reshape(-1, group)  # (G, K)
    for chosen in np.array_split(rng.permutation(groups), min(most, len(groups))):
        yield rollout.rows(chosen.flatten())


def update(
    models: Models, rollout: Rollout, config: PPOConfig, beta: float, stepper: Stepper, lr: float,
    rng: np.random.Generator,
) -> dict[str, float]:  # fmt: skip
    """The optimizer steps of one round; every epoch uses every response once. Returns means over tokens or steps."""
    algorithm, n_seen, norms, sums = config.algorithm, 0, [], {}
    epochs = [steps_of(rollout, algorithm.group, config.minibatches, rng) for _ in range(config.epochs)]
    for step in (step for epoch in epochs for step in epoch):
        weights = token_weights(step.mask, algorithm.aggregate, config.max_new)  # (b, R), of the whole step
        for part in parts_of(step, config.micro_rows, models.policy, ranks.mine):
            rows = step.rows(part)
            with autocast(rollout.ids.device, models.dtype):
                logprobs, values, H = score_tokens(models.policy, models.value_head, rows, config.temperature)
                # policy_loss + β kl_loss + c_v value_loss of (b', R) each; the losses of the parts add up
                loss, watch = surrogate(logprobs, values, rows, weights[part, : rows.ids.shape[1]], algorithm, beta)
            loss.backward()
            watch["entropy"] = H.sum()
            sums = {k: sums.get(k, 0.0) + v.double() for k, v in watch.items()}  # read when the round is done
        n_seen += int(step.mask.sum())
        norms.append(stepper.step(lr))
    total = ranks.total({k: float(v) for k, v in sums.items()})
    means = {k: v / (len(norms) if k.endswith("_loss") else max(n_seen, 1)) for k, v in total.items()}
    return means | {"grad_norm": float(np.mean(norms)), "skipped": stepper.skipped}


def models_of(
    policy: GPT, tokenizer: Tokenizer, algorithm: Algorithm, dtype: torch.dtype = torch.float32, ref: GPT | None = None
) -> Models:
    """The policy, `ref` or a frozen copy of it as the reference, and a value head of 0 where there is a critic."""
    policy.eval()
    head = ScalarHead(policy.config.width).to(policy.wte.weight.device) if algorithm.baseline == "value" else None
    return Models(policy, head, ref or hold_frozen(deepcopy(policy).requires_grad_(False), dtype), tokenizer, dtype)


def train(
    models: Models, records_of: Callable[[int], list[dict]], reward_of: RewardOf, config: PPOConfig, run: Run,
    watchers: Sequence[Watcher] = (),
) -> dict:  # fmt: skip
    """Train the policy and the value head in place on the prompts records_of(round); returns the cost.

    Each prompt is answered `group` times. Raises Interrupted (state saved), Diverged, and UserError.
    """
    algorithm, policy = config.algorithm, models.policy
    share = LAYER_LR if policy.wte.weight.requires_grad else 1.0  # adapters are all in the blocks
    learning = {"policy": policy} | ({"value_head": models.value_head} if models.value_head is not None else {})
    stepper = Stepper(make_adamw(learning.values(), config.lr, 0.0, slow=policy.h, share=share), config.max_norm)
    warmup = min(config.warmup, config.iterations // 2)  # a short run would never reach the peak
    parts = learning | {"stepper": stepper}
    parts |= {f"watcher {i}": watch for i, watch in enumerate(watchers) if hasattr(watch, "state_dict")}
    settings = dataclasses.asdict(config) | dataclasses.asdict(algorithm)
    with Loop(run, config.iterations, config.save_every, settings, {"beta": config.beta}, **parts) as loop:
        for step in loop:
            rng, beta = np.random.default_rng([run.seed, step]), loop.kept["beta"]
            records, rollout = sample_round(models, records_of(step), reward_of, config, rng)
            rollout = advantages_of(rollout, algorithm, beta, config.gamma)
            lr = learning_rate(step, config.lr, warmup, config.iterations, 0.0, "linear")
            figures = {"lr": lr, "beta": beta}
            for watch in watchers:
                figures |= watch(rollout, records, beta)
            figures |= update(models, rollout, config, beta, stepper, lr, rng)
            loop.kept["beta"] = config.next_beta(beta, float(rollout.kl().mean()), len(records))
            loop.record(figures, int(rollout.mask.sum()), "reward", "kl", "entropy")
    return loop.cost()
