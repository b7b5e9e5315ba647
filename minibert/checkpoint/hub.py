"""A name or a folder -> files on this disk. The only room of the library that can touch the network.

A checkpoint is asked for one file at a time, by its name in the repository, so nothing is downloaded that is not read.
What is on the disk is never asked for again: a folder, and a hub id whose files are cached, cost no network call at
all. (That a file is absent from the repository is cached too, by huggingface_hub.)
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..config import read_json_object
from . import builtin

# Stands in for a name where none is given: the model that the package carries.
DEFAULT_MODEL = builtin.NAME

# Names without an owner belong to sentence-transformers, as that library has it, but for these, older than owners.
WITHOUT_OWNER = re.compile(r"bert-(base|large)-(un)?cased.*|bert-base-(chinese|german-.*|multilingual-.*)")


class HubError(OSError):
    """A model that can't be had: no such name, no permission, no network, or a file that is not there."""


def open_files(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    refresh: bool = False,
    owner: str = "sentence-transformers",
) -> Files:
    """Find a checkpoint, without reading or downloading any of it yet.

    Args:
        name: A folder; or a hub id (`owner/model`; a name without owner is ``owner``'s); or `minibert-tiny`, the
            model that the package itself carries.
        revision: Branch, tag or commit on the hub. None: `main`, as it was when it was first downloaded.
        token: For private and gated models; None uses what `hf auth login` or HF_TOKEN left.
        cache_dir: Where downloads are kept; None: huggingface_hub's own cache, shared with transformers.
        local_files_only: Never touch the network; what is not in the cache counts as absent.
        refresh: Ask the hub whether `revision` has moved since it was downloaded.
        owner: Whose a name without one is: sentence-transformers has one for each kind of model.

    Raises:
        HubError: there is no such folder, or the name can be no hub id.
    """
    path = Path(os.path.expanduser(name))  # Path's own expanduser raises for a user who does not exist
    if path.is_dir():
        return Folder(str(name), path)
    if str(name) == DEFAULT_MODEL:
        return Folder(DEFAULT_MODEL, builtin.FOLDER)
    text = os.fspath(name)
    if path.exists():
        raise HubError(f"{text!r} is a file; a model is a folder that holds config.json and the weights")
    if path.is_absolute() or text.startswith((".", "~")) or text.count("/") > 1 or "\\" in text:
        raise HubError(f"there is no folder {text!r} (and as an id on the hub it would have to be owner/model)")
    owned = text if "/" in text or WITHOUT_OWNER.fullmatch(text) else f"{owner}/{text}"
    cache = None if cache_dir is None else Path(cache_dir)
    return HubRepository(owned, revision, token, cache, local_files_only, refresh)


@dataclass
class Files:
    """The files of one checkpoint, by their names in it, as `1_Pooling/config.json`."""

    name: str

    def get(self, file: str) -> Path | None:
        """Where the file lies, or None if the checkpoint has no such file.

        Raises:
            HubError: it can't be told, or it can't be had.
        """
        raise NotImplementedError

    def cached(self, file: str) -> Path | None:
        """As ``get``, without ever touching the network: None also where the file would have to be downloaded."""
        return self.get(file)

    @property
    def excuse(self) -> str:
        """For messages: why a file that counts as absent may exist after all. Empty where absent is absent."""
        return ""

    def require(self, file: str) -> Path:
        """Where the file lies. Raises HubError if there is none."""
        path = self.get(file)
        if path is None:
            raise HubError(f"{self.name} has no file {file}{self.excuse}")
        return path

    def read_object(self, file: str, *, needed: bool = False) -> dict[str, Any]:
        """What a small JSON file says; {} where the checkpoint has none, unless it is needed.

        Raises:
            HubError: it is needed and not there. ConfigError: it is damaged.
        """
        path = self.require(file) if needed else self.get(file)
        return {} if path is None else read_json_object(path)

    def below(self, folder: str) -> Files:
        """The same checkpoint seen from one of its folders ("" or "." is the checkpoint itself)."""
        return self if folder in ("", ".") else Subfolder(f"{self.name}/{folder}", self, folder.rstrip("/"))

    def first(self, candidates: Iterable[str]) -> Path | None:
        """The first that the checkpoint has; what is on the disk already goes before what is not."""
        names = list(candidates)
        for find in (self.cached, self.get):
            for file in names:
                if (path := find(file)) is not None:
                    return path
        return None


@dataclass
class Subfolder(Files):
    """A folder inside a checkpoint, as `1_Pooling`."""

    parent: Files
    folder: str

    def get(self, file: str) -> Path | None:
        return self.parent.get(f"{self.folder}/{file}")

    def cached(self, file: str) -> Path | None:
        return self.parent.cached(f"{self.folder}/{file}")

    @property
    def excuse(self) -> str:
        return self.parent.excuse


@dataclass
class Folder(Files):
    """A checkpoint in a folder."""

    path: Path

    def get(self, file: str) -> Path | None:
        path = self.path / safe(file, self.name)
        return path if path.is_file() else None


@dataclass
class HubRepository(Files):
    """A checkpoint on the hub, through huggingface_hub's cache; all its files are of one commit."""

    revision: str | None
    token: str | bool | None
    cache_dir: Path | None
    local_files_only: bool
    refresh: bool

    commit: str | None = None  # known as soon as anything is
    unreachable: bool = False  # asked once in vain: huggingface_hub tries for half a minute, which is enough

    def cached(self, file: str) -> Path | None:
        if self.refresh and self.commit is None:
            return None  # what is cached may be of an older commit
        found = self._look_up(file)
        return found if isinstance(found, Path) else None

    def get(self, file: str) -> Path | None:
        if self.refresh and self.commit is None:
            return self._download(file)
        found = self._look_up(file)
        if isinstance(found, Path):
            return found
        if not found or self.local_files_only:
            return None
        if self.unreachable:
            return self._warn_of(file)
        return self._download(file)

    @property
    def excuse(self) -> str:
        if self.local_files_only:
            return " in the cache, and local_files_only keeps it from asking the hub"
        return " in the cache, and the hub can't be reached" if self.unreachable else ""

    def _look_up(self, file: str) -> Path | bool:
        """The path; or whether it is worth asking the hub, which it is not where the cache knows there is no file."""
        from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

        safe(file, self.name)
        try:
            found = try_to_load_from_cache(self.name, file, self.cache_dir, self.commit or self.revision)
        except ValueError as error:
            raise HubError(f"{self.name!r} is neither a folder nor a name that the hub could have ({error})") from None
        if isinstance(found, str):
            return self._pin(Path(found), file)
        return found is not _CACHED_NO_EXIST

    def _pin(self, path: Path, file: str) -> Path:
        """Hold on to the commit: the branch may move while the other files are fetched."""
        self.commit = path.parents[len(PurePosixPath(file).parts) - 1].name
        return path

    def _download(self, file: str) -> Path | None:
        from huggingface_hub import errors, hf_hub_download

        try:
            path = hf_hub_download(
                self.name,
                file,
                revision=self.commit or self.revision,
                token=self.token,
                cache_dir=self.cache_dir,
                local_files_only=self.local_files_only,
            )
        except errors.LocalEntryNotFoundError as error:  # the hub gave no answer of use, and the cache has no such file
            if self.commit is None or _status(error) in (401, 403):
                raise self._refusal(file, error) from error
            self.unreachable = True
            return self._warn_of(file)
        except errors.EntryNotFoundError as error:
            answer = getattr(error, "response", None)
            if self.commit is None and answer is not None:
                self.commit = answer.headers.get("X-Repo-Commit")  # of the same commit shall the others be
            return None
        except Exception as error:  # broken-off downloads come as whatever the HTTP library raises
            raise self._refusal(file, error) from error
        return self._pin(Path(path), file)

    def _refusal(self, file: str, error: Exception) -> HubError:
        """Why the file can't be had, and what to do."""
        from huggingface_hub import errors

        revision = self.commit or self.revision or "main"
        if isinstance(error, errors.GatedRepoError):
            return HubError(
                f"{self.name} is gated: accept its terms at https://huggingface.co/{self.name}, then pass token=... "
                "or run `hf auth login`"
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return HubError(f"{self.name} has no revision {revision!r}: give a branch, a tag or a commit")
        if isinstance(error, errors.RepositoryNotFoundError):
            return HubError(
                f"the hub has no model {self.name!r}, or it is private: check the spelling, or pass token=... "
                "(there is no folder of that name either)"
            )
        if isinstance(error, errors.HFValidationError):
            return HubError(f"{self.name!r} is neither a folder nor a name that the hub could have ({error})")
        if _status(error) in (401, 403):
            return HubError(f"{self.name}: the hub does not accept the token, or not for this model")
        where = f"{self.name}, revision {revision}"
        if isinstance(error, errors.LocalEntryNotFoundError):
            return HubError(f"{where} is not in the cache, and the hub can't be reached: {_reason(error)}")
        return HubError(f"{where}: {file} could not be downloaded ({_reason(error)}); try again")

    def _warn_of(self, file: str) -> Path | None:
        """Say what may be wrong with going on without the file."""
        warnings.warn(
            f"{self.name}, revision {self.commit}: the hub can't be reached to ask for {file}, which is not in the "
            "cache; going on as if the model had no such file",
            stacklevel=2,
        )
        return None


def _cause(error: BaseException) -> BaseException:
    """The innermost cause: the outer ones only say that something went wrong."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _status(error: BaseException) -> int | None:
    """What the hub answered, as 401, if it was an answer that led to the error."""
    return getattr(getattr(_cause(error), "response", None), "status_code", None)


def _reason(error: BaseException) -> str:
    """The innermost cause in one line."""
    return f"{type(_cause(error)).__name__}: {_cause(error)}".splitlines()[0]


def safe(file: str, owner: str) -> str:
    """Give back a relative name that stays inside its folder, and that a file can have.

    Names come out of untrusted files (an index of shards, modules.json).

    Raises:
        HubError: the name would leave the folder, or is too long for any.
    """
    path = PurePosixPath(file)
    if not file or path.is_absolute() or ".." in path.parts or "\\" in file or ":" in file or "\0" in file:
        raise HubError(f"{owner}: the file name {file!r} points outside its folder: refused")
    if len(file.encode(errors="replace")) > 255:  # from there on systems raise OSError
        raise HubError(f"{owner}: the file name {file!r} is longer than any")
    return file
