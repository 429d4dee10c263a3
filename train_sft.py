"""Pretrain a base model on raw text, then fine-tune it on prompts and responses (SFT).

python train_sft.py                                   four generated tasks -> out/base, out/sft
python train_sft.py --task reviews                    one of them
python train_sft.py --data pairs.jsonl corpus.txt     your own
python train_sft.py --data pairs.jsonl --init DIR     your own, from a checkpoint (GPT-2, say)
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from minirlhf.harness.files import UserError, can_resume
from minirlhf.harness.machine import Machine
from minirlhf.harness.options import option, parse, run_script
from minirlhf.lm.chat_formats import CHAT, FORMATS
from minirlhf.lm.config import MOST_EXAMPLES, Base, FitConfig, LoRAOptions
from minirlhf.lm.reading import CHECK, MAP


@dataclass(frozen=True)
class Data:
    """Data."""

    task: str = option("reviews:2,sentiment,arithmetic:2,translation", "generated tasks, with weights", needs="-data")
    data: tuple[str, ...] = option((), "your own files instead: records, or texts")
    examples: int = option(20_000, "records made for a task", least=1, most=MOST_EXAMPLES, needs="-data")
    init: str = option("", "start from this folder or GGUF file and skip pretraining")
    chat: str = option("", CHAT, choices=FORMATS, needs="init")
    batch: int = option(32, "rows of each data set per step, times its weight", least=1, most=2**20)
    out: str = option("out", "folder that receives base/ and sft/")
    resume: bool = option(False, "go on where the run in --out stopped, with its options; more --steps extend it")
    overwrite: bool = option(False, "replace runs in --out instead of moving them aside", needs="-resume")
    map: str = option("", MAP, needs="data")
    check_data: bool = option(False, CHECK)


def main() -> None:
    """Wire data, tokenizer, model and loop together."""
    data, base, config, lora, machine = parse(__doc__, Data, Base, FitConfig, LoRAOptions, Machine)
    device, dtype = machine.set_up(several=True)
    from minirlhf.harness.folders import Run  # here: --help does not wait for torch
    from minirlhf.html.curves import draw_log
    from minirlhf.lm import checkpoint
    from minirlhf.lm.batches import Mixture
    from minirlhf.lm.families import new_model
    from minirlhf.lm.sft import fit
    from minirlhf.lm.tokenizer import Tokenizer
    from minirlhf.tasks.check import check_sources
    from minirlhf.tasks.sources import data_hash, file_source, parse_tasks, sft_sets, task_sources, text_sets, texts_of

    tasks = {} if data.data else parse_tasks(data.task)
    sources = task_sources(tasks, data.examples, machine.seed) if tasks else [file_source(data.data, data.map)]
    run = machine.record(data, base, config, lora) | {"tasks": tasks, "data_hash": data_hash(list(map(asdict, sources)))}

    def train(sets: dict, validation: list, config: FitConfig, name: str, after: tuple = ()) -> None:
        folder, first = Path(data.out, name), bool(after or data.init)
        told = Run(
            folder, machine.seed, dtype, data.resume and (first or can_resume(folder)),
            f"{data.batch} rows of {run['data_hash']}", overwrite=data.overwrite, also=after,
            about=run | {"stage": name}, draw=draw_log, **checkpoint.keeping(folder, model, tokenizer, lora, data.init),
        )  # fmt: skip
        cost = fit(lora.adapt(model.to(device), dtype), Mixture(sets, machine.seed).step, validation, config, told)
        print(f"{folder}: {cost['tokens']:,} tokens in {cost['seconds']:.0f} s")

    if data.init:
        model, tokenizer = checkpoint.load_with_roles(data.init, data.chat)
    else:
        try:
            tokenizer = Tokenizer.train(texts_of(sources), base.vocab)
            model = new_model(tokenizer.vocab_size, base)
        except ValueError as error:  # no such shape
            raise UserError(str(error)) from None
    if data.check_data:
        return check_sources(sources, tokenizer, model.config.context)
    if not data.init:
        sets = text_sets(sources, tokenizer, model.config.context, data.batch)
        train(*sets, replace(config, steps=base.base_steps, lr=base.base_lr), "base", (Path(data.out, "sft"),))
    sets, validation = sft_sets(sources, tokenizer, model.config.context, data.batch)
    if sets:
        train(sets, validation, config, "sft")
    elif data.init:
        raise UserError(f"{' '.join(data.data)}: no prompts and responses to fine-tune {data.init} on")
    else:
        print("no prompts and responses in the data: no SFT")


if __name__ == "__main__":
    run_script(main)
