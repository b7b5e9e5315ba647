"""Build the distributions, install the wheel outside the checkout, and use it there.

    python tools/package.py
    python tools/package.py --pythons 3.10 3.11 3.12 3.13 --keep dist

`python -m build` makes the sdist, and the wheel from that sdist; `twine check --strict` reads both. The wheel goes into
a fresh virtual environment in a temporary folder, which finds its dependencies among the packages of this Python. From
that folder a text is embedded, a page is written and a few of the tests are run. At last a copy of the sources is
installed as an editable one, and imported from the folder above it. Needs pip install -e '.[dev]'.

With --pythons the wheel is then installed on each of these Pythons as a user would, with the extra `test` and the
newest dependencies that pip finds, and more of the tests are run: README's blocks, the encoders, parity. That needs a
network, some gigabytes and minutes for each Python. Nothing is left behind, but for the folder of --keep.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
TESTS = ("test_builtin.py", "test_pooling.py", "test_vectors.py")
MODEL = "minibert/checkpoint/builtin/minibert-tiny"
PYTHON_TESTS = ("readme", "builtin", "encoder", "cross_encoder", "tokenizer", "fast_encode", "checkpoint", "train")
PACKAGES = ("minibert-encoder", "torch", "safetensors", "huggingface-hub", "tokenizers", "numpy", "transformers")
IN_BOTH = (f"{MODEL}/model.safetensors", f"{MODEL}/1_Pooling/config.json", "minibert/py.typed")


def run(*command: str | Path, folder: Path) -> str:
    """Run a command in a folder, without the checkout on Python's path; return what it printed."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    if not shutil.which(command[0]):
        raise SystemExit(f"{command[0]} is not on PATH")
    done = subprocess.run([*map(str, command)], cwd=folder, env=environment, text=True, capture_output=True)
    if done.returncode:
        raise SystemExit(
            f"{done.stdout}{done.stderr}\nfailed with status {done.returncode}: {' '.join(map(str, command))}"
        )
    return done.stdout


def check_contents(sdist: Path, wheel: Path) -> None:
    """Raise SystemExit if a distribution lacks the licence, the built-in model or the viewer's page."""
    page = [f"minibert/research/page/{path.name}" for path in (ROOT / "minibert/research/page").iterdir()]
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    for name in (*IN_BOTH, *page):
        for archive_name, names in ((sdist.name, in_sdist), (wheel.name, in_wheel)):
            if name not in names:
                raise SystemExit(f"{archive_name} lacks {name}")
    if "LICENSE" not in in_sdist or not any(name.endswith("/licenses/LICENSE") for name in in_wheel):
        raise SystemExit(f"LICENSE is missing from {sdist.name} or {wheel.name}")


def install(wheel: Path, folder: Path) -> Path:
    """Install the wheel into a fresh virtual environment; return that environment's folder of programs."""
    venv.create(folder, with_pip=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    run(programs / "python", "-m", "pip", "install", "--quiet", "--no-deps", wheel, folder=folder.parent)
    site = run(
        programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder.parent
    )
    # The dependencies are found here; an editable minibert is not, because .pth files within that folder are not read.
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (Path(site.strip()) / "dependencies.pth").write_text("\n".join(packages), encoding="utf-8")
    return programs


def unpack(sdist: Path, folder: Path) -> Path:
    """Unpack the sdist into a folder; return the new folder with the sources."""
    shutil.unpack_archive(sdist, folder)
    return folder / sdist.name.removesuffix(".tar.gz")


def check_editable(programs: Path, sdist: Path, folder: Path) -> None:
    """Raise SystemExit where the folder above a clone called minibert, a namespace package there, hides the package."""
    folder.mkdir()
    clone = unpack(sdist, folder).rename(folder / "minibert")
    where = (programs / "python", "-c", "import minibert; print(minibert.__version__, minibert.__file__)")
    run(*where, folder=folder)  # the wheel's
    run(programs / "python", "-m", "pip", "install", "--quiet", "--no-deps", "-e", clone, folder=folder)
    if str(clone / "minibert") not in run(*where, folder=folder):
        raise SystemExit(f"the editable package was not used in {folder}")


def check_python(version: str, wheel: Path, sdist: Path) -> str:
    """Install the wheel with the newest dependencies on this Python and test it; return the versions and the result."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        run(f"python{version}", "-m", "venv", folder / "venv", folder=folder)
        programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        run(programs / "python", "-m", "pip", "install", "--quiet", f"{wheel}[test]", folder=folder)
        lines = run(programs / "python", "-m", "pip", "list", "--format=freeze", folder=folder).splitlines()
        versions = ", ".join(line for line in lines if line.partition("==")[0].replace("_", "-") in PACKAGES)
        sources = unpack(sdist, folder)
        (sources / "minibert" / "__init__.py").unlink()  # so that Python finds the wheel's
        tests = [f"tests/test_{test}.py" for test in PYTHON_TESTS]
        if "transformers" in versions:  # there is none for Python 3.10
            tests += ["tests/parity", "--ignore=tests/parity/test_bench_race.py"]  # which races a checkout
        result = run(programs / "python", "-m", "pytest", "-q", *tests, folder=sources).splitlines()[-1]
        return f"{versions}: {result}"


def main() -> int:
    """Build, install, use; print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pythons", nargs="+", default=[], metavar="3.X", help="test the wheel on these Pythons, too")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where to put the sdist and the wheel in the end")
    arguments = parser.parse_args()
    for version in arguments.pythons:
        run(f"python{version}", "-c", "", folder=ROOT)  # fails now, not after minutes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        run(sys.executable, "-m", "build", "--outdir", folder / "dist", ROOT, folder=folder)
        (sdist,), (wheel,) = (list((folder / "dist").glob(end)) for end in ("*.tar.gz", "*.whl"))
        check_contents(sdist, wheel)
        run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel, folder=folder)
        sizes = ", ".join(f"{path.name} ({path.stat().st_size / 1e6:.1f} MB)" for path in (sdist, wheel))
        print(f"built      {sizes}")
        programs = install(wheel, folder / "venv")
        where = run(programs / "python", "-c", "import minibert; print(minibert.__file__)", folder=folder).strip()
        if folder not in Path(where).resolve().parents:
            raise SystemExit(f"the installed package was not used, but {where}")
        print("installed  in a virtual environment of its own, outside the checkout")
        rows = run(programs / "minibert", "embed", "A man is eating food.", folder=folder)
        print(f"embedded   {rows[:60].rstrip()} ...")
        run(programs / "minibert", "view", "A man eats.", "Someone has a meal.", "-o", "page.html", folder=folder)
        print(f"viewed     page.html ({(folder / 'page.html').stat().st_size / 1e3:.0f} kB)")
        shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)  # pytest's settings
        tests = [f"tests/{test}" for test in TESTS]
        print("tested    ", run(programs / "python", "-m", "pytest", "-q", *tests, folder=folder).splitlines()[-1])
        check_editable(programs, sdist, folder / "parent")
        print("editable   a clone is found from the folder that holds it")
        for version in arguments.pythons:
            print(f"{version:10}", check_python(version, wheel, sdist), flush=True)
        if arguments.keep:
            arguments.keep.mkdir(parents=True, exist_ok=True)
            print("kept      ", *(shutil.copy(path, arguments.keep) for path in (sdist, wheel)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
