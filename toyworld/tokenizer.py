"""A CLIP tokenizer with a vocabulary of our own: every known word is one token, and any other text is spelled out."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from toyworld.vocabulary import (
    ACCESSORIES,
    ACCESSORY_PHRASES,
    COLOURS,
    IDENTIFIERS,
    KINDS,
    PATTERNS,
    PLACE_PHRASES,
    PLACES,
)

MAX_TOKENS = 77
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"
COMMON_WORDS = (
    "a an the one of in on at with and under to my this that is photo picture drawing painting toy dots stripes "
    "small little big large tall old new dog bird bear horse boat train plane teapot cup chair cake hand person "
    "gold golden silver grey teal magenta lime cream navy dark light sunny happy halved two striped dotted spotted "
    "smiling face eye eyes antennae background wall floor garden park forest mountain river sky space desert kitchen"
)


def known_words() -> list[str]:
    phrases = [*ACCESSORY_PHRASES.values(), *(phrase for phrases in PLACE_PHRASES.values() for phrase in phrases)]
    in_phrases = [word for phrase in phrases for word in phrase.split()]
    named = [*KINDS, *COLOURS, *PATTERNS, *PLACES, *ACCESSORIES, *IDENTIFIERS]
    return sorted({*named, *in_phrases, *COMMON_WORDS.split()})


def build_tokenizer() -> CLIPTokenizer:
    """CLIP's layout: every byte, every byte at a word's end, merges, begin, end. So no text is out of vocabulary."""
    vocabulary, merges = _spellings(known_words())
    for special in (BEGIN, END):
        vocabulary[special] = len(vocabulary)
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,  # type: ignore[arg-type]  # pairs are what it wants
        model_max_length=MAX_TOKENS,
    )


def _spellings(words: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    merges = learn_merges(words)
    alphabet = sorted(ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{letter}{END_OF_WORD}" for letter in alphabet), *dict.fromkeys(a + b for a, b in merges)]
    return {token: number for number, token in enumerate(tokens)}, merges


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges until every word is one token (Sennrich et al. 2016, arXiv 1508.07909).

    The most frequent pair first, and of equals the first in the alphabet: the library's own trainer takes any of them,
    another one in each process, and with the numbers of two tokens exchanged a model takes a cat for a car.
    """
    spelled = [[*word[:-1], f"{word[-1]}{END_OF_WORD}"] for word in words]
    merges = []
    while pairs := Counter(pair for symbols in spelled for pair in pairwise(symbols)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelled = [_merged(symbols, best) for symbols in spelled]
    return merges


def _merged(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for symbol in symbols:
        if joined and (joined[-1], symbol) == pair:
            joined[-1] += symbol
        else:
            joined.append(symbol)
    return joined
