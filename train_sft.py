"""Pretrain a base model on raw text, then fine-tune it on prompts and responses (SFT).

python train_sft.py                                   four generated tasks -> out/base, out/sft
python train_sft.py --task reviews                    one of them
python train_sft.py --data pairs.jsonl corpus.txt     your own
python train_sft.py --data pairs.jsonl --init DIR     your own, from a checkpoint (GPT-2, say)
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
from minirlhf.lm.chat import Example, document_examples, fit_context, render
from minirlhf.lm.model import GPT, GPTConfig
from minirlhf.lm.sft import FitConfig, fit
from minirlhf.lm.tokenizer import SPECIALS, Tokenizer
from minirlhf.tasks.sources import data_hash, file_source, parse_tasks, task_sources, texts_of


@dataclass(frozen=True)
class Data:
    """Data."""

    task: str = option("reviews:2,sentiment,arithmetic:2,translation", "generated tasks, with weights: a,b:2")
    data: tuple[str, ...] = option((), "your own files instead: .jsonl (prompt, response | messages | text), .txt")
    examples: int = option(20_000, "records that are generated for a task", least=1)
    init: str = option("", "start from this checkpoint folder and skip pretraining")
    out: str = option("out", "folder that receives base/ and sft/")
    resume: bool = option(False, "go on where the run in --out stopped")


@dataclass(frozen=True)
class Model:
    """Model, where none is given by --init."""

    layers: int = option(2, "transformer blocks")
    heads: int = option(4, "attention heads")
    width: int = option(128, "size of the embedding")
    context: int = option(128, "longest sequence, in tokens")
    vocab: int = option(1024, "size of the tokenizer that is trained: 260 is bytes and the special tokens")
    dropout: float = option(0.0, "in training")
    attention: str = option("manual", "manual (the one to read), or sdpa: torch's kernel, the same numbers")


@dataclass(frozen=True)
class Training:
    """Training."""

    base_steps: int = option(250, "optimizer steps of pretraining", least=0)
    steps: int = option(700, "optimizer steps of SFT", least=0)
    batch: int = option(32, "rows of each data set in a step, times its weight", least=1)
    base_lr: float = option(2e-3, "peak learning rate of pretraining", least=0)
    lr: float = option(2e-3, "peak learning rate of SFT", least=0)
    warmup: int = option(50, "steps of rising learning rate", least=0)
    weight_decay: float = option(0.01, "AdamW's, on matrices", least=0)
    max_norm: float = option(1.0, "the gradient is clipped to this norm", least=0)
    micro_rows: int = option(32, "rows a forward pass: memory against speed, not the result", least=1)
    eval_every: int = option(200, "steps between validations", least=1)
    save_every: int = option(500, "steps between saved states", least=1)


def main() -> None:
    """Wire data, tokenizer, model and loop together."""
    data, model_options, training, machine = parse(__doc__.splitlines()[0], Data, Model, Training, Machine)
    device, dtype = machine.set_up()
    if data.data:
        sources = [file_source(data.data)]
    else:
        sources = task_sources(parse_tasks(data.task), data.examples, machine.seed)
    out = Path(data.out)
    run = machine.record(data, training) | {"tasks": {} if data.data else parse_tasks(data.task)}
    run |= {"data_hash": data_hash([dataclasses.asdict(source) for source in sources])}

    if not data.resume:
        for name in ("base", "sft"):  # else a later --resume might find what an earlier run left
            (out / name / "train_state.pt").unlink(missing_ok=True)

    def train(model: GPT, sets: dict, validation: list[Example], steps: int, lr: float, name: str) -> None:
        config = FitConfig(
            steps=steps, lr=lr, warmup=min(training.warmup, steps), weight_decay=training.weight_decay,
            max_norm=training.max_norm, micro_rows=training.micro_rows,
            eval_every=training.eval_every, save_every=training.save_every,
        )  # fmt: skip
        folder = out / name
        resume = data.resume and (folder / "train_state.pt").exists()  # a run stopped in pretraining has none of SFT
        source = f"{training.batch} rows of {run['data_hash']}"
        told = Run(folder, machine.seed, dtype, resume, source, checkpoint.fingerprint(model))
        cost = fit(model, Mixture(sets, machine.seed).step, validation, config, told)
        checkpoint.save(folder, model, tokenizer, run | {"stage": name, "cost": cost})
        print(f"{folder}: {cost['tokens']:,} tokens in {cost['seconds']:.0f} s")

    if data.init:
        model, tokenizer = checkpoint.load(data.init)
        tokenizer.add_specials([name for name in SPECIALS if name not in tokenizer.special_ids])
        model.resize_vocabulary(tokenizer.vocab_size)
        model.to(device)
    else:
        try:
            tokenizer = Tokenizer.train(texts_of(sources), model_options.vocab)
            names = ("context", "layers", "heads", "width", "dropout", "attention")
            shape = {name: getattr(model_options, name) for name in names}
            model = GPT(GPTConfig(tokenizer.vocab_size, **shape)).to(device)
        except ValueError as error:
            raise UserError(str(error)) from None
        sets, validation = {}, []
        for source in sources:
            context = model.config.context
            examples = [e for text in source.documents for e in document_examples(text, tokenizer, context)]
            held_out = max(1, len(examples) // 50)
            sets[source.name] = (examples[held_out:] or examples, training.batch * source.weight)
            validation += examples[:held_out][:200]
        train(model, sets, validation, training.base_steps, training.base_lr, "base")

    sets, validation = {}, []
    for source in sources:
        examples, left_out = fit_context((render(r, tokenizer) for r in source.train), model.config.context)
        if left_out:
            print(f"{source.name}: {left_out} of {len(source.train)} records left out, longer than --context")
        if examples:
            sets[source.name] = (examples, training.batch * source.weight)
            validation += fit_context((render(r, tokenizer) for r in source.validation), model.config.context)[0]
    if not sets:
        if n := sum(len(source.train) for source in sources):
            raise UserError(f"none of {n} records fits the context of {model.config.context} tokens; raise --context")
        if data.init:
            raise UserError(f"{' '.join(data.data)}: no prompts and responses to fine-tune {data.init} on")
        print("no prompts and responses in the data: no SFT")
        return
    train(model, sets, validation, training.steps, training.lr, "sft")


if __name__ == "__main__":
    run_script(main)
