"""Convert text to token ids with the `tokenizers` library, and account for truncation."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers
import torch

from .call import check_texts, in_chunks
from .checkpoint.hub import OWNER, CheckpointFiles, HubOptions, open_files
from .checkpoint.trial import encode_batch
from .checkpoint.wordpiece import open_tokenizer, save_tokenizer
from .config import ConfigError
from .truncation import TruncationReport, announce, check_mode, kept_places

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

# Texts and letters per call of the library, whose objects are ten times larger than the ids in them.
CHUNK, LETTERS = 4096, 2**19


class Batch(dict[str, Any]):
    """`input_ids`, `token_type_ids` and `attention_mask`, each (B, S), for `model(**batch)`.

    ``truncation`` reports the tokens that were cut off.
    """

    truncation: TruncationReport

    def to(self, device: str | torch.device) -> Batch:
        """Return the batch on another device."""
        moved = Batch((name, value.to(device)) for name, value in self.items())
        moved.truncation = self.truncation
        return moved


@dataclass(frozen=True)
class Tokens:
    """The ids of many texts, concatenated without padding: text i is ids[starts[i]:starts[i + 1]]."""

    ids: np.ndarray  # int32 (all tokens,)
    types: np.ndarray  # int8 (all tokens,): 0 for the first text of a pair, 1 for the second
    starts: np.ndarray  # int64 (texts + 1,)
    truncation: TruncationReport
    seen: np.ndarray | None = None  # (texts,): so many first tokens of each text are attended to; None: all

    @cached_property  # read for every batch
    def lengths(self) -> np.ndarray:
        """The number of tokens of each text, (texts,)."""
        return np.diff(self.starts)


class Tokenizer:
    """A checkpoint's WordPiece tokenizer (BERT paper, section 3; Wu et al., arXiv 1609.08144).

    Several threads may use it at once. It raises ValueError if the vocabulary lacks the padding token.

    ``padding_side`` is only saved: BERT counts positions from the left, so padding there would move them. A text with
    ids beyond the model's ``vocab_size`` is refused. Without ``pair_types`` second texts have type 0.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        max_length: int | None = None,
        pad_token: str = "[PAD]",
        mask_token: str = "[MASK]",
        padding_side: str = "right",
        truncation_side: str = "right",
        pair_types: bool = True,
        vocab_size: int | None = None,
        notes: Iterable[str] = (),
    ) -> None:
        if (pad_id := backend.token_to_id(pad_token)) is None:
            raise ValueError(f"the vocabulary has no padding token (pad_token) {pad_token!r:.80}")
        for name, side in (("padding_side", padding_side), ("truncation_side", truncation_side)):
            if side not in ("left", "right"):
                raise ValueError(f"{name} must be left or right, not {side!r:.80}")
        present = {token.content for token in backend.get_added_tokens_decoder().values()}
        for piece in (pad_token, mask_token):
            if piece not in present and backend.token_to_id(piece):
                backend.add_special_tokens([piece])  # as transformers does: never split in a text
        backend.no_truncation()  # a tokenizer.json may contain both; here each call decides
        backend.no_padding()
        self.max_length = max_length
        self.pad_token = pad_token
        self.pad_id = pad_id
        self.mask_token = mask_token
        self.mask_id: int | None = backend.token_to_id(mask_token)
        self.padding_side = padding_side
        self.truncation_side = truncation_side
        self.pair_types = pair_types
        self.vocab_size = vocab_size
        self.notes = tuple(notes)  # for the load report
        self.highest_id = max(backend.get_vocab().values())  # a model may know fewer, see ``vocab_size``
        self._backend = backend

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **hub: Unpack[HubOptions]) -> Self:
        """Load a checkpoint's tokenizer: its tokenizer.json unchanged, or built from vocab.txt and its flags.

        It raises HubError if it can't be had, and ConfigError if a file is damaged or asks for a tokenizer not BERT's.
        """
        return cls.from_files(open_files(name, owner=OWNER, **hub))

    @classmethod
    def from_files(cls, files: CheckpointFiles, *, lowercase_first: bool = False) -> Self:
        """Load from files already found. ``lowercase_first`` lower-cases text before any other step."""
        backend, options = open_tokenizer(files, lowercase_first=lowercase_first)
        try:
            return cls(backend, **options)
        except ValueError as error:
            raise ConfigError(f"{files.name}/tokenizer_config.json: {error}") from None

    def __call__(
        self,
        text: str | Sequence[str],
        text_pair: str | Sequence[str] | None = None,
        *,
        padding: bool | str = False,
        truncation: bool | str = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
    ) -> Batch:
        """Tokenise one text, a list of texts, or pairs of texts. The keywords are those of transformers.

        Args:
            text, text_pair: Two strings, or two lists of strings of one length.
            padding: True or "longest" pads to the longest text, "max_length" to ``max_length``.
            truncation: False keeps all tokens. True or "warn" cuts with one warning per call, "report" and "silent"
                without. "error" raises TooLongError. The result's ``truncation`` counts the cut tokens.
            max_length: The limit in tokens, special ones included. None: the checkpoint's own.
            return_tensors: "pt" (torch), "np" (numpy) or None (lists).

        Returns:
            Batch: (B, S) each. A single string with return_tensors=None gives lists without B.

        Raises:
            TypeError: a text is not a string; the message has its index. ValueError: another value is wrong.
        """
        if padding not in (True, False, "longest", "max_length"):
            raise ValueError(f"padding must be True, False, 'longest' or 'max_length', not {padding!r}")
        if return_tensors not in ("pt", "np", None):
            raise ValueError(f"return_tensors must be 'pt', 'np' or None, not {return_tensors!r}")
        mode = check_mode("warn" if truncation is True else truncation or "silent")
        limit = self.max_length if max_length is None else max_length
        if padding == "max_length" and limit is None:
            raise ValueError("padding='max_length' needs a max_length: the checkpoint does not state its limit")
        pairs = [text_pair] if isinstance(text_pair, str) else text_pair
        tokens = self.encode([text] if isinstance(text, str) else text, pairs, limit=limit if truncation else None)
        announce(tokens.truncation, mode)
        width = limit if padding == "max_length" else None
        batch = Batch(self._lay_out(tokens, return_tensors, padding=bool(padding), width=width))
        if isinstance(text, str) and return_tensors is None:
            batch = Batch((name, value[0]) for name, value in batch.items())
        batch.truncation = tokens.truncation
        return batch

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, limit: int | None = None) -> Tokens:
        """Tokenise without padding, and cut to ``limit`` tokens, special ones included (None: keep all).

        Raises:
            TypeError: a text is not a string, or the texts are one string.
            ValueError: a text is not valid Unicode, has a word that the model lacks, or can't be tokenised; texts and
                pairs differ in number; or the limit leaves no room.
        """
        check_texts(texts, "text {}" if pairs is None else "the first text of pair {}")
        if pairs is not None:
            check_texts(pairs, "the second text of pair {}")
            if len(pairs) != len(texts):
                raise ValueError(f"{len(texts)} texts, but {len(pairs)} second texts")
        if limit is not None and limit < (fewest := self._backend.num_special_tokens_to_add(pairs is not None) + 1):
            raise ValueError(f"max_length must be at least {fewest}, to leave room for text, but is {limit}")
        ids, types, starts, lost = array("i"), array("b"), array("q", [0]), {}  # not arrays a text: they take more
        typed = self._types if pairs is None else self.pair_types
        for start, inputs in in_chunks(texts, pairs, CHUNK, LETTERS):
            for i, encoding in enumerate(encode_batch(self._backend, inputs, start), start):
                kept: slice | list[int] = slice(None)
                if limit is not None and len(encoding) > limit:
                    kept = kept_places(encoding.sequence_ids, limit, self.truncation_side)
                    lost[i] = len(encoding) - limit
                ids.extend(np.array(encoding.ids)[kept].tolist() if i in lost else encoding.ids)
                if typed:
                    types.extend(np.array(encoding.type_ids)[kept].tolist())
                starts.append(len(ids))
        kinds = np.asarray(types) if types else np.broadcast_to(np.int8(0), len(ids))  # takes no memory
        report = TruncationReport(limit, lost, len(ids))
        tokens = Tokens(np.asarray(ids), kinds, np.asarray(starts), report)
        self.check_known(tokens)
        return tokens

    @cached_property
    def _types(self) -> bool:  # the template gives a single text other types than 0
        return any(self._backend.encode("a").type_ids)

    def __getstate__(self) -> dict[str, Any]:  # without what calls remember
        return {name: value for name, value in self.__dict__.items() if name != "_types"}

    def check_known(self, tokens: Tokens) -> None:
        """Raise ValueError for the first word with an id that the model lacks."""
        rows = self.vocab_size
        if rows is not None and self.highest_id >= rows and (unknown := np.flatnonzero(tokens.ids >= rows)).size:
            number, text = tokens.ids[unknown[0]], np.searchsorted(tokens.starts, unknown[0], side="right") - 1
            word = f"{self._backend.id_to_token(int(number))!r:.80}, id {number}"
            raise ValueError(f"text {text} has the word {word}: the model has only {rows} (`vocab_size`)")

    def pad(self, tokens: Tokens, rows: Iterable[int], *, width: int | None = None) -> Batch:
        """Pad the texts of these rows to the longest, or to ``width``. Return int64 arrays (B, S)."""
        chosen = np.fromiter(rows, dtype=np.int64)
        lengths = tokens.lengths[chosen, None]  # (B, 1)
        places = np.arange(max(int(lengths.max(initial=0)), width or 0))  # S
        mask, seen = places < lengths, lengths if tokens.seen is None else tokens.seen[chosen, None]
        flat = (tokens.starts[chosen, None] + places)[mask]
        ids, types = (np.full(mask.shape, fill, dtype=np.int64) for fill in (self.pad_id, 0))
        ids[mask], types[mask] = tokens.ids[flat], tokens.types[flat]
        return Batch({"input_ids": ids, "token_type_ids": types, "attention_mask": (places < seen).astype(np.int64)})

    def tokenize(self, text: str) -> list[str]:
        """Split a text into pieces, without special tokens: "embeddings" -> em ##bed ##ding ##s."""
        check_texts([text])
        return self._backend.encode(text, add_special_tokens=False).tokens

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
        """Return the piece of each id. Raise ValueError for an id outside the vocabulary."""
        pieces = []
        for i in ids:
            piece = self._backend.id_to_token(int(i)) if 0 <= int(i) < 2**32 else None  # beyond, the library overflows
            if piece is None:
                raise ValueError(f"the vocabulary of {len(self)} tokens has no id {i}")
            pieces.append(piece)
        return pieces

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = False) -> str:
        """Convert ids to text. Case and spaces that WordPiece dropped stay lost."""
        numbers = [int(i) for i in ids]
        if beyond := [i for i in numbers if not 0 <= i < 2**32]:  # the library overflows
            raise ValueError(f"the vocabulary of {len(self)} tokens has no id {beyond[0]}")
        return self._backend.decode(numbers, skip_special_tokens=skip_special_tokens)

    def __len__(self) -> int:
        """Return the size of the vocabulary, added tokens included."""
        return self._backend.get_vocab_size()

    def get_vocab(self) -> dict[str, int]:
        """Map every piece to its id, added tokens included."""
        return self._backend.get_vocab()

    @property
    def special_ids(self) -> list[int]:
        """The ids that are not text: [PAD], [UNK], [CLS], [SEP], [MASK], and other tokens added as special."""
        added = [i for i, token in self._backend.get_added_tokens_decoder().items() if token.special]
        mask = [] if self.mask_id is None else [self.mask_id]
        return sorted({self.pad_id, *mask, *added, *self._backend.encode("").ids})

    def fitted(self, vocab_size: int) -> Self:
        """Return this tokenizer, or a copy that refuses texts with added words beyond a model's ``vocab_size``.

        Raise ConfigError if more than added words are beyond it: this is the tokenizer of another model.
        """
        if vocab_size == self.vocab_size or (self.vocab_size is None and self.highest_id < vocab_size):
            return self
        if (highest := max(self._backend.get_vocab(with_added_tokens=False).values(), default=0)) >= vocab_size:
            raise ConfigError(f"the tokenizer gives ids up to {highest}, the model knows {vocab_size} tokens only")
        fitted = copy(self)
        fitted.vocab_size = vocab_size
        return fitted

    def save_pretrained(self, folder: str | os.PathLike[str], max_length: int | None = None) -> None:
        """Write the tokenizer's files, from which transformers reads the same ids. ``max_length``: if it has none.

        Raise CheckpointError if that can't be, OSError if the folder can't be written. Then the folder is as before.
        """
        fields = {name: getattr(self, name) for name in ("padding_side", "truncation_side", "pair_types")}
        fields |= {"model_max_length": self.max_length or max_length, "pad": self.pad_token, "mask": self.mask_token}
        save_tokenizer(self._backend, Path(folder), **fields)

    def _lay_out(
        self, tokens: Tokens, return_tensors: str | None, *, padding: bool, width: int | None
    ) -> dict[str, Any]:
        """Convert tokens to tensors, arrays or lists (B, S). Raise ValueError for unequal lengths without padding."""
        if return_tensors is None and not padding:
            ids, types = ([x[i:j].tolist() for i, j in pairwise(tokens.starts)] for x in (tokens.ids, tokens.types))
            return {"input_ids": ids, "token_type_ids": types, "attention_mask": [[1] * len(row) for row in ids]}
        if not padding and len(set(tokens.lengths.tolist())) > 1:
            raise ValueError("a tensor needs texts of equal length: pass padding=True")
        arrays = self.pad(tokens, range(len(tokens.lengths)), width=width)
        convert: Any = {"pt": torch.from_numpy, "np": np.asarray, None: np.ndarray.tolist}[return_tensors]
        return {name: convert(value) for name, value in arrays.items()}
