"""What a CrossEncoder takes: pairs of texts, activations, numbers of labels, and old names of sentence-transformers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from .call import as_list, check_options, check_texts
from .checkpoint.cross_encoders import Activation
from .config import ClassifierConfig, check_count
from .model_calls import ELSEWHERE, ModelCalls

# Old keywords of sentence-transformers' CrossEncoder that only were renamed.
RENAMED = {
    "model_name": "model_name_or_path",
    "automodel_args": "model_kwargs",
    "default_activation_function": "activation_fn",
}
TOKENIZER = "give max_length, or CrossEncoder(model, tokenizer) with a Tokenizer that you loaded"
CONFIG = "leave it out, or change the parts of encoder.model"
TRAINING = (
    "minibert trains no cross-encoders by itself; encoder(**batch) gives logits with gradients for a loop of yours"
)


class PairCalls(ModelCalls):
    """What sentence-transformers calls on a CrossEncoder, besides `predict` and `rank`."""

    elsewhere: Mapping[str, str] = {
        **ELSEWHERE,
        "modules": "build CrossEncoder(model, tokenizer) from its parts",
        **dict.fromkeys(("processor_kwargs", "tokenizer_kwargs", "tokenizer_args"), TOKENIZER),
        **dict.fromkeys(("config_kwargs", "config_args"), CONFIG),
        **dict.fromkeys(("fit", "old_fit"), TRAINING),
        "classifier_dropout": "it is for training alone: set encoder.model.dropout.p",
        "keep_in_fp32_modules": "load with dtype='float32', which is the default; scores are float32 at least",
        "set_keep_in_fp32_modules": "load with dtype='float32', which is the default; scores are float32 at least",
        "tokenize": "call encoder.tokenizer(first, second, return_tensors='pt')",
        "preprocess": "call encoder.tokenizer(first, second, return_tensors='pt')",
    }
    activation_fn: Activation
    max_length = ModelCalls.max_seq_length  # its old name

    @property
    def config(self) -> ClassifierConfig:
        """Of the model: sizes, and the names of its labels."""
        config: ClassifierConfig = self.model.config
        return config

    @property
    def num_labels(self) -> int:
        """Return L, the number of scores of a pair."""
        return self.config.num_labels

    @property
    def default_activation_function(self) -> Activation:
        """Return ``activation_fn``; its old name."""
        return self.activation_fn

    @default_activation_function.setter
    def default_activation_function(self, activation: Activation) -> None:
        self.activation_fn = activation

    def for_processes(self, texts: Any, options: dict[str, Any]) -> tuple[list[Any], bool, dict[str, Any]]:
        """Return the pairs in a list, whether it was a single one, and the call's options with the activation.

        Raises:
            TypeError, ValueError: as `predict`.
        """
        own = {"activation_fn", "apply_softmax", "convert_to_numpy", "convert_to_tensor"}
        check_options("CrossEncoder.predict", {name: value for name, value in options.items() if name not in own})
        rows, single = as_pairs(texts)
        check_texts([first for first, _ in rows], "the first text of pair {}")
        check_texts([second for _, second in rows], "the second text of pair {}")
        activation = chosen_activation(options.get("activation_fn"), self)
        return rows, single, {**self._as_set_now(**options), "activation_fn": activation}

    def __setattr__(self, name: str, value: Any) -> None:
        """Check an activation. A torch.nn.Sigmoid() is no part of the model, and may give way to a function."""
        if name == "activation_fn":
            check_activation(value)
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)


def as_pairs(inputs: Iterable[Any]) -> tuple[list[Any], bool]:
    """Return a list of pairs, and whether it was a single one.

    Raises:
        TypeError: it is not a list. ValueError: something in it is not a pair.
    """
    if isinstance(inputs, (str, bytes)) or not isinstance(inputs, Iterable):
        raise TypeError(f"expected a pair of texts or a list of pairs, not {type(inputs).__name__}")
    rows = inputs.tolist() if isinstance(inputs, np.ndarray) else as_list(inputs)
    single = bool(rows) and isinstance(rows[0], str)
    rows = [rows] if single else rows
    for i, row in enumerate(rows):
        if isinstance(row, str) or not isinstance(row, Sequence) or len(row) != 2:
            raise ValueError(f"pair {i} must be two texts, but is {row!r:.80}")
    return rows, single


def usual_activation(name: str | None, num_labels: int) -> nn.Module:
    """Return the module of a name in ``pooling.DENSE_ACTIVATIONS``; None: a sigmoid for one label, or nothing."""
    name = name or ("Sigmoid" if num_labels == 1 else "Identity")
    module: nn.Module = getattr(nn, name)()
    return module


def chosen_activation(given: Activation | None, own: PairCalls) -> Activation:
    """Return the activation of a call. Raise TypeError if it is none."""
    if given is None:
        return own.activation_fn
    check_activation(given)
    return given


def check_activation(activation: object, *, optional: bool = False) -> None:
    """Raise TypeError unless it can be called with logits; ``optional``: or is None."""
    if optional and activation is None:
        return
    if isinstance(activation, type) or not callable(activation):
        kind = f"the class {activation.__name__}" if isinstance(activation, type) else f"{activation!r:.80}"
        usual = "such as torch.nn.Sigmoid(), torch.nn.Identity() or torch.tanh"
        raise TypeError(f"activation_fn must be a function of the logits, {usual}, not {kind}")


def check_labels(num_labels: int | None, config: ClassifierConfig) -> None:
    """Raise ValueError if another number of labels is asked for than a checkpoint's classifier has."""
    check_count("num_labels", num_labels, optional=True)
    if num_labels not in (None, config.num_labels):
        names = ", ".join(config.id2label.values())
        advice = "leave num_labels out; or build CrossEncoder(model, tokenizer) of a BertForSequenceClassification"
        raise ValueError(
            f"num_labels={num_labels}, but the checkpoint's classifier has {config.num_labels} ({names:.80}): {advice} "
            "with a classifier of that size, and train it"
        )


def renamed(options: Mapping[str, Any]) -> dict[str, Any]:
    """Give old keywords of loading their new names, unless these have a value."""
    new = {RENAMED[name]: value for name, value in options.items() if name in RENAMED}
    kept = {name: value for name, value in options.items() if name not in RENAMED}
    return {**kept, **{name: value for name, value in new.items() if kept.get(name) is None}}
