# Everything happens in .venv; all that is needed beforehand is a Python. `make` lists what there is.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# pyright and its node are in their wheels; without this it would ask the index for a newer version.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
# Every process that the tests start would compile all of our modules again.
unexport PYTHONDONTWRITEBYTECODE
SOURCES := domain handlers projections bus adapters labledger

.DEFAULT_GOAL := help
.PHONY: help install demo test check format bench docs clean

help:
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# A Python >= 3.11: the one named, else the newest that is found by its own name.
define find_python
	for python in "$(PYTHON)" python3.13 python3.12 python3.11 python3.14; do \
	  if command -v "$$python" >/dev/null && \
	     "$$python" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo "$$python"; exit 0; fi; \
	done; \
	echo "labledger needs Python 3.11 or newer, and neither $(PYTHON) nor python3.11 ... python3.14 is one." >&2; \
	echo "Install one (python.org, pyenv, your distribution), and name it: make PYTHON=/path/to/python3.12 ..." >&2; \
	exit 1
endef

$(BIN)/python:
	@python="$$($(find_python))" && echo "making $(VENV) with $$python" && "$$python" -m venv $(VENV)
	@# The pip that came with Python 3.11 does the same in three times the time; where there is no other, it will do.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25' || true

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) (the first time takes a minute)"
	@$(PIP) --no-compile --editable '.[dev]'
	@# By all cores, where pip would compile with one. What a package ships that is no Python is no concern of ours.
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	@touch $@

$(VENV)/.bench: $(STAMP)
	@$(PIP) --editable '.[dev,bench]'
	@touch $@

install: $(STAMP) ## set up .venv

demo: $(STAMP) ## a whole lab on this machine, simulated instruments included
	$(BIN)/labledger demo --outside tests.doubles.demo

# Three at a time on two cores, for half of what the tests do with servers and processes is waiting. A file stays in one process.
test: $(STAMP) ## all tests
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

check: $(STAMP) ## format, lint, types, layers, unit tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -q tests/contracts tests/unit

format: $(STAMP) ## put the code into its form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.bench ## the numbers, beside those of others
	$(BIN)/python -m bench

docs: $(STAMP) ## write the generated part of docs/
	$(BIN)/python -m labledger.docs

clean: ## remove all that make has made, but no data of a lab
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find $(SOURCES) tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
