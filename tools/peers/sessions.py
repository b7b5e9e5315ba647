"""The engines that take padded ids: how each is opened, and how it computes the batches of a call.

Each function opens an engine for some number of batches side by side (``workers``), each with some ``threads``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .work import Model

if TYPE_CHECKING:
    from torch import Tensor

Batch = tuple[np.ndarray, np.ndarray]  # ids and mask, int64 (B, S)
Session = Callable[[Sequence[Batch]], list[np.ndarray]]  # the batches of a call -> their vectors, (B, D) each


def side_by_side(forward: Callable[[np.ndarray, np.ndarray], np.ndarray], workers: int) -> Session:
    """Make a session of a function that computes one batch."""
    if workers == 1:
        return lambda batches: [forward(*batch) for batch in batches]
    pool = ThreadPoolExecutor(workers)
    return lambda batches: list(pool.map(forward, *zip(*batches, strict=True)))


def pool_states(model: Model, x: Tensor, mask: Tensor | None) -> Tensor:
    """Pool in torch, in float32 at least. x (B, S, D), mask (B, S) or None where nothing is padded -> (B, D)"""
    import torch

    dtype = torch.promote_types(x.dtype, torch.float32)
    if model.pooling == "cls":
        vectors = x[:, 0].to(dtype)
    elif mask is None:
        vectors = x.mean(1, dtype=dtype)
    else:
        weights = mask.to(dtype)
        vectors = (weights.unsqueeze(1) @ x.to(dtype)).squeeze(1) / weights.sum(1, keepdim=True)
    return torch.nn.functional.normalize(vectors, dim=-1) if model.normalize else vectors


@cache
def _bert(folder: str, dtype: str) -> Any:
    from transformers import BertModel

    options = {"dtype": dtype, "attn_implementation": "sdpa", "add_pooling_layer": False}
    return BertModel.from_pretrained(folder, **options).eval()


def transformers(model: Model, workers: int, threads: int, dtype: str = "float32") -> Session:
    """Open the BertModel of transformers with its fastest attention, sdpa. One model serves all settings."""
    import torch

    bert = _bert(model.folder, dtype)

    def forward(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        torch.set_num_threads(threads)  # each thread of Python has its own number
        with torch.inference_mode():
            seen = None if mask.all() else torch.from_numpy(mask)
            x = bert(torch.from_numpy(ids), attention_mask=seen).last_hidden_state
            return np.asarray(pool_states(model, x, seen))

    return side_by_side(forward, workers)


def onnxruntime(model: Model, workers: int, threads: int, file: str = "model.onnx") -> Session:
    """Open onnxruntime with its own fused graph, which includes the pooling."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads  # a session of one thread computes in the thread that calls it
    graph = str(Path(model.work) / "onnx" / file)
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def forward(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        return np.asarray(session.run(None, feed)[0])

    return side_by_side(forward, workers)


def openvino(model: Model, workers: int, threads: int, dtype: str = "f32") -> Session:
    """Open openvino with its queue of requests, a stream for each worker; pooling is part of the graph."""
    import openvino

    options = {
        "INFERENCE_PRECISION_HINT": dtype,
        "PERFORMANCE_HINT": "LATENCY" if workers == 1 else "THROUGHPUT",
        "NUM_STREAMS": workers,
        "INFERENCE_NUM_THREADS": workers * threads,
    }
    graph = str(Path(model.work) / "openvino" / "model.xml")
    queue = openvino.AsyncInferQueue(openvino.Core().compile_model(graph, "CPU", options), workers)

    def session(batches: Sequence[Batch]) -> list[np.ndarray]:
        found: dict[int, np.ndarray] = {}

        def done(request: Any, i: int) -> None:
            found[i] = request.get_output_tensor(0).data.copy()

        inputs = [[ids, mask, np.zeros_like(ids)] for ids, mask in batches]  # shared, so they live until all is done
        if len(inputs) == 1:
            queue[0].infer(inputs[0], share_inputs=True)
            done(queue[0], 0)
        else:
            queue.set_callback(done)
            for i, batch in enumerate(inputs):
                queue.start_async(batch, i, share_inputs=True)
            queue.wait_all()
        return [found[i] for i in range(len(inputs))]

    return session


def ctranslate2(model: Model, workers: int, threads: int, dtype: str = "float32") -> Session:
    """Open ctranslate2, which removes the padding by itself. Its token vectors are pooled here."""
    import ctranslate2

    folder = str(Path(model.work) / "ctranslate2" / ("int8" if "int8" in dtype else "float32"))
    encoder = ctranslate2.Encoder(folder, compute_type=dtype, inter_threads=workers, intra_threads=threads)
    to_storage = ctranslate2.StorageView.from_array

    def forward(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        lengths = mask.sum(1)
        output = encoder.forward_batch(to_storage(ids.astype(np.int32)), to_storage(lengths.astype(np.int32)))
        x = np.array(output.last_hidden_state)  # (B, S, D)
        if model.pooling == "cls":
            vectors = x[:, 0]
        else:
            vectors = (mask[:, None, :].astype(np.float32) @ x)[:, 0] / lengths[:, None].astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True) if model.normalize else vectors

    return side_by_side(forward, workers)
