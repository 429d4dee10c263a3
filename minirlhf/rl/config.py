"""The policy-gradient algorithms as one table of choices, a line each; and the options of reinforcement learning.

    algorithm           baseline       λ    loss sums by  ratio     KL to the reference
    reinforce           none           1    sum           none      k1 in the reward
    reinforce-baseline  value          1    sum           none      k1 in the reward
    a2c                 value          .95  token         none      k1 in the reward
    rloo                leave_one_out       sum           none      k1 in the reward
    grpo                group_std           sequence      clipped   k3 in the loss
    dr-grpo             group               constant      clipped   k3 in the loss
    dapo                group_std           token         clipped*  k3 in the loss
    ppo                 value, whiten  .95  token         clipped   k1 in the reward

* ε is .28 above 1. The papers of Dr. GRPO and DAPO set β to 0, as --beta 0 does. DAPO's dynamic sampling and
its shaping of overlong answers are not here. An algorithm is data: `algorithms.py` says what the choices do, and
`PPOConfig` what replaces them. Proved by tests/rl/test_config.py.
"""

import dataclasses
from dataclasses import dataclass

from minirlhf.harness.files import UserError
from minirlhf.harness.options import check_options, option

BASELINES = "none", "value", "leave_one_out", "group", "group_std"
CRITIC, GAE = "algorithm.baseline=value", "algorithm.baseline=none|algorithm.baseline=value"  # what options need


@dataclass(frozen=True)
class Algorithm:
    """The choices of one algorithm: how a reward becomes a gradient."""

    baseline: str  # what a reward is compared with
    aggregate: str  # how the loss sums tokens: `losses.token_weights`
    ratio: str = "none"  # none: ∇ log π;  clipped: PPO's surrogate
    kl_in: str = "reward"  # where the KL penalty stands
    kl: str = "k1"  # its estimator
    lam: float = 1.0  # GAE's λ, where the baseline is none or value
    whiten: bool = False  # of the advantages, over the round
    clip: float = 0.2  # ε
    clip_high: float = 0.2  # ε above 1
    value_clip: float = 0.2  # ε of the value function, where the baseline is value
    value_coefficient: float = 0.5  # c_v, the weight of its loss
    group: int = 1  # responses to each prompt


GROUP = {"ratio": "clipped", "kl_in": "loss", "kl": "k3", "group": 8}
ALGORITHMS = {
    "ppo": Algorithm("value", "token", ratio="clipped", lam=0.95, whiten=True),
    "reinforce": Algorithm("none", "sum"),
    "reinforce-baseline": Algorithm("value", "sum"),
    "a2c": Algorithm("value", "token", lam=0.95),
    "rloo": Algorithm("leave_one_out", "sum", group=8),
    "grpo": Algorithm("group_std", "sequence", **GROUP),
    "dr-grpo": Algorithm("group", "constant", **GROUP),
    "dapo": Algorithm("group_std", "token", clip_high=0.28, **GROUP),
}


def adapt_beta(beta: float, kl: float, target: float, horizon: float, n: int) -> float:
    """The KL coefficient after a batch of n responses with mean KL `kl` (nats per response).

        e = clip(kl / target − 1, −0.2, 0.2)        β ← β (1 + e n / horizon)

    n must be below 5 horizons, or β may turn negative and reward the KL: raises ValueError.
    Source: Ziegler et al. 2019, section 2.2, whose K_β = 0.1 is n / horizon in their code.
    """
    if n >= 5 * horizon:
        raise ValueError(f"{n} responses in a horizon of {horizon:g}: beta could turn negative")
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * n / horizon)


@dataclass(frozen=True)
class PPOConfig:
    """Reinforcement learning. The options from --baseline on replace choices of --algo."""

    algo: str = option("ppo", "which choices to begin with; an option below replaces each", choices=ALGORITHMS)
    iterations: int = option(90, "rounds of sampling and training", least=1)
    batch: int = option(128, "responses per round to each data set, times its weight", least=1, most=2**20)
    epochs: int = option(1, "times each response is trained on", least=1)
    minibatches: int = option(8, "optimizer steps per epoch, at most one per prompt", least=1)
    lr: float = option(6e-4, "peak learning rate; falls to 0 on a line", above=0)
    warmup: int = option(10, "rounds of rising learning rate, as Adam's first steps are of full size", least=0)
    beta: float = option(0.025, "KL coefficient: the reward that a nat of KL to the reference costs", least=0)
    kl_target: float = option(0.0, "nats per response; above 0, beta adapts to keep the KL there", least=0)
    kl_horizon: float = option(10_000.0, "responses in which beta can change by a fifth", above=0, needs="kl_target")
    gamma: float = option(1.0, "discount", least=0, most=1, needs=GAE)
    temperature: float = option(1.0, "of sampling; log-probs are those of that distribution", above=0)
    missing_eos: float = option(0.0, "score of a response that did not end with EOS")
    max_new: int = option(0, "longest response, in tokens; 0: what the task says, or 64", least=0)
    max_norm: float = option(1.0, "the gradient is clipped to this norm", above=0)
    micro_rows: int = option(64, "rows per forward pass of training: memory against speed, not the result", least=1)
    save_every: int = option(20, "rounds between saved states", least=1)

    baseline: str = option(None, "what a reward is compared with", choices=BASELINES)
    aggregate: str = option(None, "how the loss sums tokens", choices=("sum", "token", "sequence", "constant"))
    ratio: str = option(None, "of probabilities, now and when sampled", choices=("none", "clipped"))
    kl_in: str = option(None, "where the KL penalty stands", choices=("reward", "loss"), needs="beta")
    kl: str = option(None, "its estimator", choices=("k1", "k2", "k3"), needs="beta")
    lam: float = option(None, "GAE's λ", least=0, most=1, needs=f"{GAE} gamma")
    whiten: bool = option(None, "advantages of mean 0 and variance 1 over a round")
    clip: float = option(None, "PPO's ε for the probability ratio", least=0, needs="algorithm.ratio=clipped")
    clip_high: float = option(None, "ε above 1 (--clip; dapo .28)", least=0, needs="algorithm.ratio=clipped")
    value_clip: float = option(None, f"ε of the value loss (default: {Algorithm.value_clip})", least=0, needs=CRITIC)
    value_coefficient: float = option(None, f"weight (default: {Algorithm.value_coefficient})", least=0, needs=CRITIC)
    group: int = option(None, "responses to each prompt", least=1)

    def __post_init__(self) -> None:
        check_options(self)
        if self.kl_target > 0 and self.beta == 0:
            raise UserError(f"--kl-target {self.kl_target}: a beta of 0 stays 0; give a --beta to start from")
        if self.algorithm.kl_in == "loss" and self.algorithm.kl == "k1" and self.beta > 0:
            raise UserError("--kl k1 in the loss: its gradient is 0 on average, no penalty at all; take k2 or k3")
        baseline, group = self.algorithm.baseline, self.algorithm.group
        if baseline not in ("none", "value") and group < 2:
            raise UserError(f"--group {group}: baseline {baseline} compares at least 2 responses")

    def next_beta(self, beta: float, kl: float, n: int) -> float:
        """β after a round of n responses with mean KL `kl`. Raises UserError for one of five horizons or more."""
        try:
            return adapt_beta(beta, kl, self.kl_target, self.kl_horizon, n) if self.kl_target > 0 else beta
        except ValueError as error:
            raise UserError(f"--kl-horizon {self.kl_horizon:g}: {error}; give more than {n / 5:g}") from None

    @property
    def algorithm(self) -> Algorithm:
        """--algo with the choices made here instead of its own. A KL that moves gets the estimator that is right in its
        new place, k1 in the reward, k3 in the loss. An algorithm with one ε keeps one: --clip is --clip-high, too."""
        own = ALGORITHMS[self.algo]
        chosen = {f.name: x for f in dataclasses.fields(own) if (x := getattr(self, f.name)) is not None}
        if chosen.get("kl_in") in ("reward", "loss") and chosen["kl_in"] != own.kl_in:
            chosen = {"kl": {"reward": "k1", "loss": "k3"}[chosen["kl_in"]]} | chosen
        same = {"clip_high": self.clip} if self.clip is not None and own.clip == own.clip_high else {}
        return dataclasses.replace(own, **same | chosen)
