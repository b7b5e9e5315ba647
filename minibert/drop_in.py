"""The calls of sentence-transformers, for scripts that were written for it: docs/from-sentence-transformers.md.

Keywords and their order are translated into minibert's. Nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from inspect import signature
from typing import Any, TypeVar, cast

import numpy as np
from torch import nn

from .call import as_list, check_texts
from .checkpoint.hub import HubOptions
from .checkpoint.load import find_device
from .checkpoint.sentence_transformers import SentenceModules
from .config import USUAL_PROMPTS, check_count
from .model_calls import ELSEWHERE, ModelCalls
from .processes import WorkerPool, in_processes
from .settings import check_prompts
from .text_model import TextModel
from .truncation import announce

Method = TypeVar("Method", bound=Callable[..., Any])

# What may follow the texts without a keyword, in this order.
BOTH = "prompt_name", "prompt", "batch_size", "show_progress_bar"
FORM = "convert_to_numpy", "convert_to_tensor", "device"
ENCODE = (*BOTH, "output_value", "precision", *FORM, "normalize_embeddings", "truncate_dim", "pool", "chunk_size")
PREDICT = (*BOTH, "activation_fn", "apply_softmax", *FORM, "pool", "chunk_size")
POOLED = "prompt_name", "prompt", "batch_size", "chunk_size", "show_progress_bar", "precision", *ENCODE[-4:-2]
OTHERS = {"sentences", "inputs", "device", "pool", "chunk_size", "num_workers", "activation_fct"}
SETTINGS = "prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim", "max_active_dims"
ATTENTIONS = None, "eager", "sdpa", "flash_attention_2", "flex_attention"  # the same numbers


class SentenceTransformersCalls(ModelCalls):
    """What sentence-transformers calls on a sentence encoder, besides `encode`."""

    def get_embedding_dimension(self) -> int:
        """Return D, the width of the vectors that `encode` gives."""
        own: Any = self
        return int(own._no_vectors(own.truncate_dim).shape[1])

    get_sentence_embedding_dimension = get_embedding_dimension

    def encode_multi_process(
        self, sentences: Sequence[str], pool: WorkerPool, *arguments: Any, **options: Any
    ) -> np.ndarray:
        """Return ``encode(sentences, ..., pool=pool)``. By position it takes options in the order of ``POOLED``."""
        if len(arguments) > len(POOLED):
            raise TypeError(f"encode_multi_process takes {', '.join(POOLED)} by position, and got {len(arguments)}")
        vectors: np.ndarray = cast(Any, self).encode(
            sentences, pool=pool, **dict(zip(POOLED, arguments, strict=False)), **options
        )
        return vectors

    def tokenize(self, texts: str | Iterable[str], prompt: str | None = None) -> dict[str, Any]:
        """Return what `forward` takes: `input_ids`, `token_type_ids`, `attention_mask`, padded, (n, S) each.

        ``prompt`` is put before each text. `prompt_length` counts its tokens, where the pooling leaves them out.
        """
        texts = as_list(texts)
        check_texts(texts)
        tokens = self.tokenizer.encode([(prompt or "") + text for text in texts], limit=self.max_seq_length)
        announce(tokens.truncation, self.truncation)
        length = self._prompt_tokens(prompt) if prompt else 0
        return {**self._pad(tokens, range(len(tokens.lengths))), **({"prompt_length": length} if length else {})}

    def preprocess(self, inputs: str | Iterable[str], prompt: str | None = None) -> dict[str, Any]:
        """Return what `tokenize` returns."""
        return self.tokenize(inputs, prompt)

    def set_pooling_include_prompt(self, include_prompt: bool) -> None:
        """Let the pooling read a prompt's tokens, or not."""
        cast(Any, self).pooling.include_prompt = include_prompt

    @contextmanager
    def truncate_sentence_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """Let `encode` keep the first so many dimensions, inside a with statement."""
        check_count("truncate_dim", truncate_dim, optional=True)
        own: Any = self
        before, own.truncate_dim = own.truncate_dim, truncate_dim
        try:
            yield
        finally:
            own.truncate_dim = before

    truncate_embeddings = truncate_sentence_embeddings

    def __getitem__(self, place: int) -> nn.Module:
        """Return the Bert (0), the pooling (1), or a module that follows it."""
        own: Any = self
        return [self.model, own.pooling, *own.head][place]

    def __len__(self) -> int:
        return 2 + len(cast(Any, self).head)

    def _first_module(self) -> nn.Module:
        return self[0]

    def _last_module(self) -> nn.Module:
        return self[-1]


class LoadOptions(HubOptions, total=False):
    """The keywords of an encoder's `from_pretrained` that sentence-transformers has, too.

    Keys:
        cache_folder: As ``cache_dir``.
        trust_remote_code: Accepted, and never obeyed: a checkpoint that needs its own code is refused.
        model_kwargs: {"dtype": ...} or {"torch_dtype": ...}, as ``dtype``. "attn_implementation" changes nothing.
        backend: "torch".
        prompts, default_prompt_name, similarity_fn_name, truncate_dim, max_active_dims: In place of the checkpoint's
            own. The last is of SparseEncoder alone, which lacks the one before.
    """

    cache_folder: str | None
    trust_remote_code: bool
    model_kwargs: Mapping[str, Any] | None
    backend: str
    prompts: Mapping[str, str] | None
    default_prompt_name: str | None
    similarity_fn_name: str | None
    truncate_dim: int | None
    max_active_dims: int | None


def loading(
    kind: type[TextModel], dtype: Any, options: Mapping[str, Any], *lacking: str
) -> tuple[Any, dict[str, Any], HubOptions]:
    """Return the dtype, the settings that take the place of the checkpoint's, and the hub's options.

    ``lacking`` are settings that this kind of encoder does not have.

    Raises:
        TypeError: a keyword has no place in minibert. ValueError: a value is wrong.
    """
    hub = {name: value for name, value in options.items() if name != "trust_remote_code"}
    if hub.pop("backend", "torch") != "torch":
        raise ValueError("backend must be 'torch'; for speed see dtype='int8', and minibert compile")
    if (folder := hub.pop("cache_folder", None)) is not None:
        hub["cache_dir"] = folder
    if not isinstance(given := hub.pop("model_kwargs", None) or {}, Mapping):
        raise TypeError(f'model_kwargs must be a dict, as {{"dtype": "bfloat16"}}, not {given!r:.80}')
    model = dict(given)
    chosen = [model.pop(name) for name in ("dtype", "torch_dtype") if name in model]
    if model.pop("attn_implementation", None) not in ATTENTIONS or model:
        raise TypeError(
            f"model_kwargs may have dtype and attn_implementation, not {', '.join(model) or 'this attention'}"
        )
    if chosen and dtype is None:
        dtype = None if chosen[0] == "auto" else chosen[0]
    advice = getattr(kind, "elsewhere", ELSEWHERE)
    hub = {name: value for name, value in hub.items() if name not in advice or value not in (None, {}, [])}
    if odd := sorted(hub.keys() & advice.keys()):
        raise TypeError(f"{kind.__name__} takes no {odd[0]}: {advice[odd[0]]}")
    settings = {name: value for name in SETTINGS if name not in lacking and (value := hub.pop(name, None)) is not None}
    if unknown := sorted(hub.keys() - HubOptions.__optional_keys__):
        own = {*signature(cast(Any, kind).from_pretrained).parameters, *LoadOptions.__optional_keys__} - {*lacking}
        names = ", ".join(sorted(own - {"name", "options"}))
        raise TypeError(f"{kind.__name__} got an unexpected keyword: {', '.join(unknown)}; there are {names}")
    return dtype, settings, cast(HubOptions, hub)


def put_settings(modules: SentenceModules, settings: Mapping[str, Any]) -> None:
    """Put settings in the place of a checkpoint's. Raise ValueError if one is wrong."""
    for name in ("truncate_dim", "max_active_dims"):
        check_count(name, settings.get(name), optional=True)
    if "prompts" in settings:
        check_prompts("prompts", settings["prompts"])
    for name, value in settings.items():
        setattr(modules, name, getattr(value, "value", value))  # of an enumeration of measures
        modules.notes.append(f"{name} was given in place of the checkpoint's")
    if modules.default_prompt_name not in [None, *modules.prompts, *USUAL_PROMPTS]:
        raise ValueError(f"default_prompt_name {modules.default_prompt_name!r} is not one of the prompts")
    if "similarity_fn_name" in settings:
        modules.source = "similarity_fn_name"


def takes_their_calls(*positions: str) -> Callable[[Method], Method]:
    """Let a method take its texts by two names, a device, and keywords by position: `encode`'s, or these."""
    positions = positions or ENCODE

    def change(method: Method) -> Method:
        @wraps(method)
        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            if len(arguments) == 1 and OTHERS.isdisjoint(options):
                return method(self, arguments[0], **options)
            options = up_to_date(options) if "activation_fn" in positions else options
            texts, options = _named(method.__name__, positions, arguments, options)
            device = options.pop("device", None)
            pool, size = (options.pop(name, None) if "pool" in positions else None for name in ("pool", "chunk_size"))
            check_count("chunk_size", size, optional=True)
            if pool is not None:
                return in_processes(self, method, texts, pool, size, options)
            if isinstance(device, (list, tuple)) and "pool" in positions:
                with WorkerPool(self, device) as own:
                    return in_processes(self, method, texts, own, size, options)
            if device is not None:
                self.to(find_device(device))
            return method(self, texts, **options)

        return cast(Method, call)

    return change


def takes_features(forward: Method) -> Method:
    """Let `forward` take the dict of `tokenize`: it is returned with `token_embeddings` and `sentence_embedding`."""

    @wraps(forward)
    def call(self: Any, input_ids: Any, *arguments: Any, **options: Any) -> Any:
        if not isinstance(input_ids, Mapping):
            return forward(self, input_ids, *arguments, **options)
        if arguments or options:
            raise TypeError("a dict of features holds the mask and the token types: give nothing beside it")
        ids, mask, types = (input_ids.get(name) for name in ("input_ids", "attention_mask", "token_type_ids"))
        output = self.model(ids, mask, types)
        states, vectors = self._pool(output, None if mask is None else mask.bool(), input_ids.get("prompt_length", 0))
        return {**input_ids, "token_embeddings": states, "sentence_embedding": vectors}

    return cast(Method, call)


def up_to_date(options: Mapping[str, Any], *without: str) -> dict[str, Any]:
    """Give an old keyword of CrossEncoder its new name, and leave out those that have no effect there any more."""
    kept = {name: value for name, value in options.items() if name not in ("num_workers", "activation_fct", *without)}
    if "activation_fct" in options and kept.get("activation_fn") is None:
        kept["activation_fn"] = options["activation_fct"]
    return kept


def _named(
    method: str, positions: tuple[str, ...], arguments: tuple[Any, ...], options: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Give each value its name, and return the texts apart. Raise TypeError where one is missing or given twice."""
    names = [name for name in ("sentences", "inputs") if name in options]
    if len(arguments[:1]) + len(names) != 1:
        raise TypeError(f"{method} needs texts, once: as the first argument, as sentences=, or as inputs=")
    rest = arguments[1:]
    if len(rest) > len(positions):
        raise TypeError(f"{method} takes {len(positions) + 1} arguments without a keyword, not {len(arguments)}")
    texts = arguments[0] if arguments else options[names[0]]
    given = dict(zip(positions, rest, strict=False))
    if twice := given.keys() & options.keys():
        raise TypeError(f"{method} got two values for {', '.join(sorted(twice))}")
    return texts, {**given, **{name: value for name, value in options.items() if name not in names}}
