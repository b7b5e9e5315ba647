"""Choose the teacher's word pieces that the student keeps: those whose loss would matter most.

Other pieces spell a missing one, since WordPiece takes the longest piece that it knows: `trained` becomes `train ##ed`.
The damage is 1 - cos of the teacher's vectors for the two spellings. A piece's worth is that times its frequency.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from minibert import SentenceEncoder, Tokenizer
from minibert.checkpoint.added_tokens import SPECIAL
from minibert.checkpoint.atomic import write_text

CONTINUES = "##"
FEWEST_SEEN = 3  # a single character that occurs less often is not kept
PRIOR = 0.5  # the weight of general English, beside that of the corpora


def choose_pieces(teacher: SentenceEncoder, sentences: Sequence[str], size: int) -> list[int]:
    """Return ``size`` ids of the teacher's vocabulary, ascending: special tokens, single characters, the worthiest.

    Raises:
        ValueError: The size is too small for the pieces that have to be kept.
    """
    pieces = teacher.tokenizer.convert_ids_to_tokens(range(len(teacher.tokenizer)))
    counts = Counter(teacher.tokenizer.encode(sentences).ids.tolist())
    kept = [i for i, piece in enumerate(pieces) if piece in SPECIAL.values() or _is_needed(piece, counts[i])]
    rest = [i for i, piece in enumerate(pieces) if i not in set(kept) and _is_english(piece)]
    if size < len(kept):
        raise ValueError(f"{size} pieces are too few: special tokens and single characters alone are {len(kept)}")
    often = _frequencies(counts, rest)
    most = np.argsort(-often, kind="stable")[: 2 * size]  # rarer pieces can't win
    rest, often = [rest[i] for i in most], often[most]
    by_frequency = rest[: size - len(kept)]
    known = {pieces[i]: i for i in [*kept, *by_frequency]}
    spelt = [_spell(pieces[i], known, unknown=pieces.index(SPECIAL["unk"])) for i in rest]
    alike = (_vectors(teacher, [[i] for i in rest]) * _vectors(teacher, spelt)).sum(1)
    worth = often * (1 - alike)
    return sorted([*kept, *(rest[i] for i in np.argsort(-worth, kind="stable")[: size - len(kept)])])


def cut_tokenizer(teacher: SentenceEncoder, kept: Sequence[int], folder: Path) -> Tokenizer:
    """Return the teacher's tokenizer with only these pieces, renumbered in this order, by way of a vocab.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = teacher.tokenizer.convert_ids_to_tokens(kept)
    write_text(folder / "vocab.txt", "".join(f"{piece}\n" for piece in pieces))
    write_text(folder / "tokenizer_config.json", '{"tokenizer_class": "BertTokenizer", "do_lower_case": true}\n')
    return Tokenizer.from_pretrained(folder)


def _is_needed(piece: str, count: int) -> bool:
    """Return whether a piece is a single character: these can spell every word in English letters."""
    bare = piece.removeprefix(CONTINUES)
    return len(bare) == 1 and (bare.isascii() or count >= FEWEST_SEEN)


def _is_english(piece: str) -> bool:
    bare = piece.removeprefix(CONTINUES)
    return len(bare) > 1 and not bare.startswith("[unused") and all(ord(letter) < 0x250 for letter in bare)


def _frequencies(counts: Counter[int], ids: Sequence[int]) -> np.ndarray:
    """Return the expected frequency of each piece, (len(ids),), summing to 1.

    One half comes from the corpora, the other from BERT's vocabulary. That is ordered by frequency in general English,
    so by Zipf's law a piece's frequency is about 1 over its rank.
    """
    seen = np.array([counts[i] for i in ids], dtype=float)
    zipf = 1 / np.arange(100, 100 + len(ids))
    return (1 - PRIOR) * seen / seen.sum() + PRIOR * zipf / zipf.sum()


def _spell(piece: str, known: dict[str, int], unknown: int) -> list[int]:
    """Return the ids that spell a piece in other pieces, the longest first, as WordPiece does."""
    inside, bare, ids = piece.startswith(CONTINUES), piece.removeprefix(CONTINUES), []
    start = 0
    while start < len(bare):
        prefix = CONTINUES if inside or start else ""
        ends = (end for end in range(len(bare), start, -1) if prefix + bare[start:end] in known)
        end = next((end for end in ends if prefix + bare[start:end] != piece), None)
        if end is None:
            return [unknown]
        ids.append(known[prefix + bare[start:end]])
        start = end
    return ids


@torch.inference_mode()
def _vectors(teacher: SentenceEncoder, texts: Sequence[Sequence[int]], together: int = 256) -> np.ndarray:
    """Return the teacher's unit vectors of texts given as ids without [CLS] and [SEP]. (len(texts), D)"""
    first, last = teacher.tokenizer.encode([""]).ids.tolist()
    result = np.empty((len(texts), teacher.get_sentence_embedding_dimension()), dtype=np.float32)
    by_length = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    while by_length:
        length = len(texts[by_length[0]])
        rows = [row for row in by_length[:together] if len(texts[row]) == length]
        del by_length[: len(rows)]
        ids = torch.tensor([[first, *texts[row], last] for row in rows])
        result[rows] = torch.nn.functional.normalize(teacher(ids), dim=-1).numpy()
    return result
