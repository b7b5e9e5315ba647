"""Objects in processes of their own: an engine shares no library, thread or memory with another."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
SPAWN = multiprocessing.get_context("spawn")
BUSY = "import os, sys, threading as t\nt.Thread(target=lambda: os._exit(len(sys.stdin.read()))).start()\nwhile 1: pass"
Make = Callable[..., Any]
Variables = Mapping[str, str]


class EngineError(Exception):
    """An engine's process reported an error, or ended without an answer."""


class Remote:
    """The object that ``make(*arguments)`` returns, in a new process, which imports minibert from ``tree``."""

    def __init__(
        self, make: Make, *arguments: object, threads: int, variables: Variables | None = None, tree: Path | None = None
    ) -> None:
        begun = time.perf_counter()
        self._connection, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_serve, args=(theirs, tree, make, arguments), daemon=True)
        with _environment(threads, variables or {}):
            self._process.start()
        theirs.close()
        try:
            self._receive()
        except EngineError:
            self.close()
            raise
        self.started = time.perf_counter() - begun  # seconds

    def ask(self, do: str, **values: Any) -> Any:
        """Call a method of the object. Raises EngineError."""
        with suppress(OSError):  # of a process that has ended; receiving tells how
            self._connection.send((do, values))
        return self._receive()

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(20)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()

    def _receive(self) -> Any:
        try:
            error, value = self._connection.recv()
        except (EOFError, OSError):
            self._process.join(20)
            raise EngineError(f"its process ended with status {self._process.exitcode}") from None
        if error:
            raise EngineError(error)
        return value


def run(function: Make, *arguments: object, threads: int) -> Any:
    """Call a function in a process of its own. Raises EngineError."""
    with closing(Remote(partial, function, *arguments, threads=threads)) as remote:
        return remote.ask("__call__")


def _serve(connection: Connection, tree: Path | None, make: Make, arguments: tuple[Any, ...]) -> None:
    """Make the object, then call its methods until the other end closes. Output of the libraries is dropped."""
    sys.path[:0] = [str(tree)] if tree else []
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    try:
        made = make(*arguments)
        if tree and not Path(sys.modules["minibert"].__file__ or "").resolve().is_relative_to(tree.resolve()):
            raise ImportError(f"{sys.modules['minibert'].__file__} was imported, which is not in {tree}")
        connection.send((None, None))
        while True:
            do, values = connection.recv()
            value = getattr(made, do)(**values)
            _wait_until_idle()
            connection.send((None, value))
    except EOFError:
        return
    except Exception as error:
        connection.send((f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", None))


def _wait_until_idle() -> None:
    """Wait for threads that still spin, as OpenMP's do for a while: the next engine needs the cores."""
    for _ in range(100):
        before = time.process_time()
        time.sleep(0.01)
        if time.process_time() - before < 0.001:
            return


@contextmanager
def _environment(threads: int, variables: Variables) -> Iterator[None]:
    """Set the variables that a process must find at its start."""
    before = dict(os.environ)
    os.environ |= {"OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
    os.environ |= {"TOKENIZERS_PARALLELISM": "true", "HF_HUB_OFFLINE": "1", **variables}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def busy_neighbour() -> Iterator[None]:
    """Keep one core busy with another process, which ends by itself if this one dies."""
    process = subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE)
    try:
        yield
    finally:
        process.communicate()
