# Needs Python 3.11 to 3.13 and make, nothing else. Everything is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: setup demo test lint check bench clean

setup: .venv/dev-installed

.venv/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	"Python 3.11, 3.12 or 3.13 is needed, this is %d.%d: run make PYTHON=/path/to/python3.12" % v)'
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) --editable .
	@touch $@

.venv/dev-installed: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) --editable '.[dev]'
	@touch .venv/installed $@

demo: .venv/installed  ## a whole study on synthetic images: four hospitals, privacy on, secure aggregation
	$(BIN)/fedmodels simulate demo --out "runs/demo-$$(date +%Y%m%d-%H%M%S)"

test: .venv/dev-installed  ## on two cores, one thread of PyTorch on each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --no-loadscope-reorder

lint: .venv/dev-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test  ## all that must pass before a change lands

bench: .venv/dev-installed  ## the tables of simulations/benchmarks, on real data where it is there
	$(BIN)/python -m simulations.benchmarks.studies

clean:
	rm -rf .venv runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
