"""The training loop: what happens in a step, and between steps."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import AdamW, Optimizer
from torch.utils.checkpoint import checkpoint

from ..checkpoint.atomic import refuse_file
from ..display import progress_bar
from ..fast.prepare import keep_freed_memory
from ..fused import fused
from ..model import Encoder
from . import parallel
from .examples import epoch
from .run_folder import RunState
from .settings import Settings
from .task import Task

Evaluator = Callable[[Any], "dict[str, float]"]  # the task's model -> scores by name, higher is better


class DivergedError(ValueError):
    """The loss or the gradients are no longer finite numbers."""


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
    """Train in place; return the log's records (see `RunState`).

    Every step seeds torch's generators. Under torchrun, call this in every process: the first one evaluates and writes.

    Args:
        task: On its device. It ends in eval mode, with the last step's weights.
        folder: Gets `model/` (the best by its score, else the last), `log.jsonl` and, with ``save_every``,
            `checkpoint.pt`.
        evaluate: Called with the task's model in eval mode, every ``evaluate_every`` steps and after the last.
        score: The name of the score that selects the best model. Optional if there is only one.
        save_every: Steps between checkpoints. The last step has one too.
        resume: Continue from the folder's checkpoint, to the same bits as an uninterrupted training.

    Raises:
        CheckpointError: There is a folder, but the model has no published form (a part of one's own, an adapter).
        DivergedError: The loss or the gradients are not finite. Model and checkpoint stay as they were saved.
        ResumeError: There is no checkpoint, or it belongs to another training.
        ValueError: Settings, task and machine don't fit together.
        OSError: A file can't be written. Earlier files stay whole.
    """
    settings = settings or Settings()
    total = settings.total_steps(len(task.lengths))
    with _set_up(task, settings):
        run = _start(task, settings, folder, checkpointed=resume or save_every is not None, resume=resume)
        with progress_bar(total, "steps", show_progress_bar and parallel.is_first(), done=run.step) as bar:
            for record in _steps(run, settings, total):
                run.add(**record)
                bar.set_postfix(loss=f"{record['loss']:.4f}", rate=f"{record['rate']:.2e}", refresh=False)
                bar.update(1)
                if evaluate and (run.step == total or (evaluate_every and run.step % evaluate_every == 0)):
                    _evaluate(run, evaluate, score)
                if save_every and (run.step == total or run.step % save_every == 0):
                    run.save()
        if not evaluate:
            run.save_model()
        parallel.wait()
    return run.records


@contextmanager
def _set_up(task: Task, settings: Settings) -> Iterator[None]:
    """Inside, the processes share their weights and the model computes as the settings say; then it is in eval mode."""
    device = next(task.parameters()).device
    if settings.autocast == "float16" and device.type != "cuda":
        raise ValueError(f"autocast to float16 needs a GPU (cuda), not {device.type}: use bfloat16, or none")
    keep_freed_memory()
    with parallel.joined(device), fused(task.model) if settings.fused else nullcontext():
        parallel.same_weights(task)
        try:
            yield
        finally:
            task.eval()


def _start(
    task: Task, settings: Settings, folder: str | os.PathLike[str] | None, *, checkpointed: bool, resume: bool
) -> RunState:
    if folder is None and checkpointed:
        raise ValueError("save_every and resume need a folder")
    scaler = GradScaler(next(task.parameters()).device.type, enabled=settings.autocast == "float16")
    run = RunState(task, make_optimizer(task, settings), scaler, Path(folder) if folder is not None else None)
    if run.folder is not None:
        refuse_file(run.folder)
        run.folder.mkdir(parents=True, exist_ok=True)
        run.identity = {**asdict(settings), "processes": parallel.world(), **task.identity()}
        run.check_saving()
        if resume:
            run.load()
        run.open_log()
    return run


def _steps(run: RunState, settings: Settings, total: int) -> Iterator[dict[str, Any]]:
    order = _order(run.task.sort_key, settings, run.step)
    run.task.train()
    while run.step < total:
        started = time.perf_counter()
        batches = [next(order) for _ in range(settings.accumulate)]
        rate = settings.rate(run.step, total)
        run.task.begin_step(run.step, total)
        seeds = np.random.SeedSequence([settings.seed, run.step, parallel.rank()])
        torch.manual_seed(int(seeds.generate_state(1)[0]))  # whatever was drawn before
        try:
            # Only around the step: `encode` computes layers that have a forward of their own by the page.
            with layers_checkpointed(run.task) if settings.gradient_checkpointing else nullcontext():
                loss, norm = step(run.task, batches, rate, run.optimizer, run.scaler, settings)
        except DivergedError as error:
            kept = run.checkpoint is not None and run.checkpoint.exists()
            left = f"the last checkpoint is {run.checkpoint}" if kept else "there is no checkpoint"
            message = f"training stopped at step {run.step + 1}: {error}; {left}. A lower learning rate may help"
            raise DivergedError(message) from None
        run.step += 1
        rows, seconds = np.concatenate(batches), time.perf_counter() - started
        speeds = {"rows_per_s": len(rows) / seconds, "tokens_per_s": int(run.task.lengths[rows].sum()) / seconds}
        rounded = {name: round(speed, 1) for name, speed in speeds.items()}
        yield {"step": run.step, "loss": loss, "rate": rate, "norm": norm, **rounded}


def step(
    task: Task, batches: list[np.ndarray], rate: float, optimizer: Optimizer, scaler: GradScaler, settings: Settings
) -> tuple[float, float]:
    """Take one step of the optimizer; return the batches' mean loss and the norm of its gradients before clipping.

    Raises:
        DivergedError: One of them is not finite. The weights have not changed.
    """
    device = next(task.parameters()).device
    dtype = getattr(torch, settings.autocast) if settings.autocast else None
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    losses = []
    for rows in batches:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            loss = task.loss(rows) / len(batches)
        scaler.scale(loss).backward()
        losses.append(loss.detach())
    parallel.average_gradients(task)
    scaler.unscale_(optimizer)
    learning = [value for value in task.parameters() if value.grad is not None]
    total_norm = nn.utils.get_total_norm([value.grad for value in learning if value.grad is not None])
    norm = total_norm.item()
    if settings.max_grad_norm and norm > settings.max_grad_norm:
        nn.utils.clip_grads_with_norm_(learning, settings.max_grad_norm, total_norm)
    mean_loss = parallel.mean(torch.stack(losses).sum())
    # The scaler skips steps whose gradients overflow float16 and then scales less. That is not a failure.
    if not math.isfinite(mean_loss) or not (scaler.is_enabled() or math.isfinite(norm)):
        raise DivergedError(f"the loss is {mean_loss:g}, the norm of its gradients {norm:g}")
    scaler.step(optimizer)
    scaler.update()
    return mean_loss, norm


def make_optimizer(task: nn.Module, settings: Settings) -> Optimizer:
    """Return AdamW with weight decay for matrices only: pulling a bias or a norm to 0 regularises nothing."""
    learning = [value for value in task.parameters() if value.requires_grad]
    matrices = [value for value in learning if value.ndim >= 2]
    others = [value for value in learning if value.ndim < 2]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    one_kernel = learning[0].device.type in ("cpu", "cuda")  # for all parameters
    return AdamW([group for group in groups if group["params"]], settings.learning_rate, fused=one_kernel)


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


def _order(sort_key: np.ndarray, settings: Settings, steps: int) -> Iterator[np.ndarray]:
    """Yield the rows of batch after batch, epoch after epoch, from where a training is after so many steps."""
    processes, size = parallel.world(), settings.batch_size
    if min(size, len(sort_key)) < processes:
        raise ValueError(f"{processes} processes can't share batches of {size} of {len(sort_key)} rows")
    batches = partial(epoch, sort_key, size, seed=settings.seed, by_length=settings.by_length, fewest=processes)
    first, done = divmod(steps * settings.accumulate, len(batches(number=0)))
    for number in count(first):
        yield from batches(number=number)[done:]
        done = 0


def _evaluate(run: RunState, evaluate: Evaluator, score: str | None) -> None:
    """Log the scores; save the model if it is the best so far. Only the first process does it, the others wait."""
    if parallel.is_first():
        run.task.eval()
        with torch.no_grad():
            scores = evaluate(run.task.model)
        run.task.train()
        run.add(step=run.step, scores=scores)
        if score is None and len(scores) == 1:
            (score,) = scores
        if score not in scores:
            names = ", ".join(scores)
            raise ValueError(f"which score selects the best model? score must be one of {names}, not {score!r}")
        if run.best is None or math.isnan(run.best) or scores[score] > run.best:
            run.best = scores[score]
            run.save_model()
    parallel.wait()
