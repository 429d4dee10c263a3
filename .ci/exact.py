"""How exact: SmolLM2 beside transformers, and our GGUF files beside llama.cpp. One line per figure.

python .ci/exact.py --model SmolLM2-135M-Instruct.Q4_1.gguf --ours out/ppo 2> log

It wants the packages of requirements.txt, transformers and llama-cpp-python, which says a lot to stderr.
"""

import argparse
import ctypes
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from minirlhf.lm import checkpoint
from minirlhf.lm.chat import render_prompt
from minirlhf.lm.generation import Sampling, generate, pad_left, responses_of
from minirlhf.lm.gguf import Gguf

FTYPES = {"Q8_0": 7, "Q4_0": 2, "Q4_1": 3}  # of llama.h
ASKED = [{"prompt": f"What is {7 * i + 12} + {5 * i + 31}? Reply with just the number."} for i in range(10)]


def convert(model: str | Path, out: Path, *options: str) -> Path:
    """What `python -m minirlhf.tools.convert` writes."""
    call = [sys.executable, "-m", "minirlhf.tools.convert", str(model), str(out), *options]
    subprocess.run(call, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return out


@torch.no_grad()
def beside_transformers(model: str, folder: Path) -> None:
    """Logits on rows that are padded on the left, with the positions of real tokens and without."""
    from transformers import AutoModelForCausalLM

    ours, tokenizer = checkpoint.load(model)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
    prompts = [render_prompt({"prompt": "say " + "very " * n + "little"}, tokenizer) for n in (1, 60)]
    for dtype in (torch.float32, torch.float64):
        ours, theirs = ours.to(dtype), theirs.to(dtype)
        for columns in (max(map(len, prompts)), 2000):
            ids, mask = pad_left([*prompts, (prompts[0] * columns)[:columns]], 0)
            wanted = ours.logits(ours(ids, mask))[mask]
            for positions in ((mask.cumsum(1) - 1).clamp(min=0), None):
                found = theirs(input_ids=ids, attention_mask=mask.long(), position_ids=positions).logits[mask]
                apart = float((found - wanted).abs().max() / wanted.abs().max())
                how = "without" if positions is None else "with"
                print(f"{dtype}, {columns} columns, {how} position_ids: {apart:.1e} of the largest", flush=True)


def quantised(source: Path, kind: str) -> Path:
    """The file that llama.cpp's own quantiser makes of an F32 file."""
    import llama_cpp

    out, params = source.with_suffix(f".{kind}.theirs"), llama_cpp.llama_model_quantize_default_params()
    params.ftype = FTYPES[kind]
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params))
    if status:
        sys.exit(f"llama.cpp cannot quantise {source}: status {status}")
    return out


def raw(file: Gguf, name: str) -> tuple[int, bytes]:
    """The kind and the bytes of a tensor."""
    _, kind, start, size = file._places[name]
    return kind, file._map[(at := file._begin + start) : at + size]


def beside_llama_cpp(model: str, work: Path) -> dict[str, Path]:
    """Compares files of each kind, tensor by tensor, and returns ours."""
    name = Path(model).stem
    files = {kind: convert(model, work / f"{name}.{kind}.gguf", "--kind", kind) for kind in ("F32", *FTYPES)}
    for kind in FTYPES:
        ours, theirs = Gguf(files[kind]), Gguf(quantised(files["F32"], kind))
        same = sum(name in ours and raw(ours, name) == raw(theirs, name) for name in theirs)
        print(f"{model}, {kind}: {same} of {len(theirs)} tensors have llama.cpp's bits", flush=True)
    return files


def greedy_answers(files: dict[str, Path]) -> None:
    """Ten greedy answers to sums by llama.cpp, beside ours of the same file."""
    from llama_cpp import Llama

    for kind, file in files.items():
        model, tokenizer = checkpoint.load(file)
        prompts = [render_prompt(record, tokenizer) for record in ASKED]
        wanted = responses_of(generate(model, prompts, Sampling(24, temperature=0), tokenizer.eos_id, range(10)))
        engine, same = Llama(str(file), n_ctx=256, verbose=False), 0
        for prompt, said in zip(prompts, wanted):
            found = []
            for token in engine.generate(prompt, temp=0.0, reset=True):
                if token == tokenizer.eos_id or len(found) == 24:
                    break
                found.append(token)
            same += found == said
        print(f"{kind}: {same} of {len(prompts)} greedy answers of llama.cpp are ours", flush=True)


def main() -> None:
    """Print every figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="SmolLM2's GGUF file")
    parser.add_argument("--ours", required=True, help="a checkpoint of the main run")
    options = parser.parse_args()
    options.model, options.ours = (str(Path(path).resolve()) for path in (options.model, options.ours))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        hf = convert(options.model, work / "hf")
        states = [checkpoint.load(path)[0].state_dict() for path in (options.model, hf)]
        same = sum(torch.equal(x, states[1][name]) for name, x in states[0].items())
        print(f"file and folder: {same} of {len(states[0])} tensors are equal")
        beside_transformers(options.model, hf)
        files, _ = [beside_llama_cpp(model, work) for model in (options.model, options.ours)]
        greedy_answers(files)


if __name__ == "__main__":
    main()
