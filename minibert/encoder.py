"""SentenceEncoder: text in, vectors out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch
from torch import Tensor, nn

from .arithmetic import choose
from .call import CallOptions, EncodeOptions, as_list, in_windows
from .checkpoint.hub import DEFAULT_MODEL, open_files
from .checkpoint.kinds import check_kind
from .checkpoint.load import find_device, load_files
from .checkpoint.save import replacing_model
from .checkpoint.sentence_transformers import SentenceModules, check_writable, read_modules, vector_width, write_modules
from .config import check_count, named
from .drop_in import LoadOptions, SentenceTransformersCalls, loading, put_settings, takes_features, takes_their_calls
from .model import Bert, EncoderOutput
from .pooling import Pooling, normalize
from .settings import Checked, count_or_none, one_of
from .text_model import DOCUMENT, QUERY
from .tokenizer import Tokenizer, Tokens
from .truncation import check_mode
from .vectors import SIMILARITIES, Vectors, check_precision, deliver, similarity, similarity_pairwise

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

OUTPUTS = ("sentence_embedding", "token_embeddings", None)


class SentenceEncoder(SentenceTransformersCalls):
    """A Bert, its tokenizer, a pooling and what follows it. As a module: a batch of ids (B, S) -> vectors (B, D)

    `encode` may be called from several threads at once. It uses the very model that you see, with any part that you
    replaced, and `explain` says how. Batches of a large call run side by side on the CPU, each in its own thread;
    where a part has a hook, they run one after another in the caller's.
    """

    similarity_fn_name, truncate_dim = Checked(one_of(SIMILARITIES)), Checked(count_or_none)

    def __init__(
        self,
        model: Bert | str | os.PathLike[str] | None = None,
        tokenizer: Tokenizer | None = None,
        modules: SentenceModules | None = None,
        *,
        truncation: str = "warn",
        **options: Any,
    ) -> None:
        """Put an encoder together from its parts, or load one by its name with the options of `from_pretrained`.

        Without ``modules``: mean pooling and nothing after it. All are in the mode of the model, training or not.

        Raises:
            ConfigError: the parts do not fit each other. ValueError: the truncation mode is unknown.
            TypeError: a Bert without a Tokenizer, or an unknown keyword.
        """
        if not isinstance(model, Bert):  # a name, as SentenceTransformer("name") takes it
            model = options.pop("model_name_or_path", None) if model is None else model
            if model is None or tokenizer is not None or modules is not None:
                raise TypeError("give a Bert and a Tokenizer, or a name, which brings its own tokenizer and modules")
            nn.Module.__init__(self)
            self.__dict__.update(type(self).from_pretrained(model, truncation=truncation, **options).__dict__)
            return
        if not isinstance(tokenizer, Tokenizer) or options:
            raise TypeError(f"a Bert needs a Tokenizer, and takes no {', '.join(options) or type(tokenizer).__name__}")
        settings = modules or SentenceModules()
        super().__init__(model, tokenizer, settings, truncation)
        self.pooling, *head = settings.after or [Pooling("mean")]
        self.head = nn.Sequential(*head)
        for part in (self.pooling, self.head):  # otherwise every call would find parts in training mode
            part.train(model.training)
        with named(settings.source):
            self.similarity_fn_name, self.truncate_dim = settings.similarity_fn_name, settings.truncate_dim
        self._no_vectors(None)  # raises where their widths differ

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str] = DEFAULT_MODEL,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        pooling: str | list[str] | None = None,
        truncation: str = "warn",
        fast: bool | None = None,
        compiled: bool | None = None,
        **options: Unpack[LoadOptions],
    ) -> Self:
        """Load a checkpoint, its tokenizer and its modules, in eval mode; ``report`` accounts for every tensor.

        Args:
            name: A folder, a hub id, or nothing for the model inside the package.
            device: None: a GPU (cuda, mps) if there is one, otherwise the CPU.
            dtype: float32, float64, bfloat16, float16, int8. On the CPU, bfloat16 and int8 are what the stack's
                products are computed in, with the errors that docs/speed.md states.
            pooling: A name of `pooling.POOLINGS`, or several in a list, instead of the checkpoint's own.
            truncation: For text that is too long: "warn" (truncate, one warning a call), "report" (truncate, see
                ``truncation_report``), "silent", or "error" (refuse).
            fast: None: the stack computes where it can. False: the page. True: the stack, or an error says why not.
            compiled: The machine code of a folder that `compile` wrote. None: if it was compiled by you and on this
                machine; otherwise it could do anything. True: whoever compiled it. False: never.
            options: See ``HubOptions`` and ``LoadOptions``.

        Raises:
            HubError: the model can't be had.
            ConfigError, CheckpointError: it is damaged, or minibert does not compute it.
        """
        check_mode(truncation)
        dtype, settings, hub = loading(cls, dtype, options, "max_active_dims")
        files = open_files(name, **hub)
        if pooling is None:  # otherwise a classifier's Bert is pooled as asked
            check_kind(files, "SentenceEncoder")
        modules = read_modules(files)
        put_settings(modules, settings)
        if pooling is not None:
            before = modules.after[0]
            modules.after[0] = Pooling(pooling, before.include_prompt if isinstance(before, Pooling) else True)
            modules.notes = [f"pooling {pooling!r} was asked for in place of the checkpoint's"]
        inner, place = files.below(modules.transformer), find_device(device)
        dtype, arithmetic = choose(dtype, place, fast=fast is not False)
        model = load_files(inner, into=Bert, dtype=dtype)
        tokenizer = Tokenizer.from_files(inner, lowercase_first=modules.do_lower_case)
        with named(files.name):
            encoder = cls(model, tokenizer, modules, truncation=truncation)
        return encoder._prepare(files, modules.transformer, place, arithmetic, fast, compiled, modules.notes)

    @takes_features
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        prompt_length: int = 0,
    ) -> Tensor:
        """Compute sentence vectors by the page, with gradients where they are on. (B, S) ids, mask, types -> (B, D)"""
        output = self.model(input_ids, attention_mask, token_type_ids)
        return self._pool(output, None if attention_mask is None else attention_mask.bool(), prompt_length)[1]

    @overload  # a str is an Iterable[str] too: the first signature that fits counts
    def encode(  # type: ignore[overload-overlap]
        self, sentences: str, *, output_value: Literal["token_embeddings"], **options: Unpack[EncodeOptions]
    ) -> Tensor: ...
    @overload
    def encode(
        self, sentences: Iterable[str], *, output_value: Literal["token_embeddings"], **options: Unpack[EncodeOptions]
    ) -> list[Tensor]: ...
    @overload
    def encode(
        self, sentences: str | Iterable[str], *, convert_to_tensor: Literal[True], **options: Unpack[EncodeOptions]
    ) -> Tensor: ...
    @overload
    def encode(self, sentences: str | Iterable[str], **options: Unpack[EncodeOptions]) -> np.ndarray: ...
    @overload
    def encode(
        self,
        sentences: str | Iterable[str],
        *,
        output_value: str | None = ...,
        convert_to_numpy: bool = ...,
        convert_to_tensor: bool = ...,
        **options: Unpack[EncodeOptions],
    ) -> Any: ...

    @takes_their_calls()
    def encode(
        self,
        sentences: str | Iterable[str],
        *,
        output_value: str | None = "sentence_embedding",
        precision: str = "float32",
        ranges: np.ndarray | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        **options: Unpack[CallOptions],
    ) -> Any:
        """Turn text into vectors, in the order given.

        Args:
            sentences: One string, or any iterable of strings.
            output_value: "sentence_embedding"; "token_embeddings": a tensor (tokens, D) per text, without padding;
                None: a dict per text of everything computed.
            convert_to_numpy: numpy arrays, the default. False: a list of tensors.
            convert_to_tensor: One tensor, on the encoder's device.
            options: See ``EncodeOptions`` (precision, lengths) and ``CallOptions`` (prompts, truncation, batches).

        Returns:
            For n strings (n, D), for one string (D,), for none (0, D); float32, from a float64 model float64.

        Raises:
            TypeError: a text is not a string (its index is given), or a keyword is unknown.
            ValueError: another value is wrong. TooLongError (a ValueError): see ``truncation``.
        """
        if output_value not in OUTPUTS:
            raise ValueError(f"output_value must be one of {OUTPUTS}, not {output_value!r}")
        precision = precision or "float32"  # sentence-transformers' evaluators give None
        check_precision(precision, ranges)
        per_token = output_value != "sentence_embedding"
        if per_token and precision != "float32":
            raise ValueError(f"precision={precision!r} is for sentence vectors, not for output_value={output_value!r}")
        single, keep = isinstance(sentences, str), self.truncate_dim if truncate_dim is None else truncate_dim
        check_count("truncate_dim", keep, optional=True)
        reading, device = {"keep": keep, "normalize": normalize_embeddings}, self.device if convert_to_tensor else "cpu"
        tokens, results = self._run(as_list(sentences), None, reading, device, per_token, **options)
        if per_token:
            pairs = enumerate(results or [])
            parts = [self._all_of(tokens, i, x, y) if output_value is None else x for i, (x, y) in pairs]
            return parts[0] if single else parts
        results = self._no_vectors(keep) if results is None else results
        return deliver(results, precision, ranges, convert_to_numpy, convert_to_tensor, single=single)

    def encode_stream(self, sentences: Iterable[str], *, window: int = 8192, **options: Any) -> Iterator[Any]:
        """Yield the vectors of a window of texts at a time, in their order, for texts that need not fit in memory.

        Errors and ``truncation_report`` count texts from the window's first. Without ``ranges``, int8 and uint8 take
        those of the first window for all. Raises as `encode`.
        """
        yield from in_windows(self.encode, sentences, window, options)

    @takes_their_calls()
    def encode_query(self, sentences: str | Iterable[str], **options: Any) -> Any:
        """Encode with the checkpoint's prompt for queries if it has one, and otherwise without a prompt."""
        return self.encode(sentences, **self._prompt_for(QUERY, options))

    @takes_their_calls()
    def encode_document(self, sentences: str | Iterable[str], **options: Any) -> Any:
        """Encode with the checkpoint's prompt for documents (passages) if it has one, otherwise without a prompt."""
        return self.encode(sentences, **self._prompt_for(DOCUMENT, options))

    def similarity(self, a: Vectors, b: Vectors) -> Tensor:
        """Compare all vectors by the checkpoint's measure (`similarity_fn_name`). a (n, D), b (m, D) -> (n, m)"""
        return similarity(a, b, self.similarity_fn_name)

    def similarity_pairwise(self, a: Vectors, b: Vectors) -> Tensor:
        """Compare vectors pair by pair. a (n, D), b (n, D) -> (n,)"""
        return similarity_pairwise(a, b, self.similarity_fn_name)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write a folder that sentence-transformers and transformers load to the same vectors.

        Raises:
            CheckpointError, ConfigError: a part has no published form. OSError: the folder can't be written, and stays.
        """
        settings = SentenceModules(
            after=[self.pooling, *self.head],
            max_seq_length=self.max_seq_length,
            do_lower_case=self._do_lower_case,
            prompts=self.prompts,
            default_prompt_name=self.default_prompt_name,
            similarity_fn_name=self.similarity_fn_name,
            truncate_dim=self.truncate_dim,
        )
        check_writable(settings.after)
        with replacing_model(folder) as new:
            self.model.save_pretrained(new)
            self.tokenizer.save_pretrained(new, self.max_seq_length)
            write_modules(settings, self.model.config.hidden_size, new)

    def _pool(self, output: EncoderOutput, mask: Tensor | None, prompt_length: int) -> tuple[Tensor, Tensor]:
        """Return token vectors (B, S, D) and sentence vectors (B, D)."""
        x = output.last_hidden_state
        if x.dtype is not torch.float32:
            x = x.to(torch.promote_types(x.dtype, torch.float32))  # averages lose too much in half precision
        if mask is None and type(self.pooling) is not Pooling:  # one of the user's own
            mask = x.new_ones(x.shape[:2], dtype=torch.bool)
        return x, self.head(self.pooling(x, mask, prompt_length))

    def _read(
        self, output: EncoderOutput, mask: Tensor | None, prompt_length: int, **reading: Any
    ) -> tuple[Any, Tensor]:
        x, vectors = self._pool(output, mask, prompt_length)
        vectors = vectors[:, : reading["keep"]]
        return x, normalize(vectors) if reading["normalize"] else vectors

    def _readers(self) -> list[nn.Module]:
        return [self.pooling]

    def _all_of(self, tokens: Tokens, i: int, x: Tensor, vector: Tensor) -> dict[str, Tensor]:
        """Return everything that was computed for a text, by the names of sentence-transformers."""
        batch = {name: value[0] for name, value in self._pad(tokens, [i]).items()}
        return {**batch, "token_embeddings": x, "sentence_embedding": vector}

    def _no_vectors(self, keep: int | None) -> Tensor:
        """Return the vectors of no texts, (0, D), cut to the first ``keep`` dimensions."""
        dtype = torch.promote_types(next(self.parameters()).dtype, torch.float32)
        width = vector_width(self.model.config.hidden_size, self.pooling, self.head)
        return torch.empty(0, width, dtype=dtype)[:, :keep]

    def _prompt_tokens(self, prompt: str) -> int:
        """Count them with [CLS] and without [SEP]; none where the pooling reads them too."""
        included = not isinstance(self.pooling, Pooling) or self.pooling.include_prompt
        return 0 if included else min(len(self.tokenizer.encode([prompt]).ids), self.max_seq_length) - 1
