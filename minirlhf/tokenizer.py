"""Text to token ids and back: a byte-level BPE tokenizer, trainable, and GPT-2's own when given its files.

Text is cut into pieces (a word with the space before it, a number, a run of punctuation), each piece is
taken as UTF-8 bytes, and merges join bytes to tokens inside a piece, never across pieces. Every string
has an encoding, because every byte is a token; with no merges at all this is the byte tokenizer.

    tokenizer = Tokenizer.train(["low lower lowest"], vocab_size=263)    # 256 bytes, 3 merges, 4 specials
    tokenizer.encode(" lower")                                           # [258, 68, 81]: " low", "e", "r"
    tokenizer.decode([258, 68, 81])                                      # " lower"

Ids are in GPT-2's order: the 256 bytes in the order of its byte table, the merges by rank, the special
tokens last. Text is data: a user who types "<|endoftext|>" gets those 13 characters, not the special.

Not here: the cutting, learning and merging themselves (bpe.py), chat templates and batches (data.py),
normalisation of Unicode (there is none: what goes in comes out). Proved by tests/test_tokenizer.py.
Source: Radford et al. 2019 (GPT-2), section 2.2; Sennrich et al. 2016.
"""

import json
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from minirlhf.bpe import FIRST_MERGE_ID, PATTERNS, Pair, apply_merges, learn_merges, split
from minirlhf.files import write_atomic

EOS = "<|endoftext|>"
PAD = "<|pad|>"  # of reward models alone, which read the EOS
SPECIALS = (EOS, "<|user|>", "<|assistant|>", "<|system|>")

# GPT-2's byte table: id -> byte, and id -> the character that stands for it in vocabulary files. Bytes
# that print in Latin-1 come first and stand for themselves, the other 68 borrow the characters from 256 on.
_PRINTABLE = bytes([*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)])
BYTE_ORDER = _PRINTABLE + bytes(byte for byte in range(256) if byte not in _PRINTABLE)
SYMBOLS = _PRINTABLE.decode("latin-1") + "".join(chr(256 + n) for n in range(256 - len(_PRINTABLE)))
_BYTE_TO_ID = bytes(BYTE_ORDER.index(byte) for byte in range(256))
_BYTE_TO_SYMBOL = dict(zip(BYTE_ORDER, SYMBOLS))

_CACHE_WORDS = 100_000      # pieces whose ids are remembered; more than the distinct words of most corpora
_CACHE_CHARACTERS = 64      # longer pieces are not words and seldom come back


def _replace_surrogates(text: str) -> str:
    """`text` as UTF-8 can hold it: a surrogate pair joined to its character, a lone surrogate U+FFFD."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class Tokenizer:
    """Byte-level BPE with special tokens.

    merges: pairs of ids in rank order; the merge of rank r makes the id 256 + r.
    pattern: a key of PATTERNS.
    specials: names of the special tokens, which take the ids after the merges; must include <|endoftext|>.

        Tokenizer().encode("Hi") == [39, 72]         # no merges: one token a byte

    token_bytes: list[bytes], what each ordinary token spells, by id; specials are not in it.
    special_ids: dict from the name of a special token to its id.

    Raises ValueError for an unknown pattern, an impossible merge, or specials that cannot be.
    """

    def __init__(self, merges: Iterable[Pair] = (), pattern: str = "gpt2-digits",
                 specials: Iterable[str] = SPECIALS) -> None:
        if pattern not in PATTERNS:
            raise ValueError(f"unknown pattern {pattern!r}; use one of {', '.join(PATTERNS)}")
        self.pattern = pattern
        self.merges = [(left, right) for left, right in merges]
        self.token_bytes = [bytes([byte]) for byte in BYTE_ORDER]
        for left, right in self.merges:
            new_id = len(self.token_bytes)
            if not (0 <= left < new_id and 0 <= right < new_id):
                raise ValueError(f"merge {(left, right)} makes id {new_id} but does not join ids below it")
            self.token_bytes.append(self.token_bytes[left] + self.token_bytes[right])
        self._merge_ids = {pair: FIRST_MERGE_ID + rank for rank, pair in enumerate(self.merges)}
        self._id_of = {token: i for i, token in enumerate(self.token_bytes)}
        if len(self._id_of) < len(self.token_bytes):
            raise ValueError("two merges spell the same token, which merges learned by BPE never do")
        self._cache: dict[str, list[int]] = {}
        self.special_ids: dict[str, int] = {}
        self.add_specials(specials)
        if EOS not in self.special_ids:
            raise ValueError(f"the specials {list(self.special_ids)} lack {EOS}; add it")

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, pattern: str = "gpt2-digits",
              specials: Iterable[str] = SPECIALS) -> "Tokenizer":
        """Learn merges from `texts` until there are `vocab_size` tokens, specials included.

        Texts are read one at a time and only their distinct pieces are kept. The most frequent pair is
        merged first, ties go to the smallest pair of ids, so the order of the texts does not matter.
        Warns and stops early when no pair is left that occurs twice.

            Tokenizer.train(["aaabdaaabac"], 263).merges == [(64, 64), (64, 65), (256, 257)]

        Raises ValueError if `vocab_size` has no room for the bytes and the specials.
        """
        specials = list(dict.fromkeys(specials))
        smallest = FIRST_MERGE_ID + len(specials)
        if vocab_size < smallest:
            raise ValueError(f"vocab_size {vocab_size} cannot hold 256 bytes and {len(specials)} specials; "
                             f"give at least {smallest}")
        if isinstance(texts, str):
            raise ValueError("texts is one string, which would be read letter by letter; pass [text]")
        cls((), pattern, specials)  # refuses a wrong pattern or special before the work, not after it
        pieces: Counter[str] = Counter()
        for text in texts:
            pieces.update(split(_replace_surrogates(text), pattern))
        words = {piece.encode().translate(_BYTE_TO_ID): count for piece, count in pieces.items()}
        merges = learn_merges(words, vocab_size - smallest)
        if len(merges) < vocab_size - smallest:
            warnings.warn(f"the vocabulary has {smallest + len(merges)} tokens, not {vocab_size}: no further "
                          "pair occurs 2 times in the texts; train on more text", stacklevel=2)
        return cls(merges, pattern, specials)

    @property
    def vocab_size(self) -> int:
        """The number of ids: bytes, merges and specials."""
        return len(self.token_bytes) + len(self.special_ids)

    @property
    def eos_id(self) -> int:
        """The id of <|endoftext|>, which ends a document or a response."""
        return self.special_ids[EOS]

    def add_specials(self, names: Iterable[str]) -> list[int]:
        """Append special tokens; returns the id of each name. One that exists already keeps its id.

            Tokenizer.load("gpt2").add_specials(SPECIALS) == [50256, 50257, 50258, 50259]

        Raises ValueError for an empty name, or one that already is an ordinary token in vocabulary files.
        """
        names = list(names)
        for name in names:
            if not name or (set(name) <= set(SYMBOLS) and _bytes_of(name) in self._id_of):
                raise ValueError(f"{name!r} cannot be a special token: it is empty or an ordinary token")
        for name in names:
            self.special_ids.setdefault(name, self.vocab_size)
        self._spelled = self.token_bytes + [name.encode() for name in self.special_ids]
        return [self.special_ids[name] for name in names]

    def encode(self, text: str) -> list[int]:
        """The ids of `text`: never a special id, whatever the text says.

        A lone surrogate, which UTF-8 cannot hold, is read as U+FFFD (as tiktoken does).
        """
        cache = self._cache
        ids: list[int] = []
        for piece in split(_replace_surrogates(text), self.pattern):
            # Words repeat, so nearly all of the time goes into this lookup and not into merging.
            piece_ids = cache.get(piece)
            if piece_ids is None:
                piece_ids = self._encode_piece(piece)
                if len(piece) <= _CACHE_CHARACTERS:
                    if len(cache) >= _CACHE_WORDS:
                        cache.clear()
                    cache[piece] = piece_ids
            ids += piece_ids
        return ids

    def _encode_piece(self, piece: str) -> list[int]:
        data = piece.encode()
        if data in self._id_of:
            return [self._id_of[data]]
        return apply_merges(list(data.translate(_BYTE_TO_ID)), self._merge_ids)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that `ids` spell; specials are written as their names.

        Raises ValueError for an id outside the vocabulary.
        """
        spelled = []
        for i in ids:
            if not 0 <= i < len(self._spelled):  # a negative one would count from the end, silently
                raise ValueError(f"id {i} is outside the vocabulary of {self.vocab_size} tokens")
            spelled.append(self._spelled[i])
        return b"".join(spelled)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`: `decode(encode(text)) == text`.

        Ids can spell bytes that are not UTF-8, for instance when they stop inside a character: those become U+FFFD.
        """
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which Hugging Face's AutoTokenizer reads too.

        There, `tokenizer(text)` gives what `encode` gives here, but for names of specials, which it parses.
        """
        symbols = [_symbols_of(token) for token in self.token_bytes]
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                      "use_regex": False}
        cut = {"type": "Split", "pattern": {"Regex": PATTERNS[self.pattern]}, "behavior": "Isolated",
               "invert": False}
        tokenizer = {
            "version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [{"id": i, "content": name, "special": True, "normalized": False, "lstrip": False,
                              "rstrip": False, "single_word": False} for name, i in self.special_ids.items()],
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [cut, byte_level]},
            "post_processor": None,
            "decoder": byte_level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                      "vocab": self._vocabulary(),
                      "merges": [f"{symbols[left]} {symbols[right]}" for left, right in self.merges]},
        }
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
                  "bos_token": EOS, "eos_token": EOS, "pad_token": PAD if PAD in self.special_ids else EOS}
        for name, content in (("tokenizer.json", tokenizer), ("tokenizer_config.json", config)):
            text = json.dumps(content, ensure_ascii=False, indent=1)
            write_atomic(Path(folder) / name, text.encode("utf-8"))

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """Read what `save` wrote, a Hugging Face `tokenizer.json` of GPT-2's kind, or GPT-2's own
        `vocab.json` with `merges.txt`.

        Raises FileNotFoundError if there is none of these, ValueError if a file is damaged or asks for
        something that would make its encoding differ from ours; the message names the file and the remedy.
        """
        folder = Path(folder)
        path = folder / "tokenizer.json"
        try:
            if path.exists():
                return cls._from_hugging_face(json.loads(path.read_text("utf-8")))
            path = folder / "merges.txt"
            lines = path.read_text("utf-8").splitlines()
            path = folder / "vocab.json"
            vocabulary = json.loads(path.read_text("utf-8"))
            # Only the first line is a comment: "# #" further down is a merge.
            merges = [line.split(" ") for line in lines[lines[0].startswith("#version"):] if line]
            names = [name for name, i in vocabulary.items() if i >= FIRST_MERGE_ID + len(merges)]
            return cls._from_symbols(vocabulary, merges, "gpt2", names)
        except FileNotFoundError:
            raise FileNotFoundError(f"{path} is missing; give a folder that holds tokenizer.json, or GPT-2's "
                                    "vocab.json and merges.txt") from None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            what = str(error) if isinstance(error, ValueError) else f"not laid out as expected, {error!r}"
            raise ValueError(f"{path}: {what}; use a byte-level BPE with GPT-2's layout, such as `save` "
                             "writes, or train one with Tokenizer.train") from error

    @classmethod
    def _from_hugging_face(cls, content: dict) -> "Tokenizer":
        model, added, cut = content["model"], content["added_tokens"], content["pre_tokenizer"]
        post_processor = content.get("post_processor") or {"type": "ByteLevel"}
        steps = cut["pretokenizers"] if cut["type"] == "Sequence" else [cut]
        byte_level = steps[-1]
        if len(steps) == 1 and byte_level.get("use_regex", True):
            regex = PATTERNS["gpt2"]  # ByteLevel brings it along
        elif len(steps) == 2 and not byte_level.get("use_regex", True):
            regex = steps[0]["pattern"].get("Regex")
        else:
            regex = None
        pattern = next((name for name, known in PATTERNS.items() if known == regex), None)
        unsupported = {
            "a version other than 1.0": content["version"] != "1.0",
            "a model other than BPE": model.get("type", "BPE") != "BPE",
            "BPE dropout": model.get("dropout"),
            "a subword prefix or suffix":
                model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"),
            "a normalizer": content.get("normalizer"),
            "an unknown pre-tokenizer": pattern is None or byte_level["type"] != "ByteLevel",
            "a Split that does not isolate":
                len(steps) == 2 and (steps[0]["behavior"] != "Isolated" or steps[0]["invert"]),
            "a space added in front of the text": byte_level.get("add_prefix_space", True),
            "a post-processor that adds tokens":
                post_processor["type"] not in ("ByteLevel", "TemplateProcessing")
                or post_processor.get("special_tokens"),
            "added tokens that are not special, swallow spaces or match whole words only":
                any(not token["special"] or token["lstrip"] or token["rstrip"] or token["single_word"]
                    for token in added),
        }
        for what, found in unsupported.items():
            if found:
                raise ValueError(f"has {what}, which this tokenizer cannot do")
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        specials = {token["content"]: token["id"] for token in added}
        return cls._from_symbols({**model["vocab"], **specials}, merges, pattern, list(specials))

    @classmethod
    def _from_symbols(cls, vocabulary: dict[str, int], merges: Sequence[Sequence[str]], pattern: str,
                      specials: list[str]) -> "Tokenizer":
        """Turn merges of symbols into merges of ids, and see that `vocabulary` gives each token that id."""
        ids = {symbol: i for i, symbol in enumerate(SYMBOLS)}
        pairs = []
        for left, right in merges:
            if left not in ids or right not in ids:
                raise ValueError(f"merge {left!r} {right!r} joins a token that no earlier merge makes")
            pairs.append((ids[left], ids[right]))
            ids[left + right] = FIRST_MERGE_ID + len(pairs) - 1
        tokenizer = cls(pairs, pattern, sorted(specials, key=vocabulary.__getitem__))
        expected = tokenizer._vocabulary()
        for name in expected.keys() | vocabulary.keys():
            if expected.get(name) != vocabulary.get(name):
                raise ValueError(f"token {name!r} has id {vocabulary.get(name)}, but {expected.get(name)} in "
                                 "GPT-2's order (bytes, merges, specials)")
        return tokenizer

    def _vocabulary(self) -> dict[str, int]:
        """Every token as vocabulary files write it, with its id."""
        return {_symbols_of(token): i for i, token in enumerate(self.token_bytes)} | self.special_ids


def _symbols_of(token: bytes) -> str:
    return token.decode("latin-1").translate(_BYTE_TO_SYMBOL)


def _bytes_of(symbols: str) -> bytes:
    return bytes(BYTE_ORDER[SYMBOLS.index(symbol)] for symbol in symbols)
