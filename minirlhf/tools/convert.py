"""Write a model for other programs: a Hugging Face folder with any adapter merged, or one GGUF file.

    python -m minirlhf.tools.convert out/ppo ppo.gguf --kind Q8_0
    python -m minirlhf.tools.convert out/ppo pruned --prune 0.5
    python -m minirlhf.tools.convert SmolLM2-135M-Instruct.Q4_1.gguf smollm2/

Proved by tests/tools/test_convert.py.
"""

from dataclasses import dataclass
from pathlib import Path

from minirlhf.harness.files import UserError
from minirlhf.harness.machine import load_torch
from minirlhf.harness.options import option, parse, run_script


@dataclass(frozen=True)
class Options:
    """What, and where to."""

    model: str = option("", "a folder, or a GGUF file", bare=True)
    out: str = option("", "what to write, and not to replace: a FILE.gguf, or else a folder", bare=True)
    kind: str = option("F32", "of the matrices in a GGUF file", choices=("F32", "Q8_0", "Q4_0", "Q4_1"))
    prune: float = option(0.0, "share of each matrix of the blocks to set to 0, the least weights", least=0, most=1)


def main() -> None:
    """Read and write."""
    (options,) = parse(__doc__, Options)
    load_torch()
    from minirlhf.lm import checkpoint  # here: --help does not wait for torch
    from minirlhf.lm.families import config_to_json
    from minirlhf.lm.gguf_models import write_gguf
    from minirlhf.lm.quantize import prune

    if not options.out:
        raise UserError("give MODEL and OUT: what to convert, and what to write")
    if Path(options.out).exists():
        raise UserError(f"{options.out}: exists already; choose another name")
    gguf = options.out.endswith(".gguf")
    if options.kind != "F32" and not gguf:
        raise UserError(f"--kind {options.kind}: is of a GGUF file, and {options.out} is a folder; leave it out")
    model, tokenizer = checkpoint.load(options.model)
    prune(model, options.prune)
    if gguf:
        config = config_to_json(model.config, tokenizer.eos_id)
        write_gguf(options.out, config, checkpoint.to_huggingface(model), tokenizer, options.kind)
    else:
        run = checkpoint.read_run(options.model)
        share = max(options.prune, run.get("pruned", 0.0))  # zeros are the least weights: pruning again adds to none
        checkpoint.save(options.out, model, tokenizer, run | ({"pruned": share} if share else {}))
    if gguf and getattr(tokenizer, "pattern", "") == "gpt2-digits":
        print("llama.cpp cuts white space before a digit in its own way: several spaces there can be other tokens")
    size = sum(file.stat().st_size for file in ([Path(options.out)] if gguf else Path(options.out).iterdir())) / 1e6
    print(f"{options.out}: {sum(p.numel() for p in model.parameters()):,} parameters, {size:.2f} MB")


if __name__ == "__main__":
    run_script(main)
