"""Is the machinery of RLHF sound? A measurement for each of the usual causes when it misbehaves.

    ratio           max |π/π_old − 1| = 0 before the first step      sampler    |Δ log π| to the scorer = 0
    padding         Δ log π = Δ V = Δ loss = 0                       KL         to itself 0, to others >= 0
    EOS             sampled, and with a gradient                     reference  the same after a round
    reward          Σ_t r_t = score − β Σ_t kl_t, on the EOS         contrast   Var(score | prompt) > 0

Each check takes what it measures (a scorer, a rollout, a reward), so that it can be put to those of
another trainer, and gives a Finding. Proved by tests/tools/test_doctor.py, with a planted defect for each.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from math import nan
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minirlhf.evaluation.ask import exact_kl, stop_reasons
from minirlhf.lm.batches import micro_batches
from minirlhf.lm.checkpoint import fingerprint
from minirlhf.lm.generation import Generation, filled
from minirlhf.lm.model import GPT
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.rl.losses import kl_estimate, masked_mean, masked_sum, policy_loss, token_weights
from minirlhf.rl.ppo import steps_of
from minirlhf.rl.rewards import RewardOf, call_rewards, prompt_text
from minirlhf.rl.rollout import Rollout, answers_each, parts_of, response_hidden

# What rounding may do: the largest |π/π_old − 1|, and the mean |Δ log-prob| of two passes, in nats a token.
RATIO = {torch.float32: 1e-3, torch.bfloat16: 0.05}
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 0.05}
Rows = TypeVar("Rows", Rollout, Generation)
Score = Callable[[Rollout | Generation], tuple[Tensor, ...]]  # rows -> (log π, V, ...), as `score_tokens`


@dataclass(frozen=True)
class Finding:
    """ok: True, False (broken), or None (a note)."""

    name: str
    ok: bool | None
    figure: str
    why: str
    remedy: str

    def __str__(self) -> str:
        word = {True: "ok", False: "BROKEN", None: "note"}[self.ok]
        advice = "" if self.ok else f"\n{'':32}why: {self.why}\n{'':32}do:  {self.remedy}"
        return f"{word:<8}{self.name:<24}{self.figure}{advice}"


def ratio_is_one(
    score: Score, rollout: Rollout, minibatches: int, micro_rows: int, dtype: torch.dtype, model: GPT | None = None
) -> Finding:
    """max |π/π_old − 1| over the ragged minibatches of an epoch, before its first step. model: of ours, cut as ours."""
    gaps = []
    for step in steps_of(rollout, answers_each(rollout), minibatches, np.random.default_rng(0)):
        lengths = (step.prompt_mask.sum(1) + step.mask.sum(1)).tolist()
        for part in parts_of(step, micro_rows, model) if model else micro_batches(lengths, micro_rows):
            rows = step.rows(part)
            gaps.append((score(rows)[0].detach() - rows.logprobs)[rows.mask].expm1().abs().max())
    worst = float(torch.stack(gaps).max())  # NaN, if there is one
    return Finding(
        "ratio = 1", worst <= RATIO[dtype],
        f"max |π/π_old − 1| before the first step {worst:.2g}, {str(dtype)[6:]}",
        "clip and gradient act on a policy that did not sample: another temperature, dropout, padding",
        "compute π_old by the pass that training repeats, in its dtype, with the sampling temperature",
    )  # fmt: skip


def pad_columns(rows: Rows, prompt: int, response: int, token: int, number: float) -> Rows:
    """A Generation or Rollout with more columns: `prompt` on the left of prompts, `response` on the right of the rest.

    In them masks are False, ids are `token` and other numbers `number`.  A negative width cuts columns off.
    """
    padded = {}
    for f in fields(rows):
        x = getattr(rows, f.name)
        if x.dim() == 2:
            sides = (prompt, 0) if f.name.startswith("prompt") else (0, response)
            x = F.pad(x, sides, value={torch.bool: False, torch.int64: token}.get(x.dtype, number))
        padded[f.name] = x
    return type(rows)(**padded)


@torch.no_grad()
def sampler_is_scorer(
    score: Score, rows: Rollout | Generation, logprobs: Tensor, temperature: float, dtype: torch.dtype
) -> Finding:
    """|Δ log-prob| of the sampled tokens, between the sampler with its cache, (B, R), and the pass of training."""
    gap = (score(rows)[0] - logprobs)[rows.mask].abs()  # (N,)
    most, mean = float(gap.max()), float(gap.mean())
    return Finding(
        "sampler = scorer", mean <= CLOSE[dtype],
        f"|Δ log-prob| max {most:.2g}, mean {mean:.2g}, T = {temperature:g}, {str(dtype)[6:]}",
        "the policy gradient of one distribution is taken on samples of another; the KL can turn negative",
        "divide logits by the temperature in both, no top-k or top-p, positions that count real tokens alone",
    )  # fmt: skip


@torch.no_grad()
def padding_is_invisible(losses: Callable[[Rollout], tuple[Tensor, ...]], rollout: Rollout) -> Finding:
    """losses(rollout) gives (log π, V, loss); columns of padding on both sides must not change them."""
    wide = pad_columns(rollout, 3, 5, token=1, number=nan)
    (logp, V, loss), (wide_logp, wide_V, wide_loss) = losses(rollout), losses(wide)
    gaps = [float((a[rollout.mask] - b[wide.mask]).abs().max()) for a, b in ((logp, wide_logp), (V, wide_V))]
    gaps.append(float((loss - wide_loss).abs()) / max(1.0, float(loss.abs())))
    return Finding(
        "padding is invisible", all(gap <= 1e-3 for gap in gaps),
        "Δ log-prob {:.2g}, Δ value {:.2g}, Δ loss {:.2g}".format(*gaps),
        "what a response is worth then depends on the rows that happen to stand beside it",
        "masks from lengths (never token == pad), positions = cumsum(mask) − 1, sums over the mask alone",
    )  # fmt: skip


@torch.no_grad()
def kl_to_itself(policy: GPT, twin: GPT, reference: GPT, rollout: Rollout, temperature: float) -> Finding:
    """Exact KL and k1 to an equal model, both 0, and those to the reference, of which the exact is >= 0."""
    def logp(model: GPT) -> Tensor:
        hidden, n = response_hidden(model, rollout)  # (N', C)
        return (model.logits(hidden)[:n] / temperature).log_softmax(-1)  # (N, V)

    def k1(p: Tensor, q: Tensor) -> Tensor:
        return kl_estimate(*(x.gather(-1, ids[:, None]).squeeze(-1) for x in (p, q)))  # (N,)

    ids, B, pi = rollout.ids[rollout.mask], len(rollout.ids), logp(policy)  # (N,), (N, V)
    again, ref = logp(twin), logp(reference)  # (N, V) each
    own, own_k1 = float(exact_kl(pi, again).abs().max()), float(k1(pi, again).abs().max())
    far, far_k1 = float(exact_kl(pi, ref).sum()) / B, float(k1(pi, ref).sum()) / B
    return Finding(
        "KL to itself is 0", own == 0 == own_k1 and far > -1e-3,
        f"exact {own:.2g}, k1 {own_k1:.2g}; to the reference {far:.3f}, k1 {far_k1:.3f} nats a response",
        "a KL penalty that is not 0 at the start pulls the policy away from the reference",
        "same temperature, dtype and mask for both models, and no dropout in either",
    )  # fmt: skip


def responses_end(rollout: Rollout, eos_id: int, context: int, max_new: int) -> Finding:
    """Why responses stopped, and how sure the policy was of its EOS. Broken where none ends; a note below 9 in 10."""
    reasons, B = Counter(stop_reasons(rollout, context)), len(rollout.ended)
    p = float(masked_mean(rollout.logprobs.exp(), rollout.mask & (rollout.ids == eos_id)))
    return Finding(
        "responses end", None if 0 < reasons["eos"] < 0.9 * B else reasons["eos"] > 0,
        f"{reasons['eos'] / B:.0%} of responses, p(EOS) there {p:.2f} on average; "
        f"cut by max_new = {max_new}: {reasons['length'] / B:.0%}, by the context of {context}: "
        f"{reasons['context'] / B:.0%}; mean length {float(rollout.mask.sum(1).float().mean()):.1f}",
        "half a text scores missing_eos, whatever it says; where no response ends there is nothing to learn",
        "SFT with the EOS in the loss and a longer --context; a larger --max-new; a --missing-eos below all rewards",
    )  # fmt: skip


def eos_is_trained(score: Score, head: Tensor, rollout: Rollout, tokenizer: Tokenizer) -> Finding:
    """The gradient through the EOS alone, on its row of the head, (V, C); and no text may become the EOS."""
    ends = rollout.mask & (rollout.ids == tokenizer.eos_id)  # (B, R)
    weights = token_weights(rollout.mask, "token", rollout.ids.shape[1]) * ends  # (B, R)
    loss, _ = policy_loss(score(rollout)[0], rollout.logprobs, torch.ones_like(weights), weights, 0.2, 0.2)
    norm = float(torch.autograd.grad(loss, head)[0][tokenizer.eos_id].norm())
    (name,) = [name for name, i in tokenizer.special_ids.items() if i == tokenizer.eos_id]
    typed = tokenizer.eos_id in tokenizer.encode(name)
    replied = ~rollout.mask & filled(rollout.mask)  # (B, R), of a conversation: each turn before a reply has ended, too
    ended = int(rollout.ended.sum() + (rollout.mask[:, :-1] & replied[:, 1:]).sum())
    masked_in = int(ends.sum())
    return Finding(
        "EOS is trained", masked_in == ended and (norm > 0 or ended == 0) and not typed,
        f"gradient {norm:.2g} through {masked_in} of {ended} ends; "
        f"typed as text it is {'the same' if typed else 'no EOS'}",
        "the policy cannot learn when to stop, and rambles; a user who types the EOS ends the conversation",
        "keep the EOS in the response mask, also where pad = EOS; encode text without special tokens",
    )  # fmt: skip


def reference_stays(policy: GPT, reference: GPT, train: Callable[[], object]) -> Finding:
    """train() moves the policy, and leaves the reference, which shares no storage with it, as it was."""
    before = fingerprint(policy), fingerprint(reference)
    train()
    moved, drifted = (fingerprint(m) != old for m, old in zip((policy, reference), before))
    storage = {p.data_ptr() for p in policy.parameters()}
    shared = sum(p.data_ptr() in storage for p in reference.parameters())
    return Finding(
        "reference stays", moved and not drifted and not shared,
        f"after a round of training: reference {'changed' if drifted else 'the same'}, "
        f"{shared} tensors shared, policy {'moved' if moved else 'the same'}",
        "a reference that follows the policy has KL 0 for ever; a policy that stands still learns nothing",
        "reference = deepcopy(policy).requires_grad_(False), the policy's parameters alone in the optimizer",
    )  # fmt: skip


def reward_is_on_the_end(rollout: Rollout, rewards: Tensor, kl: Tensor, beta: float, eos_id: int) -> Finding:
    """r_t + β kl_t, (B, R), is the score on the last real token, an EOS in a response that ended, else 0."""
    last = (filled(rollout.mask).sum(1, keepdim=True) - 1).clamp(min=0)  # (B, 1)
    right = torch.zeros_like(rewards).scatter(1, last, rollout.scores[:, None])  # (B, R)
    alone = rewards + beta * kl  # (B, R) the score as it stands there
    total = rollout.scores - beta * masked_sum(kl, rollout.mask, 1)  # (B,)
    off = float(torch.maximum((alone - right).abs().max(), (rewards.sum(1) - total).abs().max()))
    at_eos = bool((rollout.ids.gather(1, last).squeeze(1) == eos_id)[rollout.ended].all())
    b = int(rollout.scores.abs().argmax())
    place = int(alone[b].abs().argmax()) if rollout.scores[b] else int(last[b])  # 0 has no place
    return Finding(
        "reward is on the EOS", off <= 1e-4 * max(1.0, float(rollout.scores.abs().max())) and at_eos,
        f"response {b}: score {float(rollout.scores[b]):.3g} on token {place}, the last is {int(last[b])}; "
        f"Σ r = score − β Σ kl within {off:.2g}",
        "a score on padding is lost or discounted, one on a wrong token teaches the wrong token",
        "put it on the last True of the response mask, which is the EOS where there is one",
    )  # fmt: skip


def reward_has_contrast(scores: Tensor, ended: Tensor, group: int, missing_eos: float) -> Finding:
    """scores (B,), `group` responses to each prompt one after the other: does the reward tell them apart?

    Broken where all responses that ended, (B,) bool, have one score: the reward itself says nothing.
    """
    groups = scores.view(-1, group)  # (B / K, K)
    flat = float((groups == groups[:, :1]).all(1).float().mean())
    figure = f"mean {float(scores.mean()):.3f} from {float(scores.min()):.3f} to {float(scores.max()):.3f}; "
    figure += f"std within a prompt {float(groups.std(1).mean()):.3f} (0 in {flat:.0%})"
    cut = 1 - float(ended.float().mean())
    constant = len(scores[ended].unique()) < 2
    return Finding(
        "reward has contrast", False if constant else None if flat > 0.5 else True,
        figure + f"; {cut:.0%} got missing_eos = {missing_eos:g}",
        "GRPO and RLOO learn nothing from responses that all have the same reward, PPO little but the KL",
        "a finer reward, harder or easier prompts, a higher temperature, more SFT",
    )  # fmt: skip


def reward_is_a_function(reward_of: RewardOf, cases: Sequence[tuple[dict, str]], batch: int) -> Finding:
    """The reward of each (record, response) twice: the same, finite (`call_rewards` raises), and fast."""
    asked = [(prompt_text(record), text, record) for record, text in cases]
    first, start = call_rewards(reward_of, asked), time.perf_counter()
    changed = sum(a != b for a, b in zip(first, call_rewards(reward_of, asked)))
    seconds = batch * (time.perf_counter() - start) / max(len(cases), 1)
    return Finding(
        "reward is a function", changed == 0 if cases else None,
        f"{changed} of {len(cases)} responses score otherwise when asked again; {seconds:.2g} s per round of {batch}",
        "noise in the reward is noise in every advantage, and resume and evaluation cannot be repeated",
        "no randomness and no state in it, or a seed made from prompt and response",
    )  # fmt: skip
