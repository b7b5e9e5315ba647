"""The engines that race: one table."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .peers import CTranslate2, OnnxRuntime, OpenVino, Transformers
from .runners import Minibert, Runner, SentenceTransformers

PRECISIONS = ("float32", "bfloat16", "int8")


@dataclass(frozen=True)
class Engine:
    """A row of the table."""

    name: str
    precision: str
    kind: type[Runner]
    options: dict[str, Any] = field(default_factory=dict)
    needs: str = ""  # what `convert` makes for it
    # Variables of the environment that are settings of its library: each is tried, in a process of its own.
    environments: tuple[dict[str, str], ...] = ({},)

    @property
    def is_peer(self) -> bool:
        """Whether it is somebody else's."""
        return self.kind is not Minibert


def _ctranslate2_environments() -> tuple[dict[str, str], ...]:
    """Its two libraries of matrix products; and AVX-512 where there is, which it leaves alone unless asked."""
    try:
        wide = "avx512f" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        wide = False
    isa = {"CT2_FORCE_CPU_ISA": "AVX512"} if wide else {}
    return isa, isa | {"CT2_USE_MKL": "0"}


def _ctranslate2(name: str, precision: str, dtype: str) -> Engine:
    return Engine(name, precision, CTranslate2, {"dtype": dtype}, "ctranslate2", _ctranslate2_environments())


ENGINES = {
    engine.name: engine
    for engine in (
        Engine("transformers", "float32", Transformers),
        Engine("sentence-transformers", "float32", SentenceTransformers),
        Engine("onnxruntime", "float32", OnnxRuntime, needs="onnx"),
        Engine("openvino", "float32", OpenVino, needs="openvino"),
        _ctranslate2("ctranslate2", "float32", "float32"),
        Engine("minibert", "float32", Minibert),
        Engine("minibert batch-invariant", "float32", Minibert, {"batch_invariant": True}),
        Engine("transformers bfloat16", "bfloat16", Transformers, {"dtype": "bfloat16"}),
        Engine("sentence-transformers bfloat16", "bfloat16", SentenceTransformers, {"dtype": "bfloat16"}),
        Engine("openvino bfloat16", "bfloat16", OpenVino, {"dtype": "bf16"}, needs="openvino"),
        _ctranslate2("ctranslate2 bfloat16", "bfloat16", "bfloat16"),
        Engine("minibert bfloat16", "bfloat16", Minibert, {"dtype": "bfloat16"}),
        Engine("onnxruntime int8", "int8", OnnxRuntime, {"file": "int8.onnx"}, needs="onnx"),
        _ctranslate2("ctranslate2 int8", "int8", "int8"),
        _ctranslate2("ctranslate2 int8_bfloat16", "int8", "int8_bfloat16"),
        Engine("minibert int8", "int8", Minibert, {"dtype": "int8"}),
    )
}


def environment(threads: int) -> dict[str, str]:
    """For every process: as many threads as was asked for, no network, and these files to be found as `bench`."""
    tools = str(Path(__file__).resolve().parents[1])
    return os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "RAYON_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "true",
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
        "PYTHONPATH": os.pathsep.join([tools, *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
