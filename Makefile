# Everything runs from `.venv`, which `make install` builds from requirements.lock. Python 3.11 or 3.12 and
# make are all that has to be there.
PYTHON ?= python3
BIN := .venv/bin
# Container images often set it; every process would then compile the libraries anew, which takes ten seconds.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo serve test lint types check bench chaos lock clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

install: .venv/installed  ## build .venv

.venv/installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
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

lock: install  ## pin what pyproject.toml asks for
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --group dev --no-emit-index-url \
		--no-annotate --no-header pyproject.toml --output-file requirements.lock

clean:  ## remove what was made, not what was installed
	rm -rf data/*/ artifacts/*/ .prefect
