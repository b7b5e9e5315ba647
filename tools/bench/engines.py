"""The engines that race: one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..peers.runners import Padded, Runner, SentenceTransformers
from ..peers.sessions import Session, ctranslate2, onnxruntime, openvino, transformers
from ..peers.work import Model, Setting

PRECISIONS = ("float32", "bfloat16", "int8")


class Minibert(Runner):
    """minibert as a user has it, without settings; or the folder that `encoder.compile` wrote."""

    def __init__(self, model: Model, threads: int, batch_invariant: bool = False, **options: Any) -> None:
        super().__init__(model, threads)
        from minibert import SentenceEncoder

        folder = Path(model.work) / "compiled" if options.get("compiled") else model.folder
        self.encoder = SentenceEncoder.from_pretrained(folder, device="cpu", truncation="silent", **options)
        self.batch_invariant = batch_invariant

    def encode(self, texts: list[str], limit: int, setting: Setting) -> np.ndarray:
        """Call `encode` once."""
        self.encoder.max_seq_length = limit
        return np.asarray(self.encoder.encode(texts, batch_invariant=self.batch_invariant))


@dataclass(frozen=True)
class Engine:
    """A row of the table."""

    name: str
    precision: str
    kind: Callable[..., Runner]
    options: dict[str, Any] = field(default_factory=dict)
    needs: str = ""  # the form that `peers.convert` makes for it
    # Environment variables that are settings of its library. Each is tried, in a process of its own.
    environments: tuple[dict[str, str], ...] = ({},)

    @property
    def is_peer(self) -> bool:
        """Return whether it is another project's."""
        return self.kind is not Minibert


def _padded(name: str, precision: str, open_session: Callable[..., Session], needs: str = "", **options: Any) -> Engine:
    environments = _ctranslate2_environments() if open_session is ctranslate2 else ({},)
    return Engine(name, precision, partial(Padded, open_session=open_session), options, needs, environments)


def _compiled(precision: str) -> Engine:
    name = " ".join(["minibert compiled", precision]).removesuffix(" float32")
    return Engine(name, precision, Minibert, {"dtype": precision, "compiled": True}, "compiled")


def _ctranslate2_environments() -> tuple[dict[str, str], ...]:
    """Return its two matrix libraries; AVX-512 is switched on where present, since it doesn't do so by itself."""
    processor = Path("/proc/cpuinfo")  # read here: importing minibert would add to the memory of its peers
    wide = processor.exists() and "avx512f" in processor.read_text(encoding="utf-8")
    isa = {"CT2_FORCE_CPU_ISA": "AVX512"} if wide else {}
    return isa, isa | {"CT2_USE_MKL": "0"}


ENGINES = {
    engine.name: engine
    for engine in (
        _padded("transformers", "float32", transformers),
        Engine("sentence-transformers", "float32", SentenceTransformers),
        _padded("onnxruntime", "float32", onnxruntime, "onnx"),
        _padded("openvino", "float32", openvino, "openvino"),
        _padded("ctranslate2", "float32", ctranslate2, "ctranslate2"),
        Engine("minibert", "float32", Minibert),
        Engine("minibert batch-invariant", "float32", Minibert, {"batch_invariant": True}),
        _compiled("float32"),
        _padded("transformers bfloat16", "bfloat16", transformers, dtype="bfloat16"),
        Engine("sentence-transformers bfloat16", "bfloat16", SentenceTransformers, {"dtype": "bfloat16"}),
        _padded("openvino bfloat16", "bfloat16", openvino, "openvino", dtype="bf16"),
        _padded("ctranslate2 bfloat16", "bfloat16", ctranslate2, "ctranslate2", dtype="bfloat16"),
        Engine("minibert bfloat16", "bfloat16", Minibert, {"dtype": "bfloat16"}),
        _compiled("bfloat16"),
        _padded("onnxruntime int8", "int8", onnxruntime, "onnx", file="int8.onnx"),
        _padded("ctranslate2 int8", "int8", ctranslate2, "ctranslate2", dtype="int8"),
        _padded("ctranslate2 int8_bfloat16", "int8", ctranslate2, "ctranslate2", dtype="int8_bfloat16"),
        Engine("minibert int8", "int8", Minibert, {"dtype": "int8"}),
        _compiled("int8"),
    )
}
