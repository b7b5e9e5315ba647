"""Tiny published folders, and ways to damage each of their files."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from minibert import Bert, BertConfig, BertForSequenceClassification, ClassifierConfig, CrossEncoder, SentenceEncoder
from minibert.checkpoint.sentence_transformers import SentenceModules
from minibert.pooling import Dense, Normalize, Pooling
from minibert.tokenizer import Tokenizer

ODD: list[Any] = [None, True, False, -1, 0, 1, 7, 2**31, 2**63, 10**30, 10**400, 0.5, 1e308, float("inf"), float("nan")]
ODD += ["", "x", "[MASK]", "../x", "a\0b", "\ud800", "x" * 5000, [], [1], ["a", None], [[]], {}, {"a": 1}, {"a": []}]


def write_folders(root: Path) -> list[Path]:
    """Write an encoder with all files, one with pickles and vocab.txt, and a cross-encoder."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", *("##" + x for x in "abcdefgh"), "the", "cat"]
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 23}
    sizes |= {"intermediate_size": 32, "max_position_embeddings": 64}
    (root / "vocab.txt").write_text("\n".join(pieces) + "\n")
    (root / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    tokenizer, parts = Tokenizer.from_pretrained(root), [Pooling("mean"), Dense(16, 8), Normalize()]
    settings = SentenceModules(after=parts, prompts={"query": "the "}, max_seq_length=60)
    encoder = SentenceEncoder(Bert(BertConfig(**sizes)), tokenizer, settings)
    full, pickles, cross = (root / name for name in ("full", "pickles", "cross"))
    CrossEncoder(BertForSequenceClassification(ClassifierConfig(**sizes)), tokenizer).save_pretrained(cross)
    for folder in (full, pickles):
        encoder.save_pretrained(folder)
        shutil.copy(root / "vocab.txt", folder)
    (full / "special_tokens_map.json").write_text('{"mask_token": "[MASK]", "additional_special_tokens": ["cat"]}')
    (full / "added_tokens.json").write_text('{"cat": 22}')
    torch.save(safetensors.torch.load_file(pickles / "model.safetensors"), pickles / "1.bin")
    index = {"weight_map": dict.fromkeys(torch.load(pickles / "1.bin", weights_only=True), "1.bin")}
    (pickles / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    for name in ("model.safetensors", "tokenizer.json"):
        (pickles / name).unlink()
    return [full, pickles, cross]


def change_json(path: Path, chance: random.Random) -> None:
    """Replace, remove, repeat or exchange values anywhere in the file."""
    root = {"": json.loads(path.read_text())}
    places: list[tuple[Any, Any]] = [(root, "")]
    for owner, key in places:  # it grows
        inner = owner[key]
        keys = inner if isinstance(inner, dict) else range(len(inner)) if isinstance(inner, list) else ()
        places += [(inner, each) for each in keys]
    (owner, key), (other, name), way = chance.choice(places), chance.choice(places), chance.randrange(8)
    if way == 0 and owner is not root:
        del owner[key]
    elif way == 1 and isinstance(owner[key], dict):
        owner[key][chance.choice(("x", "", "0", "type", "id", "content"))] = chance.choice(ODD)
    elif way == 2 and isinstance(owner[key], list):
        owner[key] += [*owner[key][-1:], chance.choice(ODD)]
    else:
        owner[key] = json.loads(json.dumps(other[name])) if way == 3 else chance.choice(ODD)
    path.write_text(json.dumps(root[""]))


def change_tensors(path: Path, chance: random.Random) -> None:
    """Give a tensor another shape, dtype, kind, value or name, or take it away."""
    load = safetensors.torch.load_file if path.suffix == ".safetensors" else torch.load
    tensors: dict[str, Any] = load(path)
    name = chance.choice(list(tensors))
    t = tensors.pop(name)
    others = [
        t[:1],
        t.t(),
        t.half(),
        t.long(),
        t * torch.nan,
        t * 1e38,
        t.flatten(),
        t.double(),
        t.bool(),
        t[..., None],
    ]
    others += [t.new_zeros(0), t.new_zeros(0, 16), t.new_zeros(10**6)]
    if chance.random() < 0.9:
        name = chance.choice(("", "x", "module." + name, "bert." + name)) if chance.random() < 0.2 else name
        odd = [t.to_sparse(), t.to("meta"), torch.nn.Parameter(t), t[:1].expand(10**6, -1), "x", bytearray(9)]
        tensors[name] = chance.choice(others + odd if load is torch.load else others)
    if load is torch.load:
        torch.save(tensors, path, _use_new_zipfile_serialization=chance.random() < 0.5)
    else:
        safetensors.torch.save_file({name: t.contiguous() for name, t in tensors.items()}, path)


def change_bytes(path: Path, chance: random.Random) -> None:
    """Flip, cut, repeat or exchange bytes, mostly near the file's ends, where headers are; or remove the file."""
    data = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 1, 4, 30))):
        at = chance.randrange(min(len(data), chance.choice((64, 2000, 10**9))) or 1)
        at, size = chance.choice((at, max(0, len(data) - 1 - at))), chance.choice((1, 1, 1, 8, 100, len(data)))
        new = chance.choice((b"", chance.randbytes(min(size, 100)), data[at : at + size] * 2, bytes(size)))
        data[at : at + size] = new
    path.write_bytes(data)
    if chance.random() < 0.1:
        path.unlink()


def change(folder: Path, chance: random.Random) -> str:
    """Damage one file, and say how."""
    path = chance.choice([path for path in sorted(folder.rglob("*")) if path.is_file()])
    kinds = {".json": change_json, ".txt": change_bytes, ".md": change_bytes}
    way = chance.choice([change_bytes, *[kinds.get(path.suffix, change_tensors)] * 5])
    try:
        way(path, chance)
    except Exception as error:  # an earlier change made it impossible
        return f"{path.relative_to(folder)}: {type(error).__name__}"
    return f"{path.relative_to(folder)}: {way.__name__}"
