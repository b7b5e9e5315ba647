"""Train a checkpoint: objectives, a loop of one page, teachers. docs/training.md shows it in use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .distill import LayerTask, SimilarityMatrix, TeacherVectors
    from .evaluate import NLIEvaluator, RetrievalEvaluator, STSEvaluator, TripletEvaluator
    from .examples import Examples
    from .loop import DivergedError, train
    from .masked import MaskedLMEvaluator, MaskedLMTask
    from .objectives import Combined, CosineRegression, InBatchNegatives, Matryoshka, Objective, Softmax, Triplet
    from .reading import NLI_CLASSES, read_examples
    from .resume import ResumeError
    from .settings import Settings
    from .task import SentenceTask, Task

_FILES = {
    "Combined": "objectives",
    "CosineRegression": "objectives",
    "DivergedError": "loop",
    "Examples": "examples",
    "InBatchNegatives": "objectives",
    "LayerTask": "distill",
    "MaskedLMEvaluator": "masked",
    "MaskedLMTask": "masked",
    "Matryoshka": "objectives",
    "NLIEvaluator": "evaluate",
    "NLI_CLASSES": "files",
    "Objective": "objectives",
    "ResumeError": "resume",
    "RetrievalEvaluator": "evaluate",
    "STSEvaluator": "evaluate",
    "SentenceTask": "task",
    "Settings": "settings",
    "SimilarityMatrix": "distill",
    "Softmax": "objectives",
    "Task": "task",
    "TeacherVectors": "distill",
    "Triplet": "objectives",
    "TripletEvaluator": "evaluate",
    "read_examples": "files",
    "train": "loop",
}

__all__ = [
    "NLI_CLASSES",
    "Combined",
    "CosineRegression",
    "DivergedError",
    "Examples",
    "InBatchNegatives",
    "LayerTask",
    "MaskedLMEvaluator",
    "MaskedLMTask",
    "Matryoshka",
    "NLIEvaluator",
    "Objective",
    "ResumeError",
    "RetrievalEvaluator",
    "STSEvaluator",
    "SentenceTask",
    "Settings",
    "SimilarityMatrix",
    "Softmax",
    "Task",
    "TeacherVectors",
    "Triplet",
    "TripletEvaluator",
    "read_examples",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module 'minibert.training' has no attribute {name!r}")
    value = getattr(import_module(f".{_FILES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_FILES])
