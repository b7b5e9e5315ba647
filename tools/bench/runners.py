"""What all engines have in common: texts in, vectors out, with a setting.

Their libraries are imported by their own process only, and only when one is opened.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from .job import Model, Setting, Workload
from .settings import possible


class Runner:
    """Something that encodes: texts -> vectors (n, D), in the order given."""

    def __init__(self, model: Model, threads: int, **options: Any) -> None:
        self.model = model
        self.threads = threads

    def settings(self, workload: Workload) -> list[Setting]:
        """What it may be tried with; one or none: there is nothing to try."""
        return []

    def encode(self, texts: list[str], limit: int, setting: Setting) -> np.ndarray:
        """Tokenise, cut to ``limit`` tokens, run, pool."""
        raise NotImplementedError

    def keep(self, settings: list[Setting]) -> None:
        """Free what only other settings need."""


class Minibert(Runner):
    """minibert as a user has it: no settings."""

    def __init__(self, model: Model, threads: int, batch_invariant: bool = False, **options: Any) -> None:
        super().__init__(model, threads)
        from minibert import SentenceEncoder

        self.batch_invariant = batch_invariant
        self.encoder = SentenceEncoder.from_pretrained(model.folder, device="cpu", truncation="silent", **options)

    def encode(self, texts: list[str], limit: int, setting: Setting) -> np.ndarray:
        """One call of `encode`."""
        self.encoder.max_seq_length = limit
        return np.asarray(self.encoder.encode(texts, batch_invariant=self.batch_invariant))


class SentenceTransformers(Runner):
    """sentence-transformers sorts and pads by itself; it has no way to run batches side by side in one process."""

    def __init__(self, model: Model, threads: int, dtype: str = "float32") -> None:
        super().__init__(model, threads)
        from sentence_transformers import SentenceTransformer

        options = {"dtype": dtype, "attn_implementation": "sdpa"}
        self.encoder = SentenceTransformer(model.folder, device="cpu", model_kwargs=options)

    def settings(self, workload: Workload) -> list[Setting]:
        """Sizes of batch and numbers of threads."""
        return possible(workload, self.threads, alone=True)

    def encode(self, texts: list[str], limit: int, setting: Setting) -> np.ndarray:
        """One call of `encode`."""
        import torch

        torch.set_num_threads(setting.threads)
        self.encoder.max_seq_length = limit
        return np.asarray(self.encoder.encode(texts, batch_size=setting.batch, show_progress_bar=False))


class Padded(Runner):
    """An engine that takes padded ids: here texts are tokenised at once, sorted by tokens, cut, put back in order."""

    def __init__(self, model: Model, threads: int, **options: Any) -> None:
        super().__init__(model, threads)
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(Path(model.work) / "tokenizer" / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.limit = 0
        self.sessions: dict[tuple[int, int], Any] = {}  # by workers and threads
        self.pools: dict[tuple[int, int], ThreadPoolExecutor] = {}

    def settings(self, workload: Workload) -> list[Setting]:
        """Sizes of batch; one batch with all threads, or one for each."""
        return possible(workload, self.threads)

    def open(self, workers: int, threads: int) -> Any:
        """A session for so many batches side by side, with so many threads for each."""
        raise NotImplementedError

    def forward(self, session: Any, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """One batch, int64 (B, S) -> (B, D)"""
        raise NotImplementedError

    def begin(self, threads: int) -> None:
        """What each thread that computes must do first."""

    def session(self, setting: Setting) -> Any:
        """The session for a setting, opened at its first use."""
        key = setting.workers, setting.threads
        if key not in self.sessions:
            self.sessions[key] = self.open(*key)
        return self.sessions[key]

    def keep(self, settings: list[Setting]) -> None:
        """Close all other sessions."""
        kept = {(setting.workers, setting.threads) for setting in settings}
        self.sessions = {key: session for key, session in self.sessions.items() if key in kept}

    def encode(self, texts: list[str], limit: int, setting: Setting) -> np.ndarray:
        """Sorted, so that little is padded; the longest first, so that no worker ends with a long batch alone."""
        if limit != self.limit:
            self.tokenizer.enable_truncation(limit)
            self.limit = limit
        ids = [np.array(found.ids) for found in self.tokenizer.encode_batch_fast(texts)]
        lengths = np.array([len(found) for found in ids])
        order = np.argsort(-lengths, kind="stable")
        batches = [order[i : i + setting.batch] for i in range(0, len(order), setting.batch)]
        result = np.empty((len(texts), self.model.hidden), np.float32)
        self.run(self.session(setting), setting, batches, lambda rows: self.pad(ids, lengths, rows), result)
        return result

    def run(
        self,
        session: Any,
        setting: Setting,
        batches: list[np.ndarray],
        pad: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
        result: np.ndarray,
    ) -> None:
        """Fill in the vectors of all batches."""

        def one(rows: np.ndarray) -> None:
            result[rows] = self.forward(session, *pad(rows))

        if setting.workers == 1 or len(batches) == 1:
            self.begin(setting.threads)
            for rows in batches:
                one(rows)
            return
        key = setting.workers, setting.threads
        if key not in self.pools:
            self.pools[key] = ThreadPoolExecutor(setting.workers, initializer=lambda: self.begin(setting.threads))
        list(self.pools[key].map(one, batches))

    @staticmethod
    def pad(ids: list[np.ndarray], lengths: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask of some texts, int64 (B, S)."""
        mask = (np.arange(lengths[rows].max()) < lengths[rows][:, None]).astype(np.int64)
        padded = np.zeros_like(mask)
        padded[mask == 1] = np.concatenate([ids[i] for i in rows])
        return padded, mask
