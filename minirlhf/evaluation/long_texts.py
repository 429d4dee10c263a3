"""Perplexity of texts longer than the context: a window that slides over them, and an n-gram model beside it.

    NLL = − Σ_t log p(x_t | x_{s(t)} … x_{t−1})        perplexity = exp(NLL / T)
    python evaluate.py --text novel.txt --models base=out/base sft=out/sft

s(t) is where the window that scores x_t begins. Every token is scored exactly once, behind at least context − stride
tokens, once the text has so many. Windows side by side (stride = context) overstate perplexity. Stride 1 costs one
pass per token. A perplexity means nothing without its window and stride, so a result names both.
Source: Press, Smith and Lewis 2021 (Shortformer), section 2. Proved by tests/evaluation/test_long_texts.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minirlhf.evaluation.ask import Policy
from minirlhf.harness.files import UserError
from minirlhf.lm.chat import Example, render
from minirlhf.lm.model import GPT
from minirlhf.lm.reading import read_again, read_records
from minirlhf.lm.sft import evaluate_loss
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.metrics.ngram import KneserNey, fit_ngram
from minirlhf.metrics.scores import bits_per_byte, perplexity
from minirlhf.tasks import TASKS

ORDER, LEARNT = 5, 20_000  # order of the n-gram model, and the most documents that it counts


@dataclass(frozen=True)
class TextScore:
    """What texts cost a model, for scores.perplexity(nll, tokens) and scores.bits_per_byte(nll, bytes)."""

    nll: float  # nats, summed over the tokens
    tokens: int  # scored: all of a text and the EOS that ends it
    bytes: int  # of the texts in UTF-8, lone surrogates included; the EOS has none
    window: int  # most tokens of context
    stride: int  # tokens that the window moves


def windows(n_tokens: int, context: int, stride: int) -> list[tuple[int, int, int]]:
    """Windows (start, first, end) over ids[0 … n_tokens], of which ids[0] (BOS) is context only.

    Each reads ids[start:end] and is scored on ids[first : end + 1]. The first window scores all that it predicts, each
    later one the next `stride` tokens, 1 to context, and reads the `context` tokens up to the last but one of them.
    """
    out, first = [], 1
    while first <= n_tokens:
        end = min(n_tokens, first + stride - 1 if out else context)
        out.append((max(0, end - context), first, end))
        first = end + 1
    return out


def document_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    """The ids of a text as pretraining sees it: EOS for the beginning, the text, EOS."""
    return render({"text": text}, tokenizer, chat=False).ids


def text_score(model: GPT, tokenizer: Tokenizer, texts: Sequence[str], stride: int) -> TextScore:
    """Score texts of any length under a GPT, through windows of its context."""
    examples, context = [], model.config.context
    for ids in (document_ids(text, tokenizer) for text in texts):
        for start, first, end in windows(len(ids) - 1, context, stride):
            examples.append(Example(ids[start : end + 1], [t >= first for t in range(start, end + 1)]))
    return TextScore(*evaluate_loss(model, examples), text_bytes(texts), context, stride)


def ngram_text_score(ngram: KneserNey, tokenizer: Tokenizer, texts: Sequence[str]) -> TextScore:
    """The same under an n-gram model: a window of n − 1 tokens that moves by one, on the same tokens."""
    logp = np.concatenate([ngram.log_prob(document_ids(text, tokenizer)[1:]) for text in texts])  # (T,)
    return TextScore(float(-logp.sum()), len(logp), text_bytes(texts), len(ngram.levels) - 1, 1)


def text_bytes(texts: Sequence[str]) -> int:
    """Their length in UTF-8."""
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)


def read_texts(paths: Sequence[str], names: str = "") -> list[str]:
    """The texts of some files, read as `read_records` does; says what is none. Raises UserError without any."""
    records = read_records(paths, names)
    texts = [record["text"] for record in records if record.get("text")]
    if 0 < len(texts) < len(records):
        print(f"--text: {len(records) - len(texts)} of {len(records)} records left out: no text")
    if not texts:
        raise UserError(f"--text {' '.join(paths)}: no text in it; --data is for prompts and responses")
    return texts


def texts_of_training(run: dict) -> list[str]:
    """The raw texts that a model was pretrained on, by its run.json; [] where they are unknown or gone."""
    data = run.get("data", {})
    texts = [t for name in run.get("tasks", {}) if name in TASKS
             for t in TASKS[name].documents(data.get("examples", 0), run.get("seed", 0))]  # fmt: skip
    return texts + [record["text"] for record in read_again(run) if record.get("text")]


def score_texts(texts: Sequence[str], models: dict[str, Policy], runs: dict, stride: int) -> dict[str, TextScore]:
    """name -> what all texts cost it; also an n-gram model. stride: 0 is half of each context. Raises UserError."""
    scores: dict[str, TextScore] = {}
    for name, policy in models.items():
        context = policy.model.config.context
        if stride > context:
            raise UserError(f"--stride {stride}: {name} has a context of {context} tokens; give at most that")
        scores[name] = text_score(policy.model, policy.tokenizer, texts, stride or max(1, context // 2))
    name, tokenizer = next((name, policy.tokenizer) for name, policy in models.items())
    if learnt := texts_of_training(runs[name])[:LEARNT]:
        ngram = fit_ngram([document_ids(text, tokenizer)[1:] for text in learnt], ORDER, tokenizer.vocab_size)
        scores[f"{ORDER}-gram"] = ngram_text_score(ngram, tokenizer, texts)
    return scores


def score_lines(scores: dict[str, TextScore]) -> list[str]:
    """The table for the terminal. Perplexity compares models of one tokenizer, bits per byte any models."""
    width = max(map(len, scores))
    head = f"{'':<{width}}{'tokens':>10}{'perplexity':>13}{'bits/byte':>12}{'window':>9}{'stride':>9}"
    return [head] + [
        f"{name:<{width}}{s.tokens:>10,}{perplexity(s.nll, s.tokens):>13.4g}{bits_per_byte(s.nll, s.bytes):>12.4f}"
        f"{s.window:>9}{s.stride:>9}"
        for name, s in scores.items()
    ]
