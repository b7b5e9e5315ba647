"""Interrupted training goes on to the same bits; other training is refused; a full disk costs nothing."""

import errno
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_training import make_encoder, make_texts

from minibert import SentenceEncoder
from minibert.checkpoint.atomic import recover, replacing_all
from minibert.checkpoint.save import replacing_model
from minibert.training import Examples, InBatchNegatives, ResumeError, SentenceTask, Settings, Softmax, train
from minibert.training.run_folder import read_log

ROWS = 22
U, V, W = (make_texts(ROWS, seed) for seed in range(3))
SETTINGS = Settings(steps=10, batch_size=4, accumulate=2, learning_rate=1e-3, seed=5)


def make_task(objective=None, columns=(U, V), labels=None, **options):
    options = {"dropout": 0.3, "dtype": torch.float32, **options}
    torch.manual_seed(0)
    objective = objective or Softmax(32)
    labels = torch.arange(ROWS) % 3 if isinstance(objective, Softmax) and labels is None else labels
    return SentenceTask(make_encoder(**options), objective, Examples(columns, labels))


class Interrupted(Exception):
    pass


def interrupt_after(task, steps, **options):
    """Train until so many steps are done, and fall over in the next."""
    loss, calls = task.loss, []

    def counted(rows):
        calls.append(1)
        if len(calls) > steps * SETTINGS.accumulate:
            raise Interrupted
        return loss(rows)

    task.loss = counted
    with pytest.raises(Interrupted):
        train(task, SETTINGS, **options)
    del task.loss


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("steps", [4, 5, 7])
def test_resumed_training_ends_in_the_same_bits(tmp_path, steps, fused):
    whole = make_task(fused=fused)
    curve = train(whole, SETTINGS)
    interrupt_after(make_task(fused=fused), steps, folder=tmp_path, save_every=2)
    torch.manual_seed(99)  # whatever happened in between
    resumed = make_task(fused=fused)
    records = train(resumed, SETTINGS, folder=tmp_path, save_every=2, resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert [(record["step"], record["loss"]) for record in records] == [
        (record["step"], record["loss"]) for record in curve
    ]
    assert read_log(tmp_path / "log.jsonl") == records  # steps made twice are in it once


def test_the_best_score_survives(tmp_path):
    scores = iter([0.9, 0.5])

    def evaluate(encoder):
        encoder.encode(U)
        return {"score": next(scores)}

    interrupt_after(make_task(fused=True), 5, folder=tmp_path, save_every=5, evaluate=evaluate, evaluate_every=5)
    best = (tmp_path / "model/model.safetensors").read_bytes()
    task = make_task(fused=True)
    train(task, SETTINGS, folder=tmp_path, save_every=5, evaluate=evaluate, evaluate_every=5, resume=True)
    assert (tmp_path / "model/model.safetensors").read_bytes() == best


def test_a_finished_training_has_nothing_left_to_do(tmp_path):
    one, other = make_task(), make_task()
    records = train(one, SETTINGS, folder=tmp_path, save_every=100)
    assert train(other, SETTINGS, folder=tmp_path, resume=True) == records
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"learning_rate": 2e-3}, r"learning_rate was 0\.001, is 0\.002"),
        ({"seed": 6, "steps": 20}, "steps was 10, is 20; seed was 5, is 6"),
        ({"batch_size": 8, "accumulate": 1}, "batch_size was 4, is 8; accumulate was 2, is 1"),
        ({"autocast": "bfloat16"}, "autocast was None, is 'bfloat16'"),
    ],
)
def test_other_hyper_parameters_are_refused_and_named(tmp_path, change, difference):
    train(make_task(), SETTINGS, folder=tmp_path, save_every=100)
    task = make_task()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    log = (tmp_path / "log.jsonl").read_text()
    with pytest.raises(ResumeError, match=f"belongs to another training: {difference}$"):
        train(task, replace(SETTINGS, **change), folder=tmp_path, resume=True)
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
    assert (tmp_path / "log.jsonl").read_text() == log


@pytest.mark.parametrize(
    ("make", "difference"),
    [
        (lambda: make_task(columns=(U, W)), "examples was '22 rows, "),
        (lambda: make_task(labels=torch.zeros(ROWS).long()), "examples was '22 rows, "),
        (
            lambda: make_task(Softmax(32, terms=["u", "v"])),
            r"objective had .*terms=\('u', 'v', '\|u-v\|'\) where it has .*terms=\('u', 'v'\)$",
        ),
        (lambda: make_task(InBatchNegatives()), r"examples was .*; objective had Softmax\( where it has InBatch"),
        (lambda: make_task(layers=1), "model had .* where it has"),
        (lambda: make_task(dropout=0.2), r"model had \(dropout\): Dropout\(p=0.3, .* where it has .*p=0.2"),
    ],
)
def test_other_data_objective_or_model_is_refused(tmp_path, make, difference):
    train(make_task(), SETTINGS, folder=tmp_path, save_every=100)
    with pytest.raises(ResumeError, match=difference):
        train(make(), SETTINGS, folder=tmp_path, resume=True)


def test_there_is_nothing_to_resume(tmp_path):
    with pytest.raises(ResumeError, match="there is no checkpoint to resume from"):
        train(make_task(), SETTINGS, folder=tmp_path, resume=True)


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", b"PK\x03\x04"])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    (tmp_path / "checkpoint.pt").write_bytes(damage)
    with pytest.raises(ResumeError, match="can't be read"):
        train(make_task(), SETTINGS, folder=tmp_path, resume=True)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "evil"),)

    torch.save({"identity": Evil()}, tmp_path / "checkpoint.pt")
    with pytest.raises(ResumeError, match="can't be read"):
        train(make_task(), SETTINGS, folder=tmp_path, resume=True)
    assert not (tmp_path / "evil").exists()


# --- A full disk


@contextmanager
def disk_that_fills():
    """After the call of what it gives, and inside, no file may grow beyond 20 kB: the system refuses, as a full disk.

    No longer than inside: what pytest prints may go to a file, too.
    """
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def fill_after(task, steps, fill):
    loss, calls = task.loss, []

    def counted(rows):
        calls.append(1)
        if len(calls) == steps * SETTINGS.accumulate + 1:
            fill()
        return loss(rows)

    task.loss = counted


def test_the_checkpoint_before_survives_a_full_disk(tmp_path):
    whole = make_task()
    train(whole, SETTINGS)
    task = make_task()
    told = r"checkpoint of step 8 can't be written to .*; the one before it is whole"
    with disk_that_fills() as fill:
        fill_after(task, 5, fill)
        with pytest.raises(OSError, match=told):
            train(task, SETTINGS, folder=tmp_path, save_every=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "log.jsonl"]
    resumed = make_task()
    train(resumed, SETTINGS, folder=tmp_path, resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


def test_an_error_while_writing_is_told(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"checkpoint of step 2 can't be written to .*\(.*No space left on device\)"):
        train(make_task(), SETTINGS, folder=tmp_path, save_every=2)


def test_the_best_model_before_survives_a_full_disk(tmp_path):
    scores = iter([1.0, 2.0])
    task, vectors = make_task(), []

    def evaluate(encoder):
        vectors.append(encoder.encode(U))
        return {"score": next(scores)}

    with disk_that_fills() as fill:
        fill_after(task, 5, fill)
        with pytest.raises(Exception, match=r"File too large|can't be written|error"):
            train(task, SETTINGS, folder=tmp_path, evaluate=evaluate, evaluate_every=5)
    saved = SentenceEncoder.from_pretrained(tmp_path / "model", device="cpu")
    assert (saved.encode(U) == vectors[0]).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "model"]


# --- The best model is never lost


def write_new(folder):
    (folder / "weights").write_text("new")
    (folder / "more").write_text("new")


@pytest.fixture
def best(tmp_path):
    for name in ("weights", "more"):
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / name).write_text("old")
    return tmp_path / "model"


def everything(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def whole(word):
    return {"model/weights": word, "model/more": word}


def save_into(folder, write=write_new):
    with replacing_model(folder) as new:
        write(new)


def failing_at(monkeypatch, *calls):
    """`os.replace` fails at its first, second, ... call."""
    replace_file, made = os.replace, []

    def broken(*paths):
        made.append(paths)
        if len(made) in calls:
            raise OSError(errno.EIO, "Input/output error")
        replace_file(*paths)

    monkeypatch.setattr(os, "replace", broken)


def test_a_new_folder_takes_the_place_of_the_old_one(best):
    save_into(best)
    assert everything(best.parent) == whole("new")
    assert list(best.parent.iterdir()) == [best]


@pytest.mark.parametrize("call", [1, 2])
def test_whichever_rename_of_the_whole_folder_fails_it_is_back(best, call, monkeypatch):
    failing_at(monkeypatch, call)
    with pytest.raises(OSError, match="Input/output error"), replacing_all(best, whole=True) as new:
        (new / "other").write_text("new")
    assert everything(best.parent) == whole("old")
    assert list(best.parent.iterdir()) == [best]


def test_a_whole_folder_takes_the_place_of_all_that_was_there(best):
    with replacing_all(best, whole=True) as new:
        (new / "other").write_text("new")
    assert everything(best.parent) == {"model/other": "new"}
    assert list(best.parent.iterdir()) == [best]


@pytest.mark.parametrize("call", [1, 2, 3, 4, 5])
def test_whichever_step_fails_the_model_from_before_is_back(best, call, monkeypatch):
    failing_at(monkeypatch, call)
    with pytest.raises(OSError, match="Input/output error"):
        save_into(best)
    assert everything(best.parent) == whole("old")
    assert list(best.parent.iterdir()) == [best]


def test_a_save_that_fails_leaves_the_model_from_before(best):
    def half(folder):
        write_new(folder)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        save_into(best, half)
    assert everything(best.parent) == whole("old")


def test_a_system_that_refuses_everything_loses_nothing(best, monkeypatch):
    with monkeypatch.context() as patch:
        failing_at(patch, 2, 3)
        with pytest.raises(OSError, match="Input/output error"):
            save_into(best)
    assert list(everything(best.parent).values()).count("old") == 2
    recover(best)
    assert everything(best.parent) == whole("old")


KILLED = """
import os, shutil, signal, sys
from minibert.checkpoint import atomic

def killed(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def move(*paths, replace=os.replace, made=[]):
    made.append(paths)
    killed() if len(made) == int(sys.argv[2]) else replace(*paths)

os.replace, shutil.rmtree = move, killed
with atomic.replacing_all(sys.argv[1], whole=sys.argv[3] == "whole") as new:
    for name in sys.argv[4:]:
        (new / name).write_text("new")
    killed() if sys.argv[2] == "0" else None
"""


def killed_at(folder, call, way, *names):
    """Kill a process before its call of `os.replace` of that number; 0: before the first; 9: before it cleans up."""
    command = [sys.executable, "-c", KILLED, folder, str(call), way, *names]
    found = subprocess.run(command, capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (-9, "")
    place = folder.parent if way == "whole" else folder
    assert [path.name[:8] for path in place.glob(".*")] == [".saving."]


@pytest.mark.parametrize("call", [0, 1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("way", ["whole", "file by file"])
def test_leftovers_of_a_killed_run_are_recovered_and_removed(best, way, call):
    if way == "whole" and 2 < call < 9:
        return  # it has two moves only
    place = best.parent if way == "whole" else best
    killed_at(best, call, way, "weights", "more")
    recover(place)
    assert everything(best.parent) == whole("new" if call == 9 else "old")
    assert list(best.parent.iterdir()) == [best]
    killed_at(best, call, way, "weights", "more")
    with replacing_all(best, whole=way == "whole") as new:
        write_new(new)
    assert everything(best.parent) == whole("new")


def test_nothing_of_others_is_moved(best, monkeypatch):
    elsewhere = best.with_name("elsewhere")
    elsewhere.mkdir()
    (elsewhere / "weights").write_text("another's")
    planted = best / ".saving.abcdefgh"
    planted.mkdir()
    (planted / "old").symlink_to(elsewhere, target_is_directory=True)
    (planted / "new").mkdir()
    recover(best)
    assert everything(best.parent) == {**whole("old"), "elsewhere/weights": "another's"}
    (planted / "old").mkdir(parents=True)
    (planted / "new").mkdir()
    (planted / "old/weights").write_text("another's")
    monkeypatch.setattr("os.geteuid", lambda: planted.stat().st_uid + 1)
    recover(best)
    assert (best / "weights").read_text() == "old"


def test_a_process_that_still_saves_keeps_its_folder(best):
    with replacing_model(best) as new:
        write_new(new)
        save_into(best)
        assert everything(new) == {"weights": "new", "more": "new"}
    assert everything(best.parent) == whole("new")


def test_a_resumed_training_has_the_best_model_that_a_killed_run_had_moved(tmp_path):
    scores = iter([0.9, 0.5])
    options = {"save_every": 5, "evaluate": lambda _: {"score": next(scores)}, "evaluate_every": 5}
    interrupt_after(make_task(), 5, folder=tmp_path, **options)
    best = (tmp_path / "model/model.safetensors").read_bytes()
    killed_at(tmp_path / "model", 2, "whole", "model.safetensors")
    assert not (tmp_path / "model").exists()
    train(make_task(), SETTINGS, folder=tmp_path, resume=True, **options)
    assert (tmp_path / "model/model.safetensors").read_bytes() == best


def test_a_folder_has_its_lock_before_another_process_may_find_it(best, monkeypatch):
    seen, rename = [], os.rename

    def found_by_another(made, temporary):
        recover(best)
        seen.append(Path(made).is_dir())
        rename(made, temporary)
        recover(best)
        seen.append(Path(temporary).is_dir())

    monkeypatch.setattr(os, "rename", found_by_another)
    save_into(best)
    assert seen == [True, True]
    assert everything(best.parent) == whole("new")


def other_formula(task):
    for layer in task.model.model.layers:
        layer.feed_forward.activation.formula = torch.relu


def other_eps(task):
    task.model.model.layers[0].attention_norm.eps = 0.5


def frozen(task):
    task.model.model.layers[0].requires_grad_(False)


def shorter(task):
    task.model.truncate_dim = 8


@pytest.mark.parametrize(
    ("change", "named"),
    [(other_formula, "changes"), (other_eps, "changes"), (frozen, "frozen"), (shorter, "truncate_dim")],
)
def test_a_model_that_was_changed_without_weights_is_another(tmp_path, change, named):
    objective = {"objective": InBatchNegatives()}
    interrupt_after(make_task(**objective), 4, folder=tmp_path, save_every=2)
    task = make_task(**objective)
    change(task)
    quiet = pytest.warns(UserWarning, match="does not hold") if named == "changes" else nullcontext()
    with quiet, pytest.raises(ResumeError, match=named):
        train(task, SETTINGS, folder=tmp_path, save_every=2, resume=True)
