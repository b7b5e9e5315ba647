"""scikit-learn: the encoder as a transformer, from texts to a matrix."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from ..encoder import SentenceEncoder
from ..fast.changes import Snapshot, track
from .shared import Model, load, matrix, name_of, needs

if TYPE_CHECKING:
    from typing_extensions import Self

with needs("sklearn"):
    from sklearn.base import BaseEstimator, TransformerMixin

# A grid search pickles its estimator for each fold: an encoder that has not changed since is pickled once.
_pickles: WeakKeyDictionary[SentenceEncoder, tuple[Snapshot, str, bytes]] = WeakKeyDictionary()
_unpickle = lru_cache(maxsize=1)(pickle.loads)


@lru_cache(maxsize=1)  # for all clones in a process
def _by_name(model: str, device: str | None, dtype: str | None) -> SentenceEncoder:
    return load(model, {"device": device, "dtype": dtype})


class MinibertTransformer(TransformerMixin, BaseEstimator):
    """Turn texts into vectors (n, D), with the checkpoint's prompt for documents. There is nothing to fit.

    Args:
        model: A name, a folder, or a SentenceEncoder; None: the built-in model.
        device, dtype: As in `from_pretrained`; for a SentenceEncoder None.
        normalize_embeddings, truncate_dim, batch_size, prompt_name, prompt: As in `encode`.
    """

    def __init__(
        self,
        model: Model = None,
        *,
        device: str | None = None,
        dtype: str | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        batch_size: int | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
    ) -> None:
        self.model, self.device, self.dtype = model, device, dtype
        self.normalize_embeddings, self.truncate_dim, self.batch_size = normalize_embeddings, truncate_dim, batch_size
        self.prompt_name, self.prompt = prompt_name, prompt

    def fit(self, X: Iterable[str], y: Any = None) -> Self:
        """Return the transformer itself."""
        return self

    def transform(self, X: Iterable[str]) -> np.ndarray:
        """Return the texts' vectors (n, D). Raises as `matrix` and `from_pretrained`."""
        names = "normalize_embeddings", "truncate_dim", "batch_size", "prompt_name", "prompt"
        return matrix(self._encoder().encode_document, X, {name: getattr(self, name) for name in names})

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return a name for each dimension: minibert0, minibert1, ..."""
        width = self.transform([]).shape[1]
        return np.array([f"minibert{i}" for i in range(width)], dtype=object)

    def _encoder(self) -> SentenceEncoder:
        if isinstance(self.model, SentenceEncoder):
            return load(
                self.model, {k: v for k, v in (("device", self.device), ("dtype", self.dtype)) if v is not None}
            )
        return _by_name(name_of(self.model), self.device, self.dtype)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit, tags.input_tags.string, tags.input_tags.two_d_array = False, True, False
        return tags

    def __getstate__(self) -> dict[str, Any]:
        own = {"model": _pickled(self.model)} if isinstance(self.model, SentenceEncoder) else {}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if isinstance(state["model"], bytes):
            state = {**state, "model": _unpickle(state["model"])}
        super().__setstate__(state)


def _pickled(encoder: SentenceEncoder) -> bytes:
    """Return the encoder's pickle: the last one, unless a weight, a part or a setting has changed."""
    values = {name: value for name, value in vars(encoder).items() if isinstance(value, (str, int, dict, type(None)))}
    settings = repr({name: value for name, value in values.items() if not name.startswith("_")})
    snapshot, before, data = _pickles.get(encoder, (None, "", b""))
    if snapshot is None or before != settings or not snapshot.holds():
        data = pickle.dumps(encoder)  # before the snapshot: it takes `.data`
        _pickles[encoder] = Snapshot(encoder, track(encoder), encoder.modules()), settings, data
    return data
