"""Text to token ids and back: a byte-level BPE tokenizer, trainable, and GPT-2's own when given its files.

Text is cut into pieces: a word with the space before it, a number, a run of punctuation. Each piece is taken as
UTF-8 bytes. Merges join bytes to tokens inside a piece, never across pieces. Every byte is a token, so every
string has an encoding. Without merges this is the byte tokenizer.

    tokenizer = Tokenizer.train(["low lower lowest"], vocab_size=263)    # 256 bytes, 3 merges, 4 specials
    tokenizer.encode(" lower")                                           # [258, 68, 81]: " low", "e", "r"
    tokenizer.decode([258, 68, 81])                                      # " lower"

Ids are in GPT-2's order: the 256 bytes in the order of its byte table, the merges by rank, the special
tokens last. Text is data: a user who types "<|endoftext|>" gets those 13 characters, not the special.

Not here: cutting, learning and merging (bpe.py), chat templates and batches (chat.py), normalisation of Unicode. It is
GPT-2's own but for letters and numbers newer than Python's Unicode tables, which it takes for punctuation.
Proved by tests/lm/test_tokenizer.py. Source: Radford et al. 2019 (GPT-2), section 2.2; Sennrich et al. 2016.
"""

import warnings
from collections import Counter
from collections.abc import Iterable

from minirlhf.lm.bpe import FIRST_MERGE_ID, PATTERNS, IdPair, apply_merges, learn_merges, split
from minirlhf.lm.records import ChatFormat

EOS = "<|endoftext|>"
PAD = "<|pad|>"  # of reward models alone, which read the EOS
SPECIALS = (EOS, "<|user|>", "<|assistant|>", "<|system|>")

# GPT-2's byte table: id -> byte, and id -> the character that stands for it in vocabulary files. Bytes
# that print in Latin-1 come first and stand for themselves, the other 68 borrow the characters from 256 on.
_PRINTABLE = bytes([*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)])
BYTE_ORDER = _PRINTABLE + bytes(byte for byte in range(256) if byte not in _PRINTABLE)
SYMBOLS = _PRINTABLE.decode("latin-1") + "".join(chr(256 + n) for n in range(256 - len(_PRINTABLE)))
_BYTE_TO_ID = bytes(BYTE_ORDER.index(byte) for byte in range(256))
_CACHE_WORDS = 100_000  # pieces whose ids are remembered; more than the distinct words of most corpora


def replace_surrogates(text: str) -> str:
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

        Tokenizer().encode("Hi") == [39, 72]         # no merges: one token per byte

    token_bytes: list[bytes], the spelling of each ordinary token, by id, without specials.
    special_ids: dict from the name of a special token to its id; eos: the one that ends, <|endoftext|> unless set.
    chat: the ChatFormat of conversations, our own unless set.

    Raises ValueError for an unknown pattern, an impossible merge, or specials that cannot be.
    """

    def __init__(self, merges: Iterable[IdPair] = (), pattern: str = "gpt2-digits",
                 specials: Iterable[str] = SPECIALS) -> None:
        if pattern not in PATTERNS:
            raise ValueError(f"unknown pattern {pattern!r}; use one of {', '.join(PATTERNS)}")
        self.pattern, self.merges = pattern, [(left, right) for left, right in merges]
        self.token_bytes = [bytes([byte]) for byte in BYTE_ORDER]
        for left, right in self.merges:
            new_id = len(self.token_bytes)
            if not (0 <= left < new_id and 0 <= right < new_id):
                raise ValueError(f"merge {(left, right)} makes id {new_id} but does not join ids below it")
            self.token_bytes.append(self.token_bytes[left] + self.token_bytes[right])
        self._merge_ids = {pair: FIRST_MERGE_ID + rank for rank, pair in enumerate(self.merges)}
        if len(set(self.token_bytes)) < len(self.token_bytes):
            raise ValueError("two merges spell the same token, which merges learned by BPE never do")
        self._cache: dict[str, list[int]] = {}
        self.special_ids, self.eos, self.chat = {}, EOS, ChatFormat()
        self.add_specials(specials)
        if EOS not in self.special_ids:
            raise ValueError(f"the specials {list(self.special_ids)} lack {EOS}; add it")

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, pattern: str = "gpt2-digits",
              specials: Iterable[str] = SPECIALS) -> "Tokenizer":
        """Learn merges from `texts` until there are `vocab_size` tokens, specials included.

        Only the distinct pieces of the texts are kept. The most frequent pair is merged first. Ties go to the smallest
        pair of ids, so the order of the texts does not matter. Warns and stops early when no pair occurs twice.

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
            pieces.update(split(replace_surrogates(text), pattern))
        words = {piece.encode().translate(_BYTE_TO_ID): count for piece, count in pieces.items()}
        merges = learn_merges(words, vocab_size - smallest)
        if 2 * len(merges) < vocab_size - smallest:  # a few fewer need no remedy
            warnings.warn(f"the vocabulary has {smallest + len(merges)} tokens, not {vocab_size}: no further "
                          "pair occurs 2 times in the texts; ask for fewer, or train on more text", stacklevel=2)
        return cls(merges, pattern, specials)

    @property
    def vocab_size(self) -> int:
        """The number of ids: bytes, merges and specials."""
        return len(self.token_bytes) + len(self.special_ids)

    @property
    def eos_id(self) -> int:
        """The id of the special token `eos`, which ends a document or a response."""
        return self.special_ids[self.eos]

    def add_specials(self, names: Iterable[str]) -> list[int]:
        """Append special tokens; returns the id of each name. One that exists already keeps its id.

            tokenizer_files.load("gpt2").add_specials(SPECIALS) == [50256, 50257, 50258, 50259]

        Raises ValueError for an empty name, or one that already is an ordinary token in vocabulary files.
        """
        names = list(names)
        for name in names:
            plain = set(name) <= set(SYMBOLS)  # could be an ordinary token's name in a vocabulary file
            if not name or plain and bytes(BYTE_ORDER[SYMBOLS.index(symbol)] for symbol in name) in self.token_bytes:
                raise ValueError(f"{name!r} cannot be a special token: it is empty or an ordinary token")
        for name in names:
            self.special_ids.setdefault(name, self.vocab_size)
        self._spelled = self.token_bytes + [name.encode() for name in self.special_ids]
        return [self.special_ids[name] for name in names]

    def encode(self, text: str) -> list[int]:
        """The ids of `text`: never a special id, whatever the text says. A lone surrogate, which UTF-8 cannot hold, is
        read as U+FFFD (as tiktoken does)."""
        cache, ids = self._cache, []
        for piece in split(replace_surrogates(text), self.pattern):
            # Words repeat, so nearly all of the time goes into this lookup and not into merging.
            piece_ids = cache.get(piece)
            if piece_ids is None:
                if len(cache) >= _CACHE_WORDS:
                    cache.clear()
                piece_ids = cache[piece] = self._encode_piece(piece.encode())
            ids += piece_ids
        return ids

    def _encode_piece(self, piece: bytes) -> list[int]:
        return apply_merges(list(piece.translate(_BYTE_TO_ID)), self._merge_ids)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that `ids` spell; specials as their names. Raises ValueError for an id outside the vocabulary."""
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
