# `make run` and `make test` set up a fresh machine by themselves; see README.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.PHONY: setup run test check faults fuzz bench docs clean

setup: $(STAMP)

# Old pips (Debian 12 has 23.0) build seqeval in a way that fails today, unless told to build it as newer ones do.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 -c constraints.txt -e ".[dev]"
	@touch $@

run: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m idarts_nni run trials/experiments/ptb_tiny.yaml

test: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fuzz: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,fuzz]"
	$(BIN)/python -m tests.fuzz

faults: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests.faults

bench: setup
	$(BIN)/python -m tests.benchmarks

docs: setup
	PYTHONPATH="$(CURDIR)" $(BIN)/python docs/build.py build/docs

clean:
	rm -rf $(VENV) build *.egg-info
