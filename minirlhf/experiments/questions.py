"""What the models of the study of SFT and RL are asked, and what is kept of each prompt.

    test              prompts like those of training
    reworded          the same questions in words that no prompt of training has
    held-out range    arithmetic: operands never seen in that place
    held-out words    reviews: subjects of words never seen in that place, nor beside that noun

The measures are metrics of an evaluation (`evaluation/catalogue.py`). Their statistics are kept for every prompt.
Proved by tests/tools/test_sft_against_rl.py.
"""

import random
from dataclasses import replace

import numpy as np

from minirlhf.evaluation.ask import Policy, Protocol, sample_items, text_items
from minirlhf.evaluation.catalogue import diversity, metric_table
from minirlhf.evaluation.items import TestSet
from minirlhf.evaluation.metric import view_of
from minirlhf.metrics.scores import duplicate_rate, expectation_adjusted_distinct
from minirlhf.tasks import TASKS, reviews, reward_of_task

OUTSIDE_SAMPLES = 4  # on prompts unlike those of training
PROSE = ("reviews",)  # tasks whose answers have many words, and do not all earn the same


def held_out_words(record: dict, rng: random.Random) -> dict:
    """The record with a new subject and response. Two words before its noun are kinds of other domains alone.

    In training the first word is a size, and a kind stands only with the nouns of its domain.
    """
    noun = record["subject"].rpartition(" ")[2]
    own = reviews.DOMAINS[reviews.domain_of(noun)].kinds.split()
    others = sorted({kind for domain in reviews.DOMAINS.values() for kind in domain.kinds.split()} - {*own})
    subject = f"{' '.join(rng.sample(others, 2))} {noun}"
    text = reviews.sample_review(subject, rng)[0]
    return record | {"subject": subject, "prompt": f"review of the {subject}:", "response": text}


def question_sets(task: str, n: int, seed: int) -> dict[str, list[dict]]:
    """name -> records. Each seed has its own prompts, so that seeds repeat the whole experiment."""
    sets = {"test": TASKS[task].records("test", n, seed)}
    if task == "arithmetic":
        sets["held-out range"] = TASKS[task].records("test_range", n, seed)
        sets["reworded"] = [r | {"prompt": r["prompt"].replace("+", " + ").replace("=", " =")} for r in sets["test"]]
    if task == "reviews":
        rng = random.Random(f"study {seed}")
        sets["held-out words"] = [held_out_words(r, rng) for r in sets["test"]]
        sets["reworded"] = [r | {"prompt": f"review of the {r['subject']}."} for r in sets["test"]]
    return sets


def measure_model(
    policy: Policy, reference: Policy, task: str, sets: dict[str, list[dict]], samples: int, best_of: int, seed: int
) -> dict[str, dict[str, list]]:
    """Set of prompts -> measure -> its statistics, one row per prompt, as in `metric.Metric`.

    reference: the KL is measured to it.  best_of: samples per test prompt, where this is more than `samples`.
    """
    out = {}
    for name, records in sets.items():
        inside = name == "test"
        drawn = max(samples, best_of) if inside else min(OUTSIDE_SAMPLES, samples)
        protocol = Protocol(reward_of_task, TASKS[task].MAX_NEW, drawn, seed)
        items = sample_items(policy, reference, records, protocol)
        texts = text_items(policy, records) if inside else []
        view = view_of(TestSet(name, records, {"": items}, {"": texts}), policy.tokenizer.vocab_size)
        view = replace(view, unit=np.arange(len(records)))
        metrics = metric_table(view, ["reward", "best"] if best_of and inside else ["reward"])
        if inside:  # with equally many samples for every model, or diversity is not comparable
            few = replace(view, sampled={"": [x for x in view.sampled[""] if x["sample"] < samples]})
            metrics += metric_table(few, ["kl", "length", "entropy", "perplexity", "calibration"])
            metrics += diversity("distinct answers", lambda ids, texts, V: 1 - duplicate_rate(texts))(few)
            if task in PROSE:
                metrics += metric_table(few, ["distinct", "self-bleu"])
                metrics += diversity("EAD-2", lambda ids, texts, V: expectation_adjusted_distinct(ids, 2, V))(few)
        out[name] = {m.name: m.statistics[""].tolist() for m in metrics}
    return out
