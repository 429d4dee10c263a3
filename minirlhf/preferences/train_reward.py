"""Learn a reward model from comparisons of two responses to one prompt.

    P(chosen is better) = σ(Δ − margin),   Δ = r(chosen) − r(rejected)     Bradley and Terry 1952
    L = − p log σ(Δ − margin) − (1 − p) log σ(margin − Δ)                  Ouyang et al. 2022, eq. 1, with p = 1

averaged over the comparisons of a step. All those of a prompt are in one step, so that an epoch is one pass
over each response (Ouyang et al. 2022, section 3.5). Comparisons fix r up to a constant, and PPO wants a
scale: at the end r becomes (r − mean) / std over responses of the checkpoint that training began with.

    python -m minirlhf.tools.train_reward --data prefs.jsonl --init out/sft --out out/rm
    python train_ppo.py --reward model:out/rm

Proved by tests/preferences/test_train_reward.py.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch

from minirlhf.harness.files import UserError
from minirlhf.harness.loop import Loop, Run
from minirlhf.harness.options import option
from minirlhf.lm.batches import Mixture, micro_batches
from minirlhf.lm.chat import render_prompt
from minirlhf.lm.model import GPT
from minirlhf.lm.optim import Stepper, learning_rate, make_adamw
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.preferences.comparisons import Pair
from minirlhf.preferences.losses import preference_loss
from minirlhf.preferences.simulated import respond
from minirlhf.rl.reward_model import RewardModel, text_ids

REFERENCE = 256  # responses over which mean and std are taken


@dataclass(frozen=True)
class RewardConfig:
    """Training."""

    epochs: float = option(3.0, "passes over the prompts; more learn a thousand comparisons by heart")
    batch: int = option(32, "prompts in an optimizer step, with all comparisons of each", least=1)
    lr: float = option(5e-4, "peak learning rate; falls to a tenth on half a cosine", least=0)
    warmup: int = option(10, "steps of rising learning rate", least=0)
    weight_decay: float = option(0.01, "AdamW's, on matrices", least=0)
    max_norm: float = option(1.0, "the gradient is clipped to this norm", least=0)
    held_out: int = option(20, "percent of the prompts, on which the result is measured", least=0)
    micro_rows: int = option(32, "comparisons a forward pass: memory against speed, not the result", least=1)
    save_every: int = option(200, "steps between saved states", least=1)

    def __post_init__(self) -> None:
        if self.epochs <= 0:
            raise UserError(f"--epochs {self.epochs}: must be above 0")
        if self.held_out >= 100:
            raise UserError(f"--held-out {self.held_out}: must be below 100, or nothing is left to train on")


def accumulate(model: RewardModel, pairs: Sequence[Pair], micro_rows: int, dtype: torch.dtype) -> float:
    """Add the gradient of the mean loss of the comparisons to .grad; returns that loss.

    The same to rounding for every micro_rows, which counts comparisons. A response that is in several of
    them goes through the network once.
    """
    loss = 0.0
    for part in micro_batches([max(len(pair.chosen), len(pair.rejected)) for pair in pairs], micro_rows):
        some = [pairs[i] for i in part]
        place: dict[tuple[int, ...], int] = {}
        index = [[place.setdefault(ids, len(place)) for ids in (x.chosen, x.rejected)] for x in some]
        chosen, rejected = model(list(place), dtype)[torch.tensor(index)].unbind(1)  # (n,) each
        p, margin = torch.tensor([[pair.p, pair.margin] for pair in some], device=chosen.device).unbind(1)
        share = preference_loss(chosen - rejected - margin, p) * len(some) / len(pairs)
        share.backward()
        loss += float(share.detach())
    return loss


def fit(model: RewardModel, groups: Sequence[list[Pair]], config: RewardConfig, run: Run, **source) -> dict:
    """Train the model in place on groups, the comparisons of one prompt each; returns the cost.

    source: what else a resume must find as it was, by name. Raises Interrupted (state saved), Diverged, and UserError
    for another run's state.
    """
    stepper = Stepper(make_adamw([model], config.lr, config.weight_decay), config.max_norm)
    batches = Mixture({"prompts": (groups, config.batch)}, run.seed)
    steps = ceil(config.epochs * len(groups) / config.batch)
    settings = dataclasses.asdict(config) | dataclasses.asdict(model.trunk.config) | source
    model.train()
    with Loop(run, steps, config.save_every, settings, model=model, stepper=stepper) as loop:
        for step in loop:
            pairs = [pair for group in batches.step(step) for pair in group]
            lr = learning_rate(step, config.lr, min(config.warmup, steps), steps, 0.1)
            loss = accumulate(model, pairs, config.micro_rows, run.dtype)
            figures = {"loss": loss, "pairs": len(pairs), "lr": lr, "grad_norm": stepper.step(lr)}
            tokens = sum(len(pair.chosen) + len(pair.rejected) for pair in pairs)
            loop.record(figures | {"skipped": stepper.skipped}, tokens, "loss")
    model.eval()
    return loop.cost() | {"skipped": stepper.skipped}


def reference_texts(
    trunk: GPT, tokenizer: Tokenizer, records: Sequence[dict], max_new: int, seed: int
) -> list[tuple[int, ...]]:
    """Prompt and response of samples of the trunk, of those that end: REFERENCE prompts from the records."""
    rng, context = np.random.default_rng(seed), trunk.config.context
    drawn = [records[i] for i in rng.integers(len(records), size=REFERENCE)]
    asked = [record for record in drawn if len(render_prompt(record, tokenizer)) < context]
    seeds = rng.integers(2**63, size=len(asked)).tolist()
    answers = respond(trunk, tokenizer, asked, max_new, seeds) if asked else []
    return [text_ids(r, text, tokenizer, context) for r, text in zip(asked, answers) if text is not None]
