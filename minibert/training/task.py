"""What the loop trains: anything with a loss for some rows of its data. Sentence vectors are one such task."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..encoder import SentenceEncoder
from ..tokenizer import Tokens
from ..truncation import announce
from . import parallel
from .examples import Examples
from .objectives import Objective


class Task(nn.Module):
    """What is trained, with its data: its parameters learn, `loss` says from what.

    Attributes:
        model: What is evaluated, and saved with `save_pretrained`; part of the task, as is all else that learns.
        lengths: Tokens of each row, (N,): batches are grouped by it.
    """

    model: nn.Module
    lengths: np.ndarray

    def loss(self, rows: np.ndarray) -> Tensor:
        """The mean loss of these rows of the data (B,), a scalar with gradients.

        With several processes each is asked for the same rows, may compute its `parallel.share` of them, and the
        gradients are averaged: so the mean of all processes' losses must be the loss of all rows.
        """
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        """What else the weights depend on, data included, in JSON's types: a resume compares it."""
        raise NotImplementedError

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the model as it is published. OSError where the folder can't be written."""
        save: Any = self.model.save_pretrained
        save(folder)


class SentenceTask(Task):
    """Sentence vectors that serve an objective.

    Texts are tokenised here, once; what is too long is cut and told as by the encoder's `encode`.

    Args:
        encoder: What is trained.
        objective: A module (vectors, one (B, D) per column; labels or None) -> scalar; its weights are trained too,
            and moved to where the encoder's are.
        examples: Texts and labels.
        chunk_size: For batches that do not fit in memory, embed so many rows at a time (GradCache, arXiv 2101.06983).
            The gradients are the same, each text is computed twice. None: all at once.

    Raises:
        ValueError: the objective can't learn from such examples, or chunk_size is no positive number.
    """

    model: SentenceEncoder

    def __init__(
        self, encoder: SentenceEncoder, objective: nn.Module, examples: Examples, *, chunk_size: int | None = None
    ) -> None:
        super().__init__()
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1 row, not {chunk_size}")
        if isinstance(objective, Objective):
            objective.check(len(examples.columns), examples.labels)
        weight = next(encoder.parameters())
        # In half precision the objective stays in float32, as the vectors that `forward` gives.
        self.objective = objective.to(weight.device, torch.promote_types(weight.dtype, torch.float32))
        self.model = encoder
        self.examples = examples
        self.chunk_size = chunk_size
        limit = encoder.max_seq_length
        self.tokens = [encoder.tokenizer.encode(column, limit=limit) for column in examples.columns]
        for tokens in self.tokens:
            announce(tokens.truncation, encoder.truncation)
        self.lengths = np.sum([tokens.lengths for tokens in self.tokens], axis=0)

    def loss(self, rows: np.ndarray) -> Tensor:
        """Of the whole batch on every rank, from vectors that each has computed its share of."""
        own = parallel.share(rows)
        return self.of_vectors([parallel.gather(self.embed(tokens, own), len(rows)) for tokens in self.tokens], rows)

    def of_vectors(self, vectors: Sequence[Tensor], rows: np.ndarray) -> Tensor:
        """The objective, in full precision whatever the encoder was computed in. (B, D) per column -> scalar"""
        device = vectors[0].device
        labels = self.examples.labels
        if labels is not None:
            labels = labels[torch.from_numpy(rows)].to(device)
        with torch.autocast(device.type, enabled=False):
            return self.objective(vectors, labels)

    def embed(self, tokens: Tokens, rows: np.ndarray) -> Tensor:
        """Sentence vectors of one column, (B, D).

        In chunks it is GradCache: checkpointing keeps nothing of a chunk but its vectors, so the objective's gradients
        with respect to those are computed first; then, one after another, each chunk is embedded again, with the same
        dropout, and its gradients pass through.
        """
        size = self.chunk_size
        if size is None or len(rows) <= size:
            return self._embed(tokens, rows)
        chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
        return torch.cat([checkpoint(self._embed, tokens, chunk, use_reentrant=False) for chunk in chunks])

    def _embed(self, tokens: Tokens, rows: np.ndarray) -> Tensor:
        vectors = self.model(**padded(self.model, tokens, rows))
        keep = self.model.truncate_dim
        return vectors if keep is None else vectors[:, :keep]

    def identity(self) -> dict[str, Any]:
        """Data, model, objective and the ways in which they meet."""
        return {
            "examples": self.examples.digest(),
            "objective": repr(self.objective),
            "model": repr(self.model),
            "max_seq_length": self.model.max_seq_length,
            "chunk_size": self.chunk_size,
        }


def padded(encoder: SentenceEncoder, tokens: Tokens, rows: np.ndarray) -> dict[str, Tensor]:
    """What the encoder's `forward` takes, (B, S) each, on its device; without a mask where nothing is padded."""
    arrays = encoder.tokenizer.pad(tokens, rows, side="right")  # whatever the checkpoint says, as `encode` does
    batch = {name: torch.from_numpy(array).to(encoder.device) for name, array in arrays.items()}
    lengths = tokens.lengths[rows]
    if lengths.min() == lengths.max():
        del batch["attention_mask"]
    return batch
