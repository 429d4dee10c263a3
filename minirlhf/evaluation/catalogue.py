"""The metrics that an evaluation can be asked for, by name: from rewards to the repetition of 4-grams.

Each function makes its metrics from one set of prompts, or none where the data lack what it needs. METRICS lists
them. The scores of single answers are those of `metrics/scores.py` and `metrics/overlap.py`.
Proved by tests/evaluation/test_catalogue.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from minirlhf.evaluation.metric import LOWER, Items, Metric, View, ratio
from minirlhf.harness.files import UserError
from minirlhf.lm.records import label_of, references_of
from minirlhf.metrics.calibration import calibration_statistics, ece_from_statistics, ece_if_calibrated
from minirlhf.metrics.overlap import (
    bleu_from_statistics, bleu_signature, bleu_statistics, chrf_from_statistics, chrf_statistics, default_tokenizer,
    rouge,
)
from minirlhf.metrics.scores import (
    bits_per_byte, classification_statistics, distinct_n, duplicate_rate, expectation_adjusted_distinct,
    expected_best_of_n, macro_f1, micro_f1, perplexity, precision_recall_f1, self_bleu,
)
from minirlhf.tasks import entities, reviews, task_of, translation

Made = Callable[[View], list[Metric]]


def given(what: Callable[[View], object], make: Callable[..., list[Metric]]) -> Made:
    """The metrics made from what the data hold; none where they do not hold it."""
    return lambda view: make(view, found) if (found := what(view)) else []


def score_metrics(view: View) -> list[Metric]:
    """The reward and the task's own quantities, sampled and greedy."""
    metrics = []
    for name in next(iter(view.sampled.values()))[0]["scores"]:
        lower, own = name in LOWER, ":" in name or name == "reward" and not view.reward
        bounded = not own and name != "needless"  # that is a count; own is a reward of the user's, and has a colon
        shown = f"reward = {view.reward}" if name == "reward" and bounded else name
        value = lambda x, name=name: x["scores"][name]  # noqa: E731
        made = partial(view.mean, direction=-1 if lower else 1, value=value, bounded=bounded)
        metrics.append(made(shown, primary=name == "reward"))
        if name != "unparsable":
            metrics.append(made(f"{name}, greedy", rows=view.greedy))
    return metrics


def best_of_metrics(view: View) -> list[Metric]:
    """The best reward among k samples of a prompt, without bias. With rewards of 0 or 1 this is pass@k."""
    if "reward" not in next(iter(view.sampled.values()))[0]["scores"]:
        return []
    samples = 1 + max(x["sample"] for rows in view.sampled.values() for x in rows)

    def best_of(xs: list[dict], k: int) -> float:
        rewards = [x["scores"]["reward"] for x in xs]
        return expected_best_of_n(rewards, rewards, k)

    wanted = sorted({k for k in (2, 4, 8, 16, 32, 64) if k < samples} | {samples})
    return [view.mean_of_prompts(f"reward, best of {k}", 1, partial(best_of, k=k), bounded=bool(view.reward))
            for k in wanted]  # fmt: skip


def labels_of(view: View) -> list[str | None] | None:
    """The label of each record, None where it has none; None if no record has one."""
    labels = [label_of(record) for record in view.records]
    return labels if any(labels) else None


def labelled(view: View, right: list[str | None]) -> View:
    """The answers to what has a label, and the units of these prompts: of others nobody knows what is right."""
    known, unit = np.array([label is not None for label in right]), np.zeros_like(view.unit)
    unit[known] = np.unique(view.unit[known], return_inverse=True)[1]
    return replace(view, unit=unit, sampled={m: [x for x in xs if known[x["index"]]] for m, xs in view.sampled.items()})


def answer_of(item: dict) -> str:
    """What is compared with references and labels: the response, of a conversation the last answer."""
    return item.get("answer", item["response"])


def predicted(item: dict, names: Sequence[str]) -> str | None:
    """The label that an answer is, white space around it aside. None if it is no label, or did not end."""
    answer = answer_of(item).strip()
    return answer if answer in names and item["stop"] == "eos" else None


def accuracy(view: View, right: list[str | None]) -> list[Metric]:
    """How many answers are the right label, and how many are none of the labels that the test set has."""
    view = labelled(view, right)
    return [
        view.mean("accuracy", 1, lambda x: predicted(x, right) == right[x["index"]]),
        view.mean("no label", -1, lambda x: predicted(x, right) is None),
    ]


def f1_metrics(view: View, right: list[str | None]) -> list[Metric]:
    """F1 over classes, macro and micro, and precision, recall and F1 of each. An answer that is no label is wrong.
    It lowers recall, and adds no class to the average."""
    names = sorted({*right} - {None})
    statistics = labelled(view, right).sums(
        lambda x: classification_statistics(right[x["index"]], predicted(x, names), names)
    )  # (n, 3C) each
    return [Metric("F1, macro", 1, macro_f1, statistics), Metric("F1, micro", 1, micro_f1, statistics)] + [
        Metric(f"{kind}, {name}", 1, lambda s, i=i, c=c: precision_recall_f1(s)[i][:, c], statistics)
        for c, name in enumerate(names) for i, kind in enumerate(("precision", "recall", "F1"))
    ]  # fmt: skip


def entity_metrics(view: View, asked: bool) -> list[Metric]:
    """Precision, recall and F1 of the entities of all texts together."""
    statistics = view.sums(lambda x: entities.entity_counts(answer_of(x), view.records[x["index"]]["entities"]))
    return [Metric(f"entity {kind}", 1, lambda s, i=i: precision_recall_f1(s)[i][:, 0], statistics)
            for i, kind in enumerate(("precision", "recall", "F1, micro"))]  # fmt: skip


def references_of_all(view: View) -> list[list[str]] | None:
    """The texts that each answer is compared with, or None if a record has none."""
    references = [references_of(record) for record in view.records]
    return references if all(any(texts) for texts in references) else None


def exact(view: View, references: list[list[str]]) -> list[Metric]:
    """Exact match with one of the references, outer white space aside."""
    known = [{text.strip() for text in texts} for texts in references]
    return [view.mean("exact match", 1, lambda x: answer_of(x).strip() in known[x["index"]])]


def bleu(view: View, references: list[list[str]]) -> list[Metric]:
    """Corpus BLEU of all samples, in the tokenisation that suits the references."""
    tokenize = default_tokenizer([text for texts in references for text in texts])
    rows = view.sums(lambda x: bleu_statistics(answer_of(x), references[x["index"]], tokenize))
    return [Metric(f"BLEU ({tokenize})", 1, bleu_from_statistics, rows, note=bleu_signature(references, tokenize))]


def chrf(view: View, references: list[list[str]], word_order: int = 0) -> list[Metric]:
    """Corpus chrF of all samples; chrF++ with a word order of 2."""
    rows = view.sums(lambda x: chrf_statistics(answer_of(x), references[x["index"]], word_order))
    return [Metric("chrF++" if word_order else "chrF", 1, chrf_from_statistics, rows)]


def rouges(view: View, references: list[list[str]]) -> list[Metric]:
    """Mean F of ROUGE-1, 2, L and Lsum; in characters where the references are Chinese."""
    rows = {m: [{"index": x["index"]} | rouge(answer_of(x), references[x["index"]]) for x in xs]
            for m, xs in view.sampled.items()}  # fmt: skip
    names = [name for name in next(iter(rows.values()))[0] if name != "index"]
    return [view.mean(f"{name} F", 1, lambda x, name=name: x[name], rows) for name in names]


def known_texts(view: View) -> Items | None:
    """Each model's items of texts that fit every model's context: others cannot be compared. None without any."""
    known = [all(rows[i]["nll"] is not None for rows in view.texts.values()) for i in range(len(view.records))]
    return {m: [x for x in items if known[x["index"]]] for m, items in view.texts.items()} if any(known) else None


def nll(view: View, rows: Items) -> list[Metric]:
    """Perplexity and bits per byte of the records' own answers. For reviews also nats, per text and above the grammar.

    RL raises them by design: they say how far a model has moved from the text that it was shown.
    """
    tables = view.sums(lambda x: (x["nll"], x["tokens"], x["bytes"]), rows)
    metrics = [
        Metric("reference perplexity", -1, lambda s: perplexity(s[:, 0], s[:, 1]), tables, "drift"),
        Metric("reference bits per byte", -1, lambda s: bits_per_byte(s[:, 0], s[:, 2]), tables, "drift"),
    ]
    if all(task_of(record) is reviews for record in view.records):
        # Both on the same texts, whose luck cancels. What is left is the cost of not being the grammar.
        exact = [-reviews.log_probability(r["response"], r["subject"]) for r in view.records]
        H = float(np.mean([reviews.entropy_of(view.records[x["index"]]["subject"]) for x in next(iter(rows.values()))]))
        above = view.mean(f"above entropy {H:.2f}, %", -1, lambda x: x["nll"] - exact[x["index"]], rows, group="drift")
        metrics.append(view.mean("nats per text", -1, lambda x: x["nll"], rows, group="drift"))
        metrics.append(Metric(above.name, -1, lambda s: 100 / H * ratio(s), above.statistics, "drift"))
    return metrics


def calibration_metrics(view: View, rows: Items) -> list[Metric]:
    """Expected calibration error of the next token, over the records' own answers. Also what is left of it at one
    temperature T per model, which was fitted on other texts."""
    def error(name: str, confidence: str, note: str = "") -> Metric:
        tables = view.sums(lambda x: calibration_statistics(x[confidence], x["correct"]), rows)
        floor = {m: float(ece_if_calibrated([p for x in texts for p in x[confidence]], n_simulations=200).mean())
                 for m, texts in rows.items()}  # fmt: skip
        return Metric(name, -1, ece_from_statistics, tables, "calibration", note=note, floor=floor)

    metrics = [error("calibration error", "confidence")]
    if view.temperatures:
        fitted = ", ".join(f"{T:.3f} {model}" for model, T in view.temperatures.items())
        metrics.append(error("calibration error at T", "tempered", f"T, fitted on validation texts: {fitted}"))
    return metrics


def brier(view: View, rows: Items) -> list[Metric]:
    """Brier score of the next token's confidence, over the records' own answers: mean of (confidence − right)²."""
    def squares(x: dict) -> float:
        return sum((p - y) ** 2 for p, y in zip(x["confidence"], x["correct"]))

    return [view.mean("Brier score", -1, squares, rows, lambda x: len(x["confidence"]), group="calibration")]


def kl_metrics(view: View) -> list[Metric]:
    """KL to the reference, exact at each sampled position (Rao-Blackwell), summed over the response."""
    return [view.mean("KL to reference, nats", 0, lambda x: x["kl"], group="drift", fixed=view.reference)]


def surprise(view: View) -> list[Metric]:
    """Perplexity of a model's answers under the reference, exact at each sampled position: exp of (KL + entropy)."""
    tables = view.sums(lambda x: (x["kl"] + x["entropy"], x["tokens"]))
    return [Metric("perplexity under ref", 0, lambda s: perplexity(s[:, 0], s[:, 1]), tables, "drift")]


def estimates(view: View) -> list[Metric]:
    """The same KL by the k1 and k3 estimators, as a check."""
    return [view.mean(f"KL by {k}, nats", 0, lambda x: x[k], group="drift", fixed=view.reference) for k in ("k1", "k3")]


def diversity(name: str, value: Callable[[list[list[int]], list[str], int], float]) -> Made:
    """Diversity of a prompt's samples, averaged over prompts. RLHF lowers it (Kirk et al. 2024, section 6.2).

    value: a function of the ids of a prompt's samples, their texts, and the size of the vocabulary.
    """
    return lambda view: [view.mean_of_prompts(
        name, 0, lambda xs: value([x["ids"] for x in xs], [x["response"] for x in xs], view.vocabulary),
        group="diversity",
    )]  # fmt: skip


def repetition(view: View) -> list[Metric]:
    """Share of repeated 4-grams within one answer, 1 − unique / all (Welleck et al. 2020)."""
    rows = {m: [x for x in xs if len(x["ids"]) >= 4] for m, xs in view.sampled.items()}
    if not all(rows.values()):
        return []
    return [view.mean("repeated 4-grams", 0, lambda x: 1 - distinct_n([x["ids"]], 4), rows, group="diversity")]


def length_metrics(view: View) -> list[Metric]:
    """Mean length, and the share of answers that ended by themselves."""
    return [view.mean("length, tokens", 0, lambda x: x["tokens"], group="diversity"),
            view.mean("ended with EOS", 1, lambda x: x["stop"] == "eos")]  # fmt: skip


# name -> what makes it, and what it needs of the data. Those of DEFAULT are taken where the data allow.
METRICS: dict[str, tuple[Made, str]] = {
    "reward": (score_metrics, "a reward or a generated task"),  # and what else the task scores
    "best": (best_of_metrics, "a reward"),
    "accuracy": (given(labels_of, accuracy), "a label in some records"),
    "f1": (given(labels_of, f1_metrics), "a label in some records"),
    "entities": (given(lambda view: all(task_of(r) is entities for r in view.records), entity_metrics), "records of the task entities"),
    "exact": (given(references_of_all, exact), "a response or reference in each record"),
    "bleu": (given(references_of_all, bleu), "a response or reference in each record"),
    "chrf": (given(references_of_all, chrf), "a response or reference in each record"),
    "chrf++": (given(references_of_all, partial(chrf, word_order=2)), "a response or reference in each record"),
    "rouge": (given(references_of_all, rouges), "a response or reference in each record"),
    "perplexity": (given(known_texts, nll), "a response in each record"),
    "calibration": (given(known_texts, calibration_metrics), "a response in each record"),
    "brier": (given(known_texts, brier), "a response in each record"),
    "kl": (kl_metrics, "prompts"),
    "estimates": (estimates, "prompts"),
    "surprise": (surprise, "prompts"),
    "entropy": (lambda view: [view.mean(  # of the model's own distribution at each token it wrote
        "entropy, nats/token", 0, lambda x: x["entropy"], None, lambda x: x["tokens"], group="diversity")], "prompts"),
    "distinct": (diversity("distinct-2 per prompt", lambda ids, *_: distinct_n(ids, 2)), "prompts"),
    "adjusted": (diversity(  # longer answers do not lower it
        "adjusted distinct-1", lambda ids, _, V: expectation_adjusted_distinct(ids, 1, V)), "prompts"),  # fmt: skip
    "self-bleu": (diversity("self-BLEU per prompt", lambda _, texts, V: self_bleu(texts)), "prompts"),
    "duplicates": (diversity("duplicates per prompt", lambda _, texts, V: duplicate_rate(texts)), "prompts"),
    "repetition": (repetition, "answers of four tokens or more"),
    "length": (length_metrics, "prompts"),
}
DEFAULT = ("reward", "f1", "entities", "perplexity", "calibration", "kl", "entropy", "distinct", "self-bleu", "length")
ALSO = {"scores": "reward", "ppl": "perplexity", "ece": "calibration", "exact-match": "exact", "distinct-2": "distinct"}


def metric_names(words: str) -> list[str]:
    """"BLEU, scores" -> ["bleu", "reward"]. Raises UserError for an unknown name."""
    names = [ALSO.get(word, word) for x in words.split(",") if (word := x.strip().lower().replace("_", "-"))]
    if unknown := [name for name in names if name not in (*METRICS, "all")]:
        raise UserError(f"--metrics {unknown[0]}: there are all, {', '.join(METRICS)}")
    return names


def metric_table(view: View, names: Sequence[str] = ()) -> list[Metric]:
    """The metrics of one set: those named, "all" that apply, or a default. Raises UserError for one that cannot be."""
    if names and "all" not in names:
        made = {name: METRICS[name][0](view) for name in names}
        if missing := [name for name, metrics in made.items() if not metrics]:
            raise UserError(f"--metrics {missing[0]} needs {METRICS[missing[0]][1]}")
        return [metric for metrics in made.values() for metric in metrics]
    chosen = list(METRICS if names else DEFAULT)
    if not names:
        task = task_of(view.records[0])
        chosen[1:1] = [] if task else ["accuracy"]
        if task in (None, translation) and labels_of(view) is None:
            chosen[1:1] = ["bleu", "chrf"]  # elsewhere many answers are right, and the reward knows them
    return [metric for name in chosen for metric in METRICS[name][0](view)]
