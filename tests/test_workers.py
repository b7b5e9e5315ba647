"""Batches side by side: the same vectors in the same places, and torch's own settings left as they were."""

import threading
import time

import numpy as np
import pytest
import torch
from helpers import TINY, widen
from tiny_folder import MEAN, TEXTS, write_encoder

from minibert import Bert, SentenceEncoder
from minibert.inference import workers
from minibert.inference.workers import LEAST_EACH, side_by_side, workers_for


@pytest.fixture(autouse=True)
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def encoder(tmp_path):
    return SentenceEncoder.from_pretrained(write_encoder(tmp_path, ("Pooling", MEAN)))


@pytest.fixture
def used(monkeypatch):
    """The names of the threads in which batches were computed."""
    names = set()
    forward = Bert.forward

    def watch(self, *arguments, **options):
        names.add(threading.current_thread().name)
        return forward(self, *arguments, **options)

    monkeypatch.setattr(Bert, "forward", watch)
    return names


def test_the_vectors_are_those_of_one_batch_after_another(encoder, used, monkeypatch):
    side = encoder.encode(TEXTS * 5, batch_size=2)
    assert len([name for name in used if name.startswith("minibert")]) >= 1
    used.clear()
    monkeypatch.setattr("minibert.encoder.workers_for", lambda *_: 1)
    assert np.abs(side - encoder.encode(TEXTS * 5, batch_size=2)).max() < 1e-6
    assert used == {"MainThread"}


def test_few_batches_are_not_worth_a_worker(encoder, used):
    encoder.encode(TEXTS[: 2 * LEAST_EACH - 1], batch_size=1)
    assert used == {"MainThread"}


def test_items_come_back_in_their_order_with_what_was_made_of_them():
    barrier = threading.Barrier(2, timeout=20)

    def work(item):
        barrier.wait()  # passed only if two run at once
        return item * item

    assert list(side_by_side(work, range(8), 2)) == [(i, i * i) for i in range(8)]


def test_workers_compute_on_their_share_of_the_cores_and_the_setting_is_put_back():
    torch.set_num_threads(4)
    seen = list(side_by_side(lambda _: torch.get_num_threads(), range(8), 2))
    assert {threads for _, threads in seen} == {2}
    assert torch.get_num_threads() == 4
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [4]


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
    assert workers._calls == 0


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
    assert workers._calls == 0


def test_whoever_watches_a_part_is_called_in_his_own_thread_batch_after_batch(encoder, used):
    encoder.model.layers[0].register_forward_hook(lambda *_: None)
    encoder.encode(TEXTS * 5, batch_size=2)
    assert used == {"MainThread"}


def test_autocast_holds_where_it_was_asked_for():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert workers_for(widen(Bert(TINY)), torch.device("cpu")) == 1
    assert workers_for(widen(Bert(TINY)), torch.device("cpu")) == 2


def test_only_the_cpu_has_workers_and_never_too_many(monkeypatch):
    assert workers_for(Bert(TINY), torch.device("meta")) == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert workers_for(Bert(TINY), torch.device("cpu")) == 8
