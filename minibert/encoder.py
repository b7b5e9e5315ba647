"""SentenceEncoder: text in, vectors out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import prompts
from .checkpoint.hub import DEFAULT_MODEL, open_files
from .checkpoint.load import find_device
from .checkpoint.report import LoadReport
from .checkpoint.sentence_transformers import SentenceModules, check_writable, read_modules, vector_width, write_modules
from .config import ConfigError
from .display import progress_bar
from .encoding import EncodeCall, ask, cut, deliver, evaluating, padded, windows
from .fast.loading import load_prepared
from .fast.workers import workers_for
from .model import Bert
from .pooling import Pooling
from .tokenizer import Tokenizer, Tokens
from .truncation import TruncationReport, announce, check_mode
from .vectors import PRECISIONS, SIMILARITIES, Vectors, similarity, similarity_pairwise

OUTPUTS = ("sentence_embedding", "token_embeddings", None)


class SentenceEncoder(nn.Module):
    """A Bert, its tokenizer, a pooling and what follows it. As a module: a batch of ids (B, S) -> vectors (B, D)

    `encode` may be called from several threads at once. A part of `model` that you replace by assignment stays
    replaced: `encode` runs that very model. On the CPU the batches of a large call are computed side by side, each in
    a thread of its own (`inference.workers`); where a part has a hook, one after another in the caller's.
    """

    def __init__(
        self,
        model: Bert | str | os.PathLike[str],
        tokenizer: Tokenizer | None = None,
        modules: SentenceModules | None = None,
        *,
        truncation: str = "warn",
        **options: Any,
    ) -> None:
        """Put an encoder together from its parts; or load one by its name, with the options of `from_pretrained`.

        Without ``modules``: mean pooling and nothing after it, so the vectors are not of length 1.

        Raises:
            ConfigError: the parts do not fit each other. ValueError: the truncation mode is unknown.
            TypeError: there is a Bert without a Tokenizer, or an unknown keyword.
        """
        super().__init__()
        if not isinstance(model, Bert):  # a name, as SentenceTransformer("name") takes it
            self.__dict__.update(type(self).from_pretrained(model, truncation=truncation, **options).__dict__)
            return
        if not isinstance(tokenizer, Tokenizer) or options:
            raise TypeError(f"a Bert needs a Tokenizer, and takes no {', '.join(options) or type(tokenizer).__name__}")
        settings = modules or SentenceModules()
        tokenizer.check_fits(model.config.vocab_size)
        self.model = model
        self.pooling, *head = settings.after or [Pooling("mean")]
        self.head = nn.Sequential(*head)
        self.tokenizer = tokenizer
        self.prompts = settings.prompts
        self.default_prompt_name = settings.default_prompt_name
        self.similarity_fn_name = settings.similarity_fn_name
        self.truncate_dim = settings.truncate_dim
        self.truncation = check_mode(truncation)
        self.truncation_report = TruncationReport()  # of the latest call of encode
        self.report: LoadReport | None = None
        self._do_lower_case = settings.do_lower_case
        self.max_seq_length = settings.max_seq_length or tokenizer.max_length or model.config.max_position_embeddings
        if self.similarity_fn_name not in SIMILARITIES:
            raise ConfigError(
                f"similarity_fn_name must be one of {', '.join(SIMILARITIES)}, not {self.similarity_fn_name!r}"
            )
        self._width()

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str] = DEFAULT_MODEL,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        refresh: bool = False,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        pooling: str | list[str] | None = None,
        truncation: str = "warn",
        prepared: bool = True,
    ) -> SentenceEncoder:
        """Load a checkpoint with its tokenizer, its pooling and all that modules.json names.

        Args:
            name, revision, token, cache_dir, local_files_only, refresh: see ``hub.open_files``.
            device: None: a GPU (cuda, mps) if there is one, otherwise the CPU.
            dtype: float32, float64, bfloat16, float16, int8. On a prepared CPU bfloat16 and int8 are what the linear
                layers compute in, with the errors that docs/speed.md states. Pooling is in float32 at least.
            pooling: cls, mean, max, mean_sqrt_len_tokens, weightedmean, lasttoken, or several in a list, in place of
                the checkpoint's own; what comes after the pooling stays.
            truncation: What becomes of text that is too long: "warn" (cut, with one warning a call), "report" (cut,
                see ``truncation_report``), "silent", or "error" (refused).
            prepared: Let torch's fused kernels compute the page's formulas (``inference.prepare``, which
                ``inference.prepare.restore(encoder)`` undoes). False: the page itself.

        Returns:
            SentenceEncoder: in eval mode; ``report`` says what became of every tensor, and which default was taken.

        Raises:
            HubError: the model can't be had.
            ConfigError, CheckpointError: it is damaged, or not what minibert computes.
        """
        check_mode(truncation)
        files = open_files(
            name,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            refresh=refresh,
        )
        modules = read_modules(files)
        inner = files.below(modules.transformer)
        if pooling is not None:
            before = modules.after[0]
            modules.after[0] = Pooling(pooling, before.include_prompt if isinstance(before, Pooling) else True)
            modules.notes = [f"pooling {pooling!r} was asked for in place of the checkpoint's"]
        place = find_device(device)
        model, arithmetic = load_prepared(inner, into=Bert, device=place, dtype=dtype, prepared=prepared)
        tokenizer = Tokenizer.from_files(inner, lowercase_first=modules.do_lower_case)
        encoder = cls(model, tokenizer, modules, truncation=truncation)
        computed = [f"the linear layers compute in {arithmetic}"] if arithmetic != "float32" else []
        encoder.report = model.report.with_notes(*modules.notes, *computed)
        if next(model.parameters()).dtype == torch.float64:
            encoder.double()
        return encoder.to(place).eval()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        prompt_length: int = 0,
    ) -> Tensor:
        """Sentence vectors, with gradients where they are on. (B, S) ids, mask, types -> (B, D)"""
        return self._embed(input_ids, attention_mask, token_type_ids, prompt_length)[1]

    def encode(
        self,
        sentences: str | Iterable[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        truncation: str | None = None,
        batch_invariant: bool = False,
    ) -> Any:
        """Text -> vectors, in the order given.

        Args:
            sentences: One string, or any iterable of strings.
            prompt_name, prompt: Put this in front of each text: a prompt of the checkpoint by its name, or the words
                themselves. None: the checkpoint's default prompt, where it has one.
            batch_size: Texts a batch, at most. None: as many as are fast; batches are cut by tokens, not by texts.
            show_progress_bar: On stderr. None: no.
            output_value: "sentence_embedding"; "token_embeddings": a tensor (tokens, D) per text, without padding;
                None: a dict per text of all that was computed.
            precision: float32, or fewer bytes: int8, uint8, binary, ubinary (``precision.quantize_embeddings``).
            convert_to_numpy: numpy arrays, the default; False: a list of tensors (of arrays with a ``precision``).
            convert_to_tensor: One tensor, on the encoder's device.
            normalize_embeddings: To length 1, after ``truncate_dim``.
            truncate_dim: Keep the first so many dimensions (for models trained so: Matryoshka, arXiv 2205.13147).
            truncation: As in ``from_pretrained``, for this call; the figures stay in ``truncation_report``.
            batch_invariant: The same bits for a text alone, among others, in any order (on one machine, with one
                number of threads): each text is computed by itself, on one worker's cores, which takes longer.

        Returns:
            For n strings (n, D), for one string (D,), for none (0, D); float32, from a float64 model float64.

        Raises:
            TypeError: a text is no string (its index is said), or a keyword is unknown.
            ValueError: another value is wrong. TooLongError (a ValueError): see ``truncation``.
        """
        mode = check_mode(truncation or self.truncation)
        if output_value not in OUTPUTS:
            raise ValueError(f"output_value must be one of {OUTPUTS}, not {output_value!r}")
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        keep = self._kept_dimensions(truncate_dim)
        words = prompts.choose(self.prompts, prompt, prompt_name, self.default_prompt_name)
        tokens = self._tokens(sentences, words)
        self.truncation_report = tokens.truncation
        announce(tokens.truncation, mode)
        device, prompt_length = self.device, self._prompt_tokens(words)
        single = isinstance(sentences, str)
        with progress_bar(len(tokens.lengths), "texts", bool(show_progress_bar)) as bar, evaluating(self) as quiet:
            workers = workers_for(device, watched=quiet is None)
            first_only = prompt_length == 0 and getattr(self.pooling, "modes", None) == ("cls",)
            many = len(tokens.lengths) > 1
            asked = ask(quiet, self.model, self.pooling, many=many, first_only=first_only, pooled=False)
            call = EncodeCall(
                tokens,
                batch=partial(padded, self.tokenizer, tokens, device),
                embed=partial(self._embed, prompt_length=prompt_length),
                keep=keep,
                normalize=normalize_embeddings,
                workers=workers,
                batch_invariant=batch_invariant,
                asked=asked,
            )
            batches = cut(
                tokens.lengths,
                self.model.config,
                max_texts=batch_size,
                workers=workers,
                on_cpu=device.type == "cpu",
                alone=batch_invariant,
                real_only=asked.real_only and output_value == "sentence_embedding",
            )
            if output_value != "sentence_embedding":
                parts = call.parts(batches, bar.update, everything=output_value is None)
                return parts[0] if single else parts
            place = device if convert_to_tensor else "cpu"
            result = call.sentences(batches, bar.update, partial(self._no_vectors, keep), place)
        return deliver(result, precision, as_numpy=convert_to_numpy, as_tensor=convert_to_tensor, single=single)

    def encode_stream(self, sentences: Iterable[str], *, window: int = 8192, **options: Any) -> Iterator[Any]:
        """As `encode`, of texts that need not fit in memory: the vectors of so many texts at a time, in their order.

        Batches are cut within a window. Errors and ``truncation_report`` count texts from the window's first.
        """
        for texts in windows(sentences, window):
            yield self.encode(texts, **options)

    def encode_query(self, sentences: str | Iterable[str], **options: Any) -> Any:
        """As `encode`, with the checkpoint's prompt for queries if it has one, and otherwise without any."""
        return self.encode(sentences, **prompts.with_own(options, self.prompts, prompts.QUERY))

    def encode_document(self, sentences: str | Iterable[str], **options: Any) -> Any:
        """As `encode`, with the checkpoint's prompt for documents (passages) if it has one, otherwise without any."""
        return self.encode(sentences, **prompts.with_own(options, self.prompts, prompts.DOCUMENT))

    def similarity(self, a: Vectors, b: Vectors) -> Tensor:
        """How alike, by the checkpoint's measure (`similarity_fn_name`), as a tensor. a (n, D), b (m, D) -> (n, m)"""
        return similarity(a, b, self.similarity_fn_name)

    def similarity_pairwise(self, a: Vectors, b: Vectors) -> Tensor:
        """How alike, pair by pair, as a tensor. a (n, D), b (n, D) -> (n,)"""
        return similarity_pairwise(a, b, self.similarity_fn_name)

    def tokenize(self, texts: str | Iterable[str]) -> dict[str, Tensor]:
        """What `forward` takes, padded and cut: `input_ids`, `token_type_ids`, `attention_mask`, each (n, S)."""
        tokens = self._tokens(texts, "")
        announce(tokens.truncation, self.truncation)
        return padded(self.tokenizer, tokens, self.device, range(len(tokens.lengths)))

    def get_sentence_embedding_dimension(self) -> int:
        """D, the width of the vectors that `encode` gives."""
        return self._no_vectors(self.truncate_dim).shape[1]

    @property
    def max_seq_length(self) -> int:
        """Longer text is cut: tokens, with [CLS] and [SEP]. Never more than the model has positions."""
        return self._max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        if not isinstance(length, int) or isinstance(length, bool) or length < 1:
            raise ValueError(f"max_seq_length must be a whole number of tokens, at least 1, not {length!r}")
        self._max_seq_length = min(length, self.model.config.max_position_embeddings)

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return next(self.parameters()).device

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write a folder that sentence-transformers and transformers load to the same vectors.

        Raises:
            CheckpointError, ConfigError: a part is none that they have (it is named); nothing is written.
            OSError: the folder can't be written.
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
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        write_modules(settings, self.model.config.hidden_size, Path(folder))

    def _embed(
        self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None, prompt_length: int
    ) -> tuple[Tensor, Tensor]:
        """Token vectors (B, S, D) and sentence vectors (B, D)."""
        x = self.model(input_ids, attention_mask, token_type_ids).last_hidden_state
        x = x.to(torch.promote_types(x.dtype, torch.float32))  # averages lose too much in half precision
        mask = None if attention_mask is None else attention_mask.bool()
        if mask is None and type(self.pooling) is not Pooling:  # one of somebody's own
            mask = x.new_ones(x.shape[:2], dtype=torch.bool)
        return x, self.head(self.pooling(x, mask, prompt_length))

    def _no_vectors(self, keep: int | None) -> Tensor:
        """The vectors of no texts, (0, D), of which the first ``keep`` dimensions are kept."""
        dtype = torch.promote_types(next(self.parameters()).dtype, torch.float32)
        return torch.empty(0, self._width(), dtype=dtype)[:, :keep]

    def _tokens(self, texts: str | Iterable[str], prompt: str) -> Tokens:
        single = isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable)
        many: list[Any] = [texts] if single else list(texts)
        if prompt:
            many = [prompt + text if isinstance(text, str) else text for text in many]
        return self.tokenizer.encode(many, limit=self.max_seq_length)

    def _width(self) -> int:
        """Numbers in a vector, before any are cut."""
        return vector_width(self.model.config.hidden_size, self.pooling, self.head)

    def _kept_dimensions(self, truncate_dim: int | None) -> int | None:
        keep = self.truncate_dim if truncate_dim is None else truncate_dim
        if keep is not None and keep < 1:
            raise ValueError(f"truncate_dim must be at least 1, not {keep}")
        return keep

    def _prompt_tokens(self, prompt: str) -> int:
        """Tokens that a prompt takes at the beginning of each text: [CLS] and its own, not the [SEP] at its end."""
        included = not isinstance(self.pooling, Pooling) or self.pooling.include_prompt
        return 0 if not prompt or included else len(self.tokenizer.encode([prompt]).ids) - 1
