"""Weights that a checkpoint's files have: left out of pickles and copies, and in memory once beside packed ones."""

from __future__ import annotations

import copy
import copyreg
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from .checkpoint.hub import CheckpointFiles, Folder
from .checkpoint.load import find_device, read_again
from .checkpoint.tensors import CheckpointError, file_state
from .config import FileError
from .fast.changes import DATA, TrackedParameter
from .fast.decide import Decision
from .fast.stack import Stack
from .truncation import TruncationReport

if TYPE_CHECKING:
    from typing_extensions import Self

CHUNK = 2**20  # bytes that are hashed at once
RELEASE = 64 * 2**20  # bytes of mapped weights that are read before they are released; mapping anew takes milliseconds
# A decision is of one process. Dask pickles each attribute of a module by itself, past its `__getstate__`.
copyreg.pickle(Decision, lambda _: (cast(Any, type(None)), ()))


@dataclass(frozen=True)
class LeftOut:
    """A weight that a pickle leaves out; no tensor on "meta", which `datasets` would try to read."""

    shape: torch.Size
    dtype: torch.dtype
    requires_grad: bool

    def on_meta(self) -> nn.Parameter:
        """Return it without numbers."""
        return nn.Parameter(torch.empty(self.shape, dtype=self.dtype, device="meta"), self.requires_grad)


@dataclass(frozen=True)
class StoredWeights:
    """The files of weights that a pickle leaves out: their places, states and SHA-256."""

    name: str  # of the checkpoint
    paths: tuple[Path, ...]
    states: tuple[tuple[int, ...], ...]
    digests: tuple[str, ...]

    def check(self) -> None:
        """Raise CheckpointError unless the same bytes are at the same places. A file of the same state is the same."""
        for path, state, digest in zip(self.paths, self.states, self.digests, strict=True):
            try:
                same = file_state(path) == state or digest_of(path) == digest
            except OSError as error:
                text = "a pickled encoder needs its checkpoint's file, which can't be read"
                raise CheckpointError(f"{path}: {text} ({error.strerror}): load {self.name} by its name") from None
            if not same:
                raise CheckpointError(f"{path}: has changed since the encoder was pickled: load {self.name} anew")


def digest_of(path: Path) -> str:
    """Return a file's SHA-256. Raise OSError if it can't be read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


class Portable(nn.Module):
    """The base of a model that pickles and copies small: without the weights that its checkpoint's files have."""

    model: Any

    def __sklearn_clone__(self) -> Self:
        """Return this very model: to scikit-learn's `clone` it is a setting that no fit changes, not one to copy."""
        return self

    def to(self, *arguments: Any, **options: Any) -> Self:
        """Move or convert the model, as torch does. Raise ValueError for a device that can't be used here."""
        device = options.get("device", arguments[0] if arguments else None)
        if isinstance(device, (str, torch.device)) and torch.device("meta") != device != "meta":
            find_device(device)
        return super().to(*arguments, **options)

    def cuda(self, device: int | str | torch.device | None = None) -> Self:
        """Move the model to a GPU. Raise as `to`."""
        return self.to(f"cuda:{device}" if isinstance(device, int) else device or "cuda")

    def _state(self) -> dict[str, Any]:
        """Return all but what calls remember."""
        return {**self.__dict__, "_decision": None, "truncation_report": TruncationReport()}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what calls remember, and weights that are in files."""
        state = self._state()
        if own := _unchanged(self.model):
            report = self.model.report
            digests = tuple(map(digest_of, report.files))
            paths = tuple(path.absolute() for path in report.files)
            state["_stored"] = StoredWeights(report.source, paths, report.states, digests)
            state["_modules"] = {**self._modules, "model": copy.deepcopy(self.model, {**own})}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map the weights that were left out, and pack them as at loading.

        Raises:
            CheckpointError: their files are not there any more, or have other bytes.
        """
        stored: StoredWeights | None = state.pop("_stored", None)
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if stored is None:
            return
        stored.check()
        made: dict[int, nn.Parameter] = {}
        for part in self.model.modules():
            for name, value in part._parameters.items():
                if isinstance(value, LeftOut):
                    part._parameters[name] = made.setdefault(id(value), value.on_meta())
        model, files = self.model, Folder(stored.name, stored.paths[0].parent)
        model.report = replace(model.report, files=stored.paths, states=tuple(map(file_state, stored.paths)))
        found, whole = read_again(model, files), all(weight.is_meta for weight in model.parameters())
        new = {id(old): nn.Parameter(value, old.requires_grad) for old, value in found if old.is_meta}
        for part in model.modules():
            part._parameters.update({name: new.get(id(old), old) for name, old in part._parameters.items()})
        if whole:  # as at loading; it maps every weight anew
            self._pack(files)

    def _pack(self, files: CheckpointFiles) -> None:
        """Pack the weights, which were just mapped from these files."""
        raise NotImplementedError


class Whole:
    """Pickle a model with all its weights, for a machine without its files. What is unpickled is the model itself."""

    def __init__(self, model: Portable) -> None:
        self.model = model

    def __reduce__(self) -> tuple[Any, ...]:
        return _put_together, (type(self.model), self.model._state())


def _put_together(kind: type[Portable], state: dict[str, Any]) -> Portable:
    model = kind.__new__(kind)
    model.__setstate__(state)
    return model


def _unchanged(model: Any) -> dict[int, LeftOut]:
    """Return, by their ids, those parameters that are as in the checkpoint's files."""
    report = getattr(model, "report", None)
    if report is None or not report.states:
        return {}
    try:
        pairs = list(read_again(model, Folder(report.source, report.files[0].parent)))
    except (FileError, OSError):  # the files are gone, or were written again
        return {}
    usual = [(old, value) for old, value in pairs if type(old) in (nn.Parameter, TrackedParameter) and old.is_cpu]
    same = (old for old, value in usual if torch.equal(old.detach(), value))
    return {id(old): LeftOut(old.shape, old.dtype, old.requires_grad) for old in same}


def pack_at_loading(stack: Stack, model: nn.Module, files: CheckpointFiles, *, first_only: bool) -> None:
    """Pack a model's weights, and exchange them for the same ones of which nothing was read.

    What is read of a mapped file stays in memory beside the packed copy. Nobody has seen the model yet, so its file
    can be mapped anew. The system reads it again where somebody looks at a weight, or trains it.

    Args:
        stack: Of the model, which was just loaded from the files and is mapped.
        first_only: Calls will read only each text's first token.
    """
    read = 0
    for i, layer in enumerate(stack.layers, 1):
        if layer is None:
            continue
        with torch.inference_mode():
            layer.pack(first=first_only and i == len(stack.layers))
        read += sum(weight.nbytes for weight in layer.weights)
        if read > RELEASE:
            _map_anew(model, files)
            read = 0
    _map_anew(model, files)


def _map_anew(model: nn.Module, files: CheckpointFiles) -> None:
    with torch.inference_mode(False):  # weights of that mode never have gradients, and are never packed
        for parameter, same in read_again(model, files):
            # Biases and norms, which are read at every call, are copied: the system reads megabytes around each.
            value = parameter.detach().clone() if parameter.ndim < 2 else same
            DATA.__set__(parameter, value)  # torch's own descriptor: nothing is to be packed again
