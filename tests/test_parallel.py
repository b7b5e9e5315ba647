"""Two processes, started by torchrun on this machine, learn what one learns."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import two_processes

HERE = Path(__file__).parent


def run(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
    return subprocess.run(
        [*command, f"--master-port={port}", str(HERE / "two_processes.py"), str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]), "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What both processes wrote."""
    folder = tmp_path_factory.mktemp("together")
    done = run(folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def alone():
    return two_processes.results()


NAMES = list(two_processes.make_tasks())


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_have_the_gradients_of_one(together, alone, name, rank):
    found = torch.load(together / f"results-{rank}.pt", weights_only=True)[name]
    assert found.keys() == alone[name].keys()
    assert alone[name]["loss"].abs() > 0.01
    for key, value in found.items():
        assert (value - alone[name][key]).abs().max() < 1e-10 * max(1, alone[name][key].abs().max()), key


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_train_the_weights_of_one(together, alone, name):
    one, other = (torch.load(together / f"results-{rank}.pt", weights_only=True)[f"{name}, trained"] for rank in (0, 1))
    for key, value in alone[f"{name}, trained"].items():
        assert torch.equal(one[key], other[key]), key
        assert (value - one[key]).abs().max() < 1e-6, key  # AdamW divides roundings by roundings where gradients are 0
    assert (one["losses"] - alone[f"{name}, trained"]["losses"]).abs().max() < 1e-8


def test_a_script_under_torchrun_trains_and_only_the_first_writes(together):
    records = [json.loads(line) for line in (together / "out/log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3, 3]
    assert sorted(path.name for path in (together / "out").iterdir()) == ["checkpoint.pt", "log.jsonl", "model"]
    one, other = (torch.load(together / f"trained-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(value, other["weights"][name]) for name, value in one["weights"].items())
    assert set(one["seeds"]).isdisjoint(other["seeds"])  # each has a dropout of its own


def test_weights_from_another_process_are_noticed_by_encode(together):
    (before, first), (other_before, second) = (torch.load(together / f"encoded-{rank}.pt") for rank in (0, 1))
    assert (before - other_before).abs().max() > 1e-4
    assert torch.equal(first, before)
    assert (second - first).abs().max() < 1e-6


def test_an_encode_before_a_step_of_fsdp_does_no_harm(together):
    alone = two_processes.trained_in_shards(sharded=False)
    assert (
        alone - two_processes.make_encoder(dtype=torch.float32).encode(two_processes.U, convert_to_tensor=True)
    ).abs().max() > 1e-3
    for rank in (0, 1):
        assert (torch.load(together / f"sharded-{rank}.pt") - alone).abs().max() < 1e-5
