"""Small heads on the page's Bert: BERT's two training tasks, and classifiers.

BERT learns to predict masked tokens and to tell if the second text followed the first (paper, section 3.1). The
classifiers label texts, pairs of texts, or tokens. All models are called as in transformers (modeling_bert.py there is
the reference), and each library loads the other's folders.

One letter joins the page's: L labels. Each model's Bert is called `bert`.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from .checkpoint.hub import HubOptions
from .checkpoint.load import load_bert
from .checkpoint.names import NEEDED
from .checkpoint.save import save_model
from .checkpoint.tensors import CheckpointError
from .config import BertConfig, ClassifierConfig
from .model import Activation, Bert, EncoderOutput, LayerNorm

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class HeadOutput(NamedTuple):
    """The `logits` of a model with one head, and Bert's `last_hidden_state` (B, S, D)."""

    logits: Tensor
    last_hidden_state: Tensor


class PreTrainingOutput(NamedTuple):
    """`prediction_logits` (B, S, V), `seq_relationship_logits` (B, 2), and Bert's `last_hidden_state` (B, S, D)."""

    prediction_logits: Tensor
    seq_relationship_logits: Tensor
    last_hidden_state: Tensor


class MaskedLMHead(nn.Module):
    """Score every token of the vocabulary at each position. x (..., D), table (V, D) -> (..., V)

    The table is the token embedding, used a second time to recognise tokens. It is an argument, so that the head owns
    only its bias; unless the config says otherwise: then it has a decoder, and does not read the argument.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = Activation(config.hidden_act)
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        own = not config.tie_word_embeddings
        self.decoder = nn.Embedding(config.vocab_size, config.hidden_size) if own else None  # another such table

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        table = table if self.decoder is None else self.decoder.weight
        return nn.functional.linear(self.norm(self.activation(self.dense(x))), table, self.bias)


class BertWithHead(nn.Module):
    """The base of all models below: a Bert, its call, and loading and saving.

    `from_pretrained` needs the head's weights in the files. To put a new head on a published Bert, build the model
    from a config and assign `bert`.
    """

    config_class: ClassVar[type[BertConfig]] = BertConfig  # another config raises TypeError
    reads_pooler: ClassVar[bool] = False  # True: the head reads the pooler, so Bert has one
    report: Any = None  # the LoadReport, after from_pretrained

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        if not isinstance(config, self.config_class):
            raise TypeError(f"{type(self).__name__} needs a {self.config_class.__name__}, not {type(config).__name__}")
        self.config = config
        self.bert = Bert(config, pooler=self.reads_pooler)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Any:
        return self.read(self.bert(input_ids, attention_mask, token_type_ids))

    def read(self, out: EncoderOutput) -> Any:
        """Apply the head to Bert's output: states (B, S, D), and the pooler's vectors (B, D) or None."""
        raise NotImplementedError

    @classmethod
    def for_checkpoint(cls, config: BertConfig, names: Collection[str]) -> Self:
        """Build the model that a checkpoint with tensors of these names fills."""
        return cls(config)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        **hub: Unpack[HubOptions],
    ) -> Self:
        """Load published weights from a folder or the hub. The arguments are those of `checkpoint.load.load_bert`."""
        return load_bert(name, into=cls, device=device, dtype=dtype, **hub)

    def save_pretrained(self, folder: str | os.PathLike[str], **settings: Any) -> None:
        """Write config.json and model.safetensors as transformers reads them; see `checkpoint.save.save_model`."""
        kind: Any = next((kind for kind in type(self).__mro__ if kind.__name__ in NEEDED), None)
        if kind is None:
            raise CheckpointError(f"{type(self).__name__} has no published form: keep it with torch.save")
        save_model(self, folder, lambda: kind(self.config), **settings, architectures=[kind.__name__])


class BertWithMaskedLM(BertWithHead):
    """The base of the two models with the masked-LM head."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.masked_lm = MaskedLMHead(config).apply(self.bert.initialise)

    def to_vocabulary(self, x: Tensor) -> Tensor:
        """Score all tokens from states at any positions and of any layer. (..., D) -> (..., V)"""
        return self.masked_lm(x, self.bert.embeddings.token.weight)


class BertForMaskedLM(BertWithMaskedLM):
    """Predict the tokens behind [MASK]. (B, S) -> HeadOutput, logits (B, S, V)"""

    def read(self, out: EncoderOutput) -> HeadOutput:
        return HeadOutput(self.to_vocabulary(out.last_hidden_state), out.last_hidden_state)


class BertForNextSentencePrediction(BertWithHead):
    """Tell if the second text followed the first (label 0) or not (label 1). (B, S) -> HeadOutput, logits (B, 2)"""

    reads_pooler = True

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.next_sentence = nn.Linear(config.hidden_size, 2).apply(self.bert.initialise)

    def read(self, out: EncoderOutput) -> HeadOutput:
        return HeadOutput(self.next_sentence(out.pooler_output), out.last_hidden_state)


class BertForPreTraining(BertWithMaskedLM):
    """Do both training tasks at once, as in the first published checkpoints. (B, S) -> PreTrainingOutput"""

    reads_pooler = True

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.next_sentence = nn.Linear(config.hidden_size, 2).apply(self.bert.initialise)

    def read(self, out: EncoderOutput) -> PreTrainingOutput:
        x, pooled = out
        return PreTrainingOutput(self.to_vocabulary(x), self.next_sentence(pooled), x)


class BertWithClassifier(BertWithHead):
    """The base of the two classifiers: dropout and one linear layer."""

    config_class = ClassifierConfig
    config: ClassifierConfig

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__(config)
        own = config.classifier_dropout
        self.dropout = nn.Dropout(config.hidden_dropout_prob if own is None else own)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels).apply(self.bert.initialise)


class BertForSequenceClassification(BertWithClassifier):
    """Score the labels of a text, or of a pair of texts. (B, S) -> HeadOutput, logits (B, L)"""

    reads_pooler = True

    def read(self, out: EncoderOutput) -> HeadOutput:
        return HeadOutput(self.classifier(self.dropout(out.pooler_output)), out.last_hidden_state)


class BertForTokenClassification(BertWithClassifier):
    """Score the labels of each token. (B, S) -> HeadOutput, logits (B, S, L)"""

    def read(self, out: EncoderOutput) -> HeadOutput:
        return HeadOutput(self.classifier(self.dropout(out.last_hidden_state)), out.last_hidden_state)
