"""The folder of a job: what it is about, how far it has come, and a lock, so that a killed job goes on where it was.

manifest.json says what the vectors are of. It is written before the first shard, and once more, with the counts, after
the last. In between progress.json is replaced after each shard: what it does not count is done again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint.atomic import PREFIX, flush, locked, naming, recover, refuse_file, replacing
from ..checkpoint.structure import add_weights, changes
from ..config import FileError, read_json
from ..tables import BadRow
from .sources import Position

if TYPE_CHECKING:
    from ..encoder import SentenceEncoder

MANIFEST, PROGRESS, REJECTS = "manifest.json", "progress.json", "rejects.jsonl"
FREE = "minibert", "model.name"  # of a manifest: what may differ when a job goes on


class JobError(FileError):
    """The folder holds the vectors of another job, or another process writes there."""


@dataclass
class State:
    """How far a job has come. Its numbers count all runs."""

    complete: bool = False
    shards: int = 0
    rows: int = 0
    tokens: int = 0
    truncated: int = 0  # texts
    cut: int = 0  # tokens, of their ends
    position: Position = field(default_factory=Position)


def describe_model(encoder: SentenceEncoder) -> dict[str, Any]:
    """Return the model's name, a hash of all that makes a vector of a text, and how it computes."""
    settings = encoder.pooling, encoder.head, encoder.max_seq_length, encoder.prompts
    pieces = sorted(encoder.tokenizer.get_vocab().items()), dict(encoder.tokenizer("Är, 中"))  # case, accents, Chinese
    digest = hashlib.sha256(repr((settings, pieces)).encode())
    if own := changes(encoder):  # nothing for most, whose vectors an earlier version of minibert may have begun
        digest.update(repr(sorted(own.items())).encode())
    add_weights(digest, encoder)
    return {
        "name": encoder.report.source if encoder.report else "",
        "sha256": digest.hexdigest(),
        "arithmetic": encoder._arithmetic,
        "computed": _computed(encoder),
        "device": encoder.device.type,
        "similarity": encoder.similarity_fn_name,
    }


def _computed(encoder: SentenceEncoder) -> dict[str, str]:
    """Return what computes each part: the page, the stack and machine code differ in the last bits."""
    rows = (line.split(maxsplit=2)[:2] for line in encoder.explain().splitlines())
    return {part: by for part, by in rows if part in ("all", "embeddings") or part.startswith("layers.")}


@contextmanager
def open_job(folder: Path, manifest: Mapping[str, Any]) -> Iterator[State]:
    """Lock a folder for a job, begin it there or go on, and yield its state.

    Raises:
        JobError: the folder has other files, or the manifest of another job; the differences are named.
        OSError: it can't be written, or is a file.
    """
    refuse_file(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder) as mine:
        if mine is False:
            raise JobError(f"{folder}: another process writes there")
        recover(folder)
        for left in folder.glob(f"{PREFIX}made.*"):  # of a process that died before it locked it
            left.rmdir()
        files = {path.name for path in folder.iterdir()}
        if files and MANIFEST not in files:
            raise JobError(f"{folder}: the folder has files, and no {MANIFEST} of a job that could go on")
        before = read_manifest(folder) if files else {"complete": False}
        if not before["complete"] and files <= {MANIFEST, REJECTS}:  # no shard yet: another job may begin
            _write(folder / MANIFEST, {**manifest, "complete": False})
            before = read_manifest(folder)
        if changes := list(differences(before, manifest)):
            advice = "give another folder, or delete this one"
            raise JobError(f"{folder} holds the vectors of another job ({advice}):\n  " + "\n  ".join(changes))
        if before["complete"]:
            (folder / PROGRESS).unlink(missing_ok=True)
            yield _state(before, folder / MANIFEST)
        else:
            path = folder / PROGRESS
            yield _state(read_json(path), path) if path.exists() else State()


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a job's manifest. Raises OSError if there is none, FileError if it is damaged."""
    if not (Path(folder) / MANIFEST).is_file():
        there = f"it has no {MANIFEST}" if Path(folder).is_dir() else "there is no such folder"
        there = "it is a file" if Path(folder).is_file() else there
        raise FileNotFoundError(f"{folder} is no index, {there}: `minibert embed-corpus FILE -o FOLDER` makes one")
    manifest = read_json(Path(folder) / MANIFEST)
    if manifest.get("format") != 1 or not {"model", "width", "options", "sources", "complete"} <= manifest.keys():
        raise FileError(f"{folder}/{MANIFEST}: not a manifest that this version of minibert reads")
    return manifest


def save_state(folder: Path, state: State) -> None:
    """Note that a shard is written."""
    _write(folder / PROGRESS, asdict(state))


class Rejects:
    """What is done with bad rows. A call adds a row to the file, from where the state says on, or raises it."""

    def __init__(self, folder: Path, state: State, *, skip: bool) -> None:
        self._path = folder / REJECTS
        self._file = self._path.open("ab", buffering=0) if skip else None
        if self._file:
            self._file.truncate(state.position.rejects)

    def __call__(self, bad: BadRow) -> int:
        """Add a row, and return the bytes of the file; or raise it."""
        if self._file is None:
            raise bad
        with naming(self._path):
            self._file.write(reject_line(bad))
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()


def reject_line(bad: BadRow) -> bytes:
    """Return the line of rejects.jsonl for a row."""
    return json.dumps({"file": bad.file, "line": bad.line, "reason": bad.reason}).encode() + b"\n"


def finish(folder: Path, state: State) -> None:
    """Note that all shards are written."""
    state.complete = True
    _write(folder / MANIFEST, {**read_manifest(folder), **asdict(state), "rejected": state.position.rejected})
    (folder / PROGRESS).unlink(missing_ok=True)


def differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """Yield a line for each value of a job's manifest that another job's does not have."""
    if name in FREE:
        return
    if isinstance(before, dict) and isinstance(now, Mapping):
        for key in now if not name else {**before, **now}:
            yield from differences(before.get(key), now.get(key), f"{name}.{key}".lstrip("."))
        if name == "sources" and before.keys() == now.keys() and list(before) != list(now):
            yield "the order of the sources"
    elif before != now:
        yield f"{name}: {json.dumps(before):.200}, and now {json.dumps(now):.200}"


def _state(values: dict[str, Any], path: Path) -> State:
    try:
        found = State(**{name: values[name] for name in State.__dataclass_fields__})
        found.position = Position(**values["position"])
    except (KeyError, TypeError):
        raise FileError(f"{path}: not the progress of a job") from None
    return found


def _write(path: Path, values: Any) -> None:
    """Write what counts the other files, once the disk has them: a power cut must not take what was counted."""
    flush(*path.parent.glob(REJECTS), path.parent)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        flush(temporary)
    flush(path.parent)
