"""The engines that race, one table; and how each is opened. Their libraries are imported by their own process only."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .job import Model, Setting, Workload
from .settings import possible

PRECISIONS = ("float32", "bfloat16", "int8")


class Runner:
    """Something that encodes: texts -> vectors (n, D), in the order given."""

    def __init__(self, model: Model, threads: int, **options: Any) -> None:
        self.model = model
        self.threads = threads

    def settings(self, workload: Workload) -> list[Setting]:
        """What it may be tried with; one or none: there is nothing to try."""
        return []

    def encode(self, texts: list[str], limit: int, setting: Setting) -> np.ndarray:
        """Tokenise, cut to ``limit`` tokens, run, pool."""
        raise NotImplementedError

    def keep(self, settings: list[Setting]) -> None:
        """Free what only other settings need."""


class Minibert(Runner):
    """minibert as a user has it: no settings."""

    def __init__(self, model: Model, threads: int, **options: Any) -> None:
        super().__init__(model, threads)
        from minibert import SentenceEncoder

        self.encoder = SentenceEncoder.from_pretrained(model.folder, device="cpu", truncation="silent", **options)

    def encode(self, texts: list[str], limit: int, setting: Setting) -> np.ndarray:
        """One call of `encode`."""
        self.encoder.max_seq_length = limit
        return np.asarray(self.encoder.encode(texts))


class SentenceTransformers(Runner):
    """sentence-transformers sorts and pads by itself; it has no way to run batches side by side in one process."""

    def __init__(self, model: Model, threads: int, dtype: str = "float32") -> None:
        super().__init__(model, threads)
        from sentence_transformers import SentenceTransformer

        options = {"dtype": dtype, "attn_implementation": "sdpa"}
        self.encoder = SentenceTransformer(model.folder, device="cpu", model_kwargs=options)

    def settings(self, workload: Workload) -> list[Setting]:
        """Sizes of batch and numbers of threads."""
        return possible(workload, self.threads, alone=True)

    def encode(self, texts: list[str], limit: int, setting: Setting) -> np.ndarray:
        """One call of `encode`."""
        import torch

        torch.set_num_threads(setting.threads)
        self.encoder.max_seq_length = limit
        return np.asarray(self.encoder.encode(texts, batch_size=setting.batch, show_progress_bar=False))


class Padded(Runner):
    """An engine that takes padded ids: here texts are tokenised at once, sorted by tokens, cut, put back in order."""

    def __init__(self, model: Model, threads: int, **options: Any) -> None:
        super().__init__(model, threads)
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(Path(model.work) / "tokenizer" / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.limit = 0
        self.sessions: dict[tuple[int, int], Any] = {}  # by workers and threads
        self.pools: dict[tuple[int, int], ThreadPoolExecutor] = {}

    def settings(self, workload: Workload) -> list[Setting]:
        """Sizes of batch; one batch with all threads, or one for each."""
        return possible(workload, self.threads)

    def open(self, workers: int, threads: int) -> Any:
        """A session for so many batches side by side, with so many threads for each."""
        raise NotImplementedError

    def forward(self, session: Any, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """One batch, int64 (B, S) -> (B, D)"""
        raise NotImplementedError

    def begin(self, threads: int) -> None:
        """What each thread that computes must do first."""

    def session(self, setting: Setting) -> Any:
        """The session for a setting, opened at its first use."""
        key = setting.workers, setting.threads
        if key not in self.sessions:
            self.sessions[key] = self.open(*key)
        return self.sessions[key]

    def keep(self, settings: list[Setting]) -> None:
        """Close all other sessions."""
        kept = {(setting.workers, setting.threads) for setting in settings}
        self.sessions = {key: session for key, session in self.sessions.items() if key in kept}

    def encode(self, texts: list[str], limit: int, setting: Setting) -> np.ndarray:
        """Sorted, so that little is padded; the longest first, so that no worker ends with a long batch alone."""
        if limit != self.limit:
            self.tokenizer.enable_truncation(limit)
            self.limit = limit
        ids = [np.array(found.ids) for found in self.tokenizer.encode_batch_fast(texts)]
        lengths = np.array([len(found) for found in ids])
        order = np.argsort(-lengths, kind="stable")
        batches = [order[i : i + setting.batch] for i in range(0, len(order), setting.batch)]
        result = np.empty((len(texts), self.model.hidden), np.float32)
        self.run(self.session(setting), setting, batches, lambda rows: self.pad(ids, lengths, rows), result)
        return result

    def run(
        self,
        session: Any,
        setting: Setting,
        batches: list[np.ndarray],
        pad: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
        result: np.ndarray,
    ) -> None:
        """Fill in the vectors of all batches."""

        def one(rows: np.ndarray) -> None:
            result[rows] = self.forward(session, *pad(rows))

        if setting.workers == 1 or len(batches) == 1:
            self.begin(setting.threads)
            for rows in batches:
                one(rows)
            return
        key = setting.workers, setting.threads
        if key not in self.pools:
            self.pools[key] = ThreadPoolExecutor(setting.workers, initializer=lambda: self.begin(setting.threads))
        list(self.pools[key].map(one, batches))

    @staticmethod
    def pad(ids: list[np.ndarray], lengths: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask of some texts, int64 (B, S)."""
        mask = (np.arange(lengths[rows].max()) < lengths[rows][:, None]).astype(np.int64)
        padded = np.zeros_like(mask)
        padded[mask == 1] = np.concatenate([ids[i] for i in rows])
        return padded, mask


class Transformers(Padded):
    """The BertModel of transformers with its fastest attention, sdpa, and nothing computed that is not needed."""

    def __init__(self, model: Model, threads: int, dtype: str = "float32") -> None:
        super().__init__(model, threads)
        import torch
        from transformers import BertModel

        from .pool import pool

        self.torch, self.pool = torch, pool
        self.bert = BertModel.from_pretrained(
            model.folder, dtype=dtype, attn_implementation="sdpa", add_pooling_layer=False
        ).eval()

    def open(self, workers: int, threads: int) -> Any:
        """One model serves all."""
        return self.bert

    def begin(self, threads: int) -> None:
        """Each thread has a number of its own in torch."""
        self.torch.set_num_threads(threads)

    def forward(self, session: Any, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Without a mask where nothing is padded."""
        with self.torch.inference_mode():
            seen = None if mask.all() else self.torch.from_numpy(mask)
            x = session(self.torch.from_numpy(ids), attention_mask=seen).last_hidden_state
            return np.asarray(self.pool(self.model, x, seen))


class OnnxRuntime(Padded):
    """onnxruntime's own fused graph; pooling is part of it."""

    def __init__(self, model: Model, threads: int, file: str = "model.onnx") -> None:
        super().__init__(model, threads)
        self.file = str(Path(model.work) / "onnx" / file)

    def open(self, workers: int, threads: int) -> Any:
        """A session; `run` may be called from several threads, and computes in the caller's if it has one thread."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        return onnxruntime.InferenceSession(self.file, options, providers=["CPUExecutionProvider"])

    def forward(self, session: Any, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The graph takes int64."""
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        return np.asarray(session.run(None, feed)[0])


class OpenVino(Padded):
    """openvino with its queue of requests; pooling is part of the graph."""

    def __init__(self, model: Model, threads: int, dtype: str = "f32") -> None:
        super().__init__(model, threads)
        self.dtype = dtype

    def open(self, workers: int, threads: int) -> Any:
        """A queue of requests, a stream for each worker."""
        import openvino

        compiled = openvino.Core().compile_model(
            str(Path(self.model.work) / "openvino" / "model.xml"),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": self.dtype,
                "PERFORMANCE_HINT": "LATENCY" if workers == 1 else "THROUGHPUT",
                "NUM_STREAMS": workers,
                "INFERENCE_NUM_THREADS": workers * threads,
            },
        )
        return openvino.AsyncInferQueue(compiled, workers)

    def run(
        self,
        session: Any,
        setting: Setting,
        batches: list[np.ndarray],
        pad: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
        result: np.ndarray,
    ) -> None:
        """All batches through the queue; a single one directly."""

        def feed(rows: np.ndarray) -> list[np.ndarray]:
            ids, mask = pad(rows)
            return [ids, mask, np.zeros_like(ids)]

        def done(request: Any, work: tuple[np.ndarray, list[np.ndarray]]) -> None:
            result[work[0]] = request.get_output_tensor(0).data

        session.set_callback(done)
        for rows in batches:
            inputs = feed(rows)
            if len(batches) == 1:
                session[0].infer(inputs, share_inputs=True)
                done(session[0], (rows, inputs))
                return
            # The inputs are shared, not copied, so something must hold them until they are read.
            session.start_async(inputs, (rows, inputs), share_inputs=True)
        session.wait_all()


class CTranslate2(Padded):
    """ctranslate2, which takes the padding out again by itself; it gives token vectors, pooled here in numpy."""

    def __init__(self, model: Model, threads: int, dtype: str = "float32") -> None:
        super().__init__(model, threads)
        self.dtype = dtype

    def open(self, workers: int, threads: int) -> Any:
        """An encoder with so many workers of its own."""
        import ctranslate2

        folder = Path(self.model.work) / "ctranslate2" / ("int8" if "int8" in self.dtype else "float32")
        return ctranslate2.Encoder(str(folder), compute_type=self.dtype, inter_threads=workers, intra_threads=threads)

    def forward(self, session: Any, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Ids are int32 here."""
        from ctranslate2 import StorageView

        lengths = mask.sum(1)
        output = session.forward_batch(
            StorageView.from_array(ids.astype(np.int32)), StorageView.from_array(lengths.astype(np.int32))
        )
        x = np.array(output.last_hidden_state)  # (B, S, D)
        if self.model.pooling == "cls":
            vectors = x[:, 0]
        else:
            vectors = (mask[:, None, :].astype(np.float32) @ x)[:, 0] / lengths[:, None].astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True) if self.model.normalize else vectors


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


_CT2 = {"needs": "ctranslate2", "environments": _ctranslate2_environments()}
ENGINES = {
    engine.name: engine
    for engine in (
        Engine("transformers", "float32", Transformers),
        Engine("sentence-transformers", "float32", SentenceTransformers),
        Engine("onnxruntime", "float32", OnnxRuntime, needs="onnx"),
        Engine("openvino", "float32", OpenVino, needs="openvino"),
        Engine("ctranslate2", "float32", CTranslate2, **_CT2),
        Engine("minibert", "float32", Minibert),
        Engine("transformers bfloat16", "bfloat16", Transformers, {"dtype": "bfloat16"}),
        Engine("sentence-transformers bfloat16", "bfloat16", SentenceTransformers, {"dtype": "bfloat16"}),
        Engine("openvino bfloat16", "bfloat16", OpenVino, {"dtype": "bf16"}, needs="openvino"),
        Engine("ctranslate2 bfloat16", "bfloat16", CTranslate2, {"dtype": "bfloat16"}, **_CT2),
        Engine("minibert bfloat16", "bfloat16", Minibert, {"dtype": "bfloat16"}),
        Engine("onnxruntime int8", "int8", OnnxRuntime, {"file": "int8.onnx"}, needs="onnx"),
        Engine("ctranslate2 int8", "int8", CTranslate2, {"dtype": "int8"}, **_CT2),
        Engine("ctranslate2 int8_bfloat16", "int8", CTranslate2, {"dtype": "int8_bfloat16"}, **_CT2),
        Engine("minibert int8", "int8", Minibert, {"dtype": "int8"}),
    )
}


def environment(threads: int) -> dict[str, str]:
    """For every process: as many threads as was asked for, and no network."""
    return os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "RAYON_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "true",
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
    }
