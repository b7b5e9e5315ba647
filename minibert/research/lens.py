"""Read hidden states as words: guesses for a [MASK], and for every position of every layer."""

from __future__ import annotations

from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor

from ..call import evaluating
from ..heads import BertWithMaskedLM
from ..tokenizer import Tokenizer
from .hooks import in_this_context


class Guess(NamedTuple):
    """One candidate token; `score` is its probability. The names are transformers'."""

    token_str: str
    score: float
    token: int


def fill_mask(model: BertWithMaskedLM, tokenizer: Tokenizer, text: str, top_k: int = 5) -> list[list[Guess]]:
    """Return the ``top_k`` most probable tokens for each [MASK] in the text, the most probable first.

    Each mask is guessed independently of the others, as by transformers' FillMaskPipeline. Raises ValueError if there
    is none, if the text is longer than the model allows, or if top_k is out of range.
    """
    batch = tokenizer(text, return_tensors="pt").to(next(model.parameters()).device)
    masked = batch["input_ids"][0] == (-1 if tokenizer.mask_id is None else tokenizer.mask_id)
    if not masked.any():
        raise ValueError(f"nothing to fill in: {text!r:.80} has no {tokenizer.mask_token}")
    with torch.no_grad(), evaluating(model):
        x = model.bert(**batch).last_hidden_state
        return guesses(model.to_vocabulary(x[0, masked]), tokenizer, top_k)


def logit_lens(
    model: BertWithMaskedLM,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    token_type_ids: Tensor | None = None,
) -> Tensor:
    """Apply the masked-LM head to each layer's state. Arguments as Bert's, ids (B, S) -> logits (layers + 1, B, S, V)

    The first are those of the embeddings, the last are the model's own. BERT's layers end in a norm, so every state
    goes into the head as it is. Gradients flow if they are on.

    Source: nostalgebraist, "interpreting GPT: the logit lens" (2020), there for GPT-2.
    """
    return torch.stack([model.to_vocabulary(x) for x in _states(model, input_ids, attention_mask, token_type_ids)])


def words_by_layer(model: BertWithMaskedLM, tokenizer: Tokenizer, text: str, top_k: int = 1) -> list[list[list[Guess]]]:
    """Return the logit lens as words: ``top_k`` guesses by layer (the embeddings first), then by position.

    Raises ValueError if the text is longer than the model allows, or top_k is out of range.
    """
    batch = tokenizer(text, return_tensors="pt").to(next(model.parameters()).device)
    with torch.no_grad(), evaluating(model):
        # One layer at a time: the logits of all layers of a long text would take gigabytes.
        return [guesses(model.to_vocabulary(x[0]), tokenizer, top_k) for x in _states(model, **batch)]


def _states(model: BertWithMaskedLM, *inputs: Tensor | None, **named: Tensor) -> list[Tensor]:
    """Return the outputs of the embeddings and of each layer, (B, S, D) each, also of parts that were replaced."""
    states: list[Tensor] = []
    with in_this_context() as here, ExitStack() as hooks:
        for part in {model.bert.embeddings, *model.bert.layers}:  # a layer that is used twice gets one hook
            hooks.callback(part.register_forward_hook(here(lambda _part, _inputs, x: states.append(x))).remove)
        model.bert(*inputs, **named)
    return states


def guesses(logits: Tensor, tokenizer: Tokenizer, top_k: int) -> list[list[Guess]]:
    """Return the most probable tokens of each position. Logits (S, V)"""
    if not 1 <= top_k <= logits.shape[-1]:
        raise ValueError(f"top_k must be from 1 to {logits.shape[-1]}, not {top_k}")
    probabilities = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)
    return [
        [Guess(*guess) for guess in zip(tokenizer.convert_ids_to_tokens(ids), scores, ids, strict=True)]
        for scores, ids in zip(*(part.tolist() for part in probabilities.topk(top_k)), strict=True)
    ]
