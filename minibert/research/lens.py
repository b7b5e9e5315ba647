"""States in words: what the masked-LM head makes of a [MASK], and of every position in every layer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..encoding import evaluating
from ..heads import BertWithMaskedLM
from ..tokenizer import Tokenizer


class Guess(NamedTuple):
    """One token that could stand there; `score` is its probability. The names are transformers'."""

    token_str: str
    score: float
    token: int


def fill_mask(model: BertWithMaskedLM, tokenizer: Tokenizer, text: str, top_k: int = 5) -> list[list[Guess]]:
    """What could stand where the text says [MASK]: for each [MASK] its ``top_k`` guesses, most probable first.

    Several masks are guessed each by itself, not so that the guesses fit together.

    Raises:
        ValueError: the text has no [MASK] or is longer than the model can take, or top_k is out of its range.

    Source: FillMaskPipeline in transformers.
    """
    batch = tokenizer(text, return_tensors="pt").to(next(model.parameters()).device)
    masked = batch["input_ids"][0] == (-1 if tokenizer.mask_id is None else tokenizer.mask_id)
    if not masked.any():
        raise ValueError(f"nothing to fill in: {text!r:.80} has no {tokenizer.mask_token}")
    with torch.no_grad(), evaluating(model):
        x = model.bert(**batch).last_hidden_state
        return _guesses(model.to_vocabulary(x[0, masked]), tokenizer, top_k)


def logit_lens(
    model: BertWithMaskedLM,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    token_type_ids: Tensor | None = None,
) -> Tensor:
    """Each layer's state through the masked-LM head: ids (B, S) -> logits (layers + 1, B, S, V)

    The first are those of the embeddings, the last are the model's own. BERT normalises within each layer, so the
    states are of one kind and go into the head as they are. Gradients flow, where they are on; arguments as Bert's.

    Source: nostalgebraist, "interpreting GPT: the logit lens" (2020), there with GPT-2.
    """
    return torch.stack([model.to_vocabulary(x) for x in _states(model, input_ids, attention_mask, token_type_ids)])


def words_by_layer(model: BertWithMaskedLM, tokenizer: Tokenizer, text: str, top_k: int = 1) -> list[list[list[Guess]]]:
    """The logit lens in words: for the embeddings and each layer, for each position, the ``top_k`` guesses.

    Raises:
        ValueError: the text is longer than the model can take, or top_k is out of its range.
    """
    batch = tokenizer(text, return_tensors="pt").to(next(model.parameters()).device)
    with torch.no_grad(), evaluating(model):
        # Layer by layer: of all layers at once, the logits of a long text would take gigabytes.
        return [_guesses(model.to_vocabulary(x[0]), tokenizer, top_k) for x in _states(model, **batch)]


def _states(model: BertWithMaskedLM, *inputs: Tensor | None, **named: Tensor) -> list[Tensor]:
    """What the embeddings and each layer gave, (B, S, D) each, whatever stands in their places."""
    states: list[Tensor] = []
    parts = dict.fromkeys([model.bert.embeddings, *model.bert.layers])  # a layer that is used twice has one hook
    hooks = [part.register_forward_hook(lambda _part, _inputs, x: states.append(x)) for part in parts]
    try:
        model.bert(*inputs, **named)
    finally:
        for hook in hooks:
            hook.remove()
    return states


def _guesses(logits: Tensor, tokenizer: Tokenizer, top_k: int) -> list[list[Guess]]:
    """Logits (S, V) -> for each position its most probable tokens."""
    if not 1 <= top_k <= logits.shape[-1]:
        raise ValueError(f"top_k must be from 1 to {logits.shape[-1]}, not {top_k}")
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    scores, tokens = (part.tolist() for part in wide.softmax(-1).topk(top_k))
    return [
        [
            Guess(word, score, token)
            for word, score, token in zip(tokenizer.convert_ids_to_tokens(row), at, row, strict=True)
        ]
        for at, row in zip(scores, tokens, strict=True)
    ]
