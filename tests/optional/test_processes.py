"""The rows of docs/processes.md that need a library: `pip install -e ".[test,processes]"`."""

import pytest
from ways import LIBRARIES, run_way


@pytest.mark.parametrize("name", LIBRARIES)
def test_vectors_are_the_same_in_the_processes_of(name, tmp_path):
    pytest.importorskip(LIBRARIES[name])
    run_way(name, tmp_path)
