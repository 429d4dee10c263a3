"""What a model says to held-out prompts, and how well it predicts what people said: the items.

`sample_items` makes one record a response, with its scores and its distance from the reference;
`text_items` one a text. Every number, verdict and figure of an evaluation follows from these records
(`metric.py`, `panels.py`) without the models. Proved by tests/evaluation/test_ask.py.
"""

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from minirlhf.lm.batches import collate, gather_true, micro_batches, spread
from minirlhf.lm.chat import Example, render, render_prompt
from minirlhf.lm.examples import fit_context
from minirlhf.lm.generation import Generation, Sampling, generate, pad_left, responses_of, stop_reasons
from minirlhf.lm.logits import entropy, log_softmax, token_logprobs
from minirlhf.lm.model import GPT
from minirlhf.lm.records import messages_of, reference_of
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.metrics.calibration import fit_temperature
from minirlhf.rl.losses import kl_estimate
from minirlhf.rl.rewards import RewardOf, call_rewards, prompt_text
from minirlhf.rl.rollout import response_hidden
from minirlhf.tasks import task_of

ROWS = 256  # responses sampled in one pass
LOGITS = 2**24  # held at once to fit a temperature


@dataclass(frozen=True)
class Policy:
    """A model and how it is asked."""

    model: GPT
    tokenizer: Tokenizer
    chat: bool = True  # with roles, as in `chat.render`

    def prompt(self, record: dict) -> list[int]:
        """The ids that the model is to continue."""
        return render_prompt(record, self.tokenizer, self.chat)

    def text(self, begun: str) -> list[int]:
        """The ids of a text that it is to go on with, as of a document without its EOS."""
        return render({"text": begun}, self.tokenizer, chat=False).ids[:-1]


@dataclass(frozen=True)
class Protocol:
    """What is drawn of every policy, and how it is scored."""

    reward_of: RewardOf | None
    max_new: int  # tokens of the longest response
    samples: int  # to each record, at temperature 1, beside the greedy one
    seed: int
    gold: bool = False  # the task's own reward, too, where reward_of is another


def exact_kl(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """Σ_v π_v (log π_v − log ref_v) at each position: (..., V) twice -> (...), exactly 0 for equal logits.

    Summed over the tokens of a sampled response it is the Rao-Blackwell estimate of the KL between
    the two distributions over responses. Source: Amini et al. 2025, arXiv 2504.10637.
    """
    logp, ref = (x.float().log_softmax(-1) if x.dtype != torch.float64 else x.log_softmax(-1)
                 for x in (logits, ref_logits))  # (..., V) each
    return (logp.exp() * (logp - ref)).sum(-1)  # (...)


@torch.no_grad()
def token_statistics(
    model: GPT, reference: GPT, g: Generation, of_reference: Generation | None = None
) -> dict[str, Tensor]:
    """Per response token, EOS included, (B, R), 0 where the mask is False: kl (Rao-Blackwell), k1, k3, entropy.

    Under the models themselves, at temperature 1 and in float32; KL(model ‖ reference) of a model with
    itself is exactly 0. k1 is the log-ratio log model − log reference.
    of_reference: the same responses behind the prompts as the reference is asked them, if it is asked otherwise.
    """
    logits = []
    for net, rows in ((model, g), (reference, of_reference or g)):
        hidden, n = response_hidden(net, rows)  # (N', C)
        logits.append(net.logits(hidden)[:n])  # (N, V)
    tokens = g.ids[g.mask]  # (N,)
    logp, ref = token_logprobs(logits[0], tokens), token_logprobs(logits[1], tokens)  # (N,)
    per_token = {"kl": exact_kl(*logits), "entropy": entropy(log_softmax(logits[0]))}
    per_token |= {kind: kl_estimate(logp, ref, kind) for kind in ("k1", "k3")}
    return {name: spread(x, g.mask) for name, x in per_token.items()}  # (B, R) each


def pieces_of(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """The text that each token adds; '' where a character is still unfinished, and the next token has all of it."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return [decoder.decode(tokenizer.decode_bytes([x]), i == len(ids)) for i, x in enumerate(ids, 1)]


def sample_items(
    policy: Policy, reference: Policy, records: Sequence[dict], protocol: Protocol, compared: GPT | None = None
) -> list[dict]:
    """`samples` responses at temperature 1 and a greedy one (sample −1) to each record, with their scores.

    The random numbers are those of (seed, record, sample), the same for every policy: a paired
    comparison then has less noise to fight. A response that did not end scores 0.
    The KL is to the reference asked in its own way, and responses are as short as that leaves room for.
    With `compared`, items also hold log_ratio, log compared − log reference of the response. Sample 0 of a model
    that is not the reference's also says where it moved: `pieces`, and `token_kl`, `token_log_ratio` of each.
    """
    items, model, tokenizer = [], policy.model, policy.tokenizer
    wanted = [(i, k) for i in range(len(records)) for k in range(-1, protocol.samples)]
    prompts, asked = ([x.prompt(r) for r in records] for x in (policy, reference))
    context = min(net.config.context for net in (model, reference.model, compared) if net is not None)
    tight = asked != prompts or context < model.config.context  # what one says must fit the others, too
    for greedy in (True, False):
        rows = sorted((w for w in wanted if (w[1] < 0) == greedy), key=lambda w: len(prompts[w[0]]))
        for start in range(0, len(rows), ROWS):
            part = rows[start : start + ROWS]
            seeds = [int(np.random.SeedSequence([protocol.seed, i, k + 1]).generate_state(1)[0]) for i, k in part]
            longest = max(len(x[i]) for x in (prompts, asked) for i, _ in part)
            room = min(protocol.max_new, context - longest) if tight else protocol.max_new
            sampling = Sampling(room, 0.0 if greedy else 1.0)
            g = generate(model, [prompts[i] for i, _ in part], sampling, tokenizer.eos_id, seeds)
            ids, mask = (x.to(g.ids.device) for x in pad_left([asked[i] for i, _ in part], 0))  # (B, P) each
            tokens = token_statistics(model, reference.model, g, replace(g, prompt_ids=ids, prompt_mask=mask))
            statistics = {name: x.sum(1).tolist() for name, x in tokens.items()}
            if compared is not None:
                statistics["log_ratio"] = token_statistics(compared, reference.model, g)["k1"].sum(1).tolist()
            reasons, texts = stop_reasons(g, model.config.context), [tokenizer.decode(ids) for ids in responses_of(g)]
            rewards: list[float | None] = [None] * len(part)
            if protocol.reward_of is not None:
                cases = [(prompt_text(records[i]), text, records[i]) for (i, _), text in zip(part, texts)]
                said = iter(call_rewards(protocol.reward_of, [c for c, ended in zip(cases, g.ended.tolist()) if ended]))
                rewards = [next(said) if ended else 0.0 for ended in g.ended.tolist()]
            for row, ((i, k), ids) in enumerate(zip(part, responses_of(g))):
                record, text = records[i], texts[row]
                item = {"index": i, "sample": k, "prompt": prompt_text(record), "response": text}
                item |= {"reference": reference_of(record), "stop": reasons[row]}
                item |= {"tokens": len(ids) + (reasons[row] == "eos"), "ids": ids}
                item |= {name: values[row] for name, values in statistics.items()}
                if k == 0 and model is not reference.model:
                    said = g.ids[row, : item["tokens"]].tolist()
                    item["pieces"] = pieces_of(tokenizer, said)
                    for key, name in (("token_kl", "kl"), ("token_log_ratio", "k1")):
                        item[key] = [round(x, 4) for x in tokens[name][row, : len(said)].tolist()]
                item["scores"] = scores_of(record, text, reasons[row] == "eos", rewards[row], protocol.gold)
                items.append(item)
    return sorted(items, key=lambda item: (item["index"], item["sample"]))


def scores_of(record: dict, text: str, ended: bool, reward: float | None, gold: bool = False) -> dict[str, float]:
    """The reward and the task's own quantities of a response; 0 where it never ended. gold: the task's reward, too."""
    scores = {} if reward is None else {"reward": reward}
    if (task := task_of(record)) is not None:
        own = {"gold": task.reward(prompt_text(record), text, record)} if gold else {}
        own |= task.score(prompt_text(record), text, record)
        scores |= {k: v if ended or k == "unparsable" else 0.0 for k, v in own.items()}
    return scores


def answer_logits(policy: Policy, records: Sequence[dict]) -> Iterator[tuple[list[int], Tensor, Tensor, Tensor]]:
    """What a policy thinks of each token of the records' own last answers, EOS included, some records at a time.

    Yields which records, the mask (B, T) of their tokens, logits (N, V) and targets (N,). Records that have no
    answer, or are longer than the context, are left out.
    """
    model, examples = policy.model, []
    for record in records:
        example, start = render(record, policy.tokenizer, policy.chat), len(policy.prompt(record))
        examples.append(Example(example.ids, [m and t >= start for t, m in enumerate(example.mask)]))
    keep = [i for i, e in enumerate(examples) if fit_context([e], model.config.context)[0]]
    for part in micro_batches([len(examples[i].ids) for i in keep], 32, model):
        batch = collate([examples[keep[j]] for j in part], model.wte.weight.device, model.config.context)
        hidden, n = gather_true(model(batch.inputs), batch.mask)  # (N', C)
        yield [keep[j] for j in part], batch.mask, model.logits(hidden)[:n], batch.targets[batch.mask]


@torch.no_grad()
def fitted_temperature(policy: Policy, records: Sequence[dict]) -> float:
    """T of `calibration.fit_temperature` over the first LOGITS of the tokens of the records' own answers."""
    logits, targets = [np.empty((0, policy.model.config.vocab_size))], [np.empty(0, dtype=int)]
    for _, _, z, y in answer_logits(policy, records):
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
    empty = {"nll": None, "tokens": 0, "bytes": 0, "confidence": [], "correct": []}
    empty |= {} if temperature is None else {"tempered": []}
    items = [{"index": i} | empty for i in range(len(records))]
    for part, mask, logits, targets in answer_logits(policy, records):
        logp = logits.log_softmax(-1)  # (N, V)
        best, likeliest = logp.max(-1)  # (N,)
        nll = spread(-logp.gather(-1, targets[:, None]).squeeze(-1), mask).double().sum(1)  # (B,)
        said = {"confidence": best.exp().tolist()}
        if temperature is not None:
            said["tempered"] = (logits / temperature).log_softmax(-1).amax(-1).exp().tolist()
        correct, start = (likeliest == targets).tolist(), 0
        for i, value, count in zip(part, nll.tolist(), mask.sum(1).tolist()):
            item, end, text = items[i], start + count, messages_of(records[i])[-1]["content"]
            item |= {"nll": value, "tokens": count, "bytes": len(text.encode("utf-8", "surrogatepass"))}
            item |= {key: [round(min(x, 1.0), 6) for x in p[start:end]] for key, p in said.items()}
            item["correct"] = [int(x) for x in correct[start:end]]
            start = end
    return items
