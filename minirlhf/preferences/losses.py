"""The losses of learning from comparisons: Bradley and Terry's likelihood, and DPO's reward of a policy.

    L = − p log σ(m) − (1 − p) log σ(−m),  m = r(chosen) − r(rejected)        r = β log π/ref        (DPO)

Proved by tests/preferences/test_losses.py and tests/theory/test_oracle.py.
"""

import torch.nn.functional as F
from torch import Tensor


def preference_loss(margins: Tensor, p: Tensor | float = 1.0) -> Tensor:
    """− p log σ(m) − (1 − p) log σ(−m), the mean: the likelihood of choices under Bradley and Terry's model.

    margins: (B,) m = r(chosen) − r(rejected); log 2 at m = 0.  p: probability that the chosen one is the better,
    in [0, 1]; its logit is where the loss is least.
    Source: Christiano et al. 2017, eq. 1; Ouyang et al. 2022, eq. 1.
    """
    return -(p * F.logsigmoid(margins) + (1 - p) * F.logsigmoid(-margins)).mean()


def implicit_reward(logprobs: Tensor, ref_logprobs: Tensor, beta: float) -> Tensor:
    """r = β log π/ref, the reward that π is the optimum of, but for a constant of the prompt: DPO's model of reward.

    Both (B,) log-probs of whole responses, EOS included, summed and not averaged over tokens. From π* ∝ ref exp(r / β)
    follows r = β log π*/ref + β log Z(x), and in the margin of two answers to a prompt Z drops out. So
    `preference_loss` of margins of it is a reward model's loss, and its minimiser the policy that PPO would look for.
    Source: Rafailov et al. 2023, eq. 5 to 7.
    """
    return beta * (logprobs - ref_logprobs)  # (B,)
