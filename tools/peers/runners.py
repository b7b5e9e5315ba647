"""From texts to vectors: what every engine can do, and how the peers do it.

A library is imported only where its engine is opened, in that engine's own process.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .sessions import Session
from .work import Model, Setting, Workload, possible


class Runner:
    """Something that encodes: texts -> vectors (n, D), in the order of the texts."""

    def __init__(self, model: Model, threads: int) -> None:
        self.model, self.threads = model, threads

    def settings(self, workload: Workload) -> list[Setting]:
        """Return the settings to try; none where the engine chooses for itself."""
        return []

    def encode(self, texts: list[str], limit: int, setting: Setting) -> np.ndarray:
        """Tokenize, truncate to ``limit`` tokens, run and pool."""
        raise NotImplementedError

    def keep(self, settings: list[Setting]) -> None:
        """Free what only other settings need."""


class SentenceTransformers(Runner):
    """sentence-transformers sorts and pads by itself, and computes one batch after another."""

    def __init__(self, model: Model, threads: int, dtype: str = "float32") -> None:
        super().__init__(model, threads)
        from sentence_transformers import SentenceTransformer

        options = {"dtype": dtype, "attn_implementation": "sdpa"}
        self.encoder = SentenceTransformer(model.folder, device="cpu", model_kwargs=options)

    def settings(self, workload: Workload) -> list[Setting]:
        """Return batch sizes and numbers of threads."""
        return possible(workload, self.threads, alone=True)

    def encode(self, texts: list[str], limit: int, setting: Setting) -> np.ndarray:
        """Call `encode` once."""
        import torch

        torch.set_num_threads(setting.threads)
        self.encoder.max_seq_length = limit
        return np.asarray(self.encoder.encode(texts, batch_size=setting.batch, show_progress_bar=False))


class Padded(Runner):
    """An engine that takes padded ids. Texts are tokenized at once, sorted by length, and put back in order.

    Args:
        open_session: Opens the engine for some number of batches side by side, each with some number of threads.
    """

    def __init__(self, model: Model, threads: int, open_session: Callable[..., Session], **options: Any) -> None:
        super().__init__(model, threads)
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(Path(model.work) / "tokenizer" / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.open_session = partial(open_session, model, **options)
        self.sessions: dict[tuple[int, int], Session] = {}  # by workers and threads

    def settings(self, workload: Workload) -> list[Setting]:
        """Return batch sizes, each with all threads for one batch or one thread for each batch."""
        return possible(workload, self.threads)

    def keep(self, settings: list[Setting]) -> None:
        """Close all other sessions."""
        kept = {(setting.workers, setting.threads) for setting in settings}
        self.sessions = {key: session for key, session in self.sessions.items() if key in kept}

    def encode(self, texts: list[str], limit: int, setting: Setting) -> np.ndarray:
        """Encode the longest texts first, so that no worker ends alone with a long batch."""
        key = setting.workers, setting.threads
        if key not in self.sessions:
            self.sessions[key] = self.open_session(*key)
        self.tokenizer.enable_truncation(limit)
        ids = [np.array(found.ids) for found in self.tokenizer.encode_batch_fast(texts)]
        order = np.argsort([-len(found) for found in ids], kind="stable")
        batches = [
            [ids[i] for i in order[start : start + setting.batch]] for start in range(0, len(ids), setting.batch)
        ]
        vectors = np.concatenate(self.sessions[key]([pad(batch) for batch in batches]))
        result = np.empty((len(texts), self.model.hidden), np.float32)
        result[order] = vectors
        return result


def pad(texts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and mask of some texts, int64 (B, S)."""
    lengths = np.array([len(ids) for ids in texts])
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
    padded = np.zeros_like(mask)
    padded[mask == 1] = np.concatenate(texts)
    return padded, mask
