"""The training loop: what happens in a step, and between steps."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
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
from ..config import check_count
from ..display import progress_bar
from ..fast.prepare import keep_freed_memory
from ..fused import fused
from ..model import Encoder
from . import parallel
from .examples import epoch
from .run_folder import RunState, refuse_used
from .settings import Settings
from .task import Task

Evaluator = Callable[[Any], Mapping[str, Any]]  # the task's model -> scores (numbers) by name, higher is better


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
            `checkpoint.pt`. It must not hold a training already, unless you ``resume`` that.
        evaluate: Called with the task's model in eval mode, every ``evaluate_every`` steps and after the last. If it
            raises, a checkpoint is written first, from which to ``resume`` with it.
        score: The name of the score that selects the best model. Optional if there is only one.
        save_every: Steps between checkpoints. The last step has one too.
        resume: Continue from the folder's checkpoint, to the same bits as an uninterrupted training.

    Raises:
        CheckpointError: There is a folder, but the model has no published form (a part of one's own, an adapter).
        DivergedError: The loss or the gradients are not finite. Model and checkpoint stay as they were saved.
        ResumeError: There is no checkpoint, or it belongs to another training.
        ValueError: Arguments, task and machine don't fit, the folder is in use, or ``evaluate`` gave no such ``score``.
        OSError: A file can't be written. Earlier files stay whole.
    """
    _check(evaluate, score, evaluate_every, save_every, resume)
    settings = settings or Settings()
    total = settings.total_steps(len(task.lengths))
    with _set_up(task, settings):
        run = _start(task, settings, folder, checkpointed=resume or save_every is not None, resume=resume)
        measure = partial(_measure, run, evaluate, score, evaluate_every, total)
        measure()  # where a resumed training's evaluation failed
        with progress_bar(total, "steps", show_progress_bar and parallel.is_first(), done=run.step) as bar:
            for record in _steps(run, settings, total):
                run.add(**record)
                bar.set_postfix(loss=f"{record['loss']:.4f}", rate=f"{record['rate']:.2e}", refresh=False)
                bar.update(1)
                measure()
                if save_every and (run.step == total or run.step % save_every == 0):
                    run.save()
        parallel.wait()
    return run.records


def _check(evaluate: object, score: object, evaluate_every: object, save_every: object, resume: object) -> None:
    """Raise ValueError for arguments of `train` that make no sense."""
    check_count("evaluate_every", evaluate_every, optional=True)
    check_count("save_every", save_every, optional=True)
    if not isinstance(resume, bool):
        raise ValueError(f"resume must be True or False, not {resume!r:.80}")
    if not isinstance(score, str | None):
        raise ValueError(f"score must be the name of one of evaluate's scores, not {score!r:.80}")
    if evaluate is not None and not callable(evaluate):
        raise ValueError(f"evaluate must be a function from the model to its scores, not {evaluate!r:.80}")
    given = {"score": score, "evaluate_every": evaluate_every}
    if evaluate is None and (vain := [name for name, value in given.items() if value is not None]):
        raise ValueError(f"without evaluate there are no scores for {' and '.join(vain)}")


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
    if folder is not None and not resume:
        refuse_used(Path(folder))
    scaler = GradScaler(next(task.parameters()).device.type, enabled=settings.autocast == "float16")
    run = RunState(task, make_optimizer(task, settings), scaler, Path(folder) if folder is not None else None)
    if run.folder is not None:
        refuse_file(run.folder)
        run.folder.mkdir(parents=True, exist_ok=True)
        run.identity = {**asdict(settings), "processes": parallel.world(), **task.identity()}
        if frozen := [name for name, weight in task.named_parameters() if not weight.requires_grad]:
            run.identity["frozen"] = frozen
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
    """Return AdamW with weight decay for matrices only: pulling a bias or a norm to 0 regularises nothing.

    Raises:
        ValueError: There is no parameter to learn.
    """
    learning = [value for value in task.parameters() if value.requires_grad]
    if not learning:
        raise ValueError("no parameter of the task requires gradients: all are frozen, so nothing would be learned")
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


def _measure(run: RunState, evaluate: Evaluator | None, score: str | None, every: int | None, total: int) -> None:
    """If it is time, log the scores, and save the model if it is the best so far; without scores the last is saved.

    Only the first process does it, the others wait.
    """
    if not run.step or not (run.step == total or (evaluate and every and run.step % every == 0)):
        return
    if evaluate is None:
        run.save_model()
    elif parallel.is_first() and not any("scores" in record for record in run.records[-1:]):  # else it was done before
        run.task.eval()
        with run.kept_if_it_fails():
            with torch.no_grad():
                found = evaluate(run.task.model)
            scores, best = _scores(found, score)
        run.task.train()
        run.add(step=run.step, scores=scores)
        if run.best is None or math.isnan(run.best) or best > run.best:
            run.best = best
            run.save_model()
    parallel.wait()


def _scores(found: Any, score: str | None) -> tuple[dict[str, float], float]:
    """Return what `evaluate` gave as Python's numbers, and that which selects the best model."""
    scores: dict[str, float] = {}
    if isinstance(found, Mapping) and all(
        isinstance(k, str) and not isinstance(v, str | bytes) for k, v in found.items()
    ):
        with suppress(TypeError, ValueError, RuntimeError):  # torch's, for a tensor of several numbers
            scores = {name: float(value) for name, value in found.items()}
    if not scores:
        raise ValueError(f'evaluate must return numbers by name, as {{"accuracy": 0.9}}, not {found!r:.200}')
    if score is None and len(scores) == 1:
        (score,) = scores
    if score not in scores:
        raise ValueError(f"which score selects the best model? score must be one of {', '.join(scores)}, not {score!r}")
    return scores, scores[score]
