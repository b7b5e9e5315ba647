"""Something to train, in no time: a tiny encoder and random sentences of its words. Nothing here needs transformers."""

from __future__ import annotations

import random
from dataclasses import replace

import tokenizers
import torch
from helpers import TINY, widen
from tiny_folder import VOCABULARY, WORDS

from minibert import Bert, SentenceEncoder, Tokenizer
from minibert.checkpoint.sentence_transformers import SentenceModules
from minibert.fused import fuse
from minibert.pooling import Pooling


def make_encoder(
    *,
    dropout: float = 0.0,
    dtype: torch.dtype = torch.float64,
    fused: bool = False,
    layers: int = 2,
    width: int = 32,
) -> SentenceEncoder:
    """CLS pooling, wide random weights, always the same."""
    config = replace(
        TINY,
        hidden_size=width,
        num_hidden_layers=layers,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece({piece: i for i, piece in enumerate(VOCABULARY)}))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    backend.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    model = widen(Bert(config, pooler=False)).to(dtype)
    if fused:
        fuse(model)
    return SentenceEncoder(model, Tokenizer(backend), SentenceModules(after=[Pooling("cls")])).eval()


def make_texts(count: int, seed: int = 0) -> list[str]:
    """Sentences of 1 to 12 words."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 12))) for _ in range(count)]
