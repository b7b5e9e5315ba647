#!/usr/bin/env bash
# transformers 5.23.0: AutoTokenizer replaces the post-processor of a BERT's tokenizer.json by the usual one.
#
# Guess:  tokenizer.json is the whole tokenizer, so AutoTokenizer gives the ids that `tokenizers` gives for that file.
# Seen:   true in 4.57.6. In 5.23.0 a tokenizer_class of BertTokenizer, or none beside a BERT's config.json, rebuilds the
#         template as [CLS] $A [SEP], without a warning. Only tokenizer_class PreTrainedTokenizerFast keeps the file's own.
#         A model that was trained without [SEP] gets one token more, and so other vectors.
#
# Output, 2026-11-28, for a template "[CLS] $A":
#     4.57.6 BertTokenizer [2, 5, 6]
#     4.57.6 None [2, 5, 6]
#     4.57.6 PreTrainedTokenizerFast [2, 5, 6]
#     5.23.0 BertTokenizer [2, 5, 6, 3]
#     5.23.0 None [2, 5, 6, 3]
#     5.23.0 PreTrainedTokenizerFast [2, 5, 6]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error

cat >"$work/show.py" <<'PYTHON'
import json
import sys
import tempfile
from pathlib import Path

import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

adds_sep = sys.argv[1] == "adds"
pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world"]
backend = Tokenizer(models.WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token="[UNK]"))
backend.normalizer = normalizers.BertNormalizer(lowercase=True)
backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
backend.post_processor = processors.TemplateProcessing(
    single="[CLS] $A", pair="[CLS] $A $B:1", special_tokens=[("[CLS]", 2)]
)
for name in ("BertTokenizer", None, "PreTrainedTokenizerFast"):
    folder = Path(tempfile.mkdtemp())
    backend.save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").write_text("\n".join(pieces))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name} if name else {}))
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).encode("hello world").ids == [2, 5, 6]
    ids = transformers.AutoTokenizer.from_pretrained(folder)("hello world")["input_ids"]
    print(transformers.__version__, name, ids)
    assert ids == ([2, 5, 6, 3] if adds_sep and name != "PreTrainedTokenizerFast" else [2, 5, 6]), ids
PYTHON

python3 -m venv "$work/venv4"
"$work/venv4/bin/pip" install --quiet transformers==4.57.6 tokenizers==0.22.2 numpy
"$work/venv4/bin/python" "$work/show.py" keeps
python3 -m venv "$work/venv5"
"$work/venv5/bin/pip" install --quiet transformers==5.23.0 tokenizers==0.23.3 numpy
"$work/venv5/bin/python" "$work/show.py" adds
