"""Next-token training: pretraining and supervised fine-tuning (SFT) are this one loop.

    L = − Σ_t m_t log p(x_{t+1} | x_≤t) / Σ_t m_t

with m the mask: every token but the first in pretraining, the response and its EOS in SFT. The sums run over the
whole optimizer step, however it is cut into micro-batches. A mean of means would give a token of a short batch more
weight. Source: Radford et al. 2018, eq. 1; Ouyang et al. 2022, section 3.5.
Proved by tests/lm/test_sft.py.
"""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minirlhf.harness import ranks
from minirlhf.harness.device import autocast
from minirlhf.harness.loop import Loop, Run
from minirlhf.lm.batches import Batch, collate, gather_true, micro_batches
from minirlhf.lm.chat import Example
from minirlhf.lm.config import FitConfig
from minirlhf.lm.logits import token_logprobs
from minirlhf.lm.model import GPT
from minirlhf.lm.optim import Stepper, learning_rate, make_adamw

FINAL_LR = 0.1  # the rate at the last step, as a share of the peak


def negative_log_likelihood(model: GPT, batch: Batch) -> Tensor:
    """− log p of each target token, (N,) float32, in the order of the mask's True places; the head sees no other."""
    hidden, n = gather_true(model(batch.inputs), batch.mask)  # (N', C)
    return -token_logprobs(model.logits(hidden)[:n], batch.targets[batch.mask])  # (N,)


@torch.no_grad()
def evaluate_loss(model: GPT, examples: Sequence[Example], micro_rows: int = 32) -> tuple[float, int]:
    """(Sum of − log p over the targets of all examples, their number), without dropout, in the caller's autocast.

    It does not depend on how the examples are batched. Restores the model's train mode.
    """
    was_training, device, total, count = model.training, model.wte.weight.device, 0.0, 0
    model.eval()
    try:
        for part in micro_batches([len(e.ids) for e in examples], micro_rows, model):
            batch = collate([examples[i] for i in part], device, model.config.context)
            total += float(negative_log_likelihood(model, batch).double().sum())
            count += int(batch.mask.sum())
    finally:
        model.train(was_training)
    return total, count


def fit(
    model: GPT, batch_of: Callable[[int], Sequence[Example]], validation: Sequence[Example], config: FitConfig, run: Run
) -> dict:
    """Train the model in place on batch_of(step), step = 0, 1, ...; returns the cost of the training.

    Raises Interrupted (state saved), Diverged, and UserError for a state of other settings.
    """
    stepper = Stepper(make_adamw([model], config.lr, config.weight_decay), config.max_norm)
    settings, warmup = dataclasses.asdict(config) | dataclasses.asdict(model.config), min(config.warmup, config.steps)
    model.train()
    with Loop(run, config.steps, config.save_every, settings, model=model, stepper=stepper) as loop:
        for step in loop:
            lr = learning_rate(step, config.lr, warmup, config.steps, FINAL_LR)
            loss, tokens, padding = accumulate(model, batch_of(step), config.micro_rows, run.dtype)
            figures = {"loss": loss, "lr": lr, "grad_norm": stepper.step(lr), "padding": padding}
            if validation and (step + 1 == config.steps or (step + 1) % config.eval_every == 0):
                with autocast(model.wte.weight.device, run.dtype):
                    nll, count = evaluate_loss(model, validation, config.micro_rows)
                figures["validation_loss"] = nll / max(count, 1)
            loop.record(figures | {"skipped": stepper.skipped}, tokens, "loss")
    model.eval()
    return loop.cost()


def accumulate(
    model: GPT, examples: Sequence[Example], micro_rows: int, dtype: torch.dtype
) -> tuple[float, int, float]:
    """Add the gradient of the step's mean token loss to .grad; returns (loss, target tokens, padding share).

    Exact for every micro_rows. Of several processes each adds its share. Without a target, loss and gradient are 0.
    """
    n_tokens = sum(sum(e.mask[1:]) for e in examples)
    loss, columns, device = 0.0, 0, model.wte.weight.device
    for part in micro_batches([len(e.ids) for e in examples], micro_rows, model, ranks.mine):
        batch = collate([examples[i] for i in part], device, model.config.context)
        columns += batch.inputs.numel()
        with autocast(device, dtype):
            share = negative_log_likelihood(model, batch).sum() / max(n_tokens, 1)
        share.backward()
        loss += share.detach().double()
    loss, columns = ranks.total({"loss": float(loss), "columns": columns}).values()
    return loss, n_tokens, 1 - sum(len(e.ids) - 1 for e in examples) / max(columns, 1)
