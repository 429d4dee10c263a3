"""Direct preference optimisation: from comparisons to a policy without a reward model.

    python -m minirlhf.tools.train_dpo --data prefs.jsonl --init out/sft --out out/dpo

Proved by tests/tools/test_train_dpo.py.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from minirlhf.harness.files import read_json
from minirlhf.harness.loop import Run
from minirlhf.harness.machine import Machine, environment
from minirlhf.harness.options import option, parse, run_script
from minirlhf.lm import checkpoint
from minirlhf.preferences.comparisons import comparisons
from minirlhf.preferences.dpo import ImplicitReward
from minirlhf.preferences.measure import measure, summary
from minirlhf.preferences.train_reward import RewardConfig, fit
from minirlhf.rl.reward_model import rewards_of
from minirlhf.tasks.sources import data_hash


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
    parent = read_json(path) if (path := Path(options.init) / "run.json").exists() else {}
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
