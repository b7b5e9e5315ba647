"""Processes that encode beside each other: the order, what they give back, and their ends."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pool_functions
import pytest
import torch
from helpers import MINILM
from tiny_folder import write_cross_encoder

from minibert import CrossEncoder, SentenceEncoder, TooLongError, processes
from minibert.processes import WorkerError, WorkerPool
from minibert.research import patch

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


def test_pairs_in_a_pool(tmp_path):
    encoder = CrossEncoder(write_cross_encoder(tmp_path), device="cpu")
    texts = [f"the cat {i} " + "sat " * (i % 7) for i in range(60)]
    pairs = [("who is", text) for text in texts]
    with encoder.start_multi_process_pool(["cpu", "cpu"]) as pool:
        encoder.activation_fn = torch.tanh  # after the pool's start
        expected = encoder.predict(pairs)
        assert np.abs(encoder.predict(pairs, pool=pool, chunk_size=7) - expected).max() < 1e-6
        assert np.abs(encoder.predict(iter(pairs), pool=pool) - expected).max() < 1e-6
        assert encoder.predict(pairs[0], pool=pool) == pytest.approx(expected[0], abs=1e-6)
        assert encoder.predict([], pool=pool).shape == (0,)
        assert encoder.rank("who is", texts, 1, pool=pool)[0]["corpus_id"] == expected.argmax()
        with pytest.warns(UserWarning, match="texts longer than 40 tokens: 1") as caught:
            encoder.predict([*pairs[:3], ("who", "the cat " * 40)], pool=pool, chunk_size=1)
        assert caught[0].filename == __file__
        assert list(encoder.truncation_report.lost) == [3]
        for wrong, error, words in (
            ({"activation_fn": lambda x: x}, TypeError, "activation_fn can't be sent to other processes .* by `def`"),
            ({"activation_fn": "tanh"}, TypeError, "activation_fn must be a function"),
            ({"precision": "int8"}, TypeError, r"CrossEncoder\.predict got an unexpected keyword argument: precision"),
            ({"chunk_size": 0}, ValueError, "chunk_size"),
        ):
            with pytest.raises(error, match=words):
                encoder.predict(pairs, pool=pool, **wrong)
        with pytest.raises(ValueError, match="pair 1 must be two texts"):
            encoder.predict([pairs[0], "who"], pool=pool)
        with pytest.raises(TypeError, match="the second text of pair 60 is None"):
            encoder.predict([*pairs, ("who", None)], pool=pool, chunk_size=7)
    with pytest.raises(WorkerError, match=r"the pool is closed.* the first 0 of 60 pairs are done"):
        encoder.predict(pairs, pool=pool)
    encoder.activation_fn = lambda x: x
    with pytest.raises(TypeError, match=r"the model can't be sent to other processes .* at the top of a module"):
        encoder.predict(pairs, device=["cpu", "cpu"])


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


def test_one_of_two_processes_that_dies_while_both_work_is_one_error(encoder):
    with encoder.start_multi_process_pool(["cpu", "cpu"]) as pool:
        results = pool.run(pool_functions.die_at, [(i, 9) for i in range(20)])
        done = []
        with pytest.raises(WorkerError, match="a process of the pool has ended"):
            done.extend(results)  # keeps what came before
        processes = list(pool._pool._processes.values())
    assert done == list(range(len(done)))
    assert len(done) <= 9
    assert not any(process.is_alive() for process in processes)


@pytest.mark.parametrize("kind", ["RuntimeError", "MemoryError", "PickyError"])
def test_a_process_survives_whatever_is_raised_in_it(encoder, pool, kind):
    with pytest.raises(MemoryError if kind == "MemoryError" else RuntimeError, match="what is wrong"):
        list(pool.run(pool_functions.fail, [(kind,)]))
    assert len(encoder.encode(TEXTS, pool=pool)) == len(TEXTS)


def test_threads_share_a_pool(encoder, pool):
    found = {}

    def work(start):
        found[start] = encoder.encode(TEXTS[start:], pool=pool, chunk_size=4)

    threads = [threading.Thread(target=work, args=(start,)) for start in (0, 7, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = encoder.encode(TEXTS)
    assert all(np.abs(found[start] - expected[start:]).max() < 1e-6 for start in (0, 7, 20))


def test_a_closed_pool_says_so_also_to_who_waits_for_it(encoder):
    pool = encoder.start_multi_process_pool(["cpu"])
    results = pool.run(pool_functions.die_at, [(i, None) for i in range(20)])
    assert next(results) == 0
    for _ in range(2):
        pool.close()
    with pytest.raises(WorkerError, match="the pool is closed: start another one"):
        list(results)
    with pytest.raises(WorkerError, match="the pool is closed: start another one; the first 0 of 60 texts are done"):
        encoder.encode(TEXTS, pool=pool)


def private_memory(pid):
    """In kB, of what no other process shares."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_"))


linux = pytest.mark.skipif(sys.platform != "linux", reason="no fork server is used here")


def method():
    return type(processes._start_method()).__name__


@linux
def test_processes_start_by_themselves_where_a_server_would_import_others(encoder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert method() == "ForkServerContext"
    (tmp_path / "inspect.py").write_text("this is no module of Python")
    assert method() == "SpawnContext"
    with encoder.start_multi_process_pool(["cpu"]) as pool:
        assert len(encoder.encode(TEXTS, pool=pool)) == len(TEXTS)


@linux
def test_a_forked_process_starts_a_pool_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processes, "_imported_in", os.getpid() + 1)
    assert method() == "SpawnContext"  # its parent's server is out of reach


@linux
def test_processes_have_the_environment_of_today(encoder, pool, monkeypatch):
    monkeypatch.setenv("SET_LATE", "yes")
    with encoder.start_multi_process_pool(["cpu"]) as other:
        assert list(other.run(pool_functions.variable, [("SET_LATE",)])) == ["yes"]


ENDS = """
import signal
import pool_functions
from minibert import SentenceEncoder

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its jobs in the background ignore Ctrl-C
    with SentenceEncoder.from_pretrained(device="cpu").start_multi_process_pool(["cpu", "cpu"]) as pool:
        print(*pool.run(pool_functions.parent, [()]), *pool._pool._processes, flush=True)
        for _ in pool.run(pool_functions.wait, [(0.1,)] * 1000):
            pass
"""


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@linux
@pytest.mark.parametrize("kill", ["Ctrl-C", "SIGKILL"])
def test_processes_share_an_import_and_none_is_left_when_the_first_one_is_stopped(tmp_path, kill):
    path = tmp_path / "script.py"
    path.write_text(ENDS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=tmp_path,
        env=environment,
    ) as process:
        pids = process.stdout.readline().split()
        assert len(pids) == 3, process.stderr.read()
        assert all(map(alive, pids))
        assert max(map(private_memory, pids[1:])) < 0.5 * private_memory(process.pid)  # which imported torch by itself
        if kill == "Ctrl-C":
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        else:
            process.kill()
        _, stderr = process.communicate(timeout=60)
    assert stderr.count("Traceback") == (kill == "Ctrl-C")
    assert process.returncode == (-signal.SIGINT if kill == "Ctrl-C" else -signal.SIGKILL)
    deadline = time.monotonic() + 30
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, pids))


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


def halve(encoder):
    encoder.model.layers[0].attention.query.weight.data *= 0.5


def hook(encoder):
    encoder.model.layers[1].register_forward_hook(lambda *_: None)


def shorten(encoder):
    encoder.max_seq_length = 8


def other_formula(encoder):
    encoder.model.layers[0].feed_forward.activation.formula = torch.relu


@pytest.mark.parametrize("change", [halve, hook, shorten, other_formula])
def test_a_pool_whose_model_was_changed_is_refused(change):
    encoder = SentenceEncoder.from_pretrained(device="cpu")
    with encoder.start_multi_process_pool(["cpu"]) as pool:
        pickle.dumps(encoder)  # reads `.data`, and changes nothing
        assert np.abs(encoder.encode(TEXTS, pool=pool) - encoder.encode(TEXTS)).max() < 1e-5
        change(encoder)
        with pytest.raises(ValueError, match="of this one before it was changed: start another"):
            encoder.encode(TEXTS, pool=pool)


def test_a_pool_of_another_model_is_refused(pool):
    with pytest.raises(ValueError, match="copies of another model"):
        SentenceEncoder.from_pretrained(device="cpu").encode(TEXTS, pool=pool)


def test_an_open_patch_is_named_where_a_model_cant_be_sent():
    encoder = SentenceEncoder.from_pretrained(device="cpu")
    with pytest.raises(TypeError, match="an open `patch`"), patch(encoder, "layers.1.attention", lambda x: x * 0.5):
        encoder.encode(TEXTS, device=["cpu"])


def test_prompts_and_lengths_that_are_set_after_the_start_count():
    encoder = SentenceEncoder.from_pretrained(device="cpu")
    with encoder.start_multi_process_pool(["cpu"]) as pool:
        encoder.prompts, encoder.default_prompt_name, encoder.truncate_dim = {"q": "query: "}, "q", 7
        assert np.abs(encoder.encode(TEXTS, pool=pool) - encoder.encode(TEXTS)).max() < 1e-5
        encoder.default_prompt_name = None
        by_name = encoder.encode(TEXTS, prompt_name="q")
        assert np.abs(encoder.encode_multi_process(TEXTS, pool, "q", None, None, 5, False) - by_name).max() < 1e-5
        with pytest.raises(TypeError, match="by position"):
            encoder.encode_multi_process(TEXTS, pool, *[None] * 9)
        encoder.tokenizer.truncation_side = "left"
        with pytest.raises(ValueError, match="before it was changed"):
            encoder.encode(TEXTS, pool=pool)
