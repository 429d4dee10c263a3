"""The options of the experiments."""

from dataclasses import dataclass

from minirlhf.harness.options import option
from minirlhf.lm.reading import MAP
from minirlhf.rl.config import ALGORITHMS
from minirlhf.tasks import TASKS

HELD_OUT = 20  # percent of a user's prompts that are held out where no --eval-prompts are given
# What GRPO does differently from the rest, undone one choice at a time.
UNDONE = "grpo:baseline=group", "grpo:kl=k2", "grpo:kl_in=reward"
BETAS = ("1", "0.3", "0.1", "0.03", "0.01", "0.003", "0")


@dataclass(frozen=True)
class StudyOptions:
    """Study."""

    task: str = option("reviews,arithmetic", "generated tasks, separated by commas; each is studied by itself")
    seeds: int = option(5, "seeds, each with its own data, models and prompts", least=1)
    labels: tuple[str, ...] = option(("100", "1000", "10000"), "numbers of labelled examples to train on")
    base_steps: int = option(250, "optimizer steps of pretraining", least=1)
    steps: int = option(700, "optimizer steps of SFT, at most 100 epochs; twice as many on arithmetic", least=1)
    lr: float = option(2e-3, "learning rate of SFT and of pretraining", above=0)
    rows: int = option(32, "rows per step of SFT and of pretraining", least=1)
    iterations: int = option(90, "rounds of PPO", least=1)
    batch: int = option(128, "responses per round; twice as many on arithmetic", least=1)
    ppo_lr: float = option(6e-4, "learning rate of PPO", above=0)
    prompts: int = option(200, "prompts in each test set", least=2)
    samples: int = option(8, "responses to each test prompt that is like those of training", least=2)
    width: int = option(128, "size of the model's embedding", least=1)
    workers: int = option(2, "worker processes, with one thread each", least=1)
    out: str = option("out/study", "folder for checkpoints with their results, study.md and figures")


@dataclass(frozen=True)
class OwnPrompts:
    """Your own prompts, with --reward."""

    prompts: tuple[str, ...] = option((), "your own files instead of a task, of prompts or conversations")
    eval_prompts: tuple[str, ...] = option(
        (), f"your files to judge on; none: {HELD_OUT} % of the prompts, by a hash of each", needs="prompts")
    map: str = option("", MAP, needs="prompts")
    max_new: int = option(64, "longest response to your prompts, in tokens", least=1, needs="prompts")


@dataclass(frozen=True)
class Comparison:
    """Comparison."""

    init: str = option("out/sft", "checkpoint folder: all start from it, and the KL is measured to it")
    task: str = option("reviews,arithmetic", "generated tasks a,b; each is compared by itself", needs="-prompts")
    algos: tuple[str, ...] = option((*ALGORITHMS, *UNDONE), "rows: ALGORITHM or ALGORITHM:CHOICE=VALUE,CHOICE=VALUE")
    against: str = option("", "the row that the others are compared with; none: the first")
    lrs: tuple[str, ...] = option(("4e-4", "8e-4"), "learning rates to choose from; of one, nothing is tuned")
    seeds: int = option(5, "runs per row, with the chosen learning rate", least=1)
    iterations: int = option(30, "rounds per run", least=1, needs="-cpu_seconds")
    cpu_seconds: float = option(0.0, "as many rounds per run as fit, by the cost of five; 0: --iterations", least=0)
    batch: int = option(128, "responses per round", least=1)
    beta: float = option(0.025, "KL coefficient: reward given up for a nat of KL", least=0)
    held_out: int = option(200, "held-out prompts to judge on, at most", least=2)
    samples: int = option(4, "responses per held-out prompt", least=1)
    reference_samples: int = option(100, "responses of the reference per held-out prompt, for J*", least=1)
    out: str = option("out/algorithms", "folder for NAME/*.json, one file per run, algorithms.NAME.md and figures")


@dataclass(frozen=True)
class Overoptimisation:
    """What is compared."""

    init: str = option("out/sft", "checkpoint folder of the reference, from which all else starts")
    task: str = option("reviews", "generated task, whose reward is gold", choices=TASKS, needs="-prompts")
    pairs: tuple[str, ...] = option(("250", "1000", "4000"), "numbers of comparisons, one per reward model")
    betas: tuple[str, ...] = option(BETAS, "of PPO: deviations of the learned reward given up for a nat of KL")
    temperature: float = option(0.1, "of the people: a gold reward this much higher is chosen with odds of e to 1")
    epochs: int = option(10, "passes of a reward model over its comparisons", least=1)
    iterations: int = option(60, "rounds of PPO", least=1)
    batch: int = option(128, "responses per round", least=1)
    held_out: int = option(100, "held-out prompts, at most", least=2)
    best_of: int = option(256, "samples of the reference per held-out prompt, for best-of-n up to that n", least=2)
    samples: int = option(8, "samples of a policy per held-out prompt", least=1)
    out: str = option("out/overoptimise", "folder for all that is made")
