"""The engines that take padded ids: how each is opened, and how it computes one batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .job import Model, Setting
from .runners import Padded


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
