"""Find a checkpoint's files: in a folder, in the package, or on the hub. Only this file can touch the network.

Files are asked for one at a time, by their names in the repository, so nothing is downloaded that isn't read. A folder
and a hub id whose files are cached cost no network call. (huggingface_hub also caches that a repository lacks a file.)
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypedDict

from ..config import in_short, read_json
from ..display import warn
from . import builtin

if TYPE_CHECKING:
    from typing_extensions import Unpack

DEFAULT_MODEL = builtin.NAME  # loaded where no name is given
OWNER = "sentence-transformers"  # of a name without an owner, as in that library

# These models are older than owners.
WITHOUT_OWNER = re.compile(r"bert-(base|large)-(un)?cased.*|bert-base-(chinese|german-.*|multilingual-.*)")


class HubError(OSError):
    """The model or one of its files can't be had: unknown name, no permission, or no network."""

    def __init__(self, text: str) -> None:
        super().__init__(in_short(text))


class HubOptions(TypedDict, total=False):
    """The keywords of every ``from_pretrained`` that concern the hub. They have no effect on a folder."""

    revision: str | None  # branch, tag or commit; None: `main`, as it was when first downloaded
    token: str | bool | None  # for private and gated models; None: the one from `hf auth login` or HF_TOKEN
    cache_dir: str | Path | None  # for downloads; None: huggingface_hub's cache, shared with transformers
    local_files_only: bool  # never touch the network; a file outside the cache counts as absent, with a warning
    refresh: bool  # ask the hub if `revision` has moved since it was downloaded


def open_files(name: str | os.PathLike[str], *, owner: str = OWNER, **hub: Unpack[HubOptions]) -> CheckpointFiles:
    """Find a checkpoint without reading or downloading any of it yet.

    Args:
        name: A folder, a hub id (`owner/model`), or `minibert-tiny`, the model inside the package.
        owner: Owner of a hub id that names none. sentence-transformers has one per kind of model.
        hub: See ``HubOptions``.

    Raises:
        HubError: the folder does not exist, and the name is empty or not a possible hub id.
        TypeError: a keyword is unknown, or the name is none.
    """
    if unknown := hub.keys() - HubOptions.__optional_keys__:
        raise TypeError(f"from_pretrained got an unexpected keyword: {', '.join(sorted(unknown))}")
    if not isinstance(name, (str, os.PathLike)):
        raise TypeError(f"expected a folder or a model's name, not {name!r:.80}")
    if not (text := os.fspath(name)):
        raise HubError("the model's name is empty: give a folder, or a name as owner/model")
    path = Path(os.path.expanduser(name))  # Path's own expanduser raises for a user who does not exist
    if path.is_dir():
        return Folder(text, path)
    if text == DEFAULT_MODEL:
        return Folder(DEFAULT_MODEL, builtin.FOLDER)
    if path.exists():
        raise HubError(f"{text!r} is a file; a model is a folder that holds config.json and the weights")
    if path.is_absolute() or text.startswith((".", "~")) or text.count("/") > 1 or "\\" in text:
        raise HubError(f"there is no folder {text!r}, and a model on the hub is named owner/model")
    return HubRepository(text if "/" in text or WITHOUT_OWNER.fullmatch(text) else f"{owner}/{text}", hub, text)


@dataclass
class CheckpointFiles:
    """The files of one checkpoint, by their names in it, such as `1_Pooling/config.json`."""

    name: str

    def get(self, file: str, *, local: bool = False, quiet: bool = False) -> Path | None:
        """Return the file's path, or None if the checkpoint lacks it. Raise HubError if neither can be made sure.

        If ``local``, a file outside this disk counts as absent, and the network isn't touched. Unless ``quiet``, a
        warning says that a file which is not cached may exist, where the hub can't be asked.
        """
        raise NotImplementedError

    def cached(self, file: str) -> Path | None:
        """Return the file's path if it is on this disk."""
        return self.get(file, local=True)

    @property
    def excuse(self) -> str:
        """Why a file that counts as absent may exist after all, as the end of a message; empty for a folder."""
        return ""

    @property
    def no_folder(self) -> str:
        """The beginning of a message on a model of which nothing was found; empty for a folder."""
        return ""

    def require(self, file: str) -> Path:
        """Return the file's path. Raise HubError if the checkpoint does not have it."""
        if (path := self.get(file, quiet=True)) is None:
            raise HubError(f"{self.no_folder}{self.name} has no file {file}{self.excuse}")
        return path

    def read_object(self, file: str, *, needed: bool = False, quiet: bool = False) -> dict[str, Any]:
        """Read a small JSON file; {} if it is absent and not ``needed``. Raise HubError, or ConfigError if damaged."""
        path = self.require(file) if needed else self.get(file, quiet=quiet)
        return {} if path is None else read_json(path)

    def below(self, folder: str) -> CheckpointFiles:
        """Return the same checkpoint seen from one of its folders ("" and "." are the checkpoint itself)."""
        return self if folder in ("", ".") else Subfolder(f"{self.name}/{folder}", self, folder.rstrip("/"))

    def first(self, candidates: Sequence[str]) -> Path | None:
        """Return the first file that the checkpoint has. Files on this disk go before files on the hub."""
        paths = (self.get(file, local=local, quiet=True) for local in (True, False) for file in candidates)
        return next((path for path in paths if path is not None), None)

    def pin(self) -> bool:
        """Fix the commit that all files are read from, by config.json or modules.json. Return False without either."""
        return self.first(("config.json", "modules.json")) is not None


@dataclass
class Subfolder(CheckpointFiles):
    """A folder inside a checkpoint, such as `1_Pooling`."""

    parent: CheckpointFiles
    folder: str

    def get(self, file: str, *, local: bool = False, quiet: bool = False) -> Path | None:
        return self.parent.get(f"{self.folder}/{file}", local=local, quiet=quiet)

    @property
    def excuse(self) -> str:
        return self.parent.excuse


@dataclass
class Folder(CheckpointFiles):
    """A checkpoint in a folder."""

    path: Path

    def get(self, file: str, *, local: bool = False, quiet: bool = False) -> Path | None:
        path = self.path / _safe(file, self.name)
        return path if path.is_file() else None


@dataclass
class HubRepository(CheckpointFiles):
    """A checkpoint on the hub, through huggingface_hub's cache. All its files come from one commit."""

    options: HubOptions
    given: str  # the name, perhaps without its owner; it may have been meant as that of a folder

    commit: str | None = None  # known after the first answer
    root: Path | None = None  # the model's folder in the cache, as soon as a file was found
    unreachable: bool | None = None  # None: not tried yet

    @property
    def excuse(self) -> str:
        if self.options.get("local_files_only"):
            return " in the cache, and local_files_only keeps it from asking the hub"
        return " in the cache, and the hub can't be reached" if self.unreachable else ""

    @property
    def no_folder(self) -> str:
        return "" if self.commit else f"there is no folder {self.given!r} here, and "

    def get(self, file: str, *, local: bool = False, quiet: bool = False) -> Path | None:
        found = self._look_up(file)
        if isinstance(found, Path):
            return found
        if not found or local:
            return None
        path = None if self.excuse else self._download(file)
        if self.excuse and self.commit and not quiet:  # since an earlier file, or since just now
            source = f"{self.name}, revision {self.commit}"
            warn(f"{source}: {file} is not{self.excuse}; going on without it")
        return path

    def _look_up(self, file: str) -> Path | bool:
        """Return the cached path; otherwise False if the cache knows that the repository lacks the file, else True."""
        from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

        _safe(file, self.name)
        try:
            found = try_to_load_from_cache(self.name, file, self.options.get("cache_dir"), self._revision)
        except ValueError as error:
            raise HubError(f"{self.name!r} is neither a folder nor a possible name on the hub ({error})") from None
        if self.options.get("refresh") and self.commit is None and not self.options.get("local_files_only"):
            return True  # the cache may know an older commit only
        if isinstance(found, str):
            return self._pinned(found, file)
        return found is not _CACHED_NO_EXIST and self._may_have(file)

    def _may_have(self, file: str) -> bool:
        """Return False if snapshot_download left a list of the commit's files, and this one is not on it."""
        try:
            return self.root is None or file in read_json(self.root / f"trees/{self.commit}.json")["files"]
        except (OSError, ValueError, KeyError, TypeError):  # no list, or one of another version
            return True

    @property
    def _revision(self) -> str | None:
        return self.commit or self.options.get("revision")

    def _pinned(self, path: str, file: str) -> Path:
        """Keep the file's commit: the branch may move before the other files are fetched."""
        snapshot = Path(path).parents[len(PurePosixPath(file).parts) - 1]
        self.commit, self.root = snapshot.name, snapshot.parents[1]
        return Path(path)

    def _download(self, file: str) -> Path | None:
        """Return None if the repository lacks the file, or the hub has become ``unreachable``."""
        from huggingface_hub import errors, hf_hub_download

        token, folder = self.options.get("token"), self.options.get("cache_dir")
        try:
            if self.unreachable is None:
                self._probe(file)
            path = hf_hub_download(self.name, file, revision=self._revision, token=token, cache_dir=folder)
        except errors.LocalEntryNotFoundError as error:  # the hub gave no useful answer, and the file isn't cached
            if self.commit is None or _status(error) in (401, 403):
                raise self._refusal(file, error) from error
            self.unreachable = True  # one failed attempt is enough
            return None
        except errors.EntryNotFoundError as error:
            answer = getattr(error, "response", None)
            if self.commit is None and answer is not None:
                self.commit = answer.headers.get("X-Repo-Commit")  # fetch the remaining files from this commit
            return None
        except Exception as error:  # an aborted download raises whatever the HTTP library raises
            raise self._refusal(file, error) from error
        return self._pinned(path, file)

    def _probe(self, file: str) -> None:
        """Ask once: ``hf_hub_download`` keeps trying for half a minute. Raise its error for a hub that is not there."""
        from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

        try:
            url = hf_hub_url(self.name, file, revision=self._revision)
            get_hf_file_metadata(url, token=self.options.get("token"), timeout=5)
        except Exception as error:
            if _status(error) is None:
                raise errors.LocalEntryNotFoundError(f"no answer for {file}") from error
        self.unreachable = False

    def _refusal(self, file: str, error: Exception) -> HubError:
        """Return the error that says why the file can't be had, and the remedy."""
        from huggingface_hub import errors

        name, revision = self.name, self._revision or "main"
        if isinstance(error, errors.GatedRepoError):
            terms = f"https://huggingface.co/{name}"
            return HubError(f"{name} is gated: accept its terms at {terms}, then pass token=... or run `hf auth login`")
        if isinstance(error, errors.RevisionNotFoundError):
            return HubError(f"{name} has no revision {revision!r}: give a branch, a tag or a commit")
        if isinstance(error, errors.RepositoryNotFoundError):
            text = f"the hub has no model {name!r}, or it is private: check the spelling, or pass token=..."
            return HubError(f"{self.no_folder}{text}")
        if _status(error) in (401, 403):
            return HubError(f"{name}: the hub does not accept the token, or not for this model")
        reason = first_line(_cause(error))
        if isinstance(error, errors.LocalEntryNotFoundError):
            text = f"{name}, revision {revision} is not in the cache, and the hub can't be reached: {reason}"
            return HubError(f"{self.no_folder}{text}")
        return HubError(f"{name}, revision {revision}: {file} could not be downloaded ({reason}); try again")


def first_line(error: BaseException) -> str:
    """Describe an exception in one line."""
    return f"{type(error).__name__}: {error}".split("\n", 1)[0]


def _cause(error: BaseException) -> BaseException:
    """Return the innermost cause: the outer ones only say that something went wrong."""
    return error if error.__cause__ is None else _cause(error.__cause__)


def _status(error: BaseException) -> int | None:
    """Return the hub's HTTP status, such as 401, if its answer caused the error."""
    return getattr(getattr(_cause(error), "response", None), "status_code", None)


def _safe(file: str, owner: str) -> str:
    """Return the name of a file if it stays inside its folder: names come from untrusted files such as modules.json."""
    path = PurePosixPath(file)
    if not file or path.is_absolute() or ".." in path.parts or "\\" in file or ":" in file or "\0" in file:
        raise HubError(f"{owner}: the file name {file!r} points outside its folder: refused")
    if len(file.encode(errors="replace")) > 255:  # from there on systems raise OSError
        raise HubError(f"{owner}: the file name {file!r} is longer than any file name can be")
    return file
