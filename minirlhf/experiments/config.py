"""The options of the study of SFT and RL."""

from dataclasses import dataclass

from minirlhf.harness.options import option


@dataclass(frozen=True)
class StudyOptions:
    """Study."""

    task: str = option("reviews,arithmetic", "generated tasks, separated by commas; each is studied by itself")
    seeds: int = option(5, "seeds, each with its own data, models and prompts", least=1)
    labels: tuple[str, ...] = option(("100", "1000", "10000"), "numbers of labelled examples to train on")
    base_steps: int = option(250, "optimizer steps of pretraining", least=1)
    steps: int = option(700, "optimizer steps of SFT, at most 100 epochs; twice as many on arithmetic", least=1)
    lr: float = option(2e-3, "learning rate of SFT and of pretraining")
    rows: int = option(32, "rows per step of SFT and of pretraining", least=1)
    iterations: int = option(90, "rounds of PPO", least=1)
    batch: int = option(128, "responses per round; twice as many on arithmetic", least=1)
    ppo_lr: float = option(6e-4, "learning rate of PPO")
    prompts: int = option(200, "prompts in each test set", least=2)
    samples: int = option(8, "responses to each test prompt that is like those of training", least=2)
    width: int = option(128, "size of the model's embedding")
    workers: int = option(2, "worker processes, with one thread each", least=1)
    out: str = option("out/study", "folder for checkpoints with their results, study.md and figures")
