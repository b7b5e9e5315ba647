"""Forks, threads that outlive the main one, and contexts: wherever it is computed, the vectors are the same."""

import subprocess
import sys
from contextvars import ContextVar

import pytest
from documents import DOCS, table
from torch import nn
from ways import BODIES, LIBRARIES, run_way

from minibert import SentenceEncoder

FORK = """
import os, select, signal, torch
torch.set_num_threads(2)
from minibert import SentenceEncoder
encoder = SentenceEncoder.from_pretrained()
{before}
read, write = os.pipe()
child = os.fork()
if child == 0:
    {inside}
    os.write(write, str(result).encode())
    os._exit(0)
ready, _, _ = select.select([read], [], [], 30)
print(os.read(read, 99).decode() if ready else "no answer")
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
"""
INSIDE = {
    "one text": "result = encoder.encode('hello').shape",
    "many texts": "result = encoder.encode(['hello there'] * 200).shape",
    "the page": "result = encoder.encode('hello', fast=False).shape",
    "similarity": "a = torch.ones(300, 384); result = tuple(encoder.similarity(a, a).shape)",
    "a fresh load": "result = SentenceEncoder.from_pretrained().encode('hello').shape",
}


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork here")
@pytest.mark.parametrize("before", ["", "encoder.encode('first'); encoder.encode(['first of many'] * 200)"])
@pytest.mark.parametrize("inside", INSIDE.values(), ids=INSIDE)
def test_a_forked_process_answers_whatever_its_parent_did(before, inside):
    assert run(FORK.format(before=before, inside=inside)).endswith(")")


def test_a_thread_goes_on_while_the_interpreter_ends():
    code = """
import threading, torch
torch.set_num_threads(2)
from minibert import SentenceEncoder
encoder = SentenceEncoder.from_pretrained()
texts = [f"text number {i} about food and weather" for i in range(200)]
encoder.encode(texts)
main = threading.current_thread()
def work():
    main.join()
    print(*[len(encoder.encode(texts)) for _ in range(3)], encoder.encode("one").shape)
threading.Thread(target=work).start()
"""
    assert run(code) == "200 200 200 (384,)"


def test_a_part_sees_the_callers_context_in_calls_of_any_size():
    scale: ContextVar[float] = ContextVar("scale", default=1.0)

    class Scaled(nn.Module):
        def forward(self, vectors):
            return vectors * scale.get()

    encoder = SentenceEncoder.from_pretrained()
    encoder.head = Scaled()
    texts = [f"text number {i} about food and weather" for i in range(200)]
    plain = encoder.encode(texts)
    scale.set(2.0)
    assert abs(encoder.encode(texts) - 2 * plain).max() < 1e-6
    assert abs(encoder.encode(texts[0]) - 2 * plain[0]).max() < 1e-4


@pytest.mark.skipif(sys.platform != "linux", reason="the ways are those of Linux")
@pytest.mark.parametrize("name", [name for name in BODIES if name not in LIBRARIES])
def test_vectors_are_the_same_by(name, tmp_path):
    run_way(name, tmp_path)


def test_each_way_is_a_row_of_the_page():
    text = (DOCS / "processes.md").read_text(encoding="utf-8").split("## Other ways")[1]
    assert [row[0] for row in table(text)] == list(BODIES)
