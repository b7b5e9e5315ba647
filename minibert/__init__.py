"""minibert: BERT on one page, published weights in, sentence vectors out.

Public names are imported on first use: `import minibert` alone imports neither torch nor anything that can reach the
network.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint.hub import HubError as HubError
    from .checkpoint.load import WrongTensorsError as WrongTensorsError
    from .checkpoint.report import LoadReport as LoadReport
    from .checkpoint.tensors import CheckpointError as CheckpointError
    from .config import BertConfig as BertConfig
    from .config import ClassifierConfig as ClassifierConfig
    from .config import ConfigError as ConfigError
    from .cross_encoder import CrossEncoder as CrossEncoder
    from .encoder import SentenceEncoder as SentenceEncoder
    from .heads import BertForMaskedLM as BertForMaskedLM
    from .heads import BertForNextSentencePrediction as BertForNextSentencePrediction
    from .heads import BertForPreTraining as BertForPreTraining
    from .heads import BertForSequenceClassification as BertForSequenceClassification
    from .heads import BertForTokenClassification as BertForTokenClassification
    from .model import Bert as Bert
    from .retrieval.late import TokenVectors as TokenVectors
    from .retrieval.multi_vector_encoder import MultiVectorEncoder as MultiVectorEncoder
    from .retrieval.sparse_encoder import SparseEncoder as SparseEncoder
    from .token_pooling import HierarchicalTokenPooling as HierarchicalTokenPooling
    from .tokenizer import Tokenizer as Tokenizer
    from .truncation import TooLongError as TooLongError
    from .vectors import quantize_embeddings as quantize_embeddings
    from .vectors import similarity as similarity

__version__ = "1.0.0rc1"

_NAMES = {
    "checkpoint.hub": "HubError",
    "checkpoint.load": "WrongTensorsError",
    "checkpoint.report": "LoadReport",
    "checkpoint.tensors": "CheckpointError",
    "config": "BertConfig ClassifierConfig ConfigError",
    "cross_encoder": "CrossEncoder",
    "encoder": "SentenceEncoder",
    "heads": "BertForMaskedLM BertForNextSentencePrediction BertForPreTraining BertForSequenceClassification "
    "BertForTokenClassification",
    "retrieval.late": "TokenVectors",
    "model": "Bert",
    "retrieval.multi_vector_encoder": "MultiVectorEncoder",
    "token_pooling": "HierarchicalTokenPooling",
    "retrieval.sparse_encoder": "SparseEncoder",
    "tokenizer": "Tokenizer",
    "truncation": "TooLongError",
    "vectors": "quantize_embeddings similarity",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'minibert' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
