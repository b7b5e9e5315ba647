"""What BERT was trained by and is put to use with: small heads on the page's Bert.

Two come from its training (paper, section 3.1): tell the tokens behind [MASK], and tell whether the second text
followed the first. The others are classifiers, of texts (or pairs of them) and of tokens. The models are called as in
transformers (modeling_bert.py there is the reference) and load its folders, as it loads theirs.

Beside the page's letters: L labels. In each model the Bert is `bert`; the other names are those of its head.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from .checkpoint.load import load_bert
from .checkpoint.names import NEEDED
from .checkpoint.save import save_model
from .checkpoint.tensors import CheckpointError
from .config import BertConfig, ClassifierConfig
from .model import Activation, Bert, LayerNorm

AnyHead = TypeVar("AnyHead", bound="BertWithHead")


class HeadOutput(NamedTuple):
    """What a model with one head returns: its `logits`, and the `last_hidden_state` (B, S, D) that Bert gave."""

    logits: Tensor
    last_hidden_state: Tensor


class PreTrainingOutput(NamedTuple):
    """`prediction_logits` (B, S, V), `seq_relationship_logits` (B, 2), and the `last_hidden_state` (B, S, D)."""

    prediction_logits: Tensor
    seq_relationship_logits: Tensor
    last_hidden_state: Tensor


class MaskedLMHead(nn.Module):
    """How well each token of the vocabulary fits at each position. x (..., D), table (V, D) -> (..., V)

    The table is the token embedding itself: what a token means going in is what it is recognised by coming out. So it
    is handed in, and only the bias is the head's own.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = Activation(config.hidden_act)
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """Transform, then compare with every token."""
        return nn.functional.linear(self.norm(self.activation(self.dense(x))), table, self.bias)


class BertWithHead(nn.Module):
    """What all models below share: a Bert, and the way in and out of published files.

    `from_pretrained` wants the head among the files. A new head for a Bert that has none yet: build the model from a
    config, and assign `bert`.

    Raises:
        TypeError: the config is not of the class that the model needs (`config_class`).
    """

    config_class: ClassVar[type[BertConfig]] = BertConfig
    report: Any = None  # after from_pretrained: the LoadReport, what became of every tensor

    def __init__(self, config: BertConfig, *, pooler: bool) -> None:
        super().__init__()
        if not isinstance(config, self.config_class):
            raise TypeError(f"{type(self).__name__} needs a {self.config_class.__name__}, not {type(config).__name__}")
        self.config = config
        self.bert = Bert(config, pooler=pooler)

    @classmethod
    def from_pretrained(cls: type[AnyHead], name: str | os.PathLike[str], **options: Any) -> AnyHead:
        """Published weights, by a folder or a hub id; the options are those of `checkpoint.load_bert`."""
        return load_bert(name, into=cls, **options)

    def save_pretrained(self, folder: str | os.PathLike[str], **settings: Any) -> None:
        """Write config.json and model.safetensors as transformers reads them; see `checkpoint.save_model`.

        Args:
            folder: Made where there is none.
            settings: What config.json is to say besides.

        Raises:
            CheckpointError, OSError: as there; or the class is none that transformers has, nor derived from one.
        """
        kind: Any = next((kind for kind in type(self).__mro__ if kind.__name__ in NEEDED), None)
        if kind is None:
            raise CheckpointError(f"{type(self).__name__} has no published form: keep it with torch.save")
        values = {**self.config.to_dict(), **settings, "architectures": [kind.__name__]}
        save_model(self, folder, values, lambda: kind(self.config))


class BertWithMaskedLM(BertWithHead):
    """What the two models with the masked-LM head share."""

    def __init__(self, config: BertConfig, *, pooler: bool) -> None:
        super().__init__(config, pooler=pooler)
        self.masked_lm = MaskedLMHead(config).apply(self.bert.initialise)

    def to_vocabulary(self, x: Tensor) -> Tensor:
        """Scores of all tokens, from the state at any positions (of any layer). (..., D) -> (..., V)"""
        return self.masked_lm(x, self.bert.embeddings.token.weight)


class BertForMaskedLM(BertWithMaskedLM):
    """Tells the tokens behind [MASK]. (B, S) -> HeadOutput, logits (B, S, V)"""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, pooler=False)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> HeadOutput:
        """Arguments as Bert's."""
        x = self.bert(input_ids, attention_mask, token_type_ids).last_hidden_state
        return HeadOutput(self.to_vocabulary(x), x)


class BertForNextSentencePrediction(BertWithHead):
    """Tells whether the second text followed the first (label 0) or came from elsewhere (1). Logits (B, 2)"""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, pooler=True)
        self.next_sentence = nn.Linear(config.hidden_size, 2).apply(self.bert.initialise)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> HeadOutput:
        """Arguments as Bert's."""
        x, pooled = self.bert(input_ids, attention_mask, token_type_ids)
        return HeadOutput(self.next_sentence(pooled), x)


class BertForPreTraining(BertWithMaskedLM):
    """Both of BERT's training tasks at once, as the first checkpoints were published. (B, S) -> PreTrainingOutput"""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, pooler=True)
        self.next_sentence = nn.Linear(config.hidden_size, 2).apply(self.bert.initialise)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> PreTrainingOutput:
        """Arguments as Bert's."""
        x, pooled = self.bert(input_ids, attention_mask, token_type_ids)
        return PreTrainingOutput(self.to_vocabulary(x), self.next_sentence(pooled), x)


class BertWithClassifier(BertWithHead):
    """What the two classifiers share: dropout and one linear layer."""

    config_class = ClassifierConfig
    config: ClassifierConfig

    def __init__(self, config: ClassifierConfig, *, pooler: bool) -> None:
        super().__init__(config, pooler=pooler)
        own = config.classifier_dropout
        self.dropout = nn.Dropout(config.hidden_dropout_prob if own is None else own)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels).apply(self.bert.initialise)


class BertForSequenceClassification(BertWithClassifier):
    """Scores for a text, or for a pair of texts, by the pooler's vector. (B, S) -> HeadOutput, logits (B, L)"""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__(config, pooler=True)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> HeadOutput:
        """Arguments as Bert's."""
        x, pooled = self.bert(input_ids, attention_mask, token_type_ids)
        return HeadOutput(self.classifier(self.dropout(pooled)), x)


class BertForTokenClassification(BertWithClassifier):
    """Scores for each token, by its own vector. (B, S) -> HeadOutput, logits (B, S, L)"""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__(config, pooler=False)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> HeadOutput:
        """Arguments as Bert's."""
        x = self.bert(input_ids, attention_mask, token_type_ids).last_hidden_state
        return HeadOutput(self.classifier(self.dropout(x)), x)
