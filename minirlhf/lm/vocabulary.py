"""Byte-level BPE with the ids of another vocabulary: SmolLM2's, Llama 3's, Qwen's.

`tokenizer.py` numbers its tokens itself. Here ids, bytes and special tokens come from a file, in any order, and some
bytes may have no token. Text is cut by the vocabulary's own pattern, and merged by the functions of bpe.py.
All else is that of `Tokenizer`. Proved by tests/lm/test_vocabulary.py, against `tokenizers` and tiktoken.
"""

import unicodedata
from collections.abc import Iterable, Mapping

from minirlhf.lm.bpe import FIRST_MERGE_ID, apply_merges
from minirlhf.lm.records import ChatFormat
from minirlhf.lm.tokenizer import Tokenizer, replace_surrogates

# A white space before a digit stays whole where digits are cut off first, as SmolLM2 does.
_LATER = r"[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LATER = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|" + _LATER
CUTS = {
    "smollm": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+",
    "llama3": _LATER % r"\p{N}{1,3}",
    "qwen2": _LATER % r"\p{N}",
}


class VocabularyTokenizer(Tokenizer):
    """A tokenizer whose ids come from a file.

    tokens: the bytes of each ordinary token -> its id.  merges: pairs of tokens in rank order.
    specials: names of special tokens -> ids.  cut: a regular expression, \\p{L} and \\p{N} allowed.
    eos: the special token that ends a response.  nfc: text is normalised first (Qwen).
    whole: a piece that is a token is not merged but taken whole (Llama 3).

    token_bytes: list[bytes], the spelling of each token, by id, here with the names of specials.

    Raises ValueError for ids that are not 0 .. n − 1, each once, and for merges that make what is no token.
    """

    def __init__(
        self, tokens: Mapping[bytes, int], merges: Iterable[tuple[bytes, bytes]], specials: Mapping[str, int], cut: str,
        eos: str, nfc: bool = False, whole: bool = False,
    ) -> None:  # fmt: skip
        self.tokens, self.merges, self.nfc, self.whole = dict(tokens), list(merges), nfc, whole
        self.cut = self.pattern = cut
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
        self.token_bytes = self._spelled = [spelled[i] for i in range(len(spelled))]
        return [self.special_ids[name] for name in names]

    def encode(self, text: str) -> list[int]:
        """The ids of `text`: never a special id, whatever the text says. Bytes without a token are left out."""
        return super().encode(unicodedata.normalize("NFC", replace_surrogates(text)) if self.nfc else text)

    def _encode_piece(self, piece: bytes) -> list[int]:
        if self.whole and piece in self.tokens:
            return [self.tokens[piece]]
        return [i for n in apply_merges(list(piece), self._merge_ids) if (i := self._ids[n]) >= 0]
