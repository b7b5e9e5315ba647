"""The numbers that fix a BERT's shape, under the very names that config.json uses."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

AnyConfig = TypeVar("AnyConfig", bound="BertConfig")
AnyClassifierConfig = TypeVar("AnyClassifierConfig", bound="ClassifierConfig")

ACTIVATIONS = ("gelu", "gelu_new", "relu", "silu")
POSITION_TYPES = ("absolute", "relative_key", "relative_key_query")
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
MOST_LABELS = 1 << 20  # so that no file makes us name more of them than memory holds

_LATER: Any = None  # __post_init__ fills it in

# Without these a config.json does not say which model it describes. The rest has one value in nearly every BERT ever
# published (transformers' BertConfig has the same defaults), and Google's own files leave some of it out.
REQUIRED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)


class ConfigError(ValueError):
    """A configuration that is damaged, or asks for arithmetic that BERT (or minibert) does not have."""


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """The shape and arithmetic of one BERT. The defaults are BERT-base, uncased (arXiv 1810.04805, section 3).

    Raises:
        ConfigError: a value of the wrong type, out of its range, or unknown. The message names the field.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"  # exact, with erf; "gelu_new" is the tanh form of Google's first code
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    position_embedding_type: str = "absolute"
    pruned_heads: Mapping[int, Sequence[int]] = field(default_factory=dict, hash=False)  # of each layer: what it lost

    def __post_init__(self) -> None:
        for name in (*REQUIRED, "type_vocab_size"):
            if not _is_integer(value := getattr(self, name)) or value < 1:
                raise ConfigError(f"{name} must be a whole number of at least 1, but is {value!r}")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not _is_number(value := getattr(self, name)) or not 0 <= value <= 1:
                raise ConfigError(f"{name} must be a probability from 0 to 1, but is {value!r}")
        for name in ("layer_norm_eps", "initializer_range"):
            if not _is_number(value := getattr(self, name)) or not 0 < value < math.inf:
                raise ConfigError(f"{name} must be a number above 0, but is {value!r}")
        _one_of("hidden_act", self.hidden_act, ACTIVATIONS)
        _one_of("position_embedding_type", self.position_embedding_type, POSITION_TYPES)
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} can't be shared out among num_attention_heads "
                f"{self.num_attention_heads}: it must be a multiple"
            )
        pad = self.pad_token_id
        if pad is not None and (not _is_integer(pad) or not 0 <= pad < self.vocab_size):
            raise ConfigError(f"pad_token_id must be null or an id below vocab_size {self.vocab_size}, but is {pad!r}")
        lost = _pruned(self.pruned_heads, self.num_hidden_layers, self.num_attention_heads)
        object.__setattr__(self, "pruned_heads", lost)

    @property
    def head_size(self) -> int:
        """K, the width of one attention head (the paper's d_k)."""
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_dict(cls: type[AnyConfig], values: Mapping[str, Any]) -> AnyConfig:
        """Build from the contents of a config.json (transformers') or a bert_config.json (Google's).

        Such files hold dozens of fields that do not touch the arithmetic: those are passed over. A field that asks
        for other arithmetic is refused, because weights would load and the numbers would be wrong.

        Raises:
            ConfigError: a size is missing, a value is wrong, or the file describes no BERT encoder.
        """
        model_type = values.get("model_type", "bert")  # Google's files have no model_type
        if model_type != "bert":
            raise ConfigError(
                f"model_type is {model_type!r}, and minibert computes 'bert' only. (RoBERTa and others use the same "
                "tensor names with other positions, so loading them would give wrong numbers.)"
            )
        for name in ("is_decoder", "add_cross_attention"):
            if values.get(name):
                raise ConfigError(f"{name} is {values[name]!r}: minibert is the encoder only, it has no decoder")
        if missing := [name for name in REQUIRED if name not in values]:
            raise ConfigError(f"the configuration does not say {', '.join(missing)}")
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})

    @classmethod
    def from_file(cls: type[AnyConfig], path: str | Path) -> AnyConfig:
        """Read config.json or bert_config.json.

        Raises:
            OSError: the file can't be read.
            ConfigError: as ``from_dict``, or the file is no JSON object. The message begins with the path.
        """
        values = read_json_object(path)
        try:
            return cls.from_dict(values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """The contents of a config.json that transformers loads as a BertModel."""
        values = asdict(self)
        if not self.pruned_heads:  # a field of transformers 4 alone
            del values["pruned_heads"]
        return {"architectures": ["BertModel"], "model_type": "bert", **values}


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(BertConfig):
    """A BertConfig that also says what a classifier on top of it tells apart.

    ``num_labels`` is enough: the names are then LABEL_0, LABEL_1, ..., as in transformers' PreTrainedConfig. With
    ``id2label`` it is the number of names; a config.json that says both goes by the names.

    Raises:
        ConfigError: as BertConfig; or names and number disagree.
    """

    num_labels: int = _LATER  # as many as there are names, or 2
    id2label: dict[int, str] = field(default=_LATER, hash=False)  # LABEL_0, LABEL_1, ...
    label2id: dict[str, int] = field(default=_LATER, hash=False)  # id2label read backwards
    problem_type: str | None = None  # which loss it was trained by; the numbers that come out don't depend on it
    classifier_dropout: float | None = None  # None: as hidden_dropout_prob

    def __post_init__(self) -> None:
        super().__post_init__()
        count: int | None = self.num_labels
        names: Any = self.id2label
        if count is not None and (not _is_integer(count) or not 1 <= count <= MOST_LABELS):
            raise ConfigError(f"num_labels must be a whole number from 1 to {MOST_LABELS}, but is {count!r}")
        if names is None:
            names = {i: f"LABEL_{i}" for i in range(2 if count is None else count)}
        try:
            names = {int(i): name for i, name in names.items()}  # JSON has them as strings
        except (AttributeError, TypeError, ValueError):
            names = {}
        if not names or not all(isinstance(name, str) for name in names.values()):
            raise ConfigError(f"id2label must map numbers to names, at least one, but is {self.id2label!r}")
        if count is not None and count != len(names):
            raise ConfigError(f"num_labels is {count}, but id2label has {len(names)} names")
        if not isinstance(self.label2id, dict | None):
            raise ConfigError(f"label2id must map names to numbers, but is {self.label2id!r}")
        if self.problem_type is not None:
            _one_of("problem_type", self.problem_type, PROBLEM_TYPES)
        dropout = self.classifier_dropout
        if dropout is not None and (not _is_number(dropout) or not 0 <= dropout <= 1):
            raise ConfigError(f"classifier_dropout must be null or a probability from 0 to 1, but is {dropout!r}")
        object.__setattr__(self, "num_labels", len(names))
        object.__setattr__(self, "id2label", names)
        object.__setattr__(self, "label2id", self.label2id or {name: i for i, name in names.items()})

    @classmethod
    def from_dict(cls: type[AnyClassifierConfig], values: Mapping[str, Any]) -> AnyClassifierConfig:
        """As BertConfig's; where names and number disagree, the names count."""
        named = values.get("id2label") is not None
        return super().from_dict({k: v for k, v in values.items() if k != "num_labels" or not named})

    def to_dict(self) -> dict[str, Any]:
        """As BertConfig's, with the names; transformers counts them itself."""
        return {name: value for name, value in super().to_dict().items() if name != "num_labels"}


def read_json_object(path: str | Path) -> dict[str, Any]:
    """Read a file that must hold one JSON object; every small file of a checkpoint but modules.json is one.

    Raises:
        OSError: the file can't be read.
        ConfigError: it is not UTF-8, not JSON, or not an object. The message begins with the path.
    """
    values = read_json(path)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values


def read_json(path: str | Path) -> Any:
    """Read a JSON file. Raises ConfigError, beginning with the path, when it is damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a JSON file ({error})") from None


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _pruned(value: object, layers: int, heads: int) -> dict[int, list[int]]:
    """The same with layers as numbers, which JSON can't have for keys, and without layers that have lost nothing."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"pruned_heads must be {{layer: heads that it has lost}}, but is {value!r}")
    pruned = {}
    for key, lost in value.items():
        layer = int(key) if isinstance(key, str) and key.isdecimal() else key
        if not _is_integer(layer) or layer not in range(layers):
            raise ConfigError(f"pruned_heads is for layers 0 to {layers - 1}, and not {key!r}")
        if not isinstance(lost, (list, tuple)) or not all(_is_integer(head) and head in range(heads) for head in lost):
            raise ConfigError(f"pruned_heads of layer {layer} must be heads from 0 to {heads - 1}, but is {lost!r}")
        if len(set(lost)) == heads:
            raise ConfigError(f"pruned_heads of layer {layer} leaves it none of its {heads} heads")
        if lost:
            pruned[layer] = sorted(set(lost))
    return pruned


def _one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{name} {value!r} is unknown; minibert computes {', '.join(known)}")
