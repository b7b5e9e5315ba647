"""Text -> token ids, through the `tokenizers` library; and an account of what was cut off."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers
import torch

from .checkpoint.atomic import replacing, write_text
from .checkpoint.hub import CheckpointFiles, open_files
from .checkpoint.save import write_json
from .checkpoint.wordpiece import open_backend, read_options, save_options
from .config import ConfigError
from .truncation import TruncationReport, announce, check_mode, kept_places

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from .checkpoint.hub import HubOptions

CHUNK = 4096  # texts tokenised at a time: the library's own objects are ten times larger than the ids they hold


class Batch(dict[str, Any]):
    """`input_ids`, `token_type_ids` and `attention_mask`, each (B, S); `model(**batch)` takes it as it is.

    ``truncation`` says what was cut off.
    """

    truncation: TruncationReport

    def to(self, device: str | torch.device) -> Batch:
        """The same batch, its tensors on another device."""
        moved = Batch({name: value.to(device) for name, value in self.items()})
        moved.truncation = self.truncation
        return moved


@dataclass(frozen=True)
class Tokens:
    """The ids of many texts, one after another, without padding: text i is ids[starts[i]:starts[i + 1]]."""

    ids: np.ndarray  # int32 (all tokens,)
    types: np.ndarray  # int8 (all tokens,): 0 the first sentence of a pair, 1 the second
    starts: np.ndarray  # int64 (texts + 1,)
    truncation: TruncationReport

    @cached_property  # asked for again for every batch
    def lengths(self) -> np.ndarray:
        """Tokens of each text, (texts,)."""
        return np.diff(self.starts)


class Tokenizer:
    """WordPiece as the checkpoint has it (BERT paper, section 3; Wu et al., arXiv 1609.08144).

    Safe to use from several threads at once.
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
    ) -> None:
        pad_id = backend.token_to_id(pad_token)
        if pad_id is None:
            raise ValueError(f"the vocabulary has no padding token {pad_token!r}")
        for name, side in (("padding_side", padding_side), ("truncation_side", truncation_side)):
            if side not in ("left", "right"):
                raise ValueError(f"{name} must be left or right, not {side!r}")
        backend.no_truncation()  # a tokenizer.json may carry both; here they are a matter of the call
        backend.no_padding()
        self.max_length = max_length
        self.pad_token = pad_token
        self.pad_id = pad_id
        self.mask_token = mask_token
        self.mask_id: int | None = backend.token_to_id(mask_token)
        self.padding_side = padding_side
        self.truncation_side = truncation_side
        self._backend = backend

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **hub: Unpack[HubOptions]) -> Self:
        """Load a checkpoint's tokenizer: its tokenizer.json unchanged, or built from vocab.txt and its flags.

        Args:
            name, hub: See `checkpoint.hub.open_files`.

        Raises:
            HubError: the model can't be had, or lacks both files.
            ConfigError: a file is damaged, or asks for a tokenizer other than BERT's.
        """
        return cls.from_files(open_files(name, **hub))

    @classmethod
    def from_files(cls, files: CheckpointFiles, *, lowercase_first: bool = False) -> Self:
        """As ``from_pretrained``, from files already found. ``lowercase_first`` lower-cases before all else."""
        options = read_options(files)
        return cls(
            open_backend(files, lowercase_first=lowercase_first),
            max_length=options.max_length,
            pad_token=options.pad_token,
            mask_token=options.mask_token,
            padding_side=options.padding_side,
            truncation_side=options.truncation_side,
        )

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
        """Tokenise one text or many, or pairs of texts, under the keywords that transformers uses.

        Args:
            text, text_pair: A string or a list of strings; both alike.
            padding: True or "longest": to the longest of the call; "max_length": to ``max_length``.
            truncation: False: nothing is cut. True or "warn": cut, with one warning that says how much;
                "report": cut, see ``.truncation`` of the result; "silent"; "error": refuse with TooLongError.
            max_length: In tokens, with [CLS] and [SEP]; None: what the checkpoint can take.
            return_tensors: "pt" (torch), "np" (numpy) or None (lists).

        Returns:
            Batch: (B, S) each; for a single string and return_tensors=None plain lists without B.

        Raises:
            TypeError: a text is no string (its index is said). ValueError: another value is wrong.
        """
        single = isinstance(text, str)
        texts = [text] if isinstance(text, str) else text
        pairs = [text_pair] if isinstance(text_pair, str) else text_pair
        if padding not in (True, False, "longest", "max_length"):
            raise ValueError(f"padding must be True, False, 'longest' or 'max_length', not {padding!r}")
        if return_tensors not in ("pt", "np", None):
            raise ValueError(f"return_tensors must be 'pt', 'np' or None, not {return_tensors!r}")
        mode = check_mode("warn" if truncation is True else truncation or "silent")
        limit = max_length if max_length is not None else self.max_length
        tokens = self.encode(texts, pairs, limit=limit if truncation else None)
        announce(tokens.truncation, mode)
        width = limit if padding == "max_length" else None
        if padding == "max_length" and width is None:
            raise ValueError(
                "padding='max_length' needs a max_length: the checkpoint does not say how much it can take"
            )
        if return_tensors is None and not padding:
            batch = Batch(self._lists(tokens))
        else:
            if not padding and len(set(tokens.lengths.tolist())) > 1:
                raise ValueError("texts of different lengths make no tensor: pass padding=True")
            batch = Batch(self.pad(tokens, range(len(tokens.lengths)), width=width))
            if return_tensors is None:
                batch = Batch({name: value.tolist() for name, value in batch.items()})
        if return_tensors == "pt":
            batch = Batch({name: torch.from_numpy(value) for name, value in batch.items()})
        if return_tensors is None and single:
            batch = Batch({name: value[0] for name, value in batch.items()})
        batch.truncation = tokens.truncation
        return batch

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, limit: int | None = None) -> Tokens:
        """Tokenise without padding, cutting to ``limit`` tokens (special ones counted; None: not at all).

        Raises:
            TypeError: a text is no string. ValueError: a text is no valid Unicode, or texts and pairs differ in number.
        """
        check_texts(texts)
        if pairs is not None:
            check_texts(pairs)
            if len(pairs) != len(texts):
                raise ValueError(f"{len(texts)} texts, but {len(pairs)} second texts")
        self._check_limit(limit, pair=pairs is not None)
        ids: list[np.ndarray] = []
        types: list[np.ndarray] = []
        lost: dict[int, int] = {}
        for start in range(0, len(texts), CHUNK):
            chunk = texts[start : start + CHUNK]
            inputs = chunk if pairs is None else list(zip(chunk, pairs[start : start + CHUNK], strict=True))
            for i, encoding in enumerate(self._backend.encode_batch_fast(list(inputs)), start):
                kept: slice | list[int] = slice(None)
                if limit is not None and len(encoding) > limit:
                    kept = kept_places(encoding.sequence_ids, limit, self.truncation_side)
                    lost[i] = len(encoding) - limit
                ids.append(np.array(encoding.ids, dtype=np.int32)[kept])
                if pairs is not None:
                    types.append(np.array(encoding.type_ids, dtype=np.int8)[kept])
        flat = np.concatenate(ids) if ids else np.zeros(0, np.int32)
        return Tokens(
            ids=flat,
            types=np.concatenate(types) if types else np.zeros(len(flat), np.int8),
            starts=np.cumsum([0, *map(len, ids)]),
            truncation=TruncationReport(limit, lost),
        )

    def pad(self, tokens: Tokens, rows: Iterable[int], *, width: int | None = None, side: str | None = None) -> Batch:
        """Lay some of the texts side by side: int64 arrays (rows, longest of them or ``width``)."""
        chosen = np.fromiter(rows, dtype=np.int64)
        lengths = tokens.lengths[chosen, None]  # (rows, 1)
        wide = max(int(lengths.max(initial=0)), width or 0)
        place = np.arange(wide) - (wide - lengths if (side or self.padding_side) == "left" else 0)  # in its own text
        real = (place >= 0) & (place < lengths)
        flat = (tokens.starts[chosen, None] + place)[real]
        ids = np.full(real.shape, self.pad_id, dtype=np.int64)
        types = np.zeros(real.shape, dtype=np.int64)
        ids[real], types[real], mask = tokens.ids[flat], tokens.types[flat], real.astype(np.int64)
        return Batch({"input_ids": ids, "token_type_ids": types, "attention_mask": mask})

    def tokenize(self, text: str) -> list[str]:
        """The pieces of one text, without special tokens: "embeddings" -> em ##bed ##ding ##s."""
        check_texts([text])
        pieces: list[str] = self._backend.encode(text, add_special_tokens=False).tokens
        return pieces

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
        """The piece behind each id. Raises ValueError for an id that the vocabulary does not have."""
        pieces = []
        for i in ids:
            piece = self._backend.id_to_token(int(i)) if 0 <= int(i) < 2**32 else None  # beyond, the library overflows
            if piece is None:
                raise ValueError(f"the vocabulary of {len(self)} tokens has no id {i}")
            pieces.append(piece)
        return pieces

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = False) -> str:
        """Ids back to text, as far as it can be told: case and spaces that WordPiece dropped stay lost."""
        text: str = self._backend.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens)
        return text

    def __len__(self) -> int:
        """Tokens in the vocabulary, added ones included."""
        size: int = self._backend.get_vocab_size()
        return size

    def get_vocab(self) -> dict[str, int]:
        """Every piece with its id, added ones included."""
        vocabulary: dict[str, int] = self._backend.get_vocab()
        return vocabulary

    @property
    def special_ids(self) -> list[int]:
        """The ids that are no text: of [PAD], [UNK], [CLS], [SEP], [MASK], and of what else was added as special."""
        added = {i for i, token in self._backend.get_added_tokens_decoder().items() if token.special}
        around = self._backend.encode("").ids
        return sorted(added.union(around, [self.pad_id], [] if self.mask_id is None else [self.mask_id]))

    @property
    def highest_id(self) -> int:
        """The largest id that this tokenizer can give; the model's vocabulary must reach beyond it."""
        return max(self._backend.get_vocab().values())

    def check_fits(self, vocab_size: int) -> None:
        """Raise ConfigError where a model of that many tokens does not know all that this tokenizer can give."""
        if self.highest_id >= vocab_size:
            raise ConfigError(
                f"the tokenizer gives ids up to {self.highest_id}, the model knows {vocab_size} tokens: they are not "
                "of the same checkpoint"
            )

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write tokenizer.json, vocab.txt and tokenizer_config.json. Raises OSError if the folder can't be written."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        backend = self._backend
        with replacing(target / "tokenizer.json") as temporary:
            backend.save(str(temporary))
        vocabulary = backend.get_vocab(with_added_tokens=False)
        lines = [f"{piece}\n" for piece in sorted(vocabulary, key=vocabulary.__getitem__)]
        write_text(target / "vocab.txt", "".join(lines))
        values = {
            **save_options(backend, self.pad_token, self.mask_token),
            "model_max_length": self.max_length,
            "padding_side": self.padding_side,
            "truncation_side": self.truncation_side,
        }
        write_json(
            {name: value for name, value in values.items() if value is not None}, target / "tokenizer_config.json"
        )

    def _check_limit(self, limit: int | None, *, pair: bool) -> None:
        fewest = self._backend.num_special_tokens_to_add(pair) + 1
        if limit is not None and limit < fewest:
            raise ValueError(f"max_length must be at least {fewest}, to leave room for text, but is {limit}")

    @staticmethod
    def _lists(tokens: Tokens) -> dict[str, list[list[int]]]:
        cuts = tokens.starts[1:-1]
        ids = [part.tolist() for part in np.split(tokens.ids, cuts)] if len(tokens.lengths) else []
        types = [part.tolist() for part in np.split(tokens.types, cuts)] if len(tokens.lengths) else []
        return {"input_ids": ids, "token_type_ids": types, "attention_mask": [[1] * len(row) for row in ids]}


def check_texts(texts: Sequence[object]) -> None:
    """There must be a list of texts, and each a string of valid Unicode.

    Raises:
        TypeError: one is not a string; which, and what it is, is said. ValueError: it holds half a surrogate pair.
    """
    if isinstance(texts, (bytes, bytearray)) or not isinstance(texts, Sequence):
        raise TypeError(f"expected a string or a list of strings, not {type(texts).__name__}")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {i} is {'None' if text is None else f'of type {type(text).__name__}'}, not a string")
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"text {i} is not valid Unicode: {error.reason} at character {error.start}") from None
