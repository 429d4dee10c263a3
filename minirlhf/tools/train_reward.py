"""Learn a reward model from comparisons of two responses to one prompt.

    python -m minirlhf.tools.train_reward --data prefs.jsonl --init out/sft --out out/rm
    python train_ppo.py --reward model:out/rm

Proved by tests/tools/test_train_reward.py.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from minirlhf.harness.files import UserError
from minirlhf.harness.loop import Run
from minirlhf.harness.machine import Machine, environment
from minirlhf.harness.options import option, parse, run_script
from minirlhf.lm import checkpoint
from minirlhf.lm.tokenizer import PAD
from minirlhf.preferences.comparisons import comparisons
from minirlhf.preferences.measure import measure, summary
from minirlhf.preferences.train_reward import REFERENCE, RewardConfig, fit, reference_texts
from minirlhf.rl.reward_model import RewardModel, normalise, rewards_of, save_reward_model
from minirlhf.tasks.sources import data_hash


@dataclass(frozen=True)
class Options:
    """Data."""

    data: tuple[str, ...] = option((), ".jsonl files of prompt, chosen and rejected, perhaps p and margin")
    init: str = option("out/sft", "checkpoint to start from; its responses get mean reward 0 and std 1")
    out: str = option("out/rm", "checkpoint folder to write")
    resume: bool = option(False, "go on where the run in --out stopped")


def main() -> None:
    """Wire comparisons, checkpoint and loop together, measure and save."""
    options, config, machine = parse(__doc__.splitlines()[0], Options, RewardConfig, Machine)
    device, dtype = machine.set_up()
    trunk, tokenizer = checkpoint.load_chat(options.init)
    tokenizer.add_specials([PAD])
    trunk.resize_vocabulary(tokenizer.vocab_size)
    records, groups, held_out, lost = comparisons(options.data, tokenizer, trunk.config.context, config.held_out)
    data = data_hash(records)

    longest = max(max(len(x.chosen), len(x.rejected)) for x in (*held_out, *(x for pairs in groups for x in pairs)))
    reference = reference_texts(trunk.to(device), tokenizer, records, longest, machine.seed)
    if len(reference) < 2:
        why = f"{len(reference)} of {REFERENCE} responses end within {longest} tokens"
        raise UserError(f"{options.init}: {why}: no scale for rewards; fine-tune it with train_sft.py first")
    model, out = RewardModel(trunk).to(device), Path(options.out)
    told = Run(out, machine.seed, dtype, options.resume, data, checkpoint.fingerprint(trunk))
    cost = fit(model, groups, config, told)
    run = {"data": dataclasses.asdict(options), "training": dataclasses.asdict(config), "seed": machine.seed}
    run |= {"stage": "reward", "cost": cost, "data_hash": data, "pairs": len(records)} | lost
    run |= {"dtype": str(dtype), "device": str(device), "environment": environment()}
    n = sum(map(len, groups))
    print(f"{out}: {n} comparisons, {cost['steps']} steps, {cost['seconds']:.0f} s")
    if held_out:
        chosen = rewards_of(model, [pair.chosen for pair in held_out])  # (N,)
        rejected = rewards_of(model, [pair.rejected for pair in held_out])  # (N,)
        run["held_out"] = measure((chosen - rejected).double().numpy(), held_out)
        print(summary(run["held_out"]))
    run["normalisation"] = normalise(model, rewards_of(model, reference))
    save_reward_model(out, model, tokenizer, run)


if __name__ == "__main__":
    run_script(main)
