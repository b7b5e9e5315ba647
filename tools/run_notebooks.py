"""Run the notebooks, and check that their assertions hold.

    python tools/run_notebooks.py                                        all of notebooks/
    python tools/run_notebooks.py notebooks/02_attention_by_hand.ipynb
    python tools/run_notebooks.py --output build/notebooks               and write the copies that the site shows

Each notebook runs from its first cell to its last, in a fresh kernel of this Python and in its own folder. Outputs stay
in memory, or go into copies in a folder. A notebook with outputs or execution counts is refused, since they don't
belong in a commit. So is one whose last code cell asserts nothing, since running it proves little.

Each gets a line: its name, its seconds, and ok or the fault. Below that comes the failing cell with its error, or else
the cells' stderr, such as warnings. The status is 1 if a notebook failed or was refused.
Needs pip install -e '.[notebooks]'.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "notebooks"


def objection(notebook: Any) -> str | None:
    """Return the reason to refuse a notebook, or None."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in cells:
        if cell.outputs or cell.execution_count is not None:
            return f"refused: cell {cell.get('id')!r} holds outputs or an execution count; clear all outputs"
    if not cells or not re.search(r"^\s*assert\b", cells[-1].source, re.MULTILINE):
        return "refused: the last code cell asserts nothing"
    return None


def execute(notebook: Any, folder: Path, timeout: int) -> str | None:
    """Run all cells, in place. Return the source and the error of the cell that failed, or None."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    from traitlets.config import Config

    running: list[str] = []
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        on_cell_execute=lambda cell, cell_index: running.append(cell.source),
        config=Config(KernelManager={"transport_encryption": "auto"}),  # ipykernel 7 warns if it is not
    )
    try:
        client.execute()
    except CellExecutionError as error:
        return re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()  # IPython colours its tracebacks
    except (CellTimeoutError, DeadKernelError) as error:
        return f"{running[-1]}\n\n{str(error).splitlines()[0]}"
    return None


def stderr_of(notebook: Any) -> str:
    """Return the cells' stderr, such as warnings."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(output.text for output in outputs if output.get("name") == "stderr")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the notebooks, and return the exit status."""
    parser = argparse.ArgumentParser(
        description="Run notebooks, each in a fresh kernel and in its own folder, and say which fail. Those that hold "
        "outputs or execution counts, or whose last code cell asserts nothing, are refused. The files stay unchanged.",
        epilog="Ends with status 1 if a notebook failed or was refused.",
    )
    parser.add_argument("paths", nargs="*", type=Path, help="notebooks; none: all of notebooks/")
    parser.add_argument("--timeout", type=int, default=120, help="seconds allowed for a cell (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="folder for copies with their outputs (default: none are written)")
    options = parser.parse_args(arguments)
    paths = options.paths or sorted(FOLDER.glob("*.ipynb"))
    if absent := [str(path) for path in paths if not path.is_file()] or ([] if paths else [f"{FOLDER}/*.ipynb"]):
        parser.error(f"no such file: {', '.join(absent)}")

    import nbformat  # after the arguments: --help needs none of it

    size = max(len(path.name) for path in paths)
    bad = 0
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        begin = time.perf_counter()
        refusal = objection(notebook)
        failure = None if refusal else execute(notebook, path.parent.resolve(), options.timeout)
        outcome = refusal or ("FAILED" if failure else "ok")
        print(f"{path.name:{size}}  {time.perf_counter() - begin:6.1f} s  {outcome}")
        if below := failure or stderr_of(notebook):
            print(textwrap.indent(below.rstrip(), "    "))
        sys.stdout.flush()
        bad += outcome != "ok"
        if options.output and outcome == "ok":
            options.output.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, options.output / path.name)
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
