"""Direct preference optimisation: RL's offline twin, from comparisons to a policy without a reward model.

    r(x, y) = β [log π(y|x) − log ref(y|x)]        the reward, but for a constant of x, that π is the optimum of
    L = − p log σ(r(x, chosen) − r(x, rejected)) − (1 − p) log σ(r(x, rejected) − r(x, chosen))

So a policy is trained as a reward model is, by the loop of `reward_model.py`, and measured as one: how well its
own r tells what was chosen. On exact preferences of a reward the minimiser is PPO's optimum π* ∝ ref exp(r/β),
which tests/test_oracle.py shows; on samples it learns only of answers that someone has compared. What exceeds
the context is left out: without its question an answer teaches nothing.

    python -m minirlhf.dpo --data prefs.jsonl --init out/sft --out out/dpo

Source: Rafailov et al. 2023, eq. 7. Proved by tests/test_dpo.py.
"""

import dataclasses
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from minirlhf import checkpoint
from minirlhf.algos import implicit_reward
from minirlhf.data import Example, collate
from minirlhf.learned_reward import rewards_of
from minirlhf.loop import Run
from minirlhf.model import GPT
from minirlhf.preferences import comparisons
from minirlhf.reward_model import RewardConfig, fit, measure, summary
from minirlhf.rollout import spread
from minirlhf.runtime import Machine, autocast, environment, option, parse, run_script
from minirlhf.sft import negative_log_likelihood
from minirlhf.sources import data_hash


class ImplicitReward(nn.Module):
    """β log π/ref of responses, with π in training and ref as π was at first, outside of the parameters."""

    def __init__(self, policy: GPT, cue: int, beta: float) -> None:
        """cue: the id that stands before every response, <|assistant|>, which no text can hold."""
        super().__init__()
        self.trunk = policy
        self.cue, self.beta = cue, beta
        self.frozen = (deepcopy(policy).eval().requires_grad_(False),)  # a tuple hides it from parameters()

    def forward(self, texts: Sequence[Sequence[int]], dtype: torch.dtype = torch.float32) -> Tensor:
        """The reward of each text, ids of prompt, response and EOS: (B,) float32.  dtype: of matrix products."""
        examples = []
        for ids in texts:
            start = max(t for t, token in enumerate(ids) if token == self.cue)
            examples.append(Example(list(ids), [t > start for t in range(len(ids))]))
        batch = collate(examples, self.trunk.wte.weight.device, self.trunk.config.context)
        with autocast(batch.inputs.device, dtype):
            logp = -negative_log_likelihood(self.trunk, batch)  # (N,)
            with torch.no_grad():
                ref = -negative_log_likelihood(self.frozen[0], batch)  # (N,)
        return implicit_reward(*(spread(x, batch.mask).sum(1) for x in (logp, ref)), self.beta)  # (B,)


@dataclass(frozen=True)
class Options:
    """Data and objective."""

    data: tuple[str, ...] = option((), ".jsonl files of prompt, chosen and rejected, perhaps p")
    init: str = option("out/sft", "checkpoint to start from, and the reference")
    out: str = option("out/dpo", "checkpoint folder to write")
    beta: float = option(0.1, "nats of KL are worth so much reward: lower lets the policy go further", least=1e-6)
    resume: bool = option(False, "go on where the run in --out stopped")


def main() -> None:
    """Wire comparisons, checkpoint and the loop of the reward model together."""
    options, config, machine = parse(__doc__.splitlines()[0], Options, RewardConfig, Machine)
    device, dtype = machine.set_up()
    policy, tokenizer = checkpoint.load_chat(options.init)
    context = policy.config.context
    records, groups, held_out, lost = comparisons(options.data, tokenizer, context, config.held_out, whole=True)
    model = ImplicitReward(policy.to(device), tokenizer.special_ids["<|assistant|>"], options.beta)
    out, data = Path(options.out), data_hash(records)
    reference = checkpoint.fingerprint(policy)
    cost = fit(model, groups, config, Run(out, machine.seed, dtype, options.resume, data, reference), beta=options.beta)
    parent = checkpoint.read_json(path) if (path := Path(options.init) / "run.json").exists() else {}
    run = {"data": dataclasses.asdict(options), "seed": machine.seed, "tasks": parent.get("tasks", {})}
    run |= {"optimization": dataclasses.asdict(config), "stage": "dpo", "cost": cost, "reference": reference}
    run |= {"data_hash": data, "pairs": len(records)} | lost
    run |= {"dtype": str(dtype), "device": str(device), "environment": environment()}
    print(f"{out}: {sum(map(len, groups))} comparisons, {cost['steps']} steps, {cost['seconds']:.0f} s")
    if held_out:
        chosen, rejected = (rewards_of(model, [getattr(pair, k) for pair in held_out]) for k in ("chosen", "rejected"))
        run["held_out"] = measure((chosen - rejected).double().numpy(), held_out)
        print(summary(run["held_out"]))
    checkpoint.save(out, policy, tokenizer, run)


if __name__ == "__main__":
    run_script(main)
