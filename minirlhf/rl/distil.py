"""Distillation: a small student learns what a large teacher would say, token by token, over the whole vocabulary.

    forward   L_t = T² Σ_v p_v log p_v / π_v             p = softmax(z_teacher / T),  π = softmax(z_student / T)
    reverse   L_t = T² Σ_v π_v log π_v / p_v
    hard      L_t = − log π(y_t)                         SFT on the answer y

Softening by T shrinks the gradient by T², which the factor undoes. The answers y are given ones (Hinton et al. 2015),
the teacher's, drawn once (`hard`: Kim & Rush 2016, who take what beam search finds), or the student's own, drawn anew
in each step (Agarwal et al. 2024: GKD; Gu et al. 2024: MiniLLM). At T = 1, with KL between whole answers on the right:

    y ~ p    E Σ_t forward_t = KL(p ‖ π), gradient included; the gradient of `hard` has the same mean and more noise
    y ~ π    E Σ_t reverse_t = KL(π ‖ p), but ∇KL(π ‖ p) = E Σ_t [ ∇reverse_t + ∇log π(y_t) Σ_{u>t} reverse_u ]

−KL(π ‖ p) is RL's objective J with reward 0, the teacher as reference and β = 1. RL follows both terms, as MiniLLM
does. GKD and this chapter drop the second, how a token changes the states that follow, and with it its noise. A student
that can be its teacher has the same optimum. Command: tools/distil.py. Proved by tests/rl/test_distil.py.
"""

from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from minirlhf.harness.device import autocast, hold_frozen
from minirlhf.harness.loop import Loop, Run
from minirlhf.lm.batches import Mixture, collate, gather_true, micro_batches
from minirlhf.lm.chat import Example
from minirlhf.lm.checkpoint import fingerprint
from minirlhf.lm.config import FitConfig
from minirlhf.lm.generation import Sampling, generate
from minirlhf.lm.logits import log_softmax
from minirlhf.lm.model import GPT
from minirlhf.lm.optim import Stepper, learning_rate, make_adamw
from minirlhf.lm.sft import FINAL_LR, negative_log_likelihood
from minirlhf.rl.options import Distil


def distillation_loss(student: Tensor, teacher: Tensor, mask: Tensor, loss: str, temperature: float = 1.0) -> Tensor:
    """Σ_t L_t over the tokens whose mask is True: T² KL between two softened distributions, `forward` or `reverse`.

    student, teacher: finite logits, (..., V).  mask: (...) bool. Hinton et al. 2015, section 2; Agarwal et al. 2024.
    """
    logp, target = (log_softmax(x[mask], temperature) for x in (student, teacher))  # (N, V) each
    a, b = {"forward": (target, logp), "reverse": (logp, target)}[loss]
    return temperature**2 * (a.exp() * (a - b)).sum()  # KL(a ‖ b)


def answers(model: GPT, prompts: list, how: Distil, eos_id: int, context: int, run: Run, *key: int) -> list[Example]:
    """Each prompt, as ids, with what the model samples behind it, cut at `context`. A sampled EOS is learned, too."""
    seeds = np.random.default_rng([run.seed, *key]).integers(2**63, size=len(prompts)).tolist()
    with autocast(model.wte.weight.device, run.dtype):
        g = generate(model, prompts, Sampling(how.max_new), eos_id, seeds)
    rows = [[*p, *ids[mask].tolist()][:context] for p, ids, mask in zip(prompts, g.ids, g.mask)]
    return [Example(row, [t >= len(p) for t in range(len(row))]) for p, row in zip(prompts, rows)]


def accumulate(
    student: GPT, teacher: GPT, examples: list[Example], how: Distil, micro_rows: int, dtype: torch.dtype
) -> tuple[float, int]:
    """Add the gradient of the step's mean token loss to .grad; returns (loss, tokens). Exact for every micro_rows."""
    n_tokens, loss, device = max(sum(sum(e.mask[1:]) for e in examples), 1), 0.0, student.wte.weight.device
    for part in micro_batches([len(e.ids) for e in examples], micro_rows, student):
        batch = collate([examples[i] for i in part], device, min(student.config.context, teacher.config.context))
        with autocast(device, dtype):
            if how.loss == "hard":
                share = negative_log_likelihood(student, batch).sum() / n_tokens
            else:
                hidden = [gather_true(m(batch.inputs), batch.mask)[0] for m in (student, teacher)]  # (N', C) each
                z, wanted = student.logits(hidden[0]), teacher.logits(hidden[1]).detach()  # (N', V) each
                real = torch.arange(len(z), device=device) < batch.mask.sum()  # (N',)
                share = distillation_loss(z, wanted, real, how.loss, how.temperature) / n_tokens
        share.backward()
        loss += float(share.detach())
    return loss, n_tokens


def train(
    student: GPT, teacher: GPT, sets: dict[str, tuple], eos_id: int, how: Distil, config: FitConfig, run: Run
) -> dict:  # fmt: skip
    """Train the student in place; the teacher is frozen in place, and held in run.dtype. Returns the cost.

    sets: name -> (examples, or the prompts of sampled answers; rows per step), as of `Mixture`.
    Raises Interrupted (state saved), Diverged, and UserError for a state of other settings.
    """
    settings = asdict(config) | asdict(how) | asdict(student.config) | {"teacher": fingerprint(teacher)}
    teacher = hold_frozen(teacher.eval().requires_grad_(False), run.dtype)
    stepper = Stepper(make_adamw([student], config.lr, config.weight_decay), config.max_norm)
    told = how, eos_id, min(student.config.context, teacher.config.context), run
    if how.on == "teacher":  # once; a resume draws the same again
        sets = {name: (answers(teacher, prompts, *told), rows) for name, (prompts, rows) in sets.items()}
    student.train()
    with Loop(run, config.steps, config.save_every, settings, model=student, stepper=stepper) as loop:
        for step in loop:
            batch = Mixture(sets, run.seed).step(step)
            if how.on == "own" and batch:
                batch = answers(student, batch, *told, step)
            lr = learning_rate(step, config.lr, min(config.warmup, config.steps), config.steps, FINAL_LR)
            loss, tokens = accumulate(student, teacher, batch, how, config.micro_rows, run.dtype)
            figures = {"loss": loss, "lr": lr, "grad_norm": stepper.step(lr), "skipped": stepper.skipped}
            loop.record(figures, tokens, "loss")
    student.eval()
    return loop.cost()
