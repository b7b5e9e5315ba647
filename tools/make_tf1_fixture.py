"""Write tests/fixtures/tf1: a small BERT in Google's original format, and its results.

TensorFlow itself writes the checkpoint (``tf.compat.v1.train.Saver``). The expected numbers come from transformers 4,
which reads it by TensorFlow (``load_tf_weights_in_bert``) and computes in float64. minibert takes no part.

Needs ``tensorflow-cpu==2.21.0 torch==2.13.0 'transformers<5'`` (4.57.6) and ``safetensors``, in an environment of
their own. From the repository's root:

    python tools/make_tf1_fixture.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForPreTraining
from transformers.models.bert.modeling_bert import load_tf_weights_in_bert

FOLDER = Path(__file__).parents[1] / "tests" / "fixtures" / "tf1"
# The fields of Google's bert_config.json, and no others: no model_type, no layer_norm_eps.
CONFIG: dict[str, Any] = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 37,
    "max_position_embeddings": 40,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "type_vocab_size": 3,
    "vocab_size": 99,
}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = (
    "the of and to in was is for on as with by he at from his it an were are which this be had not but they "
    "cat dog sat mat run runs jump ##s ##ed ##ing ##er ##ly . , ! ?"
)
# One of each kind, by transformers' names; the model's outputs cover the rest.
GOLDEN = (
    "bert.embeddings.word_embeddings.weight",
    "bert.embeddings.LayerNorm.weight",
    "bert.embeddings.LayerNorm.bias",
    "bert.encoder.layer.0.attention.self.query.weight",
    "bert.encoder.layer.1.intermediate.dense.weight",
    "bert.encoder.layer.1.output.dense.weight",
    "bert.encoder.layer.1.output.dense.bias",
    "bert.pooler.dense.weight",
    "cls.predictions.bias",
    "cls.predictions.transform.dense.weight",
    "cls.seq_relationship.weight",
    "cls.seq_relationship.bias",
)


def variables(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return every variable of Google's pre-training graph, drawn wide, and some of its optimizer's state."""
    hidden, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {}

    def dense(scope: str, wide: int, out: int) -> None:
        shapes[f"{scope}/kernel"], shapes[f"{scope}/bias"] = (wide, out), (out,)

    def norm(scope: str) -> None:
        shapes[f"{scope}/LayerNorm/beta"] = shapes[f"{scope}/LayerNorm/gamma"] = (hidden,)

    shapes["bert/embeddings/word_embeddings"] = (CONFIG["vocab_size"], hidden)
    shapes["bert/embeddings/token_type_embeddings"] = (CONFIG["type_vocab_size"], hidden)
    shapes["bert/embeddings/position_embeddings"] = (CONFIG["max_position_embeddings"], hidden)
    norm("bert/embeddings")
    for layer in range(CONFIG["num_hidden_layers"]):
        scope = f"bert/encoder/layer_{layer}"
        for part in ("query", "key", "value"):
            dense(f"{scope}/attention/self/{part}", hidden, hidden)
        dense(f"{scope}/attention/output/dense", hidden, hidden)
        norm(f"{scope}/attention/output")
        dense(f"{scope}/intermediate/dense", hidden, inner)
        dense(f"{scope}/output/dense", inner, hidden)
        norm(f"{scope}/output")
    dense("bert/pooler/dense", hidden, hidden)
    dense("cls/predictions/transform/dense", hidden, hidden)
    norm("cls/predictions/transform")
    shapes["cls/predictions/output_bias"] = (CONFIG["vocab_size"],)
    shapes["cls/seq_relationship/output_weights"], shapes["cls/seq_relationship/output_bias"] = (2, hidden), (2,)
    for trained in ("bert/encoder/layer_0/intermediate/dense/kernel", "bert/embeddings/LayerNorm/beta"):
        for slot in ("adam_m", "adam_v"):
            shapes[f"{trained}/{slot}"] = shapes[trained]
    values = {name: rng.normal(0.0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    return values | {"global_step": np.array(1234567, dtype=np.int64)}


def save_checkpoint(prefix: Path) -> None:
    """Save the variables by TensorFlow as ``prefix``.index and ``prefix``.data-00000-of-00001."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, value in variables(np.random.default_rng(20181031)).items():
            tf.compat.v1.get_variable(name, initializer=value, use_resource=False)
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver()
        # Only the two files: no .meta with the graph, no text file named `checkpoint`.
        saver.save(session, str(prefix), write_meta_graph=False, write_state=False)


def vocabulary() -> list[str]:
    """Return the 99 tokens: the special ones, words and pieces, and then letters, at a word's start and within it."""
    letters = [chr(ord("a") + i) for i in range(26)]
    tokens = [*SPECIAL, *WORDS.split(), *letters, *(f"##{letter}" for letter in letters)]
    return list(dict.fromkeys(tokens))  # ##s is a piece and a letter.


def expected(prefix: Path) -> dict[str, torch.Tensor]:
    """Return inputs, outputs of transformers 4 in float64, and some weights (``tensor.`` and the name)."""
    model = BertForPreTraining(BertConfig(**CONFIG, attn_implementation="eager")).eval()
    load_tf_weights_in_bert(model, model.config, str(prefix))
    weights = model.state_dict()
    golden = {f"tensor.{name}": weights[name].clone(memory_format=torch.contiguous_format) for name in GOLDEN}
    rng = np.random.default_rng(20190524)
    input_ids = torch.from_numpy(rng.integers(len(SPECIAL), CONFIG["vocab_size"], (2, 12)))
    token_type_ids = torch.from_numpy(rng.integers(0, CONFIG["type_vocab_size"], (2, 12)))
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, 7:] = input_ids[1, 7:] = 0  # The second row is shorter.
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
    with torch.no_grad():
        out = model.double().bert(**inputs)
    return inputs | golden | {"last_hidden_state": out.last_hidden_state, "pooler_output": out.pooler_output}


def main() -> None:
    """Write the checkpoint, its config and vocabulary, and the expected numbers."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    prefix = FOLDER / "bert_model.ckpt"
    save_checkpoint(prefix)
    tokens = vocabulary()
    if len(tokens) != CONFIG["vocab_size"]:
        raise SystemExit(f"{len(tokens)} tokens in vocab.txt, and not {CONFIG['vocab_size']}")
    (FOLDER / "bert_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    (FOLDER / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    save_file(expected(prefix), FOLDER / "expected.safetensors")
    for file in sorted(FOLDER.iterdir()):
        print(f"{file.stat().st_size:7d} {file.name}")


if __name__ == "__main__":
    main()
