"""minibert: BERT on one page, published weights in, sentence vectors out.

The public names are found when they are first used: `import minibert` by itself imports neither torch nor anything
that could touch the network.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint.hub import HubError
    from .checkpoint.report import LoadReport
    from .checkpoint.tensors import CheckpointError
    from .config import BertConfig, ClassifierConfig, ConfigError
    from .cross_encoder import CrossEncoder
    from .encoder import SentenceEncoder
    from .heads import (
        BertForMaskedLM,
        BertForNextSentencePrediction,
        BertForPreTraining,
        BertForSequenceClassification,
        BertForTokenClassification,
    )
    from .model import Bert
    from .tokenizer import Tokenizer

__version__ = "0.1.0"

_ROOMS = {
    "Bert": "model",
    "BertConfig": "config",
    "BertForMaskedLM": "heads",
    "BertForNextSentencePrediction": "heads",
    "BertForPreTraining": "heads",
    "BertForSequenceClassification": "heads",
    "BertForTokenClassification": "heads",
    "CheckpointError": "checkpoint.tensors",
    "ClassifierConfig": "config",
    "ConfigError": "config",
    "CrossEncoder": "cross_encoder",
    "HubError": "checkpoint.hub",
    "LoadReport": "checkpoint.report",
    "SentenceEncoder": "encoder",
    "Tokenizer": "tokenizer",
}

__all__ = [
    "Bert",
    "BertConfig",
    "BertForMaskedLM",
    "BertForNextSentencePrediction",
    "BertForPreTraining",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "CheckpointError",
    "ClassifierConfig",
    "ConfigError",
    "CrossEncoder",
    "HubError",
    "LoadReport",
    "SentenceEncoder",
    "Tokenizer",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'minibert' has no attribute {name!r}")
    value = getattr(import_module(f".{_ROOMS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_ROOMS])
