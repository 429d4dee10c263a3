"""A folder in which a user has done everything once, as small as it can be: what a bad input must leave as it was.

    out/base out/sft out/ppo out/rm out/eval out/judgements    what the commands write where nothing else is said
    old/                                                        an evaluation before that
    stopped/ stopped-ppo/ stopped-dpo/                          trainings that were stopped after a step
    open/                                                       a study of which not all is judged
    gpt2/                                                       a checkpoint from elsewhere: vocab.json, merges.txt
    llama/ llama.gguf                                           another, of the Llama family: an index, a chat template
    adapter/                                                    adapters beside out/sft
    pairs.jsonl prompts.jsonl prefs.jsonl rich.jsonl table.csv corpus.txt mine.py    the user's own
    sft.json, ...                                               options of commands, for --config: CONFIGS
"""

import importlib
import importlib.util
import io
import json
import os
import pickle
import shlex
import signal
import sys
from collections.abc import Callable
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from threading import RLock
from unittest import mock

import torch
from tqdm import tqdm

from minirlhf.annotation import log
from minirlhf.harness.loop import Loop
from minirlhf.harness.options import run_script
from minirlhf.lm import checkpoint
from minirlhf.lm.chat_formats import recognise_format
from minirlhf.lm.families import config_to_json
from minirlhf.lm.gguf_models import write_gguf
from minirlhf.lm.llama import Llama, LlamaConfig
from minirlhf.lm.lora import adapt
from minirlhf.lm.model import GPT, GPTConfig
from minirlhf.lm.safetensors import write_safetensors
from minirlhf.lm.tokenizer import BYTE_ORDER, EOS, PAD, Tokenizer
from minirlhf.lm.vocabulary import CUTS, VocabularyTokenizer
from minirlhf.rl.reward_model import RewardModel, save_reward_model

ROOT = Path(__file__).parents[2]
SHAPE = {"layers": 1, "heads": 2, "width": 8, "context": 96, "vocab": 300, "base_steps": 2}
FIT = {"steps": 2, "batch": 2, "save_every": 1}
PPO = {"lr": 0.1, "iterations": 2, "batch": 4, "minibatches": 1, "max_new": 4, "save_every": 1}
CONFIGS = {  # no option stands in one where it could do nothing
    "sft.json": {"task": "sentiment", "examples": 20} | SHAPE | FIT,
    "more.json": {"task": "sentiment", "examples": 20, "dtype": "float32"} | FIT,  # with --init
    "own.json": SHAPE | FIT,  # with --data
    "ppo.json": {"examples": 20} | PPO,
    "mine.json": {"prompts": ["prompts.jsonl"]} | PPO,  # beside a --reward
    "eval.json": {"prompts": 3, "samples": 1},
    "dpo.json": {"data": ["prefs.jsonl"], "batch": 4, "held_out": 0, "save_every": 1},
}  # fmt: skip
REWARDS = """
def length(prompt, response, record):
    return len(response) / 10
"""


def jsonl(*records: dict) -> bytes:
    """The lines of a .jsonl file."""
    return "".join(json.dumps(record) + "\n" for record in records).encode()


OWN = {
    "pairs.jsonl": jsonl(*({"prompt": f"say {c}", "response": 2 * c} for c in "abcdefgh")),
    "prompts.jsonl": jsonl(*({"prompt": f"say {c}"} for c in "abcdefgh")),
    "rich.jsonl": jsonl(
        {"prompt": "say a", "response": "aa", "reference": ["aa", "a"], "label": "a", "n": 1.5},
        {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "é?"},
                      {"role": "assistant", "content": "1"}], "label": "b", "reference": "1"},
        {"prompt": "say c", "response": "", "label": "a"},
        {"text": "raw text, and more of it"},
    ),
    "table.csv": b'prompt,response,label\r\nsay a,"a ""a"", b",x\r\n"two\r\nlines",b,y\r\n',
    "prefs.jsonl": jsonl(*({"prompt": f"say {c}", "chosen": 2 * c, "rejected": c} for c in "abcdefgh")),
    "corpus.txt": b"to be or not to be " * 20,
    "mine.py": REWARDS.encode(),
} | {name: json.dumps(options).encode() for name, options in CONFIGS.items()}  # fmt: skip


def main_of(name: str) -> tuple[Callable[[], None], str]:
    """(The main of a script or tool, its name on the command line): train_sft.py, or a module of minirlhf/tools."""
    if not name.endswith(".py"):
        return importlib.import_module(f"minirlhf.tools.{name}").main, f"{name}.py"
    if (module := sys.modules.get(f"script {name}")) is None:
        spec = importlib.util.spec_from_file_location(f"script {name}", ROOT / name)
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module.main, name


def run(command: str) -> tuple[int, str, str]:
    """(Exit status, stdout, stderr) of a command in this process; what is no clean exit comes through."""
    name, *argv = shlex.split(command)
    main, shown = main_of(name)
    out, err, status = io.StringIO(), io.StringIO(), 0
    with mock.patch.object(sys, "argv", [shown, *argv]), redirect_stdout(out), redirect_stderr(err):
        try:
            run_script(main)
        except SystemExit as stop:
            status = stop.code
    return status or 0, out.getvalue(), err.getvalue()


def run_apart(command: str) -> tuple[int, str, str]:
    """`run` in a copy of this process, which a damaged state of an optimizer may well kill; -n for signal n."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reader)
            tqdm.set_lock(RLock())  # its own: the lock of all processes would stay locked if this one is killed
            with open(writer, "wb") as pipe:
                try:
                    pickle.dump(run(command), pipe)
                except BaseException as error:
                    pickle.dump((-1, "", f"{type(error).__name__}: {error}"), pipe)
        finally:
            os._exit(0)
    os.close(writer)
    try:
        with open(reader, "rb") as pipe:
            told = pipe.read()
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        status = os.waitpid(child, 0)[1]
    return pickle.loads(told) if told else (-status, "", "")


@contextmanager
def a_signal_after_the_first_step():
    """SIGTERM arrives in the first step of each training: what it saves is what a --resume goes on from."""
    record = Loop.record

    def logged(self, *arguments):
        record(self, *arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    with mock.patch.object(Loop, "record", logged):
        yield


def succeed(command: str, status: int = 0) -> None:
    """Run what must end as said."""
    found, _, err = run(command)
    assert found == status and "Traceback" not in err, f"{command}: {found}, {err}"


def make_study(folder: str, judged: int) -> None:
    """A study of two models' answers in `folder`, of which so many places are judged."""
    succeed(f"annotate make --study {folder} --items out/eval/items.jsonl --set sentiment --pairs 3 --models base ppo")
    with log.Session(folder, "ann") as session:
        for place in range(judged or session.total):
            session.act("left", place, 1.0, f"event {place}")


def build(folder: Path) -> None:
    """Make it all in an empty folder, which is the current one."""
    for name, data in OWN.items():
        (folder / name).write_bytes(data)
    succeed("train_sft.py --config sft.json")
    let_answers_end(folder / "out" / "sft")
    succeed("train_ppo.py --config ppo.json --out out/ppo")
    for out in ("old", "out/eval"):
        succeed(f"evaluate.py --config eval.json --out {out}")
    with a_signal_after_the_first_step():
        succeed("train_sft.py --config more.json --init out/base --out stopped", 130)
        succeed("train_ppo.py --config ppo.json --out stopped-ppo", 130)
        succeed("train_dpo --config dpo.json --out stopped-dpo", 130)
    model, tokenizer = checkpoint.load("out/sft")
    tokenizer.add_specials([PAD])
    checkpoint.resize_vocabulary(model, tokenizer.vocab_size)
    save_reward_model("out/rm", RewardModel(model), tokenizer, {"stage": "reward"})
    make_gpt2(folder / "gpt2")
    make_llama(folder / "llama", folder / "llama.gguf")
    model, tokenizer = checkpoint.load("out/sft")
    run = {"base": checkpoint.fingerprint(model)}
    checkpoint.save_adapter("adapter", adapt(model, 2, 4.0), tokenizer, run, "out/sft")
    make_study("out/judgements", 0)
    succeed("annotate close")
    make_study("open", 1)


def let_answers_end(folder: Path) -> None:
    """Make the end of text likely: a reward is asked about answers that end."""
    model, tokenizer = checkpoint.load(folder)
    with torch.no_grad():
        eos = model.wte.weight[tokenizer.eos_id]
        model.ln_f.bias += 6 * eos / (eos @ eos)
    write_safetensors(folder / "model.safetensors", checkpoint.to_huggingface(model))


def make_gpt2(folder: Path) -> None:
    """A GPT-2 as Hugging Face keeps it, with one special token and no run.json."""
    torch.manual_seed(0)
    tokenizer = Tokenizer([(72, 68)], "gpt2", [EOS])
    checkpoint.save(folder, GPT(GPTConfig(tokenizer.vocab_size, 32, 1, 2, 8)), tokenizer, {})
    vocabulary = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    for name in ("run.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    (folder / "vocab.json").write_text(json.dumps(vocabulary | {EOS: 257}), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\ni e\n", "utf-8")


def make_llama(folder: Path, gguf: Path) -> None:
    """A Llama as Hugging Face keeps a large one, and as one GGUF file; its special tokens come first."""
    torch.manual_seed(0)
    specials = {EOS: 0, "<|im_start|>": 1, "<|im_end|>": 2}
    tokens = {bytes([byte]): 3 + i for i, byte in enumerate(BYTE_ORDER)} | {b"ie": 259}
    tokenizer = VocabularyTokenizer(tokens, [(b"i", b"e")], specials, CUTS["smollm"], EOS)
    model = Llama(LlamaConfig(260, 64, 1, 2, 32, 1, inner=32))
    checkpoint.save(folder, model, recognise_format(tokenizer), {})
    tensors = checkpoint.to_huggingface(model)
    write_gguf(gguf, config_to_json(model.config, tokenizer.eos_id), tensors, tokenizer, "Q8_0")
    (folder / "run.json").unlink()
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
