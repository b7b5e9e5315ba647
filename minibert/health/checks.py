"""Verify a checkpoint: what was loaded of it, whether its files agree, and whether its numbers mean something."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from .. import heads
from ..checkpoint.contradictions import FAILED, OK, WARNING, Check, compare_files
from ..checkpoint.hub import DEFAULT_MODEL, CheckpointFiles, HubError, HubOptions, open_files
from ..checkpoint.kinds import architectures, kind_of
from ..checkpoint.load import WrongTensorsError
from ..checkpoint.names import NEEDED
from ..checkpoint.report import LoadReport
from ..checkpoint.wordpiece import NoTokenizerError
from ..config import FileError
from ..cross_encoder import CrossEncoder
from ..display import hanging, printable
from ..encoder import SentenceEncoder
from ..model import Bert, LayerNorm
from ..retrieval.multi_vector_encoder import MultiVectorEncoder
from ..retrieval.sparse_encoder import SparseEncoder
from .numbers import check_numbers

if TYPE_CHECKING:
    from typing_extensions import Unpack

# The class that opens a checkpoint, by the name that `kind_of` gives.
ENCODERS: dict[str | None, Any] = {
    kind.__name__: kind for kind in (SentenceEncoder, CrossEncoder, SparseEncoder, MultiVectorEncoder)
}
HUGE = 1e3  # weights of trained models are below 20


@dataclass(frozen=True)
class Verification:
    """All checks of a checkpoint, in the order in which they were made."""

    model: str
    checks: tuple[Check, ...]

    @property
    def failed(self) -> bool:
        """True if a check failed. Warnings do not count."""
        return any(check.status == FAILED for check in self.checks)

    def __str__(self) -> str:
        return self.table()

    def table(self, columns: int | None = None) -> str:
        """Return a row for each check, in lines of at most so many columns (None: one line each), and their count."""
        arrow = "\n-> " if columns else " -> "
        rows = [(x.status, x.name, arrow.join(map(printable, filter(None, (x.seen, x.advice))))) for x in self.checks]
        count = {status: sum(row[0] == status for row in rows) for status in (OK, WARNING, FAILED)}
        counted = ", ".join(
            f"{number} {status}{'s' * (status == WARNING and number > 1)}" for status, number in count.items() if number
        )
        return f"{hanging(rows, columns)}\n{self.model}: {counted}"


def verify(name: str | os.PathLike[str] = DEFAULT_MODEL, **hub: Unpack[HubOptions]) -> Verification:
    """Check a checkpoint of any kind, on the CPU and without the network. It takes seconds, and three times its memory.

    ``name`` is a folder or the id of a model in the hub's cache, ``hub`` are the options of `from_pretrained`. Where
    something is damaged, the check of that failed, and those that need it are left out.

    Raises:
        HubError: there is no such folder, the model is not in the cache, or it lacks a file.
    """
    hub["local_files_only"] = True
    files = open_files(name, **hub)
    if files.excuse and not files.pin():
        text = "is not in the cache, and verify uses no network: fetch it first, as by minibert inspect"
        raise HubError(f"{files.no_folder}{files.name} {text} {files.name}")
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        checks = list(_checks(files, hub))
    said = dict.fromkeys(str(each.message) for each in heard if issubclass(each.category, UserWarning))
    checks += [Check("warning", WARNING, text) for text in said]
    return Verification(files.name, tuple(checks))


def _checks(files: CheckpointFiles, hub: HubOptions) -> Iterator[Check]:
    try:
        kind = kind_of(files)
        model, encoder = _open(files, kind, hub)
    except WrongTensorsError as error:
        yield _loaded(error.report, (), " ".join(str(error).partition("\n  The files")[1:]).strip())
        return
    except (FileError, NoTokenizerError) as error:
        yield Check("load", FAILED, " ".join(str(error).split()))
        return
    yield Check("kind", OK, _kind(model, encoder, kind))
    notes = dict.fromkeys((*model.report.notes, *(encoder.report.notes if encoder is not None else ())))
    yield _loaded(model.report, [note for note in notes if encoder is None or note not in encoder.tokenizer.notes])
    if encoder is not None:
        transformer = encoder.model.report.source.removeprefix(files.name).lstrip("/")
        yield from compare_files(files, transformer, encoder.tokenizer, model.config, pairs=kind == "CrossEncoder")
    found = list(_weights(model if kind is None else encoder, kind))
    yield from found
    if encoder is not None and found[0].status == OK:
        try:
            yield from check_numbers(encoder, model, kind, lambda dtype: _open(files, kind, hub, dtype)[1])
        except ValueError as error:  # a word of the vocabulary that the model lacks
            yield Check("encode", FAILED, f"English texts can't be computed: {error}", "the tokenizer of this model")


def _open(files: CheckpointFiles, kind: str | None, hub: HubOptions, dtype: str | None = None) -> tuple[Any, Any]:
    """Return the model, of the class that config.json names, and its encoder; None for a plain BERT's without words."""
    options: Any = {**hub, "device": "cpu", "truncation": "silent", "dtype": dtype}
    try:
        encoder = ENCODERS[kind or "SentenceEncoder"].from_pretrained(files.name, **options)
    except NoTokenizerError:
        if kind is not None:
            raise
        encoder = None
    if kind is not None or dtype is not None:
        return encoder and encoder.model, encoder
    said = next((name for name in architectures(files) if name in NEEDED), "Bert")
    return getattr(heads, str(said), Bert).from_pretrained(files.name, **hub), encoder


def _kind(model: Any, encoder: Any, kind: str | None) -> str:
    """Say what opens the checkpoint, and what it gives then."""
    if kind is None:
        more = "no tokenizer" if encoder is None else "or by SentenceEncoder, which takes the mean of its states"
        return f"a plain BERT, opened by {type(model).__name__}; {more}"
    if kind == "CrossEncoder":
        names = model.config.id2label.values()
        return f"{kind}: {len(names)} label{'s' * (len(names) > 1)} ({_few(names)})"
    parts = [getattr(encoder, "pooling", None), *getattr(encoder, "head", ())]
    after = ", ".join(str(part) for part in parts if isinstance(part, nn.Module))
    return f"{kind}: {' '.join(after.split())}; {encoder.get_embedding_dimension():,} numbers a vector"


def _loaded(report: LoadReport, notes: Sequence[str], advice: str = "") -> Check:
    """Account for the tensors."""
    wrong = {"missing": report.missing, "unexpected": report.unexpected, "of another shape": report.wrong_shape}
    if not report.complete:
        seen = "; ".join(f"{len(names)} {fault}: {_few(names)}" for fault, names in wrong.items() if names)
        return Check("load", FAILED, seen, advice or "the weights and the config.json of one model")
    aside = f"; left aside: {_few(report.known_harmless)}" if report.known_harmless else ""
    seen = f"{len(report.used)} tensors used, none missing, none unexpected{aside}"
    return Check("load", OK, "; ".join([seen, *notes]))


def _weights(root: Any, kind: str | None) -> Iterator[Check]:
    """Look at the numbers themselves. The first check fails if they can't be those of a trained model."""
    values = {name: value for name, value in root.state_dict().items() if value.is_floating_point()}
    odd = [name for name, value in values.items() if not value.isfinite().all()]
    empty = [name for name, value in values.items() if value.ndim > 1 and not value.any()]
    norms = [part for part in root.modules() if isinstance(part, LayerNorm)]
    count = sum(value.numel() for value in root.parameters())
    if odd:
        yield Check("weights", FAILED, f"NaN or infinity in {_few(odd)}", "fetch or train it again")
    elif empty:
        yield Check("weights", FAILED, f"nothing but zeros in {_few(empty)}", "fetch it again")
    elif all(part.weight.eq(1).all() and not part.bias.any() for part in norms):
        text = "every layer norm is as it is made (1 and 0), so nothing was ever trained"
        yield Check("weights", FAILED, text, "these are random weights: load the trained ones")
    else:
        largest = max(float(value.abs().max()) for value in values.values())
        stored = root.report.stored_dtype
        head = getattr(root, "masked_lm", None) or getattr(getattr(root, "model", None), "masked_lm", None)
        tied = "" if head is None or head.decoder is not None else "; the head's matrix is that of the embeddings"
        text = f"{count:,} numbers, {stored} in the files, all finite, the largest {largest:.2g}{tied}"
        yield Check("weights", OK, text)
        if largest > HUGE:
            where = [name for name, value in values.items() if float(value.abs().max()) > HUGE]
            yield Check("weights", WARNING, f"numbers above {HUGE:.0f} in {_few(where)}", "those of BERT are below 20")
    # A query's dot product with all keys moves by one number with their bias, which softmax drops: it stays 0.
    skipped = ".key.bias" if kind == "CrossEncoder" else (".key.bias", "pooler.dense.bias")
    fresh = [name for name, value in values.items() if name.endswith(".bias") and not name.endswith(skipped)]
    if fresh := [name for name in fresh if not values[name].any()]:
        yield Check("weights", WARNING, f"nothing but zeros in {_few(fresh)}", "new, and never trained?")


def _few(names: Iterable[str]) -> str:
    """List three names, and count the others."""
    first, rest = (found := list(names))[:3], len(found) - 3
    return ", ".join([*(f"{name:.100}" for name in first), *([f"and {rest} more"] if rest > 0 else [])])
