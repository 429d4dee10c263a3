"""The options of this wing: how a reward model is trained, and who the simulated people are (see `simulated.py`).

Proved by tests/preferences/test_simulated.py.
"""

from dataclasses import dataclass
from math import tanh

from minirlhf.harness.options import check_options, option


@dataclass(frozen=True)
class RewardConfig:
    """Training."""

    epochs: float = option(3.0, "passes over the prompts; more learn a thousand comparisons by heart", above=0)
    batch: int = option(32, "prompts in an optimizer step, with all comparisons of each", least=1, most=2**20)
    lr: float = option(5e-4, "peak learning rate; falls to a tenth on half a cosine", least=0)
    warmup: int = option(10, "steps of rising learning rate", least=0)
    weight_decay: float = option(0.01, "AdamW's, on matrices", least=0)
    max_norm: float = option(1.0, "the gradient is clipped to this norm", above=0)
    held_out: int = option(20, "percent of the prompts, on which the result is measured", least=0, most=99)
    micro_rows: int = option(32, "comparisons a forward pass: memory against speed, not the result", least=1)
    save_every: int = option(200, "steps between saved states", least=1)

    __post_init__ = check_options


@dataclass(frozen=True)
class Labeller:
    """The simulated people."""

    temperature: float = option(0.3, "a gold reward this much higher is chosen with odds of e to 1", above=0)
    length_bias: float = option(0.0, "log-odds for each character that a response is longer")
    position_bias: float = option(0.0, "log-odds for the response that is shown first, on the left")

    __post_init__ = check_options

    def prefers_first(self, gold_a: float, gold_b: float, length_a: int, length_b: int) -> float:
        """P(a is chosen) where a is shown first, by the law in `simulated.py`.  length: in characters."""
        logit = (gold_a - gold_b) / self.temperature + self.length_bias * (length_a - length_b) + self.position_bias
        return (1 + tanh(logit / 2)) / 2  # σ without overflow
