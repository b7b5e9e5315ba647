"""One call of `encode`, or of `CrossEncoder.predict`: batch by batch, every result back in its text's place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from .config import BertConfig
from .fast.batches import GPU_TOKENS, LEAST_TOKENS, cpu_tokens, plan_batches, plan_even
from .fast.layers import NOTHING, Asked, KernelPooler, ProductEncoder, asked
from .fast.watching import Snapshot, every_part, quiet
from .fast.workers import side_by_side
from .heads import BertForSequenceClassification
from .model import Bert, Pooler
from .pooling import Pooling
from .tokenizer import Tokenizer, Tokens
from .underway import Texts, under_way
from .vectors import quantize_embeddings

# Of these it is known what they read: no padding.
READERS = (Bert, Pooler, KernelPooler, Pooling, BertForSequenceClassification)


@dataclass
class EncodeCall:
    """What one call needs, and nothing that two calls could get in each other's way with."""

    tokens: Tokens
    batch: Callable[[np.ndarray], dict[str, Tensor]]  # indices of texts -> ids, mask, types, padded, on the device
    embed: Callable[..., tuple[Tensor, Tensor]]  # ids, mask or None, types -> token vectors, sentence vectors
    keep: int | None  # dimensions
    normalize: bool
    workers: int = 1  # batches side by side
    batch_invariant: bool = False  # the caller's own thread, with all cores, would round otherwise than a worker
    asked: Asked = NOTHING

    def sentences(
        self,
        batches: Sequence[np.ndarray],
        done: Callable[[int], object],
        nothing: Callable[[], Tensor],
        device: torch.device | str,
    ) -> Tensor:
        """All vectors (texts, D), in the order of the texts, float32 at least; for no texts ``nothing`` (0, D)."""
        result: Tensor | None = None
        for rows, vectors in side_by_side(self._vectors, batches, self.workers, even_one=self.batch_invariant):
            if result is None:  # now the width is known, whatever stands in the place of pooling and head
                dtype = torch.promote_types(vectors.dtype, torch.float32)
                result = torch.empty(len(self.tokens.lengths), vectors.shape[1], dtype=dtype, device=device)
            put(result, rows, vectors.to(result))
            done(len(rows))
        return nothing().to(device) if result is None else result

    def parts(self, batches: Iterable[np.ndarray], done: Callable[[int], object], *, everything: bool) -> list[Any]:
        """Per text its token vectors (tokens, D), or a dict of all that was computed; padding is cut away."""
        parts: list[Any] = [None] * len(self.tokens.lengths)
        for rows in batches:
            with torch.no_grad():  # not inference mode: these tensors are handed out, and may go into training
                batch = self.batch(rows)
                x, vectors = self._run(rows, batch)
            for row, i in enumerate(rows):
                length = int(self.tokens.lengths[i])
                parts[i] = x[row, :length]
                if everything:
                    own = {name: value[row, :length] for name, value in batch.items()}
                    parts[i] = own | {"token_embeddings": x[row, :length], "sentence_embedding": vectors[row]}
            done(len(rows))
        return parts

    def _vectors(self, rows: np.ndarray) -> Tensor:
        with torch.inference_mode(), asked(self.asked):
            return self._run(rows, self.batch(rows))[1]

    def _run(self, rows: np.ndarray, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        lengths = self.tokens.lengths[rows]
        padded = lengths.min() < lengths.max()  # where nothing is padded, nothing need be masked
        mask = batch["attention_mask"] if padded else None
        with under_way(Texts(self, len(self.tokens.lengths), rows, lengths)):
            x, vectors = self.embed(batch["input_ids"], mask, batch["token_type_ids"])
        vectors = vectors if self.keep is None else vectors[:, : self.keep]
        return x, nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors


def padded(tokenizer: Tokenizer, tokens: Tokens, device: torch.device, rows: Iterable[int]) -> dict[str, Tensor]:
    """Ids, types and mask (rows, longest of them) of some of the texts."""
    # On the right whatever the checkpoint says: BERT counts positions from the left, so padding there would make
    # a text's vector depend on its neighbours.
    arrays = tokenizer.pad(tokens, rows, side="right")
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


def put(result: Tensor, rows: np.ndarray, vectors: Tensor) -> None:
    """Put vectors in their texts' places."""
    if result.is_cpu:  # torch would do it on all cores, and wait for workers that compute there
        result.numpy()[rows] = vectors.numpy()
    else:
        result[torch.from_numpy(rows).to(result.device)] = vectors


def ask(
    quiet: Snapshot | None, bert: nn.Module, *readers: nn.Module, many: bool, first_only: bool, pooled: bool
) -> Asked:
    """What will be read of the last states, where that is known: of a part of somebody's own none can say.

    Args:
        quiet: Of what all of them are in; None where somebody watches.
        bert: Whose states.
        readers: What reads them, besides the pooler: a `Pooling`, a model that has the Bert in it.
        many: Whether there are several texts: one by itself has no padding.
        first_only: Whether those read the first positions only, as the pooler does.
        pooled: Whether they read what the pooler gives.
    """
    parts = [bert, *readers, *(part for part in (getattr(bert, "pooler", None),) if part is not None)]
    own = all(type(part) in READERS and "forward" not in part.__dict__ for part in parts)
    if quiet is None or not own or type(bert) is not Bert:
        return Asked(quiet)
    real_only = many and type(bert.layers) is ProductEncoder and bert.layers.in_pieces(quiet)
    return Asked(quiet, first_only=first_only, real_only=real_only, pooled=pooled)


def cut(
    lengths: np.ndarray,
    config: BertConfig,
    *,
    max_texts: int | None,
    workers: int,
    on_cpu: bool,
    alone: bool,
    real_only: bool = False,
) -> list[np.ndarray]:
    """Which texts go together: in enough batches for all workers, by what padding costs; or each ``alone``."""
    if alone or len(lengths) == 1:
        return list(np.arange(len(lengths))[:, None])
    if not on_cpu:
        return plan_batches(lengths, max_tokens=GPU_TOKENS, max_texts=max_texts)
    total, most = int(lengths.sum()), cpu_tokens(config)
    if real_only:
        count = -(-total // most)
        count = -(-count // workers) * workers if count > 1 else min(workers, max(1, -(-total // LEAST_TOKENS)))
        return plan_even(lengths, count=count, max_texts=max_texts)
    most = min(most, max(LEAST_TOKENS, -(-total // workers)))
    return plan_batches(lengths, max_tokens=most, max_texts=max_texts)


def windows(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """The texts, so many at a time; the last are fewer.

    Raises:
        TypeError: a single string, whose letters were hardly meant. ValueError: the size is no positive number.
    """
    if isinstance(texts, (str, bytes)):
        raise TypeError("a stream is of many texts, this is one: put it in a list, or use encode")
    if size < 1:
        raise ValueError(f"window must be at least 1 text, not {size}")
    rest = iter(texts)
    while window := list(islice(rest, size)):
        yield window


class evaluating:
    """Dropout off as long as any thread is in here, in a module that is being trained; any other is left untouched.

    Entering gives what the module is made of, or None where a part of it is watched.
    """

    lock = Lock()
    inside: ClassVar[dict[int, tuple[int, list[nn.Module]]]] = {}  # by id: threads in here, what to set back at the end

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __enter__(self) -> Snapshot | None:
        with self.lock:
            threads, training = self.inside.get(id(self.module), (0, []))
            snapshot = quiet(self.module)
            if snapshot is not None:
                self.inside[id(self.module)] = threads + 1, training
                return snapshot
            found = [part for part in every_part(self.module) if part.training]
            self.inside[id(self.module)] = threads + 1, training + found
            for part in found:
                part.training = False
            return quiet(self.module)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            threads, training = self.inside.pop(id(self.module))
            if threads > 1:
                self.inside[id(self.module)] = threads - 1, training
                return
            for part in training:
                part.training = True


def deliver(result: Tensor, precision: str, *, as_numpy: bool, as_tensor: bool, single: bool) -> Any:
    """Vectors in the form that was asked for; a single text's without the first axis."""
    vectors: Any = result
    if precision != "float32":
        vectors = quantize_embeddings(result.cpu().numpy(), precision)
        vectors = torch.from_numpy(vectors).to(result.device) if as_tensor else vectors
    elif as_numpy and not as_tensor:
        vectors = result.numpy()
    if not as_numpy and not as_tensor:
        vectors = list(vectors)
    return vectors[0] if single else vectors
