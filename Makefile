# Everything runs from `.venv`, which `make install` builds from requirements.lock. Python 3.11 or 3.12 and
# make are all that has to be there.
BIN := .venv/bin
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
# An environment of another Python, one that was moved, or one without pip is made anew.
SOUND := import os, pip; os.path.abspath('.venv/bin/python') in open('.venv/bin/pip').read() or exit(1); $(SUPPORTED)
PYTHON ?= $(or $(shell for p in python3 python3.12 python3.11; do $$p -c "$(SUPPORTED)" 2>/dev/null && echo $$p && break; done),\
	$(error Python 3.11 or 3.12 is needed; set PYTHON=/path/to/one))
# Container images often set it; every process would then compile the libraries anew, which takes ten seconds.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: anew help install demo serve test lint types check bench chaos fuzz lock clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

install: .venv/installed  ## build .venv

.venv/installed: requirements.lock pyproject.toml $(shell $(BIN)/python -c "$(SOUND)" 2>/dev/null || echo anew)
	$(BIN)/python -c "$(SOUND)" 2>/dev/null || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

demo: install  ## both flows on embedded parts: list to report in minutes
	$(BIN)/python -m flows.demo

serve: install  ## Prefect server, worker and deployments, until Ctrl-C
	$(BIN)/python -m flows.serve

test: install  ## the tests, several files at a time
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: install  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install  ## types
	$(BIN)/basedpyright

bench: install  ## speeds and deviations, as ratios within one run; half an hour without a GPU
	for what in machine threads training generate exactness scoring pipeline loader separation; do \
		$(BIN)/python -m benchmarks $$what || exit 1; done
	$(BIN)/python -m benchmarks.orchestration --songs 1000
	$(BIN)/python -m tests.rehearsal --songs 100 --faults 0

chaos: install  ## fifty SIGKILLs at random moments of the demo; three quarters of an hour
	$(BIN)/python -m tests.chaos

fuzz: install  ## hostile files at every door, for ten minutes
	$(BIN)/python -m tests.fuzz --minutes 10

lock: install  ## pin what pyproject.toml asks for
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --group dev --no-emit-index-url \
		--no-annotate --no-header pyproject.toml --output-file requirements.lock

clean:  ## remove what was made, not what was installed
	rm -rf data/*/ artifacts/*/ .prefect
