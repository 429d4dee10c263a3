"""Tokenizer files: ours, Hugging Face's tokenizer.json of byte-level BPE, and GPT-2's own vocab.json with merges.txt.

`save` writes what AutoTokenizer reads too, `load` reads all three, and what stands BESIDE them, and refuses what
would encode differently. Ids in GPT-2's order make a `Tokenizer`, any others a `VocabularyTokenizer`.
Proved by tests/lm/test_tokenizer_files.py.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minirlhf.harness.files import UserError, read_json, read_text, write_atomic
from minirlhf.lm.bpe import FIRST_MERGE_ID, PATTERNS
from minirlhf.lm.chat_formats import FORMATS, missing_specials, recognise_format, template_of
from minirlhf.lm.tokenizer import BYTE_ORDER, EOS, PAD, SYMBOLS, Tokenizer
from minirlhf.lm.vocabulary import CUTS, VocabularyTokenizer

_BYTE_TO_SYMBOL = dict(zip(BYTE_ORDER, SYMBOLS))
_SYMBOL_TO_BYTE = {symbol: bytes([byte]) for byte, symbol in _BYTE_TO_SYMBOL.items()}
_CUTS = {regex: name for name, regex in (CUTS | PATTERNS).items()}
BESIDE = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"


@dataclass
class Parts:
    """What the files of a tokenizer say."""

    vocabulary: dict[str, int]  # names of tokens, specials included
    merges: Sequence[Sequence[str]]
    cut: str  # a regular expression
    specials: list[str]
    nfc: bool = False
    whole: bool = False


def save(tokenizer: Tokenizer, folder: str | Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, which Hugging Face's AutoTokenizer reads too.

    There, `tokenizer(text)` gives what `encode` gives here, but for names of specials, which it parses.
    """
    foreign = isinstance(tokenizer, VocabularyTokenizer)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    regex = {"Regex": tokenizer.cut if foreign else PATTERNS[tokenizer.pattern]}
    cut = {"type": "Split", "pattern": regex, "behavior": "Isolated", "invert": False}
    content = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": name, "special": True, "normalized": False, "lstrip": False,
                          "rstrip": False, "single_word": False} for name, i in tokenizer.special_ids.items()],
        "normalizer": {"type": "NFC"} if foreign and tokenizer.nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [cut, byte_level]},
        "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                  "ignore_merges": foreign and tokenizer.whole, "vocab": _vocabulary(tokenizer),
                  "merges": [" ".join(map(symbols_of, pair)) for pair in merges_of(tokenizer)]},
    }
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
              "bos_token": tokenizer.chat.begin or tokenizer.eos, "eos_token": tokenizer.eos,
              "pad_token": PAD if PAD in tokenizer.special_ids else tokenizer.eos}
    if not missing_specials(tokenizer.chat, tokenizer):
        config["chat_template"] = template_of(tokenizer.chat)
    for name, value in (("tokenizer.json", content), ("tokenizer_config.json", config)):
        write_atomic(Path(folder) / name, json.dumps(value, ensure_ascii=False, indent=1).encode("utf-8"))


def load(folder: str | Path) -> Tokenizer:
    """Read what `save` wrote, a Hugging Face `tokenizer.json` of byte-level BPE, or GPT-2's own `vocab.json` with
    `merges.txt`.

    Raises UserError, which names the file and the remedy, if there is none of these, or if a file is damaged or
    asks for something that would make its encoding differ from ours.
    """
    path, *two = (Path(folder) / name for name in ("tokenizer.json", "merges.txt", "vocab.json"))
    if not path.exists() and (gone := [x for x in two if not x.exists()]):
        remedy = "give a folder that holds tokenizer.json, or GPT-2's vocab.json and merges.txt"
        raise UserError(f"{gone[0]} is missing; {remedy}")
    try:
        if path.exists():
            parts = _from_hugging_face(read_json(path))
        else:
            lines = read_text(path := two[0]).splitlines()
            # Only the first line is a comment: "# #" further down is a merge.
            merges = [line.split(" ") for line in lines[lines[0].startswith("#version"):] if line]
            vocabulary = read_json(path := two[1])
            names = [name for name, i in vocabulary.items() if i >= FIRST_MERGE_ID + len(merges)]
            parts = Parts(vocabulary, merges, PATTERNS["gpt2"], names)
        main, path = path, Path(folder) / BESIDE[0]
        added, eos, template = _beside(Path(folder), parts.vocabulary)
        path = main
        parts.vocabulary, parts.specials = {**parts.vocabulary, **added}, [*{*parts.specials, *added}]
        return recognise_format(tokenizer_of(parts, eos), template)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        what = str(error) if isinstance(error, ValueError) else f"not laid out as expected, {error!r}"
        remedy = "use a byte-level BPE with GPT-2's layout, such as `save` writes, or train one with Tokenizer.train"
        raise UserError(f"{path}: {what}; {remedy}") from error


def _beside(folder: Path, vocabulary: dict[str, int]) -> tuple[dict[str, int], str, str]:
    """(special token -> id, the EOS, the chat template) by what stands BESIDE the vocabulary.

    Raises UserError for what we cannot do.
    """
    config, roles, added = (read_json(folder / name) if (folder / name).exists() else {} for name in BESIDE)
    decoder = {x["content"]: x | {"id": int(i)} for i, x in (config.get("added_tokens_decoder") or {}).items()}
    named = [(file, key, x["content"] if isinstance(x, dict) else x) for file, said in zip(BESIDE, (config, roles))
             for key, value in said.items() if key.endswith(("_token", "_tokens"))
             for x in (value if isinstance(value, list) else [value]) if isinstance(x, (str, dict))]  # fmt: skip
    special = {x for _, _, x in named} | {x for x, token in decoder.items() if token.get("special")}
    added |= {x: token["id"] for x, token in decoder.items()}
    first, eos = next(((file, x) for file, key, x in named if key == "eos_token"), ("", EOS))
    wrong = [(BESIDE[0], f"{key} is true, but nothing is put around a text here: make it false, or train without")
             for key in ("add_prefix_space", "add_bos_token", "add_eos_token") if config.get(key)]  # fmt: skip
    wrong += [(BESIDE[0 if x in decoder else 2], f"{x!r} is not special, text would become it: name it in {BESIDE[1]}")
              for x in added if x not in special and not _is_bracketed(x)]  # fmt: skip
    for file, key, x in named:
        wrong += [(file, f"{x!r} has no id: give it one in {BESIDE[2]}")] if x not in vocabulary | added else []
        wrong += [(file, f"{key} is {x!r}, {eos!r} in {first}: choose one")] if key == "eos_token" and x != eos else []
    if wrong:
        raise UserError(f"{folder / wrong[0][0]}: {wrong[0][1]}")
    template, own = config.get("chat_template") or "", folder / "chat_template.jinja"
    if isinstance(template, list):  # several, each with a name
        template = next((x["template"] for x in template if x["name"] == "default"), "")
    return added, eos, read_text(own) if own.exists() else template


def _is_bracketed(name: str) -> bool:
    """Whether an added token looks like a mark. Some files call it no special, and text becomes it; here it never does."""
    return name[:1] == "<" and name[-1:] == ">"


def _from_hugging_face(content: dict) -> Parts:
    """What a tokenizer.json says. Raises ValueError for what we cannot do."""
    model, added, cut = content["model"], content["added_tokens"], content["pre_tokenizer"]
    around = content.get("post_processor") or {"type": "ByteLevel"}
    around = around["processors"] if around["type"] == "Sequence" else [around]
    put = {name for x in around for name in x.get("special_tokens", ())} - {form.begin for form in FORMATS.values()}
    nfc = content.get("normalizer") == {"type": "NFC"}
    steps = cut["pretokenizers"] if cut["type"] == "Sequence" else [cut]
    byte_level = steps[-1]
    if len(steps) == 1 and byte_level.get("use_regex", True):
        regex = PATTERNS["gpt2"]  # ByteLevel brings it along
    elif len(steps) == 2 and not byte_level.get("use_regex", True):
        regex = steps[0].get("pattern", {}).get("Regex")
    elif len(steps) == 2 and steps[0] == {"type": "Digits", "individual_digits": True}:
        regex = CUTS["smollm"]
    else:
        regex = None
    unsupported = {
        "a version other than 1.0": content["version"] != "1.0",
        "a model other than BPE": model.get("type", "BPE") != "BPE",
        "BPE dropout": model.get("dropout"),
        "a subword prefix or suffix": model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"),
        "a normalizer": content.get("normalizer") and not nfc,
        "an unknown pre-tokenizer": regex not in _CUTS or byte_level["type"] != "ByteLevel",
        "a Split that does not isolate":
            steps[0]["type"] == "Split" and (steps[0]["behavior"] != "Isolated" or steps[0]["invert"]),
        "a space added in front of the text": byte_level.get("add_prefix_space", True),
        "a post-processor that adds tokens":
            put or any(x["type"] not in ("ByteLevel", "TemplateProcessing") for x in around),
        "added tokens that are not special, swallow spaces or match whole words only":
            any(not (token["special"] or _is_bracketed(token["content"])) or token["lstrip"] or token["rstrip"]
                or token["single_word"] for token in added),
    }
    for what, found in unsupported.items():
        if found:
            raise ValueError(f"has {what}, which this tokenizer cannot do")
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    specials = {token["content"]: token["id"] for token in added}
    whole = bool(model.get("ignore_merges"))
    return Parts({**model["vocab"], **specials}, merges, regex, list(specials), nfc, whole)


def tokenizer_of(parts: Parts, eos: str) -> Tokenizer:
    """The tokenizer that files describe; eos: the name of its EOS. Raises ValueError, KeyError."""
    ours = parts.cut in PATTERNS.values() and not parts.nfc and not parts.whole
    if ours and all(parts.vocabulary.get(symbol) == i for i, symbol in enumerate(SYMBOLS)):
        return _from_symbols(parts, eos)
    # By id: the order is part of what a resume knows the tokenizer by, and names come from sets, too.
    specials = {name: parts.vocabulary[name] for name in sorted(parts.specials, key=parts.vocabulary.__getitem__)}
    tokens = {bytes_of(name): i for name, i in parts.vocabulary.items() if name not in specials}
    merges = [(bytes_of(left), bytes_of(right)) for left, right in parts.merges]
    return VocabularyTokenizer(tokens, merges, specials, parts.cut, eos, parts.nfc, parts.whole)


def _from_symbols(parts: Parts, eos: str) -> Tokenizer:
    """Turn merges of symbols into merges of ids, and see that the vocabulary gives each token that id."""
    vocabulary, merges, specials = parts.vocabulary, parts.merges, parts.specials
    ids = {symbol: i for i, symbol in enumerate(SYMBOLS)}
    pairs = []
    for left, right in merges:
        if left not in ids or right not in ids:
            raise ValueError(f"merge {left!r} {right!r} joins a token that no earlier merge makes")
        pairs.append((ids[left], ids[right]))
        ids[left + right] = FIRST_MERGE_ID + len(pairs) - 1
    tokenizer = Tokenizer(pairs, _CUTS[parts.cut], sorted(specials, key=vocabulary.__getitem__))
    expected = _vocabulary(tokenizer)
    for name in expected.keys() | vocabulary.keys():
        if expected.get(name) != vocabulary.get(name):
            ids = f"id {vocabulary.get(name)}, but {expected.get(name)} in GPT-2's order (bytes, merges, specials)"
            raise ValueError(f"token {name!r} has {ids}")
    if eos not in tokenizer.special_ids:
        raise ValueError(f"eos_token {eos!r} is an ordinary token")
    tokenizer.eos = eos
    return tokenizer


def _vocabulary(tokenizer: Tokenizer) -> dict[str, int]:
    """Every token as vocabulary files write it, with its id."""
    tokens = getattr(tokenizer, "tokens", None) or {token: i for i, token in enumerate(tokenizer.token_bytes)}
    return {symbols_of(token): i for token, i in tokens.items()} | tokenizer.special_ids


def merges_of(tokenizer: Tokenizer) -> list[tuple[bytes, bytes]]:
    """The merges in rank order, each as the two tokens that it joins."""
    if isinstance(tokenizer, VocabularyTokenizer):
        return tokenizer.merges
    return [(tokenizer.token_bytes[left], tokenizer.token_bytes[right]) for left, right in tokenizer.merges]


def symbols_of(token: bytes) -> str:
    """A token as vocabulary files write it, a printable character for each byte."""
    return token.decode("latin-1").translate(_BYTE_TO_SYMBOL)


def bytes_of(symbols: str) -> bytes:
    """The inverse of `symbols_of`. Raises KeyError for a character that stands for no byte."""
    return b"".join(_SYMBOL_TO_BYTE[symbol] for symbol in symbols)
