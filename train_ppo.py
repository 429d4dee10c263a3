"""Improve a fine-tuned model by reinforcement learning: PPO, or another policy gradient.

python train_ppo.py                                          out/sft -> out/ppo on the tasks it was trained on
python train_ppo.py --algo rloo                              another row of minirlhf/rl/algorithms.py
python train_ppo.py --reward model:out/rm                    a reward model instead of the tasks' own reward
python train_ppo.py --prompts p.jsonl --reward mine.py:fn    your own prompts and reward
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from minirlhf.harness.files import UserError
from minirlhf.harness.loop import Run
from minirlhf.harness.machine import Machine
from minirlhf.harness.options import option, parse, run_script
from minirlhf.lm import checkpoint
from minirlhf.lm.batches import Mixture
from minirlhf.lm.chat import render_prompt
from minirlhf.lm.model import ScalarHead
from minirlhf.lm.records import read_records
from minirlhf.lm.safetensors import dump_safetensors
from minirlhf.rl.config import PPOConfig
from minirlhf.rl.ppo import train
from minirlhf.rl.rewards import load_reward, reward_hash
from minirlhf.rl.watch import Description, Gold, Optimum
from minirlhf.tasks import TASKS, reward_of_task
from minirlhf.tasks.sources import OWN, data_hash, parse_tasks


@dataclass(frozen=True)
class Data:
    """Data."""

    task: str = option("", "generated tasks, with weights: a,b:2; none: all that --init was trained on")
    prompts: tuple[str, ...] = option((), "your own .jsonl files instead, with `prompt` or `messages`")
    reward: str = option("", "FILE.py:FUNCTION of (prompt, response, record), or model:DIR; replaces the task's")
    examples: int = option(20_000, "prompts that are generated for a task", least=1)
    init: str = option("out/sft", "checkpoint folder to start from, and the reference of the KL")
    out: str = option("out/ppo", "checkpoint folder to write")
    resume: bool = option(False, "go on where the run in --out stopped")


def main() -> None:
    """Wire checkpoint, prompts, reward and loop together."""
    data, config, machine = parse(__doc__.splitlines()[0], Data, PPOConfig, Machine)
    device, dtype = machine.set_up()
    policy, tokenizer = checkpoint.load_chat(data.init)
    parent = checkpoint.read_run(data.init)

    prompts_a_round = config.batch / config.row.group
    sets: dict[str, tuple[list[dict], float]] = {}
    weights: dict[str, float] = {}
    if data.prompts:
        if data.task:
            raise UserError("--task and --prompts: give one of them")
        if not data.reward:
            raise UserError("--prompts without --reward: say what is good, FILE.py:FUNCTION or model:DIR")
        sets[OWN] = ([r for path in data.prompts for r in read_records(path)], prompts_a_round)
        max_new = config.max_new or 64
    else:
        trained = {name: TASKS[name].RL_WEIGHT for name in parent.get("tasks", {}) if name in TASKS}
        trained = trained if len(trained) > 1 else dict.fromkeys(trained, 1.0)
        weights = parse_tasks(data.task) if data.task else trained
        if not weights:
            raise UserError(f"{data.init} was not trained on a generated task: give --task, or --prompts and --reward")
        for name, weight in weights.items():
            records = TASKS[name].records("train", data.examples, machine.seed)
            sets[name] = (records, prompts_a_round * weight)
        max_new = config.max_new or max(TASKS[name].MAX_NEW for name in weights)
    for name, (records, rows) in sets.items():
        sets[name] = (prompts_that_fit(records, tokenizer, policy.config.context, name), rows)
    reward = load_reward(data.reward, device) if data.reward else None
    if data.reward.startswith("model:") and config.missing_eos >= 0:
        print(f"--missing-eos {config.missing_eos:g} is no less than the mean of a learnt reward, which is 0: an answer"
              " that never ends pays; -3, say, is three deviations below")

    out = Path(data.out)
    policy.to(device)
    reference, source = checkpoint.fingerprint(policy), data_hash([sets, data.reward, reward_hash(data.reward)])
    config, optimum = dataclasses.replace(config, max_new=max_new), Optimum(config.beta)
    watchers = [Description(config.row)]
    watchers += [Gold(reward_of_task, tokenizer)] if reward and weights else []
    watchers += [optimum] if config.beta > 0 and config.kl_target == 0 else []
    value_head, cost = train(
        policy, tokenizer, Mixture(sets, machine.seed).step, (lambda record: reward) if reward else reward_of_task,
        config, Run(out, machine.seed, dtype, data.resume, source, reference), watchers,
    )  # fmt: skip
    run = machine.record(data, config, config.row)
    run |= {"tasks": weights, "max_new": max_new, "stage": config.algo, "cost": cost}
    run |= {"reference": reference, "optimum": optimum.best()}
    save_value_head(out, value_head)
    checkpoint.save(out, policy, tokenizer, run)
    print(f"{out}: {cost['tokens']:,} tokens sampled, {cost['seconds']:.0f} s")


def prompts_that_fit(records: list[dict], tokenizer, context: int, name: str) -> list[dict]:
    """The records whose prompt leaves room for an answer. Raises UserError if none does."""
    asked = [r for r in records if "prompt" in r or "messages" in r]
    kept = [r for r in asked if len(render_prompt(r, tokenizer)) < context]
    if len(asked) < len(records):
        print(f"{name}: {len(records) - len(asked)} of {len(records)} records left out: text, and no prompt")
    if len(kept) < len(asked):
        left_out = f"{len(asked) - len(kept)} of {len(asked)} prompts left out"
        print(f"{name}: {left_out}, longer than the context of {context} tokens")
    if not kept:
        raise UserError(f"{name}: no prompt of {len(records)} records fits the model's context of {context} tokens")
    return kept


def save_value_head(folder: Path, head: ScalarHead | None) -> None:
    """Keep the critic beside the policy, if there is one."""
    path = folder / "value_head.safetensors"
    if head is None:
        path.unlink(missing_ok=True)  # that of an earlier run is not this policy's
    else:
        checkpoint.write_atomic(path, dump_safetensors(head.state_dict()))


if __name__ == "__main__":
    run_script(main)
