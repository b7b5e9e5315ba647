"""CUDA graphs: a forward of one text recorded once, and launched as a whole. Otherwise a GPU waits for Python."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from threading import Lock

import torch
from torch import Tensor

from ..call import pinned, upload
from ..display import warn

WARM = 2  # calls of a bucket before it is recorded: recording takes as long as many calls
failures: dict[torch.device, str] = {}  # of recording, by device
_one_at_a_time = Lock()  # torch records one graph at a time in a process
Compute = Callable[[Tensor], Tensor]  # of the numbers of a text, on the GPU


class Graphs:
    """The graphs of one stack, by bucket. They share their memory, so one runs at a time, whatever the stream."""

    def __init__(self, card: Card) -> None:
        self.card, self.lock = card, Lock()
        self.calls: dict[Hashable, int] = {}
        self.recorded: dict[Hashable, tuple[Tensor, Callable[[], None], Tensor]] = {}  # numbers, replay, result
        self.guard: object = None
        self.failure = failures.get(card.device, "")  # why there are no graphs

    def run(self, key: Hashable, guard: object, numbers: Tensor, compute: Compute) -> Tensor:
        """Return what ``compute`` gives for these numbers; from the third call on by a graph.

        Args:
            key: The bucket: all that decides which operators compute, and on which shapes.
            guard: What a graph has of the world outside: addresses and settings. When it changes, graphs are dropped.
            numbers: All that differs between the texts of a bucket, on the CPU.
            compute: Operators on the GPU only; nothing that asks for a value.
        """
        with self.lock:
            if guard != self.guard:
                self.recorded.clear()
                self.guard = guard
            self.calls[key] = self.calls.get(key, 0) + 1
            if self.calls[key] > WARM and not self.failure:
                try:
                    return self._replay(key, numbers, compute)
                except RuntimeError as error:  # a full memory too: without graphs less is needed
                    self.failure = f"single texts are computed without CUDA graphs: {reason(error)}"
                    failures[self.card.device] = self.failure
                    self.recorded.clear()
                    warn(self.failure)
        return compute(upload(numbers, self.card.device))

    def _replay(self, key: Hashable, numbers: Tensor, compute: Compute) -> Tensor:
        with self.card.in_order():
            if key not in self.recorded:
                with torch.inference_mode(False), torch.no_grad():  # any mode may write to what is made here
                    static = upload(numbers, self.card.device)
                    self.recorded[key] = (static, *self.card.record(compute, static))
            static, replay, result = self.recorded[key]
            static.copy_(pinned(numbers, self.card.device), non_blocking=True)
            replay()
            return result.clone()


class Card:
    """A device of CUDA, as far as graphs need it: one stream for all recordings, with one pool of memory."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with torch.cuda.device(device):
            self.stream, self.pool, self.done = torch.cuda.Stream(), torch.cuda.graph_pool_handle(), torch.cuda.Event()

    @contextmanager
    def in_order(self) -> Iterator[None]:
        """Begin after the last one's work on the device has ended, whichever stream it was in."""
        with torch.cuda.device(self.device):
            self.done.wait()
            yield
            self.done.record()

    def record(self, compute: Compute, static: Tensor) -> tuple[Callable[[], None], Tensor]:
        """Compute once, record it, and return what replays the record and where its result will be."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            compute(static)  # libraries allocate at their first use in a stream
        torch.cuda.current_stream().wait_stream(self.stream)
        graph, mode = torch.cuda.CUDAGraph(), "thread_local"
        with _one_at_a_time, torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode=mode):
            result = compute(static)
        return graph.replay, result


def reason(error: BaseException) -> str:
    """Return an error's kind and first line, in a bounded length."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
