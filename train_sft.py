"""Pretrain a base model on raw text, then fine-tune it on prompts and responses (SFT).

python train_sft.py                                   four generated tasks -> out/base, out/sft
python train_sft.py --task reviews                    one of them
python train_sft.py --data pairs.jsonl corpus.txt     your own
python train_sft.py --data pairs.jsonl --init DIR     your own, from a checkpoint (GPT-2, say)
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from minirlhf.harness.files import UserError
from minirlhf.harness.loop import Run
from minirlhf.harness.machine import Machine
from minirlhf.harness.options import option, parse, run_script
from minirlhf.lm import checkpoint
from minirlhf.lm.batches import Mixture
from minirlhf.lm.chat import Example
from minirlhf.lm.model import GPT, GPTConfig
from minirlhf.lm.sft import FitConfig, fit
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.tasks.sources import data_hash, file_source, parse_tasks, sft_sets, task_sources, text_sets, texts_of

SHAPE = "context", "layers", "heads", "width", "dropout", "attention"


@dataclass(frozen=True)
class Data:
    """Data."""

    task: str = option("reviews:2,sentiment,arithmetic:2,translation", "generated tasks, with weights", needs="-data")
    data: tuple[str, ...] = option((), "your own files instead: .jsonl (prompt, response | messages | text), .txt")
    examples: int = option(20_000, "records that are generated for a task", least=1, needs="-data")
    init: str = option("", "start from this checkpoint folder and skip pretraining")
    batch: int = option(32, "rows of each data set per step, times its weight", least=1)
    out: str = option("out", "folder that receives base/ and sft/")
    resume: bool = option(False, "go on where the run in --out stopped")


@dataclass(frozen=True)
class Base:
    """Base model, where none is given by --init."""

    layers: int = option(2, "transformer blocks", needs="-init")
    heads: int = option(4, "attention heads", needs="-init")
    width: int = option(128, "size of the embedding", needs="-init")
    context: int = option(128, "longest sequence, in tokens", needs="-init")
    vocab: int = option(1024, "size of the tokenizer that is trained; 260: bytes, special tokens", needs="-init")
    dropout: float = option(0.0, "in training", needs="-init")
    attention: str = option("manual", "manual (to be read), or sdpa: torch's kernel, same numbers", needs="-init")
    base_steps: int = option(250, "optimizer steps of pretraining", least=0, needs="-init")
    base_lr: float = option(2e-3, "peak learning rate of pretraining", least=0, needs="-init base_steps")


def main() -> None:
    """Wire data, tokenizer, model and loop together."""
    data, base, config, machine = parse(__doc__.splitlines()[0], Data, Base, FitConfig, Machine)
    device, dtype = machine.set_up()
    tasks = {} if data.data else parse_tasks(data.task)
    sources = task_sources(tasks, data.examples, machine.seed) if tasks else [file_source(data.data)]
    run = machine.record(data, base, config) | {"tasks": tasks}
    run |= {"data_hash": data_hash([asdict(source) for source in sources])}
    out = Path(data.out)
    if not data.resume:
        for name in ("base", "sft"):  # else a later --resume might find what an earlier run left
            (out / name / "train_state.pt").unlink(missing_ok=True)

    def train(sets: dict, validation: list[Example], config: FitConfig, name: str) -> None:
        folder = out / name
        resume = data.resume and (folder / "train_state.pt").exists()  # a run stopped in pretraining has none of SFT
        source, init = f"{data.batch} rows of {run['data_hash']}", checkpoint.fingerprint(model)
        told = Run(folder, machine.seed, dtype, resume, source, init)
        cost = fit(model, Mixture(sets, machine.seed).step, validation, config, told)
        checkpoint.save(folder, model, tokenizer, run | {"stage": name, "cost": cost})
        print(f"{folder}: {cost['tokens']:,} tokens in {cost['seconds']:.0f} s")

    if data.init:
        model, tokenizer = checkpoint.load_with_roles(data.init)
        model.to(device)
    else:
        try:
            tokenizer = Tokenizer.train(texts_of(sources), base.vocab)
            shape = {name: getattr(base, name) for name in SHAPE}
            model = GPT(GPTConfig(tokenizer.vocab_size, **shape)).to(device)
        except ValueError as error:
            raise UserError(str(error)) from None
        pretraining = replace(config, steps=base.base_steps, lr=base.base_lr)
        train(*text_sets(sources, tokenizer, model.config.context, data.batch), pretraining, "base")
    sets, validation = sft_sets(sources, tokenizer, model.config.context, data.batch)
    if sets:
        train(sets, validation, config, "sft")
    elif data.init:
        raise UserError(f"{' '.join(data.data)}: no prompts and responses to fine-tune {data.init} on")
    else:
        print("no prompts and responses in the data: no SFT")


if __name__ == "__main__":
    run_script(main)
