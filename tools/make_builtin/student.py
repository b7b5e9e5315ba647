"""Cut a student out of the teacher: some of its layers, their strongest neurons, some of its word pieces."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from minibert import Bert, BertConfig, SentenceEncoder, Tokenizer
from minibert.checkpoint.sentence_transformers import SentenceModules
from minibert.model import EncoderLayer
from minibert.pooling import Normalize, Pooling
from minibert.research.hooks import capture

POSITIONS = 256  # the most tokens that the teacher takes


class ClsLayer(EncoderLayer):
    """A last layer that computes only the vector that CLS pooling reads. (B, S, D) -> (B, 1, D)

    Its weights are those of the page's layer. Keys and values still come from all positions.
    """

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute one query instead of S. Without gradients the page's own formula serves."""
        if not torch.is_grad_enabled():
            return super().forward(x, mask)[:, :1]
        own, first = self.attention, x[:, :1]
        q, k, v = own.split(own.query(first)), own.split(own.key(x)), own.split(own.value(x))
        attended = own.core(q, k, v, mask)  # (B, H, 1, K)
        first = self.attention_norm(first + own.out(attended.transpose(1, 2).flatten(2)))
        return self.feed_forward_norm(first + self.feed_forward(first))


class Student(SentenceEncoder):
    """An encoder whose last layer trains fast."""

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write it. What is loaded has the page's layer in that place, which gives the same vectors."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"a checkpoint does not hold .*: layers\.\d+ is \S+\.ClsLayer$")
            super().save_pretrained(folder)


def make_student(
    teacher: SentenceEncoder, tokenizer: Tokenizer, kept: Sequence[int], layers: Sequence[int]
) -> SentenceEncoder:
    """Return some of the teacher's layers under CLS pooling, not yet trained.

    Args:
        teacher: The source of the weights.
        tokenizer: The student's.
        kept: The teacher's id of each of the student's pieces.
        layers: The teacher's layers to take.
    """
    config = replace(
        teacher.model.config,
        vocab_size=len(kept),
        num_hidden_layers=len(layers),
        max_position_embeddings=POSITIONS,
        hidden_dropout_prob=0.0,  # the teacher's vectors can't be learnt by heart, as labels can
        attention_probs_dropout_prob=0.0,
    )
    weights = dict(teacher.model.state_dict())
    weights["embeddings.token.weight"] = weights["embeddings.token.weight"][torch.tensor(kept)]
    weights["embeddings.position.weight"] = weights["embeddings.position.weight"][:POSITIONS]
    ours = {name: value for name, value in weights.items() if name.startswith("embeddings.")}
    for own, theirs in enumerate(layers):
        start = f"layers.{theirs}."
        part = {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}
        ours |= {f"layers.{own}.{name}": value for name, value in part.items()}
    return assemble(config, ours, tokenizer)


def cut_neurons(student: SentenceEncoder, count: int, sample: Sequence[str]) -> SentenceEncoder:
    """Return the student with the ``count`` neurons of each feed-forward that are strongest on these texts."""
    weights = dict(student.model.state_dict())
    for layer in range(len(student.model.layers)):
        neurons = strongest_neurons(student, layer, count, sample)
        start = f"layers.{layer}.feed_forward."
        weights[f"{start}up.weight"] = weights[f"{start}up.weight"][neurons]
        weights[f"{start}up.bias"] = weights[f"{start}up.bias"][neurons]
        weights[f"{start}down.weight"] = weights[f"{start}down.weight"][:, neurons]
    return assemble(replace(student.model.config, intermediate_size=count), weights, student.tokenizer)


def assemble(config: BertConfig, weights: Mapping[str, Tensor], tokenizer: Tokenizer) -> SentenceEncoder:
    """Return an encoder with CLS pooling, vectors of length 1, and a last layer that trains fast."""
    model = Bert(config, pooler=False)
    model.layers[-1] = ClsLayer(config)
    model.load_state_dict(weights)
    modules = SentenceModules(after=[Pooling("cls"), Normalize()], max_seq_length=POSITIONS)
    return Student(model, tokenizer, modules, truncation="silent").eval()


@torch.no_grad()
def strongest_neurons(student: SentenceEncoder, layer: int, count: int, sample: Sequence[str]) -> Tensor:
    """Return the neurons of a feed-forward that add most to its output, (count,), ascending.

    A neuron's strength is its mean |activation| times the norm of its outgoing weights.
    """
    name = f"layers.{layer}.feed_forward.activation"
    batch = student.tokenize(sample)
    with capture(student.model, name) as values:
        student.model(**batch)
    activations = values[name][batch["attention_mask"].bool()]  # (tokens, F)
    outgoing = student.model.state_dict()[f"layers.{layer}.feed_forward.down.weight"]  # (D, F)
    strength = activations.abs().mean(0) * outgoing.norm(dim=0)
    return strength.topk(count).indices.sort().values
