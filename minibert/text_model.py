"""The base of every encoder: text in, numbers out, batch by batch, by the fast stack or by the page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from .checkpoint.hub import CheckpointFiles
from .checkpoint.report import LoadReport
from .checkpoint.sentence_transformers import SentenceModules
from .config import BertConfig
from .display import progress_bar
from .fast.batches import plan
from .fast.decide import Decision, decide
from .fast.prepare import pack_at_loading
from .fast.tokens import PackedTokens
from .fast.workers import side_by_side, workers_for
from .fused import fuse
from .model import EncoderOutput
from .tokenizer import Tokenizer, Tokens
from .truncation import TruncationReport, check_mode

if TYPE_CHECKING:
    from typing_extensions import Self

# Prompts by the kind of text: the first of these names that a checkpoint has.
QUERY, DOCUMENT = ("query",), ("document", "passage", "corpus")


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch of one call, for hooks: batches are cut by length, so values come in another order than texts."""

    call: object  # the same for all batches of the call
    count: int  # texts in the whole call
    rows: np.ndarray  # which of them are in this batch, row by row
    lengths: np.ndarray  # tokens of each row, without padding


_batch: ContextVar[Batch | None] = ContextVar("batch", default=None)


def current_batch() -> Batch | None:
    """Return the batch that is being computed for `encode` or `predict`; None outside of them."""
    return _batch.get()


class TextModel(nn.Module):
    """A model, its tokenizer, its prompts, and the loop over batches that `encode` and `predict` share.

    ``fast`` says who computes: None, the stack where it can; False, the page; True, the stack or an error.
    """

    unit: ClassVar[str] = "texts"

    def __init__(self, model: Any, tokenizer: Tokenizer, settings: SentenceModules, truncation: str) -> None:
        super().__init__()
        self.model: Any = model
        config: BertConfig = self.model.config
        tokenizer.check_fits(config.vocab_size)
        self.tokenizer = tokenizer
        self.prompts = settings.prompts
        self.default_prompt_name = settings.default_prompt_name
        self.truncation = check_mode(truncation)
        self.truncation_report = TruncationReport()  # of the latest call
        self.report: LoadReport | None = None
        self.fast: bool | None = None
        self.max_seq_length = (
            settings.max_seq_length or tokenizer.max_length or self.model.config.max_position_embeddings
        )
        self._do_lower_case = settings.do_lower_case
        self._arithmetic = "float32"
        self._decision: Decision | None = None

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return next(self.parameters()).device

    @property
    def max_seq_length(self) -> int:
        """Longer text is truncated: in tokens, special ones included, and never more than the model has positions."""
        return self._max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        if not isinstance(length, int) or isinstance(length, bool) or length < 1:
            raise ValueError(f"max_seq_length must be a whole number of tokens, at least 1, not {length!r}")
        self._max_seq_length = min(length, self.model.config.max_position_embeddings)

    def explain(self) -> str:
        """Return a table to print: for each part, whether the stack or the page computes it in a call, and why."""
        with evaluating(self):
            return self._decide(False, self._why_page(None), current=False).explanation()

    def _prepare(
        self, files: CheckpointFiles, device: torch.device, arithmetic: str, fast: bool | None, notes: Iterable[str]
    ) -> Self:
        """Make a model that was just loaded ready to compute on a device: pack its weights, or fuse its parts."""
        if arithmetic != "float32":
            notes = [*notes, f"the linear layers compute in {arithmetic}"]
        self.report = self.model.report.with_notes(*notes)
        self._arithmetic, self.fast = arithmetic, fast
        self.eval()
        if next(self.model.parameters()).dtype == torch.float64:
            self.double()
        if device.type == "cpu" and fast is not False and self.model.report.mapped:
            decision = self._decide(None, None, current=False)
            if decision.stack is not None:
                pack_at_loading(decision.stack, self.model, files, first_only=decision.reads_first)
        if device.type != "cpu" and fast is not False:
            fuse(self.model)
        return self.to(device)

    def _compute(
        self,
        tokens: Tokens,
        *,
        fast: bool | None,
        batch_size: int | None,
        batch_invariant: bool,
        progress: bool | None,
        device: torch.device | str,
        first_only: bool,
        per_token: bool = False,
        **options: Any,
    ) -> Any:
        """Compute all texts: a tensor with a row for each, or a list ``per_token``; None where there are no texts."""
        count = len(tokens.lengths)
        forced = self._why_page(fast)
        current = self._decision is not None and self._decision.holds()
        with evaluating(self, known=current and not forced), progress_bar(count, self.unit, bool(progress)) as bar:
            decision = self._decide(fast, forced, current=current)
            call, handed_out = object(), per_token

            def compute(rows: np.ndarray) -> Any:
                # Tensors that are handed out may go into training, which those of inference mode may not.
                with torch.no_grad() if handed_out else torch.inference_mode(), _in_batch(decision, call, tokens, rows):
                    output, mask = self._forward(tokens, rows, decision, first_only=first_only and decision.reads_first)
                    return self._read(output, mask, tokens.lengths[rows], per_token=per_token, **options)

            workers = workers_for(decision.device, hooked=decision.hooked)
            batches = plan(
                tokens.lengths,
                self.model.config,
                max_texts=batch_size,
                workers=workers,
                padding=decision.padding,
                alone=batch_invariant,
            )
            result: Any = None
            for rows, values in side_by_side(compute, batches, workers, even_one=batch_invariant):
                result = _put(result, count, rows, values, device)
                bar.update(len(rows))
        return result

    def _forward(
        self, tokens: Tokens, rows: np.ndarray, decision: Decision, *, first_only: bool
    ) -> tuple[Any, Tensor | None]:
        """Run Bert, and the model's head, on some of the texts: their output, and a mask (B, S) where there is padding.

        With ``first_only`` S is 1, the first token.
        """
        lengths = tokens.lengths[rows]
        stack = decision.stack
        if stack is None or not lengths.max(initial=0):  # without any token the page says what is wrong
            batch = self._pad(tokens, rows)
            mask = batch["attention_mask"] if lengths.min() < lengths.max() else None
            output = self.model(batch["input_ids"], mask, batch["token_type_ids"])
            return output, None if mask is None else mask.bool()
        texts = PackedTokens(tokens, rows)
        x = stack(texts, first_only=first_only)
        pooler = stack.bert.pooler
        output = EncoderOutput(x, pooler(x) if pooler is not None and decision.reads_pooler else None)
        mask = texts.mask
        if first_only and mask is not None:
            mask = mask[:, :1] if not lengths.min() else None
        return output if self.model is stack.bert else self.model.read(output), mask

    def _read(self, output: Any, mask: Tensor | None, lengths: np.ndarray, *, per_token: bool, **options: Any) -> Any:
        """Make a batch's results from the model's output; ``mask`` (B, S) is None where nothing is padded."""
        raise NotImplementedError

    def _readers(self) -> list[nn.Module]:
        """Return the modules that read the last hidden state."""
        raise NotImplementedError

    def _why_page(self, fast: bool | None) -> str | None:
        """Say why the page computes this call whatever the model is; None where it need not."""
        if (self.fast if fast is None else fast) is False:
            return "fast=False was asked for"
        return "autocast is on" if torch.is_autocast_enabled("cpu") else None

    def _decide(self, fast: bool | None, forced: str | None, *, current: bool) -> Decision:
        """Choose who computes a call, part by part.

        Args:
            fast: As in `encode`.
            forced: From `_why_page`.
            current: The last decision is known to hold.

        Raises:
            ValueError: ``fast`` is True, and the page has to compute a part; why.
        """
        decision = self._decision
        if decision is None or not current:
            decision = self._decision = decide(self, self.model, self._readers(), self._arithmetic, decision)
        if forced:
            decision = decision.by_page(forced)
        if decision.reasons and (self.fast if fast is None else fast):
            raise ValueError(f"fast=True, but the page computes: {'; '.join(decision.reasons.values())}")
        return decision

    def _pad(self, tokens: Tokens, rows: Iterable[int]) -> dict[str, Tensor]:
        """Return ids, types and mask of some of the texts, (B, S) each, on the model's device."""
        # On the right whatever the checkpoint says: BERT counts positions from the left, so padding there would make
        # a text's vector depend on its neighbours.
        arrays = self.tokenizer.pad(tokens, rows, side="right")
        return {name: torch.from_numpy(array).to(self.device) for name, array in arrays.items()}

    def choose_prompt(self, prompt: str | None, name: str | None = None) -> str:
        """Return the words before each text: as given, else by name, else the checkpoint's default, else none.

        Raises:
            ValueError: the checkpoint has no prompt of that name.
        """
        if prompt is not None:
            return prompt
        name = self.default_prompt_name if name is None else name
        if name is None:
            return ""
        if name not in self.prompts:
            raise ValueError(f"the model has no prompt {name!r}; it has {', '.join(map(repr, self.prompts)) or 'none'}")
        return self.prompts[name]

    def _prompt_for(self, names: tuple[str, ...], options: Mapping[str, Any]) -> dict[str, Any]:
        """Add the prompt for one kind of text to a call's options, unless they name one; "" where there is none."""
        if options.get("prompt") is not None or options.get("prompt_name") is not None:
            return dict(options)
        return {**options, "prompt": next((self.prompts[name] for name in names if name in self.prompts), "")}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what calls remember, so that copies, pickles and hashes do not depend on it."""
        return {**self.__dict__, "_decision": None}


class evaluating:
    """Turn dropout off in a module, as long as any thread is in here, and back on at the end where it was on."""

    lock = Lock()
    inside: ClassVar[dict[int, tuple[int, list[nn.Module]]]] = {}  # by id: threads in here, parts to turn back on

    def __init__(self, module: nn.Module, *, known: bool = False) -> None:
        self.module, self.known = module, known  # known to be off

    def __enter__(self) -> None:
        with self.lock:
            threads, training = self.inside.get(id(self.module), (0, []))
            if not self.known:
                found = [part for part in self.module.modules() if part.training]
                training = training + found
                for part in found:
                    part.training = False
            self.inside[id(self.module)] = threads + 1, training

    def __exit__(self, *_: object) -> None:
        with self.lock:
            threads, training = self.inside.pop(id(self.module))
            if threads > 1:
                self.inside[id(self.module)] = threads - 1, training
                return
            for part in training:
                part.training = True


@contextmanager
def _in_batch(decision: Decision, call: object, tokens: Tokens, rows: np.ndarray) -> Iterator[None]:
    """Let hooks know which texts are being computed."""
    if not decision.hooked:
        yield
        return
    before = _batch.set(Batch(call, len(tokens.lengths), rows, tokens.lengths[rows]))
    try:
        yield
    finally:
        _batch.reset(before)


def _put(result: Any, count: int, rows: np.ndarray, values: Any, device: torch.device | str) -> Any:
    """Put a batch's results in their texts' places; with the first, make room for all."""
    if isinstance(values, list):
        result = [None] * count if result is None else result
        for row, value in zip(rows, values, strict=True):
            result[row] = value
        return result
    if result is None:
        # Only now is the width known, whatever stands after the pooling.
        dtype = torch.promote_types(values.dtype, torch.float32)
        if count == 1:
            return values.to(device=device, dtype=dtype, copy=True)
        result = torch.empty(count, *values.shape[1:], dtype=dtype, device=device)
    if result.is_cpu:  # torch would use all cores for it, and wait for workers that compute there
        result.numpy()[rows] = values.to(result).numpy()
    else:
        result[torch.from_numpy(rows).to(result.device)] = values.to(result)
    return result
