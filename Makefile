# The verbs of this repository; .ci/run calls the same ones. PYTHON is the interpreter of your virtual environment.
PYTHON ?= python

.PHONY: setup format lint types test parity notebooks bench

setup:      ; $(PYTHON) -m pip install -c constraints.txt -e ".[dev]"
format:     ; $(PYTHON) -m ruff format . && $(PYTHON) -m ruff check --fix .
lint:       ; $(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check .
types:      ; $(PYTHON) -m mypy
test:       ; $(PYTHON) -m pytest
parity:     ; $(PYTHON) -m pytest tests/parity
notebooks:  ; STEPS=24 $(PYTHON) tools/run_notebooks.py --timeout 600  # where a model is trained: so many steps
bench:      ; $(PYTHON) -m pip install -c constraints.txt -e ".[bench]" && $(PYTHON) tools/bench
