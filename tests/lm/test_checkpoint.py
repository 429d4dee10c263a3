"""Checkpoints: what is saved is loaded, Hugging Face agrees, and no file, however damaged, does harm."""

import json
import os
import random
import struct

import pytest
import torch

from minirlhf.harness.files import UserError
from minirlhf.lm import tokenizer_files
from minirlhf.lm.checkpoint import (
    config_from_json, config_to_json, fingerprint, from_huggingface, load, save, save_adapter, to_huggingface,
)
from minirlhf.lm.lora import adapt, layers_of
from minirlhf.lm.model import GPT, GPTConfig
from minirlhf.lm.safetensors import Safetensors, write_safetensors
from minirlhf.lm.tokenizer import Tokenizer

FILES = {"config.json", "model.safetensors", "run.json", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture
def folder(tmp_path, make_gpt, tokenizer):
    """A checkpoint folder of a small model, with its tokenizer."""
    save(tmp_path / "sft", make_gpt(vocab_size=tokenizer.vocab_size), tokenizer, {"seed": 7})
    return tmp_path / "sft"


def packed(header, numbers: bytes = b"") -> bytes:
    """A safetensors file with this header: an object, or the bytes themselves."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def entry(dtype="F32", shape=(1,), offsets=(0, 4)) -> dict:
    """What a header says of one tensor."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def same_parameters(a: GPT, b: GPT) -> bool:
    """Whether two models are equal to the bit."""
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


# Folders


def test_what_is_saved_is_loaded(folder, make_gpt, tokenizer):
    """Parameters to the bit, the shape, and the tokenizer; and the folder holds nothing else."""
    model, read = load(folder)
    original = make_gpt(vocab_size=tokenizer.vocab_size)
    assert model.config == original.config and same_parameters(model, original)
    text = "lower the bar, 12 <|user|>é\n"
    assert read.encode(text) == tokenizer.encode(text) and read.special_ids == tokenizer.special_ids
    assert set(os.listdir(folder)) == FILES
    assert json.loads((folder / "run.json").read_text()) == {"seed": 7}


def test_a_loaded_model_is_float32_trainable_and_tied(folder):
    model, _ = load(folder)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in model.parameters())
    model.logits(model(torch.tensor([[1, 2]]))).sum().backward()
    with torch.no_grad():
        before = model.logits(torch.ones(16))
        model.wte.weight[3] += 1
        assert (model.logits(torch.ones(16)) - before)[3].item() == pytest.approx(16, abs=1e-3)


def test_the_file_has_gpt2s_names_and_shapes_and_the_tied_head_once(folder):
    """Conv1D keeps (in, out); 4 bytes a parameter, and no `lm_head.weight`."""
    tensors = Safetensors(folder / "model.safetensors")
    block = {
        "ln_1.weight": (16,), "ln_1.bias": (16,), "ln_2.weight": (16,), "ln_2.bias": (16,),
        "attn.c_attn.weight": (16, 48), "attn.c_attn.bias": (48,),
        "attn.c_proj.weight": (16, 16), "attn.c_proj.bias": (16,),
        "mlp.c_fc.weight": (16, 64), "mlp.c_fc.bias": (64,),
        "mlp.c_proj.weight": (64, 16), "mlp.c_proj.bias": (16,),
    }
    wanted = {f"transformer.h.{layer}.{name}": shape for layer in (0, 1) for name, shape in block.items()}
    wanted |= {"transformer.wte.weight": (260, 16), "transformer.wpe.weight": (32, 16),
               "transformer.ln_f.weight": (16,), "transformer.ln_f.bias": (16,)}
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == wanted


def test_the_four_matrices_of_a_layer_are_transposed_and_nothing_else_is(make_gpt):
    """Also the square one, which no shape would give away."""
    model = make_gpt()
    written = to_huggingface(model)
    for name, tensor in model.state_dict().items():
        is_matrix = name.startswith("h.") and tensor.dim() == 2
        assert torch.equal(written[f"transformer.{name}"], tensor.t() if is_matrix else tensor)


def save_cut_off(folder, model, tokenizer, n: int) -> None:
    """Save, and be interrupted when n files have taken their names."""
    replace, left = os.replace, [n]

    def cut_off(source, target):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        replace(source, target)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", cut_off)
        save(folder, model, tokenizer, {})


@pytest.mark.parametrize("n", range(len(FILES)))
def test_an_interrupted_save_over_an_older_one_is_no_checkpoint(folder, make_gpt, tokenizer, n):
    """At whichever file it is cut off: new weights under an old tokenizer would be neither."""
    save_cut_off(folder, make_gpt(seed=1, vocab_size=tokenizer.vocab_size), tokenizer, n)
    assert set(os.listdir(folder)) == FILES - {"config.json"}
    with pytest.raises(UserError, match="no config.json, not whole"):
        load(folder)


@pytest.mark.parametrize("n", range(len(FILES)))
def test_a_first_save_that_was_interrupted_is_no_checkpoint(tmp_path, make_gpt, tokenizer, n):
    """config.json takes its name last, so that a folder which has one is whole."""
    save_cut_off(tmp_path / "sft", make_gpt(vocab_size=tokenizer.vocab_size), tokenizer, n)
    with pytest.raises(UserError, match="config.json"):
        load(tmp_path / "sft")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("content", [None, b"", b"[]", b"\xff\xfe\x00", b"{", b"[" * 100_000],
                         ids=["missing", "empty", "a list", "not text", "cut off", "deep"])
def test_a_missing_or_damaged_file_is_named(folder, name, content):
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    if name == "tokenizer.json" and content is None:
        name = "merges.txt"
    with pytest.raises(UserError, match=name):
        load(folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such checkpoint folder"):
        load(tmp_path / "nowhere")


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path, make_gpt, tokenizer):
    """Its last ids would have no embedding."""
    save(tmp_path, make_gpt(vocab_size=259), tokenizer, {})
    with pytest.raises(UserError, match="260.*259"):
        load(tmp_path)


# Safetensors


def test_a_file_is_laid_out_as_the_format_says(tmp_path):
    """u64 little-endian header length, JSON from its first byte on, aligned, offsets without holes."""
    tensors = {"x": torch.tensor([1.0, 2.0]), "y": torch.tensor([[3]], dtype=torch.int16)}
    write_safetensors(tmp_path / "x", tensors)
    data = (tmp_path / "x").read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    assert data[8:9] == b"{" and size % 8 == 0
    assert json.loads(data[8 : 8 + size]) == {
        "__metadata__": {"format": "pt"},
        "x": entry("F32", (2,), (0, 8)), "y": entry("I16", (1, 1), (8, 10)),
    }
    assert data[8 + size :] == struct.pack("<ffh", 1.0, 2.0, 3)


def test_tensors_are_found_by_their_offsets_and_not_by_their_order(tmp_path):
    empty = entry(shape=(0, 3), offsets=(4, 4))
    header = {"b": entry(offsets=(4, 8)), "none": empty, "a": entry(offsets=(0, 4))}
    (tmp_path / "x").write_bytes(packed(header, struct.pack("<ff", 1.0, 2.0)))
    read = Safetensors(tmp_path / "x")
    assert read["a"].item() == 1 and read["b"].item() == 2 and read["none"].shape == (0, 3)


BROKEN = {
    "no bytes": b"",
    "half a length": b"\0" * 7,
    "no header": struct.pack("<Q", 0),
    "a header longer than the file": struct.pack("<Q", 100) + b"{}",
    "a huge header": struct.pack("<Q", 2**64 - 1) + b"{}",
    "a header over the limit": struct.pack("<Q", 2**63) + b"{}" * 50,
    "a list": packed(b"[]"),
    "a number": packed(b"1"),
    "not UTF-8": packed(b'{"\xff": 1}'),
    "not JSON": packed(b"{'a': 1}"),
    "deep": packed(b'{"a":' * 50_000),
    "an endless number": packed(b'{"a": ' + b"9" * 5000 + b"}"),
    "a tensor that is a list": packed({"a": [1]}),
    "no dtype": packed({"a": {"shape": [1], "data_offsets": [0, 4]}}, b"1234"),
    "an unknown dtype": packed({"a": entry("F8_E4M3", (4,))}, b"1234"),
    "a dtype that is a list": packed({"a": entry(["F32"])}, b"1234"),
    "no shape": packed({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, b"1234"),
    "a negative size": packed({"a": entry(shape=(-1,))}, b"1234"),
    "two negative sizes": packed({"a": entry(shape=(-1, -1))}, b"1234"),
    "a size that is a float": packed({"a": entry(shape=(1.0,))}, b"1234"),
    "a size that is true": packed({"a": entry(shape=(True,))}, b"1234"),
    "a size that is text": packed({"a": entry(shape="1")}, b"1234"),
    "a huge size beside an empty one": packed({"a": entry(shape=(0, 2**63), offsets=(0, 0))}),
    "huge sizes beside an empty one": packed({"a": entry(shape=(2**62, 0, 2**62), offsets=(0, 0))}),
    "one offset": packed({"a": entry(offsets=(0,))}, b"1234"),
    "three offsets": packed({"a": entry(offsets=(0, 4, 4))}, b"1234"),
    "offsets that are text": packed({"a": entry(offsets="04")}, b"1234"),
    "a negative offset": packed({"a": entry(offsets=(-4, 0))}, b"1234"),
    "offsets backwards": packed({"a": entry(shape=(0,), offsets=(4, 0))}, b"1234"),
    "a tensor behind the end": packed({"a": entry(offsets=(4, 8))}, b"1234"),
    "cut off": packed({"a": entry()}, b"123"),
    "too few bytes for the shape": packed({"a": entry(shape=(2,))}, b"1234"),
    "too many bytes for the shape": packed({"a": entry(offsets=(0, 8))}, b"12345678"),
    "an overlap": packed({"a": entry(shape=(2,), offsets=(0, 8)), "b": entry(offsets=(4, 8))}, b"12345678"),
    "the same bytes twice": packed({"a": entry(), "b": entry()}, b"1234"),
    "a hole in front": packed({"a": entry(offsets=(4, 8))}, b"12345678"),
    "a hole": packed({"a": entry(), "b": entry(offsets=(8, 12))}, b"123456789012"),
    "bytes behind the last tensor": packed({"a": entry()}, b"12345"),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_a_broken_safetensors_file_ends_in_one_line_that_names_it(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(UserError, match="^file: .*safetensors") as caught:
        Safetensors("file")
    assert "\n" not in str(caught.value)


def test_random_damage_ends_in_an_error_for_the_user_or_in_a_whole_model(make_gpt, tmp_path):
    """Bytes flipped, cut off, inserted and moved, mostly in the header: 1,500 files."""
    model, path = make_gpt(vocab_size=12, context=4, layers=1, width=4), tmp_path / "file"
    write_safetensors(path, to_huggingface(model))
    data = path.read_bytes()
    header = 8 + struct.unpack("<Q", data[:8])[0]
    rng, refused = random.Random(0), 0
    for _ in range(1500):
        damaged = bytearray(data)
        for _ in range(rng.choice([1, 1, 2, 5])):
            at = rng.randrange(8 if rng.random() < 0.2 else header if rng.random() < 0.9 else len(data))
            damage = rng.randrange(4)
            if damage == 0:
                damaged[at:at + 1] = bytes([rng.choice([rng.randrange(256), *b'0123456789[]{}",:-'])])
            elif damage == 1:
                del damaged[at:]
            elif damage == 2:
                del damaged[at : at + rng.randrange(1, 9)]
            else:
                damaged[at:at] = damaged[rng.randrange(header):][: rng.randrange(1, 9)]
        path.write_bytes(damaged)
        try:
            read = from_huggingface(dict(Safetensors(path)), model.config, "file")
        except UserError:
            refused += 1
        else:
            assert [p.shape for p in read.parameters()] == [p.shape for p in model.parameters()]
    assert 1000 < refused < 1500


WEIRD = [None, True, -1, 0, 1, 1.5, 2**63, 1e999, "", "F32", "I64", [], [0], [4, 0], [0, 4, 8], {}, {"a": 1}]


def test_headers_with_nonsense_in_them_end_in_an_error_for_the_user(make_gpt, tmp_path):
    """Every value of a tensor's entry replaced by each of many that do not belong there."""
    model, path = make_gpt(vocab_size=12, context=4, layers=1, width=4), tmp_path / "file"
    write_safetensors(path, to_huggingface(model))
    data = path.read_bytes()
    size = 8 + struct.unpack("<Q", data[:8])[0]
    key = "transformer.wpe.weight"
    for part in ("dtype", "shape", "data_offsets"):
        for index in (None, 0, 1):
            for value in WEIRD:
                header = json.loads(data[8:size])
                if index is None:
                    header[key][part] = value
                elif part != "dtype":
                    header[key][part][index] = value
                if header == json.loads(data[8:size]):
                    continue
                path.write_bytes(packed(header, data[size:]))
                with pytest.raises(UserError):
                    from_huggingface(dict(Safetensors(path)), model.config, "file")


def test_safetensors_reads_what_we_wrote(make_gpt, tmp_path):
    torch_format = pytest.importorskip("safetensors.torch")
    tensors = to_huggingface(make_gpt())
    tensors |= {"half": torch.arange(3).bfloat16(), "byte": torch.tensor(5).byte()}
    write_safetensors(tmp_path / "x", tensors)
    read = torch_format.load_file(tmp_path / "x")
    assert read.keys() == tensors.keys()
    assert all(read[k].dtype == v.dtype and torch.equal(read[k], v) for k, v in tensors.items())


@pytest.mark.parametrize("data", [b for name, b in BROKEN.items() if name not in (
    "an unknown dtype", "huge sizes beside an empty one", "a huge size beside an empty one")])
def test_the_reference_refuses_the_same_files(data):
    """The broken files are broken by the reference too, except for a type and sizes that it can hold."""
    torch_format = pytest.importorskip("safetensors.torch")
    with pytest.raises(Exception):
        torch_format.load(data)


# GPT-2's tensors


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_names_are_read_with_and_without_the_prefix(make_gpt, prefix):
    model = make_gpt()
    tensors = {prefix + k.removeprefix("transformer."): v for k, v in to_huggingface(model).items()}
    assert same_parameters(from_huggingface(tensors, model.config, "file"), model)


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_masks_of_old_checkpoints_and_a_second_head_are_ignored_but_no_bias_is(make_gpt, prefix):
    """`attn.bias` is a causal mask, `attn.c_attn.bias` a parameter (D13)."""
    model = make_gpt()
    tensors = {prefix + k.removeprefix("transformer."): v for k, v in to_huggingface(model).items()}
    for layer in (0, 1):
        tensors[f"{prefix}h.{layer}.attn.bias"] = torch.ones(1, 1, 32, 32, dtype=torch.uint8)
        tensors[f"{prefix}h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    tensors["lm_head.weight"] = model.wte.weight
    assert same_parameters(from_huggingface(tensors, model.config, "file"), model)
    del tensors[f"{prefix}h.1.attn.c_attn.bias"]
    with pytest.raises(UserError, match="h.1.attn.c_attn.bias"):
        from_huggingface(tensors, model.config, "file")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precisions_become_float32(make_gpt, dtype, tmp_path):
    model = make_gpt()
    write_safetensors(tmp_path / "x", {k: v.to(dtype) for k, v in to_huggingface(model).items()})
    read = from_huggingface(dict(Safetensors(tmp_path / "x")), model.config, "file")
    for got, wanted in zip(read.parameters(), model.parameters()):
        assert got.dtype == torch.float32 and torch.equal(got, wanted.to(dtype).float())


def test_every_missing_tensor_is_named(make_gpt):
    model = make_gpt(layers=1)
    tensors = to_huggingface(model)
    for name in tensors:
        with pytest.raises(UserError, match=name.removeprefix("transformer.")):
            from_huggingface({k: v for k, v in tensors.items() if k != name}, model.config, "file")


def test_an_unknown_tensor_is_named(make_gpt):
    """A third layer, or the head of a classifier, is not silently dropped."""
    model = make_gpt()
    for name in ("transformer.h.2.ln_1.bias", "score.weight"):
        with pytest.raises(UserError, match=f"file: .*{name.removeprefix('transformer.')}"):
            from_huggingface({**to_huggingface(model), name: torch.zeros(16)}, model.config, "file")


@pytest.mark.parametrize("change", [
    {"vocab_size": 51}, {"context": 33}, {"width": 32}, {"layers": 1}, {"layers": 3},
], ids=str)
def test_weights_of_another_shape_are_refused(make_gpt, change):
    """Also where the numbers would broadcast or be cut."""
    model = make_gpt()
    with pytest.raises(UserError, match="^file: "):
        from_huggingface(to_huggingface(model), GPTConfig(**{**vars(model.config), **change}), "file")


@pytest.mark.parametrize("name, shape", [
    ("wte.weight", (1, 16)), ("h.0.attn.c_attn.weight", (48, 16)), ("h.0.ln_1.weight", ()),
    ("ln_f.bias", (1,)), ("wpe.weight", (32, 16, 1)), ("h.1.mlp.c_fc.weight", (16, 64, 1)),
    ("h.1.mlp.c_proj.weight", (1024,)),
])
def test_a_tensor_of_another_shape_is_named_with_both_shapes(make_gpt, name, shape):
    model = make_gpt()
    tensors = {**to_huggingface(model), f"transformer.{name}": torch.zeros(shape)}
    with pytest.raises(UserError, match=f"file: {name}.*asks for"):
        from_huggingface(tensors, model.config, "file")


@pytest.mark.parametrize("size", [
    {"vocab_size": 10**14}, {"context": 10**14}, {"width": 10**8}, {"layers": 10**9},
], ids=str)
def test_sizes_that_config_makes_up_are_never_allocated(make_gpt, size):
    model = make_gpt()
    with pytest.raises(UserError, match="^file: "):
        from_huggingface(to_huggingface(model), GPTConfig(**{**vars(model.config), **size}), "file")


# config.json


GPT2 = {  # the file of openai-community/gpt2, less what concerns generation
    "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
    "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12,
    "n_layer": 12, "n_positions": 1024, "resid_pdrop": 0.1, "vocab_size": 50257,
}


def test_gpt2s_own_config_is_read():
    wanted = GPTConfig(vocab_size=50257, context=1024, layers=12, heads=12, width=768, dropout=0.1)
    assert config_from_json(GPT2, "config.json") == wanted
    assert config_from_json({**GPT2, "n_inner": None}, "config.json") == wanted
    assert config_from_json({**GPT2, "n_inner": 3072}, "config.json") == wanted


def test_our_config_comes_back():
    config = GPTConfig(vocab_size=77, context=9, layers=3, heads=5, width=10, dropout=0.25)
    written = json.loads(json.dumps(config_to_json(config, 3)))
    assert config_from_json(written, "config.json") == config
    assert [written[f"{kind}_token_id"] for kind in ("bos", "eos", "pad")] == [3, 3, 3]


@pytest.mark.parametrize("change", [
    {"model_type": "bloom"}, {"activation_function": "gelu"}, {"activation_function": "relu"},
    {"layer_norm_epsilon": 1e-6}, {"tie_word_embeddings": False}, {"scale_attn_weights": False},
    {"scale_attn_by_inverse_layer_idx": True}, {"add_cross_attention": True}, {"n_inner": 1024},
], ids=str)
def test_another_architecture_is_refused_by_the_key_that_says_so(change):
    (key,) = change
    with pytest.raises(UserError, match=f"^the/config.json: {key}"):
        config_from_json({**GPT2, **change}, "the/config.json")


@pytest.mark.parametrize("key", ["vocab_size", "n_positions", "n_layer", "n_head", "n_embd"])
def test_a_missing_size_is_named(key):
    with pytest.raises(UserError, match=key):
        config_from_json({k: v for k, v in GPT2.items() if k != key}, "config.json")


@pytest.mark.parametrize("key", ["vocab_size", "n_positions", "n_layer", "n_head", "n_embd", "resid_pdrop"])
@pytest.mark.parametrize("value", [None, -1, "x", [], {"a": 1}, float("inf"), float("nan")], ids=str)
def test_what_is_no_size_ends_in_an_error_for_the_user(key, value):
    with pytest.raises(UserError, match="^config.json: "):
        config_from_json({**GPT2, "n_inner": 3072, key: value}, "config.json")


# train_state.pt


# Hugging Face


@pytest.fixture
def transformers(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return pytest.importorskip("transformers")


TEXT = "lower and slower, it's 123 é 😉\n\n<|user|>low<|endoftext|>"


def test_hugging_face_opens_our_folder(transformers, folder):
    """AutoModelForCausalLM gives our logits, AutoTokenizer our ids, and generate our greedy tokens."""
    from minirlhf.lm.generation import Sampling, generate
    model, tokenizer = load(folder)
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert type(theirs).__name__ == "GPT2LMHeadModel" and not any(info.values())
    assert theirs.lm_head.weight is theirs.transformer.wte.weight
    assert theirs.config.eos_token_id == theirs.config.pad_token_id == tokenizer.eos_id
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    before, said = TEXT.removesuffix("<|endoftext|>").split("<|user|>")
    user = tokenizer.special_ids["<|user|>"]
    ids = [*tokenizer.encode(before), user, *tokenizer.encode(said), tokenizer.eos_id]
    assert their_tokenizer(TEXT)["input_ids"] == ids and their_tokenizer.decode(ids) == TEXT
    assert their_tokenizer.eos_token_id == tokenizer.eos_id and len(their_tokenizer) == tokenizer.vocab_size
    prompt = ids[:6]
    with torch.no_grad():
        got, wanted = model.eval()(torch.tensor([prompt])), theirs.eval()(torch.tensor([prompt])).logits
        torch.testing.assert_close(model.logits(got), wanted, atol=1e-5, rtol=1e-5)
        said = theirs.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, 6).long(),
                               do_sample=False, max_new_tokens=20)[0, 6:].tolist()
    ours = generate(model, [prompt], Sampling(20, temperature=0), tokenizer.eos_id, [0])
    assert ours.ids[0].tolist() == said


def test_we_open_a_folder_that_hugging_face_wrote(transformers, tmp_path, tokenizer):
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=260, n_positions=64, n_embd=48, n_layer=2, n_head=3)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    theirs.save_pretrained(tmp_path)
    tokenizer_files.save(tokenizer, tmp_path)
    transformers.AutoTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
    model, read = load(tmp_path)
    assert model.config == GPTConfig(260, 64, 2, 3, 48, dropout=0.1)
    ids = torch.tensor([read.encode(TEXT)])
    assert ids.tolist() == [tokenizer.encode(TEXT)]
    with torch.no_grad():
        torch.testing.assert_close(model.eval().logits(model(ids)), theirs(ids).logits, atol=1e-5, rtol=1e-5)


def test_a_model_that_passed_through_hugging_face_comes_back_to_the_bit(transformers, folder, tmp_path):
    transformers.AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "back")
    model, tokenizer = load(folder)
    tokenizer_files.save(tokenizer, tmp_path / "back")
    assert same_parameters(load(tmp_path / "back")[0], model)


def test_rows_that_no_token_stands_for_are_cut_on_loading(tmp_path):
    """Else they could be sampled, and then not be decoded."""
    tokenizer = Tokenizer()
    padded = GPT(GPTConfig(tokenizer.vocab_size + 44, context=16, layers=1, heads=2, width=8))
    save(tmp_path, padded, tokenizer, {})
    model, loaded = load(tmp_path)
    assert model.config.vocab_size == loaded.vocab_size == model.wte.num_embeddings
    assert torch.equal(model.wte.weight, padded.wte.weight[: tokenizer.vocab_size])


# Adapters


@pytest.fixture
def adapters(folder, tokenizer):
    """A function that saves adapters, which have learnt something, beside the model in another folder."""
    def make(name: str, base=folder):
        model = load(base)[0]
        run = {"base": fingerprint(model)}
        adapt(model, 2, 4.0)
        for layer in layers_of(model).values():
            torch.nn.init.normal_(layer.B, std=0.3)
        save_adapter(folder.parent / name, model, tokenizer, run, str(base))
        return folder.parent / name

    return make


def test_adapters_stand_on_a_model_or_on_adapters_but_not_in_a_ring(adapters, folder):
    first = adapters("a")
    second = adapters("b", first)
    weights = [load(path)[0].h[0].attn.c_attn.weight for path in (folder, first, second)]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
    for above in (first, second):
        config = json.loads((first / "adapter_config.json").read_text()) | {"base_model_name_or_path": str(above)}
        (first / "adapter_config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match="adapter_config.json: .* stands on these adapters itself"):
            load(second)


def test_adapters_beside_other_weights_than_in_training_are_refused(adapters, folder, make_gpt, tokenizer):
    first = adapters("a")
    save(folder, make_gpt(1, vocab_size=tokenizer.vocab_size), tokenizer, {})
    with pytest.raises(UserError, match="a: .* other weights than those of .*sft now"):
        load(first)


def test_adapters_beside_a_config_are_not_left_out(adapters, folder):
    """As some tools leave one there: transformers takes the adapters, too."""
    first = adapters("a")
    wanted = load(first)[0]
    (first / "config.json").write_bytes((folder / "config.json").read_bytes())
    assert same_parameters(load(first)[0], wanted)


def test_nothing_of_one_kind_is_left_where_the_other_is_written(adapters, folder, tokenizer):
    first = adapters("a")
    save(first, load(first)[0], tokenizer, {})
    assert set(os.listdir(first)) == FILES
    adapters("a")
    assert set(os.listdir(first)) == FILES - {"config.json", "model.safetensors"} | {
        "adapter_config.json", "adapter_model.safetensors"}  # fmt: skip


def test_a_model_that_is_loaded_draws_no_numbers(folder, monkeypatch):
    """Where tensors have none, torch would import 800 modules for that."""
    monkeypatch.setattr(torch.Tensor, "normal_", None)
    load(folder)
