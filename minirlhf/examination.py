"""What the models of the study of SFT and RL are asked, and what is written down of each prompt.

    test              prompts like those of training
    reworded          the same questions in words that no prompt of training has
    held-out range    arithmetic: operands never seen in that place
    held-out words    reviews: subjects of words never seen in that place, nor beside that noun

A set's part of a line of results is quantity -> one value a prompt, so that every number can be rebuilt from it.
Proved by tests/test_study.py.
"""

import random
from collections.abc import Sequence

import torch

from minirlhf.data import collate, gather_true, micro_batches, render
from minirlhf.evaluation import reference_nll, sample_items
from minirlhf.metrics import distinct_n, expectation_adjusted_distinct, self_bleu
from minirlhf.model import GPT
from minirlhf.sources import reward_of_task
from minirlhf.tasks import TASKS, reviews
from minirlhf.tokenizer import Tokenizer

OUTSIDE_SAMPLES = 4  # on prompts unlike those of training
PROSE = ("reviews",)  # tasks with answers of many words, of which some earn more than others


def held_out_words(record: dict, rng: random.Random) -> dict:
    """The review's subject with two words before its noun that are kinds of other domains alone.

    In training a first word is a size, and a kind stands only with the nouns of its domain.
    """
    noun = record["subject"].rpartition(" ")[2]
    domains = reviews.GRAMMAR.domains
    own = domains[reviews.domain_of(noun)].kinds.split()
    others = sorted({kind for domain in domains.values() for kind in domain.kinds.split()} - {*own})
    subject = f"{' '.join(rng.sample(others, 2))} {noun}"
    text = reviews.sample(subject, rng)[0]
    return record | {"subject": subject, "prompt": f"review of the {subject}:", "response": text}


def test_sets(task: str, n: int, seed: int) -> dict[str, list[dict]]:
    """name -> records. The prompts of a seed are its own, so that seeds are replications of the whole experiment."""
    sets = {"test": TASKS[task].records("test", n, seed)}
    if task == "arithmetic":
        sets["held-out range"] = TASKS[task].records("test_range", n, seed)
        sets["reworded"] = [r | {"prompt": r["prompt"].replace("+", " + ").replace("=", " =")} for r in sets["test"]]
    if task == "reviews":
        rng = random.Random(f"study {seed}")
        sets["held-out words"] = [held_out_words(r, rng) for r in sets["test"]]
        sets["reworded"] = [r | {"prompt": f"review of the {r['subject']}."} for r in sets["test"]]
    return sets


def judge(
    model: GPT,
    reference: GPT,
    tokenizer: Tokenizer,
    task: str,
    sets: dict[str, list[dict]],
    samples: int,
    best_of: int,
    seed: int,
    chat: bool,
) -> dict[str, dict[str, list]]:
    """Set of prompts -> quantity -> one value a prompt, None where it is not defined.

    reference: what the KL is to.  best_of: so many samples of the test set where they are more than `samples`.
    chat: as in `data.render`.
    """
    out = {}
    for name, records in sets.items():
        inside = name == "test"
        k = samples if inside else min(OUTSIDE_SAMPLES, samples)
        drawn = max(k, best_of) if inside else k
        items = sample_items(
            model, reference, tokenizer, records, reward_of_task, TASKS[task].MAX_NEW, drawn, seed, chat
        )
        rows: list[list[dict]] = [[] for _ in records]
        for item in items:
            rows[item["index"]].append(item)  # the greedy one first
        out[name] = {
            "rewards": [[round(x["scores"]["reward"], 6) for x in row[1:]] for row in rows],
            "greedy": [row[0]["scores"]["reward"] for row in rows],
        }
        if inside:  # of as many samples of every model, or diversity is not comparable
            out[name] |= quantities([row[1 : 1 + k] for row in rows], tokenizer, task)
            nll = reference_nll(model, tokenizer, records, chat)  # (n, 3)
            out[name] |= {"nll": nll[:, 0].round(5).tolist(), "nll_tokens": nll[:, 1].tolist()}
            out[name] |= confidences(model, tokenizer, records, chat)
    return out


def quantities(drawn: list[list[dict]], tokenizer: Tokenizer, task: str) -> dict[str, list]:
    """Drift and diversity of the samples of each prompt."""
    part: dict[str, list] = {key: [sum(x[key] for x in row) for row in drawn] for key in ("entropy", "tokens")}
    part["kl"] = [sum(x["kl"] for x in row) / len(row) for row in drawn]
    part["length"] = [sum(x["tokens"] for x in row) / len(row) for row in drawn]
    part["distinct"] = [len({x["response"] for x in row}) / len(row) for row in drawn]
    ids = [[x["ids"] for x in row] for row in drawn]
    prose = task in PROSE
    known = [prose and any(len(x) > 1 for x in row) for row in ids]
    part["distinct2"] = [float(distinct_n(row, 2)) if ok else None for row, ok in zip(ids, known)]
    V = tokenizer.vocab_size
    part["ead2"] = [float(expectation_adjusted_distinct(x, 2, V)) if ok else None for x, ok in zip(ids, known)]
    part["self_bleu"] = [float(self_bleu([x["response"] for x in row])) if prose else None for row in drawn]
    return part


@torch.no_grad()
def confidences(
    model: GPT, tokenizer: Tokenizer, records: Sequence[dict], chat: bool
) -> dict[str, list]:
    """On each token of each record's own response: the highest probability, and whether it was right."""
    examples = [render(r, tokenizer, chat) for r in records]
    confidence: list[list[float]] = [[] for _ in records]
    correct: list[list[int]] = [[] for _ in records]
    for index in micro_batches([len(e.ids) for e in examples], 32):
        batch = collate([examples[i] for i in index], model.wte.weight.device, model.config.context)
        hidden, n = gather_true(model(batch.inputs), batch.mask)  # (N', C)
        highest, token = model.logits(hidden)[:n].float().softmax(-1).max(-1)  # (N,) each
        lengths = batch.mask.sum(1).tolist()
        hits = (token == batch.targets[batch.mask]).long()  # (N,)
        for i, p, hit in zip(index, highest.split(lengths), hits.split(lengths)):
            confidence[i], correct[i] = [round(x, 4) for x in p.tolist()], hit.tolist()
    return {"confidence": confidence, "correct": correct}
