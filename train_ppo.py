"""Improve a fine-tuned model by reinforcement learning: PPO, or another policy gradient.

python train_ppo.py                                          out/sft -> out/ppo on the tasks it was trained on
python train_ppo.py --algo rloo                              another algorithm, -> out/rloo
python train_ppo.py --reward model:out/rm                    a reward model instead of the tasks' own reward
python train_ppo.py --prompts p.jsonl --reward mine.py:fn    your own prompts and reward
"""

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from minirlhf.harness.files import UserError
from minirlhf.harness.machine import Machine
from minirlhf.harness.options import option, parse, run_script
from minirlhf.lm.chat_formats import CHAT, FORMATS
from minirlhf.lm.config import MOST_EXAMPLES, LoRAOptions
from minirlhf.lm.reading import CHECK, MAP
from minirlhf.rl.config import PPOConfig
from minirlhf.rl.options import RewardOptions, Turns, Watch
from minirlhf.tasks import TASKS


@dataclass(frozen=True)
class Data:
    """Data."""

    task: str = option("", f"of {', '.join(TASKS)}, weighted: a,b:2; none: all of --init", needs="-prompts")
    prompts: tuple[str, ...] = option((), "your own files instead, of prompts or conversations")
    examples: int = option(20_000, "prompts that are made for a task", least=1, most=MOST_EXAMPLES, needs="-prompts")
    init: str = option("out/sft", "model to start from, and the reference of the KL: a folder or a GGUF file")
    chat: str = option("", CHAT, choices=FORMATS)
    out: str = option("out/ALGO", "checkpoint folder to write")
    resume: bool = option(False, "go on where the run in --out stopped, with its options; more --iterations extend it")
    overwrite: bool = option(False, "replace a run in --out instead of moving it aside", needs="-resume")
    map: str = option("", MAP, needs="prompts")
    check_data: bool = option(False, CHECK)


def main() -> None:
    """Wire checkpoint, prompts, reward and loop together."""
    kinds = Data, RewardOptions, Turns, PPOConfig, LoRAOptions, Watch, Machine
    data, judged, talk, config, lora, watch, machine = parse(__doc__, *kinds)
    device, dtype = machine.set_up(several=True)
    from minirlhf.harness.loop import Run  # here: --help does not wait for torch
    from minirlhf.html.curves import draw_log
    from minirlhf.lm import checkpoint
    from minirlhf.lm.batches import Mixture
    from minirlhf.lm.chat import render_prompt
    from minirlhf.lm.records import question_of
    from minirlhf.rl.critic import start_critic
    from minirlhf.rl.ppo import models_of, train
    from minirlhf.rl.reward_files import load_rewards, reward_hash
    from minirlhf.rl.turns import speaking
    from minirlhf.rl.watch import Description, Gold, Optimum, Progress
    from minirlhf.tasks import reply_of_task, reward_of_task
    from minirlhf.tasks.check import check_data
    from minirlhf.tasks.sources import data_hash, held_out_of, prompts_of, with_room

    policy, tokenizer = checkpoint.load_chat(data.init, data.chat)
    if data.prompts and not judged.reward:
        raise UserError("--prompts without --reward: say what is good, FILE.py:FUNCTION or model:DIR")
    records, weights, longest = prompts_of(data.init, data.task, data.prompts, data.examples, machine.seed, data.map)
    fit = partial(with_room, asked_as=[partial(render_prompt, tokenizer=tokenizer)], context=policy.config.context)
    sets = {name: (fit(some, name=name), config.batch / config.algorithm.group * weights.get(name, 1.0))
            for name, some in records.items()}
    held_out = watch.eval_every and held_out_of(data.init, data.task, watch.eval_prompts, machine.seed, data.map, fit)
    if data.check_data:
        asked = {name: [{"messages": question_of(r)} for r in some] for name, some in records.items()}
        return check_data(asked, tokenizer, policy.config.context)
    reward, speak, out = load_rewards(judged, device, config.missing_eos), speaking(talk, reply_of_task), Path(data.out)
    source = data_hash([sets, [reward_hash(x) for x in (*judged.reward, talk.environment) if x], *speak.about(records)])
    config, optimum = replace(config, max_new=config.max_new or longest), Optimum(config.beta)
    run = machine.record(data, config, config.algorithm, judged, talk, lora, watch)
    run["data"] |= asdict(judged) | asdict(talk)
    run |= dict(tasks=weights, max_new=config.max_new, stage=config.algo, reference=checkpoint.fingerprint(policy))
    told = Run(
        out, machine.seed, dtype, data.resume, source, overwrite=data.overwrite, about=run, draw=draw_log,
        **checkpoint.keeping(out, policy, tokenizer, lora, data.init, lambda: {"optimum": optimum.best()}),
    )  # fmt: skip
    models = models_of(lora.adapt(policy.to(device), dtype), tokenizer, config.algorithm, dtype, lora.reference(policy))
    models = replace(models, speak=speak)
    records_of, reward_of = Mixture(sets, machine.seed).step, (lambda record: reward) if reward else reward_of_task
    judge_of = lambda record, own=reward and replace(reward): own or reward_of_task(record)  # it notes what it said
    watchers = [Progress(watch, models, config, told, held_out, judge_of), Description(config.algorithm)]
    watchers += [reward.watch] + [Gold(reward_of_task, tokenizer, speak.replies)] * bool(weights) if reward else []
    watchers += [optimum] * (config.beta > 0 and config.kl_target == 0 and not speak.replies(*records.values()))
    start_critic(models, records_of, reward_of, config, told)
    cost = train(models, records_of, reward_of, config, told, watchers)
    watchers[0].last()
    print(f"{out}: {cost['tokens']:,} tokens sampled, {cost['seconds']:.0f} s")


if __name__ == "__main__":
    run_script(main)
