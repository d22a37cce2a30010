# `make quickstart` and `make test` need Python 3.11 or newer with its venv; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test fast check long clean

quickstart: .venv/.installed  ## phage genomes -> tokens -> two workers -> evaluation -> report
	$(BIN)/python -m pipelines.quickstart

test: .venv/.installed  ## the whole suite
	$(BIN)/python -m pytest -q

fast: .venv/.installed  ## the suite without what takes long
	$(BIN)/python -m pytest -q -m "not slow"

check: .venv/.installed  ## lint and types
	$(BIN)/ruff check .
	$(BIN)/mypy

long: .venv/.installed  ## longer runs; their logs are committed under tests/benchmarks/results
	$(BIN)/python -m tests.benchmarks

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis

# torch first and on its own, so that the rest is resolved around the build that this machine has.
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1), and Python 3.11 or newer is needed; try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "error: $(PYTHON) has no venv; on Debian or Ubuntu: apt install python3-venv"; exit 1; }
	$(BIN)/pip install -q -c constraints.txt torch
	DS_BUILD_OPS=0 $(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $@
