"""Masked-LM data: a text file -> blocks of tokens -> blocks with masked words (arXiv 1810.04805, section 3.1).

15 % of the tokens are chosen. 80 % of those become [MASK], 10 % another token, and 10 % stay: there is no [MASK] at
inference, so the model must not rely on one (appendix A.1 there). The pieces of a word are chosen together, because the
rest of the word would give them away. Google's later checkpoints were made so (google-research/bert, May 2019, whose
create_pretraining_data.py is the reference).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..tables import decoded_lines
from ..tokenizer import Tokenizer, Tokens
from ..truncation import TruncationReport

IGNORED = -100  # the label of a token that was not chosen: torch's cross-entropy ignores it
MASKED, REPLACED = 0.8, 0.1  # what becomes of a chosen token; the rest stays


class WholeWordMasking:
    """Chooses words and masks them. ids (S,) -> ids (S,), labels (S,)

    A word is a token and the ## pieces after it. Special tokens ([CLS], [SEP], [PAD], [UNK], [MASK]) are never chosen,
    and never replace another token. ``share`` is that of the other tokens to choose; at least one is chosen.

    Raises:
        ValueError: The tokenizer has no mask token, or the share is out of range.
    """

    def __init__(self, tokenizer: Tokenizer, share: float = 0.15) -> None:
        known = tokenizer.vocab_size or tokenizer.highest_id + 1
        if tokenizer.mask_id is None or tokenizer.mask_id >= known:
            token = f"{tokenizer.mask_token!r:.80}"
            raise ValueError(f"the vocabulary, or the model, has no mask token {token}, so nothing can be masked")
        if not 0 < share <= 1:
            raise ValueError(f"the share of tokens to mask must be above 0 and at most 1, not {share}")
        self.share, self.mask_id = share, tokenizer.mask_id
        self.special = np.zeros(tokenizer.highest_id + 1, dtype=bool)
        self.special[tokenizer.special_ids] = True
        vocabulary = tokenizer.get_vocab()
        self.continues = np.zeros_like(self.special)
        self.continues[[i for piece, i in vocabulary.items() if piece.startswith("##")]] = True
        self.replacements = np.array([i for i in sorted(vocabulary.values()) if i < known and not self.special[i]])

    def __call__(self, ids: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return the model's input, and labels: the id of each chosen token, ``IGNORED`` elsewhere."""
        word = self.words(ids)
        chosen = np.isin(word, self.draw(word, random))
        fate = random.random(len(ids))
        masked = np.where(chosen & (fate < MASKED), self.mask_id, ids)
        replaced = chosen & (fate >= MASKED) & (fate < MASKED + REPLACED)
        masked[replaced] = random.choice(self.replacements, int(replaced.sum()))
        return masked, np.where(chosen, ids, IGNORED)

    def words(self, ids: np.ndarray) -> np.ndarray:
        """Number the words: 0, 1, 2, ... from the left for their tokens, -1 for special tokens. (S,) -> (S,)

        Pieces at the start that continue a word before the block are a word of their own.
        """
        special = self.special[ids]
        after_special = np.concatenate([[True], special[:-1]])
        begins = ~special & (~self.continues[ids] | after_special)
        return np.where(special, -1, np.cumsum(begins) - 1)

    def draw(self, word: np.ndarray, random: np.random.Generator) -> list[int]:
        """Draw words in random order until the share is reached; at least one. word (S,) -> their numbers

        A word that is longer than the rest of the share is skipped, as in the reference.
        """
        sizes = np.bincount(word[word >= 0])
        left = max(1, round(self.share * int(sizes.sum())))
        chosen: list[int] = []
        for number in random.permutation(len(sizes)).tolist():
            if not chosen or sizes[number] <= left:
                chosen.append(number)
                left -= int(sizes[number])
        return chosen


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """Read the lines of a UTF-8 text file that are not blank. Raises ValueError if it is not UTF-8, or has none."""
    with Path(path).open("rb") as file:
        lines = [line.strip() for _, line in decoded_lines(file, Path(path)) if line.strip()]
    if not lines:
        raise ValueError(f"{path}: the file is empty; it must hold text, a sentence or a paragraph per line")
    return lines


def cut_into_blocks(tokenizer: Tokenizer, lines: Iterable[str], length: int, *, packed: bool = True) -> Tokens:
    """Put as many whole lines between [CLS] and [SEP] as fit into ``length`` tokens, or each (``packed=False``).

    A longer line is cut into lines that fit. A line without any word of the vocabulary is left out.

    Raises:
        ValueError: No line has a word, the length is below 3, or the tokenizer doesn't put exactly one token before a
            text and one after it.
    """
    around = tokenizer.encode([""]).ids
    if len(around) != 2:
        raise ValueError(f"a block begins with [CLS] and ends with [SEP], but this tokenizer puts {len(around)} tokens")
    room = length - 2
    if room < 1:
        raise ValueError(f"a block must have at least 3 tokens, [CLS] and [SEP] among them, not {length}")
    tokens, special = tokenizer.encode(list(lines)), tokenizer.special_ids
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
