"""Build the distributions, install the wheel outside the checkout, and use it there.

    python tools/package.py

`python -m build` makes the sdist, and the wheel from that sdist. The wheel goes into a fresh virtual environment in a
temporary folder, which finds its dependencies among the packages of this Python. From that folder a text is embedded,
a page is written and a few of the tests are run. Needs pip install -e '.[dev]'; nothing is left behind.
"""

from __future__ import annotations

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
IN_BOTH = (f"{MODEL}/model.safetensors", f"{MODEL}/1_Pooling/config.json", "minibert/py.typed")


def run(*command: str | Path, folder: Path) -> str:
    """Run a command in a folder, without the checkout on Python's path; return what it printed."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
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


def main() -> int:
    """Build, install, use; print one line for each."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        run(sys.executable, "-m", "build", "--outdir", folder / "dist", ROOT, folder=folder)
        (sdist,), (wheel,) = (list((folder / "dist").glob(end)) for end in ("*.tar.gz", "*.whl"))
        check_contents(sdist, wheel)
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
