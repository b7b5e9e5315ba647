"""For every test: no network but this machine, the same numbers in any order, and no comparison quietly left out."""

import os
import random
import socket

import numpy as np
import pytest
import torch

# The tensors are tiny: threads would cost more than they give, and stall whenever another process wants a core.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start

skipped = []


@pytest.fixture(autouse=True, scope="session")
def _only_this_machine():
    """Refuse to connect anywhere else: a test that needs the internet is a test that fails on a train."""
    connect = socket.socket.connect

    def refuse(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"a test tried to reach {address}")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        yield


@pytest.fixture(autouse=True)
def _the_same_numbers():
    """Let a test draw the same numbers whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_runtest_logreport(report):
    if report.skipped and "tests/parity/" in report.nodeid:
        skipped.append(report.nodeid)


def pytest_sessionfinish(session):
    if skipped:
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter):
    if skipped:
        terminalreporter.write_line(
            f"{len(skipped)} parity tests skipped, which counts as failed: {', '.join(skipped)}", red=True
        )
