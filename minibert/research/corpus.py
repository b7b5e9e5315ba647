"""Find the tokens of a corpus at which a layer, or some of its heads, compute nearly the same as at a given token.

    index = TokenIndex.build(encoder, lines, layer=3)
    vectors = index.vectors_of("He sat on the bank of the river.")  # (tokens, D)
    [nearest] = index.search(vectors[5], top_k=20)  # to "bank"
    Counter(match.word for match in nearest).most_common()

This is the search of exBERT (arXiv 1910.05276, section 3): by a token's state, or by what heads have read for it.
Vectors are of length 1 and in float32, so a dot product is a cosine. Every token is compared, block by block.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import __version__
from ..bulk.job import describe_model, finish, open_job
from ..bulk.search import open_array, semantic_search
from ..call import as_list, current_batch
from ..checkpoint.atomic import naming
from ..encoder import SentenceEncoder
from ..pooling import normalize
from ..tokenizer import Tokenizer, Tokens
from ..truncation import announce
from ..vectors import SIMILARITIES, Vectors, as_matrix
from .catalogue import Numbers
from .heads import checked_heads, heads_in
from .hooks import capture, patch

VECTORS = "vectors.npy"
UNREAD = {"keep": 1, "normalize": False}  # of the sentence vectors


class Match(NamedTuple):
    """A token of the corpus: its line and position, counted from 0; the word that it is part of; the cosine."""

    line: int
    position: int
    token: str
    word: str
    score: float


class TokenIndex:
    """A vector for each token of a corpus, [CLS] and [SEP] included. ``build`` makes one."""

    def __init__(self, encoder: SentenceEncoder, lines: Iterable[str], layer: int, heads: Numbers | None) -> None:
        self.encoder, self.lines = encoder, list(as_list(lines))
        if not self.lines:
            raise ValueError("the corpus has no lines")
        self.heads = checked_heads(encoder.model, {layer: () if heads is None else heads}).get(layer, [])
        self.layer = int(layer)
        self.place = f"layers.{layer}.attention.core" if self.heads else f"layers.{layer}"  # in the catalogue
        prompt, limit = encoder.choose_prompt(None), encoder.max_seq_length
        texts = [prompt + line if isinstance(line, str) else line for line in self.lines]
        self._tokens = encoder.tokenizer.encode(texts, limit=limit)
        self.truncation = self._tokens.truncation
        announce(self.truncation, encoder.truncation)
        size = encoder.model.config.head_size
        self.vectors = np.empty((0, size * len(self.heads) or encoder.model.config.hidden_size), np.float32)

    @classmethod
    def build(
        cls,
        encoder: SentenceEncoder,
        lines: Iterable[str],
        *,
        layer: int,
        heads: Numbers | None = None,
        folder: str | os.PathLike[str] | None = None,
        show_progress_bar: bool = False,
    ) -> TokenIndex:
        """Encode the lines, each by itself as `encode` does, and keep a vector for each token.

        Args:
            encoder, lines: Lines that are too long are truncated as ``encoder.truncation`` says; see ``truncation``.
            layer: Of the state, or of the heads.
            heads: By the output of these heads, side by side, before `out`. None: by the layer's state.
            folder: Keep the vectors there, mapped into memory; a complete folder is opened. None: in memory.
            show_progress_bar: On stderr.

        Raises:
            ValueError: there is no line, no such layer or head; or a part was replaced, so that nothing computes that.
            JobError (a ValueError): the folder holds another model's vectors, or those of other lines, layers or heads.
            FileError (a ValueError): a file of the folder is damaged. TypeError: a line is not a string.
        """
        index = cls(encoder, lines, layer, heads)
        shape = (len(index._tokens.ids), index.vectors.shape[1])
        if folder is None:
            index.vectors = np.empty(shape, np.float32)
            index._fill(show_progress_bar)
            return index
        path = Path(folder)
        with open_job(path, index._manifest()) as state:
            if not state.complete:
                index.vectors = _allocated(path / VECTORS, shape)
                index._fill(show_progress_bar)
                index.vectors.flush()  # type: ignore[attr-defined]  # a memmap
                state.rows, state.tokens = len(index.lines), len(index._tokens.ids)
                finish(path, state)
        index.vectors = open_array(path / VECTORS, shape)
        return index

    def vectors_of(self, text: str) -> Tensor:
        """Return the vectors of a text's tokens, to search for. -> (tokens, W)"""
        with capture(self.encoder, self.place) as values:
            self.encoder.encode([text])
        return self.unit(values[self.place][0])

    def unit(self, value: Tensor) -> Tensor:
        """Scale what is computed at ``place`` to length 1. (..., S, D), or with heads (..., H, S, K) -> (..., S, W)"""
        if self.heads:
            value = value[..., self.heads, :, :].transpose(-3, -2).flatten(-2)
        return normalize(value.detach().float())

    def search(self, vectors: Vectors, top_k: int = 10) -> list[list[Match]]:
        """Return the tokens of the highest cosine with each vector, the best first. (q, W) or (W,)

        Raises ValueError if the vectors are of another width than the index's.
        """
        queries = normalize(as_matrix(vectors).float().cpu())
        found = semantic_search(queries, self.vectors, top_k=top_k, score_function=SIMILARITIES["dot"])
        return [[self._match(hit["corpus_id"], hit["score"]) for hit in hits] for hits in found]

    def tokens(self, line: int) -> list[str]:
        """Return a line's tokens, as the model reads them."""
        return self.encoder.tokenizer.convert_ids_to_tokens(self._ids(line).tolist())

    def attended(self, places: Sequence[tuple[Any, ...]]) -> list[np.ndarray]:
        """Return where each head looks the most from each token, by layer: positions in its line, (2, tokens, H).

        The first are among all tokens, the second among those but [CLS] and [SEP]. The lines are encoded anew.

        Args:
            places: Matches, or other tuples that begin with a line and a position.
        """
        wanted: dict[int, list[tuple[int, int]]] = {}
        for i, (line, position, *_) in enumerate(places):
            wanted.setdefault(line, []).append((i, position))
        tokenizer, lines = self.encoder.tokenizer, list(wanted)
        template = [torch.from_numpy(in_template(tokenizer, self._ids(line))) for line in lines]
        bert = self.encoder.model
        sizes = [len(heads_in(bert, layer)) for layer in range(len(bert.layers))]
        found = [np.zeros((2, len(places), size), np.int16) for size in sizes]
        if not places:
            return found

        def look(best: np.ndarray, probs: Tensor) -> Tensor:  # (B, H, S, S)
            batch: Any = current_batch()
            for text, rows, length in zip(batch.rows, probs, batch.lengths, strict=True):
                numbers, positions = map(list, zip(*wanted[lines[text]], strict=True))
                weights = rows[:, positions, :length].detach().cpu()  # (H, tokens, S)
                best[0, numbers] = weights.argmax(-1).T
                best[1, numbers] = weights.masked_fill(template[text], -1).argmax(-1).T
            return probs

        with ExitStack() as patches:
            for layer, best in enumerate(found):
                patches.enter_context(patch(bert, f"layers.{layer}.attention.core.probs", partial(look, best)))
            self.encoder._compute(self._some(lines), 0, UNREAD, "cpu", False)
        return found

    def _fill(self, shown: bool) -> None:
        starts = self._tokens.starts

        def keep(value: Tensor) -> Tensor:
            batch: Any = current_batch()
            for text, row, length in zip(batch.rows, self.unit(value).cpu().numpy(), batch.lengths, strict=True):
                self.vectors[starts[text] : starts[text] + length] = row[:length]
            return value

        with patch(self.encoder, self.place, keep):
            self.encoder._compute(self._tokens, 0, UNREAD, "cpu", False, show_progress_bar=shown)

    def _some(self, lines: Sequence[int]) -> Tokens:
        """Return the tokens of some lines, as they were when the index was made."""
        spans = [slice(0), *(slice(*self._tokens.starts[line : line + 2]) for line in lines)]
        ids, types = (np.concatenate([x[span] for span in spans]) for x in (self._tokens.ids, self._tokens.types))
        return Tokens(ids, types, np.cumsum([0, *(self._tokens.lengths[line] for line in lines)]), self.truncation)

    def _ids(self, line: int) -> np.ndarray:
        return self._tokens.ids[self._tokens.starts[line] : self._tokens.starts[line + 1]]

    def _match(self, place: int, score: float) -> Match:
        line = int(np.searchsorted(self._tokens.starts, place, side="right")) - 1
        position, tokens = place - int(self._tokens.starts[line]), self.tokens(line)
        return Match(line, position, tokens[position], word_at(tokens, position), score)

    def _manifest(self) -> Mapping[str, Any]:
        digest = hashlib.sha256(self._tokens.ids.tobytes() + self._tokens.starts.tobytes()).hexdigest()
        return {
            "format": 1,
            "minibert": __version__,
            "model": describe_model(self.encoder),
            "width": self.vectors.shape[1],
            "options": {"layer": self.layer, "heads": self.heads},
            "sources": {"lines": len(self.lines), "sha256": digest},
        }


def word_at(tokens: Sequence[str], position: int) -> str:
    """Return the word that the token at a position is a piece of."""
    begin, end = position, position + 1
    while begin and tokens[begin].startswith("##"):
        begin -= 1
    while end < len(tokens) and tokens[end].startswith("##"):
        end += 1
    return "".join([tokens[begin], *(token.removeprefix("##") for token in tokens[begin + 1 : end])])


def in_template(tokenizer: Tokenizer, ids: np.ndarray) -> np.ndarray:
    """Tell which ids the tokenizer puts around each text, as [CLS] and [SEP]. (S,) -> (S,)"""
    return np.isin(ids, tokenizer.encode([""]).ids)


def _allocated(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Return a new array in a file. Raises OSError now if the disk is full: later, a mapped file ends the process."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with naming(path), path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array
