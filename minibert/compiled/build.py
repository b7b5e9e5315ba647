"""Compile the layer for this processor, and say beside it for which one it is."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..checkpoint.save import write_json
from ..config import ConfigError

FOLDER = "compiled"  # of a checkpoint
LIBRARY, MANIFEST = "layer.so", "compiled.json"
SOURCES = Path(__file__).with_name("cpp")
# Instructions that the layer makes use of, by Linux's names, and what turns them on. Nothing else is turned on, so a
# processor that has those of the manifest can run the library.
FEATURES = {
    "avx2": "-mavx2",
    "fma": "-mfma",
    "avx512f": "-mavx512f",
    "avx512bw": "-mavx512bw",
    "avx512dq": "-mavx512dq",
    "avx512vl": "-mavx512vl",
    "avx512_vnni": "-mavx512vnni",
    "avx512_bf16": "-mavx512bf16",
}
FLAGS = [
    "-x",
    "c++",
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fopenmp",
    "-ffp-contract=fast",
    "-fno-exceptions",
    "-Wno-psabi",
    "-mtune=native",
]
MOST = 2**24  # bytes of a library
PATIENCE = 600  # seconds for the compiler


class CompileError(ConfigError):
    """The layer can't be compiled here, or the compiled layer can't be used."""


def processor() -> dict[str, str]:
    """Return what Linux says of the first processor: "model name", "flags" and others; {} elsewhere."""
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
        fields = (line.partition(":") for line in text.splitlines())
        return {name.strip(): value.strip() for name, _, value in fields}
    return {}


def processor_features() -> list[str]:
    """Return those of FEATURES that this processor has."""
    flags = processor().get("flags", "").split()
    return [name for name in FEATURES if name in flags]


def compiler_version() -> str:
    """Return the compiler's first line about itself. Raise CompileError if there is none, or it can't be run."""
    return _run([*_compiler(), "--version"]).partition("\n")[0]


def machine() -> str:
    """Name the system and the kind of processor that machine code is for."""
    return f"{platform.system()} {platform.machine()}"


def sources_digest() -> str:
    """Return a digest of the C++ sources. Code of other sources may expect other arguments."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(SOURCES.iterdir()))).hexdigest()


def build(folder: Path, features: list[str] | None = None) -> str:
    """Compile the layer into a folder that exists, with its manifest. Return the library's digest.

    Args:
        folder: Where to. Of OpenMP the library takes what torch has loaded, so that both share their threads.
        features: Some of FEATURES. None: those of this processor.

    Raises:
        CompileError: There is no GNU C++ compiler, or it fails; its first error. OSError: The folder can't be written.
    """
    features = processor_features() if features is None else features
    compiler = _compiler()
    flags = [*FLAGS, *(FEATURES[name] for name in features)]
    if "avx512f" in features:
        flags.append("-mprefer-vector-width=512")
    library, compiled = folder / LIBRARY, folder / "layer.o"
    _run([*compiler, *flags, "-c", str(SOURCES / "layer.cpp"), "-o", str(compiled)])
    _run([*compiler, "-shared", str(compiled), "-o", str(library)])  # without -fopenmp: it would bring another OpenMP
    if not library.is_file():
        raise CompileError(f"{compiler[0]} ended without an error, and wrote no library")
    compiled.unlink()
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    facts = {"machine": machine(), "features": features, "compiler": compiler_version(), "sources": sources_digest()}
    write_json({**facts, "sha256": digest}, folder / MANIFEST)
    return digest


def _compiler() -> list[str]:
    """Return the command of a GNU C++ compiler: that of the variable CXX, or g++."""
    try:
        command = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    except ValueError as error:
        raise CompileError(f"the variable CXX is not a command ({error})") from None
    if platform.system() != "Linux":
        raise CompileError(f"compiling needs Linux and GNU C++, and this is {platform.system()}")
    if shutil.which(command[0]) is None:
        advice = "install GNU C++ (Debian: apt install g++), or name it in the variable CXX"
        raise CompileError(f"there is no compiler {command[0]!r}: {advice}")
    return command


def _run(command: list[str]) -> str:
    """Run the compiler. Return what it prints, or raise CompileError with its first error."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise CompileError(f"{command[0]} did not end in {PATIENCE} seconds") from None
    except OSError as error:
        raise CompileError(f"{command[0]} can't be run: {error.strerror}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["without a message"]
        first = next((line for line in lines if "error" in line), lines[-1])
        raise CompileError(f"{command[0]} failed ({done.returncode}): {first[:300]}")
    return done.stdout


def record(digest: str) -> Path | None:
    """Return the file that tells that this user compiled the library of a digest on this machine.

    None where the user has no folder for caches: a relative path would be another one in each place.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return cache / "minibert" / "compiled" / digest if cache.is_absolute() else None


def why_not_here(library: Path, facts: dict[str, Any]) -> str:
    """Say why a library can't be used here, by its manifest; "" where it can. It is read, and not loaded."""
    again = "compile it again (minibert compile)"
    if facts.get("machine") != machine():
        return f"it was compiled for {str(facts.get('machine'))[:50]}, and this is {machine()}"
    needed = facts.get("features")
    if not isinstance(needed, list):
        return again
    if missing := [str(name)[:20] for name in needed if name not in processor_features()]:
        return f"it was compiled for a processor with {', '.join(missing[:9])}"
    if facts.get("sources") != sources_digest():
        return f"it was compiled by another version of minibert: {again}"
    try:
        with library.open("rb") as file:
            digest = hashlib.sha256(file.read(MOST)).hexdigest()
    except OSError as error:
        return f"{library.name} can't be read ({error.strerror}): {again}"
    return "" if digest == facts.get("sha256") else f"{library.name} is not the file that was compiled: {again}"
