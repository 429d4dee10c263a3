"""From prompts to a rollout: sampled responses, scored by reward, policy and reference.

    column      0 1 2 3 4 | 0 1 2 3          P = 5 prompt columns, R = 4 response columns
    ids         . . a b c | x y E .          E is the EOS that the policy sampled
    mask                  | 1 1 1 0
    log π, V            * | * *              the hidden state of the real token before t scores token t
    reward                | r r r+score      r = −β (log π − log ref); the score stands on the EOS

In a conversation (rl/turns.py) the mask has holes where others speak. Proved by tests/rl/test_rollout.py.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor

from minirlhf.harness import ranks
from minirlhf.harness.device import autocast
from minirlhf.lm.batches import gather_true, micro_batches, room, round_up, spread
from minirlhf.lm.chat import render_prompt
from minirlhf.lm.generation import Generation, Sampling, filled, generate, responses_of
from minirlhf.lm.logits import entropy, log_softmax
from minirlhf.lm.model import GPT, KVCache, ScalarHead
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.rl.losses import masked_sum
from minirlhf.rl.rewards import RewardOf, call_rewards, prompt_text


def one_turn(
    model: GPT, tokenizer: Tokenizer, prompts: Sequence, records: Sequence[dict], sampling: Sampling, seeds: Sequence
) -> tuple[Generation, Sequence[dict]]:  # fmt: skip
    """An answer to each prompt, given as ids; and the records as a reward is to see them."""
    return generate(model, prompts, sampling, tokenizer.eos_id, seeds), records


@dataclass(frozen=True)
class Models:
    """Who takes part in a round."""

    policy: GPT
    value_head: ScalarHead | None  # on the policy's hidden states; None without a critic
    reference: GPT
    tokenizer: Tokenizer
    dtype: torch.dtype = torch.float32  # of matrix products in training
    speak: Callable = one_turn  # how a prompt becomes an answer, or a conversation


@dataclass
class Rollout:
    """B responses, and (B, R) figures of their tokens, 0 where mask is False."""

    prompt_ids: Tensor  # (B, P) int64, left-padded
    prompt_mask: Tensor  # (B, P) bool
    ids: Tensor  # (B, R) int64, right-padded
    mask: Tensor  # (B, R) bool, EOS included
    sampled_logprobs: Tensor  # (B, R) by the sampler, with its cache
    logprobs: Tensor  # (B, R) by the pass that training repeats: log π_old
    ref_logprobs: Tensor  # (B, R) of the frozen reference
    values: Tensor  # (B, R) V of the state before each token
    advantages: Tensor  # (B, R) by `algorithms.advantages_of`, 0 before
    returns: Tensor  # (B, R) by `algorithms.advantages_of`, 0 before
    scores: Tensor  # (B,) what the reward function said
    ended: Tensor  # (B,) bool, True where EOS was sampled

    def rows(self, index: Tensor | Sequence[int]) -> "Rollout":
        """Some of the rows, without the columns that are padding in all of them."""
        index = torch.as_tensor(index, device=self.ids.device)
        P, R = (int(mask[index].sum(1).max()) for mask in (self.prompt_mask, filled(self.mask)))
        picked = {}
        for f in dataclasses.fields(self):
            x = getattr(self, f.name)[index]
            picked[f.name] = x if x.dim() == 1 else x[:, -P:] if f.name.startswith("prompt") else x[:, :R]
        return type(self)(**picked)  # a Generation, too, has these columns

    def kl(self) -> Tensor:
        """Σ_t log π − log ref of each response, (B,): the k1 estimate of KL(π ‖ ref)."""
        return masked_sum(self.logprobs - self.ref_logprobs, self.mask, 1)  # (B,)


def answers_each(rows: Rollout | Generation) -> int:
    """How many rows, one after the other, answer each prompt."""
    asked = rows.prompt_ids.masked_fill(~rows.prompt_mask, -1)  # (B, P)
    return gcd(*asked.unique_consecutive(dim=0, return_counts=True)[1].tolist())


def parts_of(rows: Rollout | Generation, most: int, model: GPT, share: Callable = list) -> list[list[int]]:
    """`micro_batches` of the rows. The answers to a prompt stay together as far as there is room, for it is read once."""
    K, most = answers_each(rows), min(most, -(-len(rows.ids) // ranks.count()))
    P, R = rows.prompt_mask.sum(1).tolist(), filled(rows.mask).sum(1).tolist()
    K = max(k for k in range(1, K + 1) if K % k == 0 and (k == 1 or k <= most and max(P) + k * max(R) <= room(model)))
    units = [P[i] + K * max(R[i : i + K]) for i in range(0, len(R), K)]  # tokens of each K rows
    return [[K * i + k for i in part for k in range(K)] for part in micro_batches(units, most // K, model, share)]


def response_hidden(model: GPT, rows: Rollout | Generation) -> tuple[Tensor, int]:
    """The hidden state before each real response token, in the order of mask's True places: (N', C) and N.

    A prompt with several answers is read once, and its keys and values serve them all, gradient included. Otherwise
    each row's real tokens are moved together, to the left. Padding on the right needs no mask, and padding between
    prompt and response would cost as much as tokens do.
    """
    if (K := answers_each(rows)) > 1:
        cache, R, which = KVCache(), rows.ids.shape[1], torch.arange(len(rows.ids), device=rows.ids.device) // K  # (B,)
        prompts = (F.pad(x[::K], (-x.shape[1] % 8, 0)) for x in (rows.prompt_ids, rows.prompt_mask))  # (G, P') each
        ids, mask = (F.pad(x, (0, -R % 8)) for x in (rows.ids, filled(rows.mask)))  # (B, R') each, as of `round_up`
        first = model(*prompts, cache)[which, -1:]  # (B, 1, C)
        cache.keep(which)
        later = model(ids, mask, cache)[:, : R - 1]  # (B, R - 1, C)
        return gather_true(torch.cat([first, later], 1), rows.mask)
    ids = torch.cat([rows.prompt_ids, rows.ids], 1)  # (B, P + R)
    real = torch.cat([rows.prompt_mask, filled(rows.mask)], 1)  # (B, P + R)
    spoken = torch.cat([torch.zeros_like(rows.prompt_mask), rows.mask], 1)  # (B, P + R)
    order = (~real).byte().argsort(dim=1, stable=True)  # (B, P + R)
    T = round_up(int(real.sum(1).max()) - 1, 8, model.config.context)
    ids, spoken = (F.pad(x.gather(1, order), (0, T + 1))[:, : T + 1] for x in (ids, spoken))  # (B, T + 1)
    return gather_true(model(ids[:, :-1]), spoken[:, 1:])  # (N', C), N


def score_tokens(
    model: GPT, head: ScalarHead | None, rows: Rollout | Generation, temperature: float = 1.0, with_entropy: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """(log π, V, H) of each response token, (B, R) float32, from one pass over prompt and response.

    log π is that of the distribution sampled from: logits / temperature. V is 0 without a value head, H if unwanted.
    The LM head is put on real response tokens alone.
    """
    hidden, n = response_hidden(model, rows)  # (N', C)
    logp = log_softmax(model.logits(hidden)[:n], temperature)  # (N, V)
    logprobs = logp.gather(-1, rows.ids[rows.mask][:, None]).squeeze(-1)  # (N,)
    H = entropy(logp.detach()) if with_entropy else torch.zeros_like(logprobs)  # (N,)
    values = head(hidden)[:n].float() if head is not None else torch.zeros_like(logprobs)  # (N,)
    return spread(logprobs, rows.mask), spread(values, rows.mask), spread(H, rows.mask)  # (B, R) each


def score_responses(
    reward_of: RewardOf, tokenizer: Tokenizer, records: Sequence[dict], rows: Rollout | Generation, missing_eos: float
) -> Tensor:
    """The reward of each row's response, (B,) float32; `missing_eos` without an EOS: half a text is not the text."""
    ended = rows.ended.tolist()
    cases = [(prompt_text(r), tokenizer.decode(ids), r) for r, ids in zip(records, responses_of(rows))]
    said = iter(ranks.in_shares(lambda xs: call_rewards(reward_of, xs), [x for x, whole in zip(cases, ended) if whole]))
    scores = [next(said) if whole else missing_eos for whole in ended]
    return torch.tensor(scores, dtype=torch.float32, device=rows.ids.device)


def collect(
    models: Models, records: Sequence[dict], reward_of: RewardOf, seeds: Sequence[int], sampling: Sampling,
    missing_eos: float, micro_rows: int = 64,
) -> Rollout:  # fmt: skip
    """Sample a response to each record and score it.

    reward_of, missing_eos: see `score_responses`.  micro_rows: rows per pass of scoring.
    The policy's log-probs are computed again, by the pass that training repeats. So π / π_old is 1 before
    the first step. The sampler's log-probs are kept for `sampler_gap` in the log.
    """
    tokenizer, T = models.tokenizer, sampling.temperature
    prompts, device = [render_prompt(record, tokenizer) for record in records], models.policy.wte.weight.device
    with autocast(device, models.dtype):
        g, asked = models.speak(models.policy, tokenizer, prompts, records, sampling, seeds)
    scores = score_responses(reward_of, tokenizer, asked, g, missing_eos)  # (B,)
    unknown = [torch.zeros_like(g.logprobs) for _ in range(5)]  # (B, R) each
    rollout = Rollout(g.prompt_ids, g.prompt_mask, g.ids, g.mask, g.logprobs, *unknown, scores, g.ended)
    with torch.no_grad(), autocast(device, models.dtype):
        for index in parts_of(rollout, micro_rows, models.policy, ranks.mine):
            part = rollout.rows(index)
            logprobs, values, _ = score_tokens(models.policy, models.value_head, part, T, False)  # (b, R) each
            R = part.ids.shape[1]
            rollout.logprobs[index, :R], rollout.values[index, :R] = logprobs, values
            rollout.ref_logprobs[index, :R], _, _ = score_tokens(models.reference, None, part, T, False)
    ranks.add_up(rollout.logprobs, rollout.ref_logprobs, rollout.values)
    return rollout
