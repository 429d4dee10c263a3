"""What a model says to held-out prompts, and how well it predicts what people said: the items.

`sample_items` makes one record a response, with its scores and its distance from the reference;
`text_items` one a text. Every number, verdict and figure of an evaluation follows from these records
(`metric.py`, `panels.py`) without the models. Proved by tests/evaluation/test_ask.py.
"""

import codecs
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from minirlhf.evaluation.metric import LOWER
from minirlhf.harness.device import autocast
from minirlhf.lm.batches import collate, gather_true, micro_batches, spread
from minirlhf.lm.chat import Example, render, render_prompt
from minirlhf.lm.examples import fit_context
from minirlhf.lm.generation import Generation, Sampling, filled, pad_left, responses_of
from minirlhf.lm.logits import entropy, log_softmax
from minirlhf.lm.model import GPT
from minirlhf.lm.records import label_of, messages_of, reference_of
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.metrics.calibration import fit_temperature
from minirlhf.rl.losses import kl_estimate
from minirlhf.rl.rewards import RewardOf, call_rewards, prompt_text
from minirlhf.rl.rollout import Rollout, one_turn, parts_of, response_hidden
from minirlhf.rl.turns import Conversations, transcripts
from minirlhf.tasks import reply_of_task, task_of

ROWS = 256  # most responses in one pass of scoring, which a large model cuts further
SAMPLED = 64  # and of sampling: the cache grows with them
LOGITS = 2**24  # held at once to fit a temperature
SLICE = 2**20  # logits of a network held at once elsewhere: in a CPU's cache they take half the time
STATISTICS = ("kl", "entropy", "k1", "k3", "log_ratio")  # the last only where a model is compared


@dataclass(frozen=True)
class Policy:
    """A model and how it is asked."""

    model: GPT
    tokenizer: Tokenizer
    chat: bool = True  # with roles, as in `chat.render`
    dtype: torch.dtype = torch.float32  # of matrix products in sampling
    scored: torch.dtype = torch.float32  # and in all figures
    speak: Callable = Conversations(reply_of_task)  # see `rollout.Models`; without roles there is one turn
    shots: tuple[dict, ...] = ()  # messages of examples, in front of each question

    def behind_shots(self, record: dict) -> dict:
        """The record behind the examples, and these behind what the system says."""
        if not self.shots:
            return record
        messages = messages_of(record)
        start = int(messages[0]["role"] == "system")
        return record | {"messages": [*messages[:start], *self.shots, *messages[start:]]}

    def prompt(self, record: dict) -> list[int]:
        """The ids that the model is to continue."""
        return render_prompt(self.behind_shots(record), self.tokenizer, self.chat)


@dataclass(frozen=True)
class Protocol:
    """What is drawn of every policy, and how it is scored."""

    reward_of: RewardOf | None
    max_new: int  # tokens of the longest response
    samples: int  # to each record, at temperature 1, beside the greedy one
    seed: int
    gold: bool = False  # the task's own reward, too, where reward_of is another
    missing_eos: float = 0.0  # the reward of a response that did not end
    each: Callable[[], dict[str, list[float]]] = dict  # what each of several rewards said of the responses last asked
    told: Callable[[int], object] = int  # is told how many answers more there are


def exact_kl(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """Σ_v π_v (log π_v − log ref_v) at each position: log-probs (..., V) twice -> (...), exactly 0 for equal ones.

    Summed over the tokens of a sampled response it is the Rao-Blackwell estimate of the KL between
    the two distributions over responses. Source: Amini et al. 2025, arXiv 2504.10637.
    """
    return (logp.exp() * (logp - ref_logp)).sum(-1)  # (...)


def in_slices(model: GPT, *of_tokens: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors of (N, ...) or (N', ...) in step, so many tokens at a time that their logits are about SLICE numbers."""
    step = max(64, SLICE // model.config.vocab_size // 64 * 64)  # a multiple of 64, as N' of `gather_true` is
    return zip(*(x.split(step) for x in of_tokens))


@torch.no_grad()
def token_statistics(
    model: GPT, reference: GPT, g: Generation, of_reference: Generation | None = None, compared: GPT | None = None
) -> dict[str, Tensor]:
    """The STATISTICS of each response token, EOS included, (B, R) each, 0 where the mask is False.

    Under the models themselves, at temperature 1 and in the caller's autocast; KL(model ‖ reference), Rao-Blackwell, of
    a model with itself is exactly 0. k1 is the log-ratio log model − log reference; log_ratio is log compared − log reference.
    of_reference: the same responses behind the prompts as the reference is asked them, if it is asked otherwise.
    Each network reads each response once, and the logits of all tokens never stand in memory together.
    """
    ways = [g] if of_reference is None else [g, of_reference]
    asked = [(model, 0), (reference, len(ways) - 1), (compared or model, 0)]  # a network, and which way it is asked
    out = g.logprobs.new_zeros((len(STATISTICS), *g.mask.shape))  # (5, B, R)
    for index in parts_of(g, ROWS, model):
        rows = [Rollout.rows(x, index) for x in ways]
        found, mask = [], rows[0].mask  # (b, R')
        hidden = {(net, way): response_hidden(net, rows[way])[0] for net, way in dict.fromkeys(asked)}  # (N', C) each
        for said, *some in in_slices(model, rows[0].ids[mask], *hidden.values()):
            logp = {key: log_softmax(key[0].logits(x)[: len(said)]) for key, x in zip(hidden, some)}  # (n, V) each
            laws = [logp[key] for key in asked]
            pi, ref, other = (x.gather(-1, said[:, None]).squeeze(-1) for x in laws)  # (n,) each
            k1, k3 = (kl_estimate(pi, ref, kind) for kind in ("k1", "k3"))  # (n,) each
            found.append(torch.stack([exact_kl(*laws[:2]), entropy(laws[0]), k1, k3, other - ref]))  # (5, n)
        out[:, index, : mask.shape[1]] = spread(torch.cat(found, 1).to(out.dtype), mask.expand(len(out), -1, -1))
    return dict(zip(STATISTICS if compared is not None else STATISTICS[:-1], out))


def stop_reasons(rows: Rollout | Generation, context: int) -> list[str]:
    """Why each row of a Generation or Rollout stopped: "eos", "context" (that of the model is full) or "length"."""
    total = rows.prompt_mask.sum(1) + filled(rows.mask).sum(1)  # (B,)
    return ["eos" if e else "context" if n >= context else "length" for e, n in zip(rows.ended, total.tolist())]


def pieces_of(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """The text that each token adds; '' where a character is still unfinished, and the next token has all of it."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return [decoder.decode(tokenizer.decode_bytes([x]), i == len(ids)) for i, x in enumerate(ids, 1)]


def sample_items(
    policy: Policy, reference: Policy, records: Sequence[dict], protocol: Protocol, compared: GPT | None = None
) -> list[dict]:
    """`samples` responses at temperature 1 and a greedy one (sample −1) to each record, with their scores.

    The random numbers are those of (seed, record, sample), the same for every policy: a paired
    comparison then has less noise to fight. A response that did not end scores `missing_eos`.
    The KL is to the reference asked in its own way, and responses are as short as that leaves room for.
    With `compared`, items also hold log_ratio, log compared − log reference of the response. Sample 0 of a model
    that is not the reference's also says where it moved: `pieces`, and `token_kl`, `token_log_ratio` of each.
    """
    items, model, tokenizer = [], policy.model, policy.tokenizer
    wanted = [(i, k) for i in range(len(records)) for k in range(-1, protocol.samples)]
    prompts, asked = ([x.prompt(r) for r in records] for x in (policy, reference))
    context = min(net.config.context for net in (model, reference.model, compared) if net is not None)
    room = torch.tensor([context - max(len(prompts[i]), len(asked[i])) for i, _ in wanted])  # (B,)
    device, speak, parts = model.wte.weight.device, policy.speak if policy.chat else one_turn, []
    behind = [[x.to(device) for x in pad_left([each[i] for i, _ in wanted], 0)] for each in (prompts, asked)]  # (B, P)
    known = [records[i] for i, _ in wanted]  # with all that was said before the last answer
    for greedy in (True, False):
        rows = [row for row, (_, k) in enumerate(wanted) if (k < 0) == greedy]
        for part in micro_batches([len(prompts[wanted[row][0]]) for row in rows], SAMPLED):
            some = [rows[j] for j in part]
            keys = [(protocol.seed, i, k + 1) for i, k in (wanted[row] for row in some)]
            seeds = [int(np.random.SeedSequence(key).generate_state(1)[0]) for key in keys]
            sampling = Sampling(protocol.max_new, 0.0 if greedy else 1.0)
            with autocast(device, policy.dtype):
                begun = [prompts[i] for _, i, _ in keys], [known[row] for row in some]
                said, told = speak(model, tokenizer, *begun, sampling, seeds)
            parts.append((some, said))
            for row, record in zip(some, told):
                known[row] = record
            protocol.told(len(some))
    shape = len(wanted), max(said.ids.shape[1] for _, said in parts)
    g = Generation(*behind[0], *(torch.zeros(shape, dtype=t, device=device) for t in (torch.int64, torch.bool)),
                   torch.zeros(shape, device=device), torch.zeros(shape[0], dtype=torch.bool, device=device))
    for some, said in parts:
        R = said.ids.shape[1]
        fits = torch.arange(R, device=device) < room[some, None].to(device)  # (b, R)
        g.ids[some, :R], g.mask[some, :R] = said.ids, said.mask & fits
        g.ended[some] = said.ended & (fits | ~said.mask).all(1)
    of_reference = replace(g, prompt_ids=behind[1][0], prompt_mask=behind[1][1]) if asked != prompts else None
    with autocast(device, policy.scored):
        tokens = token_statistics(model, reference.model, g, of_reference, compared)  # (B, R) each
    statistics = {name: x.sum(1).tolist() for name, x in tokens.items()}
    reasons, texts = stop_reasons(g, model.config.context), [tokenizer.decode(ids) for ids in responses_of(g)]
    rewards: dict[str, list[float]] = {}  # name -> of each response
    if protocol.reward_of is not None:
        cases = [(prompt_text(record), text, record) for record, text in zip(known, texts)]
        total = call_rewards(protocol.reward_of, [c for c, ended in zip(cases, g.ended.tolist()) if ended])
        for name, values in ({"reward": total} | protocol.each()).items():
            said = iter(values if total else [])  # not what was said of another model, where no response ended
            rewards[name] = [next(said) if ended else protocol.missing_eos for ended in g.ended.tolist()]
    for row, ((i, k), shown) in enumerate(zip(wanted, transcripts(g, tokenizer))):
        record, said = records[i], g.ids[row][g.mask[row]].tolist()
        item = {"index": i, "sample": k, "prompt": prompt_text(record), "response": shown}
        item |= {"reference": reference_of(record) or label_of(record) or "", "stop": reasons[row]}
        item |= {"tokens": len(said), "ids": said[: len(said) - (reasons[row] == "eos")]}
        item |= {name: values[row] for name, values in statistics.items()}
        if k == 0 and model is not reference.model:
            item["pieces"] = pieces_of(tokenizer, said)
            for key, name in (("token_kl", "kl"), ("token_log_ratio", "k1")):
                item[key] = [round(x, 4) for x in tokens[name][row][g.mask[row]].tolist()]
        judged = {name: values[row] for name, values in rewards.items()}
        if shown != texts[row]:
            item["answer"] = texts[row]  # the last one of a conversation, which references and labels are compared with
        item["scores"] = judged | scores_of(known[row], texts[row], reasons[row] == "eos", protocol.gold)
        items.append(item)
    return items


def scores_of(record: dict, text: str, ended: bool, gold: bool = False) -> dict[str, float]:
    """The task's own quantities of a response; 0 where it never ended, but for LOWER. gold: the task's reward, too."""
    scores = {}
    if (task := task_of(record)) is not None:
        own = {"gold": task.reward(prompt_text(record), text, record)} if gold else {}
        own |= task.score(prompt_text(record), text, record)
        scores |= {k: v if ended or k in LOWER else 0.0 for k, v in own.items()}
    return scores


def answer_logits(policy: Policy, records: Sequence[dict]) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """What a policy thinks of each token of the records' own last answers, EOS included, some tokens at a time.

    Yields of each which record has it, (n,), logits (n, V) and targets (n,), those of a record in order. Records that
    have no answer, or are longer than the context, are left out.
    """
    model, examples = policy.model, []
    for record in records:
        example = render(policy.behind_shots(record), policy.tokenizer, policy.chat)
        start = len(policy.prompt(record))
        examples.append(Example(example.ids, [m and t >= start for t, m in enumerate(example.mask)]))
    keep = [i for i, e in enumerate(examples) if fit_context([e], model.config.context)[0]]
    for part in micro_batches([len(examples[i].ids) for i in keep], 32, model):
        batch = collate([examples[keep[j]] for j in part], model.wte.weight.device, model.config.context)
        with autocast(model.wte.weight.device, policy.scored):
            hidden, _ = gather_true(model(batch.inputs), batch.mask)  # (N', C)
        who = torch.tensor([keep[j] for j in part]).repeat_interleave(batch.mask.sum(1).cpu())  # (N,)
        for some, x, y in in_slices(model, who, hidden, batch.targets[batch.mask]):
            yield some.tolist(), model.logits(x)[: len(y)], y


@torch.no_grad()
def fitted_temperature(policy: Policy, records: Sequence[dict]) -> float:
    """T of `calibration.fit_temperature` over the first LOGITS of the tokens of the records' own answers."""
    logits, targets = [np.empty((0, policy.model.config.vocab_size))], [np.empty(0, dtype=int)]
    for _, z, y in answer_logits(policy, records):
        room = LOGITS // z.shape[1] - sum(map(len, targets))
        logits.append(z[:room].double().cpu().numpy())
        targets.append(y[:room].cpu().numpy())
        if len(z) >= room:
            break
    return fit_temperature(np.concatenate(logits), np.concatenate(targets))


@torch.no_grad()
def text_items(policy: Policy, records: Sequence[dict], temperature: float | None = None) -> list[dict]:
    """How the policy predicts each record's own last answer, EOS included, given what stands before it.

    nll: − log p, in nats; tokens; bytes of UTF-8; and of each token the model's `confidence`, the probability of
    what it thinks likeliest, and whether that is `correct`. None and empty where the record has no answer or is
    longer than the context. With a temperature, `tempered` is the confidence of softmax(logits / temperature).
    """
    lists = ["confidence", "correct"] + ["tempered"] * (temperature is not None)
    items = [{"index": i, "nll": None, "tokens": 0, "bytes": 0, **{k: [] for k in lists}} for i in range(len(records))]
    for who, logits, targets in answer_logits(policy, records):
        logp = log_softmax(logits)  # (n, V)
        best, likeliest = logp.max(-1)  # (n,)
        said = [-logp.gather(-1, targets[:, None]).squeeze(-1), best.exp(), likeliest == targets]  # (n,) each
        if temperature is not None:
            said.append(log_softmax(logits, temperature).amax(-1).exp())
        for item, nll, *numbers in zip((items[i] for i in who), *(x.tolist() for x in said)):
            item |= {"nll": (item["nll"] or 0.0) + nll, "tokens": item["tokens"] + 1}
            for key, x in zip(lists, numbers):
                item[key].append(int(x) if key == "correct" else round(min(x, 1.0), 6))
    for item, record in zip(items, records):
        if item["tokens"]:
            item["bytes"] = len(messages_of(record)[-1]["content"].encode("utf-8", "surrogatepass"))
    return items
