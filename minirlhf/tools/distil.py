"""Distil a teacher into a smaller student: on given answers, on the teacher's, or on the student's own.

    python train_sft.py --layers 1 --width 32 --out out/small   as out/sft, the teacher, but small: the same tokenizer
    python -m minirlhf.tools.distil                             reverse KL on the answers of out/small/base
    python -m minirlhf.tools.distil --on text --loss forward    the teacher's distributions on given answers
    python -m minirlhf.tools.distil --on teacher --loss hard    SFT on the teacher's answers

Proved by tests/tools/test_distil.py.
"""

import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from minirlhf.harness.files import UserError
from minirlhf.harness.machine import Machine
from minirlhf.harness.options import option, parse, run_script
from minirlhf.lm.config import MOST_EXAMPLES, FitConfig, LoRAOptions
from minirlhf.lm.reading import MAP
from minirlhf.rl.options import Distil


@dataclass(frozen=True)
class Data:
    """Models and data."""

    teacher: str = option("out/sft", "the model to learn from: a folder or a GGUF file")
    init: str = option("out/small/base", "the student to start from, with the tokenizer of the teacher")
    task: str = option("reviews:2,sentiment,arithmetic:2,translation", "generated tasks, with weights", needs="-data")
    data: tuple[str, ...] = option((), "your own files instead: records; where answers are sampled, prompts will do")
    examples: int = option(20_000, "records made for a task", least=1, most=MOST_EXAMPLES, needs="-data")
    batch: int = option(32, "rows of each data set per step, times its weight", least=1, most=2**20)
    out: str = option("out/distil", "checkpoint folder to write")
    resume: bool = option(False, "go on where the run in --out stopped, with its options; more --steps extend it")
    overwrite: bool = option(False, "replace a run in --out instead of moving it aside", needs="-resume")
    map: str = option("", MAP, needs="data")


def main() -> None:
    """Wire teacher, student, data and loop together."""
    kinds = Data, Distil, FitConfig, LoRAOptions, Machine
    data, how, config, lora, machine = parse(__doc__, *kinds, without=["eval_every"])
    device, dtype = machine.set_up()
    from minirlhf.harness.folders import stands_in  # here: --help does not wait for torch
    from minirlhf.harness.loop import Run
    from minirlhf.html.curves import draw_log
    from minirlhf.lm import checkpoint
    from minirlhf.lm.chat import render_prompt
    from minirlhf.lm.reading import read_records
    from minirlhf.rl.distil import train
    from minirlhf.tasks.sources import (
        OWN, Source, data_hash, file_source, parse_tasks, sft_sets, task_sources, with_room,
    )

    teacher, tokenizer = checkpoint.load_chat(data.teacher)
    student, own = checkpoint.load_with_roles(data.init)
    if (own.token_bytes, own.special_ids) != (tokenizer.token_bytes, tokenizer.special_ids):
        raise UserError(f"--init {data.init}: its tokenizer is not that of {data.teacher}; take one that shares it")
    replaced = stands_in(Path(data.out)) and not data.resume
    if replaced and Path(data.teacher).resolve().is_relative_to(Path(data.out).resolve()):
        raise UserError(f"--out {data.out}: holds --teacher {data.teacher}, which a run would replace; take another")
    tasks, context = {} if data.data else parse_tasks(data.task), min(m.config.context for m in (teacher, student))
    if tasks:
        sources = task_sources(tasks, data.examples, machine.seed)
    elif how.on == "text":
        sources = [file_source(data.data, data.map)]
    else:
        sources = [Source(OWN, 1.0, [], read_records(data.data, data.map), [])]
    if how.on == "text":
        sets, _ = sft_sets(sources, tokenizer, context, data.batch)
    else:
        asked = partial(render_prompt, tokenizer=tokenizer)
        kept = {s.name: with_room(s.train, [asked], context, s.name) for s in sources}
        sets = {s.name: ([asked(r) for r in kept[s.name]], data.batch * s.weight) for s in sources}
    if not sets:
        raise UserError(f"{' '.join(data.data)}: text alone, no prompts and responses: nothing to distil on")
    run = machine.record(data, how, config, lora) | {"stage": "distil", "tasks": tasks}
    run |= {"reference": checkpoint.fingerprint(teacher), "data_hash": data_hash(list(map(asdict, sources)))}
    told = Run(
        Path(data.out), machine.seed, dtype, data.resume, f"{data.batch} rows of {run['data_hash']}", about=run,
        overwrite=data.overwrite, draw=draw_log, **checkpoint.keeping(data.out, student, tokenizer, lora, data.init),
    )  # fmt: skip
    began, models = time.process_time(), (lora.adapt(student.to(device), dtype), teacher.to(device))
    cost = train(*models, sets, tokenizer.eos_id, how, config, told)
    print(f"{data.out}: {cost['tokens']:,} tokens, {time.process_time() - began:.1f} s of CPU")


if __name__ == "__main__":
    run_script(main)
