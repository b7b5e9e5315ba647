"""What surrounds a call of `encode` or `predict`: its options, dropout off, hooks that know their texts, its result."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from typing import Any, ClassVar, TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from .config import check_count
from .vectors import deliver, find_ranges

MANY = 2**16  # texts of a call that leave megabytes free
MOST_ON_GPU = 2**30  # bytes of results that stay there until a call ends


class CallOptions(TypedDict, total=False):
    """The keywords that `encode` and `predict` share.

    Keys:
        prompt_name, prompt: Put this before each text (of a pair: the first): a prompt of the checkpoint by its name,
            or the words themselves. None: the checkpoint's default prompt, if it has one.
        truncation: For text that is too long, as in `from_pretrained`. ``truncation_report`` has the figures.
        batch_size: Texts a batch, at most. None: as many as are fast; batches are cut by tokens, not by texts.
        batch_invariant: The same bits for a text alone, among others and in any order, on one machine with one number
            of threads. Each text is computed by itself on one worker's cores, which takes longer.
        show_progress_bar: On stderr. None: no.
        fast: None: the stack computes where it can. False: the page. True: the stack, or an error says why not.
    """

    prompt_name: str | None
    prompt: str | None
    truncation: str | None
    batch_size: int | None
    batch_invariant: bool
    show_progress_bar: bool | None
    fast: bool | None


class EncodeOptions(CallOptions, total=False):
    """The keywords of `encode` that do not change the type of its result.

    Keys:
        normalize_embeddings: Scale vectors to length 1, after ``truncate_dim``.
        truncate_dim: Keep the first so many dimensions, for models trained so (Matryoshka, arXiv 2205.13147).
        precision: float32, or fewer bytes: int8, uint8, binary, ubinary (``quantize_embeddings``).
        ranges: (2, D), for int8 and uint8; as in ``quantize_embeddings``.
    """

    normalize_embeddings: bool
    truncate_dim: int | None
    precision: str
    ranges: np.ndarray | None


class PredictOptions(CallOptions, total=False):
    """The keywords of `predict` that do not change the type of its result.

    Keys:
        activation_fn: For the logits of each batch, (B, L) -> (B, L) or (B,), for this call.
        apply_softmax: After the activation, let each pair's scores sum to 1; without effect where L is 1.
    """

    activation_fn: Callable[[Tensor], Tensor] | None
    apply_softmax: bool


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch of one call, for hooks: batches are cut by length, so values come in another order than texts."""

    call: object  # the same for all batches of the call
    count: int  # texts in the whole call
    rows: np.ndarray  # which of them are in this batch, row by row
    lengths: np.ndarray  # tokens of each row, without padding


_batch: ContextVar[Batch | None] = ContextVar("batch", default=None)


def current_batch() -> Batch | None:
    """Return the batch that is being computed for `encode` or `predict`; None outside of them."""
    return _batch.get()


def check_iterable(texts: object, *, lines: bool = False) -> None:
    """Raise TypeError where iterating would give keys, column names or (unless ``lines``) lines: hardly meant."""
    if getattr(texts, "ndim", 1) == 0 and not isinstance(texts, str):  # numpy's strings are texts
        raise TypeError(f"expected a text or a list of texts, not {type(texts).__name__} of no dimension: x.item()")
    if isinstance(texts, (set, frozenset)):
        raise TypeError("expected a text or a list of texts, not a set, which has no order: sorted(texts)")
    if isinstance(texts, Mapping) or hasattr(texts, "columns") or (hasattr(texts, "readline") and not lines):
        raise TypeError(f"expected a text or a list of texts, not {type(texts).__name__}: pick a column, or read lines")


def as_list(texts: str | Iterable[str]) -> list[Any]:
    """Make a list of one text or many; the tokenizer names what is not a text. Raises as `check_iterable`."""
    check_iterable(texts)
    if isinstance(texts, list):  # a copy of a million takes 8 MB
        return texts
    if hasattr(texts, "to_pylist"):  # of pyarrow, whose own values are no strings
        return list(texts.to_pylist())
    return [texts] if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable) else list(texts)


def check_options(method: str, options: Mapping[str, object]) -> None:
    """Raise TypeError for a keyword of a method that is not one of ``CallOptions``."""
    if unknown := sorted(options.keys() - CallOptions.__annotations__.keys()):
        advice = "; move the encoder with encoder.to(device)" if "device" in unknown else ""
        raise TypeError(f"{method} got an unexpected keyword argument: {', '.join(unknown)}{advice}")


def check_texts(texts: Sequence[object], name: str = "text {}") -> None:
    """Raise TypeError unless these are a list of strings, and ValueError unless they are valid Unicode.

    ``name`` is what an error calls the text at the place {}.
    """
    if isinstance(texts, (str, bytes, bytearray)) or not isinstance(texts, Sequence):
        raise TypeError(f"expected a list of strings, not {type(texts).__name__}")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            kind = "None" if text is None else f"of type {type(text).__name__}"
            raise TypeError(f"{name.format(i)} is {kind}, not a string")
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                reason = f"{error.reason} at character {error.start}"
                raise ValueError(f"{name.format(i)} is not valid Unicode: {reason}") from None


def in_chunks(
    texts: Sequence[str], pairs: Sequence[str] | None, most: int, letters: int
) -> Iterator[tuple[int, list[Any]]]:
    """Yield the index of the first text, and texts or pairs: at most so many, and of so many letters."""
    start = size = 0
    rows: Sequence[Any] = texts if pairs is None else list(zip(texts, pairs, strict=True))
    for i, row in enumerate(rows):
        more = len(row) if pairs is None else len(row[0]) + len(row[1])
        if i > start and (size + more > letters or i - start == most):
            yield start, list(rows[start:i])
            start, size = i, 0
        size += more
    if rows:
        yield start, list(rows[start:])


def by_text(states: Tensor, values: Tensor, lengths: np.ndarray) -> list[tuple[Tensor, Tensor]]:
    """Split a batch into each text's states, without padding, and its result."""
    return [(x[:length], value) for x, value, length in zip(states, values, lengths, strict=True)]


def put(result: Any, count: int, rows: np.ndarray, values: Any, device: torch.device | str) -> Any:
    """Put a batch's results in their texts' places, and return all; with the first batch, make room for ``count``.

    The room is where the results are, or on ``device`` if it is large: to copy each batch would wait for the GPU.
    """
    if isinstance(values, list):
        result = [None] * count if result is None else result
        for row, value in zip(rows, values, strict=True):
            result[row] = value
        return result
    if result is None:  # only now is the width known, whatever stands after the pooling
        dtype = torch.promote_types(values.dtype, torch.float32)
        if count == 1:
            return values.to(device=device, dtype=dtype, copy=True)
        device = values.device if count * values[0].numel() * dtype.itemsize <= MOST_ON_GPU else device
        result = torch.empty(count, *values.shape[1:], dtype=dtype, device=device)
    if result.is_cpu:  # torch would use all cores for it, and wait for workers that compute there
        result.numpy()[rows] = values.to(result).numpy()
    else:
        result[upload(torch.from_numpy(rows), result.device)] = values.to(result)
    return result


def upload(x: Tensor, device: torch.device) -> Tensor:
    """Copy to a device, without waiting where it is a GPU."""
    return pinned(x, device).to(device, non_blocking=True)


def pinned(x: Tensor, device: torch.device) -> Tensor:
    """Return x in memory from which the device, if it is a GPU, can copy by itself."""
    return x.pin_memory() if device.type == "cuda" else x


def release_freed_memory(texts: int, done: int, more: int) -> None:
    """Give the system what tokenizing, planning and batches left free between what is in use; once in MANY texts."""
    if texts >= MANY and done % MANY < more:
        trim_memory()


def trim_memory() -> None:
    """Give the system all memory that is free between what is in use."""
    with suppress(TypeError, AttributeError, OSError):  # not glibc's malloc, which keeps it
        ctypes.CDLL(None).malloc_trim(0)


def best_first(scores: Sequence[float], top_k: int | None, texts: Sequence[str] | None) -> list[dict[str, Any]]:
    """Sort documents by their scores, as `rank` returns them; what is not a number comes last."""
    order = [(score == score, score) for score in scores]
    best = sorted(range(len(scores)), key=order.__getitem__, reverse=True)[:top_k]
    return [{"corpus_id": i, "score": scores[i]} | ({} if texts is None else {"text": texts[i]}) for i in best]


@contextmanager
def in_batch(batch: Batch) -> Iterator[None]:
    """Let hooks know which texts are being computed."""
    before = _batch.set(batch)
    try:
        yield
    finally:
        _batch.reset(before)


class evaluating:
    """Turn dropout off in a module, as long as any thread is in here, and back on at the end where it was on."""

    lock = Lock()
    inside: ClassVar[dict[int, tuple[int, list[nn.Module]]]] = {}  # by id: threads in here, parts to turn back on

    def __init__(self, module: nn.Module, *, known: bool = False) -> None:
        self.module, self.known = module, known  # known to be off

    def __enter__(self) -> None:
        with self.lock:
            threads, training = self.inside.get(id(self.module), (0, []))
            found = [] if self.known else [part for part in self.module.modules() if part.training]
            try:
                for part in found:
                    part.training = False
                self.inside[id(self.module)] = threads + 1, training + found
            except BaseException:  # Ctrl-C: without an entry, there is no exit that would turn it back on
                for part in found:
                    part.training = True
                raise

    def __exit__(self, *_: object) -> None:
        with self.lock:
            threads, training = self.inside.pop(id(self.module))
            if threads > 1:
                self.inside[id(self.module)] = threads - 1, training
                return
            for part in training:
                part.training = True


def in_windows(encode: Callable[..., Any], texts: Iterable[str], window: int, options: dict[str, Any]) -> Iterator[Any]:
    """Yield what `encode` returns for one window of the texts after another, with the same ranges for all."""
    if isinstance(texts, (str, bytes)):
        raise TypeError("a stream is of many texts, this is one: put it in a list, or use encode")
    check_iterable(texts, lines=True)
    check_count("window", window)
    encode([], **options)  # so that a wrong option is refused before the first window
    precision, rest = options.get("precision"), iter(texts)
    if precision in ("int8", "uint8") and options.get("ranges") is None and (first := list(islice(rest, window))):
        vectors = encode(first, **{**options, "precision": "float32", "convert_to_tensor": True})
        ranges = find_ranges(vectors.cpu().numpy(), precision)
        form = options.get("convert_to_numpy", True), options.get("convert_to_tensor", False)
        yield deliver(vectors, precision, ranges, *form)
        options = {**options, "ranges": ranges}
    while part := list(islice(rest, window)):
        yield encode(part, **options)
