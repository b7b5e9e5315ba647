"""The tool that damages checkpoints runs, and sees what should not happen."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it needs fork and /proc")
BROKEN = """
import os, runpy, sys
import minibert.config
from minibert import BertConfig
read, count = BertConfig.from_file.__func__, []
def from_file(cls, path):
    count.append(path)
    {what} if "/case/" in str(path) else None
    return read(cls, path)
BertConfig.from_file = classmethod(from_file)
sys.argv = {arguments!r}
runpy.run_path("tools/fuzz", run_name="__main__")
"""


KINDS = {
    "None": None,
    "{}[0]": "KeyError at",
    "os.abort()": "ended by signal 6",
    "bytearray(1 << 40)": "MemoryError at",
}


@pytest.mark.parametrize("what", KINDS)
def test_each_kind_of_foreign_exception_is_written_down_once(tmp_path, what):
    arguments = ["fuzz", "--minutes", "0.03", "--seed", "1", "--out", str(tmp_path / "found")]
    command = [sys.executable, "-c", BROKEN.format(what=what, arguments=arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=100)
    assert " cases, " in done.stdout
    if said := KINDS[what]:
        found = [json.loads(line)["said"] for line in (tmp_path / "found").read_text().splitlines()]
        assert len([line for line in found if line.startswith(said)]) == 1
