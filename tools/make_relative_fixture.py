"""Write tests/fixtures/relative: two tiny BERTs with relative positions, and the results of transformers 4.

transformers 5 dropped relative positions, so the results of transformers 4 are stored. minibert takes no part. Weights
are float32, as published ones are, and drawn wide (standard deviation 0.5, norms and biases too). The expected numbers
are computed from them in float64.

Needs ``torch==2.13.0 transformers==4.57.6 safetensors==0.8.0`` in an environment of their own. From the repository's
root:

    python tools/make_relative_fixture.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

FOLDER = Path(__file__).parents[1] / "tests" / "fixtures" / "relative"
LENGTHS = (12, 7)  # the first is the model's longest, so that it contains the largest distances


def main() -> None:
    """Write both folders."""
    for seed, kind in enumerate(("relative_key", "relative_key_query")):
        config = BertConfig(
            vocab_size=50,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=3,
            intermediate_size=37,
            max_position_embeddings=max(LENGTHS),
            type_vocab_size=2,
            position_embedding_type=kind,
        )
        config._attn_implementation = "eager"  # sdpa doesn't support relative positions, and would fall back to this
        model = BertModel(config).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.5, generator=generator)
        model.save_pretrained(FOLDER / kind)

        shape = (len(LENGTHS), max(LENGTHS))
        mask = (torch.arange(shape[1]) < torch.tensor(LENGTHS)[:, None]).long()
        batch = {
            "input_ids": torch.randint(1, config.vocab_size, shape, generator=generator) * mask,
            "attention_mask": mask,
            "token_type_ids": torch.randint(config.type_vocab_size, shape, generator=generator) * mask,
        }
        with torch.no_grad():
            output = model.double()(**batch)
        expected = {"last_hidden_state": output.last_hidden_state, "pooler_output": output.pooler_output}
        save_file(batch | expected, FOLDER / kind / "expected.safetensors")


if __name__ == "__main__":
    main()
