"""The training loop, on one page: what happens in a step, and between steps."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..display import progress_bar
from ..model import Encoder
from . import batches, parallel
from .log import Log
from .resume import Checkpoint, Position, recover_folder, replace_folder, seed_step
from .settings import Settings
from .task import Task

Evaluator = Callable[[Any], "dict[str, float]"]  # the task's model -> scores by name, higher is better


class DivergedError(ValueError):
    """The loss, or the gradients, are no longer finite numbers."""


def train(
    task: Task,
    settings: Settings | None = None,
    *,
    folder: str | os.PathLike[str] | None = None,
    evaluate: Evaluator | None = None,
    score: str | None = None,
    evaluate_every: int | None = None,
    save_every: int | None = None,
    resume: bool = False,
    show_progress_bar: bool = False,
) -> list[dict[str, Any]]:
    """Train in place.

    Into ``folder`` go `model/` (the best by its score; without ``evaluate`` the last), `log.jsonl` (see `Log`) and,
    with ``save_every``, `checkpoint.pt`. torch's random generators are seeded anew in every step. Under torchrun, call
    it in every process: all take part, the first writes and evaluates.

    Args:
        task: What is trained, on its device; afterwards it is in eval mode and holds the last step's weights.
        settings: None: the defaults.
        folder: Where to write. None: nowhere.
        evaluate: Called with the task's model, in eval mode, after every ``evaluate_every`` steps and after the last.
        score: Which of its scores is the best model's. May be left out where there is only one.
        evaluate_every: In steps. None: only after the last.
        save_every: Steps between checkpoints to resume from; one is written after the last step, too.
        resume: Go on from the folder's checkpoint: the weights will be those of an uninterrupted training, bit by bit.
        show_progress_bar: On stderr, with loss and rate.

    Returns:
        list: the log's records.

    Raises:
        DivergedError: the loss became NaN or infinite; the step is said. Model and checkpoint stay as they were saved.
        ResumeError: there is no checkpoint, or it is of another training; what differs is said.
        ValueError: settings, task and machine do not fit each other.
        OSError: a file can't be written; those from before are whole.
    """
    settings = settings or Settings()
    target = _folder(folder, resume or save_every is not None)
    device = next(task.parameters()).device
    check_precision(settings.precision, device)
    with ExitStack() as around:
        around.enter_context(parallel.joined(device))
        if settings.gradient_checkpointing:
            around.enter_context(layers_checkpointed(task))
        around.callback(task.eval)
        parallel.same_weights(task)
        total = settings.total_steps(len(task.lengths))
        optimizer = make_optimizer(task, settings)
        scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "float16")
        saved, position = None, Position()
        first = parallel.rank() == 0
        if target is not None:
            if first:
                recover_folder(target / "model")
            identity = {**asdict(settings), "processes": parallel.world(), **task.identity()}
            saved = Checkpoint(target / "checkpoint.pt", task, optimizer, scaler, identity)
            position = saved.load() if resume else position
        log = Log(target / "log.jsonl" if target and first else None, keep_until=position.step)
        bar = around.enter_context(progress_bar(total, "steps", show_progress_bar and first, done=position.step))
        order = _order(task.lengths, settings, position.step)
        task.train()
        while position.step < total:
            started = time.perf_counter()
            rows = [next(order) for _ in range(settings.accumulate)]
            rate = settings.rate(position.step, total)
            seed_step(settings.seed, position.step, parallel.rank())
            try:
                loss, norm = step(task, rows, rate, optimizer, scaler, settings)
            except DivergedError as error:
                raise _stopped(error, position.step + 1, saved) from None
            position.step += 1
            seconds = time.perf_counter() - started
            many, tokens = sum(map(len, rows)), int(sum(task.lengths[some].sum() for some in rows))
            log.add(
                step=position.step,
                loss=loss,
                rate=rate,
                norm=norm,
                rows_per_s=round(many / seconds, 1),
                tokens_per_s=round(tokens / seconds, 1),
            )
            bar.set_postfix(loss=f"{loss:.4f}", rate=f"{rate:.2e}", refresh=False)
            bar.update(1)
            last = position.step == total
            if evaluate and (last or (evaluate_every and position.step % evaluate_every == 0)):
                if first:
                    _evaluate(task, evaluate, score, position, log, target)
                parallel.wait()
            if saved and save_every and first and (last or position.step % save_every == 0):
                saved.save(position)
        if target and not evaluate and first:
            replace_folder(task.save, target / "model")
        parallel.wait()
    return log.records


def step(
    task: Task,
    rows: list[np.ndarray],
    rate: float,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    settings: Settings,
) -> tuple[float, float]:
    """One step of the optimizer: the mean loss of these batches, the length of its gradients before clipping.

    Raises:
        DivergedError: one of both is not finite; the weights are as they were.
    """
    device = next(task.parameters()).device
    dtype = getattr(torch, settings.precision)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    parts = []
    for some in rows:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            part = task.loss(some) / len(rows)
        scaler.scale(part).backward()
        parts.append(part.detach())
    parallel.average_gradients(task)
    scaler.unscale_(optimizer)
    learning = [value for value in task.parameters() if value.grad is not None]
    length = nn.utils.get_total_norm([value.grad for value in learning if value.grad is not None])
    norm = length.item()
    if settings.max_grad_norm and norm > settings.max_grad_norm:
        nn.utils.clip_grads_with_norm_(learning, settings.max_grad_norm, length)
    loss = parallel.mean(torch.stack(parts).sum())
    # The scaler skips steps whose gradients overflow float16, and scales less from then on: that is no failure.
    if not math.isfinite(loss) or not (scaler.is_enabled() or math.isfinite(norm)):
        raise DivergedError(f"the loss is {loss:g}, its gradients' length {norm:g}")
    scaler.step(optimizer)
    scaler.update()
    return loss, norm


def make_optimizer(task: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """AdamW with weight decay for matrices only: a bias or a norm that is pulled to 0 regularises nothing."""
    learning = [value for value in task.parameters() if value.requires_grad]
    groups = [
        {"params": [value for value in learning if value.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [value for value in learning if value.ndim < 2], "weight_decay": 0.0},
    ]
    fused = learning[0].device.type in ("cpu", "cuda")  # one kernel for all parameters
    return torch.optim.AdamW([group for group in groups if group["params"]], settings.learning_rate, fused=fused)


def check_precision(precision: str, device: torch.device) -> None:
    """Raise ValueError where the device can't train in it."""
    if precision == "float16" and device.type != "cuda":
        raise ValueError(f"precision float16 needs a GPU (cuda), not {device.type}: use bfloat16, or float32")


@contextmanager
def layers_checkpointed(model: nn.Module) -> Iterator[None]:
    """Inside, keep only each layer's input and compute the layer again for its gradients (arXiv 1604.06174)."""
    layers = [layer for part in model.modules() if isinstance(part, Encoder) for layer in part]
    before = {layer: layer.__dict__.get("forward") for layer in layers}  # a layer in two places is wrapped once
    try:
        for layer in before:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
        yield
    finally:
        for layer, forward in before.items():
            del layer.forward
            if forward is not None:
                layer.forward = forward


def _order(lengths: np.ndarray, settings: Settings, steps: int) -> Iterator[np.ndarray]:
    """The rows of batch after batch, epoch after epoch, from where the training is after so many steps."""
    processes = parallel.world()
    epoch = partial(
        batches.epoch,
        lengths,
        settings.batch_size,
        seed=settings.seed,
        by_length=settings.by_length,
        fewest=processes,  # each has at least one row
    )
    per_epoch = len(epoch(number=0))
    if not per_epoch or settings.batch_size < processes:
        raise ValueError(f"{processes} processes can't share batches of {settings.batch_size} of {len(lengths)} rows")
    first, done = divmod(steps * settings.accumulate, per_epoch)
    for number in count(first):
        yield from epoch(number=number)[done:]
        done = 0


def _evaluate(
    task: Task, evaluate: Evaluator, score: str | None, position: Position, log: Log, folder: Path | None
) -> None:
    """Ask for the scores; save the model if it is the best so far."""
    task.eval()
    with torch.no_grad():
        scores = evaluate(task.model)
    task.train()
    log.add(step=position.step, scores=scores)
    if score is None and len(scores) == 1:
        (score,) = scores
    if score not in scores:
        raise ValueError(f"which score is the best model's? score must be one of {', '.join(scores)}, not {score!r}")
    if position.best is None or scores[score] > position.best:
        position.best = scores[score]
        if folder:
            replace_folder(task.save, folder / "model")


def _stopped(error: DivergedError, step: int, checkpoint: Checkpoint | None) -> DivergedError:
    kept = checkpoint and checkpoint.path.exists()
    left = f"the last checkpoint is {checkpoint.path}" if checkpoint and kept else "there is no checkpoint"
    return DivergedError(f"training stopped at step {step}: {error}; {left}. A lower learning rate may help")


def _folder(folder: str | os.PathLike[str] | None, wanted: bool) -> Path | None:
    if folder is None:
        if wanted:
            raise ValueError("save_every and resume need a folder")
        return None
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)
