"""Vocabularies from elsewhere: pieces cut as their own tokenizers cut them, ids from the file, bytes that have none."""

import json
from pathlib import Path

import pytest

from minirlhf.lm.bpe import split
from minirlhf.lm.tokenizer import BYTE_ORDER, Tokenizer
from minirlhf.lm.vocabulary import CUTS, VocabularyTokenizer

GOLDEN = json.loads((Path(__file__).parent.parent / "golden.json").read_text(encoding="utf-8"))["cuts"]
TEXTS = ["low lower lowest, the newest low", "new low lower 12 122 1222", "aaaa aaaa aaa aaa aa   aaaaa aaaaaaa aaaaaaa lowlow lowlow"]


def learnt(vocab_size: int = 272) -> Tokenizer:
    """Ours, whose tokens are put in another order below."""
    return Tokenizer.train(TEXTS, vocab_size, "gpt2")


def moved(ours: Tokenizer, cut: str = "gpt2", left_out: bytes = b"", **more) -> tuple[VocabularyTokenizer, dict[int, int]]:
    """The same tokens with the special ones first and the rest backwards, and their ids by ours."""
    kept = [i for i, token in enumerate(ours.token_bytes) if token not in [bytes([b]) for b in left_out]]
    ids = {i: len(ours.special_ids) + n for n, i in enumerate(reversed(kept))}
    ids |= {i: n for n, i in enumerate(ours.special_ids.values())}
    tokens = {ours.token_bytes[i]: ids[i] for i in kept}
    merges = [(ours.token_bytes[left], ours.token_bytes[right]) for left, right in ours.merges]
    specials = {name: ids[i] for name, i in ours.special_ids.items()}
    return VocabularyTokenizer(tokens, merges, specials, cut, "<|endoftext|>", **more), ids


@pytest.mark.parametrize("name", CUTS)
def test_text_is_cut_as_by_the_tokenizers_own_pattern(name):
    """tokenizers 0.22 (smollm) and the regex package; a long s is an s where the case does not matter."""
    assert GOLDEN[name] == {text: split(text, CUTS[name]) for text in GOLDEN[name]}


@pytest.mark.parametrize("text", [*TEXTS, "", "unseen wörds 你好 🙂", "a\ud800b", "<|endoftext|> is text"])
def test_ids_are_those_of_the_file(text):
    ours = learnt()
    theirs, ids = moved(ours)
    assert theirs.encode(text) == [ids[i] for i in ours.encode(text)]
    assert theirs.decode(theirs.encode(text)) == ours.decode(ours.encode(text))
    assert theirs.eos_id == ids[ours.eos_id] == 0 and theirs.vocab_size == ours.vocab_size


def test_a_byte_without_a_token_is_left_out():
    theirs, _ = moved(learnt(), left_out=b"z")
    assert theirs.decode(theirs.encode("zero lizard")) == "ero liard"


def test_ranks_alone_make_the_merges():
    """What a tiktoken file holds: ids in rank order; each token joins in every way that it can be split."""
    spelled = [*(bytes([b]) for b in BYTE_ORDER), b"aa", b"ow", b"aaa", b"lo", b"aaaa", b"low", b" low"]
    tokens = {token: i for i, token in enumerate(spelled)}
    theirs = VocabularyTokenizer(tokens, merges_by_rank(tokens), {"<eos>": len(tokens)}, "gpt2", "<eos>")
    assert len(theirs.merges) == 11  # low is lo + w and l + ow, aaa is two ways, aaaa three
    for text in TEXTS:
        assert theirs.encode(text) == slow_ranks(text, tokens)


def merges_by_rank(tokens: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The merges of a vocabulary that has ids alone: every way to join two tokens to a third, whose id is its rank."""
    merges = []
    for token in sorted(tokens, key=tokens.__getitem__):
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        merges += sorted((x for x in cuts if tokens.keys() >= {*x}), key=lambda pair: [tokens[part] for part in pair])
    return merges


def slow_ranks(text: str, tokens: dict[bytes, int]) -> list[int]:
    """tiktoken's encoder: join the neighbours that make the lowest id, the leftmost first."""
    out = []
    for piece in split(text, "gpt2"):
        parts = [bytes([b]) for b in piece.encode()]
        while pairs := [(tokens[a + b], i) for i, (a, b) in enumerate(zip(parts, parts[1:])) if a + b in tokens]:
            _, i = min(pairs)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        out += [tokens[part] for part in parts]
    return out


def test_a_piece_that_is_a_token_is_taken_whole_where_merges_do_not_reach_it():
    """Llama 3's ignore_merges."""
    bytes_alone = {bytes([b]): i for i, b in enumerate(BYTE_ORDER)}
    make = lambda whole: VocabularyTokenizer(bytes_alone | {b"word": 256}, [], {"<eos>": 257}, "gpt2", "<eos>", whole=whole)
    assert make(True).encode("word") == [256] and len(make(False).encode("word")) == 4


def test_text_is_normalised_where_the_vocabulary_wants_it():
    plain, normal = (moved(learnt(), nfc=nfc)[0] for nfc in (False, True))
    assert normal.encode("e\u0301") == normal.encode("\u00e9") != plain.encode("e\u0301")
    assert normal.encode("\ud834\udd5e") == normal.encode("\U0001d15e")  # joined first: NFC takes the note apart


def test_special_tokens_are_added_behind_all_ids():
    theirs, _ = moved(learnt())
    n = theirs.vocab_size
    assert theirs.add_specials(["<|endoftext|>", "<|new|>"]) == [0, n] and theirs.vocab_size == n + 1
    assert theirs.decode([n]) == "<|new|>" and theirs.encode("<|new|>") != [n]
    with pytest.raises(ValueError, match="'low' cannot be a special token: it is an ordinary token"):
        theirs.add_specials(["<|newer|>", "low"])
    assert theirs.vocab_size == n + 1 and "<|newer|>" not in theirs.special_ids


@pytest.mark.parametrize(
    "change, why",
    [(lambda a: a["tokens"].pop(b"a"), "ids 0 to"), (lambda a: a["tokens"].update({b"a": 0}), "each once"),
     (lambda a: a.update(eos="<|none|>"), "which ends a response"),
     (lambda a: a["merges"].append((b"qu", b"x")), "no token"),
     (lambda a: a["merges"].append(a["merges"][0]), "two ranks")],
)  # fmt: skip
def test_a_file_that_fits_nothing_is_refused(change, why):
    theirs, _ = moved(learnt())
    arguments = {"tokens": dict(theirs.tokens), "merges": list(theirs.merges), "specials": theirs.special_ids,
                 "cut": "gpt2", "eos": theirs.eos}  # fmt: skip
    change(arguments)
    with pytest.raises(ValueError, match=why):
        VocabularyTokenizer(**arguments)


@pytest.mark.parametrize("i", [-1, 10**6])
def test_an_id_outside_of_the_vocabulary_is_refused(i):
    theirs, _ = moved(learnt())
    with pytest.raises(ValueError, match="outside the vocabulary"):
        theirs.decode([i])
