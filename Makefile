# make run | make test | make check: each sets up .venv from requirements.lock on a fresh machine first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run test check setup lock

run: setup
	$(BIN)/mugv run

# Whole files go to two processes of one thread each; tests/conftest.py puts the longest files first.
test: setup
	$(BIN)/python -m pytest tests -n 2 --dist loadfile --no-loadscope-reorder --durations 20

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m mugv.platform.component_docs --check

setup: $(STAMP)

# torch first and by name: a version of torch with CUDA libraries must never be pulled in by another package.
$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $$(command -v $(PYTHON) || command -v python3) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $$(grep -E '^torch==' requirements.lock)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(STAMP)

lock:
	$(BIN)/pip freeze --exclude-editable | grep -v ' @ ' > requirements.lock
