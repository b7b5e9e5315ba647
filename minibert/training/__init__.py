"""Train a checkpoint: tasks, objectives, teachers, evaluators and one loop. docs/training.md shows them in use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .distill import LayerTask as LayerTask
    from .distill import SimilarityMatrix as SimilarityMatrix
    from .distill import SimilarityRanking as SimilarityRanking
    from .distill import TeacherVectors as TeacherVectors
    from .evaluate import NLIEvaluator as NLIEvaluator
    from .evaluate import RetrievalEvaluator as RetrievalEvaluator
    from .evaluate import STSEvaluator as STSEvaluator
    from .evaluate import TripletEvaluator as TripletEvaluator
    from .examples import Examples as Examples
    from .late import LateDistillation as LateDistillation
    from .late import LateInBatchNegatives as LateInBatchNegatives
    from .late import LateMarginMSE as LateMarginMSE
    from .late import LateTask as LateTask
    from .loop import DivergedError as DivergedError
    from .loop import train as train
    from .masked import MaskedLMEvaluator as MaskedLMEvaluator
    from .masked import MaskedLMTask as MaskedLMTask
    from .objectives import Combined as Combined
    from .objectives import CosineRegression as CosineRegression
    from .objectives import InBatchNegatives as InBatchNegatives
    from .objectives import Matryoshka as Matryoshka
    from .objectives import Objective as Objective
    from .objectives import Softmax as Softmax
    from .objectives import Triplet as Triplet
    from .reading import NLI_CLASSES as NLI_CLASSES
    from .reading import read_examples as read_examples
    from .run_folder import ResumeError as ResumeError
    from .settings import Settings as Settings
    from .sparse import SparseTask as SparseTask
    from .sparse import Splade as Splade
    from .task import SentenceTask as SentenceTask
    from .task import Task as Task

_NAMES = {
    "distill": "LayerTask SimilarityMatrix SimilarityRanking TeacherVectors",
    "evaluate": "NLIEvaluator RetrievalEvaluator STSEvaluator TripletEvaluator",
    "examples": "Examples",
    "late": "LateDistillation LateInBatchNegatives LateMarginMSE LateTask",
    "loop": "DivergedError train",
    "masked": "MaskedLMEvaluator MaskedLMTask",
    "objectives": "Combined CosineRegression InBatchNegatives Matryoshka Objective Softmax Triplet",
    "reading": "NLI_CLASSES read_examples",
    "run_folder": "ResumeError",
    "settings": "Settings",
    "sparse": "SparseTask Splade",
    "task": "SentenceTask Task",
}
_FILES = {name: file for file, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_FILES)


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module 'minibert.training' has no attribute {name!r}")
    value = getattr(import_module(f".{_FILES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_FILES})
