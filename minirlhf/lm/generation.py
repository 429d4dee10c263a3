"""Sampling from a GPT: a ragged batch of prompts in one pass, with the cache.

    p = softmax(logits / temperature), cut to the top k and the top p, renormalised
    token = the first whose cumulative probability exceeds u,   u ~ U[0, 1)

Each row draws its u's from its own seed. So what it says depends neither on the rows beside it nor on where they end.
The log-probabilities are those of the distribution sampled from, temperature and cuts included. The policy gradient
of any other distribution is that of another policy. Padding stands before prompts, so all rows write the same column:

    . . p p p | r r r E        P = 5, R = 4; E is the sampled EOS, an action like any other
    p p p p p | r E . .

Proved by tests/lm/test_generation.py, against a slow loop without a cache.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minirlhf.harness import ranks
from minirlhf.harness.device import send
from minirlhf.harness.files import Diverged
from minirlhf.lm.model import GPT, KVCache

ROWS = 256  # most prompts per pass
LOOK = {"cpu": 1, "cuda": 16}  # tokens between looks at which rows are finished: each makes a GPU wait for the CPU


@dataclass(frozen=True)
class Sampling:
    """How to sample. Raises ValueError for what makes no sense."""

    max_new: int  # tokens of the longest response
    temperature: float = 1.0  # 0 is the most probable token (log-probability 0: the distribution is a point)
    top_k: int = 0  # only the k most probable tokens; 0 keeps all
    top_p: float = 1.0  # the fewest, most probable tokens with this mass; 1 keeps all

    def __post_init__(self) -> None:
        if not self.temperature >= 0 or self.top_k < 0 or not 0 < self.top_p <= 1 or self.max_new < 1:
            raise ValueError(f"{self}: want max_new >= 1, temperature >= 0, top_k >= 0 and 0 < top_p <= 1")


@dataclass
class Generation:
    """What was sampled. B rows, P prompt columns (left-padded), R response columns (right-padded)."""

    prompt_ids: Tensor  # (B, P) int64
    prompt_mask: Tensor  # (B, P) bool, True on real tokens
    ids: Tensor  # (B, R) int64
    mask: Tensor  # (B, R) bool, True on sampled tokens, EOS included
    logprobs: Tensor  # (B, R) float32 of the distribution sampled from, 0 where mask is False
    ended: Tensor  # (B,) bool, True where EOS was sampled; else max_new or the context cut the row off


def filled(mask: Tensor) -> Tensor:
    """True up to each row's last True place, (B, R): in holes, too, in which others speak between the policy's turns."""
    return mask.flip(1).cumsum(1).flip(1) > 0


def responses_of(rows: Any) -> list[list[int]]:
    """The sampled ids of each row of a Generation or Rollout, of the last turn, without EOS and padding."""
    whole, place = filled(rows.mask), torch.arange(1, rows.mask.shape[1] + 1, device=rows.mask.device)
    starts = ((whole & ~rows.mask) * place).amax(1).tolist()  # behind the last hole
    return [row[i:n] for row, i, n in zip(rows.ids.tolist(), starts, (whole.sum(1) - rows.ended.long()).tolist())]


def pad_left(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Ragged prompts -> ids (B, P) and mask (B, P) bool, the padding on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (width - len(p)) + list(p) for p in prompts])  # (B, P)
    lengths = torch.tensor([len(p) for p in prompts])  # (B,)
    return ids, torch.arange(width) >= width - lengths[:, None]  # (B, P)


def truncate_logits(logits: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """−∞ for all but the k most probable tokens and the smallest set of mass at least p.

    logits: (B, V), temperature applied.  top_k: 0 keeps all; tokens that tie with the k-th stay.
    top_p: at least one token stays.  k is cut first (the order of Hugging Face).
    Source: Fan et al. 2018 (top k); Holtzman et al. 2020 (top p, the nucleus).
    """
    if 0 < top_k < logits.shape[-1]:
        kth = logits.topk(top_k).values[:, -1:]  # (B, 1)
        logits = logits.masked_fill(logits < kth, -torch.inf)  # (B, V)
    if top_p < 1:
        ordered, order = logits.sort(descending=True)  # (B, V)
        probabilities = ordered.softmax(-1)  # (B, V)
        before = probabilities.cumsum(-1) - probabilities  # (B, V) mass of those more probable
        outside = (before >= top_p).scatter(-1, order, before >= top_p)  # (B, V)
        outside.scatter_(-1, order[:, :1], False)
        logits = logits.masked_fill(outside, -torch.inf)  # (B, V)
    return logits


def draw(probabilities: Tensor, u: Tensor) -> Tensor:
    """The inverse of the cumulative distribution at u. probabilities: (B, V), u: (B,) in [0, 1) -> (B,).

    Tokens of probability 0 are never drawn. `torch.multinomial` makes sampling from a small model slower.
    """
    cumulative = probabilities.cumsum(-1)  # (B, V)
    # The largest float32 u is 1 − 2⁻²⁴, and u times the total then still rounds to less than the total.
    token = torch.searchsorted(cumulative, u[:, None] * cumulative[:, -1:], right=True).squeeze(-1)  # (B,)
    return token.clamp(max=cumulative.shape[-1] - 1)  # of NaN it is V, and no token


def row_uniforms(seeds: Sequence[int], n: int) -> Tensor:
    """(B, n) float32 in [0, 1): row b depends on seeds[b] alone."""
    rows = [np.random.Generator(np.random.Philox(int(seed))).random(n, dtype=np.float32) for seed in seeds]
    return torch.from_numpy(np.stack(rows))


def generate(
    model: GPT, prompts: Sequence[Sequence[int]], sampling: Sampling, eos_id: int, seeds: Sequence[int]
) -> Generation:
    """Continue each prompt until EOS, sampling.max_new tokens or the end of the context.

    prompts: B lists of ids, of any lengths from 1 to the context.  seeds: B integers, one per row.
    Prompts of like length share a pass, because padding costs as much as tokens.
    Padding holds eos_id; tell it from a sampled EOS by the mask.  Restores the model's train mode. Runs in the caller's
    autocast: in that of the training pass, both give a token the same probability. Of several processes all must call.
    Raises ValueError for a prompt that is empty or longer than the context.
    The ragged batch follows Hugging Face's rule: positions count real tokens, and padding is masked.
    """
    context, lengths = model.config.context, [len(p) for p in prompts]
    if not prompts or len(seeds) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds: give one seed per prompt, at least one")
    if min(lengths) < 1 or max(lengths) > context:
        raise ValueError(f"a prompt of {max(lengths)} tokens (shortest {min(lengths)}); the context is {context}")
    device, order = model.wte.weight.device, ranks.mine(sorted(range(len(prompts)), key=lambda i: lengths[i]))
    prompt_ids, prompt_mask = (send(x, device) for x in pad_left(prompts, eos_id))  # (B, P) each
    room = (context - prompt_mask.sum(1)).clamp(max=sampling.max_new)  # (B,) tokens that a row may say
    ids = torch.zeros((len(prompts), int(room.max())), dtype=torch.int64, device=device)  # (B, R)
    logprobs, was_training = torch.zeros(ids.shape, device=device), model.training  # (B, R)
    frozen = [p for p in model.eval().parameters() if not p.requires_grad]
    try:
        for p in frozen:  # autocast keeps what it makes of a weight only if that could have a gradient
            p.requires_grad_(True)
        for start in range(0, len(order), ROWS):
            rows = order[start : start + ROWS]
            some, their = [prompts[i] for i in rows], [seeds[i] for i in rows]
            said, their_logprobs = one_pass(model, some, room[rows], sampling, eos_id, their)  # (b, R') each
            ids[rows, : said.shape[1]], logprobs[rows, : said.shape[1]] = said, their_logprobs
    finally:
        for p in frozen:
            p.requires_grad_(False)
        model.train(was_training)
    ranks.add_up(ids, logprobs)
    is_eos = ids == eos_id  # (B, R)
    before_end = is_eos.cumsum(1) - is_eos.long() == 0  # (B, R): what a row went on to say does not count
    mask = before_end & (torch.arange(ids.shape[1], device=device) < room[:, None])  # (B, R)
    R = int(mask.sum(1).max())
    ids, logprobs = torch.where(mask, ids, eos_id)[:, :R], torch.where(mask, logprobs, 0.0)[:, :R]
    return Generation(prompt_ids, prompt_mask, ids, mask[:, :R], logprobs, (mask & is_eos).any(1))


def one_pass(
    model: GPT, prompts: Sequence[Sequence[int]], room: Tensor, sampling: Sampling, eos_id: int, seeds: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """(ids, log-probs), (B, R) each, of rows side by side, by a model in eval mode. room: (B,), most tokens of each.

    What stands behind an EOS or beyond the room means nothing. Raises Diverged for logits that are not finite.
    """
    device, R = room.device, int(room.max())
    each = list(dict.fromkeys(map(tuple, prompts)))
    each = each if 2 * len(each) <= len(prompts) else list(map(tuple, prompts))  # few shapes, unless it saves half
    places = {prompt: i for i, prompt in enumerate(each)}
    which = torch.tensor([places[tuple(prompt)] for prompt in prompts], device=device)  # (B,) of the G that are read
    asked, asked_mask = (send(F.pad(x, (-x.shape[1] % 8, 0)), device) for x in pad_left(each, 0))  # (G, P) each
    uniforms = send(row_uniforms(seeds, R), device)  # (B, R)
    ids = torch.full((len(prompts), R), eos_id, device=device)  # (B, R)
    logprobs = torch.zeros(ids.shape, device=device)  # (B, R)

    # Not inference mode, in which autocast would convert every weight anew for every token.
    with torch.no_grad():
        cache = KVCache()
        hidden = model(asked, asked_mask, cache)[which, -1]  # (B, C): what rows are asked alike is read once
        cache.keep(which)
        alive = torch.arange(len(ids), device=device)  # (n,) the rows still in the cache
        going = room > 0  # (n,) bool, which of these rows are not finished
        for t in range(R):
            logits = model.logits(hidden).float() / (sampling.temperature or 1.0)  # (n, V)
            look = t % LOOK[device.type] == 0
            if look and not logits.isfinite().all():
                raise Diverged("the logits are not finite: a lower learning rate, or an earlier checkpoint")
            if sampling.temperature == 0:
                token, logprob = logits.argmax(-1), torch.zeros_like(logits[:, 0])  # (n,) each
            else:
                probabilities = truncate_logits(logits, sampling.top_k, sampling.top_p).softmax(-1)  # (n, V)
                token = draw(probabilities, uniforms[alive, t])  # (n,)
                logprob = probabilities.gather(-1, token[:, None]).squeeze(-1).log()  # (n,)
            ids[alive, t], logprobs[alive, t] = token, logprob
            going = going & (token != eos_id) & (t + 1 < room[alive])
            left = int(going.sum()) if look else len(alive)
            if left == 0 or t + 1 == R:
                break
            n = -(-left // 16) * 16  # few shapes
            if n <= 0.75 * len(alive):  # computing for finished rows costs more than moving the cache
                rows = (~going).byte().argsort(stable=True)[:n]  # (n,)
                cache.keep(rows)
                token, alive, going = token[rows], alive[rows], going[rows]
            hidden = model(token[:, None], going[:, None], cache)[:, -1]  # (n, C)
    return ids, logprobs
