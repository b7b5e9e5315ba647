"""Write files and folders whole or not at all."""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

SUFFIX = ".part"  # of temporary files


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
        _remove_leftovers(target)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=SUFFIX, dir=target.parent)
        temporary = Path(name)
        with open(handle) as held:
            if not _lock(handle):
                held.close()
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

    Other files of ``folder`` stay, except those that ``stale`` names.
    """
    target = Path(folder)
    whole = not target.exists()
    target.parent.mkdir(parents=True, exist_ok=True)
    place = target.parent if whole else target
    with tempfile.TemporaryDirectory(prefix=".saving.", dir=place) as temporary, ExitStack() as undo:
        new, old = Path(temporary, "new"), Path(temporary, "old")
        new.mkdir()
        yield new
        if whole:
            os.replace(new, target)
            return
        paths = [path.relative_to(new) for path in new.rglob("*")]
        files = {path for path in paths if (new / path).is_file()}
        for path in paths:
            for below in (target, old):
                (below / path if path not in files else below).mkdir(parents=True, exist_ok=True)
        for file in sorted(files.union(map(Path, stale))):
            if (target / file).exists():
                os.replace(target / file, old / file)
                undo.callback(os.replace, old / file, target / file)
            if file in files:
                os.replace(new / file, target / file)
                undo.callback(os.replace, target / file, new / file)
        undo.pop_all()


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


def _lock(handle: int) -> bool:
    """Lock an open file until it is closed, or its process dies. Return False if another has locked it."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):  # also where the system has no such locks
        return False
    return True


def _remove_leftovers(target: Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote ``target``."""
    for file in target.parent.glob(f".{glob.escape(target.name)}.????????{SUFFIX}"):
        with suppress(OSError), file.open("rb") as opened:
            if _lock(opened.fileno()):
                file.unlink()
