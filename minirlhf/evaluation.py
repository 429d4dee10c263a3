"""What a model says to held-out prompts, and every number that follows from it.

`sample_items` makes one record a response; `metric_table` turns records into metrics. A metric is kept
as sufficient statistics, one row a prompt, and a function of their sum: so means, ratios such as
perplexity, and corpus metrics such as BLEU and F1 get their intervals and paired tests from the same
bootstrap over prompts. Proved by tests/test_evaluation.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from minirlhf.algos import entropy, exact_kl, kl_estimate, token_logprobs
from minirlhf.data import collate, fit_context, messages_of, micro_batches, reference_of, render, render_prompt
from minirlhf.generation import Generation, generate
from minirlhf.metrics import (
    bits_per_byte,
    classification_statistics,
    distinct_n,
    macro_f1_from_statistics,
    perplexity,
)
from minirlhf.model import GPT
from minirlhf.overlap import (
    bleu_from_statistics,
    bleu_statistics,
    chrf_from_statistics,
    chrf_statistics,
    default_tokenizer,
)
from minirlhf.regret import LEAST, best_of_n, effective_size, mixture_weights, optimal_objective, worth
from minirlhf.rollout import Reward, call_reward, prompt_text, response_hidden, spread
from minirlhf.sft import negative_log_likelihood
from minirlhf.stats import corpus_interval
from minirlhf.tasks import TASKS, reviews
from minirlhf.tokenizer import Tokenizer

ROWS = 256  # responses sampled in one pass


@dataclass(frozen=True)
class Metric:
    """One quantity of several models on the same prompts."""

    name: str
    direction: int  # 1: higher is better, −1: lower is better, 0: neither, it describes
    combine: Callable[[np.ndarray], np.ndarray]  # sums of statistics (B, d) -> values (B,)
    statistics: dict[str, np.ndarray]  # model -> (n prompts, d)


def ratio(sums: np.ndarray) -> np.ndarray:
    """First column over second, NaN for 0/0: a mean, from sums and counts. (B, 2) -> (B,)."""
    return np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] != 0)


@torch.no_grad()
def response_statistics(model: GPT, reference: GPT, g: Generation) -> dict[str, list[float]]:
    """Per response, summed over its tokens, EOS included: kl (Rao-Blackwell), k1, k3, entropy.

    Under the models themselves, at temperature 1 and in float32; KL(model ‖ reference) of a model with
    itself is exactly 0.
    """
    logits = []
    for net in (model, reference):
        hidden, n = response_hidden(net, g)  # (N', C)
        logits.append(net.logits(hidden)[:n])  # (N, V)
    tokens = g.ids[g.mask]  # (N,)
    logp, ref = token_logprobs(logits[0], tokens), token_logprobs(logits[1], tokens)  # (N,)
    per_token = {"kl": exact_kl(*logits), "entropy": entropy(logits[0])}
    per_token |= {kind: kl_estimate(logp, ref, kind) for kind in ("k1", "k3")}
    return {name: spread(x, g.mask).sum(1).tolist() for name, x in per_token.items()}


def sample_items(
    model: GPT,
    reference: GPT,
    tokenizer: Tokenizer,
    records: Sequence[dict],
    reward_of: Callable[[dict], Reward] | None,
    max_new: int,
    samples: int,
    seed: int,
    chat: bool = True,
    missing_eos: float = 0.0,
    compared: GPT | None = None,
) -> list[dict]:
    """`samples` responses at temperature 1 and a greedy one (sample −1) to each record, with their scores.

    The random numbers are those of (seed, record, sample), the same for every model: a paired
    comparison then has less noise to fight. A response that did not end scores `missing_eos`.
    With `compared`, items also hold log_ratio, log compared − log reference of the response.
    """
    items = []
    wanted = [(i, k) for i in range(len(records)) for k in range(-1, samples)]
    prompts = [render_prompt(record, tokenizer, chat) for record in records]
    for greedy in (True, False):
        rows = sorted((w for w in wanted if (w[1] < 0) == greedy), key=lambda w: len(prompts[w[0]]))
        for start in range(0, len(rows), ROWS):
            part = rows[start : start + ROWS]
            seeds = [int(np.random.SeedSequence([seed, i, k + 1]).generate_state(1)[0]) for i, k in part]
            g = generate(
                model, [prompts[i] for i, _ in part], max_new, tokenizer.eos_id, seeds, 0.0 if greedy else 1.0
            )
            statistics = response_statistics(model, reference, g)
            if compared is not None:
                statistics["log_ratio"] = response_statistics(compared, reference, g)["k1"]
            reasons = g.stop_reasons(model.config.context)
            for row, ((i, k), ids) in enumerate(zip(part, g.responses())):
                record, text = records[i], tokenizer.decode(ids)
                item = {"index": i, "sample": k, "prompt": prompt_text(record), "response": text}
                item |= {"reference": reference_of(record), "stop": reasons[row]}
                item |= {"tokens": len(ids) + (reasons[row] == "eos"), "ids": ids}
                item |= {name: values[row] for name, values in statistics.items()}
                item["scores"] = scores_of(record, text, reasons[row] == "eos", reward_of, missing_eos)
                items.append(item)
    return sorted(items, key=lambda item: (item["index"], item["sample"]))


def scores_of(
    record: dict, text: str, ended: bool, reward_of: Callable[[dict], Reward] | None, missing_eos: float
) -> dict[str, float]:
    """The reward and the task's own quantities of one response; of one that never ended, missing_eos and 0."""
    scores: dict[str, float] = {}
    if reward_of is not None:
        reward = reward_of(record)
        scores["reward"] = call_reward(reward, prompt_text(record), text, record) if ended else missing_eos
    if (task := TASKS.get(record.get("task", ""))) is not None:
        own = task.score(prompt_text(record), text, record)
        scores |= {k: v if ended or k == "unparsable" else 0.0 for k, v in own.items()}
    return scores


@torch.no_grad()
def reference_nll(model: GPT, tokenizer: Tokenizer, records: Sequence[dict], chat: bool = True) -> np.ndarray:
    """(n, 3): for each record, − log p of its own response and EOS given the prompt; tokens; UTF-8 bytes.

    NaN where the record has no response or is longer than the context.
    """
    out = np.full((len(records), 3), np.nan)
    examples = [render(record, tokenizer, chat) for record in records]
    keep = [i for i, e in enumerate(examples) if fit_context([e], model.config.context)[0]]
    for part in micro_batches([len(examples[i].ids) for i in keep], 32):
        batch = collate([examples[keep[j]] for j in part], model.wte.weight.device, model.config.context)
        nll = spread(negative_log_likelihood(model, batch), batch.mask).double().sum(1).tolist()  # (B,)
        for j, value, n in zip(part, nll, batch.mask.sum(1).tolist()):
            said = "".join(m["content"] for m in messages_of(records[keep[j]]) if m["role"] == "assistant")
            out[keep[j]] = value, n, len(said.encode("utf-8", "surrogatepass"))
    return out


def metric_table(
    items: dict[str, list[dict]], nll: dict[str, np.ndarray], records: Sequence[dict], reward_name: str = ""
) -> list[Metric]:
    """The metrics of one set of prompts. items, nll: model -> what the functions above gave for `records`.

    reward_name: what the reward measures, to print beside the word.
    """
    n = len(records)
    sampled = {m: [x for x in rows if x["sample"] >= 0] for m, rows in items.items()}
    greedy = {m: [x for x in rows if x["sample"] < 0] for m, rows in items.items()}

    def mean(name: str, direction: int, value: Callable, rows: dict[str, list[dict]], per=None) -> Metric:
        pair = (lambda x: (value(x), 1)) if per is None else lambda x: (value(x), per(x))
        return Metric(name, direction, ratio, per_prompt(rows, n, pair))

    metrics = []
    for name in next(iter(sampled.values()))[0]["scores"]:
        shown = f"reward = {reward_name}" if name == "reward" and reward_name else name
        direction = -1 if name == "unparsable" else 1
        metrics.append(mean(shown, direction, lambda x, name=name: x["scores"][name], sampled))
        if name != "unparsable":
            metrics.append(mean(f"{name}, greedy", direction, lambda x, name=name: x["scores"][name], greedy))
    if all("label" in record for record in records):
        metrics += label_metrics(sampled, records)
    elif all(reference_of(record) for record in records) and records[0].get("task") in (None, "", "translation"):
        metrics += overlap_metrics(sampled, records)
    metrics += nll_metrics(nll, records)
    metrics += [
        mean("KL to reference, nats", 0, lambda x: x["kl"], sampled),
        mean("entropy, nats/token", 0, lambda x: x["entropy"], sampled, lambda x: x["tokens"]),
        mean("distinct-2 given the prompt", 0, lambda x: x["distinct"], with_distinct(sampled), lambda x: x["known"]),
        mean("length, tokens", 0, lambda x: x["tokens"], sampled),
        mean("ended with EOS", 1, lambda x: x["stop"] == "eos", sampled),
    ]
    return metrics


def per_prompt(
    rows: dict[str, list[dict]], n: int, statistic: Callable[[dict], Sequence[float]]
) -> dict[str, np.ndarray]:
    """model -> (n, d): the statistics of each prompt's responses, summed."""
    tables = {}
    for model, responses in rows.items():
        values = np.array([statistic(x) for x in responses], dtype=float)  # (responses, d)
        tables[model] = np.zeros((n, values.shape[1]))  # (n, d)
        np.add.at(tables[model], [x["index"] for x in responses], values)
    return tables


def with_distinct(rows: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """One row a prompt: distinct-2 over its samples, and whether they hold any bigram to be distinct.

    Diversity given the prompt is what RLHF lowers first (Kirk et al. 2024, section 4).
    """
    out: dict[str, list[dict]] = {}
    for model, responses in rows.items():
        by_prompt: dict[int, list[list[int]]] = {}
        for x in responses:
            by_prompt.setdefault(x["index"], []).append(x["ids"])
        out[model] = []
        for i, samples in by_prompt.items():
            known = any(len(ids) >= 2 for ids in samples)
            out[model].append({"index": i, "distinct": distinct_n(samples, 2) if known else 0.0, "known": known})
    return out


def label_metrics(rows: dict[str, list[dict]], records: Sequence[dict]) -> list[Metric]:
    """Macro-F1, and precision, recall and F1 of each class. What is no label is predicted as none."""
    labels = sorted({record["label"] for record in records})
    C = len(labels)

    def statistic(x: dict) -> np.ndarray:
        answer = x["response"].strip()
        predicted = answer if answer in labels and x["stop"] == "eos" else None
        return classification_statistics([records[x["index"]]["label"]], [predicted], labels)[0]  # (3C,)

    statistics = per_prompt(rows, len(records), statistic)
    metrics = [Metric("F1, macro", 1, macro_f1_from_statistics, statistics)]
    for c, label in enumerate(labels):
        metrics += [
            Metric(f"precision, {label}", 1, lambda s, c=c: ratio(s[:, [c, C + c]]), statistics),
            Metric(f"recall, {label}", 1, lambda s, c=c: ratio(s[:, [c, 2 * C + c]]), statistics),
            Metric(f"F1, {label}", 1, lambda s, c=c: f1_of_counts(*s[:, [c, C + c, 2 * C + c]].T), statistics),
        ]
    return metrics


def f1_of_counts(true_positive: np.ndarray, predicted: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """2 TP / (predicted + actual), NaN where a class neither occurs nor is predicted."""
    return ratio(np.column_stack([2 * true_positive, predicted + actual]))


def overlap_metrics(rows: dict[str, list[dict]], records: Sequence[dict]) -> list[Metric]:
    """Corpus BLEU, in the tokenisation that suits the references, and chrF, of all samples."""
    references = [reference_of(record) for record in records]
    tokenize = default_tokenizer(references)
    n = len(records)
    bleu = per_prompt(rows, n, lambda x: bleu_statistics(x["response"], [references[x["index"]]], tokenize))
    chrf = per_prompt(rows, n, lambda x: chrf_statistics(x["response"], [references[x["index"]]]))
    return [
        Metric(f"BLEU ({tokenize})", 1, bleu_from_statistics, bleu),
        Metric("chrF", 1, chrf_from_statistics, chrf),
    ]


def nll_metrics(nll: dict[str, np.ndarray], records: Sequence[dict]) -> list[Metric]:
    """Perplexity and bits per byte of the records' own responses, and for reviews nats beside the grammar's.

    RL raises them by design: they say how far a model has moved from the text it was shown.
    """
    known = ~np.isnan([table[:, 0] for table in nll.values()]).any(0)  # (n,) to every model
    if not known.any():
        return []
    tables = {model: np.where(known[:, None], table, 0.0) for model, table in nll.items()}
    metrics = [
        Metric("reference perplexity", -1, lambda s: perplexity(s[:, 0], s[:, 1]), tables),
        Metric("reference bits per byte", -1, lambda s: bits_per_byte(s[:, 0], s[:, 2]), tables),
    ]
    if all(record.get("task") == "reviews" for record in records):
        # On the same texts, so that their luck cancels: what is left is the cost of not being the grammar.
        exact = [-reviews.log_probability(r["response"], r["subject"]) for r in records]
        exact = np.where(known, exact, 0.0)  # (n,)
        H = float(np.mean([reviews.entropy(r["subject"]) for r, k in zip(records, known) if k]))
        count = known.astype(float)  # (n,)
        excess = {m: np.column_stack([t[:, 0] - exact, count]) for m, t in tables.items()}
        nats = {m: np.column_stack([t[:, 0], count]) for m, t in tables.items()}
        metrics.append(Metric("nats a text", -1, ratio, nats))
        metrics.append(Metric(f"above the grammar's {H:.2f}, %", -1, lambda s: 100 / H * ratio(s), excess))
    return metrics


def reference_optimum(items: Sequence[dict], beta: float, n: int) -> dict:
    """J* of n prompts from sampled items of the reference alone, with its 95 % interval, or no value if too few."""
    rewards = np.array([x["scores"]["reward"] for x in items])  # (N,)
    ones, top = np.ones(len(rewards)), rewards.max()
    size = effective_size(rewards, ones, beta)
    if size < LEAST:
        return {"effective_size": size, "value": None}
    lifted = [{"index": x["index"], "v": v} for x, v in zip(items, np.exp((rewards - top) / beta))]
    Z = per_prompt({"": lifted}, n, lambda x: (x["v"], 1))[""]  # (n, 2)
    low, high = corpus_interval(Z, lambda sums: top + beta * np.log(ratio(sums)))
    return {"effective_size": size, "value": optimal_objective(rewards, ones, beta), "low": low, "high": high}


def regret_metrics(
    items: dict[str, list[dict]], reference: str, policy: str, beta: float, n: int, known: dict | None = None
) -> tuple[list[Metric], dict]:
    """J = E r − β KL of every model, the share of (J* − J_ref) it reaches, and what is known of the optimum.

    J* is that of training, `known` of `Achieved.optimum`, or else rests on the sampled items of `reference` and
    `policy` together, which hold their log_ratio, as best-of-n does. The share is left out where J* rests on
    fewer than LEAST effective samples or leaves less to gain than a tenth of a nat of KL costs.
    """
    sampled = {m: [x for x in rows if x["sample"] >= 0] for m, rows in items.items()}
    pooled = sampled[reference] + sampled[policy]
    rewards, log_ratio = (np.array(x) for x in zip(*((x["scores"]["reward"], x["log_ratio"]) for x in pooled)))
    weights = mixture_weights(log_ratio, len(sampled[reference]) / len(pooled))  # (N,)
    top = rewards.max()
    v = weights * np.exp((rewards - top) / beta)  # (N,)
    lifted = [{"index": x["index"], "v": value} for x, value in zip(pooled, v)]
    J = per_prompt(sampled, n, lambda x: (x["scores"]["reward"] - beta * x["kl"], 1))  # (n, 2) each
    Z = per_prompt({"": lifted}, n, lambda x: (x["v"], 1))[""]  # (n, 2)

    optimum = dict(known) if known else {"effective_size": effective_size(rewards, weights, beta), "value": None}

    def J_star(sums: np.ndarray) -> np.ndarray:
        return np.full(len(sums), known["value"]) if known else top + beta * np.log(ratio(sums))

    def share(sums: np.ndarray) -> np.ndarray:
        own, ref, best = ratio(sums[:, :2]), ratio(sums[:, 2:4]), J_star(sums[:, 4:])
        return 100 * np.divide(own - ref, best - ref, out=np.full(len(sums), np.nan), where=best - ref > beta / 10)

    metrics = [Metric(f"J = reward - {beta:g} KL", 1, ratio, J)]
    if optimum["effective_size"] >= LEAST:
        if not known:
            low, high = corpus_interval(Z, J_star)
            optimum |= {"value": optimal_objective(rewards, weights, beta), "low": low, "high": high}
        metrics.append(Metric("share of J* - J(ref), %", 1, share, {m: np.hstack([J[m], J[reference], Z]) for m in J}))
    own = float(np.mean([x["scores"]["reward"] for x in sampled[policy]]))
    tokens = {m: float(np.mean([x["tokens"] for x in sampled[m]])) for m in (reference, policy)}
    optimum |= {"best_of": {str(k): best_of_n(rewards, weights, k) for k in (1, 2, 4, 8, 16, 32, 64, 128)}}
    return metrics, optimum | {"beta": beta, "reward": own, "worth": worth(own, rewards, weights), "tokens": tokens}
