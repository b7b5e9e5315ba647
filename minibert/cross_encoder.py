"""CrossEncoder: pairs of texts in, a score for each pair out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import prompts
from .checkpoint.cross_encoders import (
    Activation,
    CrossModules,
    old_settings,
    published_activation,
    read_cross_modules,
    write_cross_modules,
)
from .checkpoint.hub import open_files
from .checkpoint.load import find_device
from .checkpoint.report import LoadReport
from .config import ClassifierConfig
from .display import progress_bar
from .encoding import EncodeCall, ask, cut, deliver, evaluating, padded
from .fast.loading import load_prepared
from .fast.workers import workers_for
from .heads import BertForSequenceClassification
from .pooling import DENSE_ACTIVATIONS
from .tokenizer import Tokenizer
from .truncation import TruncationReport, announce, check_mode


class CrossEncoder(nn.Module):
    """Reads two texts at once, so that every word of one sees all of the other. As a module: ids (B, S) -> (B, L)

    More exact than comparing two vectors, and slower: nothing can be computed before both texts are known. What the L
    labels mean is in `config.id2label`; a reranker has one. `predict` may be called from several threads at once.
    """

    def __init__(
        self,
        model: BertForSequenceClassification | str | os.PathLike[str],
        tokenizer: Tokenizer | None = None,
        *,
        activation_fn: Activation | None = None,
        modules: CrossModules | None = None,
        truncation: str = "warn",
        **options: Any,
    ) -> None:
        """Put one together from its parts; or load it by its name, with the options of `from_pretrained`.

        Args:
            model, tokenizer: The parts; or a name, and no tokenizer.
            activation_fn: What becomes of the logits (n, L). None: the sigmoid where there is one label, otherwise
                nothing, unless ``modules`` says which.
            modules: The settings of a checkpoint.
            truncation: As in `from_pretrained`.
            options: Those of `from_pretrained`, where the model is a name.

        Raises:
            ConfigError: the parts do not fit each other. ValueError: the truncation mode is unknown.
            TypeError: there is a model without a Tokenizer, a name with one, or an unknown keyword.
        """
        super().__init__()
        if not isinstance(model, BertForSequenceClassification):
            if tokenizer is not None or modules is not None:
                raise TypeError("a name brings its own tokenizer and settings: give them with a model only")
            loaded = type(self).from_pretrained(model, activation_fn=activation_fn, truncation=truncation, **options)
            self.__dict__.update(loaded.__dict__)
            return
        if not isinstance(tokenizer, Tokenizer) or options:
            raise TypeError(f"a model needs a Tokenizer, and takes no {', '.join(options) or type(tokenizer).__name__}")
        tokenizer.check_fits(model.config.vocab_size)
        settings = modules or CrossModules()
        usual = "Sigmoid" if model.config.num_labels == 1 else "Identity"
        self.model = model
        self.tokenizer = tokenizer
        self.activation_fn = activation_fn or DENSE_ACTIVATIONS[settings.activation or usual]
        self.prompts = settings.prompts
        self.default_prompt_name = settings.default_prompt_name
        self.truncation = check_mode(truncation)
        self.truncation_report = TruncationReport()  # of the latest call of predict
        self.report: LoadReport | None = None
        self._do_lower_case = settings.do_lower_case
        if settings.max_seq_length is not None:
            self.max_seq_length = settings.max_seq_length

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        refresh: bool = False,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        max_length: int | None = None,
        activation_fn: Activation | None = None,
        truncation: str = "warn",
        prepared: bool = True,
    ) -> CrossEncoder:
        """Load a checkpoint with its classifier, its tokenizer and its activation.

        Args:
            name, revision, token, cache_dir, local_files_only, refresh: see ``hub.open_files``; a name without an
                owner is cross-encoder's.
            device: None: a GPU (cuda, mps) if there is one, otherwise the CPU.
            dtype: float32; or float64, float16, bfloat16, int8 (see ``inference.arithmetic.choose``). Scores are
                float32 at least.
            max_length: Tokens of a pair, at most, with its special ones; None: what the checkpoint says.
            activation_fn: What becomes of the logits (n, L), in place of the checkpoint's own.
            truncation: What becomes of pairs that are too long, the longer text first: "warn" (cut, with one warning
                a call), "report" (cut, see ``truncation_report``), "silent", or "error" (refused).
            prepared: Let torch's fused kernels compute the page's formulas; see ``inference.prepare``.

        Returns:
            CrossEncoder: in eval mode; ``report`` says what became of every tensor.

        Raises:
            HubError: the model can't be had.
            ConfigError, CheckpointError: it is damaged, has no classifier, or is not what minibert computes.
        """
        check_mode(truncation)
        files = open_files(
            name,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            refresh=refresh,
            owner="cross-encoder",
        )
        modules = read_cross_modules(files, activation=activation_fn is None)
        inner = files.below(modules.transformer)
        place = find_device(device)
        model, _ = load_prepared(
            inner, into=BertForSequenceClassification, device=place, dtype=dtype, prepared=prepared
        )
        tokenizer = Tokenizer.from_files(inner, lowercase_first=modules.do_lower_case)
        encoder = cls(model, tokenizer, activation_fn=activation_fn, modules=modules, truncation=truncation)
        encoder.report = model.report
        if max_length is not None:
            encoder.max_seq_length = max_length
        return encoder.to(place).eval()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Logits, before any activation, with gradients where they are on. (B, S) ids, mask, types -> (B, L)"""
        return self._score(input_ids, attention_mask, token_type_ids)[1]

    def predict(
        self,
        inputs: Iterable[Any],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        apply_softmax: bool = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        truncation: str | None = None,
        batch_invariant: bool = False,
    ) -> Any:
        """Pairs of texts -> scores, in the order given.

        Args:
            inputs: One pair of strings, or any iterable of pairs.
            prompt_name, prompt: Put this in front of each first text; see ``SentenceEncoder.encode``.
            batch_size: Pairs a batch, at most. None: as many as are fast; batches are cut by tokens, not by pairs.
            show_progress_bar: On stderr. None: no.
            activation_fn: What becomes of the logits of each batch, (B, L) -> (B, L) or (B,), for this call.
            apply_softmax: After the activation, let each pair's scores sum to 1; without effect where L is 1.
            convert_to_numpy: A numpy array, the default; False: a list of tensors.
            convert_to_tensor: One tensor, on the encoder's device.
            truncation: As in ``from_pretrained``, for this call; the figures stay in ``truncation_report``.
            batch_invariant: The same bits for a pair alone, among others, in any order; see ``SentenceEncoder.encode``.

        Returns:
            For n pairs (n, L), or (n,) where L is 1; for one pair (L,), or a number. float32, from a float64 model
            float64.

        Raises:
            TypeError: a text is no string, or a keyword is unknown. ValueError: a pair is none (its index is said),
                or another value is wrong. TooLongError (a ValueError): see ``truncation``.
        """
        mode = check_mode(truncation or self.truncation)
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        words = prompts.choose(self.prompts, prompt, prompt_name, self.default_prompt_name)
        firsts, seconds, single = _pairs(inputs)
        if words:
            firsts = [words + text if isinstance(text, str) else text for text in firsts]
        tokens = self.tokenizer.encode(firsts, seconds, limit=self.max_seq_length)
        self.truncation_report = tokens.truncation
        announce(tokens.truncation, mode)
        activation = activation_fn or self.activation_fn

        def score(ids: Tensor, mask: Tensor | None, types: Tensor | None) -> tuple[Tensor, Tensor]:
            x, logits = self._score(ids, mask, types)
            scores = activation(logits).reshape(len(logits), -1)  # here, for in one long row its place would tell
            return x, scores.softmax(-1) if apply_softmax and scores.shape[1] > 1 else scores

        device = self.device
        with progress_bar(len(tokens.lengths), "pairs", bool(show_progress_bar)) as bar, evaluating(self) as quiet:
            workers = workers_for(device, watched=quiet is None)
            many = len(tokens.lengths) > 1
            asked = ask(quiet, self.model.bert, self.model, many=many, first_only=True, pooled=True)
            call = EncodeCall(
                tokens,
                batch=partial(padded, self.tokenizer, tokens, device),
                embed=score,
                keep=None,
                normalize=False,
                workers=workers,
                batch_invariant=batch_invariant,
                asked=asked,
            )
            batches = cut(
                tokens.lengths,
                self.config,
                max_texts=batch_size,
                workers=workers,
                on_cpu=device.type == "cpu",
                alone=batch_invariant,
                real_only=asked.real_only,
            )
            place = device if convert_to_tensor else "cpu"
            scores = call.sentences(batches, bar.update, self._no_scores, place)
        if scores.shape[1] == 1:
            scores = scores.squeeze(-1)
        return deliver(scores, "float32", as_numpy=convert_to_numpy, as_tensor=convert_to_tensor, single=single)

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        top_k: int | None = None,
        return_documents: bool = False,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """Sort documents by how well they answer a query, best first; documents of equal scores keep their order.

        Args:
            query, documents: One text, and those that are compared with it.
            top_k: How many to give back; None: all.
            return_documents: Give the texts back too.
            options: Of `predict`.

        Returns:
            list: for each document its "corpus_id" (the place in ``documents``), "score", and "text" if asked for.

        Raises:
            ValueError: the model has several labels, so there is no one score; or as `predict`.
            TypeError: the documents are one string; or as `predict`.
        """
        if isinstance(documents, str):
            raise TypeError("documents must be a list of texts, not one text")
        if self.config.num_labels != 1:
            raise ValueError(
                f"rank needs a model with one label, and this one has {self.config.num_labels} "
                f"({', '.join(self.config.id2label.values())}): take the scores of predict"
            )
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, not {top_k}")
        texts = list(documents)
        scores = self.predict([(query, text) for text in texts], convert_to_tensor=True, **options).tolist()
        best = sorted(range(len(texts)), key=scores.__getitem__, reverse=True)[:top_k]
        return [{"corpus_id": i, "score": scores[i]} | ({"text": texts[i]} if return_documents else {}) for i in best]

    @property
    def config(self) -> ClassifierConfig:
        """Of the model: sizes, and the names of its labels."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return next(self.parameters()).device

    @property
    def max_seq_length(self) -> int:
        """Longer pairs are cut: tokens, with [CLS] and both [SEP]. The tokenizer's, and never more than positions."""
        positions = self.config.max_position_embeddings
        return min(self.tokenizer.max_length or positions, positions)

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        if not isinstance(length, int) or isinstance(length, bool) or length < 1:
            raise ValueError(f"max_seq_length must be a whole number of tokens, at least 1, not {length!r}")
        self.tokenizer.max_length = length

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write a folder that sentence-transformers and transformers load to the same scores.

        Raises:
            CheckpointError, ConfigError: a part is none that they have (it is named); nothing is written.
            OSError: the folder can't be written.
        """
        modules = CrossModules(
            activation=published_activation(self.activation_fn),
            prompts=self.prompts,
            default_prompt_name=self.default_prompt_name,
            do_lower_case=self._do_lower_case,
        )
        self.model.save_pretrained(folder, **old_settings(modules))
        self.tokenizer.save_pretrained(folder)
        write_cross_modules(modules, Path(folder))

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "activation_fn":  # a torch.nn.Sigmoid() is no part of the model, and may give way to a function
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def _score(
        self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Token vectors (B, S, D) and logits (B, L)."""
        logits, x = self.model(input_ids, attention_mask, token_type_ids)
        return x, logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _no_scores(self) -> Tensor:
        dtype = torch.promote_types(next(self.parameters()).dtype, torch.float32)
        return torch.empty(0, self.config.num_labels, dtype=dtype)


def _pairs(inputs: Iterable[Any]) -> tuple[list[Any], list[Any], bool]:
    """The first texts, the second texts, and whether it was a single pair. Raises TypeError or ValueError if not."""
    if isinstance(inputs, (str, bytes)) or not isinstance(inputs, Iterable):
        raise TypeError(f"expected a pair of texts or a list of pairs, not {type(inputs).__name__}")
    rows = inputs.tolist() if isinstance(inputs, np.ndarray) else list(inputs)
    single = bool(rows) and isinstance(rows[0], str)
    rows = [rows] if single else rows
    for i, row in enumerate(rows):
        if isinstance(row, str) or not isinstance(row, Sequence) or len(row) != 2:
            raise ValueError(f"pair {i} must be two texts, but is {row!r:.80}")
    return [first for first, _ in rows], [second for _, second in rows], single
