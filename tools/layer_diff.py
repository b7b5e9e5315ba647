"""Find where two BERTs differ: run one text through minibert and transformers, and compare layer by layer.

    python tools/layer_diff.py minibert-tiny "The bank of the river."
    python tools/layer_diff.py ./my-checkpoint "To be, or not to be." --dtype float32

The first row that says DIFF names the part to look at, since its output feeds all later rows. The status is 1 if there
is such a row. Needs transformers 5 (pip install -e '.[test]'), and a checkpoint with a tokenizer that transformers
reads.

The tests in tests/parity use this file's functions too.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minibert import Bert

# Only the order of summation differs. It makes 1e-14 in float64, where the smallest of the tried mistakes makes 3e-5.
# In float32 it makes 1e-5, and mistakes can hide below that: trust float64.
TOLERANCE = {"float64": 1e-10, "float32": 1e-4}


def layer_by_layer(ours: Bert, theirs: Any, batch: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Run both models, and yield (name on the page, our value, theirs) for each value between the parts, in order.

    Args:
        ours: The Bert of minibert.
        theirs: The BertModel of transformers that holds the same weights.
        batch: The arguments of both: input_ids, and optionally token_type_ids and attention_mask.
    """
    names = ["embeddings", *(f"layers.{i}" for i in range(len(ours.layers)))]
    mine = [ours.embeddings, *ours.layers]
    reference = [theirs.embeddings, *theirs.encoder.layer]
    if ours.pooler is not None:
        names.append("pooler")
        mine.append(ours.pooler)
        reference.append(theirs.pooler)
    yield from zip(names, _outputs(ours, mine, batch), _outputs(theirs, reference, batch), strict=True)


def _outputs(model: nn.Module, parts: Sequence[nn.Module], batch: Mapping[str, Tensor]) -> list[Tensor]:
    seen: list[Tensor] = []
    hooks = [part.register_forward_hook(lambda _part, _args, output: seen.append(output)) for part in parts]
    try:
        model(**batch)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def largest_difference(mine: Tensor, reference: Tensor, tokens: Tensor | None = None) -> float:
    """Return the largest absolute difference; of (B, S, D) only where ``tokens`` (B, S) is True. NaN stays NaN."""
    if mine.shape != reference.shape or mine.dtype != reference.dtype:
        raise ValueError(f"{mine.dtype} {tuple(mine.shape)} is not {reference.dtype} {tuple(reference.shape)}")
    apart = (mine - reference).detach().abs()
    return float((apart[tokens] if tokens is not None and apart.ndim == 3 else apart).max())


def differences(ours: Bert, theirs: Any, batch: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the largest difference of each value of ``layer_by_layer``, in order, without padding."""
    mask = batch.get("attention_mask")
    tokens = mask.bool() if mask is not None and mask.ndim == 2 else None
    return {
        name: largest_difference(mine, reference, tokens)
        for name, mine, reference in layer_by_layer(ours, theirs, batch)
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(
        description="Compare minibert with transformers, layer by layer, on one checkpoint and one text."
    )
    parser.add_argument("model", help="a folder or a hub id")
    parser.add_argument("text", help="the text for both")
    parser.add_argument("--dtype", choices=TOLERANCE, default="float64", help="default: %(default)s")
    parser.add_argument(
        "--tolerance", type=float, help="the least difference that is DIFF (float64: 1e-10, float32: 1e-4)"
    )
    options = parser.parse_args(arguments)
    tolerance = TOLERANCE[options.dtype] if options.tolerance is None else options.tolerance

    from transformers import AutoTokenizer, BertModel  # after the arguments: it takes seconds, and --help needs none
    from transformers.utils import logging

    logging.disable_progress_bar()
    ours = Bert.from_pretrained(options.model, dtype=options.dtype)
    folder = ours.report.files[0].parent
    theirs = BertModel.from_pretrained(
        folder, dtype=getattr(torch, options.dtype), add_pooling_layer=ours.pooler is not None
    )
    batch = dict(AutoTokenizer.from_pretrained(folder)(options.text, return_tensors="pt", truncation=True))
    with torch.no_grad():
        found = differences(ours, theirs.eval(), batch)

    size = max(map(len, found))
    print(f"{ours.report.source}: {batch['input_ids'].shape[1]} tokens, {options.dtype}\n")
    print(f"{'':{size}}  largest difference")
    same = [difference < tolerance for difference in found.values()]  # NaN is below nothing
    for (name, difference), fits in zip(found.items(), same, strict=True):
        print(f"{name:{size}}  {difference:18.1e}  {'OK' if fits else 'DIFF'}")
    return 0 if all(same) else 1


if __name__ == "__main__":
    raise SystemExit(main())
