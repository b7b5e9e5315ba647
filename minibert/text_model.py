"""The base of every encoder: text in, numbers out, batch by batch, by the fast stack or by the page."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from .arithmetic import changed_torch
from .batches import plan, side_by_side, workers_for
from .call import Batch, by_text, check_options, evaluating, in_batch, put, release_freed_memory, upload
from .checkpoint.hub import CheckpointFiles
from .checkpoint.report import LoadReport
from .checkpoint.sentence_transformers import SentenceModules
from .compiled.find import find, save_compiled
from .compiled.layer import Library, layer_maker
from .config import BertConfig, check_count
from .cuda.stack import CudaLayer, CudaStack
from .display import progress_bar
from .fast.decide import Decision, decide
from .fused import fuse
from .model import EncoderOutput
from .portable import Portable, pack_at_loading
from .settings import Checked, NoneInVain, check_prompts, choose_prompt, instance_of
from .tokenizer import Tokenizer, Tokens
from .truncation import TruncationReport, announce, check_mode

if TYPE_CHECKING:
    from typing_extensions import Self

# Prompts by the kind of text: the first of these names that a checkpoint has.
QUERY, DOCUMENT = ("query",), ("document", "passage", "corpus")


class TextModel(NoneInVain, Portable):
    """A model, its tokenizer, its prompts, and the loop over batches that `encode` and `predict` share.

    ``fast`` says who computes: None, the stack where it can; False, the page; True, the stack or an error.
    """

    unit, verb = "texts", "encode"
    prompts = Checked(check_prompts)
    tokenizer = Checked(instance_of(Tokenizer, "a Tokenizer of minibert, such as Tokenizer.from_pretrained(name)"))

    def __init__(self, model: Any, tokenizer: Tokenizer, settings: SentenceModules, truncation: str) -> None:
        super().__init__()
        self.model: Any = model
        self.training = model.training
        config: BertConfig = self.model.config
        self.tokenizer = tokenizer.fitted(config.vocab_size)
        self.prompts, self.default_prompt_name = settings.prompts, settings.default_prompt_name
        self.truncation = check_mode(truncation)
        self.truncation_report = TruncationReport()  # of the latest call
        self.report: LoadReport | None = None
        self.fast: bool | None = None
        self.max_seq_length = settings.max_seq_length or tokenizer.max_length or config.max_position_embeddings
        self._do_lower_case, self._arithmetic = settings.do_lower_case, "float32"
        self._decision: Decision | None = None
        self._compiled: Library | None = None
        self._not_compiled = ""  # why a checkpoint's compiled code is not used

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
        check_count("max_seq_length", length)
        if length < (fewest := self.tokenizer._backend.num_special_tokens_to_add(False) + 1):
            raise ValueError(f"max_seq_length must be at least {fewest}, to leave room for text, not {length}")
        self._max_seq_length = min(int(length), self.model.config.max_position_embeddings)

    @property
    def _core(self) -> Any:
        """The part that batches go through, before `_read`."""
        return self.model

    def explain(self) -> str:
        """Return a table to print: for each part, whether the stack or the page computes it in a call, and why."""
        with evaluating(self):
            decision = self._decide(False, self._why_page(None), known=False)
        notes = self._not_compiled, decision.stack.note if decision.stack else ""
        return "\n".join(filter(None, (decision.explanation(), *notes)))

    def compile(self, folder: str | os.PathLike[str]) -> None:
        """Save this model with its layers as machine code for this processor, and compute by that from now on.

        The folder is a checkpoint as ``save_pretrained`` writes it. `from_pretrained` of it needs no compiler. Raise
        CompileError without a GNU C++ compiler, or where it fails; OSError if the folder can't be written: it stays.
        """
        save: Any = self.save_pretrained
        self._compiled, self._decision = save_compiled(folder, save, self.model.config), None

    def _prepare(
        self,
        files: CheckpointFiles,
        transformer: str,
        device: torch.device,
        arithmetic: str,
        fast: bool | None,
        compiled: bool | None,
        notes: Iterable[str],
    ) -> Self:
        """Make a model that was just loaded ready to compute on a device: pack its weights, or fuse its parts."""
        if device.type == "cpu" and fast is not False:
            self._compiled, self._not_compiled = find(files, compiled, arithmetic)
        elif compiled:
            raise ValueError("compiled=True: compiled code needs device='cpu', and not fast=False")
        products = [] if arithmetic == "float32" else [f"the linear layers compute in {arithmetic}"]
        notes = [*notes, *self.tokenizer.notes, *products]
        self.report = self.model.report.with_notes(*notes)
        self._arithmetic, self.fast = arithmetic, fast
        self.eval()
        if next(self.model.parameters()).dtype == torch.float64:
            self.double()
        if device.type == "cpu":
            self._pack(files.below(transformer))
        elif fast is not False:
            fuse(self.model)
        return self.to(device)

    def _run(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None,
        reading: Mapping[str, Any],
        device: torch.device | str,
        per_token: bool,
        /,  # so that the user's own options, whatever their names, are refused below
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        truncation: str | None = None,
        **options: Any,
    ) -> tuple[Tokens, Any]:
        """Tokenize texts, or pairs, and compute them: all of `encode` and `predict` but the results' form.

        Options after per_token are ``CallOptions``. Return the tokens, and the results (no texts: None) in their order.
        """
        check_options(f"{type(self).__name__}.{self.verb}", options)
        mode = check_mode(truncation or self.truncation)
        words = self.choose_prompt(prompt, prompt_name)
        if words:
            texts = [words + text if isinstance(text, str) else text for text in texts]
        tokens = self._tokenize(texts, pairs, reading)
        self.truncation_report = tokens.truncation
        announce(tokens.truncation, mode)
        if (report := getattr(self.model, "report", None)) is not None:
            report.check_files(self.model)
        prompt_length = self._prompt_tokens(words) if words else 0
        return tokens, self._compute(tokens, prompt_length, reading, device, per_token, **options)

    def _compute(
        self,
        tokens: Tokens,
        prompt_length: int,
        reading: Mapping[str, Any],
        device: torch.device | str,
        per_token: bool,
        batch_size: int | None = None,
        batch_invariant: bool = False,
        show_progress_bar: bool | None = None,
        fast: bool | None = None,
    ) -> Any:
        """Compute texts batch by batch, each by the stack or by the page, and put the results in the texts' places.

        The first ``prompt_length`` tokens of each text are not read. ``reading`` is for `_read`. With ``per_token`` the
        result is a list of (states, result) for each text, and not rows of one tensor. The rest: ``CallOptions``.
        """
        check_count("batch_size", batch_size, optional=True)
        count, done, result, call, lengths = len(tokens.lengths), 0, None, object(), tokens.lengths
        forced = self._why_page(fast)
        known = self._decision is not None and self._decision.holds()
        with (
            evaluating(self, known=known and not forced),
            progress_bar(int(lengths.sum()), "tokens", bool(show_progress_bar)) as bar,  # long texts come first
        ):
            decision = self._decide(fast, forced, known=known)
            workers = workers_for(decision.device, hooked=decision.hooked)
            # What is handed out, or kept by a part, may go into training, which tensors of inference mode may not.
            kept = per_token or decision.hooked or decision.own_parts or decision.reasons

            def compute(rows: np.ndarray) -> Any:
                watched = in_batch(Batch(call, count, rows, lengths[rows])) if decision.hooked else nullcontext()
                with torch.no_grad() if kept else torch.inference_mode(), watched:
                    first_only = decision.reads_first and not per_token and not prompt_length
                    output, mask = self._forward(tokens, rows, decision, first_only=first_only)
                    states, values = self._read(output, mask, prompt_length, **reading)
                return by_text(states, values, lengths[rows]) if per_token else values

            # Of equal lengths, texts with as many tokens to attend to come together.
            order: Any = slice(None) if tokens.seen is None else np.argsort(tokens.seen, kind="stable")
            how = decision.batching
            batches = plan(lengths[order], self.model.config, batch_size, workers, alone=batch_invariant, **how)
            batches = batches if tokens.seen is None else [order[rows] for rows in batches]
            for rows, values in side_by_side(compute, batches, workers, even_one=batch_invariant):
                release_freed_memory(count, done, len(rows))
                result, done = put(result, count, rows, values, device), done + len(rows)
                if show_progress_bar:
                    bar.set_description_str(f"{done}/{count} {self.unit}", refresh=False)
                    bar.update(int(lengths[rows].sum()))
        return result.to(device) if isinstance(result, Tensor) else result

    def _forward(
        self, tokens: Tokens, rows: np.ndarray, decision: Decision, *, first_only: bool
    ) -> tuple[Any, Tensor | None]:
        """Run Bert, and the model's head, on some of the texts: their output, and a mask (B, S) where there is padding.

        With ``first_only`` S is 1, the first token.
        """
        lengths = tokens.lengths[rows]
        stack, model = decision.stack, self._core
        if stack is None or not lengths.max(initial=0):  # without any token the page says what is wrong
            batch = self._pad(tokens, rows)
            mask = batch["attention_mask"] if lengths.min() < lengths.max() or tokens.seen is not None else None
            output = model(batch["input_ids"], mask, batch["token_type_ids"])
            return output, None if mask is None else mask.bool()
        x, mask = stack.compute(tokens, rows, first_only=first_only)
        pooler = stack.bert.pooler
        output = EncoderOutput(x, pooler(x) if pooler is not None and decision.reads_pooler else None)
        return output if model is stack.bert else model.read(output), mask

    def _tokenize(self, texts: Sequence[str], pairs: Sequence[str] | None, reading: Mapping[str, Any]) -> Tokens:
        """Tokenize and truncate. ``reading`` are the call's own options."""
        return self.tokenizer.encode(texts, pairs, limit=self.max_seq_length)

    def _read(self, output: Any, mask: Tensor | None, prompt_length: int, **reading: Any) -> tuple[Tensor, Tensor]:
        """Return the last hidden states (B, S, D) and the results (B, ...) of a batch.

        Args:
            output: The model's.
            mask: True at tokens, (B, S); None where nothing is padded.
            prompt_length: Tokens at the beginning of each text that are not read.
            reading: The call's own options.
        """
        raise NotImplementedError

    def _prompt_tokens(self, prompt: str) -> int:
        """Count the prompt's tokens at the beginning of each text that are not read."""
        return 0

    def _readers(self) -> list[nn.Module]:
        """Return the modules that read the last hidden state."""
        raise NotImplementedError

    def _why_page(self, fast: bool | None) -> str | None:
        """Say why the page computes this call whatever the model is; None where it need not."""
        asked = (self.fast if fast is None else fast) is False
        return "fast=False was asked for" if asked else changed_torch(self.device)

    def _decide(self, fast: bool | None, forced: str | None, *, known: bool) -> Decision:
        """Choose who computes a call, part by part. ``fast`` is `encode`'s, ``forced`` from `_why_page`.

        ``known``: the last decision is known to hold. Raise ValueError, why, if ``fast`` is True and the page must.
        """
        if (decision := self._decision) is None or not known:
            make: Any = layer_maker(self._compiled, self._arithmetic) if self._compiled else None
            how = {"make": CudaLayer, "kind": CudaStack} if self.device.type == "cuda" else {"make": make}
            decision = self._decision = decide(self, self._core, self._readers(), self._arithmetic, decision, **how)
        if forced:
            decision = decision.by_page(forced)
        if decision.reasons and (self.fast if fast is None else fast):
            why = [decision.reasons[""]] if "" in decision.reasons else decision.reasons.values()
            raise ValueError(f"fast=True, but the page computes: {'; '.join(why)}")
        return decision

    def _pad(self, tokens: Tokens, rows: Iterable[int]) -> dict[str, Tensor]:
        """Return ids, types and mask of some of the texts, (B, S) each, on the model's device."""
        return {name: upload(torch.from_numpy(x), self.device) for name, x in self.tokenizer.pad(tokens, rows).items()}

    def choose_prompt(self, prompt: str | None, name: str | None = None) -> str:
        """Return the words before each text: as given, else by name, else the checkpoint's default, else none.

        Raises:
            ValueError: the checkpoint has no prompt of that name. TypeError: the prompt is not a string.
        """
        return choose_prompt(self.prompts, self.default_prompt_name, prompt, name)

    def _prompt_for(self, names: tuple[str, ...], options: Mapping[str, Any]) -> dict[str, Any]:
        """Add the prompt for one kind of text to a call's options, unless they name one; "" where there is none."""
        if options.get("prompt") is not None or options.get("prompt_name") is not None:
            return dict(options)
        return {**options, "prompt": next((self.prompts[name] for name in names if name in self.prompts), "")}

    def _pack(self, files: CheckpointFiles) -> None:
        if self.device.type == "cpu" and self.fast is not False and self.model.report.mapped:
            decision = self._decide(None, None, known=False)
            if decision.stack is not None:
                pack_at_loading(decision.stack, self.model, files, first_only=decision.reads_first)
