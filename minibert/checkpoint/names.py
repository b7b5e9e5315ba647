"""The name table: our names -> Hugging Face's. Thirteen rows connect the page with published weights.

Rows name modules; `.weight` and `.bias` pass through, and `{}` is the layer. For BERT-base that makes 5 + 16 * 12 + 2
= 199 tensors. Six more rows belong to the heads. The table is a bijection, so saving reads it backwards.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

from .tensors import CheckpointError

AnyTensor = TypeVar("AnyTensor")

PUBLISHED_NAMES = {
    # minibert                          Hugging Face BERT
    "embeddings.token": "embeddings.word_embeddings",
    "embeddings.position": "embeddings.position_embeddings",
    "embeddings.token_type": "embeddings.token_type_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
    "layers.{}.attention.query": "encoder.layer.{}.attention.self.query",
    "layers.{}.attention.key": "encoder.layer.{}.attention.self.key",
    "layers.{}.attention.value": "encoder.layer.{}.attention.self.value",
    "layers.{}.attention.out": "encoder.layer.{}.attention.output.dense",
    "layers.{}.attention_norm": "encoder.layer.{}.attention.output.LayerNorm",
    "layers.{}.feed_forward.up": "encoder.layer.{}.intermediate.dense",
    "layers.{}.feed_forward.down": "encoder.layer.{}.output.dense",
    "layers.{}.feed_forward_norm": "encoder.layer.{}.output.LayerNorm",
    "pooler.dense": "pooler.dense",
}

# A fourteenth, for the few checkpoints whose position_embedding_type is relative (one embedding per layer).
RELATIVE_NAMES = {"layers.{}.attention.relative.distance": "encoder.layer.{}.attention.self.distance_embedding"}

# Six more for the heads. The masked-LM head itself owns only a bias: its matrix is the token embedding's, or, in few
# checkpoints, a decoder's.
HEAD_NAMES = {
    "masked_lm": "cls.predictions",
    "masked_lm.dense": "cls.predictions.transform.dense",
    "masked_lm.norm": "cls.predictions.transform.LayerNorm",
    "masked_lm.decoder": "cls.predictions.decoder",
    "next_sentence": "cls.seq_relationship",
    "classifier": "classifier",
}

# Second names of the masked-LM head's tensors. Many files hold the same numbers under both.
WORDS, DECODER = "embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
TIED = {DECODER: WORDS, "cls.predictions.decoder.bias": "cls.predictions.bias"}

# Heads that a checkpoint must hold to be loaded as one of our classes.
NEEDED: dict[str, set[str]] = {
    "Bert": set(),
    "BertForMaskedLM": {"cls.predictions"},
    "BertForNextSentencePrediction": {"pooler", "cls.seq_relationship"},
    "BertForPreTraining": {"cls.predictions", "pooler", "cls.seq_relationship"},
    "BertForSequenceClassification": {"pooler", "classifier"},
    "BertForTokenClassification": {"classifier"},
}

# `linear.weight` is ColBERT's.
_HEAD = re.compile(
    r"(cls\.[^.]+|cls|classifier|qa_outputs|linear(?=\.weight$)|pooler(?=\.dense\.(?:weight|bias)$))\..+"
)
# Known tensors that are not weights: an old buffer of 0, 1, 2, ..., and the state of optimisers.
_LEFTOVERS = re.compile(
    r"embeddings\.position_ids|global_step|beta[12]_power"
    r"|.*\.(adam_[mv]|Adam(_1)?|AdamWeightDecayOptimizer(_1)?)|output_(weights|bias)"
)
_TABLE = PUBLISHED_NAMES | RELATIVE_NAMES | HEAD_NAMES
_LAYER = re.compile(r"(?<=\.)\d+(?=\.)")


def published_name(ours: str) -> str:
    """Convert `layers.3.attention.query.weight` to `encoder.layer.3.attention.self.query.weight`.

    A leading `bert.`, as in models with a head, stays. Raise KeyError for a weight that is not BERT's.
    """
    prefix = "bert." if ours.startswith("bert.") else ""
    module, _, kind = ours.removeprefix(prefix).rpartition(".")
    layer = _LAYER.search(module)
    row = _TABLE[_LAYER.sub("{}", module, count=1)]
    return f"{prefix}{row.format(layer.group()) if layer else row}.{kind}"


def canonical_name(theirs: str) -> str:
    """Remove a leading `bert.`, and rename the old `LayerNorm.gamma` and `LayerNorm.beta` to `weight` and `bias`."""
    theirs = theirs.removeprefix("bert.")
    return re.sub(r"(?<=LayerNorm\.)(gamma|beta)$", lambda m: {"gamma": "weight", "beta": "bias"}[m.group()], theirs)


def by_canonical_name(tensors: Mapping[str, AnyTensor]) -> dict[str, AnyTensor]:
    """Rename tensors to their canonical names. Raise CheckpointError if the files hold one under two names."""
    names: dict[str, str] = {}
    for name in tensors:
        if (first := names.setdefault(canonical_name(name), name)) != name:
            raise CheckpointError(f"two names for one tensor: {first} and {name}")
    return {canonical: tensors[name] for canonical, name in names.items()}


def head_of(name: str) -> str | None:
    """Return the head that owns a tensor: `cls.predictions` for `cls.predictions.bias`, None outside known heads."""
    found = _HEAD.fullmatch(name)
    return found and found[1]


def ignorable(name: str, heads: Collection[str | None]) -> bool:
    """Tell if a model with these heads may ignore a tensor: another task's head, or a leftover of training."""
    return name in TIED or _LEFTOVERS.fullmatch(name) is not None or head_of(name) not in {None, *heads}


def loadable_as(names: Iterable[str]) -> list[str]:
    """List our classes whose heads are all among these canonical names."""
    heads = {head_of(name) for name in names}
    return [name for name, needed in NEEDED.items() if heads >= needed]
