"""The options of an evaluation."""

from dataclasses import dataclass

from minirlhf.evaluation.catalogue import METRICS
from minirlhf.harness.options import option
from minirlhf.lm.reading import CHECK, MAP
from minirlhf.tasks import TASKS

START = "out/sft"  # what RL runs go on from, where no --models are given
SCORED = "reward|-data"  # what J needs: a user's own data have no reward of their own


@dataclass(frozen=True)
class Evaluation:
    """Evaluation."""

    models: tuple[str, ...] = option((), "name=PATH of each; none: out/base, out/sft and the RL in out/ from there")
    against: str = option("", "the model that the others are compared with; none: sft or the first; a last model of --reports")
    reference: str = option("", "the model that all KL and J are to; none: that which each was trained against")
    task: str = option("", f"a,b of {', '.join(TASKS)}; none: those trained on", needs="-data")
    data: tuple[str, ...] = option((), "your own files instead: prompts with response, label or reference")
    map: str = option("", MAP, needs="data|text")
    check_data: bool = option(False, CHECK, only="models task data map prompts max_new device threads seed")
    metrics: str = option("", f"a,b of all, {', '.join(METRICS)}; none: what suits the data")
    beta: float = option(0.0, "KL coefficient of J; 0: that which the last was trained with", least=0, needs=SCORED)
    prompts: int = option(200, "held-out prompts of each generated test set", least=1, most=10**6, needs="-data")
    samples: int = option(4, "responses to each at temperature 1, besides the greedy one", least=1)
    shots: int = option(0, "examples of training, with answers, in front of each prompt; drawn by the seed", least=0)
    shots_from: tuple[str, ...] = option((), "files of these; none: what the models were trained on", needs="shots")
    shots_for: tuple[str, ...] = option((), "names of the models that get them; none: all", needs="shots")
    missing_eos: float = option(0.0, "reward of a response that did not end with EOS", needs=SCORED)
    reference_samples: int = option(0, "more of the reference, where J* is not known", least=0, needs=SCORED)
    max_new: int = option(64, "longest response in tokens, for --data and --prompt", least=1, needs="data|prompt")
    score_dtype: str = option(
        "float32", "of matrix products for KL, entropy and losses; bfloat16 takes 0.7 of the time of a large model",
        choices=("float32", "bfloat16"))  # fmt: skip
    show: int = option(2, "samples to print of each test set, side by side", least=0)
    all: bool = option(False, "print every row of each test set and what they rest on, not the eight that say most")
    format: str = option("", "also write a table to cite", choices=("markdown", "latex", "csv"))
    prompt: str = option("", "only print what each model answers to this", only="models max_new device dtype threads")
    text: tuple[str, ...] = option(
        (), "only perplexity and bits per byte of these .txt or .jsonl files", only="models stride map device threads")
    stride: int = option(0, "tokens that the window moves over --text; 0: half the context", least=0, needs="text")
    from_: str = option("", "items.jsonl: make its report again, without the models",
                        only="metrics show all format out threads")
    reports: tuple[str, ...] = option(
        (), "only compare these report.json: as training runs, if they are more than two, or two whose last model was "
        "trained with different seeds; else as old and new, item by item; with --against paired by seed",
        only="threads against")  # fmt: skip
    out: str = option("out/eval", "folder for report.html, report.json and items.jsonl")
