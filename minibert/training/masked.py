"""Masked-LM training on a text file, from new weights or from a checkpoint.

Devlin et al., arXiv 1810.04805, section 3.1, without next sentence prediction, which RoBERTa (arXiv 1907.11692, section
4.2) found unnecessary. `masking` makes blocks of a text and masks their words.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional

from ..batches import cpu_tokens, plan_batches
from ..checkpoint.atomic import replacing_all
from ..checkpoint.hub import CheckpointFiles, HubOptions, open_files
from ..checkpoint.load import WrongTensorsError, find_device, load_files, read_config
from ..checkpoint.names import head_of
from ..checkpoint.structure import departures
from ..config import BertConfig, ConfigError
from ..heads import BertForMaskedLM, BertWithMaskedLM
from ..model import Bert
from ..tokenizer import Tokenizer, Tokens
from . import parallel
from .masking import IGNORED, WholeWordMasking, cut_into_blocks, read_lines
from .task import Task

if TYPE_CHECKING:
    from typing_extensions import Unpack

HEAD = "cls.predictions"  # the prefix of the head's published names


class MaskedLMTask(Task):
    """Predict the masked words of a text.

    Every visit of a block masks other words, drawn from torch's generator, which the loop seeds in every step. So a
    resumed training masks the same words as an uninterrupted one. The tokenizer is saved with the model.

    Args:
        blocks: The text, from `cut_into_blocks`.
        share: The share of tokens to predict.

    Raises:
        ConfigError: The tokenizer belongs to another checkpoint.
        ValueError: It has no mask token, or the share is out of range.
    """

    model: BertWithMaskedLM

    def __init__(self, model: BertWithMaskedLM, tokenizer: Tokenizer, blocks: Tokens, *, share: float = 0.15) -> None:
        super().__init__()
        self.tokenizer = tokenizer.fitted(model.config.vocab_size)
        self.tokenizer.check_known(blocks)  # they may come from another tokenizer
        self.model, self.blocks, self.lengths = model, blocks, blocks.lengths
        self.masking = WholeWordMasking(self.tokenizer, share)

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        name: str | os.PathLike[str],
        *,
        fresh: bool = False,
        shape: dict[str, Any] | None = None,
        length: int = 128,
        packed: bool = True,
        share: float = 0.15,
        seed: int = 0,
        device: str | torch.device | None = None,
        **hub: Unpack[HubOptions],
    ) -> MaskedLMTask:
        """Make a task from a text file and the name of a checkpoint.

        The arguments and errors are those of `read_lines` (``path``), `masked_lm`, `cut_into_blocks` and the class.
        Without a ``device`` it is a GPU if there is one, otherwise the CPU. Raises ValueError, too, for a block that is
        longer than the model's positions.
        """
        lines = read_lines(path)
        model, tokenizer = masked_lm(name, fresh=fresh, shape=shape, seed=seed, **hub)
        positions = model.config.max_position_embeddings
        if length > positions:
            raise ValueError(f"a block of {length} tokens is longer than the {positions} positions that the model has")
        blocks = cut_into_blocks(tokenizer, lines, length, packed=packed)
        return cls(model.to(find_device(device)), tokenizer, blocks, share=share)

    def loss(self, rows: np.ndarray) -> Tensor:
        """Return the mean over all masked tokens of the batch. Each process masks words in its share of the rows."""
        random = np.random.default_rng(int(torch.randint(2**62, ())))
        own = parallel.share(rows)
        batch, labels = mask_words(self.tokenizer, self.masking, self.blocks, own, [random] * len(own))
        logits, labels = predict_masked(self.model, batch, labels)
        # Divided by the mean of all processes' tokens, not by one's: see `Task.loss`.
        count = parallel.mean(torch.tensor(float(len(labels)), device=labels.device))
        with torch.autocast(logits.device.type, enabled=False):
            return _summed_loss(logits, labels) / count

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the model with its head, and the tokenizer."""
        with replacing_all(folder) as new:
            super().save(new)
            self.tokenizer.save_pretrained(new, self.model.config.max_position_embeddings)

    def identity(self) -> dict[str, Any]:
        """Return the blocks, the model, and the share."""
        seen = hashlib.sha256(self.blocks.starts.tobytes() + self.blocks.ids.tobytes())
        own = {"changes": found} if (found := departures(self.model)) else {}
        return {"blocks": seen.hexdigest(), "model": repr(self.model), "share": self.masking.share, **own}


class MaskedLMEvaluator:
    """Scores a model on the masked words of a held-out text (see `MaskedLMTask`). Every call masks the same words."""

    def __init__(self, tokenizer: Tokenizer, blocks: Tokens, *, share: float = 0.15, seed: int = 0) -> None:
        self.tokenizer, self.blocks, self.seed = tokenizer, blocks, seed
        self.masking = WholeWordMasking(tokenizer, share)

    def __call__(self, model: BertWithMaskedLM) -> dict[str, float]:
        """Return means over all masked tokens.

        `log_likelihood` is the log probability of the true token, the negative of the loss. `accuracy` is the share of
        tokens that are the first guess. `perplexity` is exp of the loss; lower is better.
        """
        likelihood, right, count = 0.0, 0, 0
        for rows in plan_batches(self.blocks.lengths, max_tokens=cpu_tokens(model.config)):
            random = [np.random.default_rng([self.seed, int(row)]) for row in rows]
            batch, labels = mask_words(self.tokenizer, self.masking, self.blocks, rows, random)
            with torch.no_grad():
                logits, labels = predict_masked(model, batch, labels)
            likelihood -= float(_summed_loss(logits, labels))
            right += int((logits.argmax(-1) == labels).sum())
            count += len(labels)
        mean = likelihood / count
        return {"perplexity": float(np.exp(-mean)), "accuracy": right / count, "log_likelihood": mean}


def mask_words(
    tokenizer: Tokenizer, masking: WholeWordMasking, blocks: Tokens, rows: np.ndarray, random: Sequence[Generator]
) -> tuple[dict[str, Tensor], Tensor]:
    """Pad these blocks and mask words in each, by its own generator: model arguments and labels, (B, S) each."""
    arrays = tokenizer.pad(blocks, rows)
    labels = np.full(arrays["input_ids"].shape, IGNORED)
    for place, (row, generator) in enumerate(zip(rows, random, strict=True)):
        own = slice(int(blocks.lengths[row]))
        arrays["input_ids"][place, own], labels[place, own] = masking(arrays["input_ids"][place, own], generator)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}, torch.from_numpy(labels)


def predict_masked(model: BertWithMaskedLM, batch: dict[str, Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits (N, V) of only the N tokens that have a label, and their labels (N,)."""
    device = next(model.parameters()).device
    chosen = labels != IGNORED
    x = model.bert(**{name: value.to(device) for name, value in batch.items()}).last_hidden_state
    return model.to_vocabulary(x[chosen.to(device)]), labels[chosen].to(device)


def _summed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy in float32 at least. (N, V), (N,) -> scalar"""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return functional.cross_entropy(wide, labels, reduction="sum")


def masked_lm(
    name: str | os.PathLike[str],
    *,
    fresh: bool = False,
    shape: dict[str, Any] | None = None,
    seed: int = 0,
    **hub: Unpack[HubOptions],
) -> tuple[BertForMaskedLM, Tokenizer]:
    """Return a model to train, and its tokenizer.

    Args:
        name: A folder or a hub id. If it has no masked-LM head (sentence encoders have none), the head is new and
            ``model.report`` says so.
        fresh: Use only its vocabulary and its config. All weights are new.
        shape: Fields that replace the config's, as ``{"num_hidden_layers": 2}``; only with ``fresh``.
        seed, hub: Of the new weights; and see `checkpoint.hub.HubOptions`.

    Raises:
        HubError: The model is not found. ConfigError: A file is damaged, or the shape is not valid.
        CheckpointError: The weights are damaged. ValueError: A shape is given without ``fresh``.
    """
    if shape and not fresh:
        raise ValueError(f"the weights fix the shape; {', '.join(shape)} can be chosen for a fresh model only")
    files = open_files(name, **hub)
    tokenizer = Tokenizer.from_files(files)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return (_fresh(files, shape or {}) if fresh else _with_head(files)), tokenizer


def _fresh(files: CheckpointFiles, shape: dict[str, Any]) -> BertForMaskedLM:
    """Return a model with new weights. Raises ConfigError for a field that does not exist."""
    fields = dataclasses.asdict(read_config(files, BertConfig))
    if unknown := [name for name in shape if name not in fields]:
        raise ConfigError(f"a config has no {', '.join(unknown)}; it has {', '.join(sorted(fields))}")
    return BertForMaskedLM(BertConfig.from_dict(fields | shape))


def _with_head(files: CheckpointFiles) -> BertForMaskedLM:
    """Load a model; its head is new if the checkpoint has none, and nothing else is missing."""
    try:
        return load_files(files, into=BertForMaskedLM)
    except WrongTensorsError as error:
        report = error.report
        if report.unexpected or report.wrong_shape or {head_of(name) for name in report.missing} != {HEAD}:
            raise
    bert = load_files(files, into=Bert)
    model = BertForMaskedLM(bert.config)
    model.bert, bert.pooler = bert, None
    model.report = bert.report.with_notes("the masked-LM head is new, because the checkpoint has none")
    return model
