# Two commands for a fresh machine: `make demo` and `make test`. Both set up .venv once, from constraints.txt.
#
#   PYTHON=python3.12 make setup      another Python (3.10 or newer)
#   PIP_FLAGS="--index-url …" make setup   another package index, say one with CPU-only or another CUDA's builds of torch

PYTHON ?= python3
PIP_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SHELL := /bin/bash

.PHONY: help setup demo test coverage lint clean

help:
	@echo "make demo     set up, then phantoms → training → release → evaluation → audit → report (a few minutes)"
	@echo "make test     set up, then the linters and the whole test suite"
	@echo "make setup    only the environment, in $(VENV)"
	@echo "make lint     ruff and mypy"
	@echo "make coverage the suite again, and which lines no test runs"

setup: $(STAMP)

# torch first and alone: its pin decides which build (CPU or CUDA) everything after it is resolved against.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "imgsynth needs Python 3.10 or newer; $(PYTHON) is older. Try: PYTHON=python3.12 make setup"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[encoders,ocr,dev]'
	@touch $(STAMP)

demo: setup
	$(BIN)/imgsynth run experiment=demo output=runs/demo

test: setup lint
	$(BIN)/pytest -n 2 --dist worksteal --durations=25

# Apart from `make test`, since tracing every line makes the tests half as long again.
coverage: setup
	$(BIN)/pytest -n 2 --dist worksteal --cov --cov-report=term

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) runs/demo
