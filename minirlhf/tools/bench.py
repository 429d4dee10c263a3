"""How fast it runs here, how near that is to what the machine can do, and how the cost grows.

python -m minirlhf.tools.bench --sizes smollm2 path/to/model --rows training grpo --lora 8
python -m minirlhf.tools.bench --scaling

A figure is the median of some repeats after a warm-up, with their range. Beside it stands its share of the peak: the
FLOP/s of a large square product in the training dtype, measured in the same run. The FLOPs of a figure are those of
all its matrix products, counted in the warm-up. They come to the usual law:

    a trained token   6 N + 12 L C T        a sampled token   2 N + 4 L C S

with N parameters in products (the head where it is applied), L layers, width C, T columns, and S columns so far.
Weights that LoRA freezes have no gradient: 4 N. Source: Kaplan et al. 2020, 2.1, who count half of attention, its
causal mean; Chowdhery et al. 2022, appendix B, who count all of it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from minirlhf.harness.files import UserError
from minirlhf.harness.machine import Machine
from minirlhf.harness.options import option, parse, run_script
from minirlhf.lm.config import LoRAOptions

NAMES = "small", "baby", "gpt2", "smollm2"


@dataclass(frozen=True)
class Bench:
    """What to measure."""

    sizes: tuple[str, ...] = option(("small", "baby"), f"models: {', '.join(NAMES)}, or a folder or GGUF file")
    rows: tuple[str, ...] = option(("training", "sampling", "ppo", "grpo", "tokenizer"), "what of each")
    repeats: int = option(5, "runs per measurement; their median counts", least=1)
    scaling: bool = option(False, "instead, how the cost grows", only="repeats json seed device dtype threads")
    json: bool = option(False, "print one JSON object")


def main() -> None:
    """Measure and print."""
    options, lora, machine = parse(__doc__, Bench, LoRAOptions, Machine, without=["merge"])
    device, dtype = machine.set_up()
    import torch  # here: --help does not wait for it

    from minirlhf.harness.device import environment
    from minirlhf.tools.measure import ROWS, SIZES, SQUARE, measure, rows_of

    for flag, words, known in (("sizes", options.sizes, SIZES), ("rows", options.rows, (*ROWS, "tokenizer"))):
        if unknown := [word for word in words if word not in known and not (known is SIZES and Path(word).exists())]:
            raise UserError(f"--{flag} {unknown[0]}: there are {', '.join(known)}")
    x = torch.randn(2 * [SQUARE[device.type]], device=device, dtype=dtype)
    square = measure(lambda: lambda: len(x @ x), "s", device, 8)
    rows = rows_of(options, machine, peak := square["flops"] / square["min"], device=device, dtype=dtype, lora=lora)
    where = environment() | {"device": str(device), "dtype": str(dtype), "peak": peak}
    if options.json:
        return print(json.dumps(where | {"rows": list(rows)}))
    print("{device}, {threads} threads, {dtype}: a large product makes {peak:.3g} FLOP/s".format(**where))
    text = "{size:<9} {row:<12} {median:>9,.{d}f} {unit:<8} ({min:,.{d}f} to {max:,.{d}f})"
    law = "; time x {time:.2f}, law {time_law:.2f}; memory x {memory:.2f}, law {memory_law:.2f}" * options.scaling
    for row in rows:
        beside = ", {share:.0%} of the peak" * bool(row["flops"])  # a tokenizer has no products
        print((text + beside + ", {peak_gb:.2f} GB" + law).format(d=3 * (row["unit"] != "tokens/s"), **row), flush=True)


if __name__ == "__main__":
    run_script(main)
