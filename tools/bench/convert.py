"""The forms in which other engines want a checkpoint; and the float64 vectors that all are measured by.

Each runs in a process of its own (`python -m bench.convert onnx MODEL.json`), so that one that fails, for lack of
its library or otherwise, costs the race only the engines that need it.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minibert import Bert

from .job import Model, read_workloads
from .pool import pool

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
COMPARED = 256  # texts


class PlainGraph(nn.Module):
    """A BERT with its pooling, in the very operations that onnxruntime's optimizer looks for. (B, S) x 3 -> (B, D)

    What it fuses into one node each (embeddings, attention, bias and gelu, addition and norm) it knows by the graphs
    that transformers 4 gave; in those of transformers 5 it finds no attention. The weights are the same.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        bert: Any = Bert.from_pretrained(model.folder)
        self.bert = bert
        bert.embeddings.norm = _norm(bert.embeddings.norm)
        for layer in bert.layers:
            layer.attention_norm = _norm(layer.attention_norm)
            layer.feed_forward_norm = _norm(layer.feed_forward_norm)
            layer.feed_forward.activation = nn.GELU()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """As transformers 4 wrote it."""
        parts = self.bert.embeddings
        x = parts.token(input_ids) + parts.token_type(token_type_ids)
        x = parts.norm(x + parts.position(torch.arange(self.model.positions)[None][:, : input_ids.shape[1]]))
        mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * -10000.0
        size = self.model.hidden // self.model.heads
        for layer in self.bert.layers:
            attention = layer.attention
            q, k, v = (
                project(x).view(*x.shape[:2], self.model.heads, size).permute(0, 2, 1, 3)
                for project in (attention.query, attention.key, attention.value)
            )
            scores = q @ k.transpose(-1, -2) / math.sqrt(size) + mask
            mixed = (torch.softmax(scores, dim=-1) @ v).permute(0, 2, 1, 3).contiguous()
            x = layer.attention_norm(attention.out(mixed.view(*x.shape)) + x)
            x = layer.feed_forward_norm(layer.feed_forward(x) + x)
        return pool(self.model, x, attention_mask)


class Pooled(nn.Module):
    """The BertModel of transformers with the checkpoint's pooling. (B, S) x 3 -> (B, D)"""

    def __init__(self, model: Model, **options: Any) -> None:
        from transformers import BertModel

        super().__init__()
        self.model = model
        self.bert = BertModel.from_pretrained(model.folder, add_pooling_layer=False, **options).eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """Encode and pool."""
        x = self.bert(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).last_hidden_state
        return pool(self.model, x, attention_mask)


def to_onnx(model: Model, target: Path) -> None:
    """onnx/model.onnx with fused nodes, onnx/int8.onnx made of it.

    Raises:
        RuntimeError: the optimizer did not fuse every layer's attention, so this would not be onnxruntime at its best.
    """
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers.optimizer import optimize_model

    target.mkdir()
    plain, fused = target / "plain.onnx", target / "model.onnx"
    shapes = {name: {0: "batch", 1: "tokens"} for name in INPUTS} | {"vectors": {0: "batch"}}
    with torch.no_grad():
        torch.onnx.export(
            PlainGraph(model).eval(),
            _example(),
            str(plain),
            input_names=list(INPUTS),
            output_names=["vectors"],
            dynamic_axes=shapes,
            opset_version=17,
            dynamo=False,
        )
    graph = optimize_model(
        str(plain), model_type="bert", num_heads=model.heads, hidden_size=model.hidden, opt_level=1, use_gpu=False
    )
    fusions = graph.get_fused_operator_statistics()
    if fusions["Attention"] != model.layers or fusions["EmbedLayerNormalization"] != 1:
        raise RuntimeError(f"onnxruntime's optimizer fused only {fusions}")
    graph.save_model_to_file(str(fused))
    # Signed weights: unsigned ones took twice the time (onnxruntime 1.32 on a processor with VNNI and AMX).
    quantize_dynamic(
        str(fused),
        str(target / "int8.onnx"),
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options={"DefaultTensorType": TensorProto.FLOAT},  # behind fused nodes it can't tell
    )


def to_openvino(model: Model, target: Path) -> None:
    """openvino/model.xml, through its own reader of torch; from ONNX, fused or not, it was no faster."""
    import openvino

    target.mkdir()
    example = dict(zip(INPUTS, _example(), strict=True))
    with torch.no_grad():
        found = openvino.convert_model(Pooled(model, attn_implementation="sdpa"), example_input=example)
    openvino.save_model(found, str(target / "model.xml"), compress_to_fp16=False)


def to_ctranslate2(model: Model, target: Path) -> None:
    """ctranslate2/float32 and ctranslate2/int8."""
    from ctranslate2.converters import TransformersConverter

    target.mkdir()
    TransformersConverter(model.folder).convert(str(target / "float32"))
    TransformersConverter(model.folder).convert(str(target / "int8"), quantization="int8")


def to_float64(model: Model, target: Path) -> None:
    """float64/vectors.npy: of the large call's first texts, by transformers, one by one: nothing is padded."""
    from transformers import AutoTokenizer

    target.mkdir()
    tokenizer = AutoTokenizer.from_pretrained(model.folder)
    pooled = Pooled(model, dtype=torch.float64)
    vectors = []
    with torch.inference_mode():
        for text in read_workloads(model)["one large call"].calls[0][:COMPARED]:
            batch = tokenizer([text], truncation=True, max_length=model.limit, return_tensors="pt")
            vectors.append(pooled(**batch).numpy())
    np.save(target / "vectors.npy", np.concatenate(vectors))


KINDS: dict[str, Callable[[Model, Path], None]] = {
    "onnx": to_onnx,
    "openvino": to_openvino,
    "ctranslate2": to_ctranslate2,
    "float64": to_float64,
}


def _norm(part: Any) -> nn.LayerNorm:
    found = nn.LayerNorm(part.weight.shape[0], eps=part.eps)
    found.weight, found.bias = part.weight, part.bias
    return found


def _example() -> tuple[Tensor, Tensor, Tensor]:
    """Two texts, one of them padded: (2, 9) each."""
    mask = torch.ones(2, 9, dtype=torch.int64)
    mask[1, 5:] = 0
    return mask.clone(), mask, torch.zeros_like(mask)


if __name__ == "__main__":
    about = Model(**json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
    KINDS[sys.argv[1]](about, Path(about.work) / sys.argv[1])
