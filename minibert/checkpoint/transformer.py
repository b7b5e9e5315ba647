"""The settings of sentence-transformers' Transformer module, in sentence_bert_config.json. None is skipped silently."""

from __future__ import annotations

from typing import Any

from ..config import ConfigError
from .hub import CheckpointFiles

TRANSFORMER_SETTINGS = "sentence_bert_config.json"
READ = "max_seq_length", "do_lower_case"
HARMLESS = ("unpad_inputs",)  # the numbers stay the same
ARGUMENTS = "model_args", "model_kwargs"  # what is passed on to transformers
HARMLESS_ARGUMENTS = {
    *("add_pooling_layer", "attn_implementation", "device_map", "dtype", "low_cpu_mem_usage", "torch_dtype"),
    *("trust_remote_code", "use_safetensors"),
}


def usual(task: str, output: str, name: str) -> dict[str, Any]:
    """Return what a Transformer of a kind of model is told: its task, what it takes of the output, and its name."""
    modality = {"text": {"method": "forward", "method_output_name": output}}
    return {"transformer_task": task, "modality_config": modality, "module_output_name": name}


SENTENCES = usual("feature-extraction", "last_hidden_state", "token_embeddings")
PAIRS = usual("sequence-classification", "logits", "scores")


def check_transformer(
    files: CheckpointFiles, expected: dict[str, Any], kind: str, own: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return the settings. Raise ConfigError for one that would change the numbers, or that is unknown.

    ``own`` are settings that the kind of model reads by itself.
    """
    values, where = files.read_object(TRANSFORMER_SETTINGS), f"{files.name}/{TRANSFORMER_SETTINGS}"
    for name, value in values.items():
        inner = set(value) - HARMLESS_ARGUMENTS if name in ARGUMENTS and isinstance(value, dict) else value
        if name in (*READ, *HARMLESS, *own) or (name not in expected and not inner):
            continue
        if name not in expected:
            raise ConfigError(f"{where}: minibert does not know the setting {name} {value!r:.200}")
        if value != expected[name]:
            raise ConfigError(f"{where}: {name} {value!r:.80} is not a {kind}'s {expected[name]!r}")
    return values
