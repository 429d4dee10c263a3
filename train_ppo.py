"""Improve a fine-tuned model by reinforcement learning: PPO, or another policy gradient.

python train_ppo.py                                          out/sft -> out/ppo on the tasks it was trained on
python train_ppo.py --algo rloo                              another algorithm of minirlhf/rl/algorithms.py
python train_ppo.py --reward model:out/rm                    a reward model instead of the tasks' own reward
python train_ppo.py --prompts p.jsonl --reward mine.py:fn    your own prompts and reward
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from minirlhf.harness.files import UserError
from minirlhf.harness.loop import Run
from minirlhf.harness.machine import Machine
from minirlhf.harness.options import option, parse, run_script
from minirlhf.lm import checkpoint
from minirlhf.lm.batches import Mixture
from minirlhf.lm.chat import render_prompt
from minirlhf.lm.safetensors import save_module
from minirlhf.rl.config import PPOConfig
from minirlhf.rl.critic import start_critic
from minirlhf.rl.ppo import models_of, train
from minirlhf.rl.reward_files import load_reward, reward_hash
from minirlhf.rl.watch import Description, Gold, Optimum
from minirlhf.tasks import reward_of_task
from minirlhf.tasks.sources import data_hash, prompts_of, with_room


@dataclass(frozen=True)
class Data:
    """Data."""

    task: str = option("", "generated tasks, weighted: a,b:2; none: all that --init was trained on", needs="-prompts")
    prompts: tuple[str, ...] = option((), "your own .jsonl files instead, with `prompt` or `messages`")
    reward: str = option("", "FILE.py:FUNCTION of (prompt, response, record), or model:DIR; replaces the task's")
    examples: int = option(20_000, "prompts that are generated for a task", least=1, needs="-prompts")
    init: str = option("out/sft", "checkpoint folder to start from, and the reference of the KL")
    out: str = option("out/ppo", "checkpoint folder to write")
    resume: bool = option(False, "go on where the run in --out stopped")


def main() -> None:
    """Wire checkpoint, prompts, reward and loop together."""
    data, config, machine = parse(__doc__.splitlines()[0], Data, PPOConfig, Machine)
    device, dtype = machine.set_up()
    policy, tokenizer = checkpoint.load_chat(data.init)
    if data.prompts and not data.reward:
        raise UserError("--prompts without --reward: say what is good, FILE.py:FUNCTION or model:DIR")
    records, weights, longest = prompts_of(data.init, data.task, data.prompts, data.examples, machine.seed)
    asked_as, rows = [partial(render_prompt, tokenizer=tokenizer)], config.batch / config.algorithm.group
    sets = {name: (with_room(some, asked_as, policy.config.context, name), rows * weights.get(name, 1.0))
            for name, some in records.items()}
    reward = load_reward(data.reward, device) if data.reward else None
    if data.reward.startswith("model:") and config.missing_eos >= 0:
        print(f"--missing-eos {config.missing_eos:g} is no less than the mean of a learnt reward, which is 0: an answer"
              " that never ends pays; -3, say, is three deviations below")

    out = Path(data.out)
    policy.to(device)
    reference, source = checkpoint.fingerprint(policy), data_hash([sets, data.reward, reward_hash(data.reward)])
    config, optimum = replace(config, max_new=config.max_new or longest), Optimum(config.beta)
    watchers = [Description(config.algorithm)]
    watchers += [Gold(reward_of_task, tokenizer)] if reward and weights else []
    watchers += [optimum] if config.beta > 0 and config.kl_target == 0 else []
    models, records_of = models_of(policy, tokenizer, config.algorithm, dtype), Mixture(sets, machine.seed).step
    reward_of = (lambda record: reward) if reward else reward_of_task
    told = Run(out, machine.seed, dtype, data.resume, source, reference)
    start_critic(models, records_of, reward_of, config, told)
    cost = train(models, records_of, reward_of, config, told, watchers)
    run = machine.record(data, config, config.algorithm)
    run |= {"tasks": weights, "max_new": config.max_new, "stage": config.algo, "cost": cost}
    run |= {"reference": reference, "optimum": optimum.best()}
    save_module(out / "value_head.safetensors", models.value_head)
    checkpoint.save(out, policy, tokenizer, run)
    print(f"{out}: {cost['tokens']:,} tokens sampled, {cost['seconds']:.0f} s")


if __name__ == "__main__":
    run_script(main)
