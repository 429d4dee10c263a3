"""Direct preference optimisation: from comparisons to a policy without a reward model.

    python -m minirlhf.tools.train_dpo --data prefs.jsonl --init out/sft --out out/dpo

Proved by tests/tools/test_train_dpo.py.
"""

from dataclasses import dataclass
from pathlib import Path

from minirlhf.harness.machine import Machine
from minirlhf.harness.options import option, parse, run_script
from minirlhf.lm.chat_formats import CHAT, FORMATS
from minirlhf.lm.config import LoRAOptions
from minirlhf.lm.reading import CHECK, MAP
from minirlhf.preferences.config import RewardConfig


@dataclass(frozen=True)
class Options:
    """Data and objective."""

    data: tuple[str, ...] = option((), "files of prompt, chosen and rejected, with p if known")
    init: str = option("out/sft", "model to start from, which is also the reference: a folder or a GGUF file")
    chat: str = option("", CHAT, choices=FORMATS)
    out: str = option("out/dpo", "checkpoint folder to write")
    beta: float = option(0.1, "reward given up for a nat of KL; a lower beta lets the policy go further", least=1e-6)
    resume: bool = option(False, "go on where the run in --out stopped, with its options")
    overwrite: bool = option(False, "replace a run in --out instead of moving it aside", needs="-resume")
    map: str = option("", MAP)
    check_data: bool = option(False, CHECK)


def main() -> None:
    """Wire comparisons, checkpoint and the loop of the reward model together."""
    options, config, lora, machine = parse(__doc__, Options, RewardConfig, LoRAOptions, Machine)
    device, dtype = machine.set_up()
    from minirlhf.harness.loop import Run  # here: --help does not wait for torch
    from minirlhf.html.curves import draw_log
    from minirlhf.lm import checkpoint
    from minirlhf.lm.chat import encode_format
    from minirlhf.lm.records import split_by_prompt
    from minirlhf.preferences.comparisons import load_comparisons, read_preferences
    from minirlhf.preferences.dpo import ImplicitReward
    from minirlhf.preferences.train_reward import learn
    from minirlhf.tasks.check import check_data
    from minirlhf.tasks.sources import data_hash

    policy, tokenizer = checkpoint.load_chat(options.init, options.chat)
    context = policy.config.context
    records = read_preferences(options.data, options.map)
    if options.check_data:
        return check_data(split_by_prompt(records, config.held_out), tokenizer, context)
    groups, held_out, lost = load_comparisons(records, tokenizer, context, config.held_out, whole=True)
    cue = encode_format(tokenizer.chat.cue.format(role="assistant"), tokenizer)
    reference, parent = checkpoint.fingerprint(policy), checkpoint.read_run(options.init)
    kept = checkpoint.keeping(options.out, policy, tokenizer, lora, options.init)
    model = ImplicitReward(lora.adapt(policy.to(device)), cue, options.beta, lora.reference(policy))
    run = machine.record(options, config, lora) | {"stage": "dpo", "reference": reference, "tasks": parent.get("tasks", {})}
    told = Run(
        Path(options.out), machine.seed, dtype, options.resume, data_hash(records), overwrite=options.overwrite,
        about=run | lost, draw=draw_log, **kept,
    )  # fmt: skip
    learn(model, groups, held_out, config, told, beta=options.beta)


if __name__ == "__main__":
    run_script(main)
