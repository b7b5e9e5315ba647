"""Write files and folders whole or not at all."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

SUFFIX = ".part"  # of temporary files
OLD = "old"  # in a temporary folder: what was taken out of the one that it is in


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
        for file in target.parent.glob(f".{glob.escape(target.name)}.????????{SUFFIX}"):
            with suppress(OSError), _locked(file) as dead:  # left behind by a process that was killed
                if dead:
                    file.unlink()
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=SUFFIX, dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        with _locked(temporary):
            try:
                yield temporary
                umask = os.umask(0)
                os.umask(umask)
                mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~umask
                temporary.chmod(mode)  # mkstemp lets only the owner read
                os.replace(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)


@contextmanager
def replacing_all(folder: str | os.PathLike[str], *, stale: Iterable[str] = ()) -> Iterator[Path]:
    """Yield a new folder. Its files move into ``folder`` after the block. If either fails, all is as before.

    Other files of ``folder`` stay, except those that ``stale`` names. Where the process is killed, the next save, or
    ``recover``, restores what had moved.
    """
    target = Path(folder)
    whole = not target.exists()
    with temporary_folder(target.parent if whole else target) as temporary:
        new, old = temporary / "new", temporary / OLD
        new.mkdir()
        yield new
        if whole:
            os.replace(new, target)
            return
        paths = [path.relative_to(new) for path in new.rglob("*")]
        files = {path for path in paths if (new / path).is_file()}
        for path in [Path(), *paths]:
            for below in (target, old):
                (below / path if path not in files else below).mkdir(parents=True, exist_ok=True)
        added = []
        try:
            for file in sorted(files.union(map(Path, stale))):
                if (target / file).exists():
                    os.replace(target / file, old / file)
                else:
                    added.append(target / file)
                if file in files:
                    os.replace(new / file, target / file)
            os.replace(old, temporary / "done")
        except BaseException:
            for path in added:
                path.unlink(missing_ok=True)
            raise


@contextmanager
def temporary_folder(place: Path) -> Iterator[Path]:
    """Yield a new folder in ``place``, which vanishes after the block. First ``recover`` the place."""
    place.mkdir(parents=True, exist_ok=True)
    recover(place)
    temporary = Path(tempfile.mkdtemp(prefix=".saving.", dir=place))
    with _locked(temporary):
        try:
            yield temporary
        finally:
            _undo(temporary, place)


def recover(place: Path) -> None:
    """Undo what killed processes left half done in a folder: restore the files from before, remove the new ones."""
    for temporary in place.glob(".saving.????????"):
        with suppress(OSError), _locked(temporary) as dead:
            if dead:
                _undo(temporary, place)


def _undo(temporary: Path, place: Path) -> None:
    """Move what was taken out of ``place`` back, then remove the temporary folder. If that fails, it stays."""
    old = temporary / OLD
    for path in [path for path in old.rglob("*") if not path.is_dir()]:
        os.replace(path, place / path.relative_to(old))
    shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a small UTF-8 file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Give an OSError of the block that names no file, or a temporary one, the name of ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno and (error.filename is None or str(error.filename).endswith(SUFFIX)):
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Lock a file or folder for the block, or until the process dies. Yield False if another has, or no lock exists."""
    with ExitStack() as stack:
        try:
            import fcntl

            handle = os.open(path, os.O_RDONLY)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (ImportError, OSError):
            yield False
        else:
            yield True
