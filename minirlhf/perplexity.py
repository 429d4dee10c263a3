"""Perplexity of texts longer than the context: a window that slides over them, and n-grams beside it.

    NLL = − Σ_t log p(x_t | x_{s(t)} … x_{t−1})        perplexity = exp(NLL / T)

s(t) is where the window that scores x_t begins. Every token is scored exactly once, and with at least
context − stride tokens before it once the text has so many: windows side by side (stride = context) show
the first tokens of each no context and overstate perplexity, stride 1 shows all there can be and costs a
pass per token. Neither number means anything without the other two, so a result names its window and
stride. Source: Press, Smith and Lewis 2021, section 2. Proved by tests/test_perplexity.py.
"""

from dataclasses import dataclass

from minirlhf.data import Example
from minirlhf.model import GPT
from minirlhf.ngram import KneserNey
from minirlhf.sft import evaluate_loss
from minirlhf.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextScore:
    """What a text costs: for metrics.perplexity(nll, tokens) and metrics.bits_per_byte(nll, bytes)."""

    nll: float  # nats, summed over the tokens
    tokens: int  # scored: all of the text and the EOS that ends it
    bytes: int  # of the text in UTF-8; the EOS has none
    window: int  # tokens of context at the most
    stride: int  # tokens that the window moves


def windows(n_tokens: int, context: int, stride: int) -> list[tuple[int, int, int]]:
    """Windows (start, first, end) over ids[0 … n_tokens], of which ids[0] (BOS) is context only.

    Each reads ids[start:end] and is scored on ids[first : end + 1]; the scored ranges follow one another
    and make up 1 … n_tokens. The first window scores all that it predicts, each later one the next `stride`
    tokens; it reads `context` tokens up to the last but one of them, so the last window is full as well.
    Raises ValueError unless 1 <= stride <= context.
    """
    if not 1 <= stride <= context:
        raise ValueError(f"a stride must be from 1 to the context of {context}, not {stride}")
    out, first = [], 1
    while first <= n_tokens:
        end = min(n_tokens, first + stride - 1 if out else context)
        out.append((max(0, end - context), first, end))
        first = end + 1
    return out


def document(text: str, tokenizer: Tokenizer) -> list[int]:
    """The ids of a text as pretraining sees it: EOS, which stands for the beginning, the text, EOS."""
    return [tokenizer.eos_id, *tokenizer.encode(text), tokenizer.eos_id]


def text_score(model: GPT, tokenizer: Tokenizer, text: str, stride: int, micro_rows: int = 32) -> TextScore:
    """Score a text of any length under a GPT, which reads it through windows of its own context.

    The first token is conditioned on EOS, as in pretraining. A text that fits the context is one window,
    whatever the stride: then this is sft.evaluate_loss of the document. Raises ValueError as `windows` does.
    """
    ids, context = document(text, tokenizer), model.config.context
    examples = []
    for start, first, end in windows(len(ids) - 1, context, stride):
        examples.append(Example(ids[start : end + 1], [t >= first for t in range(start, end + 1)]))
    nll, tokens = evaluate_loss(model, examples, micro_rows)
    return TextScore(nll, tokens, text_bytes(text), context, stride)


def ngram_text_score(ngram: KneserNey, tokenizer: Tokenizer, text: str) -> TextScore:
    """The same under an n-gram model: a window of n − 1 tokens that moves by one, on the same tokens."""
    logp = ngram.log_prob(document(text, tokenizer)[1:])  # (T,)
    return TextScore(float(-logp.sum()), len(logp), text_bytes(text), len(ngram.levels) - 1, 1)


def text_bytes(text: str) -> int:
    """Its length in UTF-8, also where a surrogate stands alone."""
    return len(text.encode("utf-8", "surrogatepass"))
