"""Perplexity of whole texts, longer than the context: every model, and an n-gram model, on the same tokens.

    python evaluate.py --text novel.txt --models base=out/base sft=out/sft

Proved by tests/test_texts.py.
"""

from collections.abc import Sequence
from pathlib import Path

from minirlhf.data import read_records
from minirlhf.files import UserError
from minirlhf.metrics import bits_per_byte, perplexity
from minirlhf.ngram import fit
from minirlhf.perplexity import TextScore, document, ngram_text_score, text_score
from minirlhf.tasks import TASKS

ORDER, LEARNT = 5, 20_000  # of the n-gram model, and the documents it counts at most


def read_texts(paths: Sequence[str]) -> list[str]:
    """The texts of .txt and .jsonl files. Raises UserError if there are none."""
    texts = [record["text"] for path in paths for record in read_records(path) if record.get("text")]
    if not texts:
        raise UserError(f"--text {' '.join(paths)}: no text in it; --data is for prompts and responses")
    return texts


def texts_of_training(run: dict) -> list[str]:
    """The raw text that a model was pretrained on, by its run.json; [] where that is not known or gone."""
    data = run.get("data", {})
    texts = [t for name in run.get("tasks", {}) if name in TASKS
             for t in TASKS[name].documents(data.get("examples", 0), run.get("seed", 0))]  # fmt: skip
    files = [path for path in data.get("data", ()) if Path(path).is_file()]
    return texts + [record["text"] for path in files for record in read_records(path) if record.get("text")]


def score_texts(texts: Sequence[str], models: dict, runs: dict[str, dict], stride: int) -> dict[str, TextScore]:
    """name -> the sum over all texts, for each model and for an n-gram model of what the first was pretrained on.

    models: name -> (model, tokenizer).  stride: 0 is half of each model's context. Raises UserError.
    """
    scores: dict[str, TextScore] = {}
    for name, (model, tokenizer) in models.items():
        context = model.config.context
        if stride > context:
            raise UserError(f"--stride {stride}: {name} has a context of {context} tokens; give at most that")
        step = stride or max(1, context // 2)
        scores[name] = total([text_score(model, tokenizer, text, step) for text in texts])
    name, (model, tokenizer) = next(iter(models.items()))
    if learnt := texts_of_training(runs[name])[:LEARNT]:
        ngram = fit([document(text, tokenizer)[1:] for text in learnt], ORDER, tokenizer.vocab_size)
        scores[f"{ORDER}-gram"] = total([ngram_text_score(ngram, tokenizer, text) for text in texts])
    return scores


def total(scores: Sequence[TextScore]) -> TextScore:
    """All texts together: sums of nats, tokens and bytes."""
    sums = (sum(getattr(s, key) for s in scores) for key in ("nll", "tokens", "bytes"))
    return TextScore(*sums, window=scores[0].window, stride=scores[0].stride)


def lines(scores: dict[str, TextScore]) -> list[str]:
    """The table for the terminal. Perplexity compares models of one tokenizer, bits per byte any."""
    width = max(map(len, scores))
    head = f"{'':<{width}}{'tokens':>10}{'perplexity':>13}{'bits/byte':>12}{'window':>9}{'stride':>9}"
    return [head] + [
        f"{name:<{width}}{s.tokens:>10,}{perplexity(s.nll, s.tokens):>13.4g}{bits_per_byte(s.nll, s.bytes):>12.4f}"
        f"{s.window:>9}{s.stride:>9}"
        for name, s in scores.items()
    ]
