"""Models for other programs: a folder, a GGUF file and a folder again are one model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from llamas import CASES, by_formula

from minirlhf.lm import checkpoint
from minirlhf.lm.chat_formats import choose_format
from minirlhf.lm.lora import adapt, layers_of
from minirlhf.lm.quantize import prune
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.lm.vocabulary import CUTS, VocabularyTokenizer
from minirlhf.tools.convert import main

TEXTS = ["low lower   12  lowest 12\n newest", "你好 🙂", "<|im_end|> is text", ""]
SCALED = replace(CASES["llama3"], rope_scaling=(8.0, 1.0, 4.0, 8192), rope_base=500_000.0)  # what GGUF can hold


def foreign(cut: str, **more) -> VocabularyTokenizer:
    """A vocabulary in an order of its own, with ChatML and a system text."""
    ours = Tokenizer.train(["low lower lowest 12 12"] * 4, 266, "gpt2", ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokens = {token: 3 + i for i, token in enumerate(reversed(ours.token_bytes))}
    merges = [(ours.token_bytes[left], ours.token_bytes[right]) for left, right in ours.merges]
    specials = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    tokenizer = choose_format(VocabularyTokenizer(tokens, merges, specials, CUTS[cut], "<|im_end|>", **more), "chatml")
    tokenizer.chat = replace(tokenizer.chat, system='It\'s "so"\nand there')
    return tokenizer


TOKENIZERS = {
    "ours": lambda: Tokenizer.train(["low lower   lowest 12 12"] * 4, 267),
    "gpt2": lambda: Tokenizer.train(["low lower lowest 12 12"] * 4, 265, "gpt2", ["<|endoftext|>"]),
    "smollm": lambda: foreign("smollm"),
    "llama3": lambda: foreign("llama3", whole=True),
    "qwen2": lambda: foreign("qwen2", nfc=True),
}  # fmt: skip


@pytest.fixture
def convert(run_main, monkeypatch, tmp_path):
    """A function that runs the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *argv: run_main(main, "convert.py", *argv)


def same(a, b) -> bool:
    """Whether two models have the same config and the same bits."""
    states = a.state_dict(), b.state_dict()
    return a.config == b.config and all(torch.equal(x, states[1][name]) for name, x in states[0].items())


@pytest.mark.parametrize("family, name", [
    ("gpt2", "ours"), ("gpt2", "gpt2"), ("llama", "ours"), ("llama", "smollm"), ("scaled", "llama3"),
    ("qwen2", "qwen2"), ("qwen3", "qwen2"),
])  # fmt: skip
def test_a_folder_a_gguf_file_and_a_folder_again_are_one_model(family, name, convert, make_gpt):
    """Weights, config, and the tokenizer: its ids, its specials, its chat format with the system text."""
    tokenizer = TOKENIZERS[name]()
    shape = (CASES | {"scaled": SCALED}).get(family)
    size = tokenizer.vocab_size
    model = by_formula(replace(shape, vocab_size=size)) if shape else make_gpt(vocab_size=size)
    checkpoint.save("a", model, tokenizer, {"stage": "sft"})
    for words in (("a", "b.gguf"), ("b.gguf", "c"), ("c", "d.gguf")):
        status, out, err = convert(*words)
        files = [Path(words[1])] if words[1].endswith(".gguf") else Path(words[1]).iterdir()
        told = f"{sum(p.numel() for p in model.parameters()):,} parameters, {sum(f.stat().st_size for f in files) / 1e6:.2f} MB"
        assert status == 0 and out.endswith(f"{words[1]}: {told}\n"), err
        assert ("llama.cpp cuts white space" in out) == (name == "ours" and words[1].endswith(".gguf"))
    for path in ("a", "b.gguf", "c", "d.gguf"):
        again, read = checkpoint.load(path)
        assert same(again, model) and type(read) is type(tokenizer)
        known = (read.token_bytes, read.special_ids, read.eos, read.chat)
        assert known == (tokenizer.token_bytes, tokenizer.special_ids, tokenizer.eos, tokenizer.chat)
        assert [read.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]


def test_adapters_are_merged(convert):
    model, tokenizer = by_formula(replace(CASES["llama"], vocab_size=266)), foreign("smollm")
    checkpoint.save("base", model, tokenizer, {})
    for layer in layers_of(adapt(model, 2, 4.0)).values():
        torch.nn.init.normal_(layer.B)
    checkpoint.save_adapter("learnt", model, tokenizer, {}, "base")
    assert convert("learnt", "whole")[0] == 0 and convert("learnt", "whole.gguf")[0] == 0
    merged = checkpoint.load("learnt")[0]
    assert same(checkpoint.load("whole")[0], merged) and same(checkpoint.load("whole.gguf")[0], merged)
    assert not same(checkpoint.load("base")[0], merged)


@pytest.mark.parametrize("kind, least", [("Q8_0", 220), ("Q4_0", 7.9), ("Q4_1", 14.5)])
def test_fewer_bits_are_near(kind, least, convert):
    """Half a step of the largest weight, or in Q4_0 a whole one; the embedding has 8 bits in every kind."""
    model = by_formula(replace(CASES["llama"], vocab_size=266, width=64, inner=128))
    checkpoint.save("a", model, foreign("smollm"), {})
    assert convert("a", "small.gguf", "--kind", kind)[0] == 0
    again = checkpoint.load("small.gguf")[0].state_dict()
    for name, x in model.state_dict().items():
        assert (again[name] - x).abs().max() <= x.abs().max() / (220 if name == "wte.weight" else least), name


def test_a_folder_and_a_file_are_pruned_alike_and_the_folder_says_so(convert, make_gpt):
    tokenizer = TOKENIZERS["ours"]()
    model = make_gpt(vocab_size=tokenizer.vocab_size)
    checkpoint.save("a", model, tokenizer, {"stage": "sft"})
    assert convert("a", "b", "--prune", "0.5")[0] == 0 and convert("a", "b.gguf", "--prune", "0.5")[0] == 0
    pruned = checkpoint.load("b")[0]
    assert same(checkpoint.load("b.gguf")[0], pruned) and same(pruned, prune(model, 0.5))
    assert checkpoint.read_run("b") == {"stage": "sft", "pruned": 0.5} and checkpoint.read_run("a") == {"stage": "sft"}
    for name, share, known in (("c", 0.3, 0.5), ("d", 0.7, 0.7)):  # a smaller share finds the zeros that are there
        assert convert("b", name, "--prune", share)[0] == 0 and checkpoint.read_run(name)["pruned"] == known


@pytest.mark.parametrize("argv, said", [
    ("a a", "a: exists already; choose another name"),
    ("a b --kind Q8_0", "--kind Q8_0: is of a GGUF file, and b is a folder; leave it out"),
    ("a b.gguf --kind Q4_K", "--kind Q4_K: not one of F32, Q8_0, Q4_0, Q4_1"), ("a b --prune nan", "--prune nan: must be a finite number"),
    ("nowhere b", "nowhere: no such checkpoint folder or GGUF file"), ("a", "give MODEL and OUT"),
])  # fmt: skip
def test_wrong_use_ends_in_one_line(argv, said, convert, model, tokenizer):
    checkpoint.save("a", model, tokenizer, {})
    status, _, err = convert(*argv.split())
    assert status == 2 and said in err and err.count("\n") == 1
