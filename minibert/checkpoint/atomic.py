"""Write files and folders whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``. It becomes ``path`` after the block, or vanishes if the block raised.

    Until then the old file stays whole, so a full disk or a crash loses nothing. A model mapped from it keeps it.
    """
    target = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp lets only the owner read
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
