"""Write files and folders whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

PREFIX = ".saving."  # of temporary folders
# In a temporary folder: what is moving into the one that it is in, and what was taken out of that until then.
NEW, OLD = "new", "old"


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``. It becomes ``path`` after the block, or vanishes if the block raised.

    Until then the old file stays whole, so a full disk or a crash loses nothing. A model mapped from it keeps it.
    Behind a symbolic link, its target is replaced. A device or a pipe is yielded itself. OSErrors name ``path``.
    """
    with naming(path):
        if os.path.exists(path) and not os.path.isfile(path):
            yield Path(path)
            return
        target = Path(os.path.realpath(path))
        with temporary_folder(target.parent) as folder:
            temporary = folder / target.name
            yield temporary
            umask = os.umask(0)
            os.umask(umask)
            mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~umask
            temporary.chmod(mode)  # safetensors lets only the owner read
            os.replace(temporary, target)


@contextmanager
def replacing_all(folder: str | os.PathLike[str], *, stale: Iterable[str] = (), whole: bool = False) -> Iterator[Path]:
    """Yield a new folder. Its files move into ``folder`` after the block. If either fails, all is as before.

    Other files of ``folder`` stay, but for those that ``stale`` names; with ``whole`` none stays. Where the process
    is killed, the next save, or ``recover``, restores what had moved. OSErrors name ``folder``, not the new one.
    """
    target = Path(folder)
    refuse_file(target)
    whole = whole or not target.exists()
    target.parent.mkdir(parents=True, exist_ok=True)
    with naming(folder), temporary_folder(target.parent if whole else target) as temporary:
        new, old = temporary / NEW, temporary / OLD
        new.mkdir()
        yield new
        if whole:
            if target.exists():
                old.mkdir()
                os.replace(target, old / target.name)
            os.replace(new, target)
            return
        paths = {path.relative_to(new) for path in new.rglob("*")}
        files = {path for path in paths if (new / path).is_file()}
        for path in {Path(), *paths} - files:
            for below in (target, old):
                (below / path).mkdir(parents=True, exist_ok=True)
        added = []
        try:
            for file in sorted(files.union(map(Path, stale))):
                if (target / file).exists():
                    os.replace(target / file, old / file)
                else:
                    added.append(target / file)
                if file in files:
                    os.replace(new / file, target / file)
            os.replace(new, temporary / "done")
        except BaseException:
            for path in added:
                path.unlink(missing_ok=True)
            raise


def refuse_file(folder: Path) -> None:
    """Raise NotADirectoryError where a folder is to be written, and a file is in its place or in that of one above."""
    for path in (folder, *folder.parents):
        if path.is_file():
            raise NotADirectoryError(f"{path}: this is a file, and the output is a folder")


@contextmanager
def temporary_folder(place: Path) -> Iterator[Path]:
    """Yield a new folder in ``place``, which vanishes after the block. First ``recover`` the place."""
    recover(place)
    made = tempfile.mkdtemp(prefix=f"{PREFIX}made.", dir=place)
    temporary = place / f"{PREFIX}{made[-8:]}"
    with locked(Path(made)):
        os.rename(made, temporary)  # only now: without its lock, another process would take it for a dead one's
        try:
            yield temporary
        finally:
            _undo(temporary, place)


def recover(place: Path) -> None:
    """Undo what killed processes left half done in a folder: restore the files from before, remove the new ones."""
    for temporary in place.glob(f"{PREFIX}????????"):
        with suppress(OSError), locked(temporary) as dead:
            if dead and os.lstat(temporary).st_uid == os.geteuid():  # others may plant one in a shared folder
                _undo(temporary, place)


def _undo(temporary: Path, place: Path) -> None:
    """Move what was taken out of ``place`` back, then remove the temporary folder. If that fails, it stays."""
    old = temporary / OLD
    undone = (temporary / NEW).exists() and not old.is_symlink()
    for path in [path for path in old.rglob("*") if not path.is_dir()] if undone else []:
        (place / path.relative_to(old)).parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, place / path.relative_to(old))
    shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a small UTF-8 file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def flush(*paths: Path) -> None:
    """Wait until the disk has files, or the names in folders, so that a power cut takes nothing of them."""
    for path in paths if os.name == "posix" else ():  # elsewhere no folder can be opened
        handle = os.open(path, os.O_RDONLY)
        try:
            with naming(path):
                os.fsync(handle)
        except OSError:
            if not path.is_dir():  # not every file system can do it for folders
                raise
        finally:
            os.close(handle)


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Give an OSError of the block that names no file, or a temporary one, the name of ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno and (error.filename is None or PREFIX in str(error.filename)):
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise


@contextmanager
def locked(folder: Path) -> Iterator[bool | None]:
    """Lock a folder for the block, or until the process dies. Yield False if another has; None if no lock exists."""
    with ExitStack() as stack:
        try:
            import fcntl

            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        except (ImportError, OSError):
            yield None
        else:
            yield True
