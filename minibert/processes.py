"""A model in several processes, each on its share of the cores, or on a GPU. The results keep the order."""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from .call import trim_memory
from .checkpoint.load import find_device
from .checkpoint.structure import changes, content
from .display import progress_bar
from .fast.changes import track, version
from .fused import has_hooks
from .truncation import TooLongError, TruncationReport, announce, check_mode
from .vectors import check_precision, deliver

if TYPE_CHECKING:
    from typing_extensions import Self

Result = TypeVar("Result")
FORMS = {"precision": "float32", "ranges": None, "convert_to_numpy": True, "convert_to_tensor": False}
_imported_in = os.getpid()
_own: list[Any] = []  # the model, in a process that was started here; before, its device and a barrier


class WorkerError(RuntimeError):
    """A process ended before its work was done (killed, no memory, could not start), or the pool is closed."""

    done = 0  # texts or pairs, from the first one on
    results: Any = None  # of these, as the call would have returned them


class _Copied:
    """What a copy was made of, to tell whether the model has changed since."""

    def __init__(self, model: Any) -> None:
        self.model = weakref.ref(model)
        self.settings, self.versions, self.content = self._settings(model), self._versions(model), content(model)

    def is_of(self, model: torch.nn.Module) -> bool:
        """Return True if nothing has changed since, and it is this very model."""
        if self.model() is not model or self._settings(model) != self.settings:
            return False
        if (versions := self._versions(model)) != self.versions:  # `.data` may have been read only
            if content(model) != self.content:
                return False
            self.versions = versions
        return True

    def _settings(self, model: Any) -> list[str]:
        """Return all but weights: parts, hooks, and what calls do without being asked."""
        hooked = [name for name, part in model.named_modules() if name and has_hooks(part)]
        words = model.tokenizer._backend.to_str(), {**vars(model.tokenizer), "_backend": None, "_types": None}
        return [repr(x) for x in (model, changes(model), hooked, model.max_seq_length, model.fast, words)]

    def _versions(self, model: Any) -> list[Any]:
        return [(id(weight), version(weight)) for weight in track(model)]


class WorkerPool:
    """Processes with a copy of a model each: no forks of this one. Use it as a context manager, or close it.

    They are ready when the object is. They end when it is closed, and when this process ends, even if it was killed.
    Several threads may use it.
    """

    def __init__(self, model: Any, devices: int | Sequence[str | torch.device]) -> None:
        """Start a process for each device, or so many: on the CPU, or on all GPUs if the model is on one.

        Processes on the CPU share the threads of this one equally.

        Raises:
            ValueError: there is no device, or one is unknown. WorkerError: a process could not start.
            TypeError: the model can't be pickled.
        """
        if isinstance(devices, int):
            count, cuda = devices, model.device.type == "cuda"
            devices = [f"cuda:{i % torch.cuda.device_count()}" if cuda else model.device for i in range(count)]
        places = [str(find_device(each)) for each in devices]
        if not places:
            raise ValueError("a pool needs a device for each of its processes, such as ['cpu', 'cpu']")
        context = _start_method()
        threads = max(1, torch.get_num_threads() // max(1, sum(place == "cpu" for place in places)))
        given = places, threads, dict(os.environ), context.Value("i", 0), context.Barrier(len(places))
        self.count, self.closed = len(places), False
        self._pool = ProcessPoolExecutor(self.count, context, initializer=_begin, initargs=given)
        # As bytes: torch would put weights into shared memory, of which containers have little. Not as what a process
        # is started with: if that one dies before it reads all, this one waits for ever.
        try:
            sent = _pickled(model, "the model")
            self._copied = _Copied(model)
            list(self._results(self._pool.submit(_load, sent) for _ in places))
        except BaseException:
            self.close()
            raise

    def check(self, model: Any) -> None:
        """Raise ValueError unless the processes have copies of this very model, as it is now."""
        if not self._copied.is_of(model):
            raise ValueError(
                "the pool has copies of another model, or of this one before it was changed: start another"
            )

    def run(self, function: Callable[..., Result], arguments: Iterable[Sequence[Any]]) -> Iterator[Result]:
        """Yield ``function(model, *each)`` for each of the arguments, in their order. Few of them are read ahead.

        Raises:
            WorkerError: a process ended, or the pool is closed. What was yielded until then is whole.
            Or whatever the function raises; its process goes on.
        """
        yield from self._results(self._pool.submit(_call, function, each) for each in arguments)

    def _results(self, futures: Iterable[Future[Result]]) -> Iterator[Result]:
        waiting: deque[Future[Result]] = deque()
        try:
            for future in futures:
                waiting.append(future)
                if len(waiting) > 2 * self.count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except (RuntimeError, CancelledError) as error:
            if self.closed:
                raise WorkerError("the pool is closed: start another one") from error
            if not isinstance(error, BrokenProcessPool):
                raise
            text = "a process of the pool has ended: it was killed, it had no memory, or it could not start"
            advice = 'a script that starts processes needs `if __name__ == "__main__":` around its work'
            raise WorkerError(f"{text} ({advice})") from error
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """End the processes. What they have begun is done first."""
        self.closed = True
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _start_method() -> Any:
    """Return how processes start: on Linux as forks of a server, which share what its import of torch takes, 130 MB.

    The server is a new process that computes nothing, so its forks may use threads and GPUs. It imports what lies in
    the working folder first. Where that is not what this process has imported, and in a process that was forked, which
    can't reach the server, each process starts by itself.
    """
    here = {Path(name).stem for name in os.listdir()}
    files = filter(None, (getattr(sys.modules[name], "__file__", None) for name in here & sys.modules.keys()))
    if sys.platform != "linux" or os.getpid() != _imported_in or any(os.getcwd() not in file for file in files):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    if multiprocessing.get_start_method(allow_none=True) != "forkserver":  # or the caller may have said what to import
        context.set_forkserver_preload(["torch", "minibert.processes"])
    return context


def _begin(places: list[str], threads: int, environment: dict[str, str], counter: Any, all_there: Any) -> None:
    """Make a process ready that was just started."""
    gc.freeze()  # a collection would write to what is shared with the server
    os.environ.update(environment)  # the server has that of its start
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of Ctrl-C the parent tells
    torch.set_num_threads(threads)
    with counter.get_lock():
        number, counter.value = counter.value, counter.value + 1
    _own.extend([places[number], all_there])


def _load(model: bytes) -> None:
    """Load the model, the first work of each process. Wait until all have begun, so that each gets one."""
    place, all_there = _own
    all_there.wait()
    _own[:] = [pickle.loads(model).to(place)]


def _pickled(value: object, name: str) -> bytes:
    """Return what goes to a process. Raise TypeError, which calls it by its name, if it can't."""
    try:
        return pickle.dumps(value)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        advice = "define its functions and classes by `def` and `class` at the top of a module"
        advice += ", and take hooks off, as those of an open `patch`" if isinstance(value, torch.nn.Module) else ""
        raise TypeError(f"{name} can't be sent to other processes ({error}): {advice}") from None


def _call(function: Callable[..., Result], arguments: Sequence[Any]) -> Result:
    try:
        return function(_own[0], *arguments)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # it would end the pool
            raise RuntimeError(f"{type(error).__name__}: {error}") from None
        raise


def _end_with_parent() -> None:
    """End this process with the one that has started it, even where that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def in_processes(
    model: Any, method: Callable[..., Any], texts: Any, pool: WorkerPool, size: int | None, options: dict[str, Any]
) -> Any:
    """Encode texts, or score pairs, in the processes of a pool, in chunks. Return what one process would return.

    Raises:
        TypeError: this is no pool, an option can't be pickled, or as `encode`.
        ValueError: as `encode`; or the pool has copies of another model, or of this one before it was changed.
        WorkerError: a process has ended. Its ``results`` are those of the first texts.
    """
    if not isinstance(pool, WorkerPool):
        raise TypeError(f"pool must come from start_multi_process_pool, not {type(pool).__name__}")
    pool.check(model)
    form: dict[str, Any] = {**FORMS, **options}
    form["precision"] = form["precision"] or "float32"
    check_precision(form["precision"], form["ranges"])
    rows, single, options = model.for_processes(texts, options)
    if single or not rows:
        return method(model, texts, **options)
    mode = check_mode(options.get("truncation") or model.truncation)
    shown = bool(options.get("show_progress_bar"))
    given = {**{name: value for name, value in options.items() if name not in FORMS}, "show_progress_bar": False}
    given["truncation"] = "error" if mode == "error" else "report"
    for name, value in given.items():
        _pickled(value, name)
    size = size or max(1, min(5000, math.ceil(len(rows) / pool.count / 8)))
    starts = range(0, len(rows), size)
    parts: list[Any] = []
    reports: list[TruncationReport] = []
    try:
        with progress_bar(len(rows), model.unit, shown) as bar:
            chunks = ((method.__name__, rows[start : start + size], given) for start in starts)
            for result, report in pool.run(_encode, chunks):
                parts.append(pickle.loads(result))
                reports.append(_moved(report, starts[len(reports)]))
                bar.update(min(size, len(rows) - starts[len(reports) - 1]))
    except TooLongError as error:
        raise TooLongError(_moved(error.report, starts[len(parts)])) from None
    except WorkerError as error:
        error.done = starts[len(parts)]
        error.results = _joined(parts, model, form) if parts else None
        done = f"the first {error.done} of {len(rows)} {model.unit} are done"
        error.args = (f"{error}; {done}: see the error's `results`",)
        raise
    lost = {i: tokens for report in reports for i, tokens in report.lost.items()}
    model.truncation_report = TruncationReport(reports[0].limit, lost, sum(report.kept for report in reports))
    announce(model.truncation_report, mode)
    return _joined(parts, model, form)


def _moved(report: TruncationReport, start: int) -> TruncationReport:
    """Count the texts of a chunk from the first of all."""
    return TruncationReport(report.limit, {start + i: tokens for i, tokens in report.lost.items()}, report.kept)


def _joined(parts: list[Any], model: Any, form: Mapping[str, Any]) -> Any:
    """Return the results of all chunks as one, in the form that was asked for."""
    if isinstance(parts[0], list):
        return [each for part in parts for each in part]
    vectors = torch.from_numpy(np.concatenate(parts)).to(model.device if form["convert_to_tensor"] else "cpu")
    return deliver(vectors, *(form[name] for name in FORMS))


def _encode(model: Any, method: str, texts: list[Any], options: dict[str, Any]) -> tuple[bytes, TruncationReport]:
    """Encode a chunk, in a process of a pool. Bytes: tensors would go through shared memory."""
    result = pickle.dumps(getattr(model, method)(texts, **options))
    trim_memory()
    return result, model.truncation_report
