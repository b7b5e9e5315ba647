"""What a test lets the processes of a pool do: they import it by its name."""

import os
import signal
import time


class PickyError(Exception):
    """One that can be pickled, but not unpickled."""

    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


def die_at(model, i, last):
    if i == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return i


def fail(model, kind):
    if kind == "PickyError":
        raise PickyError("what is", "wrong")
    raise {"RuntimeError": RuntimeError, "MemoryError": MemoryError}[kind]("what is wrong")


def variable(model, name):
    return os.environ.get(name)


def parent(model):
    return os.getppid()


def wait(model, seconds):
    time.sleep(seconds)
