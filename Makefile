# `make demo` and `make test` are all a fresh machine with Python 3.10+ and make needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint types check benchmark clean

demo: $(VENV)/installed
	$(BIN)/excise demo --out runs/demo

# A file of tests is one process's, with one thread: tiny models gain nothing from more. In their own order, which has the
# longest files early.
test: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir build/site

types: $(VENV)/ready
	$(BIN)/mypy

check: lint types test

benchmark: $(VENV)/ready
	$(BIN)/python -m benchmarks.closed_form --shape sd15 --concepts 100

# What the package needs; with what its tests and checks need as well.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/ready: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) runs
