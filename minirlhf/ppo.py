"""PPO for a language model, from prompts to a better policy: the loop.

    repeat:  sample responses y ~ π_old to a batch of prompts
             r_t = −β (log π_old − log ref)(y_t)  + score(y) on the last token
             Â, G = GAE(r, V_old);  whiten Â over the batch
             for some epochs, for minibatches:  descend  L_clip(Â) + c_v L_value(G)

That is the row `ppo` of `matrix.py`; the other rows run through the same loop. Policy and value function
share one trunk; the value head starts at the least-squares fit. Dropout is off throughout: it would sample
one policy and train another.
Source: Schulman et al. 2017, algorithm 1; Ziegler et al. 2019, section 2.2. Proved by tests/test_ppo.py.
"""

import dataclasses
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from minirlhf.algos import adapt_beta, token_weights
from minirlhf.data import micro_batches
from minirlhf.files import UserError
from minirlhf.loop import Loop, Run
from minirlhf.matrix import ALGORITHMS, CHOICES, Algorithm, advantages_of, surrogate
from minirlhf.model import GPT, ScalarHead
from minirlhf.optim import Stepper, learning_rate, make_adamw
from minirlhf.rollout import Reward, Rollout, collect, fit_value_head, score_tokens
from minirlhf.runtime import autocast, option
from minirlhf.tokenizer import Tokenizer

LAYER_LR = 0.3  # the rate of the layers, as a share of the embedding's: their noise costs more KL
# Sees a round's (rollout, returns, records, beta) before the policy learns from it, and says what to log. One that
# counts over rounds has state_dict() and load_state_dict(), and a resume goes on where it stood.
Watcher = Callable[[Rollout, Tensor, list[dict], float], dict[str, float]]


@dataclass(frozen=True)
class PPOConfig:
    """Reinforcement learning. The options from --baseline on replace choices of --algo's row."""

    algo: str = option("ppo", f"{', '.join(ALGORITHMS)}: a row of choices, each of which an option below replaces")
    iterations: int = option(90, "rounds of sampling and training")
    batch: int = option(128, "responses a round to prompts of each data set, times its weight")
    epochs: int = option(1, "times each response is trained on", least=1)
    minibatches: int = option(8, "optimizer steps an epoch")
    lr: float = option(6e-4, "peak learning rate; falls to 0 on a line")
    warmup: int = option(
        10, "rounds of rising learning rate: Adam's first steps are of full size, right or wrong", least=0
    )
    beta: float = option(0.025, "KL coefficient: reward given up for a nat of KL to the reference")
    kl_target: float = option(0.0, "nats a response; above 0, beta adapts to keep the KL there")
    kl_horizon: float = option(10_000.0, "responses in which beta can change by a factor of about 1.2")
    value_clip: float = option(0.2, "clip range of the value function")
    value_coefficient: float = option(0.5, "weight of the value loss")
    gamma: float = option(1.0, "discount")
    temperature: float = option(1.0, "of sampling; log-probs are those of that distribution")
    missing_eos: float = option(0.0, "score of a response that did not end within max-new tokens")
    max_new: int = option(0, "longest response, in tokens; 0: what the task says, or 64", least=0)
    max_norm: float = option(1.0, "the gradient is clipped to this norm")
    micro_rows: int = option(32, "rows a forward pass of training: memory against speed, not the result")
    save_every: int = option(20, "rounds between saved states")

    baseline: str = option(None, "none, value, leave_one_out, group or group_std")
    aggregate: str = option(None, "how the loss sums tokens: sum, token, sequence or constant")
    ratio: str = option(None, "none, or clipped")
    kl_in: str = option(None, "where the KL penalty stands: reward or loss")
    kl: str = option(None, "its estimator: k1, k2 or k3")
    lam: float = option(None, "GAE's λ")
    whiten: bool = option(None, "advantages of mean 0 and variance 1 over a round")
    clip: float = option(None, "PPO's ε for the probability ratio")
    clip_high: float = option(None, "ε above 1")
    group: int = option(None, "responses to each prompt", least=1)

    def __post_init__(self) -> None:
        if self.algo not in ALGORITHMS:
            raise UserError(f"--algo {self.algo}: not one of {', '.join(ALGORITHMS)}")
        for name in ("iterations", "batch", "minibatches", "lr", "temperature", "micro_rows", "save_every",
                     "kl_horizon"):
            if getattr(self, name) <= 0:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be above 0")
        for name in ("beta", "kl_target", "clip", "clip_high", "value_clip", "gamma", "lam", "max_norm",
                     "value_coefficient"):
            if (getattr(self, name) or 0) < 0:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: must not be negative")
        for name, known in CHOICES.items():
            if getattr(self, name) not in (None, *known):
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: not one of {', '.join(known)}")
        for name in ("gamma", "lam"):
            if (getattr(self, name) or 0) > 1:
                raise UserError(f"--{name} {getattr(self, name)}: must be at most 1")
        if self.kl_target > 0 and self.beta == 0:
            raise UserError(f"--kl-target {self.kl_target}: a beta of 0 stays 0; give a --beta to start from")
        if self.row.kl_in == "loss" and self.row.kl == "k1" and self.beta > 0:
            raise UserError("--kl k1 in the loss: its gradient is 0 on average, no penalty at all; take k2 or k3")
        if self.row.baseline not in ("none", "value") and self.row.group < 2:
            raise UserError(f"--group {self.row.group}: baseline {self.row.baseline} compares at least 2 responses")

    @property
    def row(self) -> Algorithm:
        """The row of --algo with the choices made here instead of its own.

        A KL that moves takes the estimator that is right in its new place with it: k1 in the reward, k3 in the loss.
        """
        names = [f.name for f in dataclasses.fields(Algorithm)]
        chosen = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if chosen.get("kl_in") in ("reward", "loss") and chosen["kl_in"] != ALGORITHMS[self.algo].kl_in:
            chosen = {"kl": {"reward": "k1", "loss": "k3"}[chosen["kl_in"]]} | chosen
        return dataclasses.replace(ALGORITHMS[self.algo], **chosen)


class KLCoefficient:
    """β, which moves towards --kl-target where there is one."""

    def __init__(self, config: PPOConfig) -> None:
        self.config, self.value = config, config.beta

    def adapt(self, kl: float, n: int) -> None:
        """Take account of a round of n responses with mean KL `kl`. Raises UserError for a round beyond the horizon."""
        target, horizon = self.config.kl_target, self.config.kl_horizon
        if target == 0:
            return
        if n >= 5 * horizon:
            raise UserError(f"--kl-horizon {horizon:g}: with {n} responses a round beta could turn negative; "
                            f"give more than {n / 5:g}")  # fmt: skip
        self.value = adapt_beta(self.value, kl, target, horizon, n)

    def state_dict(self) -> dict:
        """What a resume needs."""
        return {"value": self.value}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` gave."""
        self.value = state["value"]


def update(
    policy: GPT,
    value_head: ScalarHead,
    rollout: Rollout,
    advantages: Tensor,
    returns: Tensor,
    config: PPOConfig,
    beta: float,
    stepper: Stepper,
    lr: float,
    rng: np.random.Generator,
    dtype: torch.dtype,
) -> dict[str, float]:
    """The optimizer steps of one round; every response is used once an epoch. Returns means over tokens or steps."""
    row, B, lengths = config.row, len(rollout.scores), rollout.lengths()
    sums: dict[str, float] = {}
    n_seen, norms = 0, []
    orders = (rng.permutation(B) for _ in range(config.epochs))  # (B,) each
    for chosen in (part for order in orders for part in np.array_split(order, min(config.minibatches, B))):
        mask = rollout.mask[torch.from_numpy(chosen)]  # (b, R)
        weights = token_weights(mask, row.aggregate, config.max_new)  # (b, R)
        for part in micro_batches([lengths[i] for i in chosen], config.micro_rows):
            index = torch.from_numpy(chosen[part]).to(rollout.ids.device)
            rows = rollout.rows(index)
            R = rows.ids.shape[1]
            with autocast(rollout.ids.device, dtype):
                logprobs, values, H = score_tokens(policy, value_head, rows, config.temperature)  # (b', R) each
                loss, watch = surrogate(
                    logprobs, values, rows, advantages[index, :R], returns[index, :R], weights[part, :R], row, beta,
                    config.value_clip, config.value_coefficient,
                )  # fmt: skip
            loss.backward()
            watch["entropy"] = H.sum()
            sums = {k: sums.get(k, 0.0) + float(v) for k, v in watch.items()}
        n_seen += int(mask.sum())
        norms.append(stepper.step(lr))
    means = {k: v / (len(norms) if k.endswith("_loss") else max(n_seen, 1)) for k, v in sums.items()}
    return means | {"grad_norm": float(np.mean(norms)), "skipped": stepper.skipped}


def train(
    policy: GPT,
    tokenizer: Tokenizer,
    records_of: Callable[[int], list[dict]],
    reward_of: Callable[[dict], Reward],
    config: PPOConfig,
    run: Run,
    watchers: Sequence[Watcher] = (),
) -> tuple[ScalarHead | None, dict]:
    """Train the policy in place on records_of(round), against a frozen copy of itself as it comes.

    records_of: the prompts of a round; each is answered `group` times.  config.max_new: the longest answer.
    Returns the value head (None where the algorithm has no critic) and the cost.
    Raises Interrupted (state saved), Diverged, and UserError.
    """
    row, critic = config.row, config.row.baseline == "value"
    policy.eval()
    reference = deepcopy(policy).requires_grad_(False)
    value_head = ScalarHead(policy.config.width).to(policy.wte.weight.device)
    optimizer = make_adamw([policy, value_head], config.lr, 0.0, (0.9, 0.95), slow=policy.h, share=LAYER_LR)
    stepper, beta = Stepper(optimizer, config.max_norm), KLCoefficient(config)
    parts = {"policy": policy, "value_head": value_head, "stepper": stepper, "beta": beta}
    parts |= {type(watch).__name__: watch for watch in watchers if hasattr(watch, "state_dict")}

    def sample(step: int) -> tuple[list[dict], Rollout, np.random.Generator]:
        rng = np.random.default_rng([run.seed, step])
        records = [record for record in records_of(step) for _ in range(row.group)]
        if not records:
            each = f"{row.group} responses to each, times the weight of its data set"
            raise UserError(f"--batch {config.batch}: not one prompt a round, at {each}")
        seeds = rng.integers(2**63, size=len(records)).tolist()
        return records, collect(
            policy, value_head if critic else None, reference, tokenizer, records, reward_of, seeds, config.max_new,
            config.temperature, config.missing_eos, run.dtype, config.micro_rows,
        ), rng  # fmt: skip

    settings = dataclasses.asdict(config) | dataclasses.asdict(row)
    with Loop(run, config.iterations, config.save_every, settings, **parts) as loop:
        if loop.start == 0 and critic:
            _, rollout, _ = sample(config.iterations)  # a round of its own: no response is both fitted and judged
            _, returns = advantages_of(rollout, dataclasses.replace(row, lam=1.0), beta.value, config.gamma)  # (B, R)
            fit_value_head(policy, value_head, rollout, returns, config.micro_rows)
        for step in loop:
            records, rollout, rng = sample(step)
            advantages, returns = advantages_of(rollout, row, beta.value, config.gamma)  # (B, R) each
            warmup = min(config.warmup, config.iterations // 2)  # a short run would never reach the peak
            lr = learning_rate(step, config.lr, warmup, config.iterations, 0.0, "linear")
            figures = {"lr": lr, "beta": beta.value}
            for watch in watchers:
                figures |= watch(rollout, returns, records, beta.value)
            figures |= update(
                policy, value_head, rollout, advantages, returns, config, beta.value, stepper, lr, rng, run.dtype
            )
            beta.adapt(float(rollout.kl().mean()), len(records))
            loop.record(figures, int(rollout.mask.sum()), "reward", "kl", "entropy")
    return value_head if critic else None, loop.cost() | {"skipped": stepper.skipped}
