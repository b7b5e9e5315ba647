"""CrossEncoder: pairs of texts in, a score for each pair out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, Literal, cast, overload

import numpy as np
import torch
from torch import Tensor, nn

from .arithmetic import choose
from .call import CallOptions, PredictOptions, as_list, best_first, check_options, check_texts
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
from .config import ConfigError, check_count
from .drop_in import PREDICT, LoadOptions, loading, put_settings, takes_their_calls, up_to_date
from .heads import BertForSequenceClassification, HeadOutput
from .pairs import PairCalls, as_pairs, check_activation, check_labels, chosen_activation, renamed, usual_activation
from .processes import WorkerPool
from .tokenizer import Tokenizer
from .truncation import check_mode
from .vectors import deliver

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

# Old keywords of `rank`, which have no effect in sentence-transformers either.
NO_EFFECT = "convert_to_numpy", "convert_to_tensor", "apply_softmax"


class CrossEncoder(PairCalls):
    """Read two texts at once, so that every word of one sees all of the other. As a module: ids (B, S) -> (B, L)

    It is more exact than comparing two vectors, and slower: nothing can be computed before both texts are known.
    `config.id2label` names the L labels; a reranker has one. `predict` may be called from several threads at once.
    """

    unit, verb = "pairs", "predict"

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
            options = renamed({"activation_fn": activation_fn, **options})
            model = options.pop("model_name_or_path", None) if model is None else model
            if isinstance(tokenizer, int):  # in sentence-transformers it was num_labels
                raise TypeError(
                    "give what follows the name by its keyword: num_labels, max_length, activation_fn, device"
                )
            if model is None or tokenizer is not None or modules is not None:
                raise TypeError("give a model and a Tokenizer, or a name, which brings its own tokenizer and settings")
            loaded = type(self).from_pretrained(model, truncation=truncation, **options)
            nn.Module.__init__(self)
            self.__dict__.update(loaded.__dict__)
            return
        if not isinstance(tokenizer, Tokenizer) or options:
            raise TypeError(f"a model needs a Tokenizer, and takes no {', '.join(options) or type(tokenizer).__name__}")
        settings = modules or CrossModules()
        super().__init__(model, tokenizer, settings, truncation)
        if (kind := self.tokenizer.encode([""], [""]).types.max(initial=0)) >= model.config.type_vocab_size:
            raise ConfigError(f"second texts have the token type {kind}, and the model lacks it (type_vocab_size)")
        usual = usual_activation(settings.activation, model.config.num_labels)
        self.activation_fn = usual if activation_fn is None else activation_fn

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        num_labels: int | None = None,
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
            device, dtype, fast, compiled: As for ``SentenceEncoder``; scores are float32 at least.
            num_labels: That of the checkpoint's classifier, or None.
            max_length: Tokens of a pair, at most, special ones included. None: the checkpoint's limit.
            activation_fn: For the logits (n, L), instead of the checkpoint's own.
            truncation: As there; the longer text of a pair is cut first.
            options: See ``HubOptions`` and ``LoadOptions``.

        Returns:
            A cross-encoder in eval mode; ``report`` accounts for every tensor.

        Raises:
            HubError: the model can't be had.
            ConfigError, CheckpointError: it is damaged, has no classifier, or minibert does not compute it.
        """
        check_mode(truncation)
        check_activation(activation_fn, optional=True)
        dtype, settings, hub = loading(cls, dtype, options, "similarity_fn_name", "truncate_dim", "max_active_dims")
        files = open_files(name, owner="cross-encoder", **hub)
        check_kind(files, "CrossEncoder")
        modules = read_cross_modules(files, activation=activation_fn is None)
        put_settings(modules, settings)
        inner, place = files.below(modules.transformer), find_device(device)
        dtype, arithmetic = choose(dtype, place, fast=fast is not False)
        model = load_files(inner, into=BertForSequenceClassification, dtype=dtype)
        check_labels(num_labels, model.config)
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
        rows, single = as_pairs(inputs)
        firsts, seconds = [first for first, _ in rows], [second for _, second in rows]
        reading = {"activation": chosen_activation(activation_fn, self), "softmax": apply_softmax}
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
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        device: str | torch.device | Sequence[str | torch.device] | None = None,
        pool: WorkerPool | None = None,
        chunk_size: int | None = None,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """Sort documents by how well they answer a query, best first; documents of equal scores keep their order.

        Args:
            query, documents: One text, and those that are compared with it.
            top_k: How many to give back; None: all.
            return_documents: Give the texts back too.
            prompt_name, prompt, batch_size, show_progress_bar, activation_fn, device, pool, chunk_size, options: As
                for `predict`.

        Returns:
            list: for each document its "corpus_id" (the place in ``documents``), "score", and "text" if asked for.

        Raises:
            ValueError: the model has several labels, so there is no one score; or as `predict`.
            TypeError: the documents are one string; or as `predict`.
        """
        options = up_to_date({"activation_fn": activation_fn, **options}, *NO_EFFECT)
        activation_fn = options.pop("activation_fn")
        check_options("CrossEncoder.rank", options)
        if isinstance(documents, str):
            raise TypeError("documents must be a list of texts, not one text")
        if self.config.num_labels != 1:
            raise ValueError(
                f"rank needs a model with one label, and this one has {self.config.num_labels} "
                f"({', '.join(self.config.id2label.values())}): take the scores of predict"
            )
        check_count("top_k", top_k, optional=True)
        texts = as_list(documents)
        check_texts([query], "the query")
        check_texts(texts, "document {}")
        given = (prompt_name, prompt, batch_size, show_progress_bar, activation_fn, False, True, True, device, pool)
        pairs: Any = [(query, text) for text in texts]
        scores = cast(Any, self.predict)(pairs, *given, chunk_size, **options).tolist()
        return best_first(scores, top_k, texts if return_documents else None)

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

    def _read(self, output: HeadOutput, mask: Tensor | None, prompt_length: int, **reading: Any) -> tuple[Any, Tensor]:
        logits = self._logits(output)
        scores = reading["activation"](logits)
        shape = tuple(getattr(scores, "shape", ()))
        if not isinstance(scores, Tensor) or shape[:1] != (len(logits),):
            raise ValueError(f"activation_fn must keep a row for each pair: it made {shape} of {tuple(logits.shape)}")
        scores = scores.reshape(len(logits), -1)
        return output.last_hidden_state, scores.softmax(-1) if reading["softmax"] and scores.shape[1] > 1 else scores

    def _logits(self, output: HeadOutput) -> Tensor:
        """Return logits (B, L), in float32 at least."""
        return output.logits.to(torch.promote_types(output.logits.dtype, torch.float32))

    def _readers(self) -> list[nn.Module]:
        return [self.model.bert.pooler]

    def _no_scores(self) -> Tensor:
        dtype = torch.promote_types(next(self.parameters()).dtype, torch.float32)
        return torch.empty(0, self.config.num_labels, dtype=dtype)
