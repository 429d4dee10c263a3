"""What is logged of a round of reinforcement learning beside the algorithm's own figures.

Each watcher is handed to `ppo.train`, which calls it with (rollout, records, beta) before the policy learns
from the round. None of them has an influence on the training. Proved by tests/rl/test_watch.py.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from minirlhf.harness.files import misfit
from minirlhf.lm.records import task_named
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.rl.config import Algorithm
from minirlhf.rl.losses import masked_mean, masked_sum
from minirlhf.rl.optimum import Achieved
from minirlhf.rl.rewards import RewardOf
from minirlhf.rl.rollout import Rollout, score_responses


@dataclass
class Description:
    """The rollout in figures: means over responses (reward, kl, length) or over their real tokens."""

    algorithm: Algorithm

    def __call__(self, rollout: Rollout, records: list[dict], beta: float) -> dict[str, float]:
        kl = rollout.kl()  # (B,)
        gap = masked_sum((rollout.logprobs - rollout.sampled_logprobs).abs(), rollout.mask, 1)  # (B,)
        figures = {
            "reward": float(rollout.scores.mean()),
            "kl": float(kl.mean()),
            "objective": float((rollout.scores - beta * kl).mean()),
            "length": float(rollout.mask.sum(1).float().mean()),
            "ended": float(rollout.ended.float().mean()),
            "sampler_gap": float(gap.sum() / rollout.mask.sum().clamp(min=1)),
        }
        if self.algorithm.baseline == "value":
            figures["value"] = float(masked_mean(rollout.values, rollout.mask))
            figures["explained_variance"] = float(explained_variance(rollout.values, rollout.returns, rollout.mask))
        if self.algorithm.group > 1:
            groups = rollout.scores.view(-1, self.algorithm.group)  # (B / K, K)
            figures["no_contrast"] = float((groups == groups[:, :1]).all(1).float().mean())
        return figures | by_task("reward", rollout.scores, records)


@dataclass
class Gold:
    """gold/TASK: the mean of a reward that is not trained on, 0 for what did not end."""

    gold_of: RewardOf
    tokenizer: Tokenizer

    def __call__(self, rollout: Rollout, records: list[dict], beta: float) -> dict[str, float]:
        return by_task("gold", score_responses(self.gold_of, self.tokenizer, records, rollout, 0.0), records)


class Optimum:
    """J, J*, effective samples and the share of what is achievable, per task, over all rounds. beta: fixed, above 0."""

    def __init__(self, beta: float) -> None:
        self.beta = beta
        self.achieved: dict[str, Achieved] = {}

    def __call__(self, rollout: Rollout, records: list[dict], beta: float) -> dict[str, float]:
        figures, log_ratio = {}, rollout.kl()  # (B,)
        for task, rows in (rows_of(records) or {"all": list(range(len(records)))}).items():
            kept = self.achieved.setdefault(task, Achieved(self.beta))
            own = kept.add(rollout.scores[rows].double().cpu().numpy(), log_ratio[rows].double().cpu().numpy())
            figures |= {f"{name}/{task}": value for name, value in own.items()}
        return figures

    def best(self) -> dict[str, dict]:
        """J* of each task, for run.json."""
        return {task: achieved.optimum() for task, achieved in self.achieved.items()}

    def state_dict(self) -> dict:
        """What a resume needs."""
        return {task: achieved.state for task, achieved in self.achieved.items()}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` gave. Raises ValueError for anything else."""
        if misfit(state, {"*": {"reward": 0.0, "n": range(1, 2**53), "first": 0.0, "second": 0.0}}):
            raise ValueError("not the state of an Optimum")
        self.achieved = {task: Achieved(self.beta, kept) for task, kept in state.items()}


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 − Var(G − V) / Var(G) over the mask: 1 is a perfect value function, 0 a constant, NaN if G is constant."""
    returns, values = returns.double(), values.double()  # so that equal returns have no variance
    residual = returns - values
    unexplained = masked_mean((residual - masked_mean(residual, mask)) ** 2, mask)
    total = masked_mean((returns - masked_mean(returns, mask)) ** 2, mask)
    return torch.where(total > 0, 1 - unexplained / total, torch.nan)


def by_task(name: str, scores: Tensor, records: list[dict]) -> dict[str, float]:
    """name/TASK: the mean score of each task's rows. scores: (B,)."""
    return {f"{name}/{task}": float(scores[rows].mean()) for task, rows in rows_of(records).items()}


def rows_of(records: list[dict]) -> dict[str, list[int]]:
    """task -> the rows that are of it; what is of no task is not in it."""
    tasks = [task_named(record) for record in records]
    return {task: [i for i, name in enumerate(tasks) if name == task] for task in sorted(set(tasks) - {""})}
