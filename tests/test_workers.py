"""Batches side by side: the same vectors in the same places, and torch's own settings left as they were."""

import os
import signal
import threading
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import MINILM
from tiny_folder import MEAN, TEXTS, write_encoder

from minibert import SentenceEncoder
from minibert import batches as workers
from minibert.batches import side_by_side, workers_for
from minibert.call import evaluating, release_freed_memory
from minibert.text_model import TextModel


@pytest.fixture(autouse=True)
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def lone(monkeypatch):
    """A judge of lone batches with a history of its own, and where each batch was computed."""
    fresh = workers.SingleBatch()
    monkeypatch.setattr(workers, "single", fresh)
    return fresh


@pytest.fixture
def encoder(tmp_path):
    return SentenceEncoder.from_pretrained(write_encoder(tmp_path, ("Pooling", MEAN)))


@pytest.fixture
def used(monkeypatch):
    """The names of the threads in which batches were computed."""
    names = set()
    forward = TextModel._forward

    def watch(self, *arguments, **options):
        names.add(threading.current_thread().name)
        return forward(self, *arguments, **options)

    monkeypatch.setattr(TextModel, "_forward", watch)
    return names


def test_the_vectors_are_those_of_one_batch_after_another(encoder, used, monkeypatch):
    side = encoder.encode(TEXTS * 5, batch_size=2)
    assert len([name for name in used if name.startswith("minibert")]) >= 1
    used.clear()
    monkeypatch.setattr("minibert.text_model.workers_for", lambda *_, **__: 1)
    assert np.abs(side - encoder.encode(TEXTS * 5, batch_size=2)).max() < 1e-6
    assert used == {"MainThread"}


def test_a_single_batch_is_computed_where_it_was_asked_for(encoder, used):
    encoder.encode(TEXTS[:1])
    assert used == {"MainThread"}


def test_every_core_gets_a_batch_of_a_call_that_is_large_enough(encoder, monkeypatch):
    meet = threading.Barrier(2, timeout=20)
    met = threading.Event()
    forward = TextModel._forward

    def together(self, *arguments, **options):
        if not met.is_set():
            meet.wait()  # passed only if two batches are computed at once
            met.set()
        return forward(self, *arguments, **options)

    monkeypatch.setattr(TextModel, "_forward", together)
    encoder.encode(["one two three four five"] * 128)
    assert met.is_set()


def test_items_come_back_in_their_order_with_what_was_made_of_them():
    barrier = threading.Barrier(2, timeout=20)

    def work(item):
        barrier.wait()  # passed only if two run at once
        return item * item

    assert list(side_by_side(work, range(8), 2)) == [(i, i * i) for i in range(8)]


def test_workers_have_one_core_each_for_good_and_the_setting_is_put_back():
    for _ in range(2):  # the second time they have been there before
        seen = {}
        barrier = threading.Barrier(2, timeout=20)

        def work(item, seen=seen, barrier=barrier):
            barrier.wait()
            seen[threading.current_thread().name] = torch.get_num_threads()
            return item

        list(side_by_side(work, range(8), 2))
        assert set(seen.values()) == {1}
        assert len(seen) == 2
        assert torch.get_num_threads() == 2
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [2]


def test_with_more_cores_than_workers_each_has_its_share():
    torch.set_num_threads(4)
    seen = list(side_by_side(lambda _: torch.get_num_threads(), range(8), 2))
    assert {threads for _, threads in seen} == {2}
    assert torch.get_num_threads() == 4


def test_an_exception_comes_out_and_the_setting_is_put_back():
    begun = []

    def work(item):
        begun.append(item)
        if item == 1:
            raise KeyError("no such batch")
        time.sleep(0.005)  # all of them would take seconds

    with pytest.raises(KeyError, match="no such batch"):
        list(side_by_side(work, range(1000), 2))
    assert len(begun) < 1000
    assert torch.get_num_threads() == 2


def test_of_several_calls_at_once_the_last_puts_the_setting_back(encoder):
    expected = encoder.encode(TEXTS * 5, batch_size=2)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(encoder.encode(TEXTS * 5, batch_size=2))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.abs(result - expected).max() < 1e-6 for result in results)
    assert len(results) == 4
    assert torch.get_num_threads() == 2


def test_whoever_watches_a_part_is_called_in_his_own_thread_batch_after_batch(encoder, used):
    encoder.model.layers[0].register_forward_hook(lambda *_: None)
    encoder.encode(TEXTS * 5, batch_size=2)
    assert used == {"MainThread"}


def test_on_the_page_batches_are_side_by_side_too(encoder, used):
    side = encoder.encode(TEXTS * 5, batch_size=2, fast=False)
    assert [name for name in used if name.startswith("minibert")]
    assert np.abs(side - encoder.encode(TEXTS * 5, fast=False, batch_invariant=True)).max() < 1e-6


def test_autocast_holds_where_it_was_asked_for():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert workers_for(torch.device("cpu"), hooked=False) == 1
    assert workers_for(torch.device("cpu"), hooked=False) == 2


def test_only_the_cpu_has_workers_and_never_too_many(monkeypatch):
    assert workers_for(torch.device("meta"), hooked=False) == 1
    assert workers_for(torch.device("cpu"), hooked=True) == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert workers_for(torch.device("cpu"), hooked=False) == 8


def test_a_forked_process_starts_workers_of_its_own(encoder):
    """Its parent's threads are not in it, and waiting for them would take for ever."""
    expected = encoder.encode(TEXTS * 5, batch_size=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of forks with threads, which is what this is about
        child = os.fork()
    if child == 0:
        same = np.abs(encoder.encode(TEXTS * 5, batch_size=2) - expected).max() < 1e-6
        os._exit(0 if same else 1)
    for _ in range(200):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
    assert (ended, status) == (child, 0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_batch_invariant_vectors_are_the_same_to_the_last_bit(encoder, tmp_path, dtype):
    encoder = SentenceEncoder.from_pretrained(MINILM, dtype=dtype, device="cpu")
    texts = ["Short.", "A sentence of middling length, with a comma.", "and so on " * 30, "", "Short too."]
    expected = encoder.encode(texts, batch_invariant=True)
    backwards = encoder.encode(texts[::-1] * 3, batch_invariant=True)
    alone = np.stack([encoder.encode(text, batch_invariant=True) for text in texts])
    assert np.array_equal(expected, alone)
    assert np.array_equal(backwards[:5][::-1], expected)
    assert np.array_equal(backwards[5:10], backwards[:5])
    assert np.abs(encoder.encode(texts) - expected).max() < {"float32": 1e-6, "bfloat16": 5e-3, "int8": 5e-2}[dtype]


def test_on_idle_cores_a_lone_batch_is_the_callers(lone):
    for _ in range(20):
        lone.learn(wall=1.0, busy=1.9, threads=2)
    assert lone.compute(threading.current_thread) is threading.main_thread()


def test_short_calls_are_judged_together(lone):
    """The system counts a thread's time at its ticks: of ten calls nine seem to get one core, and one all the rest."""
    for _ in range(20):
        for _ in range(9):
            lone.learn(wall=0.001, busy=0.001, threads=2)
        lone.learn(wall=0.001, busy=0.01, threads=2)
    assert (lone.on_one, lone.crowded) == (0, 0)
    for _ in range(100):  # a neighbour
        lone.learn(wall=0.001, busy=0.0014, threads=2)
    assert lone.on_one == lone.FIRST


def test_one_slow_call_is_no_neighbour(lone):
    for _ in range(lone.TRIAL - 1):
        lone.learn(wall=1.0, busy=1.0, threads=2)
    lone.learn(wall=1.0, busy=1.9, threads=2)
    lone.learn(wall=1.0, busy=1.0, threads=2)
    assert lone.on_one == 0


def test_beside_a_neighbour_it_is_computed_on_one_core_and_tried_again(lone):
    turns = []
    for _ in range(3):  # each trial is crowded, so the next comes later
        for _ in range(lone.TRIAL):
            lone.learn(wall=1.0, busy=1.2, threads=2)
        turns.append(lone.on_one)
        while lone.on_one > 0:
            lone.on_one = min(lone.on_one, 1e-9)  # the last call of the turn
            assert lone.compute(torch.get_num_threads) == 1
    assert turns == [0.2, 0.4, 0.8]
    lone.learn(wall=1.0, busy=1.9, threads=2)  # the neighbour has gone
    assert lone.patience == lone.FIRST


def test_what_is_computed_on_one_core_is_what_was_asked_for(encoder, lone):
    expected = encoder.encode("A lone text.")
    lone.on_one = 1e-9
    assert np.abs(encoder.encode("A lone text.") - expected).max() < 1e-6
    assert lone.on_one <= 0


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("place", [1, 2])
def test_workers_that_could_not_all_start_hold_up_neither_the_next_call_nor_the_end(encoder, monkeypatch, place, error):
    monkeypatch.setattr(workers, "_pools", {})
    start, started = threading.Thread.start, []

    def refuse(thread):
        started.append(thread)
        if len(started) == place:
            raise error
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(type(error)):
            encoder.encode(TEXTS * 5, batch_size=2)
    assert not any(thread.is_alive() for thread in started)  # the interpreter waits for them when it ends
    assert torch.get_num_threads() == 2
    assert encoder.encode(TEXTS * 5, batch_size=2).shape == (30, 32)


def test_profilers_and_dispatch_modes_see_a_large_call():
    from torch.profiler import ProfilerActivity, profile
    from torch.utils.flop_counter import FlopCounterMode

    cpu = torch.device("cpu")
    with profile(activities=[ProfilerActivity.CPU]):
        assert workers_for(cpu, hooked=False) == 1
    with FlopCounterMode(display=False):
        assert workers_for(cpu, hooked=False) == 1


def test_ctrl_c_while_dropout_is_turned_off_leaves_training_mode():
    class Interrupted(torch.nn.Module):
        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if name == "training" and not value:
                raise KeyboardInterrupt

    model = torch.nn.Sequential(torch.nn.Dropout(), Interrupted())
    with pytest.raises(KeyboardInterrupt), evaluating(model):
        pass
    assert all(part.training for part in model.modules())
    assert id(model) not in evaluating.inside


def test_few_batches_wait_or_are_done_ahead_of_those_that_are_read(monkeypatch):
    list(side_by_side(int, range(4), 2))  # the workers are there
    submitted = []
    submit = workers.ThreadPoolExecutor.submit
    monkeypatch.setattr(workers.ThreadPoolExecutor, "submit", lambda *given: submitted.append(given) or submit(*given))
    results = side_by_side(int, range(1000), 2)
    next(results)
    assert len(submitted) == 2 * workers.AHEAD
    assert [item for item, _ in results] == list(range(1, 1000))
    assert len(submitted) == 1000


def test_where_no_more_work_is_started_in_threads_the_caller_does_the_rest(monkeypatch):
    list(side_by_side(int, range(4), 2))
    submit = workers.ThreadPoolExecutor.submit
    left = list(range(20))

    def ending(*given):  # as when the interpreter ends in the middle of a call
        if not left:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        left.pop()
        return submit(*given)

    monkeypatch.setattr(workers.ThreadPoolExecutor, "submit", ending)
    found = list(side_by_side(lambda item: (item, threading.current_thread().name), range(50), 2))
    assert [item for item, _ in found] == [made[0] for _, made in found] == list(range(50))
    assert [made[1] == "MainThread" for _, made in found] == [False] * 20 + [True] * 30


def test_a_large_call_gives_back_what_it_left_now_and_then(encoder, monkeypatch):
    seen = []
    monkeypatch.setattr("minibert.text_model.release_freed_memory", lambda *given: seen.append(given))
    encoder.encode(TEXTS, batch_size=2)
    assert [done + more for _, done, more in seen][-1] == len(TEXTS)
    assert [done for _, done, _ in seen] == [0, *(done + more for _, done, more in seen[:-1])]
    assert {count for count, _, _ in seen} == {len(TEXTS)}


def test_only_what_a_large_call_left_is_given_back(monkeypatch):
    called = []
    monkeypatch.setattr("minibert.call.ctypes.CDLL", lambda _: SimpleNamespace(malloc_trim=called.append))
    release_freed_memory(1000, 0, 100)
    assert not called
    for done in range(0, 10**6, 100):
        release_freed_memory(10**6, done, 100)
    assert called == [0] * 16
    monkeypatch.setattr("minibert.call.ctypes.CDLL", lambda _: SimpleNamespace())  # another malloc
    release_freed_memory(10**6, 0, 100)
