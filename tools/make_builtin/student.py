"""A student made of the teacher: some of its layers, of these the neurons that say most, some of its word pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from minibert import Bert, SentenceEncoder, Tokenizer
from minibert.inference.prepare import prepare
from minibert.model import EncoderLayer
from minibert.modules import SentenceModules
from minibert.pooling import Normalize, Pooling
from minibert.research.hooks import capture

from .recipe import Recipe

POSITIONS = 256  # as many tokens as the teacher takes


class ClsLayer(EncoderLayer):
    """A last layer that computes only what CLS pooling takes: the first position's vector. (B, S, D) -> (B, 1, D)

    Its weights are those of the page's layer. Keys and values are still of all positions.
    """

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """One query instead of S. Without gradients, where it is not training that waits, the page's own way."""
        if not torch.is_grad_enabled():
            return super().forward(x, mask)[:, :1]
        own, first = self.attention, x[:, :1]
        q, k, v = own.split(own.query(first)), own.split(own.key(x)), own.split(own.value(x))
        mixed = own.core(q, k, v, mask)  # (B, H, 1, K)
        first = self.attention_norm(first + own.out(mixed.transpose(1, 2).flatten(2)))
        return self.feed_forward_norm(first + self.feed_forward(first))


def make_student(
    teacher: SentenceEncoder,
    tokenizer: Tokenizer,
    kept: Sequence[int],
    recipe: Recipe,
    sample: Sequence[str],
) -> SentenceEncoder:
    """A student with CLS pooling, not yet trained, in the form that trains fast.

    Args:
        teacher: Where the weights come from.
        tokenizer, kept: Of the student; which of the teacher's pieces its own are.
        recipe: Which layers, and how many neurons of each.
        sample: Texts by which the neurons are weighed.
    """
    config = replace(
        teacher.model.config,
        vocab_size=len(kept),
        num_hidden_layers=len(recipe.layers),
        intermediate_size=recipe.intermediate,
        max_position_embeddings=POSITIONS,
        hidden_dropout_prob=0.0,  # the teacher's vectors are no labels that could be learnt by heart
        attention_probs_dropout_prob=0.0,
    )
    model = Bert(config, pooler=False)
    weights = dict(teacher.model.state_dict())
    weights["embeddings.token.weight"] = weights["embeddings.token.weight"][torch.tensor(kept)]
    weights["embeddings.position.weight"] = weights["embeddings.position.weight"][:POSITIONS]
    ours = {name: weights[name] for name in model.state_dict() if name.startswith("embeddings.")}
    for own, theirs in enumerate(recipe.layers):
        neurons = strongest_neurons(teacher, theirs, recipe.intermediate, sample)
        start = f"layers.{theirs}."
        part = {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}
        part["feed_forward.up.weight"] = part["feed_forward.up.weight"][neurons]
        part["feed_forward.up.bias"] = part["feed_forward.up.bias"][neurons]
        part["feed_forward.down.weight"] = part["feed_forward.down.weight"][:, neurons]
        ours |= {f"layers.{own}.{name}": value for name, value in part.items()}
    model.load_state_dict(ours)
    prepare(model)
    model.layers[-1].__class__ = ClsLayer
    modules = SentenceModules(after=[Pooling("cls"), Normalize()], max_seq_length=POSITIONS)
    return SentenceEncoder(model, tokenizer, modules, truncation="silent")


@torch.no_grad()
def strongest_neurons(teacher: SentenceEncoder, layer: int, count: int, sample: Sequence[str]) -> Tensor:
    """The neurons of a feed-forward that add most to what flows on, (count,), ascending.

    By mean |activation| times the length of the weights that it goes out by.
    """
    name = f"layers.{layer}.feed_forward.activation"
    batch = teacher.tokenize(sample)
    with capture(teacher.model, name) as values:
        teacher.model(**batch)
    real = values[name][batch["attention_mask"].bool()]  # (tokens, F)
    outgoing = teacher.model.state_dict()[f"layers.{layer}.feed_forward.down.weight"]  # (D, F)
    strength = real.abs().mean(0) * outgoing.norm(dim=0)
    return strength.topk(count).indices.sort().values
