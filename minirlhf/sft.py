"""Next-token training: pretraining and supervised fine-tuning (SFT) are this one loop.

    L = − Σ_t m_t log p(x_{t+1} | x_≤t) / Σ_t m_t

with m the mask: every token in pretraining, the response and its EOS in SFT. The sums run over the whole
optimizer step, however it is cut into micro-batches: a mean of means would weigh a token by the
company it keeps. Source: Radford et al. 2018, eq. 1; Ouyang et al. 2022, section 3.5.
Proved by tests/test_sft.py.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from minirlhf import checkpoint
from minirlhf.algos import token_logprobs
from minirlhf.data import Batch, Example, collate, gather_true, micro_batches
from minirlhf.files import UserError
from minirlhf.model import GPT
from minirlhf.optim import Stepper, learning_rate, make_adamw
from minirlhf.runtime import Clock, Diverged, Interrupted, Log, Stop, autocast


@dataclass(frozen=True)
class FitConfig:
    """What `fit` does with a model and batches."""

    steps: int
    lr: float
    warmup: int = 50
    final_lr: float = 0.1
    weight_decay: float = 0.01
    beta2: float = 0.95
    max_norm: float = 1.0
    micro_rows: int = 32
    eval_every: int = 100
    save_every: int = 500
    seed: int = 0
    data: str = ""  # a hash of what batches come from: a resume on other data is refused


def negative_log_likelihood(model: GPT, batch: Batch) -> Tensor:
    """− log p of each target token, (N,) float32, row by row in the order of the mask's True places.

    The head is put on those places alone.
    """
    hidden, n = gather_true(model(batch.inputs), batch.mask)  # (N', C)
    return -token_logprobs(model.logits(hidden)[:n], batch.targets[batch.mask])  # (N,)


@torch.no_grad()
def evaluate_loss(model: GPT, examples: Sequence[Example], device, micro_rows: int = 32) -> tuple[float, int]:
    """(Sum of − log p over the targets of all examples, their number), in float32 without dropout.

    Independent of how the examples are batched. Restores the model's train mode.
    """
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    try:
        for part in micro_batches([len(e.ids) for e in examples], micro_rows):
            batch = collate([examples[i] for i in part], device, model.config.context)
            total += float(negative_log_likelihood(model, batch).double().sum())
            count += int(batch.mask.sum())
    finally:
        model.train(was_training)
    return total, count


def fit(
    model: GPT,
    batch_of: Callable[[int], Sequence[Example]],
    validation: Sequence[Example],
    config: FitConfig,
    device: torch.device,
    dtype: torch.dtype,
    out: Path,
    name: str,
    resume: bool = False,
) -> dict:
    """Train the model in place on batch_of(step), step = 0, 1, ...; returns the cost of the training.

    Logs each step to out/log.jsonl, keeps what a resume needs in out/train_state.pt. A step whose loss
    or gradient is not finite is skipped and counted. Raises Interrupted (state saved), Diverged, and
    UserError for a state of other settings.
    """
    optimizer = make_adamw([model], config.lr, config.weight_decay, (0.9, config.beta2))
    stepper = Stepper(optimizer, config.max_norm)
    state_path = out / "train_state.pt"
    settings = dataclasses.asdict(config) | dataclasses.asdict(model.config)
    start, seconds, tokens = 0, 0.0, 0
    if resume and state_path.exists():
        state = checkpoint.load_state(state_path)
        check_same_settings(state, settings, state_path)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        start, seconds, tokens, stepper.skipped = state["step"], state["seconds"], state["tokens"], state["skipped"]
    else:
        state_path.unlink(missing_ok=True)

    def save(step: int) -> None:
        state = {"settings": settings, "step": step, "model": model.state_dict()}
        state |= {"optimizer": optimizer.state_dict(), "rng": torch.get_rng_state(), "skipped": stepper.skipped}
        checkpoint.save_state(state_path, state | {"seconds": clock.seconds(), "tokens": tokens})

    clock = Clock(seconds)
    log = Log(out / "log.jsonl", name, config.steps, start)
    model.train()
    try:
        with Stop() as stop:
            for step in range(start, config.steps):
                lr = learning_rate(step, config.lr, config.warmup, config.steps, config.final_lr)
                loss, n_tokens, padding = accumulate(model, batch_of(step), config.micro_rows, device, dtype)
                norm = stepper.step(lr)
                tokens += n_tokens
                record = {"step": step + 1, "loss": loss, "lr": lr, "grad_norm": norm, "tokens": n_tokens}
                record |= {"padding": padding, "skipped": stepper.skipped, "seconds": clock.seconds()}
                last = step + 1 == config.steps
                if validation and (last or (step + 1) % config.eval_every == 0):
                    nll, count = evaluate_loss(model, validation, device)
                    record["validation_loss"] = nll / max(count, 1)
                speed = tokens / max(clock.seconds(), 1e-9)
                log.step(record, loss=loss, tok_s=speed)
                if last or stop.asked or (step + 1) % config.save_every == 0:
                    save(step + 1)
                if stop.asked:  # in the last step too: a script may have more to train
                    raise Interrupted(f"stopped after step {step + 1}; go on with --resume")
    except Diverged as error:
        raise Diverged(f"{name}, step {step + 1}: {error}; {state_path}, if it was written before, is good") from None
    finally:
        log.close()
        model.eval()
    return {"steps": config.steps, "tokens": tokens, "seconds": clock.seconds(), "skipped": stepper.skipped}


def accumulate(
    model: GPT, examples: Sequence[Example], micro_rows: int, device: torch.device, dtype: torch.dtype
) -> tuple[float, int, float]:
    """Add the gradient of the step's mean token loss to .grad; returns (loss, target tokens, padding share).

    The same to rounding for every micro_rows. A step without a target has loss 0 and gradient 0.
    """
    n_tokens = sum(sum(e.mask[1:]) for e in examples)
    loss, columns = 0.0, 0
    for part in micro_batches([len(e.ids) for e in examples], micro_rows):
        batch = collate([examples[i] for i in part], device, model.config.context)
        columns += batch.inputs.numel()
        with autocast(device, dtype):
            share = negative_log_likelihood(model, batch).sum() / max(n_tokens, 1)
        share.backward()
        loss += float(share.detach())
    return loss, n_tokens, 1 - sum(len(e.ids) - 1 for e in examples) / max(columns, 1)


def check_same_settings(state: dict, settings: dict, path: Path) -> None:
    """Raises UserError naming the first setting in which a saved run differs from this one."""
    for key, value in settings.items():
        if (saved := state.get("settings", {}).get(key)) != value:
            raise UserError(f"{path}: saved with {key} = {saved}, now {value}: resume with the same options and files")
