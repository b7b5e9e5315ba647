"""A text file -> blocks of tokens, each as long as a model is to see at once."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..tokenizer import Tokenizer, Tokens
from ..truncation import TruncationReport


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """The lines of a UTF-8 text file, without those that are blank.

    Raises:
        OSError: it can't be read. ValueError: it is not UTF-8, or has no line with anything on it.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from None
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    if not lines:
        raise ValueError(f"{path}: the file is empty; it must hold text, a sentence or a paragraph a line")
    return lines


def cut_into_blocks(tokenizer: Tokenizer, lines: Iterable[str], length: int, *, packed: bool = True) -> Tokens:
    """[CLS] and [SEP] around as many whole lines as fit into ``length`` tokens.

    A line that is too long by itself is cut, and its parts are treated as lines. One in which the vocabulary finds no
    word at all is left out: there would be nothing to learn.

    Args:
        tokenizer: Gives the tokens, and those around them.
        lines: Sentences or paragraphs, in the order of the text.
        length: Of a block at most, with [CLS] and [SEP].
        packed: False: each line is a block by itself.

    Raises:
        ValueError: no line has a word, the length has no room for any, or the tokenizer puts other than one token
            before a text and one behind it.
    """
    around = tokenizer.encode([""]).ids
    if len(around) != 2:
        raise ValueError(f"a block begins with [CLS] and ends with [SEP], but this tokenizer puts {len(around)} tokens")
    room = length - 2
    if room < 1:
        raise ValueError(f"a block must have at least 3 tokens, [CLS] and [SEP] among them, not {length}")
    tokens = tokenizer.encode(list(lines))
    special = tokenizer.special_ids
    blocks: list[list[np.ndarray]] = []
    filled = room
    for begin, end in zip(tokens.starts[:-1], tokens.starts[1:], strict=True):
        line = tokens.ids[begin + 1 : end - 1]
        for part in np.split(line, range(room, len(line), room)):
            if np.isin(part, special).all():
                continue
            if not packed or filled + len(part) > room:
                blocks.append([])
                filled = 0
            blocks[-1].append(part)
            filled += len(part)
    if not blocks:
        raise ValueError(f"none of the {len(tokens.lengths)} lines has a word of the vocabulary")
    whole = [np.concatenate([around[:1], *parts, around[1:]]) for parts in blocks]
    ids = np.concatenate(whole)
    return Tokens(ids, np.zeros(len(ids), np.int8), np.cumsum([0, *map(len, whole)]), TruncationReport(length, {}))
