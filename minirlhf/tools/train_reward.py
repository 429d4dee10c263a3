"""Learn a reward model from comparisons of two responses to one prompt, or a classifier from texts with a label.

    python -m minirlhf.tools.train_reward --data prefs.jsonl --init out/sft --out out/rm
    python train_ppo.py --reward model:out/rm
    python -m minirlhf.tools.train_reward --data labelled.jsonl --out out/classes
    python train_ppo.py --reward model:out/classes:positive

Proved by tests/tools/test_train_reward.py.
"""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from minirlhf.harness.files import UserError, read_run
from minirlhf.harness.machine import Machine
from minirlhf.harness.options import option, parse, run_script
from minirlhf.lm.chat_formats import CHAT, FORMATS
from minirlhf.lm.config import LoRAOptions
from minirlhf.lm.reading import CHECK, MAP
from minirlhf.preferences.config import RewardConfig


@dataclass(frozen=True)
class Options:
    """Data."""

    data: tuple[str, ...] = option((), "files of prompt, chosen and rejected, perhaps p; or with a label")
    init: str = option("out/sft", "folder or GGUF file to start from; its responses get mean reward 0 and std 1")
    chat: str = option("", CHAT, choices=FORMATS)
    out: str = option("out/rm", "checkpoint folder to write")
    resume: bool = option(False, "go on where the run in --out stopped, with its options")
    overwrite: bool = option(False, "replace a run in --out instead of moving it aside", needs="-resume")
    map: str = option("", MAP)
    check_data: bool = option(False, CHECK)


def main() -> None:
    """Wire comparisons, checkpoint and loop together."""
    kinds = Options, RewardConfig, Machine, LoRAOptions
    make_reward_model(*parse(__doc__, *kinds, without=["merge"]))


def make_reward_model(
    options: Options, config: RewardConfig, machine: Machine, lora: LoRAOptions = LoRAOptions()
) -> None:  # fmt: skip
    """Train, measure and save; rewards of comparisons are normalised over responses of --init. Raises UserError."""
    device, dtype = machine.set_up()
    from minirlhf.harness.loop import Run  # here: --help does not wait for torch
    from minirlhf.html.curves import draw_log
    from minirlhf.lm import checkpoint
    from minirlhf.lm.lora import merge
    from minirlhf.lm.records import split_by_prompt
    from minirlhf.lm.tokenizer import PAD
    from minirlhf.preferences.comparisons import load_comparisons, load_labelled, read_preferences
    from minirlhf.preferences.train_reward import REFERENCE, learn, reference_texts
    from minirlhf.rl.reward_model import RewardModel, load_reward_model, normalise, predict_rewards, save_reward_model
    from minirlhf.tasks.check import check_data
    from minirlhf.tasks.sources import data_hash

    records, classes = read_preferences(options.data, options.map, labels=True), []
    labelled = "chosen" not in records[0]
    trunk, tokenizer = (checkpoint.load_with_roles if labelled else checkpoint.load_chat)(options.init, options.chat)
    tokenizer.add_specials([PAD])
    checkpoint.resize_vocabulary(trunk, tokenizer.vocab_size)
    context = trunk.config.context
    if options.check_data:
        return check_data(split_by_prompt(records, config.held_out), tokenizer, context)
    if labelled:
        classes, groups, held_out, lost = load_labelled(records, tokenizer, context, config.held_out)
    else:
        groups, held_out, lost = load_comparisons(records, tokenizer, context, config.held_out)
        longest = max(len(ids) for pairs in (held_out, *groups) for pair in pairs for ids in pair.texts)
        reference = reference_texts(trunk.to(device), tokenizer, records, longest, machine.seed)
        if len(reference) < 2:
            why = f"{len(reference)} of {REFERENCE} responses end within {longest} tokens"
            raise UserError(f"{options.init}: {why}: no scale for rewards; fine-tune it with train_sft.py first")
    start = lora.mark(checkpoint.fingerprint(trunk, tokenizer))
    model = RewardModel(lora.adapt(trunk), classes).to(device)

    def save(run: dict, parts: dict) -> None:
        scaled = deepcopy(model)
        if not labelled:
            run["normalisation"] = normalise(scaled, predict_rewards(scaled, reference))
        merge(scaled.trunk)  # a head, and the bias of a norm, stand in no adapter
        save_reward_model(options.out, scaled, tokenizer, run)

    def load(parts: dict) -> None:
        if lora.lora:
            raise UserError(f"{options.out}: finished, and its adapters are merged: train it anew, for more epochs")
        model.load_state_dict(load_reward_model(options.out).model.state_dict())
        if not labelled:  # the scale that was learnt, and not that of rewards of deviation 1
            model.score.weight.data *= read_run(options.out)["normalisation"]["std"]

    told = Run(
        Path(options.out), machine.seed, dtype, options.resume, data_hash(records), start, options.init,
        options.overwrite, about=machine.record(options, config, lora) | {"stage": "reward"} | lost, save=save, load=load,
        draw=draw_log,
    )  # fmt: skip
    learn(model, groups, held_out, config, told)


if __name__ == "__main__":
    run_script(main)
