"""Damage the files of tiny published folders, load them and encode, and write down every exception that isn't ours.

    python tools/fuzz --minutes 15 --seed 1 --out found.jsonl
    python tools/fuzz --seed 1 --case 4711        # one case again, with its changes and its traceback

A case changes a folder in one to three places: a value of a JSON file becomes an odd one, a tensor gets another shape,
bytes are cut or flipped, a file goes away. A child process with limits on its time and memory then loads and encodes.
Its error must be an OSError or a ValueError that minibert raised itself, with no line of more than 2,000 letters. Of
each other kind ``--out`` gets the first case, as a line of JSON. Needs fork and /proc, so it runs on Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from minibert import Bert, BertConfig, BertForSequenceClassification, ClassifierConfig, CrossEncoder, SentenceEncoder
from minibert.checkpoint.sentence_transformers import SentenceModules
from minibert.pooling import Dense, Normalize, Pooling
from minibert.tokenizer import Tokenizer

SECONDS, BYTES = 20, 2 << 30  # for one case, beyond what is in memory before it
TEXTS = ["", "the cat", "abc [MASK] xyz é 漢", "the " * 70]
ODD: list[Any] = [None, True, False, -1, 0, 1, 7, 2**31, 2**63, 10**30, 10**400, 0.5, 1e308, float("inf"), float("nan")]
ODD += ["", "x", "[MASK]", "../x", "a\0b", "\ud800", "x" * 5000, [], [1], ["a", None], [[]], {}, {"a": 1}, {"a": []}]


def write_folders(root: Path) -> list[Path]:
    """Write encoders with weights as safetensors, as a zip and as an old pickle with an index, and a cross-encoder."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", *("##" + x for x in "abcdefgh"), "the", "cat"]
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 23}
    sizes |= {"intermediate_size": 32, "max_position_embeddings": 64}
    (root / "vocab.txt").write_text("\n".join(pieces) + "\n")
    (root / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    tokenizer, parts = Tokenizer.from_pretrained(root), [Pooling("mean"), Dense(16, 8), Normalize()]
    settings = SentenceModules(after=parts, prompts={"query": "the "}, max_seq_length=60)
    encoder = SentenceEncoder(Bert(BertConfig(**sizes)), tokenizer, settings)
    folders = [root / name for name in ("safetensors", "zip", "pickle", "cross")]
    for folder in folders[:3]:
        encoder.save_pretrained(folder)
    CrossEncoder(BertForSequenceClassification(ClassifierConfig(**sizes)), tokenizer).save_pretrained(folders[3])
    tensors = safetensors.torch.load_file(folders[1] / "model.safetensors")
    torch.save(tensors, folders[1] / "pytorch_model.bin")
    torch.save(tensors, folders[2] / "shard.bin", _use_new_zipfile_serialization=False)
    index = {"weight_map": dict.fromkeys(tensors, "shard.bin")}
    (folders[2] / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    for folder in folders[1:3]:
        (folder / "model.safetensors").unlink()
    for folder in folders[2:]:  # these have vocab.txt alone
        (folder / "tokenizer.json").unlink()
        shutil.copy(root / "vocab.txt", folder)
    (folders[0] / "special_tokens_map.json").write_text(
        '{"mask_token": "[MASK]", "additional_special_tokens": ["cat"]}'
    )
    (folders[0] / "added_tokens.json").write_text('{"cat": 22}')
    return folders


def change_json(path: Path, chance: random.Random) -> None:
    """Replace, remove, repeat or exchange values anywhere in the file."""
    root = {"": json.loads(path.read_text())}
    places: list[tuple[Any, Any]] = [(root, "")]
    for owner, key in places:  # it grows
        inner = owner[key]
        keys = inner if isinstance(inner, dict) else range(len(inner)) if isinstance(inner, list) else ()
        places += [(inner, each) for each in keys]
    (owner, key), (other, name) = chance.choice(places), chance.choice(places)
    way = chance.randrange(8)
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
    pickled = path.suffix == ".bin"
    tensors: dict[str, Any] = torch.load(path, weights_only=True) if pickled else safetensors.torch.load_file(path)
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
    others += [t.to_sparse(), t.to("meta"), torch.nn.Parameter(t), t[:1].expand(10**6, -1), "x"] if pickled else []
    if chance.random() < 0.9:
        new = chance.choice(("", "x", "module." + name, "bert." + name)) if chance.random() < 0.2 else name
        tensors[new] = chance.choice(others)
    if pickled:
        torch.save(tensors, path, _use_new_zipfile_serialization=chance.random() < 0.5)
    else:
        safetensors.torch.save_file({name: t.contiguous() for name, t in tensors.items()}, path)


def change_bytes(path: Path, chance: random.Random) -> None:
    """Flip, cut, repeat or exchange bytes, mostly near the file's ends, where headers are; or remove the file."""
    data = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 1, 4, 30))):
        at = chance.randrange(min(len(data), chance.choice((64, 2000, 10**9))) or 1)
        at = at if chance.random() < 0.5 else max(0, len(data) - 1 - at)
        size = chance.choice((1, 1, 1, 8, 100, len(data)))
        data[at : at + size] = chance.choice(
            (b"", chance.randbytes(min(size, 100)), data[at : at + size] * 2, bytes(size))
        )
    path.write_bytes(data)
    if chance.random() < 0.1:
        path.unlink()


def change(folder: Path, chance: random.Random) -> str:
    """Damage one file, and say how."""
    path = chance.choice([path for path in sorted(folder.rglob("*")) if path.is_file()])
    ways: Any = [change_bytes, *[{".json": change_json, ".txt": change_bytes}.get(path.suffix, change_tensors)] * 5]
    way = chance.choice(ways)
    try:
        way(path, chance)
    except Exception as error:  # an earlier change made it impossible
        return f"{path.relative_to(folder)}: {type(error).__name__}"
    return f"{path.relative_to(folder)}: {way.__name__}"


def load_and_encode(folder: Path) -> None:
    """Do what a user does with a folder."""
    if folder.name == "cross":
        CrossEncoder.from_pretrained(folder, device="cpu").predict([(text, TEXTS[1]) for text in TEXTS])
        return
    encoder = SentenceEncoder.from_pretrained(folder, device="cpu")
    encoder.similarity(encoder.encode(TEXTS), encoder.encode_query(TEXTS[:2], normalize_embeddings=True))


def verdict(folder: Path) -> str:
    """Load and encode; return "" or what no user should see."""
    try:
        load_and_encode(folder)
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if f"{os.sep}minibert{os.sep}" in frame.filename]
        own = isinstance(error, (OSError, ValueError)) and bool(ours) and ours[-1] is frames[-1]
        if not own or max(map(len, str(error).split("\n"))) > 2000:
            place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
            return f"{type(error).__name__} at {place}{' too long' * own}: {str(error)[:200]}"
    return ""


def run_case(folders: list[Path], seed: int, case: int, *, again: bool = False) -> tuple[str, list[str]]:
    """Return what a child process says of the case, "" if all is well, and the changes."""
    chance = random.Random(f"{seed} {case}")
    source = chance.choice(folders)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(source, Path(place) / source.name))
        changes = [change(folder, chance) for _ in range(chance.choice((1, 1, 2, 3)))]
        if again:
            print(*changes, sep="\n")
            load_and_encode(folder)
        (Path(place) / "said").touch()
        if (child := os.fork()) == 0:
            signal.alarm(SECONDS)  # nothing handles it, so it ends the process, whatever that is doing
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # of the tokenizers library, when it panics
            (Path(place) / "said").write_text(verdict(folder), errors="replace")
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        said = (Path(place) / "said").read_text()
    return f"ended by signal {status}: " if status else said, changes


def main() -> None:
    """Run cases until the time is over, or one case again."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="run this case alone, in this process")
    parser.add_argument("--out", type=Path, default=Path("found.jsonl"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    kinds: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        folders = write_folders(Path(place))
        for folder in folders:
            load_and_encode(folder)  # what a first call imports and measures is not a case's
        if options.case is not None:
            run_case(folders, options.seed, options.case, again=True)
            return
        end = time.monotonic() + 60 * options.minutes
        while time.monotonic() < end:
            case = kinds.total()
            said, changes = run_case(folders, options.seed, case)
            kind = said.split(": ")[0]
            kinds[kind] += 1
            if kind and kinds[kind] == 1:
                with options.out.open("a") as file:
                    print(json.dumps({"seed": options.seed, "case": case, "said": said, "changes": changes}), file=file)
    print(f"{kinds.total()} cases, {kinds.pop('', 0)} as they should be, {len(kinds)} kinds of foreign exception")
    for kind, count in kinds.most_common():
        print(f"{count:6}  {kind}")


if __name__ == "__main__":
    main()
