"""MultiVectorEncoder: text in, a vector per token out, and what is done with these (ColBERT, late interaction)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..arithmetic import choose
from ..call import CallOptions, as_list, best_first
from ..checkpoint.colbert import LateModules, QueryExpansion, add_markers
from ..checkpoint.hub import open_files
from ..checkpoint.kinds import check_kind
from ..checkpoint.load import find_device, load_files
from ..checkpoint.multi_vector import MEASURES, read_late_modules, write_late_modules
from ..checkpoint.save import replacing_model
from ..checkpoint.sentence_transformers import check_writable, vector_width
from ..config import ConfigError, check_count, named
from ..drop_in import LoadOptions, loading, put_settings
from ..model import Bert, EncoderOutput
from ..pooling import Normalize, normalize
from ..settings import Checked, count_or_none, one_of
from ..text_model import DOCUMENT, QUERY, TextModel
from ..token_pooling import TASKS, HierarchicalTokenPooling, pool_tokens
from ..tokenizer import Tokenizer, Tokens
from ..truncation import announce, check_mode
from .late import Matches, Texts, TokenVectors, fill_up, is_mean, maxsim, maxsim_pairwise

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

# Attributes by the same names as in LateModules.
LENGTHS = "query_length", "document_length", "query_expansion"
SCORING = "skiplist_words", "skiplist_tasks", "keep_only_token_ids", "token_pooling", "similarity_fn_name"
SETTINGS = (*LENGTHS, *SCORING, "prompts", "default_prompt_name")


class MultiVectorEncoder(TextModel):
    """A Bert, its tokenizer, and a projection of every token. As a module: a batch of ids (B, S) -> (B, S, D)

    Queries and documents are encoded differently (markers, lengths, expansion, words that do not count), so
    `encode_query` and `encode_document` are what a search needs. Both may be called from several threads at once.
    """

    similarity_fn_name = Checked(one_of(MEASURES))
    query_length, document_length = Checked(count_or_none), Checked(count_or_none)

    def __init__(
        self,
        model: Bert | str | os.PathLike[str],
        tokenizer: Tokenizer | None = None,
        modules: LateModules | None = None,
        *,
        truncation: str = "warn",
        **options: Any,
    ) -> None:
        """Put one together from its parts, or load one by its name with the options of `from_pretrained`.

        Without ``modules``: unit vectors of the Bert's own width, no markers, no expansion. To train ColBERT's form:
        ``LateModules(after=[Dense(D, 128, bias=False, activation="Identity"), Normalize()], ...)``.

        Raise ConfigError for parts that do not fit each other, and as `SentenceEncoder`.
        """
        if not isinstance(model, Bert):
            nn.Module.__init__(self)
            self.__dict__.update(type(self).from_pretrained(model, truncation=truncation, **options).__dict__)
            return
        if not isinstance(tokenizer, Tokenizer) or options:
            raise TypeError(f"a Bert needs a Tokenizer, and takes no {', '.join(options) or type(tokenizer).__name__}")
        settings = modules or LateModules(after=[Normalize()])
        super().__init__(model, tokenizer, settings, truncation)
        self.head = nn.Sequential(*settings.after).train(model.training)
        vector_width(model.config.hidden_size, nn.Identity(), self.head)
        self.similarity_fn_name, self.token_pooling = settings.similarity_fn_name, settings.token_pooling
        self.query_length, self.document_length = settings.query_length, settings.document_length
        self.query_expansion = settings.query_expansion
        self.skiplist_words, self.skiplist_tasks = settings.skiplist_words, settings.skiplist_tasks
        self.keep_only_token_ids = settings.keep_only_token_ids
        if self.query_expansion is not None:
            self._filler(self.query_expansion)

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
        """Load a folder of sentence-transformers 6, of PyLate, or of Stanford's ColBERT (colbertv2.0).

        ``name`` is a folder or a hub id. The rest is as for ``SentenceEncoder``, without ``truncate_dim``.

        Raises:
            HubError: the model can't be had. ConfigError, CheckpointError: it is damaged, for another class, or
                minibert does not compute it; or its vocabulary lacks a marker.
        """
        check_mode(truncation)
        dtype, settings, hub = loading(cls, dtype, options, "truncate_dim", "max_active_dims")
        files = open_files(name, **hub)
        check_kind(files, "MultiVectorEncoder")
        modules = read_late_modules(files)
        put_settings(modules, settings)
        inner, place = files.below(modules.transformer), find_device(device)
        dtype, arithmetic = choose(dtype, place, fast=fast is not False)
        model = load_files(inner, into=Bert, dtype=dtype)
        tokenizer = Tokenizer.from_files(inner, lowercase_first=modules.do_lower_case)
        add_markers(tokenizer._backend, modules)
        with named(files.name):
            encoder = cls(model, tokenizer, modules, truncation=truncation)
        return encoder._prepare(files, modules.transformer, place, arithmetic, fast, compiled, modules.notes)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Compute token vectors by the page, with gradients where they are on. (B, S) ids, mask, types -> (B, S, D)"""
        return self._project(self.model(input_ids, attention_mask, token_type_ids))

    def encode(
        self,
        inputs: str | Iterable[str],
        *,
        task: str | None = None,
        convert_to_numpy: bool = False,
        normalize_embeddings: bool = False,
        token_pooling: HierarchicalTokenPooling | None = None,
        **options: Unpack[CallOptions],
    ) -> Any:
        """Turn text into a vector for each token that counts, in the order given.

        Args:
            inputs: One string, or any iterable of strings.
            task: "query" or "document": whose length, expansion and skip list count. None: neither's length nor
                expansion, the document's skip list and token pooling.
            convert_to_numpy: Arrays. False, the default: tensors on the encoder's device.
            normalize_embeddings: Scale vectors to length 1, where the model does not.
            token_pooling: Merge vectors, for this call, after the model's own pooling if it has one.
            options: See ``CallOptions``.

        Returns:
            A list of (tokens, D) for a list, (tokens, D) for one string; float32, from a float64 model float64.

        Raises:
            TypeError: a text is not a string (its index is given), or a keyword is unknown.
            ValueError: another value is wrong. TooLongError (a ValueError): see ``truncation``.
        """
        if task not in (None, *TASKS):
            raise ValueError(f"task must be query, document or None, not {task!r:.80}")
        tokens, results = self._run(as_list(inputs), None, {"task": task}, self.device, True, **options)
        counts = self.counts(tokens, task)
        vectors: list[Any] = []
        for (x, _), start, end in zip(results or [], tokens.starts[:-1], tokens.starts[1:], strict=True):
            own = counts[start:end]
            vectors.append(x if own.all() else x[torch.from_numpy(own).to(x.device)])
        vectors = pool_tokens(self.token_pooling, vectors, task)
        if normalize_embeddings:
            vectors = [normalize(x) for x in vectors]
        vectors = pool_tokens(token_pooling, vectors, task)
        if convert_to_numpy:
            vectors = [x.cpu().numpy() for x in vectors]
        return vectors[0] if isinstance(inputs, str) else vectors

    def encode_query(self, inputs: str | Iterable[str], **options: Any) -> Any:
        """Encode queries, by their prompt, length and expansion. As `encode`."""
        return self.encode(inputs, task="query", **self._prompt_for(QUERY, options))

    def encode_document(self, inputs: str | Iterable[str], **options: Any) -> Any:
        """Encode documents, by their prompt and length, without words to skip. As `encode`."""
        return self.encode(inputs, task="document", **self._prompt_for(DOCUMENT, options))

    def similarity(self, queries: Texts, documents: Texts) -> Tensor:
        """Score every query against every document, by `similarity_fn_name`. -> (n, m). Takes what `maxsim` does."""
        return maxsim(queries, documents, mean=is_mean(self.similarity_fn_name))

    def similarity_pairwise(self, queries: Texts, documents: Texts) -> Tensor:
        """Score each query against the document in its place, by `similarity_fn_name`. -> (n,)"""
        return maxsim_pairwise(queries, documents, mean=is_mean(self.similarity_fn_name))

    def rank(
        self,
        query: str,
        documents: Iterable[str] | Texts,
        top_k: int | None = None,
        return_documents: bool = False,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """Sort documents by how well they answer a query, best first; documents of equal scores keep their order.

        Args:
            query: One text.
            documents: Texts, or their vectors from `encode_document`, packed (`TokenVectors`) or not.
            top_k: How many to give back; None: all.
            return_documents: Give the texts back too.
            options: Of `encode`.

        Returns:
            list: for each document its "corpus_id" (the place in ``documents``), "score", and "text" if asked for.

        Raises:
            TypeError: the documents are one string; or as `encode`. ValueError: as `encode` and `maxsim`.
        """
        if isinstance(documents, str) or not isinstance(query, str):
            raise TypeError("documents must be a list of texts, not one text, and the query one text")
        check_count("top_k", top_k, optional=True)
        texts: Any = (
            documents if hasattr(documents, "dtype") or isinstance(documents, TokenVectors) else list(documents)
        )
        of_text = isinstance(texts, list) and any(isinstance(text, str) for text in texts)
        vectors = self.encode_document(texts, **options) if of_text else texts
        scores = self.similarity(self.encode_query(query, **options), vectors)[0]
        return best_first(scores.tolist(), top_k, texts if return_documents else None)

    def match(self, query: str, document: str, **options: Any) -> Matches:
        """Tell which tokens make two texts similar; they are not pooled. ``options`` are `encode`'s."""
        ids, x, counts = self._side(query, "query", options)
        others, y, real = self._side(document, "document", options)
        names = self.tokenizer.convert_ids_to_tokens
        return Matches(names(ids[counts]), names(others[real]), x[counts] @ y[real].T)

    def _side(self, text: str, task: str, options: Mapping[str, Any]) -> tuple[np.ndarray, Tensor, np.ndarray]:
        """Return of a text all tokens' ids (S,) and vectors (S, D), and which of them count (S,)."""
        options = self._prompt_for(QUERY if task == "query" else DOCUMENT, options)
        tokens, results = self._run([text], None, {"task": task}, self.device, True, **options)
        return tokens.ids, results[0][0].cpu(), self.counts(tokens, task)

    def tokenize(self, texts: str | Iterable[str], task: str | None = None) -> dict[str, Tensor]:
        """Return what `forward` takes: `input_ids`, `token_type_ids`, `attention_mask`, (n, S); no prompt."""
        tokens = self._tokenize(as_list(texts), None, {"task": task})
        announce(tokens.truncation, self.truncation)
        return self._pad(tokens, range(len(tokens.lengths)))

    def counts(self, tokens: Tokens, task: str | None) -> np.ndarray:
        """Tell which tokens count in a score. -> bool (all tokens,)"""
        counts = np.ones(len(tokens.ids), dtype=bool)
        if (task or "document") in self.skiplist_tasks:
            numbers = map(self.tokenizer._backend.token_to_id, self.skiplist_words)
            counts &= ~np.isin(tokens.ids, [number for number in numbers if number is not None])
        if task != "query" and self.keep_only_token_ids:
            counts &= np.isin(tokens.ids, self.keep_only_token_ids)
        return counts

    def get_embedding_dimension(self) -> int:
        """Return D, the width of the vectors."""
        return vector_width(self.model.config.hidden_size, nn.Identity(), self.head)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write a folder that sentence-transformers 6 loads to the same vectors. Raises as `SentenceEncoder`'s."""
        values: dict[str, Any] = {name: getattr(self, name) for name in SETTINGS}
        settings = LateModules(after=list(self.head), do_lower_case=self._do_lower_case, **values)
        check_writable(settings.after)
        tokenizer = copy(self.tokenizer)
        tokenizer.max_length = self.max_seq_length  # where the reference looks for it
        with replacing_model(folder) as new:
            self.model.save_pretrained(new)
            tokenizer.save_pretrained(new)
            write_late_modules(settings, new)

    def _tokenize(self, texts: Sequence[str], pairs: Sequence[str] | None, reading: Mapping[str, Any]) -> Tokens:
        expansion = self.query_expansion if reading["task"] == "query" else None
        limit = {"query": self.query_length, "document": self.document_length}.get(reading["task"])
        limit = min(limit or self.max_seq_length, self.model.config.max_position_embeddings)
        if expansion is None:
            return self.tokenizer.encode(texts, limit=limit)
        limit = expansion.length if expansion.strategy == "fixed" else max(limit, expansion.length)
        tokens = self.tokenizer.encode(texts, limit=limit)
        return fill_up(tokens, expansion.length, self._filler(expansion), attend=expansion.attend)

    def _filler(self, expansion: QueryExpansion) -> int:
        """Return the id that queries are filled up with. Raise ConfigError if the expansion does not fit the model."""
        token, most = expansion.token or self.tokenizer.mask_token, self.model.config.max_position_embeddings
        if (number := self.tokenizer._backend.token_to_id(token)) is None:
            raise ConfigError(f"query_expansion: the vocabulary has no token {token!r:.80}")
        if not (self.query_length or expansion.length) >= expansion.length <= most:
            text = (
                f"length {expansion.length} is above query_length {self.query_length} or the model's positions, {most}"
            )
            raise ConfigError(f"query_expansion: {text}")
        return int(number)

    def _project(self, output: EncoderOutput) -> Tensor:
        """Return the vectors (B, S, D) of all tokens."""
        x = output.last_hidden_state
        vectors: Tensor = self.head(x.to(torch.promote_types(x.dtype, torch.float32)))
        return vectors

    def _read(self, output: EncoderOutput, mask: Tensor | None, prompt_length: int, **reading: Any) -> Any:
        vectors = self._project(output)
        return vectors, vectors

    def _readers(self) -> list[nn.Module]:
        return list(self.head) or [nn.Identity()]
