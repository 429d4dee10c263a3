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
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minirlhf import checkpoint
from minirlhf.algos import adapt_beta, explained_variance, kl_estimate, masked_mean, masked_sum, token_weights
from minirlhf.data import micro_batches
from minirlhf.files import UserError
from minirlhf.matrix import ALGORITHMS, CHOICES, Algorithm, advantages_of, surrogate
from minirlhf.model import GPT, ScalarHead
from minirlhf.optim import Stepper, learning_rate, make_adamw
from minirlhf.regret import Achieved
from minirlhf.rollout import Reward, Rollout, collect, fit_value_head, score_responses, score_tokens
from minirlhf.runtime import Clock, Diverged, Interrupted, Log, Stop, autocast, option
from minirlhf.sft import check_same_settings
from minirlhf.tokenizer import Tokenizer


@dataclass(frozen=True)
class PPOConfig:
    """Reinforcement learning. The options from --baseline on replace choices of --algo's row."""

    algo: str = option("ppo", f"{', '.join(ALGORITHMS)}: a row of choices, each of which an option below replaces")
    iterations: int = option(90, "rounds of sampling and training")
    batch: int = option(128, "responses a round to prompts of each data set, times its weight")
    epochs: int = option(1, "times each response is trained on", least=1)
    minibatches: int = option(8, "optimizer steps an epoch")
    lr: float = option(6e-4, "peak learning rate; falls to 0 on a line")
    layer_lr: float = option(0.3, "rate of the layers, as a share of the embedding's: their noise costs more KL")
    warmup: int = option(
        10, "rounds of rising learning rate: Adam's first steps are of full size, right or wrong", least=0
    )
    beta: float = option(0.025, "KL coefficient: reward given up for a nat of KL to the reference")
    kl_target: float = option(0.0, "nats a response; above 0, beta adapts to keep the KL there")
    kl_horizon: float = option(10_000.0, "responses in which beta can change by a factor of about 1.2")
    stop_kl: float = option(0.0, "nats a token from where a round began; beyond, its other steps are left out")
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
        for name in ("iterations", "batch", "minibatches", "lr", "layer_lr", "temperature", "micro_rows", "save_every",
                     "kl_horizon"):
            if getattr(self, name) <= 0:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be above 0")
        for name in ("beta", "kl_target", "stop_kl", "clip", "clip_high", "value_clip", "gamma", "lam", "max_norm",
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
    """The optimizer steps of one round; every response is used once an epoch. Returns means over tokens.

    With stop_kl, the round ends before the first step at which approx_kl, KL(π_old ‖ π) estimated, is above it;
    not before its first, where π is π_old and what is above is rounding.
    """
    row, B, lengths = config.row, len(rollout.scores), rollout.lengths()
    sums: dict[str, float] = {}
    n_seen, norms = 0, []
    orders = (rng.permutation(B) for _ in range(config.epochs))  # (B,) each
    for chosen in (part for order in orders for part in np.array_split(order, min(config.minibatches, B))):
        mask = rollout.mask[torch.from_numpy(chosen)]  # (b, R)
        weights = token_weights(mask, row.aggregate, config.max_new)  # (b, R)
        step_sums: dict[str, float] = {}
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
            step_sums = {k: step_sums.get(k, 0.0) + float(v) for k, v in watch.items()}
        if norms and 0 < config.stop_kl < step_sums["approx_kl"] / max(int(mask.sum()), 1):
            stepper.optimizer.zero_grad(set_to_none=True)  # or the next round would step on it
            break
        sums = {k: sums.get(k, 0.0) + v for k, v in step_sums.items()}
        n_seen += int(mask.sum())
        norms.append(stepper.step(lr))
    means = {k: v / (len(norms) if k.endswith("_loss") else max(n_seen, 1)) for k, v in sums.items()}
    return means | {"grad_norm": float(np.mean(norms)), "steps": len(norms)}


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
    gold_of: Callable[[dict], Reward] | None = None,
) -> tuple[ScalarHead | None, dict]:
    """Train the policy in place on records_of(iteration), against a frozen copy of itself as it comes.

    records_of: the prompts of a round; each is answered `group` times.
    data: a hash of what the records come from; a resume on other data is refused.
    gold_of: a reward that is logged as gold/TASK and not trained on, 0 for what did not end.
    Returns the value head (None where the algorithm has no critic) and the cost. Logs each round to
    out/log.jsonl, keeps what a resume needs in out/train_state.pt. Raises Interrupted (state saved), Diverged, and
    UserError.
    """
    device = policy.wte.weight.device
    row, config = config.row, dataclasses.replace(config, max_new=max_new)
    critic = row.baseline == "value"
    policy.eval()
    reference = deepcopy(policy).requires_grad_(False)
    value_head = ScalarHead(policy.config.width).to(device)
    optimizer = make_adamw(
        [policy, value_head], config.lr, 0.0, (0.9, 0.95), slow=policy.h, share=config.layer_lr
    )
    stepper = Stepper(optimizer, config.max_norm)
    state_path = out / "train_state.pt"
    settings = dataclasses.asdict(config) | dataclasses.asdict(row) | {"seed": seed, "data": data}
    settings["init"] = checkpoint.fingerprint(policy)
    start, seconds, tokens, beta = 0, 0.0, 0, config.beta
    if resume:
        state = checkpoint.load_state(state_path)
        check_same_settings(state, settings, state_path)
        policy.load_state_dict(state["policy"])
        value_head.load_state_dict(state["value_head"])
        optimizer.load_state_dict(state["optimizer"])
        start, seconds, tokens, beta = (state[k] for k in ("step", "seconds", "tokens", "beta"))
        stepper.skipped = state["skipped"]
        achieved = {task: Achieved(beta, kept) for task, kept in state["achieved"].items()}
    else:
        achieved = {}
        state_path.unlink(missing_ok=True)

    def save(step: int) -> None:
        state = {"settings": settings, "step": step, "seconds": clock.seconds(), "tokens": tokens, "beta": beta}
        state |= {"policy": policy.state_dict(), "value_head": value_head.state_dict()}
        state["achieved"] = {task: a.state for task, a in achieved.items()}
        checkpoint.save_state(state_path, state | {"optimizer": optimizer.state_dict(), "skipped": stepper.skipped})

    def sample(records: list[dict], rng: np.random.Generator) -> Rollout:
        if not records:
            each = f"{row.group} responses to each, times the weight of its data set"
            raise UserError(f"--batch {config.batch}: not one prompt a round, at {each}")
        return collect(
            policy, value_head if critic else None, reference, tokenizer, records, reward_of,
            rng.integers(2**63, size=len(records)).tolist(), max_new, config.temperature, config.missing_eos, dtype,
            config.micro_rows,
        )  # fmt: skip

    clock = Clock(seconds)
    log = Log(out / "log.jsonl", config.algo, config.iterations, start)
    try:
        with Stop() as stop:
            if start == 0 and critic:  # a round of its own, so that no response is both fitted and judged
                rollout = sample(records_of(config.iterations), np.random.default_rng([seed, config.iterations]))
                monte_carlo = dataclasses.replace(row, lam=1.0)
                _, returns = advantages_of(rollout, monte_carlo, beta, config.gamma)  # (B, R)
                fit_value_head(policy, value_head, rollout, returns, config.micro_rows)
            for step in range(start, config.iterations):
                rng = np.random.default_rng([seed, step])
                records = [record for record in records_of(step) for _ in range(row.group)]
                rollout = sample(records, rng)
                advantages, returns = advantages_of(rollout, row, beta, config.gamma)  # (B, R) each
                warmup = min(config.warmup, config.iterations // 2)  # a short run would never reach the peak
                lr = learning_rate(step, config.lr, warmup, config.iterations, 0.0, "linear")
                record = {"step": step + 1, "lr": lr, "beta": beta} | describe(rollout, returns, records, beta, row)
                if gold_of is not None:
                    gold = score_responses(gold_of, tokenizer, records, rollout, 0.0)  # (B,)
                    record |= by_task("gold", gold, records)
                if beta > 0 and config.kl_target == 0:  # else there is no one J to be the best of
                    record |= regret(rollout, records, achieved, beta)
                record |= update(
                    policy, value_head, rollout, advantages, returns, config, beta, stepper, lr, rng, dtype
                )
                if config.kl_target > 0:
                    if len(records) >= 5 * config.kl_horizon:
                        raise UserError(f"--kl-horizon {config.kl_horizon:g}: with {len(records)} responses a round "
                                        f"beta could turn negative; give more than {len(records) / 5:g}")  # fmt: skip
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
    return value_head if critic else None, {
        "steps": config.iterations,
        "tokens": tokens,
        "seconds": clock.seconds(),
        "skipped": stepper.skipped,
        "optimum": {task: a.optimum() for task, a in achieved.items()},
    }


def describe(
    rollout: Rollout, returns: Tensor, records: list[dict], beta: float, row: Algorithm
) -> dict[str, float]:
    """What to log of a rollout. Means over responses (reward, kl, length) or over their real tokens."""
    kl = masked_sum(kl_estimate(rollout.logprobs, rollout.ref_logprobs, "k1"), rollout.mask, 1)  # (B,)
    gap = masked_sum((rollout.logprobs - rollout.sampled_logprobs).abs(), rollout.mask, 1)  # (B,)
    figures = {
        "reward": float(rollout.scores.mean()),
        "kl": float(kl.mean()),
        "objective": float((rollout.scores - beta * kl).mean()),
        "length": float(rollout.mask.sum(1).float().mean()),
        "ended": float(rollout.ended.float().mean()),
        "sampler_gap": float(gap.sum() / rollout.mask.sum().clamp(min=1)),
    }
    if row.baseline == "value":
        figures["value"] = float(masked_mean(rollout.values, rollout.mask))
        figures["explained_variance"] = float(explained_variance(rollout.values, returns, rollout.mask))
    if row.group > 1:
        groups = rollout.scores.view(-1, row.group)  # (B / K, K)
        figures["no_contrast"] = float((groups == groups[:, :1]).all(1).float().mean())
    return figures | by_task("reward", rollout.scores, records)


def by_task(name: str, scores: Tensor, records: list[dict]) -> dict[str, float]:
    """name/TASK: the mean score of each task's rows. scores: (B,)."""
    return {f"{name}/{task}": float(scores[rows].mean()) for task, rows in rows_of(records).items()}


def rows_of(records: list[dict]) -> dict[str, list[int]]:
    """task -> the rows that are of it; what is of no task is not in it."""
    tasks = [str(record.get("task", "")) for record in records]
    return {task: [i for i, name in enumerate(tasks) if name == task] for task in sorted(set(tasks) - {""})}


def regret(rollout: Rollout, records: list[dict], achieved: dict[str, Achieved], beta: float) -> dict[str, float]:
    """J, J*, effective samples and the share of what is achievable, for each task; `achieved` goes on counting."""
    log_ratio = masked_sum(rollout.logprobs - rollout.ref_logprobs, rollout.mask, 1)  # (B,)
    figures = {}
    for task, rows in (rows_of(records) or {"all": list(range(len(records)))}).items():
        kept = achieved.setdefault(task, Achieved(beta))
        own = kept.add(rollout.scores[rows].double().cpu().numpy(), log_ratio[rows].double().cpu().numpy())
        figures |= {f"{name}/{task}": value for name, value in own.items()}
    return figures
