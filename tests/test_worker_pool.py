"""Processes that encode beside each other: the order, what they give back, and their ends."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers import MINILM

from minibert import SentenceEncoder, TooLongError
from minibert.processes import WorkerError, WorkerPool

TEXTS = [f"text {i} " + "of words " * (i % 7) for i in range(60)]


@pytest.fixture(scope="module")
def encoder():
    return SentenceEncoder.from_pretrained(MINILM, device="cpu")


@pytest.fixture(scope="module")
def pool(encoder):
    with encoder.start_multi_process_pool(["cpu", "cpu"]) as pool:
        yield pool


@pytest.mark.parametrize("size", [1, 7, None, 1000])
def test_a_pool_gives_the_vectors_of_one_process_in_their_order(encoder, pool, size):
    assert np.abs(encoder.encode(TEXTS, pool=pool, chunk_size=size) - encoder.encode(TEXTS)).max() < 1e-6


@pytest.mark.parametrize(
    "options",
    [
        {"prompt": "query: ", "normalize_embeddings": True, "truncate_dim": 5},
        {"convert_to_tensor": True},
        {"convert_to_numpy": False},
        {"precision": "ubinary"},
        {"precision": "int8", "ranges": np.stack([np.full(384, -1.0), np.full(384, 1.0)])},
        {"output_value": "token_embeddings"},
        {"output_value": None},
    ],
    ids=str,
)
def test_results_have_the_form_of_one_process(encoder, pool, options):
    ours, usual = encoder.encode(TEXTS[:9], pool=pool, chunk_size=4, **options), encoder.encode(TEXTS[:9], **options)
    assert type(ours) is type(usual)
    assert len(ours) == len(usual)
    for one, other in zip(ours, usual, strict=True):
        pairs = [(one[name], other[name]) for name in other] if isinstance(other, dict) else [(one, other)]
        assert all(type(a) is type(b) and a.dtype == b.dtype for a, b in pairs)
        assert max(float(abs(a - b).max()) for a, b in pairs) < 1e-5


def test_one_text_and_none(encoder, pool):
    assert encoder.encode("one", pool=pool).shape == (384,)
    assert encoder.encode([], pool=pool).shape == (0, 384)
    assert encoder.encode_query(["one"], pool=pool).shape == (1, 384)


def test_truncation_is_reported_for_all_chunks(encoder, pool):
    long = "word " * 400
    texts = [*TEXTS[:5], long, *TEXTS[:5], long]
    with pytest.warns(UserWarning, match="texts longer than 256 tokens: 2") as caught:
        encoder.encode(texts, pool=pool, chunk_size=3)
    assert caught[0].filename == __file__
    assert list(encoder.truncation_report.lost) == [5, 11]
    report = encoder.truncation_report
    encoder.encode(texts, truncation="silent")
    assert report == encoder.truncation_report
    assert report.kept == encoder.truncation_report.kept
    with pytest.raises(TooLongError, match="the first is text 5"):
        encoder.encode(texts, pool=pool, chunk_size=3, truncation="error")


def test_what_is_wrong_is_said_before_any_work(encoder, pool):
    with pytest.raises(TypeError, match="text 60 is None"):
        encoder.encode([*TEXTS, None], pool=pool)
    with pytest.raises(TypeError, match="pool must come from start_multi_process_pool, not dict"):
        encoder.encode(TEXTS, pool={"input": None})
    with pytest.raises(ValueError, match="chunk_size"):
        encoder.encode(TEXTS, pool=pool, chunk_size=0)
    with pytest.raises(TypeError, match="unexpected keyword argument: nonsense"):
        encoder.encode(TEXTS, pool=pool, nonsense=1)
    with pytest.raises(ValueError, match="needs a device"):
        WorkerPool(encoder, [])
    assert len(encoder.encode(TEXTS, pool=pool)) == len(TEXTS)


def test_a_process_that_dies_is_one_error_and_what_was_done_is_kept(encoder, monkeypatch):
    pool = encoder.start_multi_process_pool(["cpu"])
    process, _ = *pool._pool._processes.values(), None
    run = pool.run

    def killed(*given):
        for i, result in enumerate(run(*given)):
            if i == 3:
                os.kill(process.pid, signal.SIGKILL)
                process.join()
                raise_from_the_pool()
            yield result

    def raise_from_the_pool():
        list(run(getattr, [("device",)]))

    monkeypatch.setattr(pool, "run", killed)
    with pytest.raises(
        WorkerError, match=r"a process of the pool has ended.*the first 12 of 60 texts are done"
    ) as caught:
        encoder.encode(TEXTS, pool=pool, chunk_size=4)
    assert np.abs(caught.value.results - encoder.encode(TEXTS[:12])).max() < 1e-6
    with pytest.raises(WorkerError, match="the first 0 of 60 texts"):
        encoder.encode(TEXTS, pool=pool)
    pool.close()
    assert process.exitcode is not None


SCRIPT = """
from minibert import SentenceEncoder
encoder = SentenceEncoder.from_pretrained()
encoder.encode(["a", "b"], device=["cpu"])
"""


def test_a_script_without_a_guard_is_told(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "WorkerError" in done.stderr
    assert '`if __name__ == "__main__":`' in done.stderr
