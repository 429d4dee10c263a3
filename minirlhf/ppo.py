"""PPO for a language model, from prompts to a better policy: the loop.

    repeat:  sample responses y ~ π_old to a batch of prompts
             r_t = −β (log π_old − log ref)(y_t)  + score(y) on the last token
             Â, G = GAE(r, V_old);  whiten Â over the batch
             for some epochs, for minibatches:  descend  L_clip(Â) + c_v L_value(G)

REINFORCE with a baseline is the same loop: λ = 1, one epoch, and the loss without ratio and clip.
Policy and value function share one trunk; the value head starts at the least-squares fit. Dropout is off throughout:
it would sample one policy and train another.
Source: Schulman et al. 2017, algorithm 1; Ziegler et al. 2019, section 2.2. Proved by tests/test_ppo.py.
"""

import dataclasses
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minirlhf import checkpoint
from minirlhf.algos import (
    adapt_beta,
    explained_variance,
    gae,
    kl_estimate,
    masked_mean,
    masked_sum,
    policy_loss,
    reinforce_loss,
    token_rewards,
    value_loss,
    whiten,
)
from minirlhf.data import micro_batches
from minirlhf.files import UserError
from minirlhf.model import GPT, ScalarHead
from minirlhf.optim import Stepper, learning_rate, make_adamw
from minirlhf.rollout import Reward, Rollout, collect, fit_value_head, score_tokens
from minirlhf.runtime import Clock, Diverged, Interrupted, Log, Stop, autocast, option
from minirlhf.sft import check_same_settings
from minirlhf.tokenizer import Tokenizer


@dataclass(frozen=True)
class PPOConfig:
    """Reinforcement learning."""

    algo: str = option("ppo", "ppo, or reinforce: the policy gradient with V as its baseline, without ratio or clip")
    iterations: int = option(80, "rounds of sampling and training")
    batch: int = option(128, "responses a round to prompts of each data set, times its weight")
    epochs: int = option(2, "times each response is trained on (reinforce: always 1)")
    minibatches: int = option(2, "optimizer steps an epoch")
    lr: float = option(4e-4, "peak learning rate; falls to 0 on a line")
    warmup: int = option(10, "rounds of rising learning rate: Adam's first steps are of full size, right or wrong")
    beta: float = option(0.025, "KL coefficient: reward given up for a nat of KL to the reference")
    kl_target: float = option(0.0, "nats a response; above 0, beta adapts to keep the KL there")
    kl_horizon: float = option(10_000.0, "responses in which beta can change by a factor of about 1.2")
    clip: float = option(0.2, "PPO's ε for the probability ratio")
    value_clip: float = option(0.2, "the same for the value function")
    value_coefficient: float = option(0.5, "weight of the value loss")
    gamma: float = option(1.0, "discount")
    lam: float = option(0.95, "GAE's λ (reinforce: always 1)")
    temperature: float = option(1.0, "of sampling; log-probs are those of that distribution")
    missing_eos: float = option(0.0, "score of a response that did not end within max-new tokens")
    max_new: int = option(0, "longest response, in tokens; 0: what the task says, or 64", least=0)
    max_norm: float = option(1.0, "the gradient is clipped to this norm")
    micro_rows: int = option(32, "rows a forward pass: memory against speed, not the result")
    save_every: int = option(20, "rounds between saved states")

    def __post_init__(self) -> None:
        if self.algo not in ("ppo", "reinforce"):
            raise UserError(f"--algo {self.algo}: not one of ppo, reinforce")
        for name in ("iterations", "batch", "epochs", "minibatches", "lr", "temperature", "micro_rows", "save_every"):
            if getattr(self, name) <= 0:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be above 0")
        for name in ("beta", "kl_target", "clip", "value_clip", "gamma", "lam"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: must not be negative")
        if self.algo == "reinforce":
            object.__setattr__(self, "epochs", 1)
            object.__setattr__(self, "lam", 1.0)


def advantages_of(rollout: Rollout, config: PPOConfig, beta: float) -> tuple[Tensor, Tensor]:
    """(Whitened advantages, returns), (B, R) each, by the equations above."""
    kl = kl_estimate(rollout.logprobs, rollout.ref_logprobs, "k1")  # (B, R)
    rewards = token_rewards(rollout.scores, kl, rollout.mask, beta)  # (B, R)
    advantages, returns = gae(rewards, rollout.values, rollout.mask, config.gamma, config.lam)  # (B, R)
    return whiten(advantages, rollout.mask), returns


def minibatch_loss(
    policy: GPT,
    value_head: ScalarHead,
    rows: Rollout,
    advantages: Tensor,
    returns: Tensor,
    n_tokens: int,
    config: PPOConfig,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of some rows as their share of an optimizer step of n_tokens, and sums to log."""
    logprobs, values, H = score_tokens(policy, value_head, rows, config.temperature)  # (B, R) each
    loss, watch = policy_loss(logprobs, rows.logprobs, advantages, rows.mask, config.clip, n_tokens)
    if config.algo == "reinforce":
        loss = reinforce_loss(logprobs, advantages, rows.mask, n_tokens)
    v_loss = value_loss(values, rows.values, returns, rows.mask, config.value_clip, n_tokens)
    watch |= {"entropy": H.sum(), "policy_loss": loss.detach() * n_tokens, "value_loss": v_loss.detach() * n_tokens}
    return loss + config.value_coefficient * v_loss, watch


def update(
    policy: GPT,
    value_head: ScalarHead,
    rollout: Rollout,
    advantages: Tensor,
    returns: Tensor,
    config: PPOConfig,
    stepper: Stepper,
    lr: float,
    rng: np.random.Generator,
    dtype: torch.dtype,
) -> dict[str, float]:
    """The optimizer steps of one round; every response is used once an epoch. Returns means over tokens."""
    B = len(rollout.scores)
    sums: dict[str, float] = {}
    n_seen, norms = 0, []
    for _ in range(config.epochs):
        order = rng.permutation(B)  # (B,)
        for chosen in np.array_split(order, min(config.minibatches, B)):
            n_tokens = int(rollout.mask[torch.from_numpy(chosen)].sum())
            lengths = rollout.lengths()
            for part in micro_batches([lengths[i] for i in chosen], config.micro_rows):
                index = torch.from_numpy(chosen[part]).to(rollout.ids.device)
                rows = rollout.rows(index)
                R = rows.ids.shape[1]
                with autocast(rollout.ids.device, dtype):
                    loss, watch = minibatch_loss(
                        policy, value_head, rows, advantages[index, :R], returns[index, :R], n_tokens, config
                    )
                loss.backward()
                sums = {k: sums.get(k, 0.0) + float(v) for k, v in watch.items()}
            norms.append(stepper.step(lr))
            n_seen += n_tokens
    return {k: v / max(n_seen, 1) for k, v in sums.items()} | {"grad_norm": float(np.mean(norms))}


def train(
    policy: GPT,
    tokenizer: Tokenizer,
    records_of: Callable[[int], list[dict]],
    reward_of: Callable[[dict], Reward],
    config: PPOConfig,
    max_new: int,
    seed: int,
    dtype: torch.dtype,
    out: Path,
    resume: bool = False,
    data: str = "",
) -> tuple[ScalarHead, dict]:
    """Train the policy in place on records_of(iteration), against a frozen copy of itself as it comes.

    data: a hash of what the records come from; a resume on other data is refused.
    Returns the value head and the cost. Logs each round to out/log.jsonl, keeps what a resume needs in
    out/train_state.pt. Raises Interrupted (state saved), Diverged, and UserError.
    """
    device = policy.wte.weight.device
    policy.eval()
    reference = deepcopy(policy).requires_grad_(False)
    value_head = ScalarHead(policy.config.width).to(device)
    optimizer = make_adamw([policy, value_head], config.lr, 0.0, (0.9, 0.95))
    stepper = Stepper(optimizer, config.max_norm)
    state_path = out / "train_state.pt"
    settings = dataclasses.asdict(config) | {"seed": seed, "data": data, "init": checkpoint.fingerprint(policy)}
    start, seconds, tokens, beta = 0, 0.0, 0, config.beta
    if resume:
        state = checkpoint.load_state(state_path)
        check_same_settings(state, settings, state_path)
        policy.load_state_dict(state["policy"])
        value_head.load_state_dict(state["value_head"])
        optimizer.load_state_dict(state["optimizer"])
        start, seconds, tokens, beta = (state[k] for k in ("step", "seconds", "tokens", "beta"))
        stepper.skipped = state["skipped"]
    else:
        state_path.unlink(missing_ok=True)

    def save(step: int) -> None:
        state = {"settings": settings, "step": step, "seconds": clock.seconds(), "tokens": tokens, "beta": beta}
        state |= {"policy": policy.state_dict(), "value_head": value_head.state_dict()}
        checkpoint.save_state(state_path, state | {"optimizer": optimizer.state_dict(), "skipped": stepper.skipped})

    def sample(records: list[dict], rng: np.random.Generator) -> Rollout:
        return collect(
            policy, value_head, reference, tokenizer, records, reward_of,
            rng.integers(2**63, size=len(records)).tolist(), max_new, config.temperature, config.missing_eos, dtype,
            config.micro_rows,
        )  # fmt: skip

    clock = Clock(seconds)
    log = Log(out / "log.jsonl", config.algo, config.iterations, start)
    try:
        with Stop() as stop:
            if start == 0:  # a round of its own, so that no response is both fitted and judged
                rollout = sample(records_of(config.iterations), np.random.default_rng([seed, config.iterations]))
                monte_carlo = dataclasses.replace(config, lam=1.0)
                fit_value_head(policy, value_head, rollout, advantages_of(rollout, monte_carlo, beta)[1])
            for step in range(start, config.iterations):
                rng = np.random.default_rng([seed, step])
                records = records_of(step)
                rollout = sample(records, rng)
                advantages, returns = advantages_of(rollout, config, beta)  # (B, R) each
                lr = learning_rate(step, config.lr, config.warmup, config.iterations, 0.0, "linear")
                record = {"step": step + 1, "lr": lr, "beta": beta} | describe(rollout, returns, records, beta)
                record |= update(
                    policy, value_head, rollout, advantages, returns, config, stepper, lr, rng, dtype
                )
                if config.kl_target > 0:
                    beta = adapt_beta(beta, record["kl"], config.kl_target, config.kl_horizon, len(records))
                tokens += int(rollout.mask.sum())
                record |= {"skipped": stepper.skipped, "tokens": tokens, "seconds": clock.seconds()}
                log.step(record, reward=record["reward"], kl=record["kl"], entropy=record["entropy"])
                last = step + 1 == config.iterations
                if last or stop.asked or (step + 1) % config.save_every == 0:
                    save(step + 1)
                if stop.asked and not last:
                    raise Interrupted(f"stopped after round {step + 1}; go on with --resume")
    except Diverged as error:
        raise Diverged(f"round {step + 1}: {error}; {state_path}, if it was written before, is good") from None
    finally:
        log.close()
    return value_head, {
        "steps": config.iterations,
        "tokens": tokens,
        "seconds": clock.seconds(),
        "skipped": stepper.skipped,
    }


def describe(rollout: Rollout, returns: Tensor, records: list[dict], beta: float) -> dict[str, float]:
    """What to log of a rollout. Means over responses (reward, kl, length) or over their real tokens."""
    kl = masked_sum(kl_estimate(rollout.logprobs, rollout.ref_logprobs, "k1"), rollout.mask, 1)  # (B,)
    gap = masked_sum((rollout.logprobs - rollout.sampled_logprobs).abs(), rollout.mask, 1)  # (B,)
    figures = {
        "reward": float(rollout.scores.mean()),
        "kl": float(kl.mean()),
        "objective": float((rollout.scores - beta * kl).mean()),
        "length": float(rollout.mask.sum(1).float().mean()),
        "ended": float(rollout.ended.float().mean()),
        "value": float(masked_mean(rollout.values, rollout.mask)),
        "explained_variance": float(explained_variance(rollout.values, returns, rollout.mask)),
        "sampler_gap": float(gap.sum() / rollout.mask.sum().clamp(min=1)),
    }
    tasks = [record.get("task", "") for record in records]
    for task in sorted(set(tasks) - {""}):
        which = [i for i, name in enumerate(tasks) if name == task]
        figures[f"reward/{task}"] = float(rollout.scores[which].mean())
    return figures
