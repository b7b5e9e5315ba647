"""Load published weights into a Bert or a model with a head. Every tensor on both sides is accounted for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from ..config import BertConfig, read_json
from .hub import OWNER, CheckpointFiles, HubOptions, first_line, open_files
from .names import (
    DECODER,
    NEEDED,
    TIED,
    WORDS,
    by_canonical_name,
    canonical_name,
    head_of,
    ignorable,
    loadable_as,
    published_name,
)
from .report import LoadReport
from .tensors import SMALL, AnyModel, CheckpointError, LazyTensor, build_on_meta, damaged, dtype_name, file_state
from .weights import CANDIDATES, open_weights

if TYPE_CHECKING:
    from typing_extensions import Unpack

AnyConfig = TypeVar("AnyConfig", bound=BertConfig)
Tensors = Mapping[str, LazyTensor]
Shapes = Mapping[str, tuple[int, ...]]

FLOATS = {dtype_name(dtype): dtype for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)}


class WrongTensorsError(CheckpointError):
    """The files do not hold the tensors that config.json describes. ``report`` lists every difference."""

    def __init__(self, report: LoadReport, names: Iterable[str]) -> None:
        prefix = next((name.removesuffix(WORDS) for name in report.unexpected if name.endswith(f".{WORDS}")), None)
        found = f"{report.source}: the weights do not fit config.json"
        text = f"{found}\n{report.problems()}"
        if prefix := prefix and (prefix.removesuffix("bert.") or prefix):
            own = sum(name.startswith(prefix) for name in report.unexpected)
            text = f"{found}: {own} names begin with {prefix!r}, of a model around BERT: remove it"
        if not report.unexpected and not report.wrong_shape and all(map(head_of, report.missing)):
            text += f"\n  The files hold the weights of {' or '.join(loadable_as(names))}: load them as such."
        super().__init__(text)
        self.report = report


@torch.inference_mode(False)  # inference-mode tensors can never require gradients
def load_bert(
    name: str | os.PathLike[str],
    *,
    into: type[AnyModel],
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    **hub: Unpack[HubOptions],
) -> AnyModel:
    """Load a published BERT in eval mode. ``model.report`` is its LoadReport.

    Args:
        name, hub: See ``hub.open_files``.
        into: Bert, a class of ``heads``, or a class derived from one of them.
        device: Where to put the model. None: the CPU.
        dtype: float32 (the default, for half-precision files too), float64, bfloat16 or float16.

    Raises:
        HubError: the model can't be had. ConfigError: config.json is damaged or describes another architecture.
        CheckpointError: a file is damaged, or its tensors differ from config.json (the message lists all of them).
    """
    return load_files(open_files(name, owner=OWNER, **hub), into=into, dtype=dtype).to(
        find_device("cpu" if device is None else device)
    )


@torch.inference_mode(False)
def load_files(files: CheckpointFiles, *, into: type[AnyModel], dtype: str | torch.dtype | None = None) -> AnyModel:
    """Load a model on the CPU as ``load_bert`` does, from files already found."""
    kind: Any = into
    wanted = _float_dtype(dtype)
    _refuse_adapter(files)
    config = read_config(files, getattr(kind, "config_class", BertConfig))
    _check_classifier(files, into)
    tensors: Tensors = by_canonical_name(open_weights(files))
    _check_sizes(files, config, tensors)
    if any("cls.predictions" in NEEDED.get(parent.__name__, ()) for parent in into.__mro__):
        config, tensors = _read_decoder(config, tensors, wanted)
    model = build_on_meta(lambda: kind.for_checkpoint(config, tensors), config)
    try:
        names = {ours: canonical_name(published_name(ours)) for ours in model.state_dict()}
    except KeyError as error:
        text = f"{into.__name__} has weights that BERT lacks, {error}: add them to a loaded Bert"
        raise CheckpointError(text) from None
    shapes = {names[ours]: tuple(value.shape) for ours, value in model.state_dict().items()}
    report = _account(files, config, tensors, shapes, wanted)
    if not report.complete:
        raise WrongTensorsError(report, tensors)
    if DECODER in shapes:
        report = report.with_notes("the masked-LM head has a matrix of its own, not that of the token embeddings")
    values = {ours: read_tensor(tensors[name], name, wanted) for ours, name in names.items()}
    model.load_state_dict(values, assign=True)
    model.report = report
    _check_unchanged(report)
    return model.eval()


def _read_decoder(config: AnyConfig, tensors: Tensors, dtype: torch.dtype) -> tuple[AnyConfig, Tensors]:
    """Tell whether the masked-LM head has a matrix of its own, and read its bias by either name, as transformers 5.

    That is so if config.json says so, or if the files hold two matrices that differ.
    """
    second = {name: tensors[copy] for copy, name in TIED.items() if copy in tensors}
    if WORDS in second and WORDS in tensors:
        pair = (read_tensor(tensors[name], name, dtype) for name in (WORDS, DECODER))
        config = config if torch.equal(*pair) else replace(config, tie_word_embeddings=False)
    if not config.tie_word_embeddings:
        second.pop(WORDS, None)
    return config, {**tensors, **second}


def read_again(model: nn.Module, files: CheckpointFiles) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Yield each parameter that a model has from these files, with its tensor read or mapped anew.

    Raise CheckpointError if the files have changed since.
    """
    report: Any = model.report
    tensors = by_canonical_name(open_weights(files))
    tensors = {name: tensors[copy] for copy, name in TIED.items() if copy in tensors} | tensors
    _check_unchanged(report)
    for ours, parameter in model.named_parameters():
        try:
            name = canonical_name(published_name(ours))
        except KeyError:  # a weight of the user's own
            continue
        if name in tensors and tensors[name].shape == parameter.shape:
            yield parameter, read_tensor(tensors[name], name, parameter.dtype)
    _check_unchanged(report)


def _check_unchanged(report: LoadReport) -> None:
    for path, state in zip(report.files, report.states, strict=True):
        if not path.exists() or file_state(path) != state:
            raise CheckpointError(f"{path} was changed while the model was being loaded: load it again")


def read_config(files: CheckpointFiles, kind: type[AnyConfig]) -> AnyConfig:
    """Read config.json, or Google's bert_config.json. Raise HubError if absent, ConfigError if damaged."""
    path = files.get("config.json") or files.cached("bert_config.json")
    return kind.from_file(path or files.require("config.json"))


def _float_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    """Convert `"bfloat16"` or torch.bfloat16 to torch.bfloat16; None is float32. Raise ValueError for other types."""
    chosen = FLOATS.get(dtype) if isinstance(dtype, str) else dtype or torch.float32
    if chosen is None or chosen not in FLOATS.values():
        raise ValueError(f"dtype must be one of {', '.join(FLOATS)}, for an encoder also int8, not {dtype!r}")
    return chosen


def read_tensor(tensor: LazyTensor, name: str, dtype: torch.dtype) -> Tensor:
    """Read the tensor; it stays mapped if it has the dtype already. Raise CheckpointError if its file is damaged.

    From a small file it is copied, so that a program which writes the file again in place changes nothing.
    """
    if tensor.dtype not in (*FLOATS.values(), torch.float8_e4m3fn):
        raise CheckpointError(f"{tensor.file}: {name} is {tensor.dtype}, and weights must be floating-point numbers")
    try:
        with torch.device("cpu"):  # whatever the default device is
            value = tensor.read().to(dtype).contiguous().data  # so that its writes are counted from 0
        return value.clone() if tensor.file.stat().st_size < SMALL else value
    except Exception as error:
        raise damaged(tensor.file, error) from error


def find_device(device: str | torch.device | None) -> torch.device:
    """Return the device of that name, for None a GPU if there is one, else the CPU. Raise ValueError if unusable."""
    usable = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device is None:
        return torch.device(next(name for name in usable if usable[name]))
    try:
        found = torch.device(device)
        if usable.get(found.type, True):
            torch.zeros(1, device=found).item()  # which meta can't, nor cuda:99, nor what this torch was built without
    except Exception as error:  # torch raises nearly any
        text = f"device {device!r:.80} is unknown or can't be used: cpu, cuda, cuda:1, mps"
        raise ValueError(f"{text} ({first_line(error):.200})") from None
    if not usable.get(found.type, True):
        raise ValueError(f"device {device!r}: this machine has no {found.type} that torch can use")
    return found


def _refuse_adapter(files: CheckpointFiles) -> None:
    """Refuse weights that the files beside them change, or that are changes of other weights."""
    files.pin()
    cached = any(map(files.cached, CANDIDATES))  # then nothing else is asked of the hub, and so isn't this
    found = files.get("adapter_config.json", local=cached, quiet=True) or files.cached("adapter_model.safetensors")
    if path := found or files.cached("adapter_model.bin"):
        values = read_json(path) if path.suffix == ".json" else {}
        told = (f"{name} {str(values.get(name))[:99]}" for name in ("peft_type", "base_model_name_or_path"))
        text = f"an adapter of other weights ({', '.join(told)}), which minibert does not apply"
        raise CheckpointError(f"{path}: {text}. Save the model that peft's merge_and_unload() gives, and load that")


def _check_classifier(files: CheckpointFiles, into: type[nn.Module]) -> None:
    """Refuse a token classifier as a text classifier, and the reverse: names and shapes agree, but not the meaning.

    Old checkpoints of token classifiers have a pooler too, which their classifier never read.
    """
    kinds = {"BertForSequenceClassification", "BertForTokenClassification"}
    if asked := kinds.intersection(parent.__name__ for parent in into.__mro__):
        said = files.read_object("config.json").get("architectures")
        for other in (kind for kind in kinds - asked if isinstance(said, list) and kind in said):
            raise CheckpointError(f"{files.name}: config.json says {other}: load it as that, not as {into.__name__}")


def _check_sizes(files: CheckpointFiles, config: BertConfig, tensors: Tensors) -> None:
    """Refuse a config.json that the files can't fill, before a model of its sizes is built."""
    if len(pooler := [name for name in tensors if head_of(name) == "pooler"]) == 1:
        raise CheckpointError(f"{files.name}: half a pooler: {pooler[0]} is there, the other half is missing")
    stored = len({match[1] for match in map(re.compile(r"encoder\.layer\.(\d+)\.").match, tensors) if match})
    if (layers := config.num_hidden_layers) > 2 * stored + 2:  # else all these layers are built on the meta device
        text = f"config.json says num_hidden_layers {layers}, but the files hold {stored} layers"
        raise CheckpointError(f"{files.name}: {text}")


def _account(
    files: CheckpointFiles, config: BertConfig, tensors: Tensors, shapes: Shapes, dtype: torch.dtype
) -> LoadReport:
    """Put every name on one of the report's lists."""
    used = [name for name in shapes if name in tensors]
    rest = [name for name in tensors if name not in shapes]
    heads = {head_of(name) for name in shapes}
    # Checkpoints with relative positions also carry an absolute table, which their attention never reads.
    unread = {"embeddings.position_embeddings.weight"} if config.position_embedding_type != "absolute" else set()
    aside = [name for name in rest if name in unread or ignorable(name, heads)]
    wrong = [name for name in used if tensors[name].shape != shapes[name]]
    paths = tuple(dict.fromkeys(tensor.file for tensor in tensors.values()))
    return LoadReport(
        source=files.name,
        files=paths,
        states=tuple(map(file_state, paths)),
        used=tuple(used),
        known_harmless=tuple(aside),
        unexpected=tuple(name for name in rest if name not in set(aside)),
        missing=tuple(name for name in shapes if name not in tensors),
        wrong_shape=tuple(f"{n}: {tensors[n].shape} in the files, {shapes[n]} by config.json" for n in wrong),
        stored_dtype=", ".join(sorted({dtype_name(tensors[name].dtype) for name in used})),
        dtype=dtype_name(dtype),
    )
