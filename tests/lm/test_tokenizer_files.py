"""Tokenizer files: what is saved is loaded, Hugging Face agrees, and damage is named."""

import pytest

from minirlhf.harness.files import UserError
from minirlhf.lm import tokenizer_files


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
