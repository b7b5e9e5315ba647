"""Tell which class a published folder is for, by the files that sentence-transformers, PyLate and ColBERT write."""

from __future__ import annotations

from pathlib import Path

from ..config import ConfigError, read_json
from .hub import CheckpointFiles
from .sentence_transformers import SETTINGS

ROUTER_SETTINGS = "router_config.json"

# What config_sentence_transformers.json calls its model, and the class that loads it here. ColBERT is PyLate's.
MODEL_TYPES = {
    "SentenceTransformer": "SentenceEncoder",
    "CrossEncoder": "CrossEncoder",
    "SparseEncoder": "SparseEncoder",
    "MultiVectorEncoder": "MultiVectorEncoder",
    "ColBERT": "MultiVectorEncoder",
}
SPARSE = {"MLMTransformer", "SpladePooling", "SparseStaticEmbedding", "IDF", "SparseAutoEncoder"}


def kind_of(files: CheckpointFiles) -> str | None:
    """Return the class's name; None where the files leave it open, as those of a plain BERT do.

    Raises HubError if the model can't be had, ConfigError if a file is damaged.
    """
    files.pin()
    if (path := files.get("modules.json", quiet=True)) is not None:
        return _kind_of_modules(files, path)
    if "HF_ColBERT" in architectures(files) or files.cached("artifact.metadata"):
        return "MultiVectorEncoder"
    return _classifier(files)


def check_kind(files: CheckpointFiles, kind: str) -> None:
    """Raise ConfigError, with the class that fits, if the files are for another class than ``kind``."""
    if (found := kind_of(files)) not in (None, kind):
        raise ConfigError(f"{files.name} is for {found}, not for {kind}: load it by {found}.from_pretrained")


def _kind_of_modules(files: CheckpointFiles, path: Path) -> str | None:
    rows = [row for row in read_json(path, list) if isinstance(row, dict)]
    types = [str(row.get("type")) for row in rows]
    if any(kind.startswith("pylate.") for kind in types):
        return "MultiVectorEncoder"
    said = files.read_object(SETTINGS, quiet=True).get("model_type")
    if isinstance(said, str) and said in MODEL_TYPES:
        return MODEL_TYPES[said]
    names = [kind.rsplit(".", 1)[-1] for kind in types]
    below = files.below(str(rows[0].get("path") or "")) if rows else files
    if names[:1] == ["Router"]:
        routed = below.read_object(ROUTER_SETTINGS, quiet=True).get("types")
        names += [str(kind).rsplit(".", 1)[-1] for kind in (routed.values() if isinstance(routed, dict) else ())]
    if SPARSE & {*names}:
        return "SparseEncoder"
    if "Pooling" in names:
        return "SentenceEncoder"
    if "Dense" in names[1:2] or "MultiVectorMask" in names:  # a vector for each token
        return "MultiVectorEncoder"
    return _classifier(below) if names == ["Transformer"] else None


def _classifier(files: CheckpointFiles) -> str | None:
    return "CrossEncoder" if "BertForSequenceClassification" in architectures(files) else None


def architectures(files: CheckpointFiles) -> list[object]:
    """Return transformers' classes that config.json names."""
    said = files.read_object("config.json", quiet=True).get("architectures")
    return said if isinstance(said, list) else []
