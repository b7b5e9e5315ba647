"""Tasks: a model, its data and a loss for some rows of them. The loop trains any task; sentence vectors are one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..checkpoint.structure import changes
from ..config import check_count
from ..text_model import TextModel
from ..tokenizer import Tokens
from ..truncation import announce
from . import parallel
from .examples import Examples
from .objectives import check, loss


class Task(nn.Module):
    """A model that learns, with its data. Every parameter of the task is trained."""

    model: nn.Module  # it is evaluated, and saved with `save_pretrained`
    lengths: np.ndarray  # tokens of each row, (N,)

    @property
    def sort_key(self) -> np.ndarray:
        """A number for each row, (N,). Rows of near-equal numbers share a batch. Here it is the row's length."""
        return self.lengths

    def loss(self, rows: np.ndarray) -> Tensor:
        """Return the mean loss of these rows of the data (B,), a scalar with gradients.

        All processes get the same rows. Each may compute its `parallel.share` of them, and gradients are averaged. So
        the mean of all processes' losses must be the loss of all rows.
        """
        raise NotImplementedError

    def begin_step(self, step: int, total: int) -> None:
        """Tell each part that has a `begin_step` of its own which step comes next, from 0 on, of how many."""
        for part in list(self.modules())[1:]:
            if (begin := getattr(part, "begin_step", None)) is not None:
                begin(step, total)

    def identity(self) -> dict[str, Any]:
        """Return what the weights depend on besides the settings, in JSON's types. It must match for a resume."""
        raise NotImplementedError

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the model as it is published. Raises OSError if the folder can't be written."""
        save: Any = self.model.save_pretrained
        save(folder)


class SentenceTask(Task):
    """Sentence vectors that minimise an objective.

    Texts are tokenised once, here. Longer texts are truncated as in the encoder's `encode`.

    Args:
        objective: A module (vectors, one (B, D) per column; labels or None) -> scalar. Its weights are trained too, and
            moved to the encoder's device.
        chunk_size: Embed so many rows at a time, for batches that don't fit in memory (GradCache, arXiv 2101.06983).
            The gradients are the same, and each text is computed twice. None: all at once.

    Raises:
        ValueError: The objective can't learn from these examples, or chunk_size is below 1.
    """

    model: Any  # a SentenceEncoder; subclasses have other encoders

    def __init__(
        self, encoder: TextModel, objective: nn.Module, examples: Examples, *, chunk_size: int | None = None
    ) -> None:
        super().__init__()
        check_count("chunk_size", chunk_size, optional=True)
        check(objective, len(examples.columns), examples.labels)
        weight = next(encoder.parameters())
        # With weights in half precision the objective is in float32, as the vectors that `forward` returns.
        self.objective = objective.to(weight.device, torch.promote_types(weight.dtype, torch.float32))
        self.model, self.examples, self.chunk_size = encoder, examples, chunk_size
        self.tokens = [self.tokenize(number, column) for number, column in enumerate(examples.columns)]
        for tokens in self.tokens:
            announce(tokens.truncation, encoder.truncation)
        self.lengths = np.sum([tokens.lengths for tokens in self.tokens], axis=0)
        numbers: dict[bytes, int] = {}  # of texts that are equal to the model
        ids = [np.split(tokens.ids, tokens.starts[1:-1]) for tokens in self.tokens]
        texts = [[numbers.setdefault(text.tobytes(), len(numbers)) for text in column] for column in ids]
        self.texts = torch.tensor(texts).T  # (N, columns)

    def tokenize(self, number: int, column: Sequence[str]) -> Tokens:
        """Tokenise a column of texts, cut to the model's limit."""
        return self.model.tokenizer.encode(column, limit=self.model.max_seq_length)

    def loss(self, rows: np.ndarray) -> Tensor:
        """Return the loss of the whole batch, on every process; each embeds its share of the rows."""
        own = parallel.share(rows)
        return self.of_vectors([parallel.gather(self.embed(tokens, own), len(rows)) for tokens in self.tokens], rows)

    def of_vectors(self, vectors: Sequence[Tensor], rows: np.ndarray) -> Tensor:
        """Compute the objective without autocast. (B, D) per column -> scalar"""
        device, chosen = vectors[0].device, torch.from_numpy(rows)
        labels, texts = (None if x is None else x[chosen].to(device) for x in (self.examples.labels, self.texts))
        with torch.autocast(device.type, enabled=False):
            return loss(self.objective, vectors, labels, texts)

    def embed(self, tokens: Tokens, rows: np.ndarray) -> Tensor:
        """Return sentence vectors of one column, (B, D).

        In chunks this is GradCache. Checkpointing keeps only a chunk's vectors, so the objective's gradients with
        respect to those come first. Then each chunk is embedded again, with the same dropout, for its gradients.
        """
        size = self.chunk_size
        if size is None or len(rows) <= size:
            return self._embed(tokens, rows)
        chunks = np.split(rows, range(size, len(rows), size))
        return torch.cat([checkpoint(self._embed, tokens, chunk, use_reentrant=False) for chunk in chunks])

    def _embed(self, tokens: Tokens, rows: np.ndarray) -> Tensor:
        vectors = self.model(**padded(self.model, tokens, rows))
        keep = self.model.truncate_dim
        return vectors if keep is None else vectors[:, :keep]

    def identity(self) -> dict[str, Any]:
        """Return data, model, objective, and how they are combined."""
        keep = getattr(self.model, "truncate_dim", None)
        return {
            "examples": self.examples.digest(),
            "objective": repr(self.objective),
            "model": repr(self.model),
            "max_seq_length": self.model.max_seq_length,
            "chunk_size": self.chunk_size,
            **({} if keep is None else {"truncate_dim": keep}),
            **({"changes": own} if (own := changes(self.model)) else {}),
        }


def padded(encoder: TextModel, tokens: Tokens, rows: np.ndarray) -> dict[str, Tensor]:
    """Return the arguments of the encoder's `forward`, (B, S) each, on its device; no mask if nothing is padded."""
    batch, lengths = encoder._pad(tokens, rows), tokens.lengths[rows]
    if lengths.min() == lengths.max() and tokens.seen is None:
        del batch["attention_mask"]
    return batch
