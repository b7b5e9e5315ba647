"""Published weights -> a Bert, or a model with a head, with every tensor on both sides accounted for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..config import AnyConfig, BertConfig
from ..model import Bert
from .hub import Files, open_files
from .names import TIED, by_modern_name, harmless, head_of, loadable_as, modern_name, published_name
from .report import LoadReport
from .tensors import CheckpointError, Stored, blank
from .weights import damaged, open_weights

AnyModel = TypeVar("AnyModel", bound=nn.Module)

FLOATS = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
POOLER = ("pooler.dense.weight", "pooler.dense.bias")


class WrongTensorsError(CheckpointError):
    """The files do not hold the tensors that config.json describes; ``report`` lists all that is wrong."""

    def __init__(self, report: LoadReport, advice: str = "") -> None:
        super().__init__(f"{report.source}: the weights do not fit config.json\n{report.problems()}{advice}")
        self.report = report


def load_bert(
    name: str | os.PathLike[str],
    *,
    into: type[AnyModel],
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    refresh: bool = False,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> AnyModel:
    """Load a published BERT, in eval mode; ``model.report`` is the LoadReport.

    Args:
        name, revision, token, cache_dir, local_files_only, refresh: as ``hub.open_files``.
        into: Bert, one of the classes of ``heads``, or a class derived from any of them.
        device: Where to put it; None: the CPU.
        dtype: float32 (also where the files are float16 or bfloat16), float64, bfloat16 or float16.

    Raises:
        HubError: the model can't be had. ConfigError: config.json is damaged or describes another architecture.
        CheckpointError: a file is damaged, or its tensors are not those of config.json (all of them are listed).
    """
    files = open_files(
        name,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        refresh=refresh,
    )
    return load_from(files, into=into, device=device, dtype=dtype)


@torch.inference_mode(False)  # else weights loaded in that mode would be for ever without gradients, and never laid out
def load_from(
    files: Files,
    *,
    into: type[AnyModel],
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> AnyModel:
    """As ``load_bert``, from files that are already found."""
    wanted = float_dtype(dtype)
    config = read_config(files, getattr(into, "config_class", BertConfig))
    _check_classifier(files, into)
    tensors = _by_modern_name(files)
    pooler = [name for name in POOLER if name in tensors]
    if len(pooler) == 1:
        raise CheckpointError(f"{files.name}: half a pooler: {pooler[0]} is there, the other half of it is not")
    if huge := [f"{name} {size}" for name, size in asdict(config).items() if isinstance(size, int) and size > 1 << 30]:
        raise CheckpointError(  # said before torch multiplies them and overflows
            f"{files.name}: config.json says {', '.join(huge)}, more than any file holds"
        )
    if config.num_hidden_layers > len(tensors):  # said before that many layers are built, if only as shapes
        raise CheckpointError(
            f"{files.name}: config.json says num_hidden_layers {config.num_hidden_layers}, "
            f"but the files hold {len(tensors)} tensors in all"
        )
    # A Bert has a pooler where the files hold one; a model with a head knows whether that reads the pooler.
    options = {"pooler": bool(pooler)} if issubclass(into, Bert) else {}
    model: Any = blank(lambda: into(config, **options), config)
    try:
        ours = {name: _their_name(name) for name in model.state_dict()}
    except KeyError as error:
        raise CheckpointError(
            f"{into.__name__} has weights that no BERT has, {error}: load a Bert, and add them to it afterwards"
        ) from None
    shapes = {ours[name]: tuple(value.shape) for name, value in model.state_dict().items()}
    tied = {copy: name for copy, name in TIED.items() if copy in tensors and "cls.predictions.bias" in shapes}
    for copy, name in tied.items():
        tensors.setdefault(name, tensors[copy])
    report = _account(files, tensors, shapes, relative=config.position_embedding_type != "absolute", dtype=wanted)
    if not report.complete:
        raise WrongTensorsError(report, _advice(report, tensors))
    for copy, name in tied.items():
        if not torch.equal(*(read_tensor(tensors[which], which, wanted) for which in (copy, name))):
            raise CheckpointError(
                f"{files.name}: {copy} differs from {name}: in BERT's masked-LM head, which is the one that minibert "
                "computes, they are one tensor"
            )
    model.load_state_dict(
        {name: read_tensor(tensors[theirs], theirs, wanted) for name, theirs in ours.items()}, assign=True
    )
    model.report = report
    return model.to(device).eval() if device is not None else model.eval()


def read_again(model: nn.Module, files: Files) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Each parameter of a model that was loaded from these files, and its numbers; what is mapped is mapped anew.

    Raises:
        CheckpointError: the files are no longer those that the model was loaded from.
    """
    tensors = _by_modern_name(files)
    for name, parameter in model.named_parameters():
        theirs = _their_name(name)
        if theirs not in tensors or tensors[theirs].shape != parameter.shape:
            raise CheckpointError(f"{files.name}: {theirs} was changed while the model was being loaded; load it again")
        yield parameter, read_tensor(tensors[theirs], theirs, parameter.dtype)


def _by_modern_name(files: Files) -> dict[str, Stored]:
    stored = open_weights(files)
    return {modern: stored[name] for modern, name in by_modern_name(stored).items()}


def _their_name(ours: str) -> str:
    return modern_name(published_name(ours))


def read_config(files: Files, kind: type[AnyConfig]) -> AnyConfig:
    """config.json, or Google's bert_config.json, as a BertConfig or a class derived from it.

    Raises:
        HubError: there is neither. ConfigError: as BertConfig.from_file.
    """
    path = files.get("config.json") or files.cached("bert_config.json")
    return kind.from_file(path or files.require("config.json"))


def float_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    """`"bfloat16"` or torch.bfloat16 -> torch.bfloat16; None -> float32. ValueError for what is no float."""
    chosen = FLOATS.get(dtype) if isinstance(dtype, str) else dtype or torch.float32
    if chosen is None or chosen not in FLOATS.values():
        raise ValueError(f"dtype must be one of {', '.join(FLOATS)}, not {dtype!r}")
    return chosen


def _check_classifier(files: Files, into: type[nn.Module]) -> None:
    """Refuse what would load and give nonsense: a classifier of tokens for one of texts has the same names and shapes.

    The older of such checkpoints have a pooler too, which their classifier never read.
    """
    kinds = {"BertForSequenceClassification", "BertForTokenClassification"}
    if asked := kinds.intersection(parent.__name__ for parent in into.__mro__):
        said = files.read_object("config.json").get("architectures")
        other = (kinds - asked).intersection(said if isinstance(said, list) else ())
        if other:
            raise CheckpointError(
                f"{files.name}: config.json says {other.pop()}: load it as that, not as {into.__name__}"
            )


def _advice(report: LoadReport, tensors: Mapping[str, Stored]) -> str:
    """Where nothing but a head is missing: which classes would do without it."""
    if report.unexpected or report.wrong_shape or not all(map(head_of, report.missing)):
        return ""
    return f"\n  The files hold what {' or '.join(loadable_as(tensors))} needs: load them as such."


def _account(
    files: Files,
    tensors: Mapping[str, Stored],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    relative: bool,
    dtype: torch.dtype,
) -> LoadReport:
    """Put every name on one of the report's lists."""
    used = [name for name in shapes if name in tensors]
    rest = [name for name in tensors if name not in shapes]
    heads = {head_of(name) for name in shapes}
    # Checkpoints with relative positions carry an absolute table too, which their attention never sees.
    aside = [n for n in rest if harmless(n, heads) or (relative and n == "embeddings.position_embeddings.weight")]
    wrong = [
        f"{name}: {tensors[name].shape} in the files, {shapes[name]} by config.json"
        for name in used
        if tensors[name].shape != shapes[name]
    ]
    return LoadReport(
        source=files.name,
        files=tuple(dict.fromkeys(stored.file for stored in tensors.values())),
        used=tuple(used),
        known_harmless=tuple(aside),
        unexpected=tuple(name for name in rest if name not in set(aside)),
        missing=tuple(name for name in shapes if name not in tensors),
        wrong_shape=tuple(wrong),
        stored_dtype=", ".join(sorted({str(tensors[name].dtype).removeprefix("torch.") for name in used})),
        dtype=str(dtype).removeprefix("torch."),
    )


def read_tensor(stored: Stored, name: str, dtype: torch.dtype) -> Tensor:
    """The tensor, still mapped if it has the dtype already. CheckpointError names the file if it is damaged."""
    if stored.dtype not in FLOATS.values():
        raise CheckpointError(f"{stored.file}: {name} is {stored.dtype}, and weights must be floating-point numbers")
    try:
        return stored.read().to(dtype).contiguous()
    except CheckpointError:
        raise
    except Exception as error:
        raise damaged(stored.file, error) from error


def with_notes(report: LoadReport, *notes: str) -> LoadReport:
    """The report, with what another room decided for lack of word in the files."""
    return replace(report, notes=(*report.notes, *notes))


def find_device(device: str | torch.device | None) -> torch.device:
    """The device of that name; None: a GPU if torch sees one, otherwise the CPU.

    Raises:
        ValueError: torch knows no such device, or this machine has none.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is unknown: cpu, cuda, cuda:1, mps ({error})") from None
    if (found.type == "cuda" and not torch.cuda.is_available()) or (found.type == "mps" and not _has_mps()):
        raise ValueError(f"device {device!r}: this machine has no {found.type} that torch can use")
    return found


def _has_mps() -> bool:
    return torch.backends.mps.is_available()
