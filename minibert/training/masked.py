"""Masked-LM training on a text file: from nothing, or of a checkpoint that is to know another kind of text.

Devlin et al., arXiv 1810.04805, section 3.1, without the second task (RoBERTa, arXiv 1907.11692, section 4.2, found
that nothing is lost). What is hidden is in `masking`, how a text becomes blocks in `blocks`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..checkpoint.hub import open_files
from ..checkpoint.load import WrongTensorsError, find_device, load_files, read_config
from ..checkpoint.names import head_of
from ..config import BertConfig, ConfigError
from ..fast.batches import cpu_tokens, plan_batches
from ..heads import BertForMaskedLM, BertWithMaskedLM
from ..model import Bert
from ..tokenizer import Tokenizer, Tokens
from . import parallel
from .blocks import cut_into_blocks, read_lines
from .masking import IGNORED, WholeWordMasking
from .task import Task

HEAD = "cls.predictions"  # what published names of the head begin with


class MaskedLMTask(Task):
    """Tell the hidden words of a text.

    Words are hidden anew each time a block comes up, by torch's generator, which the loop seeds in every step: so no
    two epochs hide the same ones, and a training that is resumed hides what it would have hidden.

    Args:
        model: What is trained.
        tokenizer: Saved with it.
        blocks: The text, as `cut_into_blocks` gives it.
        share: Of the tokens, to be told.

    Raises:
        ConfigError: the tokenizer is of another checkpoint. ValueError: it has no mask token, or the share is none.
    """

    model: BertWithMaskedLM

    def __init__(self, model: BertWithMaskedLM, tokenizer: Tokenizer, blocks: Tokens, *, share: float = 0.15) -> None:
        super().__init__()
        tokenizer.check_fits(model.config.vocab_size)
        self.model = model
        self.tokenizer = tokenizer
        self.blocks = blocks
        self.masking = WholeWordMasking(tokenizer, share)
        self.lengths = blocks.lengths

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
        **source: Any,
    ) -> MaskedLMTask:
        """A text file, and a checkpoint by its name.

        Args:
            path: UTF-8; a sentence or a paragraph a line.
            name, fresh, shape, seed, source: as `masked_lm`.
            length: Tokens of a block, at most.
            packed: Put lines one after another into a block; False: each is a block.
            share: Of the tokens, to be told.
            device: None: a GPU if there is one, otherwise the CPU.

        Raises:
            OSError, ValueError: as `read_lines`, `masked_lm`, `cut_into_blocks` and the task itself; or a block is
                longer than the model can take.
        """
        lines = read_lines(path)
        model, tokenizer = masked_lm(name, fresh=fresh, shape=shape, seed=seed, **source)
        if length > model.config.max_position_embeddings:
            raise ValueError(
                f"a block of {length} tokens is longer than the {model.config.max_position_embeddings} positions "
                "that the model has"
            )
        blocks = cut_into_blocks(tokenizer, lines, length, packed=packed)
        return cls(model.to(find_device(device)), tokenizer, blocks, share=share)

    def loss(self, rows: np.ndarray) -> Tensor:
        """The mean over all hidden tokens of the batch. Each process hides words in its share of the rows."""
        random = np.random.default_rng(int(torch.randint(2**62, ())))
        own = parallel.share(rows)
        batch, labels = hide(self.tokenizer, self.masking, self.blocks, own, [random] * len(own))
        logits, labels = told(self.model, batch, labels)
        # Divided by the mean of all processes' tokens, not by one's: see `Task.loss`.
        count = parallel.mean(torch.tensor(float(len(labels)), device=labels.device))
        with torch.autocast(logits.device.type, enabled=False):
            wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
            return functional.cross_entropy(wide, labels, reduction="sum") / count

    def save(self, folder: str | os.PathLike[str]) -> None:
        """The model with its head, and the tokenizer."""
        super().save(folder)
        self.tokenizer.save_pretrained(folder)

    def identity(self) -> dict[str, Any]:
        """The blocks, the model, and how much is hidden."""
        seen = hashlib.sha256(self.blocks.starts.tobytes() + self.blocks.ids.tobytes())
        return {"blocks": seen.hexdigest(), "model": repr(self.model), "share": self.masking.share}


class MaskedLMEvaluator:
    """How well a model tells hidden words of a text that it was not trained on; always the same words.

    Args:
        tokenizer: The model's.
        blocks: The text, as `cut_into_blocks` gives it.
        share: Of the tokens, to be told.
        seed: Of what is hidden.
    """

    def __init__(self, tokenizer: Tokenizer, blocks: Tokens, *, share: float = 0.15, seed: int = 0) -> None:
        self.tokenizer = tokenizer
        self.blocks = blocks
        self.masking = WholeWordMasking(tokenizer, share)
        self.seed = seed

    def __call__(self, model: BertWithMaskedLM) -> dict[str, float]:
        """Means over all hidden tokens.

        `log_likelihood`: the logarithm of the probability that the model gives to the true token, the negative of the
        loss; `accuracy`: the share of tokens that are its first guess; `perplexity`: exp of the loss: among how many
        equally likely tokens it might as well have to guess. Of this one lower is better.
        """
        likelihood, right, count = 0.0, 0, 0
        for rows in plan_batches(self.blocks.lengths, max_tokens=cpu_tokens(model.config)):
            random = [np.random.default_rng([self.seed, int(row)]) for row in rows]
            batch, labels = hide(self.tokenizer, self.masking, self.blocks, rows, random)
            with torch.no_grad():
                logits, labels = told(model, batch, labels)
            wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
            likelihood -= float(functional.cross_entropy(wide, labels, reduction="sum"))
            right += int((logits.argmax(-1) == labels).sum())
            count += len(labels)
        mean = likelihood / count
        return {"log_likelihood": mean, "accuracy": right / count, "perplexity": float(np.exp(-mean))}


def hide(
    tokenizer: Tokenizer,
    masking: WholeWordMasking,
    blocks: Tokens,
    rows: np.ndarray,
    random: Sequence[np.random.Generator],
) -> tuple[dict[str, Tensor], Tensor]:
    """Blocks with words hidden, by a generator for each: what the model takes, labels; each (B, S), on the CPU."""
    arrays = tokenizer.pad(blocks, rows, side="right")
    labels = np.full(arrays["input_ids"].shape, IGNORED)
    for place, (row, draws) in enumerate(zip(rows, random, strict=True)):
        own = slice(int(blocks.lengths[row]))
        arrays["input_ids"][place, own], labels[place, own] = masking(arrays["input_ids"][place, own], draws)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}, torch.from_numpy(labels)


def told(model: BertWithMaskedLM, batch: dict[str, Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, V) of the N tokens that have a label, and the labels (N,): only there is the vocabulary looked at."""
    device = next(model.parameters()).device
    wanted = labels != IGNORED
    x = model.bert(**{name: value.to(device) for name, value in batch.items()}).last_hidden_state
    return model.to_vocabulary(x[wanted.to(device)]), labels[wanted].to(device)


def masked_lm(
    name: str | os.PathLike[str],
    *,
    fresh: bool = False,
    shape: dict[str, Any] | None = None,
    seed: int = 0,
    **source: Any,
) -> tuple[BertForMaskedLM, Tokenizer]:
    """A model to begin with, and its tokenizer.

    Args:
        name: A folder or a hub id. Where it has no masked-LM head, as sentence encoders have none, the head is new;
            ``model.report`` says so.
        fresh: Take only its vocabulary and its config; all weights are new.
        shape: Fields of the config in place of its own, as ``{"num_hidden_layers": 2}``; only for ``fresh`` models.
        seed: Of what is new.
        source: As `hub.open_files`: revision, local_files_only, ...

    Raises:
        HubError: the model can't be had. ConfigError: a file is damaged, or the shape is none.
        CheckpointError: the weights are damaged. ValueError: a shape is asked of weights that have theirs.
    """
    known = {field.name for field in dataclasses.fields(BertConfig)}
    if unknown := [field for field in shape or {} if field not in known]:
        raise ConfigError(f"a config has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    if shape and not fresh:
        raise ValueError(
            f"a checkpoint's weights have a shape; {', '.join(shape)} can be chosen for a fresh model only"
        )
    files = open_files(name, **source)
    tokenizer = Tokenizer.from_files(files)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if fresh:
            values = dataclasses.asdict(read_config(files, BertConfig)) | (shape or {})
            return BertForMaskedLM(BertConfig.from_dict(values)), tokenizer
        try:
            return load_files(files, into=BertForMaskedLM), tokenizer
        except WrongTensorsError as error:
            report = error.report
            others = report.unexpected or report.wrong_shape or {head_of(lost) for lost in report.missing} != {HEAD}
            if others:
                raise
        bert = load_files(files, into=Bert)
        model = BertForMaskedLM(bert.config)
    bert.pooler = None
    model.bert = bert
    model.report = bert.report.with_notes("the masked-LM head is new, for the checkpoint has none")
    return model, tokenizer
