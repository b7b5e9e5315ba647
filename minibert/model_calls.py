"""What sentence-transformers calls on every model, besides `encode` and `predict`: pools, saving, evaluators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch

from .call import as_list, check_texts
from .checkpoint.structure import content
from .processes import WorkerPool
from .text_model import TextModel
from .tokenizer import Tokens

if TYPE_CHECKING:
    from os import PathLike

# Its keywords and methods that have another way here.
ELSEWHERE = {
    "modules": "build SentenceEncoder(model, tokenizer, modules) from its parts",
    "processor_kwargs": "set encoder.max_seq_length, or load the Tokenizer yourself",
    "tokenizer_kwargs": "set encoder.max_seq_length, or load the Tokenizer yourself",
    "config_kwargs": "load the Bert yourself, and change its parts",
    "model_card_data": "write README.md beside the saved model",
    "fit": "see minibert.training.train, or minibert train --help",
    "old_fit": "see minibert.training.train, or minibert train --help",
    "push_to_hub": "save_pretrained(folder), then `hf upload NAME folder`",
    "save_to_hub": "save_pretrained(folder), then `hf upload NAME folder`",
}


@dataclass(frozen=True)
class ModelCard:
    """The part of sentence-transformers' card that others read."""

    model_name: str | None
    encoder: torch.nn.Module
    base_model: None = None

    @property
    def base_model_revision(self) -> str:
        """A digest of weights, parts and settings. MTEB keeps scores by it: without it, models would share them."""
        return content(self.encoder)[:16]

    def set_evaluation_metrics(self, *_: object) -> None:
        """Do nothing: scores are not kept in the model."""


class ModelCalls(TextModel):
    """What sentence-transformers calls on every model."""

    elsewhere: Mapping[str, str] = ELSEWHERE

    def get_max_seq_length(self) -> int:
        """Return ``max_seq_length``."""
        return self.max_seq_length

    def start_multi_process_pool(self, target_devices: Sequence[str] | None = None) -> WorkerPool:
        """Start a process for each device: new ones, with a copy of the model. Close the pool at the end.

        Args:
            target_devices: Such as ["cuda:0", "cuda:1"] or ["cpu", "cpu"]. None: all GPUs, or four processes on the
                CPU (with fewer threads, so many).

        Raises:
            WorkerError: a process could not start. ValueError: a device is unknown.
        """
        if target_devices is None and torch.cuda.is_available():
            target_devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        return WorkerPool(self, target_devices or ["cpu"] * min(4, torch.get_num_threads()))

    @staticmethod
    def stop_multi_process_pool(pool: WorkerPool) -> None:
        """End the processes."""
        pool.close()

    def for_processes(self, texts: Any, options: dict[str, Any]) -> tuple[list[Any], bool, dict[str, Any]]:
        """Return the texts in a list, whether it was a single one, and what processes get as the call's options.

        Raises:
            TypeError, ValueError: something is no text.
        """
        rows = as_list(texts)
        check_texts(rows)
        return rows, isinstance(texts, str), self._as_set_now(**options)

    def _as_set_now(self, prompt_name: Any = None, prompt: Any = None, **options: Any) -> dict[str, Any]:
        """Return a call's options with what may have been set since processes got their copies."""
        if "truncate_dim" in vars(self) and options.get("truncate_dim") is None:
            options["truncate_dim"] = vars(self)["truncate_dim"]
        return {**options, "prompt": self.choose_prompt(prompt, prompt_name)}

    def _tokenize(self, texts: Sequence[str], pairs: Sequence[str] | None, reading: Mapping[str, Any]) -> Tokens:
        length = vars(self.model).get("max_seq_length", self.max_seq_length)
        if length != self.max_seq_length:  # sentence-transformers' model[0] has one, and scripts set it
            raise ValueError(
                f"max_seq_length={length} was set on the model inside, which reads none: set the encoder's"
            )
        return super()._tokenize(texts, pairs, reading)

    def save(
        self,
        path: str | PathLike[str],
        model_name: str | None = None,
        create_model_card: bool = True,
        train_datasets: object = None,
        safe_serialization: bool = True,
    ) -> None:
        """Save as `save_pretrained`, which writes no card. Raise ValueError for weights in a pickle."""
        if not safe_serialization:
            raise ValueError("safe_serialization=False: weights are written as safetensors only")
        cast(Any, self).save_pretrained(path)

    def evaluate(self, evaluator: Callable[..., Any], output_path: str | None = None) -> Any:
        """Return what an evaluator of sentence-transformers says of this model."""
        return evaluator(self, output_path)

    @property
    def model_card_data(self) -> ModelCard:
        """Return what their evaluators and MTEB ask a model for: its name and its revision."""
        report = getattr(self.model, "report", None)
        return ModelCard(None if report is None else report.source, self)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in self.elsewhere:
                raise AttributeError(f"{type(self).__name__} has no {name}: {self.elsewhere[name]}") from None
            raise
