"""Direct preference optimisation: RL's offline twin, from comparisons to a policy without a reward model.

    r(x, y) = β [log π(y|x) − log ref(y|x)]        π is the optimum of this reward, and of it + a constant of x
    L = − p log σ(r(x, chosen) − r(x, rejected)) − (1 − p) log σ(r(x, rejected) − r(x, chosen))

So a policy is trained like a reward model, by the loop of `train_reward.py`. It is measured like one, too: how well
its own r tells what was chosen. On exact preferences of a reward the minimiser is PPO's optimum π* ∝ ref exp(r/β):
see tests/theory/test_oracle.py. On samples it learns only of answers that someone has compared. What exceeds the
context is left out: without its question an answer teaches nothing. Command: tools/train_dpo.py.
Source: Rafailov et al. 2023, eq. 5 to 7. Proved by tests/preferences/test_dpo.py.
"""

from collections.abc import Sequence
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn

from minirlhf.harness.device import autocast
from minirlhf.lm.batches import collate, spread
from minirlhf.lm.chat import Example
from minirlhf.lm.model import GPT
from minirlhf.lm.sft import negative_log_likelihood


def implicit_reward(logprobs: Tensor, ref_logprobs: Tensor, beta: float) -> Tensor:
    """r = β log π/ref, up to a constant of the prompt, which cancels between two answers to it.

    Both (B,): log-probs of whole responses, EOS included, summed and not averaged over tokens.
    """
    return beta * (logprobs - ref_logprobs)  # (B,)


class ImplicitReward(nn.Module):
    """β log π/ref of responses. π is in training. ref is π as it was at first, outside of the parameters."""

    def __init__(self, policy: GPT, cue: Sequence[int], beta: float, reference: GPT | None = None) -> None:
        """cue: the ids before every response, with a special token, which no text can spell.  reference: or a copy."""
        super().__init__()
        self.trunk = policy
        self.cue, self.beta = list(cue), beta
        reference = reference or deepcopy(policy).eval().requires_grad_(False)
        self.reference_nll = partial(negative_log_likelihood, reference)  # no submodule: neither trained nor saved

    def forward(self, texts: Sequence[Sequence[int]], dtype: torch.dtype = torch.float32) -> Tensor:
        """The reward of each text, ids of prompt, response and EOS: (B,) float32.  dtype: of matrix products."""
        examples = []
        for ids in texts:
            n = len(self.cue)
            start = max(t for t in range(n - 1, len(ids)) if [*ids[t - n + 1 : t + 1]] == self.cue)
            examples.append(Example(list(ids), [t > start for t in range(len(ids))]))
        batch = collate(examples, self.trunk.wte.weight.device, self.trunk.config.context)
        with autocast(batch.inputs.device, dtype):
            logp = -negative_log_likelihood(self.trunk, batch)  # (N,)
            with torch.no_grad():
                ref = -self.reference_nll(batch)  # (N,)
        return implicit_reward(*(spread(x, batch.mask).sum(1) for x in (logp, ref)), self.beta)  # (B,)
