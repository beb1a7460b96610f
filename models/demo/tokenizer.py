"""Byte-level BPE with the pre-tokeniser of Qwen2: training, encoding and decoding. Standard library only.

A text is split into words by Qwen2's pattern, each word becomes a string of byte symbols (GPT-2's alphabet of
256 printable characters), and symbols are joined by the merges in the order in which they were learned.
"""

import re
import sys
import unicodedata
from collections import Counter, defaultdict

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = [END_OF_TEXT, TURN_START, TURN_END]


def _byte_alphabet():
    """GPT-2's map of byte -> printable character: itself where printable, else 256 + a running number."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {byte: chr(byte) for byte in visible}
    hidden = [byte for byte in range(256) if byte not in table]
    table.update({byte: chr(256 + i) for i, byte in enumerate(hidden)})
    return table


BYTE_TO_CHAR = _byte_alphabet()
CHAR_TO_BYTE = {char: byte for byte, char in BYTE_TO_CHAR.items()}


def _category_class(letter):
    """The inside of a character class with every code point whose Unicode category starts with `letter`:
    the standard `re` has no \\p{L}."""
    parts, start = [], None
    for code in range(sys.maxunicode + 2):
        inside = code <= sys.maxunicode and unicodedata.category(chr(code))[0] == letter
        if inside and start is None:
            start = code
        elif not inside and start is not None:
            parts.append(f"\\U{start:08x}-\\U{code - 1:08x}")
            start = None
    return "".join(parts)


def _word_pattern():
    letter, number = _category_class("L"), _category_class("N")
    return re.compile(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
        rf"|[^\r\n{letter}{number}]?[{letter}]+"
        rf"|[{number}]"
        rf"| ?[^\s{letter}{number}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+")


WORDS = _word_pattern()


def to_symbols(word):
    return tuple(BYTE_TO_CHAR[byte] for byte in word.encode("utf-8"))


def train_merges(texts, count):
    """The `count` most frequent pair merges, learned one after the other; ties go to the smaller pair, so
    that the result depends on the text alone."""
    word_counts = Counter()
    for text, times in Counter(texts).items():
        for word in WORDS.findall(text):
            word_counts[to_symbols(word)] += times
    words = [[list(symbols), times] for symbols, times in sorted(word_counts.items())]
    pair_counts, where = Counter(), defaultdict(set)
    for index, (symbols, times) in enumerate(words):
        for pair in zip(symbols, symbols[1:]):
            pair_counts[pair] += times
            where[pair].add(index)
    merges = []
    while len(merges) < count:
        best = min(pair_counts.items(), key=lambda item: (-item[1], item[0]), default=(None, 0))
        if best[1] < 2:
            break
        pair = best[0]
        merges.append(pair)
        for index in sorted(where.pop(pair)):
            symbols, times = words[index]
            for old in zip(symbols, symbols[1:]):
                pair_counts[old] -= times
            symbols = _join(symbols, pair)
            words[index][0] = symbols
            for new in zip(symbols, symbols[1:]):
                pair_counts[new] += times
                where[new].add(index)
        del pair_counts[pair]
    return merges


def _join(symbols, pair):
    """`symbols` with every occurrence of `pair`, left to right, made one."""
    out, at = [], 0
    while at < len(symbols):
        if at + 1 < len(symbols) and (symbols[at], symbols[at + 1]) == pair:
            out.append(symbols[at] + symbols[at + 1])
            at += 2
        else:
            out.append(symbols[at])
            at += 1
    return out


class Tokenizer:
    """Ids: the 256 byte symbols, then what the merges spell, then the special tokens."""

    def __init__(self, tokens, merges):
        self.tokens = tokens
        self.ids = {token: index for index, token in enumerate(tokens)}
        self.merges = merges
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.special = re.compile("|".join(re.escape(token) for token in SPECIAL))
        self.cache = {}

    @classmethod
    def from_merges(cls, merges):
        """Two merges may spell the same token: it is listed once. Padded with unused tokens to a multiple of
        64, which tiled matrix kernels like."""
        symbols = [BYTE_TO_CHAR[byte] for byte in range(256)] + [a + b for a, b in merges]
        tokens = list(dict.fromkeys(symbols)) + SPECIAL
        tokens += [f"<|unused_{i}|>" for i in range(-len(tokens) % 64)]
        return cls(tokens, merges)

    @classmethod
    def from_metadata(cls, metadata):
        merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
        return cls(metadata["tokenizer.ggml.tokens"], merges)

    def _encode_word(self, word):
        known = self.cache.get(word)
        if known is None:
            symbols = list(to_symbols(word))
            while len(symbols) > 1:
                pair = min(zip(symbols, symbols[1:]), key=lambda p: self.ranks.get(p, len(self.ranks)))
                if pair not in self.ranks:
                    break
                symbols = _join(symbols, pair)
            known = self.cache[word] = [self.ids[symbol] for symbol in symbols]
        return known

    def encode(self, text):
        """Special tokens written in `text` become their ids."""
        ids, at = [], 0
        for match in self.special.finditer(text):
            ids += self._encode_plain(text[at:match.start()]) + [self.ids[match.group()]]
            at = match.end()
        return ids + self._encode_plain(text[at:])

    def _encode_plain(self, text):
        return [token for word in WORDS.findall(text) for token in self._encode_word(word)]

    def decode(self, ids):
        raw = bytearray()
        for token in (self.tokens[index] for index in ids):
            if token in SPECIAL or token.startswith("<|unused_"):
                raw += token.encode()
            else:
                raw += bytes(CHAR_TO_BYTE[char] for char in token)
        return raw.decode("utf-8", errors="replace")
