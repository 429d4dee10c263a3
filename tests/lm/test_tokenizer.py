"""What minirlhf/lm/bpe.py and minirlhf/lm/tokenizer.py promise.

Each fast routine is held against a slow, obvious twin below; ids, against numbers published for GPT-2;
and everything again against `tokenizers`, `transformers`, `tiktoken` and `regex` where they are installed.
"""

import json
import random
import re
import sys
import time
import unicodedata
import warnings
from collections import Counter
from pathlib import Path

import pytest

from minirlhf.harness.files import UserError
from minirlhf.lm import bpe, tokenizer as tokenizer_module, tokenizer_files
from minirlhf.lm.bpe import PATTERNS, apply_merges, learn_merges, split
from minirlhf.lm.tokenizer import BYTE_ORDER, EOS, SPECIALS, SYMBOLS, Tokenizer

DATA = Path(__file__).parents[3] / "shared" / "data"
SOURCES = [Path(__file__), Path(bpe.__file__), Path(tokenizer_module.__file__)]

TRICKY = [
    "", " ", "  ", "\n", "\x00", "a\r\nb\r\n", "Hello  world", "   three spaces", "tabs\t\tand  \n mixed ",
    "It's we'll I'VE 'tis don't 'ſ 'é '", "12 345 6789 3.14 x2 2x", "²½Ⅷ a²b ½ 1½ Ⅷth ١٢٣ 四五",
    "a\x1cb \x1d! \x1e \x1f\x1f!", "nbsp\u00a0x \u00a0 \u3000全角\u2028line\x85next",
    "e\u0301 \u200b \u180e _a_",
    "naïve Straße Ελληνικά русский עברית العربية हिन्दी 日本語 한국어", "hello!!!? (안녕하세요!) lol123 😉👩‍👩‍👧‍👦🇩🇪",
    "<|endoftext|> <|user|>hi<|assistant|>", "if x == 1:\n\n\treturn {'a': [1, 2]}  # …", "aaaaaaaa" * 40,
]


@pytest.fixture(scope="module")
def corpus() -> str:
    return "\n".join(path.read_text("utf-8") for path in SOURCES)


@pytest.fixture(scope="module")
def trained(corpus) -> Tokenizer:
    return Tokenizer.train([corpus], 800)


@pytest.fixture(scope="module")
def gpt2() -> Tokenizer:
    if not (DATA / "gpt2" / "vocab.json").exists():
        pytest.skip("GPT-2's vocab.json is not in ../shared/data")
    return tokenizer_files.load(DATA / "gpt2")


@pytest.fixture
def transformers(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return pytest.importorskip("transformers")


# The slow twins.

def replace_all(ids: list[int], pair: tuple[int, int], new_id: int) -> list[int]:
    out, i = [], 0
    while i < len(ids):
        if tuple(ids[i:i + 2]) == pair:
            out.append(new_id)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


def learn_merges_slowly(words: dict[bytes, int], n_merges: int) -> list[tuple[int, int]]:
    """Count every pair of every word again for each merge."""
    symbols = [(list(word), count) for word, count in words.items()]
    merges = []
    for new_id in range(256, 256 + n_merges):
        counts = Counter()
        for word, count in symbols:
            for pair in zip(word, word[1:]):
                counts[pair] += count
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < 2:
            break
        merges.append(best)
        symbols = [(replace_all(word, best, new_id), count) for word, count in symbols]
    return merges


def apply_merges_slowly(ids: list[int], merge_ids: dict[tuple[int, int], int]) -> list[int]:
    """Go through all merges in rank order, whether they occur or not."""
    for pair, new_id in sorted(merge_ids.items(), key=lambda item: item[1]):
        ids = replace_all(ids, pair, new_id)
    return ids


def random_words(rng: random.Random, alphabet: bytes, n_words: int, longest: int) -> dict[bytes, int]:
    words = [bytes(rng.choices(alphabet, k=rng.randint(1, longest))) for _ in range(n_words)]
    return {word: rng.randint(1, 5) for word in words}


def numbered(merges: list[tuple[int, int]]) -> dict[tuple[int, int], int]:
    return {pair: 256 + rank for rank, pair in enumerate(merges)}


# Learning merges.

@pytest.mark.parametrize("alphabet", [b"a", b"ab", b"abcde"])
def test_incremental_training_equals_counting_anew(alphabet):
    """Every merge is the one that a full recount finds, also where runs like aaaa overlap themselves."""
    for seed in range(60):
        rng = random.Random(seed)
        words = random_words(rng, alphabet, rng.randint(1, 12), rng.choice([6, 40]))
        assert learn_merges(words, 60) == learn_merges_slowly(words, 60), (seed, words)


def test_wikipedia_example():
    """aaabdaaabac becomes XdXac with X = ZY, Y = ab, Z = aa, the example of Wikipedia's article on BPE."""
    merges = learn_merges({b"aaabdaaabac": 1}, 3)
    a, b, c, d = b"abcd"
    assert merges == [(a, a), (a, b), (256, 257)]
    assert apply_merges(list(b"aaabdaaabac"), numbered(merges)) == [258, d, 258, a, c]


def test_hugging_face_trainer_example():
    """The word counts in the unit test of Hugging Face's trainer.rs give its merges: re, are, is."""
    counts = {"roses": 1, "are": 2, "red": 1, "voilets": 1, "blue": 1, "BERT": 1, "is": 2, "big": 1, "and": 1,
              "so": 1, "GPT-2": 1}
    with pytest.warns(UserWarning, match="no further pair"):
        tokenizer = Tokenizer.train([word for word, count in counts.items() for _ in range(count)], 1000)
    assert tokenizer.token_bytes[256:] == [b"re", b"are", b"is"]


def test_ties_go_to_the_smallest_pair_of_ids():
    """Among pairs of equal count the smallest pair of ids merges first, wherever it stands."""
    merges = learn_merges({b"xy": 2, b"cd": 2, b"ce": 2, b"ab": 2}, 4)
    assert merges == [tuple(b"ab"), tuple(b"cd"), tuple(b"ce"), tuple(b"xy")]


def test_order_of_documents_does_not_change_the_merges(corpus):
    """Shuffled documents train the same tokenizer."""
    lines = corpus.splitlines(keepends=True)
    shuffled = random.Random(0).sample(lines, len(lines))
    assert lines != shuffled
    assert Tokenizer.train(lines, 500).merges == Tokenizer.train(shuffled, 500).merges


def test_texts_may_be_a_generator():
    """Training reads its texts once, one at a time."""
    texts = ["the cat", "the hat", "the cat sat"]
    assert Tokenizer.train((text for text in texts), 264).merges == Tokenizer.train(texts, 264).merges


@pytest.mark.parametrize("texts", [[], [""], ["a"], ["\n", " "]])
def test_too_little_text_stops_early_with_a_warning(texts):
    """Without a pair to merge the result is the byte tokenizer, and the user is told."""
    with pytest.warns(UserWarning, match="has 260 tokens, not 300"):
        tokenizer = Tokenizer.train(texts, 300)
    assert tokenizer.merges == [] and tokenizer.vocab_size == 260


def test_pairs_that_occur_once_are_not_merged():
    with pytest.warns(UserWarning):
        assert Tokenizer.train(["ab ab cd"], 300).token_bytes[256:] == [b"ab"]


@pytest.mark.filterwarnings("error")
def test_vocab_size_counts_bytes_merges_and_specials(corpus):
    """The vocabulary has exactly the size asked for, and no warning is given."""
    tokenizer = Tokenizer.train([corpus], 400)
    assert tokenizer.vocab_size == 400 and len(tokenizer.merges) == 400 - 256 - len(SPECIALS)
    assert Tokenizer.train(["anything"], 260).merges == []


@pytest.mark.parametrize("kwargs, message", [
    (dict(texts=["ab"], vocab_size=259), "give at least 260"),
    (dict(texts="ab", vocab_size=300), r"pass \[text\]"),
    (dict(texts=["ab"], vocab_size=300, pattern="gpt5"), "use one of gpt2, gpt2-digits"),
    (dict(texts=["ab"], vocab_size=300, specials=["<|user|>"]), "endoftext"),
])
def test_impossible_training_is_refused_with_the_remedy(kwargs, message):
    """Wrong arguments end in a ValueError that says what to give instead."""
    with pytest.raises(ValueError, match=message):
        Tokenizer.train(**kwargs)


# Applying merges.

def test_applying_merges_equals_going_through_all_of_them():
    """The heap gives what every merge in turn gives."""
    for seed in range(150):
        rng = random.Random(seed)
        alphabet = rng.choice([b"a", b"ab", b"abcd"])
        merge_ids = numbered(learn_merges(random_words(rng, alphabet, 8, 30), 30))
        ids = rng.choices(alphabet, k=rng.choice([0, 1, 2, 3, 10, 50, 200]))
        before = list(ids)
        assert apply_merges(ids, merge_ids) == apply_merges_slowly(ids, merge_ids), (seed, ids)
        assert ids == before


def test_merges_go_by_rank_then_from_the_left():
    """The lower rank wins over the earlier place; equal ranks go leftmost first without overlap."""
    assert apply_merges([1, 2, 3], {(2, 3): 256, (1, 2): 257}) == [1, 256]
    assert apply_merges([1, 1, 1], {(1, 1): 256}) == [256, 1]
    assert apply_merges([1] * 5, {(1, 1): 256, (256, 256): 257}) == [257, 1]


@pytest.mark.parametrize("kind", ["trained", "gpt2"])
def test_every_token_encodes_to_itself(kind, request):
    """Merges turn the bytes of a token into its one id."""
    tokenizer = request.getfixturevalue(kind)
    byte_ids = {byte: i for i, byte in enumerate(BYTE_ORDER)}
    for i, token in enumerate(tokenizer.token_bytes):
        assert apply_merges([byte_ids[byte] for byte in token], tokenizer._merge_ids) == [i]


def test_long_pieces_take_near_linear_time():
    """Twice the letters take less than three times as long; a quadratic loop would take four."""
    tokenizer = Tokenizer([(64, 64), (256, 256), (257, 257)])

    def seconds(n: int) -> float:
        start = time.perf_counter()
        tokenizer.encode("a" * n)
        return time.perf_counter() - start

    ratios = []
    for _ in range(3):
        ratios.append(min(seconds(10_000) for _ in range(5)) / min(seconds(5_000) for _ in range(5)))
        if ratios[-1] < 3:
            return
    pytest.fail(f"t(2n) / t(n) was {ratios}")


# Cutting text into pieces.

@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("text", TRICKY)
def test_pieces_join_to_the_text(pattern, text):
    """No character is lost or doubled by the cut."""
    assert "".join(split(text, pattern)) == text


@pytest.mark.parametrize("text, pieces", [
    ("It's 12  apples!", ["It", "'s", " 12", " ", " apples", "!"]),
    ("Hello \nworld", ["Hello", " ", "\n", "world"]),
    ("a\n\n b", ["a", "\n\n", " b"]),
    ("end  ", ["end", "  "]),
    ("WE'LL", ["WE", "'", "LL"]),
    ("'é 'ſ", ["'", "é", " '", "ſ"]),
    ("x_1", ["x", "_", "1"]),
])
def test_gpt2_pieces(text, pieces):
    """Contractions, numbers, spaces and punctuation are cut as GPT-2's pattern says."""
    assert split(text, "gpt2") == pieces


def test_every_digit_is_a_piece_of_its_own_in_gpt2_digits():
    """12 + 345 is cut in digits, without a space before them; GPT-2 keeps numbers whole."""
    assert split("x 12 +345", "gpt2-digits") == ["x", " ", "1", "2", " +", "3", "4", "5"]
    assert split("x 12 +345", "gpt2") == ["x", " 12", " +", "345"]


@pytest.mark.parametrize("char", "²½Ⅷ٣")
def test_superscripts_fractions_and_roman_numerals_are_numbers(char):
    r"""\p{N} holds No and Nl, which `[^\W\d_]` would take for letters."""
    assert split(f"a{char}b {char}{char}!", "gpt2") == ["a", char, "b", f" {char}{char}", "!"]


@pytest.mark.parametrize("char", "\x1c\x1d\x1e\x1f")
@pytest.mark.parametrize("more", ["", "é"])
def test_separators_below_space_are_not_white_space(char, more):
    r"""Unicode's White_Space has no U+001C to U+001F, although Python's `\s` and `isspace` do."""
    assert split(f"a{char}!{more}", "gpt2") == ["a", f"{char}!"] + ([more] if more else [])


@pytest.mark.parametrize("char", "\x85\u00a0\u1680\u2003\u2028\u3000")
def test_white_space_beyond_ascii_is_white_space_but_no_space(char):
    """It stands apart from the word after it, which only U+0020 may join."""
    assert split(f"a{char}b{char}!", "gpt2") == ["a", char, "b", char, "!"]


# Text to ids and back.

def test_ids_of_bytes_follow_gpt2s_table():
    """188 printable bytes come first in the order of their value, the other 68 follow."""
    tokenizer = Tokenizer()
    assert [tokenizer.encode(char) for char in "!~\n "] == [[0], [93], [198], [220]]
    assert BYTE_ORDER[:188] == bytes([*range(33, 127), *range(161, 173), *range(174, 256)])
    assert sorted(BYTE_ORDER) == list(range(256))
    assert SYMBOLS[198] == "Ċ" and SYMBOLS[220] == "Ġ" and len(set(SYMBOLS)) == 256


def test_no_merges_is_the_byte_tokenizer():
    """Without merges every byte of UTF-8 is one token."""
    text, tokenizer = "naïve 😉\n", Tokenizer()
    assert [tokenizer.token_bytes[i] for i in tokenizer.encode(text)] == [bytes([b]) for b in text.encode()]


def test_docstring_examples():
    """The examples that a reader sees first are true."""
    tokenizer = Tokenizer.train(["low lower lowest"], vocab_size=263)
    assert tokenizer.encode(" lower") == [258, 68, 81] and tokenizer.decode([258, 68, 81]) == " lower"
    assert Tokenizer.train(["aaabdaaabac"], 263).merges == [(64, 64), (64, 65), (256, 257)]
    assert Tokenizer().encode("Hi") == [39, 72]


@pytest.mark.parametrize("kind", ["trained", "gpt2"])
def test_round_trip_of_text(kind, corpus, request):
    """decode(encode(text)) is the text, for awkward strings, the whole BMP and samples beyond it."""
    tokenizer = request.getfixturevalue(kind)
    planes = [chr(c) for c in (*range(0xD800), *range(0xE000, 0x10000), *range(0x10000, 0x110000, 97))]
    for text in (*TRICKY, corpus, "".join(planes), " ".join(planes[::7])):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_round_trip_of_bytes(trained):
    """Every byte, and any bytes in any order, are spelled by ids; as text, only what is not UTF-8 is lost."""
    byte_ids = {byte: i for i, byte in enumerate(BYTE_ORDER)}
    rng = random.Random(0)
    for data in [bytes([b]) for b in range(256)] + [rng.randbytes(rng.randint(0, 40)) for _ in range(200)]:
        ids = [byte_ids[byte] for byte in data]
        assert trained.decode_bytes(ids) == data
        assert trained.decode(ids) == data.decode("utf-8", "replace")


def test_surrogates_are_joined_or_replaced(trained):
    """A surrogate pair is its character, a lone surrogate is U+FFFD, in encoding and in training."""
    assert trained.encode("x\ud83d\ude09") == trained.encode("x😉")
    for lone in ("\ud800", "\udfff", "\ude09\ud83d"):
        assert trained.encode(f"a{lone}b") == trained.encode("a" + "\ufffd" * len(lone) + "b")
    assert Tokenizer.train(["\ud800\ud800"], 261).merges == Tokenizer.train(["\ufffd\ufffd"], 261).merges


def test_encoding_again_gives_the_same_ids_in_a_fresh_list(trained):
    """The cache of words is invisible: a caller may change the list it got."""
    first = trained.encode("token")
    first.append(-1)
    assert trained.encode("token") == first[:-1]


def test_cache_is_bounded(trained, monkeypatch):
    """However many distinct words go by, only so many are remembered, and the ids stay right."""
    text = " ".join(f"w{i}x" for i in range(100))
    fresh = Tokenizer(trained.merges)
    monkeypatch.setattr(tokenizer_module, "_CACHE_WORDS", 10)
    assert fresh.encode(text) == trained.encode(text)
    assert 0 < len(fresh._cache) <= 10


@pytest.mark.parametrize("bad", [-1, 800, 10**9])
def test_unknown_ids_are_refused(trained, bad):
    """An id outside the vocabulary raises with the id and the size, and a negative one does not wrap."""
    for read in (trained.decode, trained.decode_bytes):
        with pytest.raises(ValueError, match=f"id {bad} .* 800 tokens"):
            read([bad])


# Special tokens.

def test_specials_are_last_and_eos_is_endoftext(trained):
    """Special ids follow the merges, in the order given, so they cannot collide with a merge."""
    assert list(trained.special_ids.items()) == list(zip(SPECIALS, [796, 797, 798, 799]))
    assert trained.eos_id == trained.special_ids[EOS] == 796


def test_text_cannot_inject_specials(trained):
    """Text that spells the name of a special token is encoded as ordinary characters."""
    text = "".join(SPECIALS) + "hi<|endoftext|>"
    ids = trained.encode(text)
    assert not set(ids) & set(trained.special_ids.values()) and trained.decode(ids) == text


def test_specials_decode_to_their_names(trained):
    user, eos = trained.special_ids["<|user|>"], trained.eos_id
    assert trained.decode([user, *trained.encode(" hi"), eos]) == "<|user|> hi<|endoftext|>"


def test_add_specials_appends_and_keeps_what_exists():
    """New names get the next ids, known ones theirs; both are usable at once."""
    tokenizer = Tokenizer(specials=[EOS])
    assert tokenizer.add_specials(iter([EOS, "<|user|>"])) == [256, 257]
    assert tokenizer.vocab_size == 258
    assert tokenizer.decode([64, 257]) == "a<|user|>"


@pytest.mark.parametrize("name", ["", "a", "aa", "Ġ"])
def test_specials_that_are_ordinary_tokens_are_refused(name):
    """In vocabulary files a name stands for one id, so a special may not be called like a token."""
    tokenizer = Tokenizer([(64, 64)])
    with pytest.raises(ValueError, match="cannot be a special token"):
        tokenizer.add_specials(["<new>", name])
    assert tokenizer.vocab_size == 261


@pytest.mark.parametrize("merges", [[(256, 0)], [(0, 257), (0, 1)], [(-1, 0)], [(0, 1), (0, 1)]])
def test_impossible_merges_are_refused(merges):
    """A merge can join only what exists before it, and may not spell a token a second time."""
    with pytest.raises(ValueError):
        Tokenizer(merges)


# Files.

@pytest.mark.parametrize("pattern", PATTERNS)
def test_save_and_load_keep_everything(pattern, corpus, tmp_path):
    """Merges, pattern, and specials (with a space in one) survive, and so does every encoding."""
    tokenizer = Tokenizer.train([corpus], 500, pattern, specials=[EOS, "<|ünï code|>"])
    tokenizer_files.save(tokenizer, tmp_path / "new" / "folder")
    loaded = tokenizer_files.load(str(tmp_path / "new" / "folder"))
    assert (loaded.merges, loaded.pattern) == (tokenizer.merges, pattern)
    assert list(loaded.special_ids.items()) == list(tokenizer.special_ids.items())
    for text in (*TRICKY, corpus, "<|ünï code|>12 345"):
        assert loaded.encode(text) == tokenizer.encode(text)


def test_saved_files_are_json_in_utf8_and_nothing_else(trained, tmp_path):
    """Two JSON files are written, with no temporary file beside them."""
    tokenizer_files.save(trained, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    content = json.loads((tmp_path / "tokenizer.json").read_bytes().decode("utf-8"))
    assert content["version"] == "1.0" and len(content["model"]["vocab"]) == trained.vocab_size


def test_both_notations_of_merges_are_read(trained, tmp_path):
    """Hugging Face wrote merges as "a b" and now writes ["a", "b"]."""
    tokenizer_files.save(trained, tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    content["model"]["merges"] = [merge.split(" ") for merge in content["model"]["merges"]]
    path.write_text(json.dumps(content), "utf-8")
    assert tokenizer_files.load(tmp_path).merges == trained.merges


def test_gpt2_kind_of_tokenizer_json_is_read(trained, tmp_path):
    """A lone ByteLevel brings GPT-2's pattern along, and specials may be missing from the model's vocab."""
    tokenizer_files.save(trained, tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    content["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    for name in SPECIALS:
        del content["model"]["vocab"][name]
    path.write_text(json.dumps(content), "utf-8")
    loaded = tokenizer_files.load(tmp_path)
    assert loaded.pattern == "gpt2" and loaded.special_ids == trained.special_ids


def replaced(content, path, value):
    *parents, last = path.split("/")
    for key in parents:
        content = content[int(key) if key.isdigit() else key]
    content[last] = value


@pytest.mark.parametrize("path, value, message", [
    ("version", "2.0", "version other than 1.0"),
    ("model/type", "Unigram", "model other than BPE"),
    ("model/dropout", 0.1, "dropout"),
    ("model/end_of_word_suffix", "</w>", "suffix"),
    ("normalizer", {"type": "NFKC"}, "normalizer"),
    ("pre_tokenizer/pretokenizers/0/pattern", {"Regex": r"\w+"}, "unknown pre-tokenizer"),
    ("pre_tokenizer/pretokenizers/0/behavior", "Removed", "does not isolate"),
    ("pre_tokenizer/pretokenizers/1/add_prefix_space", True, "space added"),
    ("pre_tokenizer", {"type": "Whitespace"}, "unknown pre-tokenizer"),
    ("pre_tokenizer", None, "not laid out as expected"),
    ("post_processor", {"type": "TemplateProcessing", "special_tokens": {EOS: {}}}, "post-processor"),
    ("added_tokens/0/lstrip", True, "swallow spaces"),
    ("added_tokens/0/id", 5, "in GPT-2's order"),
    ("model/vocab/!", 1, "each once"),
    ("model/vocab/extra", 9999, "'extra' has id 9999"),
    ("model/merges", ["Ġ t", "zzz q"], "'zzz' 'q' joins a token that no earlier merge makes"),
    ("model/merges", ["Ġ t x"], "use a byte-level BPE"),
    ("model/merges", 7, "not laid out as expected"),
    ("model", None, "not laid out as expected"),
])
def test_files_that_cannot_be_represented_are_refused(path, value, message, trained, tmp_path):
    """Whatever would make our encoding differ from the file's is an error that names file and remedy."""
    tokenizer_files.save(trained, tmp_path)
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text("utf-8"))
    replaced(content, path, value)
    file.write_text(json.dumps(content), "utf-8")
    with pytest.raises(UserError, match=message) as error:
        tokenizer_files.load(tmp_path)
    assert str(error.value).startswith(str(file)) and "\n" not in str(error.value)
    assert "Tokenizer.train" in str(error.value)


# GPT-2's own vocabulary, and published ids.

@pytest.mark.parametrize("text, ids", [
    ("This is some text", [1212, 318, 617, 2420]),
    ("Hello, world. Is this-- a test?", [15496, 11, 995, 13, 1148, 428, 438, 257, 1332, 30]),
    ("Implementations", [3546, 26908, 602]),
    ("\n", [198]),
    (" ", [220]),
])
def test_gpt2_ids(text, ids, gpt2):
    """Ids that GPT-2 is known to give."""
    assert gpt2.encode(text) == ids and gpt2.decode(ids) == text


def test_gpt2_vocabulary(gpt2):
    """50,000 merges (of which one is "# #"), <|endoftext|> at 50256, and room for our specials after it."""
    assert gpt2.vocab_size == 50257 and gpt2.eos_id == 50256 and gpt2.pattern == "gpt2"
    assert gpt2.encode("##") == [2235]
    extended = Tokenizer(gpt2.merges, "gpt2", [EOS])
    assert extended.add_specials(SPECIALS) == [50256, 50257, 50258, 50259]


def test_gpt2_survives_save_and_load(gpt2, tmp_path):
    """GPT-2's tokenizer written in our layout is GPT-2's tokenizer."""
    tokenizer_files.save(gpt2, tmp_path)
    loaded = tokenizer_files.load(tmp_path)
    assert (loaded.merges, loaded.pattern, loaded.special_ids) == (gpt2.merges, "gpt2", gpt2.special_ids)


def real_texts() -> list[str]:
    files = [*SOURCES, DATA / "tinyshakespeare.txt", DATA / "movie_reviews.jsonl"]
    return [file.read_text("utf-8")[:200_000] for file in files if file.exists()]


def encode_parsed(tokenizer: Tokenizer, text: str) -> list[int]:
    """As Hugging Face encodes: names of specials in the text are read as specials."""
    parts = re.split("(" + "|".join(map(re.escape, tokenizer.special_ids)) + ")", text)
    special = tokenizer.special_ids
    return [i for part in parts for i in ([special[part]] if part in special else tokenizer.encode(part))]


def random_texts(n: int) -> list[str]:
    alphabet = "ab Z's 12²½Ⅷ\t\n\r\x1c\x1f\x85\u00a0\u2028_-!'éß語😉\u0301\u200b\x00"
    rng = random.Random(0)
    return ["".join(rng.choices(alphabet, k=rng.randint(0, 30))) for _ in range(n)]


def test_gpt2_encoding_equals_tiktoken(gpt2):
    """The same ids as tiktoken built from GPT-2's ranks, for real, awkward, random and broken text."""
    tiktoken = pytest.importorskip("tiktoken")
    vocabulary = json.loads((DATA / "gpt2" / "vocab.json").read_text("utf-8"))
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(shifted)}
    ranks = {bytes(byte_of[symbol] for symbol in name): i for name, i in vocabulary.items() if name != EOS}
    theirs = tiktoken.Encoding("gpt2-offline", pat_str=PATTERNS["gpt2"], mergeable_ranks=ranks,
                               special_tokens={EOS: 50256})
    for text in TRICKY + real_texts() + random_texts(2000) + ["a" * 3000, "lone \ud800 \udc00\ud83d\ude09"]:
        assert gpt2.encode(text) == theirs.encode_ordinary(text), text[:100]


def test_tokenizer_json_of_hugging_faces_gpt2_is_read(gpt2, transformers, tmp_path):
    """The tokenizer.json that transformers writes for GPT-2 loads here, with transformers' own ids."""
    theirs = transformers.GPT2Tokenizer(vocab=str(DATA / "gpt2" / "vocab.json"),
                                        merges=str(DATA / "gpt2" / "merges.txt"))
    theirs.save_pretrained(tmp_path)
    ours = tokenizer_files.load(tmp_path)
    assert ours.merges == gpt2.merges and ours.pattern == "gpt2"
    for text in TRICKY + random_texts(300):
        assert encode_parsed(ours, text) == theirs(text)["input_ids"], text


# Other people's implementations.

@pytest.mark.parametrize("pattern", PATTERNS)
def test_auto_tokenizer_reads_what_we_save(pattern, corpus, transformers, tmp_path):
    """AutoTokenizer gives our ids, text and special ids, and what it saves again loads here."""
    ours = Tokenizer.train([corpus], 700, pattern)
    tokenizer_files.save(ours, tmp_path / "ours")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert len(theirs) == ours.vocab_size
    assert theirs.eos_token_id == theirs.bos_token_id == theirs.pad_token_id == ours.eos_id
    for text in TRICKY + real_texts() + random_texts(300):
        ids = encode_parsed(ours, text)
        assert theirs(text)["input_ids"] == ids, text[:100]
        assert theirs.decode(ids) == text
    theirs.save_pretrained(tmp_path / "theirs")
    again = tokenizer_files.load(tmp_path / "theirs")
    assert (again.merges, again.pattern, again.special_ids) == (ours.merges, pattern, ours.special_ids)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_training_equals_hugging_face_tokenizers(pattern):
    """Every merge equals the Rust trainer's, ties included: its alphabet is in our order too."""
    hf = pytest.importorskip("tokenizers")
    for text in real_texts() + ["".join(random_texts(300))]:
        theirs = hf.Tokenizer(hf.models.BPE())
        theirs.pre_tokenizer = hf.pre_tokenizers.Sequence([
            hf.pre_tokenizers.Split(hf.Regex(PATTERNS[pattern]), "isolated"),
            hf.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        theirs.train_from_iterator([text], hf.trainers.BpeTrainer(
            vocab_size=756, min_frequency=2, special_tokens=[], show_progress=False,
            initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet()))
        model = json.loads(theirs.to_str())["model"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            ours = Tokenizer.train([text], 757, pattern, [EOS])
        id_of = model["vocab"]
        assert ours.merges == [(id_of[left], id_of[right]) for left, right in model["merges"]]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_pieces_equal_those_of_regex(pattern):
    r"""Random strings are cut exactly as the `regex` package, which knows \p{L}, cuts them."""
    regex = pytest.importorskip("regex")
    for text in TRICKY + random_texts(5000):
        assert split(text, pattern) == regex.findall(PATTERNS[pattern], text), text


def test_every_assigned_code_point_is_classified_as_regex_does():
    """Beside a letter, a digit and a "!" each character shows its class; Unicode versions differ a bit."""
    regex = pytest.importorskip("regex")
    assigned = [chr(c) for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]
    text = "".join(f"\n{char}A{char}0{char}!" for char in assigned)
    different = set(split(text, "gpt2")) ^ set(regex.findall(PATTERNS["gpt2"], text))
    assert len(assigned) > 200_000 and len(different) < len(assigned) / 10_000, sorted(different)[:20]
