"""What `bench.py` measures, and how: each row in a process of its own.

Proved by tests/tools/test_bench.py.
"""

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from minirlhf.harness.device import autocast
from minirlhf.harness.machine import Machine
from minirlhf.lm.batches import ROOM
from minirlhf.lm.chat import Example
from minirlhf.lm.checkpoint import load_with_roles
from minirlhf.lm.config import LoRAOptions
from minirlhf.lm.families import Config, Model, build
from minirlhf.lm.generation import Sampling, generate
from minirlhf.lm.llama import LlamaConfig
from minirlhf.lm.model import GPTConfig
from minirlhf.lm.optim import Stepper, make_adamw
from minirlhf.lm.sft import accumulate
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.lm.vocabulary import VocabularyTokenizer
from minirlhf.rl.algorithms import advantages_of
from minirlhf.rl.config import PPOConfig
from minirlhf.rl.ppo import models_of, sample_round, update
from minirlhf.tasks import DEFAULT

if TYPE_CHECKING:
    from minirlhf.tools.bench import Bench


@dataclass(frozen=True)
class Load:
    """A model, how much it has to do, and where."""

    model: Config | Path  # a new one of that shape, or one that exists
    rows: int = 16  # of a training batch, each as long as the context
    prompts: int = 32  # in sampling and in an iteration of PPO
    prompt: int = 48  # tokens each
    new: int = 64  # tokens of each response
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    lora: LoRAOptions = LoRAOptions()


def small(width: int = 128, rows: int = 32, context: int = 128, prompts: int = 64, new: int = 48) -> Load:
    """A model of 4 layers with a vocabulary of 512."""
    return Load(GPTConfig(512, context, layers=4, heads=4, width=width), rows, prompts, 16, new)


SQUARE = {"cpu": 2048, "cuda": 8192}  # side of the product whose FLOP/s are the peak
Run = Callable[[], float]  # what is timed; returns how many tokens, or MB of text, it worked on
SIZES = {
    "small": small(),
    "baby": Load(GPTConfig(vocab_size=65, context=256, layers=6, heads=6, width=384), 16, 64, 16, 48),
    "gpt2": Load(GPTConfig(vocab_size=50257, context=128, layers=12, heads=12, width=768)),
    "smollm2": Load(LlamaConfig(49152, context=128, layers=30, heads=9, width=576, kv_heads=3, inner=1536)),
}
LADDERS = {  # what grows: the row that is measured, and its points
    "width": ("training", {C: small(width=C) for C in (64, 128, 256, 512)}),
    "batch": ("training", {n: small(rows=n) for n in (8, 32, 128, 512)}),
    "context": ("training", {T: small(rows=8192 // T, context=T) for T in (64, 128, 256, 512)}),
    "prompts": ("sampling", {n: small(prompts=n) for n in (4, 16, 64, 256)}),
    "answer": ("ppo", {n: small(new=n, context=256) for n in (16, 48, 112, 240)}),
}


def prepare(load: Load, talks: bool = False) -> tuple[Model, Tokenizer | None]:
    """The model, and a tokenizer if it is to talk. A new model never says EOS."""
    if isinstance(load.model, Path):
        model, tokenizer = load_with_roles(load.model)
        model.config = replace(model.config, context=min(model.config.context, 128))
    elif talks:  # with EOS last, a model that embeds one token fewer never ends a row early
        V, specials = max(load.model.vocab_size, 259), ("<|user|>", "<|assistant|>", "<|system|>", "<|endoftext|>")
        tokens = {bytes([i]) if i < 256 else bytes(divmod(i - 256, 256)): i for i in range(V - 3)}
        tokenizer = VocabularyTokenizer(tokens, [], dict(zip(specials, range(V - 3, V + 1))), "gpt2", specials[-1])
        model = build(replace(load.model, vocab_size=V))
    else:
        model, tokenizer = build(load.model), None
    return model.to(load.device), tokenizer


def training(load: Load) -> Run:
    """Forward, backward, clipping and AdamW on full rows."""
    model = load.lora.adapt(prepare(load)[0], load.dtype)
    stepper, T = Stepper(make_adamw([model], 1e-5, 0.01), 1.0), model.config.context
    ids = torch.randint(model.config.vocab_size, (load.rows, T)).tolist()
    examples = [Example(row, [False] + [True] * (T - 1)) for row in ids]
    return lambda: (accumulate(model, examples, load.rows, load.dtype), stepper.step(1e-5)) and load.rows * T


def sampling(load: Load) -> Run:
    """Sampling with the cache, of prompts that differ, under the training autocast."""
    model, _ = prepare(load)
    V = model.config.vocab_size  # and an EOS beyond it, so that every row runs to its end
    asked = torch.randint(V, (load.prompts, load.prompt)).tolist(), Sampling(load.new), V, range(load.prompts)
    return lambda: int(autocast(load.device, load.dtype)(generate)(model, *asked).mask.sum())


def rl(load: Load, algo: str) -> Run:
    """A round: sample, score by policy, reference and value head if there is one, learn."""
    config = PPOConfig("grpo", batch=32, minibatches=1, beta=0.02, temperature=0.7, max_new=40)  # 4 prompts x 8
    if algo == "ppo":
        config = PPOConfig(batch=load.prompts, epochs=4, minibatches=1, micro_rows=load.prompts, max_new=load.new)
    model, tokenizer = prepare(load, talks=True)
    policy = load.lora.adapt(model, load.dtype)
    models = models_of(policy, tokenizer, config.algorithm, load.dtype, load.lora.reference(policy))
    stepper = Stepper(make_adamw([x for x in (policy, models.value_head) if x], 1e-5, 0.0), 1.0)
    # A new model's tokens are bytes, and two roles. That of SmolLM2 makes 48 tokens of the whole text and its format.
    n = 99 if isinstance(load.model, Path) else load.prompt - 2 if algo == "ppo" else 46
    text = "Write {} words about the sea in a cold winter, no more, no less."
    asked = [{"prompt": text.format(i + 8)[:n]} for i in range(config.batch // config.algorithm.group)]
    reward_of = lambda record: lambda prompt, response, record: len(response) / config.max_new

    def iteration() -> float:
        rng = np.random.default_rng(0)
        rollout = advantages_of(sample_round(models, asked, reward_of, config, rng)[1], config.algorithm, config.beta)
        update(models, rollout, config, config.beta, stepper, 1e-5, rng)
        return int(rollout.mask.sum())

    return iteration


def bpe(load: Load, encode: bool) -> Run:
    """Training of a tokenizer to 2048 tokens on a MB of the tasks' own language, or encoding of it."""
    text = "\n".join(text for task in DEFAULT for text in task.documents(8000, 0))
    merges, MB = Tokenizer.train([text], 2048).merges, len(text.encode()) / 1e6
    # A new tokenizer each time: with a filled cache of words the second run would be another task.
    return lambda: (Tokenizer(merges).encode(text) if encode else Tokenizer.train([text], 2048)) and MB


ROWS = {"training": (training, "tokens/s"), "sampling": (sampling, "tokens/s"),
        "ppo": (partial(rl, algo="ppo"), "s"), "grpo": (partial(rl, algo="grpo"), "s")}  # fmt: skip
BPE = {"learn": (partial(bpe, encode=False), "MB/s"), "encode": (partial(bpe, encode=True), "MB/s")}


def measure(make: Callable[[], Run], unit: str, device: torch.device, repeats: int, peak: float = 1.0) -> dict:
    """Median, min and max in the unit; of a run its median seconds, amount, FLOPs, share of the peak; memory in GB."""
    gpu, KB = device.type == "cuda", 1 if sys.platform == "darwin" else 2**10  # bytes are counted there
    held = lambda: torch.cuda.max_memory_allocated(device) if gpu else KB * getrusage(RUSAGE_SELF).ru_maxrss
    finish = torch.cuda.synchronize if gpu else lambda: None  # what the GPU still has to do
    run, runs, start = make(), [], held()
    with FlopCounterMode(display=False) as counter:
        run()
    for _ in range(repeats):
        finish()
        begin, amount = time.perf_counter(), run()
        finish()
        runs.append((time.perf_counter() - begin, amount))
    rates, (seconds, amount) = [s if unit == "s" else n / s for s, n in runs], map(median, zip(*runs))
    row = {"median": median(rates), "min": min(rates), "max": max(rates), "unit": unit, "seconds": seconds}
    row |= {"amount": amount, "flops": (flops := counter.get_total_flops()), "share": flops / seconds / peak}
    return row | {"start_gb": start / 2**30, "peak_gb": held() / 2**30}


def rows_of(options: "Bench", machine: Machine, peak: float, **shared) -> Iterator[dict]:
    """Each row that is asked for, measured in a process of its own, because the peak of a process never falls.

    shared: fields of each Load.  With --scaling: each point of LADDERS, and how it stands to the first one. By law time
    grows with FLOPs; what is held beyond the start with tokens x layers x (width + heads x T / 16) of the largest pass.
    """
    jobs = [(x, row, row, SIZES.get(x) or Load(Path(x))) for x in options.sizes for row in options.rows if row in ROWS]
    jobs += [("tokenizer", row, row, Load(Path())) for row in BPE if "tokenizer" in options.rows]
    if options.scaling:
        jobs = [(what, f"{row} {at}", row, load) for what, (row, all) in LADDERS.items() for at, load in all.items()]
    first: dict = {}
    for size, name, row, load in jobs:
        make, unit, device = *(ROWS | BPE)[row], shared["device"]
        ask = partial(make, replace(load, **shared)), unit, device, options.repeats, peak
        with ProcessPoolExecutor(1, get_context("spawn"), machine.set_up) as pool:
            found = {"size": size, "row": name} | pool.submit(measure, *ask).result()
        if options.scaling:
            rows, T = (load.rows, load.model.context) if row == "training" else (load.prompts, load.prompt + load.new)
            shape = load.model
            held = min(rows * T * shape.layers * (C := shape.width), ROOM[device.type]) * (1 + shape.heads * T / 16 / C)
            now = found["seconds"], found["flops"], max(found["peak_gb"] - found["start_gb"], 1e-3), held
            names = "time", "time_law", "memory", "memory_law"
            found |= {name: x / y for name, x, y in zip(names, now, first.setdefault(size, now))}
        yield found
