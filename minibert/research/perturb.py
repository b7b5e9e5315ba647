"""Run one text with other word vectors, or without some of its tokens: the forwards that attribution compares."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..call import evaluating
from ..encoder import SentenceEncoder
from .catalogue import bert_in
from .hooks import capture, patch

BASELINES = ("pad", "mask", "zero")
TOKENS_AT_ONCE = 2048  # in one forward: a long text at many steps would take gigabytes


@contextmanager
def double_backward(encoder: SentenceEncoder) -> Iterator[None]:
    """Turn gradients on and dropout off, and attend step by step: torch's fused kernel has no second derivative."""
    with evaluating(encoder), torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        yield


class PerturbedText:
    """A tokenized text whose own tokens, all but [CLS] and [SEP], can be replaced or left out.

    Raises ValueError if there are none, TypeError if the text is not a string.
    """

    def __init__(self, encoder: SentenceEncoder, text: str, prompt: str | None, baseline: str = "zero") -> None:
        prompt = encoder.choose_prompt(prompt)
        self.prompt_length = encoder._prompt_tokens(prompt)
        batch = encoder.tokenize([prompt + text if isinstance(text, str) else text])
        self.encoder, self.bert, self.baseline = encoder, bert_in(encoder), baseline
        self.ids, self.types = batch["input_ids"], batch["token_type_ids"]  # (1, S)
        self.mask = batch["attention_mask"].bool()  # (1, S)
        self.tokens = encoder.tokenizer.convert_ids_to_tokens(self.ids[0])  # S
        special = torch.from_numpy(encoder.tokenizer.encode([""]).ids).to(self.ids)  # [CLS] and [SEP]
        self.own = ~torch.isin(self.ids, special)  # (1, S): all other tokens
        self.rows_at_once = max(1, TOKENS_AT_ONCE // len(self.tokens))
        if not self.own.any():
            raise ValueError(f"nothing to attribute to: {text!r:.80} has no tokens besides {' '.join(self.tokens)}")

    @cached_property
    def path(self) -> tuple[Tensor, Tensor]:
        """The baseline's word vectors, and the text's less those, which is 0 at [CLS] and [SEP]. (1, S, D) both"""
        ids = {"pad": self.encoder.tokenizer.pad_id, "mask": self.encoder.tokenizer.mask_id, "zero": self.ids[0, 0]}
        if (number := ids[self.baseline]) is None:
            raise ValueError(f"the vocabulary has no token for the baseline {self.baseline!r}: choose another")
        with capture(self.bert, "embeddings.token") as values:
            self.bert(torch.cat([self.ids, torch.full_like(self.ids, int(number))]), None, self.types.repeat(2, 1))
        text, start = values["embeddings.token"].detach().unsqueeze(1)  # (1, S, D) both
        start = torch.where(self.own[..., None], torch.zeros_like(start) if self.baseline == "zero" else start, text)
        return start, text - start

    def vectors(self, words: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return its vector with other word vectors (n, S, D), or with the tokens of a mask (n, S) alone. -> (n, D)"""
        rows = max(len(given) for given in (self.ids, words, mask) if given is not None)
        batch = [given.expand(rows, -1) for given in (self.ids, self.mask if mask is None else mask, self.types)]
        with nullcontext() if words is None else patch(self.bert, "embeddings.token", words):
            vectors: Tensor = self.encoder(*batch, prompt_length=self.prompt_length)
        return vectors[:, : self.encoder.truncate_dim]

    def ends(self, method: str) -> tuple[Tensor, Tensor]:
        """Return its vector, and the baseline's. (1, D) both"""
        if method == "leave_one_out":
            return self.vectors(), self.vectors(mask=self.mask & ~self.own)
        return self.vectors(), self.vectors(self.path[0])

    def along_path(self, method: str, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield word vectors (n, S, D) from the baseline's to the text's, and weights (n,) for the gradients there."""
        start, way = self.path
        points, weights = np.polynomial.legendre.leggauss(steps)  # on -1 to 1, an interval of 2
        points, weights = (points + 1) / 2, weights / 2
        if method == "gradient_x_input":
            points = weights = np.ones(1)
        parts = (torch.from_numpy(numbers).to(way).split(self.rows_at_once) for numbers in (points, weights))
        for at, weight in zip(*parts, strict=True):
            yield (start + at[:, None, None] * way).requires_grad_(), weight

    def left_out(self) -> Tensor:
        """Return the vectors without one token each, for all own tokens in order. (own tokens, D)"""
        positions = self.own[0].nonzero()  # (own tokens, 1)
        masks = self.mask.repeat(len(positions), 1).scatter(1, positions, False)
        return torch.cat([self.vectors(mask=part).detach() for part in masks.split(self.rows_at_once)])
