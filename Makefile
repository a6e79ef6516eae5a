# The two promises: `make demo` runs the main job, `make test` passes the tests. Everything else serves them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Without compiled bytecode every start of Airflow takes twice as long.
unexport PYTHONDONTWRITEBYTECODE

# What tests write goes with them: into memory, if there is room for it there, as thousands of small files take a disk long.
SCRATCH := $(shell df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 && $$4 > 4000000 { print "TMPDIR=/dev/shm" }')

.DEFAULT_GOAL := help
.PHONY: help install demo up clean test lint types suites unit integration system constraints

help:
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP)  ## build .venv with the pinned packages, compiled

$(STAMP): pyproject.toml constraints.txt tools/install.sh
	PYTHON=$(PYTHON) sh tools/install.sh $(VENV)
	@touch $(STAMP)

demo: install  ## run the main job: a year of flights through the loops in a real Airflow
	$(BIN)/python -m tools.demo run

up: install  ## start the demo's services and keep the UI running for a look around
	$(BIN)/python -m tools.demo up

clean:  ## wipe what the demo and the tests wrote (the virtual environment stays)
	rm -rf .demo .mlops .pytest_cache .mypy_cache .ruff_cache

# Side by side: Airflow of the system tests waits much of its time, and the others work then.
test: lint  ## lint, types and all tests
	@$(MAKE) --no-print-directory -j3 types suites system

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

# In one go: while a test of one kind waits, one of the other can work.
suites: install
	$(SCRATCH) $(BIN)/pytest tests/unit tests/integration -n 3 --dist loadfile

unit: install
	$(SCRATCH) $(BIN)/pytest tests/unit -n 3

integration: install
	$(SCRATCH) $(BIN)/pytest tests/integration -n 2 --dist loadfile

system: install
	$(SCRATCH) $(BIN)/pytest tests/system

constraints: install  ## pin again, for Python 3.11 to 3.13
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 \
		--no-header --no-annotate --upgrade -q -o constraints.txt
