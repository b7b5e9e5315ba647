"""SparseEncoder: text in, weights of words out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..arithmetic import choose
from ..call import CallOptions, as_list, check_options
from ..checkpoint.hub import open_files
from ..checkpoint.kinds import check_kind
from ..checkpoint.load import find_device, load_files
from ..checkpoint.save import replacing_model
from ..checkpoint.sparse_encoders import ROUTED, TASKS, SparseModules, read_sparse_modules, write_sparse_modules
from ..config import ConfigError, check_count, named
from ..drop_in import LoadOptions, loading, put_settings
from ..fast.decide import Decision
from ..heads import BertForMaskedLM
from ..pooling import SpladePooling
from ..settings import Checked, count_or_none, one_of
from ..text_model import DOCUMENT, QUERY, TextModel
from ..tokenizer import Tokenizer, Tokens
from ..truncation import announce, check_mode
from ..vectors import SIMILARITIES
from . import sparse_vectors
from .sparse_vectors import LAYOUTS, Row
from .static_queries import StaticQueries
from .vocabulary import FastHead, PageHead, as_they_are, fast_head, weigh, whole_model, why_page

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class SparseEncoder(TextModel):
    """Give each word of the vocabulary a weight, 0 for nearly all: SPLADE. As a module: ids (B, S) -> weights (B, V)

    A masked LM says which words fit in the place of each token. The text's weight of a word is log(1 + relu(score)),
    the highest over its tokens (arXiv 2109.10086, section 3). So a text is found by words that it does not have.
    `encode` may be called from several threads at once.
    """

    similarity_fn_name, max_active_dims = Checked(one_of(SIMILARITIES)), Checked(count_or_none)

    def __init__(
        self,
        model: BertForMaskedLM | str | os.PathLike[str],
        tokenizer: Tokenizer | None = None,
        modules: SparseModules | None = None,
        *,
        static: StaticQueries | None = None,
        truncation: str = "warn",
        **options: Any,
    ) -> None:
        """Put one together from its parts, or load one by its name with the options of `from_pretrained`.

        Without ``modules``: SPLADE's max pooling. ``static`` computes the tasks that need no model.

        Raise ConfigError for parts that do not fit each other, and as `SentenceEncoder`.
        """
        if not isinstance(model, BertForMaskedLM):
            nn.Module.__init__(self)
            self.__dict__.update(type(self).from_pretrained(model, truncation=truncation, **options).__dict__)
            return
        if not isinstance(tokenizer, Tokenizer) or options:
            raise TypeError(f"a model needs a Tokenizer, and takes no {', '.join(options) or type(tokenizer).__name__}")
        settings = modules or SparseModules()
        super().__init__(model, tokenizer, settings, truncation)
        self.pooling, self.static = settings.pooling.train(model.training), static and static.train(model.training)
        with named(settings.source):
            self.similarity_fn_name, self.max_active_dims = settings.similarity_fn_name, settings.max_active_dims
        self._head: FastHead | None = None
        if static is not None and (rows := len(static.weight)) != (V := model.config.vocab_size):
            raise ConfigError(f"the static weights are of {rows} words, the masked LM's of {V}")

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        truncation: str = "warn",
        fast: bool | None = None,
        compiled: bool | None = None,
        **options: Unpack[LoadOptions],
    ) -> Self:
        """Load a checkpoint with its masked-LM head, its tokenizer and its settings, in eval mode.

        Args:
            name: A folder or a hub id; one without an owner belongs to sparse-encoder.
            device, truncation, fast, compiled, options: As for ``SentenceEncoder``, without ``truncate_dim``.
            dtype: As there, and for the head too.

        Raises:
            HubError: the model can't be had.
            ConfigError, CheckpointError: it is damaged, has no masked-LM head, or minibert does not compute it.
        """
        check_mode(truncation)
        dtype, settings, hub = loading(cls, dtype, options, "truncate_dim")
        files = open_files(name, owner="sparse-encoder", **hub)
        check_kind(files, "SparseEncoder")
        modules = read_sparse_modules(files)
        put_settings(modules, settings)
        inner, place = files.below(modules.transformer), find_device(device)
        dtype, arithmetic = choose(dtype, place, fast=fast is not False)
        model = load_files(inner, into=BertForMaskedLM, dtype=dtype)
        tokenizer = Tokenizer.from_files(inner, lowercase_first=modules.do_lower_case)
        static = None
        if modules.static is not None:
            other = Tokenizer.from_files(files.below(modules.static_folder)).fitted(len(modules.static))
            static = StaticQueries(modules.static, other, modules.static_for, frozen=modules.frozen)
        with named(files.name):
            encoder = cls(model, tokenizer, modules, static=static, truncation=truncation)
        return encoder._prepare(files, modules.transformer, place, arithmetic, fast, compiled, modules.notes)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Compute weights by the page, with gradients where they are on. (B, S) ids, mask, types -> (B, V)"""
        scores = self.model(input_ids, attention_mask, token_type_ids).logits
        return self.pooling(scores, None if attention_mask is None else attention_mask.bool())

    def encode(
        self,
        sentences: str | Iterable[str],
        *,
        convert_to_tensor: bool = True,
        convert_to_sparse_tensor: bool = True,
        save_to_cpu: bool = False,
        max_active_dims: int | None = None,
        layout: str = "coo",
        task: str | None = None,
        **options: Unpack[CallOptions],
    ) -> Any:
        """Turn text into weights of words, in the order given.

        Args:
            sentences: One string, or any iterable of strings.
            convert_to_tensor: One matrix. False: a list of vectors (V,).
            convert_to_sparse_tensor: torch's sparse tensors. False: dense ones, V numbers a text.
            save_to_cpu: Leave the result on the CPU. Otherwise it is on the encoder's device.
            max_active_dims: Keep so many words of a text, at most, those with the highest weights. None: the encoder's
                own ``max_active_dims``.
            layout: "coo" or "csr", as torch has it; "scipy", a csr matrix; "words", a dict {word: weight} a text.
            task: "query" or "document", for a checkpoint whose queries need no model; as `encode_query` gives it.
            options: See ``CallOptions``: prompts, truncation, batches, progress, who computes.

        Returns:
            For n strings (n, V), for one string (V,), or (1, V) as csr; float32, from a float64 model float64.

        Raises:
            TypeError: a text is not a string (its index is given), or a keyword is unknown.
            ValueError: another value is wrong. TooLongError (a ValueError): see ``truncation``.
        """
        if layout not in LAYOUTS or (layout != "coo" and not (convert_to_tensor and convert_to_sparse_tensor)):
            text = f"layout must be one of {', '.join(LAYOUTS)}, and 'coo' for lists and dense tensors"
            raise ValueError(f"{text}, not {layout!r:.80}")
        if task not in (None, *TASKS):
            raise ValueError(f"task must be one of {', '.join(TASKS)}, not {task!r:.80}")
        keep = self.max_active_dims if max_active_dims is None else max_active_dims
        check_count("max_active_dims", keep, optional=True)
        texts = as_list(sentences)
        if self.static is not None and task in self.static.tasks:
            rows = self._look_up(self.static, texts, keep, options)
        else:
            rows = self._run(texts, None, {"keep": keep}, "cpu", False, **options)[1] or []
        form: Any = {"layout": layout, "as_matrix": convert_to_tensor, "as_sparse": convert_to_sparse_tensor}
        form |= {"device": "cpu" if save_to_cpu else self.device, "single": isinstance(sentences, str)}
        dtype = torch.promote_types(next(self.parameters()).dtype, torch.float32)
        return sparse_vectors.deliver(rows, self.get_embedding_dimension(), dtype, self._name, **form)

    def encode_query(self, sentences: str | Iterable[str], **options: Any) -> Any:
        """Encode as queries: with their prompt if there is one, and by static weights if the checkpoint has them."""
        return self.encode(sentences, **{"task": "query", **self._prompt_for(QUERY, options)})

    def encode_document(self, sentences: str | Iterable[str], **options: Any) -> Any:
        """Encode as documents: with their prompt (document, passage or corpus) if there is one."""
        return self.encode(sentences, **{"task": "document", **self._prompt_for(DOCUMENT, options)})

    def decode(self, embeddings: Any, top_k: int | None = None) -> Any:
        """Return words and weights, highest first: a list of pairs for one vector (V,), for (n, V) a list of lists.

        Args:
            embeddings: What `encode` returned, but dicts: torch's tensors, a list of them, scipy's matrix, an array.
            top_k: The highest so many. None: all that are not 0.

        Raises ValueError for other vectors, or another width.
        """
        check_count("top_k", top_k, optional=True)
        matrix = sparse_vectors.as_coo(embeddings)
        if matrix.shape[1] != (V := self.get_embedding_dimension()):
            raise ValueError(f"the vectors have {matrix.shape[1]} numbers, and the model has {V} words")
        found = [sparse_vectors.in_words(row, self._name, top_k) for row in sparse_vectors.rows_of(matrix)]
        return found[0] if getattr(embeddings, "ndim", 2) == 1 else found

    def similarity(self, a: Any, b: Any) -> Tensor:
        """Compare all vectors by the checkpoint's measure (`similarity_fn_name`). a (n, V), b (m, V) -> dense (n, m)"""
        return sparse_vectors.similarity(a, b, self.similarity_fn_name)

    def similarity_pairwise(self, a: Any, b: Any) -> Tensor:
        """Compare vectors pair by pair. a (n, V), b (n, V) -> (n,)"""
        return sparse_vectors.similarity_pairwise(a, b, self.similarity_fn_name)

    sparsity = staticmethod(sparse_vectors.sparsity)

    def get_embedding_dimension(self) -> int:
        """Return V, the number of words that can have a weight."""
        return int(self.model.config.vocab_size)

    def explain(self) -> str:
        """Return `TextModel.explain`'s table, and a line for the head if the page computes it alone."""
        why = why_page(self.model) if whole_model(self.model) is None else None
        return super().explain() + (f"\nmasked_lm  page  {why}" if why else "")

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write a folder that sentence-transformers loads to the same weights.

        Raises:
            CheckpointError: a part has no published form. OSError: the folder can't be written, and stays.
        """
        settings = SparseModules(
            max_seq_length=self.max_seq_length,
            do_lower_case=self._do_lower_case,
            prompts=self.prompts,
            default_prompt_name=self.default_prompt_name,
            similarity_fn_name=self.similarity_fn_name,
            pooling=self.pooling,
            max_active_dims=self.max_active_dims,
        )
        if (kind := type(self.pooling)) is not SpladePooling:
            raise ConfigError(f"{kind.__name__} is not a module of sentence-transformers, so it can't be saved")
        if (static := self.static) is not None:
            settings.static, settings.static_for, settings.frozen = static.weight, static.tasks, static.frozen
            settings.transformer, settings.static_folder = ROUTED
        with replacing_model(folder) as new:
            self.model.save_pretrained(new / settings.transformer)
            self.tokenizer.save_pretrained(new / settings.transformer, self.max_seq_length)
            if static is not None:
                static.save_pretrained(new / settings.static_folder)
            write_sparse_modules(settings, new)

    def _forward(
        self, tokens: Tokens, rows: np.ndarray, decision: Decision, *, first_only: bool
    ) -> tuple[Any, Tensor | None]:
        if whole_model(self.model):
            batch = self._pad(tokens, rows)
            output = self.model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
            return (output.logits, as_they_are), batch["attention_mask"].bool()
        output, mask = super()._forward(tokens, rows, decision, first_only=first_only)
        by_page = decision.reasons.keys() & {"", "masked_lm"}
        return (output.last_hidden_state, PageHead(self.model, self.device) if by_page else self._head), mask

    def _read(self, output: Any, mask: Tensor | None, prompt_length: int, **reading: Any) -> tuple[Any, Any]:
        x, head = output
        lengths = [x.shape[1]] * len(x) if mask is None else mask.sum(1).tolist()
        packed = x.flatten(0, 1) if mask is None else x[mask]
        return x, weigh(head, self.pooling, packed, lengths, reading["keep"])

    @property
    def _core(self) -> Any:  # the head is applied in `_read`, to some tokens and words at a time
        return self.model.bert

    def _readers(self) -> list[nn.Module]:
        return [self.pooling]

    def _why_page(self, fast: bool | None) -> str | None:
        return super()._why_page(fast) or whole_model(self.model)

    def _decide(self, fast: bool | None, forced: str | None, *, known: bool) -> Decision:
        decision = super()._decide(fast, forced, known=known)
        if "" in decision.reasons:
            return decision
        if why := why_page(self.model):
            if self.fast if fast is None else fast:
                raise ValueError(f"fast=True, but the page computes: {why}")
            return replace(decision, reasons={**decision.reasons, "masked_lm": why})
        self._head = fast_head(self.model, self._arithmetic, self._head)
        return decision

    def _look_up(self, static: StaticQueries, texts: Sequence[str], keep: int | None, options: Any) -> list[Row]:
        """Give the words of each text their static weights, as `_run` does by the model."""
        check_options("SparseEncoder.encode", options)
        words = self.choose_prompt(options.get("prompt"), options.get("prompt_name"))
        tokens = static.tokenize([words + text if words and isinstance(text, str) else text for text in texts])
        self.truncation_report = tokens.truncation
        announce(tokens.truncation, check_mode(options.get("truncation") or self.truncation))
        return static.rows(tokens, keep)

    def _name(self, word: int) -> str:
        """Return a word by its id; #id for a row of the table without a word."""
        return self.tokenizer._backend.id_to_token(word) or f"#{word}"

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "_head": None}
