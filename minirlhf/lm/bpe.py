"""Byte-pair encoding as pure functions: cut text into pieces, learn merges, apply them.

Vocabularies, special tokens and files are in tokenizer.py. Here a word is a sequence of ids, and a merge is a pair of
ids. The merge of rank r makes the id 256 + r.

The idea, on the word `aaabdaaabac`: the commonest pair is (a, a), so Z = aa gives `ZabdZabac`. Now (Z, a) and (a, b)
are equally common. The smaller pair of ids is (a, b), so Y = ab gives `ZYdZYac`, and X = ZY gives `XdXac`. To encode a
new word, the same merges are applied in the same order.

A merge replaces its pair from left to right without overlap: aaa becomes Za, never aZ. Two facts follow for learned
merges. No two of them spell the same token: files of vocabularies rely on that. A word that is itself a token always
encodes to that one token.

Proved by tests/lm/test_tokenizer.py, which holds a slow twin of each function. Source: Sennrich et al. 2016, "Neural
Machine Translation of Rare Words with Subword Units", algorithm 1; the pieces are those of Radford et al. 2019 (GPT-2).
"""

import functools
import heapq
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping

IdPair = tuple[int, int]

# How text is cut into pieces; merges stay inside a piece. "gpt2-digits" makes every digit its own piece, so that a
# model sees 12 + 34 in columns, not as whatever tokens the corpus made of 12 and 34.
PATTERNS = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "gpt2-digits": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
}

FIRST_MERGE_ID = 256
GONE = -1  # stands in place of an id that was merged away, and beyond both ends


def split(text: str, pattern: str) -> list[str]:
    r"""The pieces of `text`, in order; joined they are the text again.

        split("It's 12  apples!", "gpt2") == ["It", "'s", " 12", " ", " apples", "!"]

    Python's `re` has no \p{L} or \p{N}, and its own classes will not do: `[^\W\d_]` takes in ² ½ Ⅷ, and `\s` the
    separators U+001C to U+001F. So a pattern is matched against the shape of the text. In the shape, ASCII characters
    of the same class replace those outside ASCII. The pieces are cut from the text at the same places.
    """
    if text.isascii():
        return _compiled(pattern).findall(text)
    shape = text.translate({ord(char): _stand_in(char) for char in set(text) if not char.isascii()})
    return [text[match.start():match.end()] for match in _compiled(pattern).finditer(shape)]


@functools.cache
def _compiled(pattern: str) -> re.Pattern:
    r"""One of PATTERNS, or a pattern, for ASCII only: `re.ASCII` makes `\s` what White_Space holds of ASCII."""
    inside_brackets = PATTERNS.get(pattern, pattern).replace(r"\p{L}\p{N}]", "A-Za-z0-9]").replace(r"\p{N}]", "0-9]")
    return re.compile(inside_brackets.replace(r"\p{L}", "[A-Za-z]").replace(r"\p{N}", "[0-9]"), re.ASCII)


def _stand_in(char: str) -> str:
    r"""An ASCII character of the same class as `char`: letter \p{L}, number \p{N}, White_Space, or other."""
    category = unicodedata.category(char)
    if category[0] == "Z" or char == "\x85":
        return "\t"  # not " ", which the patterns allow before a word
    # "A" is in no contraction. The long s is, where a pattern ignores case, and "S" is in none that does not.
    return "S" if char == "ſ" else {"L": "A", "N": "0"}.get(category[0], "!")


def learn_merges(words: Mapping[bytes, int], n_merges: int) -> list[IdPair]:
    """The first `n_merges` merges of BPE, in rank order.

    Each step merges the pair of neighbours with the highest count; among equals, the smallest pair of ids. So the
    order of the words does not matter. It stops early, with fewer merges, when no pair occurs twice any more.

        learn_merges({b"aaabdaaabac": 1}, 3) == [(97, 97), (97, 98), (256, 257)]

    words: how often each word occurs; the values of its bytes are its ids.

    Counting all pairs anew for every merge would cost words × merges. Instead a merge visits only the words that
    hold its pair, and corrects the counts of the pairs beside it.
    """
    symbols, word_counts = [list(word) for word in words], list(words.values())
    pair_counts: dict[IdPair, int] = defaultdict(int)
    words_with: dict[IdPair, set[int]] = defaultdict(set)  # a superset: a word may since have lost the pair
    for index, word in enumerate(symbols):
        for pair in zip(word, word[1:]):
            pair_counts[pair] += word_counts[index]
            words_with[pair].add(index)

    # A pair enters the heap once, when its newer id is made; from then on its count can only fall. So the
    # heap holds upper bounds, and it is enough to refresh a count when it comes to the top.
    heap = [(-count, pair) for pair, count in pair_counts.items()]
    heapq.heapify(heap)
    merges: list[IdPair] = []
    while heap and len(merges) < n_merges:
        bound, pair = heapq.heappop(heap)
        if pair_counts[pair] < 2:
            continue
        if pair_counts[pair] != -bound:
            heapq.heappush(heap, (-pair_counts[pair], pair))
            continue
        new_id = FIRST_MERGE_ID + len(merges)
        merges.append(pair)
        created: set[IdPair] = set()
        for index in words_with.pop(pair):
            for neighbours, change in _merge_word(symbols[index], pair, new_id):
                pair_counts[neighbours] += change * word_counts[index]
                if change > 0:
                    words_with[neighbours].add(index)
                    created.add(neighbours)
        del pair_counts[pair]
        for neighbours in created:
            heapq.heappush(heap, (-pair_counts[neighbours], neighbours))
    return merges


def _merge_word(word: list[int], pair: IdPair, new_id: int) -> list[tuple[IdPair, int]]:
    """Replace `pair` by `new_id` in `word`, in place. Returns the changes of counts, (neighbours, +1 or -1).

    Merging a b to Z in x a b y takes away (x, a) and (b, y), and brings (x, Z) and (Z, y). The pair
    (a, b) itself is not reported: it occurs nowhere any more.
    """
    first, second = pair
    changes = []
    merged: list[int] = []
    i, n = 0, len(word)
    while i < n:
        if word[i] == first and i + 1 < n and word[i + 1] == second:
            if merged:
                # In a b a b the (Z, a) that the first merge brought goes again with the second.
                changes.append(((merged[-1], first), -1))
                changes.append(((merged[-1], new_id), 1))
            if i + 2 < n:
                changes.append(((second, word[i + 2]), -1))
                changes.append(((new_id, word[i + 2]), 1))
            merged.append(new_id)
            i += 2
        else:
            merged.append(word[i])
            i += 1
    word[:] = merged
    return changes


def apply_merges(ids: list[int], merge_ids: Mapping[IdPair, int]) -> list[int]:
    """`ids` with every merge applied, lowest rank first, and leftmost first within a rank.

        apply_merges([97, 97, 97], {(97, 97): 256}) == [256, 97]

    merge_ids: the id that each pair merges to. A lower id is a lower rank, and both ids of a pair are below it.
    A heap holds what merges where, over a doubly linked list. It costs n log n, so "a" * 100_000 is no attack.
    """
    n, target_of = len(ids), merge_ids.get
    ids = [*ids, GONE]  # index n stands behind the last id, and as -1 before the first
    before, after = [*range(-1, n)], [*range(1, n + 1)]
    heap = [(target, i) for i, pair in enumerate(zip(ids, ids[1:])) if (target := target_of(pair))]
    heapq.heapify(heap)
    while heap:
        new_id, i = heapq.heappop(heap)
        j = after[i]
        if target_of((ids[i], ids[j])) != new_id:  # the pair at i has changed or gone since it was pushed
            continue
        left, right = before[i], after[j]
        ids[i], ids[j], after[i], before[right] = new_id, GONE, right, i
        if target := target_of((ids[left], new_id)):
            heapq.heappush(heap, (target, left))
        if target := target_of((new_id, ids[right])):
            heapq.heappush(heap, (target, i))
    return [symbol for symbol in ids if symbol != GONE]
