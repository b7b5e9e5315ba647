"""CrossEncoder: pairs of texts in, a score for each pair out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch
from torch import Tensor, nn

from .arithmetic import choose
from .call import CallOptions, PredictOptions, as_list, best_first
from .checkpoint.cross_encoders import (
    Activation,
    CrossModules,
    old_settings,
    published_activation,
    read_cross_modules,
    write_cross_modules,
)
from .checkpoint.hub import open_files
from .checkpoint.kinds import check_kind
from .checkpoint.load import find_device, load_files
from .checkpoint.save import replacing_model
from .config import ClassifierConfig, ConfigError, check_count
from .drop_in import PREDICT, LoadOptions, loading, put_settings, takes_their_calls
from .heads import BertForSequenceClassification, HeadOutput
from .pooling import DENSE_ACTIVATIONS
from .text_model import TextModel
from .tokenizer import Tokenizer
from .truncation import check_mode
from .vectors import deliver

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class CrossEncoder(TextModel):
    """Read two texts at once, so that every word of one sees all of the other. As a module: ids (B, S) -> (B, L)

    It is more exact than comparing two vectors, and slower: nothing can be computed before both texts are known.
    `config.id2label` names the L labels; a reranker has one. `predict` may be called from several threads at once.
    """

    unit, verb, _frames = "pairs", "predict", 5

    def __init__(
        self,
        model: BertForSequenceClassification | str | os.PathLike[str] | None = None,
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
            activation_fn: For the logits (n, L). None: the sigmoid where there is one label, otherwise nothing,
                unless ``modules`` names one.
            modules: The settings of a checkpoint.
            truncation, options: As in `from_pretrained`.

        Raises:
            ConfigError: the parts do not fit each other. ValueError: the truncation mode is unknown.
            TypeError: a model without a Tokenizer, a name with one, or an unknown keyword.
        """
        if not isinstance(model, BertForSequenceClassification):
            model = options.pop("model_name_or_path", None) if model is None else model
            if model is None or tokenizer is not None or modules is not None:
                raise TypeError("give a model and a Tokenizer, or a name, which brings its own tokenizer and settings")
            loaded = type(self).from_pretrained(model, activation_fn=activation_fn, truncation=truncation, **options)
            nn.Module.__init__(self)
            self.__dict__.update(loaded.__dict__)
            return
        if not isinstance(tokenizer, Tokenizer) or options:
            raise TypeError(f"a model needs a Tokenizer, and takes no {', '.join(options) or type(tokenizer).__name__}")
        settings = modules or CrossModules()
        super().__init__(model, tokenizer, settings, truncation)
        if (kind := self.tokenizer.encode([""], [""]).types.max(initial=0)) >= model.config.type_vocab_size:
            raise ConfigError(f"second texts have the token type {kind}, and the model lacks it (type_vocab_size)")
        usual = "Sigmoid" if model.config.num_labels == 1 else "Identity"
        self.activation_fn = activation_fn or DENSE_ACTIVATIONS[settings.activation or usual]

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        max_length: int | None = None,
        activation_fn: Activation | None = None,
        truncation: str = "warn",
        fast: bool | None = None,
        compiled: bool | None = None,
        **options: Unpack[LoadOptions],
    ) -> Self:
        """Load a checkpoint with its classifier, its tokenizer and its activation.

        Args:
            name: A folder or a hub id; one without an owner belongs to cross-encoder.
            device, dtype, fast, compiled: As for ``SentenceEncoder``. Scores are float32 at least.
            max_length: Tokens of a pair, at most, special ones included. None: the checkpoint's limit.
            activation_fn: For the logits (n, L), instead of the checkpoint's own.
            truncation: For pairs that are too long, the longer text first: "warn" (truncate, one warning a call),
                "report" (truncate, see ``truncation_report``), "silent", or "error" (refuse).
            options: See ``HubOptions`` and ``LoadOptions``.

        Returns:
            A cross-encoder in eval mode; ``report`` accounts for every tensor.

        Raises:
            HubError: the model can't be had.
            ConfigError, CheckpointError: it is damaged, has no classifier, or minibert does not compute it.
        """
        check_mode(truncation)
        dtype, settings, hub = loading(dtype, options, "similarity_fn_name", "truncate_dim", "max_active_dims")
        files = open_files(name, owner="cross-encoder", **hub)
        check_kind(files, "CrossEncoder")
        modules = read_cross_modules(files, activation=activation_fn is None)
        put_settings(modules, settings)
        inner, place = files.below(modules.transformer), find_device(device)
        dtype, arithmetic = choose(dtype, place, fast=fast is not False)
        model = load_files(inner, into=BertForSequenceClassification, dtype=dtype)
        tokenizer = Tokenizer.from_files(inner, lowercase_first=modules.do_lower_case)
        encoder = cls(model, tokenizer, activation_fn=activation_fn, modules=modules, truncation=truncation)
        if max_length is not None:
            encoder.max_seq_length = max_length
        return encoder._prepare(files, modules.transformer, place, arithmetic, fast, compiled, ())

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Compute logits by the page, before any activation, with gradients where they are on. (B, S) ids -> (B, L)"""
        return self._logits(self.model(input_ids, attention_mask, token_type_ids))

    @overload
    def predict(
        self, inputs: Iterable[Any], *, convert_to_tensor: Literal[True], **options: Unpack[PredictOptions]
    ) -> Tensor: ...
    @overload
    def predict(self, inputs: Iterable[Any], **options: Unpack[PredictOptions]) -> np.ndarray: ...
    @overload
    def predict(
        self,
        inputs: Iterable[Any],
        *,
        convert_to_numpy: bool = ...,
        convert_to_tensor: bool = ...,
        **options: Unpack[PredictOptions],
    ) -> Any: ...

    @takes_their_calls(*PREDICT)
    def predict(
        self,
        inputs: Iterable[Any],
        *,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        activation_fn: Activation | None = None,
        apply_softmax: bool = False,
        **options: Unpack[CallOptions],
    ) -> Any:
        """Turn pairs of texts into scores, in the order given.

        Args:
            inputs: One pair of strings, or any iterable of pairs.
            convert_to_numpy: A numpy array, the default. False: a list of tensors.
            convert_to_tensor: One tensor, on the encoder's device.
            activation_fn, apply_softmax: See ``PredictOptions``.
            options: See ``CallOptions``: prompts, truncation, batches, progress, who computes.

        Returns:
            For n pairs (n, L), or (n,) where L is 1; for one pair (L,), or a number. float32, from a float64 model
            float64.

        Raises:
            TypeError: a text is not a string, or a keyword is unknown.
            ValueError: something is not a pair (its index is given), or another value is wrong.
            TooLongError (a ValueError): see ``truncation``.
        """
        firsts, seconds, single = _pairs(inputs)
        reading = {"activation": activation_fn or self.activation_fn, "softmax": apply_softmax}
        device = self.device if convert_to_tensor else "cpu"
        _, scores = self._run(firsts, seconds, reading, device, False, **options)
        scores = self._no_scores() if scores is None else scores
        scores = scores.squeeze(-1) if scores.shape[1] == 1 else scores
        return deliver(scores, "float32", None, convert_to_numpy, convert_to_tensor, single=single)

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
        check_count("top_k", top_k, optional=True)
        texts = as_list(documents)
        scores = self.predict([(query, text) for text in texts], convert_to_tensor=True, **options).tolist()
        return best_first(scores, top_k, texts if return_documents else None)

    @property
    def config(self) -> ClassifierConfig:
        """Of the model: sizes, and the names of its labels."""
        return self.model.config

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write a folder that sentence-transformers and transformers load to the same scores.

        Raises:
            CheckpointError, ConfigError: a part has no published form (it is named).
            OSError: the folder can't be written. Then it is as before.
        """
        modules = CrossModules(
            activation=published_activation(self.activation_fn),
            prompts=self.prompts,
            default_prompt_name=self.default_prompt_name,
            do_lower_case=self._do_lower_case,
        )
        tokenizer = copy(self.tokenizer)
        tokenizer.max_length = self.max_seq_length  # where the reference looks for it
        with replacing_model(folder) as new:
            self.model.save_pretrained(new, **old_settings(modules))
            tokenizer.save_pretrained(new)
            write_cross_modules(modules, new)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "activation_fn":  # a torch.nn.Sigmoid() is no part of the model, and may give way to a function
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def _read(self, output: HeadOutput, mask: Tensor | None, prompt_length: int, **reading: Any) -> tuple[Any, Tensor]:
        logits = self._logits(output)
        scores = reading["activation"](logits).reshape(len(logits), -1)
        return output.last_hidden_state, scores.softmax(-1) if reading["softmax"] and scores.shape[1] > 1 else scores

    def _logits(self, output: HeadOutput) -> Tensor:
        """Return logits (B, L), in float32 at least."""
        return output.logits.to(torch.promote_types(output.logits.dtype, torch.float32))

    def _readers(self) -> list[nn.Module]:
        return [self.model.bert.pooler]

    def _no_scores(self) -> Tensor:
        dtype = torch.promote_types(next(self.parameters()).dtype, torch.float32)
        return torch.empty(0, self.config.num_labels, dtype=dtype)


def _pairs(inputs: Iterable[Any]) -> tuple[list[Any], list[Any], bool]:
    """Return the first texts, the second texts, and whether it was a single pair.

    Raises:
        TypeError: it is not a list. ValueError: something in it is not a pair.
    """
    if isinstance(inputs, (str, bytes)) or not isinstance(inputs, Iterable):
        raise TypeError(f"expected a pair of texts or a list of pairs, not {type(inputs).__name__}")
    rows = inputs.tolist() if isinstance(inputs, np.ndarray) else as_list(inputs)
    single = bool(rows) and isinstance(rows[0], str)
    rows = [rows] if single else rows
    for i, row in enumerate(rows):
        if isinstance(row, str) or not isinstance(row, Sequence) or len(row) != 2:
            raise ValueError(f"pair {i} must be two texts, but is {row!r:.80}")
    return [first for first, _ in rows], [second for _, second in rows], single
