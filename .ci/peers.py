"""Our speed beside that of other projects, on the same settings, in the same minutes: one table, as Markdown.

python .ci/peers.py --peers PYTHON --nanogpt DIR --trl-ppo DIR --model FOLDER --text FILE --evaluate FOLDER

Each repeat of a side is a process of its own, and the sides take turns: A B A B. Each process runs once for nothing and
then tells the median of a few runs; of tokenizers and of evaluate.py, its one run. The table has the median of these
over the repeats, and their range. Rows whose option is left out are left out. Threads are the environment's:
OMP_NUM_THREADS=2 python .ci/peers.py ...

    --peers     a Python with transformers, trl 1.16, tokenizers, datasets, peft
    --nanogpt   a checkout of karpathy/nanoGPT
    --trl-ppo   a folder for PYTHONPATH with trl 1.10, the last with PPO
    --model     SmolLM2-135M-Instruct as a Hugging Face folder
    --text      about 1.1 MB of text for the tokenizers
    --evaluate  a folder with the models base, sft and ppo: out, behind the main run
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHAPES = {  # layers, heads, width, vocabulary, rows, columns
    "small": (4, 4, 128, 512, 32, 128),
    "baby": (6, 6, 384, 65, 16, 256),
}
KINDS = [(dtype, attention) for dtype in ("float32", "bfloat16") for attention in ("sdpa", "eager")]


def median_of(run, n: int) -> float:
    """Median seconds of n runs behind one that does not count."""
    run()
    found = []
    for _ in range(n):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


# The peers' side: each job runs under their Python in a process of its own, and returns value and tokens.


def job_nanogpt(size: str, folder: str) -> dict:
    """Training of nanoGPT's model under bfloat16 autocast, tokens/s."""
    import torch

    sys.path.insert(0, folder)
    from model import GPT, GPTConfig

    L, H, C, V, B, T = SHAPES[size]
    model = GPT(GPTConfig(block_size=T, vocab_size=V, n_layer=L, n_head=H, n_embd=C, dropout=0.0, bias=True))
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    x, y = torch.randint(V, (2, B, T))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(x, y)[1]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad(set_to_none=True)

    return {"value": B * T / median_of(step, 8)}


def generate(model, rows: int, prompt: int, new: int, runs: int) -> dict:
    """Sampling by transformers' `generate` with its cache, tokens/s."""
    import torch

    ids = torch.randint(3, model.config.vocab_size - 1, (rows, prompt))
    asked = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": True, "top_k": 0, "pad_token_id": 0}
    run = lambda: model.generate(ids, attention_mask=torch.ones_like(ids), **asked)
    with torch.no_grad():
        return {"value": rows * new / median_of(run, runs)}


def job_gpt2(size: str, dtype: str, attention: str) -> dict:
    """A GPT-2 of ours in shape."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    L, H, C, V, _, T = SHAPES[size]
    config = GPT2Config(
        vocab_size=V, n_positions=T, n_embd=C, n_layer=L, n_head=H, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
        attn_implementation=attention, bos_token_id=0, eos_token_id=V - 1,
    )  # fmt: skip
    return generate(GPT2LMHeadModel(config).eval().to(getattr(torch, dtype)), 64, 16, 48, 4)


def job_smollm2(folder: str, dtype: str, attention: str) -> dict:
    """SmolLM2."""
    import torch
    from transformers import AutoModelForCausalLM

    load = AutoModelForCausalLM.from_pretrained
    return generate(load(folder, dtype=getattr(torch, dtype), attn_implementation=attention).eval(), 32, 48, 64, 2)


def between(trainer) -> float:
    """Median seconds between the ends of a TRL trainer's steps."""
    ends, log = [], trainer.log
    trainer.log = lambda *a, **k: (ends.append(time.perf_counter()), log(*a, **k))[1]
    trainer.train()
    return statistics.median(b - a for a, b in zip(ends, ends[1:]))


def job_ppo() -> dict:
    """An iteration of TRL's PPO: 64 x (16 + 48), 4 epochs of 1 step, seconds."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, PreTrainedTokenizerFast
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    import torch

    L, H, C, V, _, T = SHAPES["small"]
    config = GPT2Config(
        vocab_size=V, n_positions=T, n_embd=C, n_layer=L, n_head=H, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
        bos_token_id=0, eos_token_id=1, pad_token_id=2, num_labels=1,
    )  # fmt: skip
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(V)}, unk_token="w3"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w0", eos_token="w1", pad_token="w2")
    policy, reference = GPT2LMHeadModel(config), GPT2LMHeadModel(config)
    reference.load_state_dict(policy.state_dict())
    critic, judge = GPT2ForSequenceClassification(config), GPT2ForSequenceClassification(config)
    asked = Dataset.from_dict({"input_ids": torch.randint(4, V, (640, 16)).tolist()})
    args = PPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=64, gradient_accumulation_steps=1,
        num_mini_batches=1, num_ppo_epochs=4, total_episodes=64 * 6, response_length=48,
        local_rollout_forward_batch_size=64, num_sample_generations=0, report_to="none", save_strategy="no",
        use_cpu=True, bf16=False, logging_steps=1000, stop_token=None, missing_eos_penalty=None,
        gradient_checkpointing=False, disable_tqdm=True,
    )  # fmt: skip
    trainer = PPOTrainer(
        args=args, processing_class=tokenizer, model=policy, ref_model=reference, reward_model=judge,
        value_model=critic, train_dataset=asked, eval_dataset=asked.select(range(64)),
    )  # fmt: skip
    return {"value": between(trainer)}


def job_grpo(folder: str, dtype: str, lora: str) -> dict:
    """A step of TRL's GRPO on SmolLM2, on the prompts of bench: 8 answers of up to 40 tokens each, seconds."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    text = "Write {} words about the sea in a cold winter, no more, no less."
    asked = Dataset.from_dict({"prompt": [[{"role": "user", "content": text.format(i + 8)}] for i in range(4)]})
    args = GRPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=16, gradient_accumulation_steps=2,
        num_generations=8, max_completion_length=40, max_steps=4, learning_rate=1e-5, beta=0.02, temperature=0.7,
        report_to="none", save_strategy="no", use_cpu=True, bf16=dtype == "bfloat16", logging_steps=1,
        gradient_checkpointing=False, disable_tqdm=True,
    )  # fmt: skip
    adapters = LoraConfig(r=int(lora), lora_alpha=2 * int(lora), target_modules="all-linear") if lora != "0" else None
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype="float32"), args=args, peft_config=adapters,
        processing_class=AutoTokenizer.from_pretrained(folder), train_dataset=asked,
        reward_funcs=lambda completions, **k: [len(c[0]["content"]) / 40 for c in completions],
    )  # fmt: skip
    seconds = between(trainer)
    lengths = [log["completions/mean_length"] for log in trainer.state.log_history if "completions/mean_length" in log]
    return {"value": seconds, "tokens": 32 * statistics.median(lengths[1:])}


def job_rust(what: str, file: str) -> dict:
    """Hugging Face's tokenizers on one core: learn 4096 tokens, or encode the text, seconds."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    text, alphabet = Path(file).read_text(encoding="utf-8"), pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=4096, initial_alphabet=alphabet, show_progress=False)
    start = time.perf_counter()
    tokenizer.train_from_iterator([text], trainer)
    middle = time.perf_counter()
    n = len(tokenizer.encode(text).ids)
    return {"value": middle - start if what == "learn" else time.perf_counter() - middle, "tokens": n}


# Our side: the tool that users have, the tokenizer, and evaluate.py.


def job_bpe(what: str, file: str) -> dict:
    """As `job_rust`."""
    sys.path.insert(0, str(ROOT))
    from minirlhf.lm.tokenizer import Tokenizer

    text = Path(file).read_text(encoding="utf-8")
    start = time.perf_counter()
    merges = Tokenizer.train([text], 4096).merges
    middle = time.perf_counter()
    n = len(Tokenizer(merges).encode(text))
    return {"value": middle - start if what == "learn" else time.perf_counter() - middle, "tokens": n}


def job_evaluate(folder: str) -> dict:
    """evaluate.py of three models of the main run, on all its tasks, seconds."""
    models = [f"{name}={folder}/{name}" for name in ("base", "sft", "ppo")]
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        call([sys.executable, ROOT / "evaluate.py", "--models", *models, "--out", out])
        most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        return {"value": time.perf_counter() - start, "peak_gb": most}


def call(command: list, **environment: str) -> str:
    """What a command prints to stdout; its last words and an exit where it fails."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "WANDB_DISABLED": "true", "TRL_EXPERIMENTAL_SILENCE": "1"}
    env = {"RAYON_NUM_THREADS": "1", **env, "PYTHONPATH": "", **environment}
    end = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=env, cwd=ROOT)
    if end.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{end.stderr[-3000:]}")
    return end.stdout


def job(python: str, name: str, *words, **environment: str) -> dict:
    """A job in a process of its own."""
    return json.loads(call([python, __file__, "--job", name, *words], **environment).splitlines()[-1])


def bench(row: str, size: str, *words) -> dict:
    """A row of `python -m minirlhf.tools.bench`."""
    asked = ["--rows", row, "--sizes", size, "--json", *words]
    (found,) = json.loads(call([sys.executable, "-m", "minirlhf.tools.bench", *asked]))["rows"]
    return {"value": found["median"], "tokens": found["amount"], "peak_gb": found["peak_gb"], "share": found["share"]}


def rows_of(o: argparse.Namespace) -> list[tuple[str, dict, dict, str, str]]:
    """(Name, our side, the peers', unit, goal) of each row: a side is the ways to run it, of which the best counts."""
    them, rows, few = o.peers, [], ("--repeats", "3")
    if o.nanogpt:
        for size, goal in (("small", "1.8"), ("baby", "1.2")):
            ours, theirs = lambda s=size: bench("training", s), lambda s=size: job(them, "nanogpt", s, o.nanogpt)
            rows.append((f"training {size}, bfloat16", {"": ours}, {"nanoGPT": theirs}, "tokens/s", goal))
    for size, goals in (("small", ("2.5", "1.8")), ("baby", ("2.8", "1.25"))) if them else ():
        ours = {"": lambda s=size: bench("sampling", s)}
        for goal, dtype in zip(goals, ("float32", "bfloat16")):
            theirs = {f"transformers, {a}": lambda s=size, d=d, a=a: job(them, "gpt2", s, d, a)
                      for d, a in KINDS if d == dtype}  # fmt: skip
            rows.append((f"sampling {size} against {dtype}, 64 x (16 + 48)", ours, theirs, "tokens/s", goal))
    if o.trl_ppo:
        theirs = {"TRL 1.10": lambda: job(them, "ppo", PYTHONPATH=o.trl_ppo)}
        rows.append(("PPO iteration small", {"": lambda: bench("ppo", "small")}, theirs, "s", "7"))
    if o.model:
        for name, lora, dtype, goal in (
            ("", "0", "bfloat16", "3; 2/3 of its memory"), ("", "0", "float32", ""),
            (", LoRA against LoRA", "8", "bfloat16", "3.5"), (", LoRA against all weights", "8", "bfloat16", "3.5"),
        ):  # fmt: skip
            ours = {"": lambda lora=lora: bench("grpo", o.model, *few, *["--lora", lora][: 2 * (lora != "0")])}
            r = "0" if name.endswith("weights") else lora
            theirs = {"TRL 1.16": lambda d=dtype, r=r: job(them, "grpo", o.model, d, r)}
            rows.append((f"GRPO step SmolLM2{name}, against {dtype}", ours, theirs, "s", goal))
        theirs = {f"transformers, {d}, {a}": lambda d=d, a=a: job(them, "smollm2", o.model, d, a) for d, a in KINDS}
        ours = {"": lambda: bench("sampling", o.model, *few)}
        rows.append(("sampling SmolLM2, 32 x (48 + 64)", ours, theirs, "tokens/s", "1.8"))
    for what in ("learn", "encode") if o.text else ():
        ours, theirs = lambda w=what: job(sys.executable, "bpe", w, o.text), lambda w=what: job(them, "rust", w, o.text)
        rows.append((f"tokenizer: {what}, 4096 tokens", {"": ours}, {"tokenizers (Rust)": theirs}, "s", "keep"))
    if o.evaluate:
        ours = {"": lambda: job(sys.executable, "evaluate", o.evaluate)}
        rows.append(("evaluate.py, 3 models of the main run", ours, {}, "s", ""))
    return [row for row in rows if not o.rows or any(word in row[0] for word in o.rows)]


def best(side: dict, found: dict, unit: str) -> dict:
    """The fastest of a side's ways: median, min and max of its repeats, tokens, memory."""
    middle = {way: statistics.median(x["value"] for x in found[way]) for way in side}
    way = (min if unit == "s" else max)(middle, key=middle.get)
    values = [x["value"] for x in found[way]]
    told = {"way": way, "median": middle[way], "min": min(values), "max": max(values)}
    keys = [key for key in ("tokens", "peak_gb", "share") if key in found[way][0]]
    return told | {key: statistics.median(x[key] for x in found[way]) for key in keys}


def cell(side: dict, unit: str) -> str:
    """A side of a row in words."""
    form = ".3g" if unit == "s" else ",.0f"
    text = f"{side['way']}: " * bool(side["way"]) + f"{side['median']:{form}} {unit}"
    text += f" ({side['min']:{form}} to {side['max']:{form}})"
    text += f", {side['tokens']:.0f} tokens" if unit == "s" and "tokens" in side else ""
    return text + (f", {side['peak_gb']:.2f} GB" if "peak_gb" in side else "")


def main() -> None:
    """Run every row, both sides in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("peers", "nanogpt", "trl-ppo", "model", "text", "evaluate"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--rows", nargs="+", default=[], help="words of the names of the rows that are wanted")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", default="", help="a file for all figures")
    parser.add_argument("--job", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        found = globals()[f"job_{options.job[0]}"](*options.job[1:])
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        return print("\n" + json.dumps({"peak_gb": most} | found))
    table = []
    print("| row | minirlhf | peer | ratio | memory | goal |\n|---|---|---|--:|--:|---|")
    for name, ours, theirs, unit, goal in rows_of(options):
        found: dict = {}
        for _ in range(options.repeats):
            for key, run in {**ours, **theirs}.items():
                found.setdefault(key, []).append(run())
        us, peer = best(ours, found, unit), best(theirs, found, unit) if theirs else None
        row = {"row": name, "us": us, "peer": peer, "unit": unit, "goal": goal, "all": found}
        ratio = memory = None
        if peer:
            ratio = peer["median"] / us["median"] if unit == "s" else us["median"] / peer["median"]
            memory = us["peak_gb"] / peer["peak_gb"]
        table.append(row | {"ratio": ratio, "memory": memory})
        numbers = " | ".join("" if x is None else f"{x:.2f}" for x in (ratio, memory))
        print(f"| {name} | {cell(us, unit)} | {cell(peer, unit) if peer else ''} | {numbers} | {goal} |", flush=True)
        if options.json:
            Path(options.json).write_text(json.dumps(table, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
