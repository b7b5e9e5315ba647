"""The forms in which other engines want a checkpoint, and the float64 vectors that all engines are compared with.

Each function runs in a process of its own, so a library that is missing costs only the engines that need it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minibert import Bert

from .sessions import pool_states
from .work import Model

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class PlainGraph(nn.Module):
    """A BERT with its pooling, in the operations that onnxruntime's optimizer looks for. (B, S) x 3 -> (B, D)

    The optimizer knows embeddings, attention, bias and GELU, addition and norm by the graphs of transformers 4. It
    finds no attention in the graphs of transformers 5. The weights are the same.
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
        """Compute as transformers 4 did."""
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
            attended = (torch.softmax(scores, dim=-1) @ v).permute(0, 2, 1, 3).contiguous()
            x = layer.attention_norm(attention.out(attended.view(*x.shape)) + x)
            x = layer.feed_forward_norm(layer.feed_forward(x) + x)
        return pool_states(self.model, x, attention_mask)


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
        return pool_states(self.model, x, attention_mask)


def to_onnx(model: Model) -> None:
    """Write onnx/model.onnx with fused nodes, and onnx/int8.onnx.

    Raises:
        RuntimeError: The optimizer did not fuse every layer's attention, so onnxruntime would not be at its best.
    """
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers.optimizer import optimize_model

    target = _folder(model, "onnx")
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
        extra_options={"DefaultTensorType": TensorProto.FLOAT},  # behind fused nodes it can't infer the type
    )


def to_openvino(model: Model) -> None:
    """Write openvino/model.xml by openvino's own reader of torch. From ONNX, fused or not, it was no faster."""
    import openvino

    example = dict(zip(INPUTS, _example(), strict=True))
    with torch.no_grad():
        found = openvino.convert_model(Pooled(model, attn_implementation="sdpa"), example_input=example)
    openvino.save_model(found, str(_folder(model, "openvino") / "model.xml"), compress_to_fp16=False)


def to_ctranslate2(model: Model) -> None:
    """Write ctranslate2/float32 and ctranslate2/int8."""
    from ctranslate2.converters import TransformersConverter

    target = _folder(model, "ctranslate2")
    TransformersConverter(model.folder).convert(str(target / "float32"))
    TransformersConverter(model.folder).convert(str(target / "int8"), quantization="int8")


def to_compiled(model: Model) -> None:
    """Write compiled/, the checkpoint with minibert's layers as machine code."""
    from minibert import SentenceEncoder

    SentenceEncoder.from_pretrained(model.folder, device="cpu").compile(Path(model.work) / "compiled")


def float64_vectors(model: Model, texts: Sequence[str]) -> np.ndarray:
    """Return the vectors of transformers and its tokenizer in float64, one text after another: nothing is padded."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model.folder)
    pooled = Pooled(model, dtype=torch.float64)
    vectors = []
    with torch.inference_mode():
        for text in texts:
            batch = tokenizer([text], truncation=True, max_length=model.limit, return_tensors="pt")
            vectors.append(pooled(**batch).numpy())
    return np.concatenate(vectors)


KINDS: dict[str, Callable[[Model], None]] = {
    "onnx": to_onnx,
    "openvino": to_openvino,
    "ctranslate2": to_ctranslate2,
    "compiled": to_compiled,
}


def _folder(model: Model, name: str) -> Path:
    folder = Path(model.work) / name
    folder.mkdir()
    return folder


def _norm(part: Any) -> nn.LayerNorm:
    found = nn.LayerNorm(part.weight.shape[0], eps=part.eps)
    found.weight, found.bias = part.weight, part.bias
    return found


def _example() -> tuple[Tensor, Tensor, Tensor]:
    """Return two texts, one of them padded: (2, 9) each."""
    mask = torch.ones(2, 9, dtype=torch.int64)
    mask[1, 5:] = 0
    return mask.clone(), mask, torch.zeros_like(mask)
