"""Whole models in GGUF files: what is written is read back, and another library reads the same."""

from dataclasses import replace

import pytest
import torch
from llamas import CASES, by_formula, some_ids
from memory import OneAtATime

from minirlhf.harness.files import UserError
from minirlhf.lm.checkpoint import config_to_json as gpt2_to_json
from minirlhf.lm.chat_formats import FORMATS, choose_format, missing_specials
from minirlhf.lm.checkpoint import to_huggingface
from minirlhf.lm.gguf import Gguf, write
from minirlhf.lm.gguf_models import interleave, read_gguf, separate, tokenizer_metadata, write_gguf
from minirlhf.lm.llama_files import config_from_json, config_to_json, their_name
from minirlhf.lm.llama import Llama
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.lm.vocabulary import CUTS, VocabularyTokenizer

TOKENIZER = Tokenizer.train(["low lower lowest 12 low lower"], 264, "gpt2")


def written(path, config, kind="F32"):
    model = by_formula(replace(config, vocab_size=TOKENIZER.vocab_size))
    raw = config_to_json(model.config, TOKENIZER.eos_id)
    write_gguf(path, raw, to_huggingface(model), TOKENIZER, kind)
    return model


def opened(path) -> Llama:
    raw, tensors, _ = read_gguf(path)
    model = Llama(config_from_json(raw, str(path)))
    model.load_state_dict({name: tensors[their_name(name)] for name in model.state_dict()})
    return model.eval()


@pytest.mark.parametrize("name", ["llama", "llama3", "qwen2", "qwen3"])
def test_a_written_model_is_read_back_to_the_bit(tmp_path, name):
    config = CASES[name]
    if config.rope_scaling:
        config = replace(config, rope_scaling=(8.0, 1.0, 4.0, 8192), rope_base=500_000.0)  # what the format can hold
    model, again = written(tmp_path / "m.gguf", config), opened(tmp_path / "m.gguf")
    assert again.config == model.config
    assert all(torch.equal(x, model.state_dict()[k]) for k, x in again.state_dict().items())
    torch.testing.assert_close(again(some_ids(2, 9)), model(some_ids(2, 9)))


def test_the_tokenizer_in_the_file_gives_the_same_ids(tmp_path):
    written(tmp_path / "m.gguf", CASES["llama"])
    _, _, tokenizer = read_gguf(tmp_path / "m.gguf")
    for text in ("low lower 1 12  x", "你好 🙂", ""):
        assert tokenizer.encode(text) == TOKENIZER.encode(text)
    assert tokenizer.special_ids == TOKENIZER.special_ids and tokenizer.eos_id == TOKENIZER.eos_id


def test_rows_of_8_bits_are_near_and_the_rest_is_exact(tmp_path):
    model, again = written(tmp_path / "m.gguf", CASES["llama"], "Q8_0"), opened(tmp_path / "m.gguf")
    wanted = model.state_dict()
    for name, x in again.state_dict().items():
        error = float((x - wanted[name]).abs().max())
        whole = x.dim() == 1 or x.shape[1] % 32
        assert error == 0 if whole else 0 < error <= float(wanted[name].abs().max()) / 220, name  # half a step, and the float16 of the scale


def test_queries_and_keys_are_turned_to_llama_cpps_order_and_back():
    """Two heads of four rows: the pair (i, i + D/2) stands side by side there."""
    x = torch.arange(8.0).view(8, 1)
    assert interleave(x, 2).view(-1).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert torch.equal(separate(interleave(x, 2), 2), x)


@pytest.mark.parametrize("name, moved", [("llama", True), ("qwen2", False), ("qwen3", False)])
def test_the_file_has_a_llamas_rows_in_llama_cpps_order_and_those_of_others_as_they_are(tmp_path, name, moved):
    """Row 2 i + j of a head there is row i + j D/2 here."""
    model = written(tmp_path / "m.gguf", CASES[name])
    file, attn, D = Gguf(tmp_path / "m.gguf"), model.h[1].attn, model.config.head_size
    rows = [i + j * D // 2 for i in range(D // 2) for j in (0, 1)] if moved else [*range(D)]
    for ours, theirs in ((attn.q_proj, "attn_q"), (attn.k_proj, "attn_k"), (attn.v_proj, "attn_v")):
        heads = ours.weight.view(-1, D, model.config.width)
        wanted = heads if theirs == "attn_v" else heads[:, rows]
        assert torch.equal(file[f"blk.1.{theirs}.weight"].view_as(heads), wanted)


def test_the_cut_of_another_vocabulary_is_no_pattern_of_ours():
    tokens = {bytes([b]): b for b in range(256)}
    other = VocabularyTokenizer(tokens, [], {"<eos>": 256}, CUTS["smollm"], "<eos>")
    patterns = [tokenizer_metadata(x)["minirlhf.pattern"] for x in (Tokenizer(), other)]
    assert patterns == ["gpt2-digits", ""]


def test_rows_that_fill_up_a_vocabulary_are_no_text(tmp_path):
    """llama.cpp's converter names them [PAD0], say, and calls them unused: type 5."""
    written(tmp_path / "m.gguf", CASES["llama"])
    file = Gguf(tmp_path / "m.gguf")
    more = {"tokenizer.ggml.tokens": ["[PAD0]"], "tokenizer.ggml.token_type": [5]}
    embedding = {"token_embd.weight": torch.cat([file["token_embd.weight"], torch.zeros(1, 32)])}
    write(tmp_path / "n.gguf", file.metadata | {k: file.metadata[k] + x for k, x in more.items()}, dict(file) | embedding)
    _, _, tokenizer = read_gguf(tmp_path / "n.gguf")
    assert tokenizer.vocab_size == TOKENIZER.vocab_size + 1 and tokenizer.special_ids["[PAD0]"] == TOKENIZER.vocab_size
    assert tokenizer.encode("low [PAD0]") == TOKENIZER.encode("low [PAD0]")


def test_a_model_whose_tensors_are_made_when_asked_for_is_written_one_at_a_time(tmp_path):
    """The turned queries and keys and the scaling of positions, too."""
    model = written(tmp_path / "m.gguf", CASES["llama3"])
    tensors = OneAtATime(to_huggingface(model))
    write_gguf(tmp_path / "lazy.gguf", config_to_json(model.config, TOKENIZER.eos_id), tensors, TOKENIZER)
    assert (tmp_path / "lazy.gguf").read_bytes() == (tmp_path / "m.gguf").read_bytes()


def test_a_gpt_2_is_written_and_read_back(tmp_path, make_gpt):
    model = make_gpt(vocab_size=TOKENIZER.vocab_size)
    write_gguf(tmp_path / "m.gguf", gpt2_to_json(model.config, TOKENIZER.eos_id), to_huggingface(model), TOKENIZER)
    raw, tensors, _ = read_gguf(tmp_path / "m.gguf")
    wanted = {name.removeprefix("transformer."): x for name, x in to_huggingface(model).items()}
    assert raw["n_embd"] == model.config.width and tensors.keys() == wanted.keys()
    assert all(torch.equal(tensors[name], x) for name, x in wanted.items())


@pytest.mark.parametrize(
    "metadata, tensors, why",
    [({"general.architecture": "bloom"}, {}, "this code knows llama"), ({}, {}, "this code knows llama"),
     ({"general.architecture": "llama", "tokenizer.ggml.model": "llama"}, {}, "its tokenizer is 'llama'"),
     ({"general.architecture": "llama", "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "viking"}, {}, "viking"),
     ({"general.architecture": "llama", "tokenizer.ggml.model": "gpt2"}, {}, "gpt2' with None"),
     ({"general.architecture": "gpt2", "tokenizer.ggml.model": "gpt2"}, {}, "cannot be read")],
)  # fmt: skip
def test_what_is_not_known_is_refused_by_name(tmp_path, metadata, tensors, why):
    write(tmp_path / "m.gguf", metadata, tensors)
    with pytest.raises(UserError, match=why):
        read_gguf(tmp_path / "m.gguf")


def test_turns_that_are_not_llama_3s_are_refused(tmp_path):
    written(tmp_path / "m.gguf", CASES["llama"])
    file = Gguf(tmp_path / "m.gguf")
    write(tmp_path / "n.gguf", file.metadata, dict(file) | {"rope_freqs.weight": torch.linspace(1, 8, 4)})
    with pytest.raises(UserError, match="not Llama 3's scaling"):
        read_gguf(tmp_path / "n.gguf")


def changed(path, keys):
    """The file with other values of keys; None leaves out."""
    file = Gguf(path)
    write(path, {k: x for k, x in (file.metadata | keys).items() if x is not None}, file)


def test_what_a_file_does_not_say_is_as_llama_cpp_takes_it(tmp_path):
    """As many heads of keys as of queries, a head of width / heads numbers, nothing that is stretched."""
    model = written(tmp_path / "m.gguf", replace(CASES["llama"], kv_heads=4))
    changed(tmp_path / "m.gguf", {f"llama.{key}": None for key in ("attention.head_count_kv", "attention.key_length")})
    again = opened(tmp_path / "m.gguf")
    assert again.config == model.config and torch.equal(again(some_ids(1, 9)), model(some_ids(1, 9)))


@pytest.mark.parametrize(
    "keys, refused",
    [({"scaling.factor": 4.0}, True), ({"scale_linear": 4.0}, True), ({"scaling.type": "yarn"}, True),
     ({"scaling.type": "none", "scaling.factor": 4.0}, False),
     ({"scaling.type": "linear", "scaling.factor": 1.0}, False)],
)  # fmt: skip
@pytest.mark.parametrize("name", ["llama", "llama3"])
def test_a_stretched_context_is_refused_whatever_else_the_file_says(name, keys, refused, tmp_path):
    """llama.cpp stretches by a factor alone, too, and beside rope_freqs."""
    config = replace(CASES[name], rope_base=500_000.0)
    config = replace(config, rope_scaling=(8.0, 1.0, 4.0, 8192)) if config.rope_scaling else config
    written(tmp_path / "m.gguf", config)
    changed(tmp_path / "m.gguf", {f"llama.rope.{key}": x for key, x in keys.items()})
    if refused:
        with pytest.raises(UserError, match="rope.scaling.type .* is not computed here"):
            read_gguf(tmp_path / "m.gguf")
    else:
        assert opened(tmp_path / "m.gguf").config.rope_scaling == config.rope_scaling


def test_the_token_that_begins_a_text_is_the_formats_own(tmp_path):
    """The template writes it, so nobody is to add it."""
    tokenizer = Tokenizer.train(["low lower lowest 12 low lower"], 264, "gpt2")
    for name, begins in (("ours", "<|endoftext|>"), ("llama3", "<|begin_of_text|>")):
        tokenizer.add_specials(missing_specials(FORMATS[name], tokenizer))
        metadata = tokenizer_metadata(choose_format(tokenizer, name))
        assert metadata["tokenizer.ggml.bos_token_id"] == tokenizer.special_ids[begins]
        assert metadata["tokenizer.ggml.add_bos_token"] is False
