#!/usr/bin/env bash
# transformers 4.57.6 and 5.23.0: a BERT checkpoint whose masked-LM decoder differs from its token embeddings gives two different models.
#
# Guess:  BERT's decoder is tied to the token embeddings (tie_word_embeddings is True by default), so a decoder in the file
#         never matters; or the file always wins. Either way both versions agree.
# Seen:   4.57.6 ties, drops the stored decoder and says nothing. 5.23.0 keeps the stored decoder, does not tie, and logs
#         a line, although config.tie_word_embeddings is still True. So the same file gives other logits, and training it
#         updates one matrix in 4.57.6 and two in 5.23.0.
#
# Output, 2026-11-28:
#     4.57.6 tie_word_embeddings True tied True decoder of the file False
#     5.23.0 tie_word_embeddings True tied False decoder of the file True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=warning

cat >"$work/show.py" <<'PYTHON'
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

folder, ties = Path(sys.argv[1]), sys.argv[2] == "ties"
decoder, table = "cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"
if not folder.exists():
    config = BertConfig(20, 8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    BertForMaskedLM(config).save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, decoder: tensors[table] * 2}, folder / "model.safetensors", metadata={"format": "pt"})
stored = load_file(folder / "model.safetensors")[decoder]
model = BertForMaskedLM.from_pretrained(folder)
weight, embeddings = model.cls.predictions.decoder.weight, model.bert.embeddings.word_embeddings.weight
tied, kept = weight is embeddings, torch.equal(weight, stored)
told = f"tie_word_embeddings {model.config.tie_word_embeddings}"
print(transformers.__version__, told, "tied", tied, "decoder of the file", kept)
assert model.config.tie_word_embeddings is True
assert (tied, kept) == ((True, False) if ties else (False, True))
PYTHON

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==4.57.6 safetensors==0.8.0 numpy
"$work/venv/bin/python" "$work/show.py" "$work/model" ties 2>"$work/log"
if grep -qi "tie\|decoder" "$work/log"; then cat "$work/log"; echo "4.57.6 is not silent any more"; exit 1; fi
"$work/venv/bin/pip" install --quiet transformers==5.23.0
"$work/venv/bin/python" "$work/show.py" "$work/model" keeps 2>"$work/log"
grep -q "will NOT tie" "$work/log"
