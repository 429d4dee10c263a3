"""Where weights come from: one file or several, torch's format, each tensor checked; damage and code are refused."""

import json
import os
from pathlib import Path

import pytest
import torch
from llamas import CASES, by_formula, some_ids

from minirlhf.harness.files import UserError
from minirlhf.lm import checkpoint, llama_files
from minirlhf.lm.checkpoint import from_huggingface, to_huggingface
from minirlhf.lm.safetensors import write_safetensors
from minirlhf.lm.weights import fill, read_torch, read_weights


def same(tensors, wanted) -> bool:
    return tensors.keys() == wanted.keys() and all(torch.equal(tensors[k], x) for k, x in wanted.items())


def in_two(folder: Path, tensors: dict, write, name: str) -> None:
    """The tensors in two files and an index."""
    names = list(tensors)
    files = {key: f"part-{i % 2}" for i, key in enumerate(names)}
    for file in {*files.values()}:
        write(folder / file, {k: tensors[k] for k in names if files[k] == file})
    (folder / f"{name}.index.json").write_text(json.dumps({"weight_map": files}))


WAYS = {
    "model.safetensors": write_safetensors,
    "pytorch_model.bin": lambda path, tensors: torch.save(tensors, path),
}


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("name", WAYS)
def test_one_file_or_several_give_the_same_tensors(name, parts, tmp_path):
    tensors = {k: x.contiguous() for k, x in to_huggingface(by_formula(CASES["qwen2"])).items()}
    WAYS[name](tmp_path / name, tensors) if parts == 1 else in_two(tmp_path, tensors, WAYS[name], name)
    read, _ = read_weights(tmp_path)
    assert same(read, tensors)


def test_a_shard_that_is_gone_or_elsewhere_is_named(tmp_path):
    in_two(tmp_path, {"a": torch.ones(1), "b": torch.ones(1)}, WAYS["model.safetensors"], "model.safetensors")
    (tmp_path / "part-1").unlink()
    with pytest.raises(UserError, match="part-1"):
        read_weights(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../part-0"}}))
    with pytest.raises(UserError, match="'../part-0' is no file beside it"):
        read_weights(tmp_path)


class Code:
    def __reduce__(self):
        return os.mkdir, ("run-by-a-pickle",)


STRANGE = torch.ones(2, 2).to_sparse(), torch.ones(1, device="meta")


@pytest.mark.parametrize("content", [{"a": Code()}, {"a": [1]}, [torch.ones(1)], None, {1: torch.ones(1)},
                                     *({"a": x} for x in STRANGE)])
def test_a_pickle_of_anything_but_tensors_is_refused_and_not_run(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "pytorch_model.bin")
    with pytest.raises(UserError, match="pytorch_model.bin: .*get the model.safetensors"):
        read_torch(Path("pytorch_model.bin"))
    assert not Path("run-by-a-pickle").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_types_are_read_as_float32(dtype):
    model = by_formula(CASES["llama"])
    read = from_huggingface({k: x.to(dtype) for k, x in to_huggingface(model).items()}, model.config, "f")
    for x, y in zip(read.parameters(), model.parameters()):
        assert x.dtype == torch.float32 and torch.equal(x, y.to(dtype).float()) and x.requires_grad


@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_llama_without_the_prefix_of_a_head_is_read(prefix):
    model = by_formula(CASES["llama"])
    tensors = {prefix + k.removeprefix("model."): x for k, x in to_huggingface(model).items()}
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)  # old checkpoints carry it
    read = from_huggingface(tensors, model.config, "f")
    assert same(read.state_dict(), model.state_dict())


def test_a_head_of_its_own_in_a_model_that_ties_it_is_refused():
    """A tied model may carry its embedding twice, and no other head: which of them to take cannot be known."""
    model = by_formula(CASES["llama"])
    tensors = to_huggingface(model)
    twice = tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    assert same(from_huggingface(twice, model.config, "f").state_dict(), model.state_dict())
    with pytest.raises(UserError, match="lm_head.weight is not the embedding"):
        from_huggingface(tensors | {"lm_head.weight": twice["lm_head.weight"] + 1}, model.config, "f")


def test_a_model_is_filled_in_place():
    """What an optimizer holds stays what it holds."""
    model, other = by_formula(CASES["qwen3"]), zeros("qwen3")
    before = [p.data_ptr() for p in other.parameters()]
    fill(other, to_huggingface(model), llama_files, "f")
    assert same(other.state_dict(), model.state_dict()) and [p.data_ptr() for p in other.parameters()] == before


def zeros(name: str):
    model = by_formula(CASES[name])
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    return model


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_of_the_llama_family_is_loaded_as_it_was_saved(name, tmp_path, tokenizer):
    model = by_formula(CASES[name])
    checkpoint.resize_vocabulary(model, tokenizer.vocab_size)
    checkpoint.save(tmp_path, model, tokenizer, {})
    read, again = checkpoint.load(tmp_path)
    assert read.config == model.config and same(read.state_dict(), model.state_dict())
    assert again.special_ids == tokenizer.special_ids


@pytest.mark.parametrize("name", CASES)
def test_hugging_face_opens_what_we_write_and_says_the_same(name, tmp_path, tokenizer):
    transformers = pytest.importorskip("transformers")
    model = by_formula(CASES[name])
    checkpoint.resize_vocabulary(model, tokenizer.vocab_size)
    checkpoint.save(tmp_path, model, tokenizer, {})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = some_ids(2, 12)
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, model.logits(model(ids)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_we_open_what_hugging_face_writes_in_shards(name, tmp_path, tokenizer):
    transformers = pytest.importorskip("transformers")
    model = by_formula(CASES[name])
    checkpoint.resize_vocabulary(model, tokenizer.vocab_size)
    checkpoint.save(tmp_path / "ours", model, tokenizer, {})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.bfloat16)
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    transformers.AutoTokenizer.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors.index.json").exists()
    read, again = checkpoint.load(tmp_path)
    assert again.special_ids == tokenizer.special_ids and again.chat == tokenizer.chat
    for x, y in zip(read.parameters(), model.parameters()):
        assert torch.equal(x, y.bfloat16().float())
