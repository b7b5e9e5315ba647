"""The numbers that define a BERT, under the names that config.json uses."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

ACTIVATIONS = ("gelu", "gelu_new", "relu", "silu")
POSITION_TYPES = ("absolute", "relative_key", "relative_key_query")
USUAL_PROMPTS = "query", "document"  # of every model of sentence-transformers, empty unless it says otherwise
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
MOST_LABELS = 1 << 20  # more names than this could fill the memory
LARGEST = 1 << 30  # the product of two larger sizes could overflow

_LATER: Any = None  # __post_init__ fills it in

# A config.json must have these. The other fields have one value in nearly every published BERT (transformers has the
# same defaults), and Google's own files omit some of them.
REQUIRED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)


def in_short(text: str) -> str:
    """Cut the middle of long lines, and the end of many: a file may hold names and values of any length."""
    lines = [line if len(line) <= 1500 else f"{line[:1200]} ... {line[-200:]}" for line in text.split("\n")]
    return "\n".join(lines if len(lines) <= 999 else [*lines[:999], f"... and {len(lines) - 999} more"])


class FileError(ValueError):
    """The base of the errors about what a file says. Its message is never of the length of a file."""

    def __init__(self, text: str) -> None:
        super().__init__(in_short(text))


class ConfigError(FileError):
    """The configuration is damaged, or asks for arithmetic that minibert does not compute."""


@contextmanager
def named(source: object) -> Iterator[None]:
    """Let a ConfigError begin with the file or folder that it is about, unless it does."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(str(error) if str(error).startswith(str(source)) else f"{source}: {error}") from None


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """The shape and arithmetic of one BERT. The defaults are BERT-base, uncased (arXiv 1810.04805, section 3).

    Raises:
        ConfigError: a value is of the wrong type, out of its range, or unknown. The message names the field.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"  # exact, by erf; "gelu_new" is the tanh form in Google's first code
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    position_embedding_type: str = "absolute"
    tie_word_embeddings: bool = True  # False: the masked-LM head has a matrix of its own
    pruned_heads: Mapping[int, Sequence[int]] = field(default_factory=dict, hash=False)  # layer: removed heads

    def __post_init__(self) -> None:
        for name in (*REQUIRED, "type_vocab_size"):
            if not is_integer(value := getattr(self, name), 1, LARGEST):
                raise ConfigError(f"{name} must be a whole number from 1 to {LARGEST}, but is {value!r}")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not _is_probability(value := getattr(self, name)):
                raise ConfigError(f"{name} must be a probability from 0 to 1, but is {value!r}")
        for name in ("layer_norm_eps", "initializer_range"):
            if not _is_number(value := getattr(self, name)) or not 0 < value < 1e6:  # torch takes no int of any size
                raise ConfigError(f"{name} must be a number above 0 and below 1e6, but is {value!r}")
        _check_one_of("hidden_act", self.hidden_act, ACTIVATIONS)
        _check_one_of("position_embedding_type", self.position_embedding_type, POSITION_TYPES)
        if not isinstance(self.tie_word_embeddings, bool):
            raise ConfigError(f"tie_word_embeddings must be true or false, but is {self.tie_word_embeddings!r}")
        size, heads, pad = self.hidden_size, self.num_attention_heads, self.pad_token_id
        if size % heads:
            raise ConfigError(f"hidden_size {size} must be a multiple of num_attention_heads {heads}")
        if pad is not None and not is_integer(pad, 0, self.vocab_size - 1):
            raise ConfigError(f"pad_token_id must be null or an id below vocab_size {self.vocab_size}, but is {pad!r}")
        object.__setattr__(self, "pruned_heads", _pruned(self.pruned_heads, self.num_hidden_layers, heads))

    @property
    def head_size(self) -> int:
        """K, the width of one attention head (the paper's d_k)."""
        return self.hidden_size // self.num_attention_heads

    def check_batch(self, input_ids: Any, attention_mask: Any, token_type_ids: Any, *, values: bool = True) -> None:
        """Raise for a batch that a BERT of this shape can't compute, with the numbers in the message; see `Bert`.

        Without ``values`` only shapes and dtypes are checked, as where torch traces and there are no numbers.

        Raises:
            ValueError: S is 0 or above max_position_embeddings, shapes disagree, or a number is out of its range.
            TypeError: ids are no tensor, or not int64 or int32, or a mask holds floating-point numbers.
        """
        if not hasattr(input_ids, "shape"):
            raise TypeError(f"input_ids must be a tensor, not {type(input_ids).__name__}: of a dict, model(**batch)")
        longest, shape = self.max_position_embeddings, tuple(input_ids.shape)
        if len(shape) != 2 or not 0 < shape[1] <= longest:
            raise ValueError(f"input_ids must be (batch, 1 to {longest} tokens), not {shape}")
        if attention_mask is not None:
            _check_mask(attention_mask, shape, values=values)
        sizes = {"input_ids": self.vocab_size, "token_type_ids": self.type_vocab_size}
        for (name, size), ids in zip(sizes.items(), (input_ids, token_type_ids), strict=True):
            if ids is None:
                continue
            if tuple(ids.shape) != shape:
                raise ValueError(f"{name} {tuple(ids.shape)} does not fit input_ids {shape}")
            if str(ids.dtype) not in ("torch.int64", "torch.int32"):
                raise TypeError(f"{name} must be int64 or int32, not {ids.dtype}")
            if values and ids.device.type == "cpu" and len(ids):  # reading elsewhere would make the device wait
                _check_range(name, ids, size)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from the contents of a config.json (transformers) or a bert_config.json (Google).

        Fields without influence on the arithmetic are ignored. A field that asks for other arithmetic is refused
        (ConfigError), because the weights would load and give wrong numbers.
        """
        model_type = values.get("model_type", "bert")  # Google's files have no model_type
        if model_type != "bert":
            # RoBERTa and others use the same tensor names with other positions: they would load, and compute wrongly.
            raise ConfigError(f"model_type is {model_type!r}, and minibert computes 'bert' only")
        for name in ("is_decoder", "add_cross_attention"):
            if values.get(name):
                raise ConfigError(f"{name} is {values[name]!r}: minibert computes encoders, not decoders")
        if missing := [name for name in REQUIRED if name not in values]:
            raise ConfigError(f"the configuration does not say {', '.join(missing)}")
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read config.json or bert_config.json. Raise ConfigError, which begins with the path, or OSError."""
        values = read_json(path)
        with named(path):
            return cls.from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of a config.json that transformers loads as a BertModel."""
        values = asdict(self)
        if not self.pruned_heads:  # a field of transformers 4 alone
            del values["pruned_heads"]
        return {"architectures": ["BertModel"], "model_type": "bert", **values}


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(BertConfig):
    """A BertConfig with the labels of a classifier. It raises ConfigError too if their names and number disagree.

    ``num_labels`` alone names them LABEL_0, LABEL_1, ..., as in transformers' PreTrainedConfig. If a config.json has
    both ``num_labels`` and ``id2label``, the names count.
    """

    num_labels: int = _LATER  # the number of names, or 2
    id2label: dict[int, str] = field(default=_LATER, hash=False)  # LABEL_0, LABEL_1, ...
    label2id: dict[str, int] = field(default=_LATER, hash=False)  # id2label read backwards
    problem_type: str | None = None  # the loss of its training; the logits don't depend on it
    classifier_dropout: float | None = None  # None: hidden_dropout_prob

    def __post_init__(self) -> None:
        super().__post_init__()
        count: int | None = self.num_labels
        names: Any = self.id2label
        if count is not None and not is_integer(count, 1, MOST_LABELS):
            raise ConfigError(f"num_labels must be a whole number from 1 to {MOST_LABELS}, but is {count!r}")
        if names is None:
            names = {i: f"LABEL_{i}" for i in range(2 if count is None else count)}
        try:
            names = {int(i): name for i, name in names.items()}  # JSON keys are strings
        except (AttributeError, TypeError, ValueError):
            names = {}
        if not names or not all(isinstance(name, str) for name in names.values()):
            raise ConfigError(f"id2label must map numbers to names, at least one, but is {self.id2label!r}")
        if count not in (None, len(names)):
            raise ConfigError(f"num_labels is {count}, but id2label has {len(names)} names")
        if not isinstance(self.label2id, dict | None):
            raise ConfigError(f"label2id must map names to numbers, but is {self.label2id!r}")
        if self.problem_type is not None:
            _check_one_of("problem_type", self.problem_type, PROBLEM_TYPES)
        dropout = self.classifier_dropout
        if dropout is not None and not _is_probability(dropout):
            raise ConfigError(f"classifier_dropout must be null or a probability from 0 to 1, but is {dropout!r}")
        object.__setattr__(self, "num_labels", len(names))
        object.__setattr__(self, "id2label", names)
        object.__setattr__(self, "label2id", self.label2id or {name: i for i, name in names.items()})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build as BertConfig does. If names and number disagree, the names count."""
        named = values.get("id2label") is not None
        return super().from_dict({k: v for k, v in values.items() if k != "num_labels" or not named})

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of a config.json with the names, which transformers counts itself."""
        return {name: value for name, value in super().to_dict().items() if name != "num_labels"}


def read_json(path: str | Path, kind: type[dict[str, Any] | list[Any]] = dict) -> Any:
    """Read a JSON file with one object, or a list. Raise ConfigError, which begins with the path, if it is damaged."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a JSON file ({error})") from None
    if not isinstance(values, kind):
        wanted = "object" if kind is dict else "list"
        raise ConfigError(f"{path}: expected a JSON {wanted}, found {type(values).__name__}")
    return values


def is_integer(value: object, lowest: int, highest: float = math.inf) -> bool:
    """Tell if a value is a whole number in these bounds. JSON's true isn't, though Python's is."""
    return isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest


def check_count(name: str, value: object, *, optional: bool = False) -> None:
    """Raise ValueError unless an option is a whole number, at least 1, Python's or numpy's; ``optional``: or None."""
    if optional and value is None:
        return
    if type(value) is bool or not isinstance(value, Integral) or int(value) < 1:  # True is hardly meant
        raise ValueError(f"{name} must be a whole number, at least 1, not {value!r}")


def _check_mask(mask: Any, shape: tuple[int, ...], *, values: bool) -> None:
    if mask.is_floating_point():
        raise TypeError(f"attention_mask must be bool or 0/1 (1 = a token), not {mask.dtype}")
    if mask.shape not in (shape, (*shape, shape[1])):
        raise ValueError(f"attention_mask {tuple(mask.shape)} does not fit input_ids {shape}")
    if values and str(mask.dtype) != "torch.bool" and mask.device.type == "cpu" and len(mask):
        _check_range("attention_mask", mask, 2)


def _check_range(name: str, ids: Any, size: int) -> None:
    try:
        lowest, highest = map(int, ids.aminmax())
    except RuntimeError:  # torch.vmap has no single number to give
        return
    if not 0 <= lowest <= highest < size:
        raise ValueError(f"{name} must be from 0 to {size - 1}, but go from {lowest} to {highest}")


def _check_one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{name} {value!r} is unknown; minibert computes {', '.join(known)}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_probability(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _pruned(value: object, layers: int, heads: int) -> dict[int, list[int]]:
    """Check pruned_heads, convert JSON's keys to numbers, and drop layers that keep all heads."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"pruned_heads must be {{layer: removed heads}}, but is {value!r}")
    pruned = {}
    for key, lost in value.items():
        layer = int(key) if isinstance(key, str) and key.isdecimal() else key
        if not is_integer(layer, 0, layers - 1):
            raise ConfigError(f"pruned_heads is for layers 0 to {layers - 1}, not {key!r}")
        if not isinstance(lost, (list, tuple)) or not all(is_integer(head, 0, heads - 1) for head in lost):
            raise ConfigError(f"pruned_heads of layer {layer} must be heads from 0 to {heads - 1}, but is {lost!r}")
        if len(set(lost)) == heads:
            raise ConfigError(f"pruned_heads of layer {layer} leaves it none of its {heads} heads")
        if lost:
            pruned[layer] = sorted(set(lost))
    return pruned
