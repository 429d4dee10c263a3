"""Byte-level BPE with the ids of another vocabulary: SmolLM2's, Llama 3's, Qwen's.

`tokenizer.py` numbers its tokens itself. Here ids, bytes and special tokens come from a file, in any order, and some
bytes may have no token. Text is cut by the vocabulary's own pattern, and merged by the functions of bpe.py.
The interface is that of `Tokenizer`. Proved by tests/lm/test_vocabulary.py, against `tokenizers` and tiktoken.
"""

import unicodedata
from collections.abc import Iterable, Mapping

from minirlhf.lm.bpe import FIRST_MERGE_ID, apply_merges, split
from minirlhf.lm.records import ChatFormat

# A white space before a digit stays whole where digits are cut off first, as SmolLM2 does.
_LATER = r"[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LATER = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|" + _LATER
CUTS = {
    "smollm": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+",
    "llama3": _LATER % r"\p{N}{1,3}",
    "qwen2": _LATER % r"\p{N}",
}
_CACHE_WORDS = 100_000


class VocabularyTokenizer:
    """A tokenizer whose ids come from a file.

    tokens: the bytes of each ordinary token -> its id.  merges: pairs of tokens in rank order.
    specials: names of special tokens -> ids.  cut: a regular expression, \\p{L} and \\p{N} allowed.
    eos: the special token that ends a response.  nfc: text is normalised first (Qwen).
    whole: a piece that is a token is not merged but taken whole (Llama 3).

    token_bytes: list[bytes], the spelling of each token, by id, a special's name included.

    Raises ValueError for ids that are not 0 .. n − 1, each once, and for merges that make what is no token.
    """

    def __init__(
        self, tokens: Mapping[bytes, int], merges: Iterable[tuple[bytes, bytes]], specials: Mapping[str, int], cut: str,
        eos: str, nfc: bool = False, whole: bool = False,
    ) -> None:  # fmt: skip
        self.tokens, self.merges, self.cut, self.nfc, self.whole = dict(tokens), list(merges), cut, nfc, whole
        self.special_ids, self.eos, self.chat = dict(specials), eos, ChatFormat()
        ids = sorted([*self.tokens.values(), *self.special_ids.values()])
        if ids != list(range(len(ids))):
            raise ValueError(f"{len(ids)} tokens do not have the ids 0 to {len(ids) - 1}, each once")
        if eos not in self.special_ids:
            raise ValueError(f"the special tokens lack {eos!r}, which ends a response")
        # Inside, a token is the number of the first merge that makes it: bpe.py takes the lowest number first.
        numbers, last = {bytes([byte]): byte for byte in range(FIRST_MERGE_ID)}, b""
        for both in (left + right for left, right in self.merges):
            if numbers.setdefault(both, len(numbers)) != len(numbers) - 1 and both != last:
                raise ValueError(f"merges make the token {both!r} at two ranks, which this code cannot do")
            last = both
        if lost := [pair for pair in self.merges if not numbers.keys() >= {*pair} or pair[0] + pair[1] not in tokens]:
            raise ValueError(f"the merge {lost[0][0]!r} {lost[0][1]!r} joins or makes what is no token")
        self._merge_ids = {(numbers[left], numbers[right]): numbers[left + right] for left, right in self.merges}
        self._ids = [self.tokens.get(token, -1) for token in numbers]  # by number; −1: a byte without a token
        self._cache: dict[str, list[int]] = {}
        self.add_specials(())

    @property
    def vocab_size(self) -> int:
        """The number of ids."""
        return len(self.token_bytes)

    @property
    def eos_id(self) -> int:
        """The id of the token that ends a response."""
        return self.special_ids[self.eos]

    def add_specials(self, names: Iterable[str]) -> list[int]:
        """Append special tokens; returns the id of each name. One that exists already keeps its id.

        Raises ValueError, and appends none, where a name is an ordinary token.
        """
        names = list(names)
        if taken := [name for name in names if name.encode() in self.tokens]:
            raise ValueError(f"{taken[0]!r} cannot be a special token: it is an ordinary token")
        for name in names:
            self.special_ids.setdefault(name, len(self.tokens) + len(self.special_ids))
        spelled = {i: token for token, i in self.tokens.items()} | {i: s.encode() for s, i in self.special_ids.items()}
        self.token_bytes = [spelled[i] for i in range(len(spelled))]
        return [self.special_ids[name] for name in names]

    def encode(self, text: str) -> list[int]:
        """The ids of `text`: never a special id, whatever the text says. Bytes without a token are left out."""
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # a lone surrogate is U+FFFD
        text = unicodedata.normalize("NFC", text) if self.nfc else text
        ids = []
        for piece in split(text, self.cut):
            found = self._cache.get(piece)
            if found is None:
                if len(self._cache) >= _CACHE_WORDS:
                    self._cache.clear()
                found = self._cache[piece] = self._encode_piece(piece.encode())
            ids += found
        return ids

    def _encode_piece(self, piece: bytes) -> list[int]:
        if self.whole and piece in self.tokens:
            return [self.tokens[piece]]
        return [i for n in apply_merges(list(piece), self._merge_ids) if (i := self._ids[n]) >= 0]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that `ids` spell; specials are written as their names. Raises ValueError for an id outside."""
        spelled = []
        for i in ids:
            if not 0 <= i < len(self.token_bytes):  # a negative one would count from the end, silently
                raise ValueError(f"id {i} is outside the vocabulary of {self.vocab_size} tokens")
            spelled.append(self.token_bytes[i])
        return b"".join(spelled)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")
