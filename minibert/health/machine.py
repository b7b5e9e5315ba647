"""Describe this machine and what is installed, for a report of a fault: versions, processor, speed, no secrets."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..checkpoint.hub import first_line
from ..compiled.build import FEATURES, CompileError, compiler_version, processor
from ..display import hanging
from ..encoder import SentenceEncoder
from ..fast.prepare import ARITHMETICS
from .known import PAIRS

PACKAGES = ("numpy", "safetensors", "tokenizers", "huggingface-hub")
# Besides FEATURES, by Linux's names; the last are of ARM.
INSTRUCTIONS = (*FEATURES, "avx_vnni", "amx_bf16", "amx_int8", "asimd", "asimddp", "bf16", "i8mm", "sve")
# What changes speed or finds files. Of the second kind only that they are set is told: they may hold secrets.
VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "KMP_AFFINITY"),
    *("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "RAYON_NUM_THREADS", "TOKENIZERS_PARALLELISM"),
    *("CUDA_VISIBLE_DEVICES", "PYTORCH_ENABLE_MPS_FALLBACK", "CXX", "LD_PRELOAD", "MALLOC_ARENA_MAX", "LOCAL_RANK"),
    *("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"),
)
SECRET = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
SECONDS = 2.0  # of measuring
GIB = 2**30


class Facts(dict[str, dict[str, Any]]):
    """Facts by subject and name. As a string: a line for each subject."""

    def __str__(self) -> str:
        return self.table()

    def table(self, columns: int | None = None) -> str:
        """Return a line for each subject, or lines of at most so many columns."""
        rows = [
            (subject, "; ".join(str(value) if name == "name" else f"{name} {value}" for name, value in facts.items()))
            for subject, facts in self.items()
        ]
        return hanging(rows, columns)


def doctor() -> Facts:
    """Describe the machine, and measure which arithmetic is fast on it. It takes some seconds, and no network.

    Paths in the user's folder begin with ~. Of variables that may be secret, only that they are set is told.
    """
    subjects: dict[str, Callable[[], dict[str, Any]]] = {
        "versions": _versions,
        "system": lambda: {"name": platform.platform()},
        "processor": _processor,
        "cores": _cores,
        "memory": _memory,
        "speed": _speed,
        "compiler": _compiler,
        "GPU": _gpu,
        "variables": _variables,
        "cache": _cache,
    }
    found, home = Facts(), os.path.expanduser("~/")
    for subject, ask in subjects.items():
        try:
            facts = ask()
        except Exception as error:  # what is broken is what the others are asked for
            facts = {"name": f"can't be told ({first_line(error):.200})"}
        found[subject] = {k: v.replace(home, "~/") if isinstance(v, str) else v for k, v in facts.items()}
    return found


def _versions() -> dict[str, str]:
    found = {"minibert": __version__, "python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    backends: Any = torch.backends
    parts = {"MKL": backends.mkl, "oneDNN": backends.mkldnn, "OpenMP": backends.openmp}
    build = [
        f"CUDA {torch.version.cuda}" if torch.version.cuda else "",
        f"ROCm {hip}" if (hip := torch.version.hip) else "",
    ]
    build += [name if part.is_available() else f"no {name}" for name, part in parts.items()]
    return {**found, "torch": f"{torch.__version__} ({', '.join(filter(None, build))})"}


def _processor() -> dict[str, str]:
    fields = processor()
    name = fields.get("model name") or platform.processor() or platform.machine()
    if platform.system() == "Darwin":
        with suppress(OSError, subprocess.SubprocessError):
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            name = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    flags = (fields.get("flags") or fields.get("Features", "")).split()
    has = [each for each in INSTRUCTIONS if each in flags]
    return {
        "name": name,
        "instructions": " ".join(has) or "not told",
        "torch uses": torch.backends.cpu.get_cpu_capability(),
    }


def _cores() -> dict[str, Any]:
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found: dict[str, Any] = {"in the machine": os.cpu_count(), "for this process": mine}
    if limit := _cgroup("cpu.max"):
        quota, period = limit.split()
        found["limit of the container"] = round(int(quota) / int(period), 2)
    load = {"load": round(os.getloadavg()[0], 1)} if hasattr(os, "getloadavg") else {}
    return {**found, "threads of torch": torch.get_num_threads(), **load}


def _memory() -> dict[str, str]:
    found = {"in the machine": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / GIB:.1f} GiB"}
    with suppress(OSError):
        free = re.search(r"MemAvailable: *(\d+)", Path("/proc/meminfo").read_text(encoding="utf-8"))
        found |= {"free": f"{int(free[1]) / 2**20:.1f} GiB"} if free else {}
    if limit := _cgroup("memory.max"):
        found["limit of the container"] = f"{int(limit) / GIB:.1f} GiB"
    return found


def _cgroup(name: str, root: Path = Path("/sys/fs/cgroup")) -> str:
    """Return a limit of the process's control group (version 2) or the nearest one above it; "" where there is none."""
    own = re.search(r"^0::/(.*)$", Path("/proc/self/cgroup").read_text(encoding="utf-8"), re.MULTILINE)
    place = root / (own[1] if own else "")
    for folder in (place, *place.parents):
        with suppress(OSError):
            text = (folder / name).read_text(encoding="utf-8").strip()
            if not text.startswith("max"):
                return text
    return ""


def _speed() -> dict[str, Any]:
    """Race the arithmetics with the built-in model: the best of several turns of each."""
    texts = [text for _, *pair in PAIRS for text in pair]  # few, so that some turn is free of other work
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoders = {name: SentenceEncoder.from_pretrained(device="cpu", dtype=name) for name in ARITHMETICS}
    seconds = dict.fromkeys(encoders, float("inf"))
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        for name, encoder in encoders.items():
            started = time.perf_counter()
            encoder.encode(texts)
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    exact = seconds.pop("float32")
    ratios = {name: f"{exact / each:.2f} x" for name, each in seconds.items()}
    return {"texts a second in float32": round(len(texts) / exact), **ratios}


def _compiler() -> dict[str, str]:
    try:
        return {"name": compiler_version(), "minibert compile": "can be used"}
    except CompileError as error:
        return {"name": str(error), "minibert compile": "can't be used"}


def _gpu() -> dict[str, Any]:
    """Say which GPU `from_pretrained` takes, and what it computes in there."""
    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        native = "" if torch.cuda.is_bf16_supported(including_emulation=False) else "not "
        return {
            "name": found.name,
            "number": torch.cuda.device_count(),
            "compute capability": f"{found.major}.{found.minor}",
            "memory": f"{found.total_memory / GIB:.1f} GiB",
            "used": f"unless device= says otherwise, in float32 unless dtype= does; bfloat16 {native}in hardware",
        }
    if torch.backends.mps.is_available():
        return {"name": "Apple's", "used": "by mps unless device= says otherwise, in float32 unless dtype= does"}
    if shutil.which("nvidia-smi") or Path("/proc/driver/nvidia").exists():
        return {"name": "none that torch can use, though NVIDIA's driver is there: is this torch built with CUDA?"}
    return {"name": "none"}


def _variables() -> dict[str, str]:
    found = {name: f"{os.environ[name]:.80}" for name in VARIABLES if name in os.environ}
    return found | {name: "is set" for name in SECRET if name in os.environ} or {"name": "none of those that matter"}


def _cache() -> dict[str, str]:
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    if not folder.is_dir():
        return {"name": HF_HUB_CACHE, "size": "empty"}
    size = 0
    for place, _, names in os.walk(folder):
        for path in (os.path.join(place, name) for name in names):
            with suppress(OSError):
                size += 0 if os.path.islink(path) else os.path.getsize(path)
    models = sum(path.name.startswith("models--") for path in folder.iterdir())
    return {"name": HF_HUB_CACHE, "size": f"{size / GIB:.1f} GiB", "models": str(models)}
