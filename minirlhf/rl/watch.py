"""What is logged of a round of reinforcement learning beside the algorithm's own figures.

Each watcher is handed to `ppo.train`, which calls it with (rollout, records, beta) before the policy learns
from the round. None of them has an influence on the training. Proved by tests/rl/test_watch.py.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from minirlhf.harness import ranks
from minirlhf.harness.files import misfit, read_run
from minirlhf.harness.folders import Run
from minirlhf.lm.generation import Sampling
from minirlhf.lm.records import task_named
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.rl.config import Algorithm, PPOConfig
from minirlhf.rl.losses import masked_mean, masked_sum
from minirlhf.rl.optimum import Achieved
from minirlhf.rl.rewards import RewardOf, prompt_text
from minirlhf.rl.rollout import Models, Rollout, collect, score_responses
from minirlhf.rl.turns import transcripts
from minirlhf.rl.options import Watch

SHOWN = 4  # answers at a showing


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
    """gold/TASK: the mean of a reward that is not trained on, 0 for what did not end, over the records of which
    talks([record]) is false: those of conversations do not hold what was said in between."""

    gold_of: RewardOf
    tokenizer: Tokenizer
    talks: Callable[[list[dict]], bool] = lambda records: False

    def __call__(self, rollout: Rollout, records: list[dict], beta: float) -> dict[str, float]:
        rows = [i for i, record in enumerate(records) if not self.talks([record])]
        if not rows:
            return {}
        told, said = [records[i] for i in rows], rollout.rows(rows)
        return by_task("gold", score_responses(self.gold_of, self.tokenizer, told, said, 0.0), told)


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


@dataclass
class Progress:
    """Scores held-out prompts, shows some answers and keeps checkpoints, as often as the options say.

    Of several processes all score, and the first prints and writes. It stands before what counts: a reward may fail.
    """

    options: Watch
    models: Models
    config: PPOConfig
    run: Run
    held_out: list[dict]  # prompts on which nothing is trained
    reward_of: RewardOf
    rounds: int = 0  # that the policy has learnt from
    best: float = -1e38  # held-out reward

    def __call__(self, rollout: Rollout, records: list[dict], beta: float) -> dict:
        o, figures, due = self.options, {}, lambda every: every and self.rounds % every == 0
        if due(o.eval_every):
            figures |= self.score()
        if due(o.show_every):
            figures["samples"] = self.show(rollout, records)
        if due(o.keep_every):
            self.keep(f"round-{self.rounds}")
        self.keep_best(figures.get("held_out", self.best))
        self.rounds += 1
        return figures

    def last(self) -> None:
        """Score the policy that the training has ended with, too, where held-out prompts are scored at all."""
        if self.options.eval_every:
            score = self.score()["held_out"]
            tqdm.write(f"{self.run.out}: held-out reward {score:.3f} after the last round")
            self.keep_best(score)

    def keep_best(self, score: float) -> None:
        """Keep the policy if that is asked for and its held-out reward is above all before."""
        if self.options.keep_best and score > self.best:
            self.best = score
            self.keep("best", f", held-out reward {score:.3f}", held_out=score)

    def keep(self, name: str, words: str = "", **more: float) -> None:
        """Save the policy beside the run's own checkpoint; the start is no result, and has no folder yet."""
        if self.rounds and not ranks.rank():
            about, parts = self.run.about | {"rounds": self.rounds} | more, {"value_head": self.models.value_head}
            self.run.save(about, parts, self.run.out / name)
            tqdm.write(f"{self.run.out / name}: kept after {self.rounds} rounds{words}")

    def score(self) -> dict[str, float]:
        """held_out, held_out/TASK: the mean reward of an answer to each held-out prompt, of the same seeds each time."""
        c, seeds = self.config, np.random.default_rng([self.run.seed, 0, 1]).integers(2**63, size=len(self.held_out))
        how = Sampling(c.max_new, c.temperature), c.missing_eos, c.micro_rows
        scores = collect(self.models, self.held_out, self.reward_of, seeds.tolist(), *how).scores  # (n,)
        return {"held_out": float(scores.mean())} | by_task("held_out", scores, self.held_out)

    def show(self, rollout: Rollout, records: list[dict]) -> list[dict]:
        """Print SHOWN answers or one of each task, a line each, and return them."""
        tasks = rows_of(records) or {"": list(range(len(records)))}
        answers = transcripts(rollout, self.models.tokenizer)
        samples, lines = [], []
        for task, rows in tasks.items():
            for row in rows[:: max(1, len(rows) * len(tasks) // SHOWN)]:
                prompt, answer = prompt_text(records[row]), answers[row]
                reward = float(rollout.scores[row])
                samples.append({"task": task, "prompt": prompt, "response": answer, "reward": reward})
                ends = "…" * (len(prompt) > 60) + repr(prompt[-60:]), repr(answer[:100]) + "…" * (len(answer) > 100)
                lines.append(f"round {self.rounds + 1}: {reward:6.3f}  {ends[0]} -> {ends[1]}")
        tqdm.write("\n".join(lines))  # at once: each writing draws the bar again
        return samples

    def state_dict(self) -> dict:
        """What a resume needs."""
        return {"rounds": self.rounds, "best": self.best}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` gave. Raises ValueError for anything else."""
        if misfit(state, {"rounds": range(2**53), "best": 0.0}):
            raise ValueError("not the state of a Progress")
        best = self.run.out / "best"  # perhaps behind the last round, which saved before; perhaps half of it, by a kill
        whole = (best / "config.json").exists() or (best / "adapter_config.json").exists()
        kept = read_run(best, {"held_out?": 0.0}) if whole else {}
        self.rounds, self.best = state["rounds"], max(state["best"], kept.get("held_out", state["best"]))


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
