"""How fast it runs here: training and sampling in tokens/s, a PPO iteration in s, memory in GB, the tokenizer in MB/s.

python -m minirlhf.tools.bench --sizes baby --repeats 10
python -m minirlhf.tools.bench --sizes smollm2 --repeats 1 --lora 8

Each figure is the best of some repeats after a warm-up: other programs only ever make it slower.
"""

import resource
import sys
import time
import timeit
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from minirlhf.harness.files import UserError
from minirlhf.harness.machine import Machine
from minirlhf.harness.options import option, parse, run_script
from minirlhf.lm.chat import Example
from minirlhf.lm.families import Config, build
from minirlhf.lm.generation import Sampling, generate
from minirlhf.lm.llama import LlamaConfig
from minirlhf.lm.lora import LoRAOptions
from minirlhf.lm.model import GPTConfig
from minirlhf.lm.optim import Stepper, make_adamw
from minirlhf.lm.sft import accumulate
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.lm.vocabulary import VocabularyTokenizer
from minirlhf.rl.algorithms import advantages_of
from minirlhf.rl.config import PPOConfig
from minirlhf.rl.ppo import models_of, update
from minirlhf.rl.rollout import collect
from minirlhf.tasks import TASKS

SIZES = {  # name -> a model, and the rows of its training batch
    "small": (GPTConfig(vocab_size=512, context=128, layers=4, heads=4, width=128), 32),
    "baby": (GPTConfig(vocab_size=65, context=256, layers=6, heads=6, width=384), 16),
    "gpt2": (GPTConfig(vocab_size=50257, context=128, layers=12, heads=12, width=768), 16),
    "smollm2": (LlamaConfig(49152, context=128, layers=30, heads=9, width=576, kv_heads=3, inner=1536), 16),
}
PROMPTS, PROMPT, NEW = 64, 16, 48  # prompts, tokens per prompt and per response, in sampling and in the PPO iteration


@dataclass(frozen=True)
class Bench:
    """What to measure."""

    sizes: tuple[str, ...] = option(("small", "baby"), "models to measure: " + ", ".join(SIZES))
    repeats: int = option(5, "runs per measurement; the best one counts", least=1)


def best_seconds(run: Callable[[], object], repeats: int) -> float:
    """The shortest of some wall times, after one run that does not count."""
    run()
    return min(timeit.repeat(run, timer=time.perf_counter, number=1, repeat=repeats))


def training_speed(
    shape: Config, rows: int, device: torch.device, dtype: torch.dtype, repeats: int, lora: LoRAOptions = LoRAOptions()
) -> float:
    """Tokens/s of forward, backward, clipping and AdamW on full rows."""
    model, T = lora.adapt(build(shape).to(device)), shape.context
    stepper = Stepper(make_adamw([model], 1e-3, 0.01), 1.0)
    ids = torch.randint(shape.vocab_size, (rows, T)).tolist()
    examples = [Example(row, [False] + [True] * (T - 1)) for row in ids]

    def step() -> None:
        accumulate(model, examples, rows, dtype)
        stepper.step(1e-3)

    return rows * T / best_seconds(step, repeats)


def sampling_speed(shape: Config, device: torch.device, repeats: int) -> float:
    """Sampled tokens/s with the cache, in float32."""
    model = build(shape).to(device)
    prompts = torch.randint(shape.vocab_size, (PROMPTS, PROMPT)).tolist()
    never = shape.vocab_size  # an EOS beyond the vocabulary, so that every row runs to its end
    return PROMPTS * NEW / best_seconds(lambda: generate(model, prompts, Sampling(NEW), never, range(PROMPTS)), repeats)


def ppo_iteration(
    shape: Config, device: torch.device, dtype: torch.dtype, repeats: int, lora: LoRAOptions = LoRAOptions()
) -> float:
    """Seconds per round: sample, score by policy, reference and value head, 4 epochs in 1 minibatch."""
    # With EOS last, a model that embeds one token fewer never ends a row early.
    specials = ("<|user|>", "<|assistant|>", "<|system|>", "<|endoftext|>")
    V = max(shape.vocab_size, 256 + len(specials) - 1)
    n = V + 1 - len(specials)  # ordinary tokens: bytes, then pairs of bytes
    tokens = {bytes([i]) if i < 256 else bytes(divmod(i - 256, 256)): i for i in range(n)}
    named = dict(zip(specials, range(n, V + 1)))
    tokenizer = VocabularyTokenizer(tokens, [], named, "gpt2", "<|endoftext|>")
    config, shape = PPOConfig(batch=PROMPTS, epochs=4, minibatches=1, micro_rows=PROMPTS), replace(shape, vocab_size=V)
    policy = lora.adapt(build(shape).to(device))
    models = models_of(policy, tokenizer, config.algorithm, dtype, lora.reference(policy))
    stepper = Stepper(make_adamw([policy, models.value_head], 1e-4, 0.0), 1.0)
    records = [{"prompt": "~" * (PROMPT - 2)}] * PROMPTS  # and two role tokens

    def iteration() -> None:
        reward_of = lambda record: lambda p, r, x: len(r) / NEW
        rollout = collect(models, records, reward_of, range(PROMPTS), Sampling(NEW), 0.0, config.micro_rows)
        rollout = advantages_of(rollout, config.algorithm, 0.05)
        update(models, rollout, config, 0.05, stepper, 1e-4, np.random.default_rng(0))

    return best_seconds(iteration, repeats)


def tokenizer_speed(repeats: int) -> tuple[float, float, float]:
    """(MB of text, MB/s of training to 2048 tokens, MB/s of encoding other text), on the tasks' own language."""
    texts = ["\n".join(text for task in TASKS.values() for text in task.documents(8000, seed)) for seed in (0, 1)]
    megabytes = [len(text.encode()) / 1e6 for text in texts]
    train = best_seconds(lambda: Tokenizer.train([texts[0]], 2048), repeats)
    merges = Tokenizer.train([texts[0]], 2048).merges
    # A new tokenizer each time: with a filled cache of words the second run would be another task.
    encode = best_seconds(lambda: Tokenizer(merges).encode(texts[1]), repeats)
    return megabytes[0], megabytes[0] / train, megabytes[1] / encode


def peak() -> str:
    """The most memory that the process has held so far, in words."""
    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, elsewhere kilobytes
    return f", at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit:.2f} GB so far"


def main() -> None:
    """Measure and print."""
    options, lora, machine = parse(__doc__.splitlines()[0], Bench, LoRAOptions, Machine, without=["merge"])
    device, dtype = machine.set_up()
    if unknown := [name for name in options.sizes if name not in SIZES]:
        raise UserError(f"--sizes {unknown[0]}: there are {', '.join(SIZES)}")
    print(f"{device}, {torch.get_num_threads()} threads, training in {dtype}, sampling in float32")
    for name in options.sizes:
        shape, rows = SIZES[name]
        speed = training_speed(shape, rows, device, dtype, options.repeats, lora)
        print(f"{name:<7} training      {speed:10,.0f} tokens/s{peak()}")
        print(f"{name:<7} sampling      {sampling_speed(shape, device, options.repeats):10,.0f} tokens/s{peak()}")
        print(f"{name:<7} PPO iteration {ppo_iteration(shape, device, dtype, options.repeats, lora):10.3f} s{peak()}")
    text, train, encode = tokenizer_speed(min(options.repeats, 3))
    print(f"tokenizer, {text:.1f} MB: training to 2048 tokens {train:.2f} MB/s, encoding {encode:.2f} MB/s")


if __name__ == "__main__":
    run_script(main)
