"""The options of evaluate.py."""

from dataclasses import dataclass

from minirlhf.harness.options import option


@dataclass(frozen=True)
class Evaluation:
    """Evaluation."""

    models: tuple[str, ...] = option(("base=out/base", "sft=out/sft", "ppo=out/ppo"), "name=folder of each model")
    reference: str = option("sft", "the model that the last is compared with, and the reference of the KL")
    task: str = option("", "generated tasks, a,b; none: those that the models were trained on")
    data: tuple[str, ...] = option((), "your own .jsonl files instead, with prompt and response, or label, or messages")
    metrics: str = option("", "what to measure, a,b: all, or of bleu, chrf, f1, ...; none: what suits the data")
    reward: str = option("", "your own reward, FILE.py:FUNCTION of (prompt, response, record), or model:DIR")
    beta: float = option(0.0, "KL coefficient of the objective J; 0: the one that the last was trained with", least=0)
    prompts: int = option(200, "held-out prompts of each test set", least=1)
    samples: int = option(4, "responses to each at temperature 1, besides the greedy one", least=1)
    reference_samples: int = option(0, "more of the reference to each, for J* where training did not know it", least=0)
    max_new: int = option(64, "longest response in tokens, for --data and --prompt", least=1)
    show: int = option(2, "samples to print of each test set, side by side", least=0)
    prompt: str = option("", "only print what each model answers to this")
    text: tuple[str, ...] = option((), "only perplexity and bits per byte of these .txt or .jsonl files, of any length")
    stride: int = option(0, "tokens that the window moves over --text; 0: half the context", least=0)
    from_: str = option("", "items.jsonl of an evaluation: make its report again, without the models")
    reports: tuple[str, ...] = option(
        (), "only compare these report.json: as training runs, if they are more than two, or two whose last model was "
        "trained with different seeds; else as old and new, item by item")  # fmt: skip
    out: str = option("out/eval", "folder for report.html, report.json and items.jsonl")
