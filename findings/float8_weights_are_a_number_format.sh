#!/usr/bin/env bash
# transformers 5.23.0: float8 weights without a scale load as float32 or float16; what decides is config.json, or another tensor.
#
# Guess:  from_pretrained refuses 8-bit weights without a quantization_config, or leaves them in 8 bits.
# Seen:   they are one more number format on disk. They load in the dtype that config.json names. Without one there,
#         the first tensor that is not float8 decides. Only where each tensor is float8 and config.json says nothing, a
#         TypeError speaks of a storage object. A quarter of the file, and no word in the log.
#
# Output, 2026-11-28, Python 3.11, torch 2.13.0, safetensors 0.8.0:
#     table in float8, config says float32: float32
#     table in float8, config says nothing: float16, as the other tensors
#     all in float8, config says float32: float32
#     all in float8, config says nothing: TypeError
#     the numbers are those of the file: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 safetensors==0.8.0 numpy

cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

TABLE, E4M3 = "embeddings.word_embeddings.weight", torch.float8_e4m3fn
folder = Path("model")
torch.manual_seed(0)
sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
BertModel(BertConfig(**sizes)).save_pretrained(folder)
weights, config = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
config.pop("dtype")


def load(eight_bits, dtype):
    stored = {name: x.to(E4M3 if eight_bits(name) else torch.float16) for name, x in weights.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config | ({"dtype": dtype} if dtype else {})))
    return BertModel.from_pretrained(folder)


def name(model):
    (dtype,) = {parameter.dtype for parameter in model.parameters()}
    return str(dtype).removeprefix("torch.")


model = load(lambda name: name == TABLE, "float32")
print("table in float8, config says float32:", name(model))
assert name(model) == "float32"
exact = torch.equal(model.embeddings.word_embeddings.weight, weights[TABLE].to(E4M3).float())
model = load(lambda name: name == TABLE, None)
print(f"table in float8, config says nothing: {name(model)}, as the other tensors")
assert name(model) == "float16"
model = load(lambda name: True, "float32")
print("all in float8, config says float32:", name(model))
assert name(model) == "float32"
try:
    load(lambda name: True, None)
except TypeError as error:
    print("all in float8, config says nothing: TypeError")
    assert "storage object" in str(error), error
else:
    raise AssertionError("it loads now")
print("the numbers are those of the file:", exact)
assert exact
PYTHON
