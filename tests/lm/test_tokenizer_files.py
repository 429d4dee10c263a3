"""Tokenizer files: what is saved is loaded, Hugging Face agrees, and damage is named."""

import json
from pathlib import Path

import pytest

from minirlhf.harness.files import UserError
from minirlhf.lm import tokenizer_files
from minirlhf.lm.chat_formats import FORMATS
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.lm.vocabulary import CUTS, VocabularyTokenizer


@pytest.mark.parametrize("data",
                         [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"version": "1.0"}', b"[" * 100_000],
                         ids=["empty", "cut", "not UTF-8", "list", "null", "no model", "deep"])
def test_damaged_files_are_refused(data, tmp_path):
    """Truncated JSON, wrong encodings and other JSON end in a one-line UserError that names the file."""
    (tmp_path / "tokenizer.json").write_bytes(data)
    with pytest.raises(UserError, match="tokenizer.json: ") as error:
        tokenizer_files.load(tmp_path)
    assert "\n" not in str(error.value)


def test_damaged_gpt2_files_are_refused(tmp_path):
    """An empty merges.txt or a vocab.json of another model names itself."""
    (tmp_path / "merges.txt").write_bytes(b"")
    (tmp_path / "vocab.json").write_bytes(b"{}")
    with pytest.raises(UserError, match="merges.txt|vocab.json"):
        tokenizer_files.load(tmp_path)
    (tmp_path / "merges.txt").write_bytes(b"#version: 0.2\na b\n")
    with pytest.raises(UserError, match="vocab.json"):
        tokenizer_files.load(tmp_path)


@pytest.mark.parametrize("present", [[], ["vocab.json"], ["merges.txt"]])
def test_missing_files_say_what_to_give(present, tmp_path):
    """A folder without a tokenizer is named together with the files that it should hold."""
    for name in present:
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match="tokenizer.json, or GPT-2's vocab.json and merges.txt"):
        tokenizer_files.load(tmp_path)


def from_elsewhere(cut: str, **more) -> VocabularyTokenizer:
    """A vocabulary whose special tokens come first, in an order that is not GPT-2's."""
    ours = Tokenizer.train(["low lower lowest 12 12 new newer"] * 4, 270, "gpt2", ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokens = {token: 3 + i for i, token in enumerate(reversed(ours.token_bytes))}
    merges = [(ours.token_bytes[left], ours.token_bytes[right]) for left, right in ours.merges]
    specials = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    return VocabularyTokenizer(tokens, merges, specials, cut, "<|im_end|>", **more)


CASES = {"smollm": {}, "llama3": {"whole": True}, "qwen2": {"nfc": True}}
TEXTS = ["low lower  12\n newest 1234", "e\u0301 and é", " it's I'LL", "<|im_end|> is text"]


@pytest.mark.parametrize("name", CASES)
def test_a_vocabulary_from_elsewhere_is_loaded_as_it_was_saved(name, tmp_path):
    saved = from_elsewhere(CUTS[name], **CASES[name])
    tokenizer_files.save(saved, tmp_path)
    read = tokenizer_files.load(tmp_path)
    assert (read.tokens, read.merges, read.special_ids) == (saved.tokens, saved.merges, saved.special_ids)
    assert (read.cut, read.nfc, read.whole, read.eos) == (saved.cut, saved.nfc, saved.whole, "<|im_end|>")
    assert [read.encode(text) for text in TEXTS] == [saved.encode(text) for text in TEXTS]
    assert read.chat == FORMATS["chatml"]


def test_special_tokens_are_read_in_the_order_of_their_ids(tmp_path):
    """Whatever the process: a resume tells by them, too, whether it has the tokenizer it began with."""
    few = from_elsewhere(CUTS["smollm"])
    names = [*few.special_ids, *(f"<|{i}|>" for i in range(20))]
    specials = {name: i if i < 3 else len(few.tokens) + i for i, name in enumerate(names)}
    saved = VocabularyTokenizer(few.tokens, few.merges, specials, few.cut, "<|im_end|>")
    tokenizer_files.save(saved, tmp_path)
    assert list(tokenizer_files.load(tmp_path).special_ids) == names


@pytest.mark.parametrize("name", CASES)
def test_their_own_library_reads_it_and_gives_the_same_ids(name, tmp_path):
    theirs = pytest.importorskip("tokenizers")
    tokenizer = from_elsewhere(CUTS[name], **CASES[name])
    tokenizer_files.save(tokenizer, tmp_path)
    read = theirs.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert [read.encode(text, add_special_tokens=False).ids for text in TEXTS[:-1]] == list(map(tokenizer.encode, TEXTS[:-1]))


def changed(folder: Path, change) -> None:
    """tokenizer.json, changed."""
    tokenizer_files.save(from_elsewhere(CUTS["smollm"]), folder)
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    change(content)
    (folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")


def digits_before_byte_level(content: dict) -> None:
    byte_level = content["pre_tokenizer"]["pretokenizers"][1] | {"use_regex": True}
    content["pre_tokenizer"]["pretokenizers"] = [{"type": "Digits", "individual_digits": True}, byte_level]


def bos_in_front(content: dict) -> None:
    bos = {"<|begin_of_text|>": {"id": "<|begin_of_text|>", "ids": [0], "tokens": ["<|begin_of_text|>"]}}
    around = [content["decoder"], {"type": "TemplateProcessing", "single": [], "special_tokens": bos}]
    content["post_processor"] = {"type": "Sequence", "processors": around}


def a_mark_that_is_not_special(content: dict) -> None:
    content["added_tokens"][0]["special"] = False


@pytest.mark.parametrize("change", [digits_before_byte_level, bos_in_front, a_mark_that_is_not_special])
def test_what_the_files_of_real_models_say_is_understood(change, tmp_path):
    """SmolLM2's digits, the BOS that Llama 3's format writes by itself, and Qwen's <think>, which no text becomes here."""
    changed(tmp_path, change)
    read = tokenizer_files.load(tmp_path)
    assert read.cut == CUTS["smollm"] and read.special_ids["<|endoftext|>"] == 0


def cls_in_front(content: dict) -> None:
    content["post_processor"] = {"type": "TemplateProcessing", "special_tokens": {"[CLS]": {}}}


def a_word_that_is_not_special(content: dict) -> None:
    content["added_tokens"][0] |= {"special": False, "content": "word"}


def words_of_spaces(content: dict) -> None:
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, content["decoder"]]}


@pytest.mark.parametrize("change, why", [
    (cls_in_front, "post-processor that adds tokens"), (a_word_that_is_not_special, "added tokens that are not special"),
    (words_of_spaces, "unknown pre-tokenizer"), (lambda c: c["model"]["vocab"].pop("Ā"), "each once"),
    (lambda c: c["model"].update(merges=["l o", "q zz"]), "what is no token"),
])  # fmt: skip
def test_what_would_encode_differently_is_refused(change, why, tmp_path):
    changed(tmp_path, change)
    with pytest.raises(UserError, match=why):
        tokenizer_files.load(tmp_path)
