"""The name table: ours -> Hugging Face's. Thirteen rows are all that stands between the page and published weights.

Rows name modules; `.weight` and `.bias` pass through, and `{}` is the layer. For BERT-base that makes 5 + 16 * 12 + 2
= 199 tensors. The table is a bijection, so saving in the published form is the same table read backwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from .stored import CheckpointError

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

# Known, and not the encoder's: heads for other tasks, an old buffer of 0, 1, 2, ..., what optimisers leave behind.
HARMLESS = re.compile(
    r"embeddings\.position_ids|(cls|classifier|qa_outputs)\..*"
    r"|global_step|beta[12]_power|.*\.(adam_[mv]|Adam(_1)?|AdamWeightDecayOptimizer(_1)?)|output_(weights|bias)"
)

_TABLE = PUBLISHED_NAMES | RELATIVE_NAMES
_LAYER = re.compile(r"(?<=\.)\d+(?=\.)")


def published_name(ours: str) -> str:
    """`layers.3.attention.query.weight` -> `encoder.layer.3.attention.self.query.weight`. KeyError for any other."""
    module, _, kind = ours.rpartition(".")
    layer = _LAYER.search(module)
    row = _TABLE[_LAYER.sub("{}", module, count=1)]
    return f"{row.format(layer.group()) if layer else row}.{kind}"


def modern_name(theirs: str) -> str:
    """Undo what the years did to names: a leading `bert.`, and `gamma`/`beta` (only right after `LayerNorm`)."""
    theirs = theirs.removeprefix("bert.")
    return re.sub(r"(?<=LayerNorm\.)(gamma|beta)$", lambda m: {"gamma": "weight", "beta": "bias"}[m.group()], theirs)


def by_modern_name(found: Iterable[str]) -> Mapping[str, str]:
    """Modern name -> name in the file.

    Raises:
        CheckpointError: two names in the files mean one tensor, so there is no telling which of them counts.
    """
    names: dict[str, str] = {}
    for name in found:
        modern = modern_name(name)
        if modern in names:
            raise CheckpointError(f"two names for one tensor: {names[modern]} and {name}")
        names[modern] = name
    return names
