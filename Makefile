# make run | make test | make check | make gpu-kit: each sets up .venv from requirements.lock on a fresh machine first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -ec
PIP := $(BIN)/pip install --disable-pip-version-check --progress-bar off
# pip's own lines are one a package; these say that it goes on.
TOLD := awk '/^Collecting/ && ++n % 40 == 0 {print "  " n " packages found"} /^Installing/ {print "  unpacking"} {fflush()}'

.PHONY: run test check gpu-kit setup lock images test-images test-pods test-api-server test-slurm

run: setup
	$(BIN)/mugv run

# Whole files go to two processes of one thread each; tests/conftest.py puts the longest files first.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 20

# Compiled pipelines one pod at a time, with everything that can break: needs root (namespaces). Ten minutes.
test-pods: setup
	$(BIN)/python -m pytest tests/pods -x --durations 10

# A whole run on a real Slurm of two nodes on this machine, from Debian's packages (as root): stopped, preempted, cancelled. Ten minutes.
test-slurm: setup
	$(BIN)/python -m pytest tests/slurm -x --durations 10

# Our cluster objects and the life of a TrainJob against Kubernetes' own server of custom resources, which is built once, in about five
# minutes, from Debian's packages (as root).
API_SERVER ?= $(HOME)/.cache/mugv/api-server
test-api-server: setup
	tests/api_server/build.sh $(API_SERVER)
	MUGV_API_SERVER=$(API_SERVER) $(BIN)/python -m pytest tests/api_server --durations 10

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python images/locks.py check
	$(BIN)/python -m mugv.platform.component_docs --check
	$(BIN)/python -m mugv.cli.reference_docs --check

# Both images; without a registry on a base that is bootstrapped from Debian's packages. Settings: images/build.py.
images: setup
	$(BIN)/python images/daemon.py $(BIN)/python images/build.py

# What is in the images, and the micro recipe with every task in its own: 15 minutes from nothing, 8 of them building.
test-images: export TAG := test
test-images: images
	$(BIN)/python images/daemon.py $(BIN)/python -m pytest tests/images --durations 10

# What benchmarks/gpu/run.sh needs on a GPU machine without network.
gpu-kit: setup
	$(BIN)/python -m benchmarks.gpu.kit make

setup: $(STAMP)

# torch first and by name: a version of torch with CUDA libraries must never be pulled in by another package.
$(STAMP): requirements.lock pyproject.toml
	@echo "set-up, once: 2 to 10 minutes by processor and network (3 GB in $(VENV))"
	@echo "1/4 a virtual environment in $(VENV)"
	@test -x $(BIN)/python || $$(command -v $(PYTHON) || command -v python3) -m venv $(VENV)
	@echo "2/4 torch for CPUs"
	@$(PIP) $$(grep -E '^torch==' requirements.lock) | $(TOLD)
	@echo "3/4 the other $$(grep -c == requirements.lock) packages of requirements.lock"
	@$(PIP) -r requirements.lock | $(TOLD)
	@echo "4/4 mugv itself"
	@$(PIP) --no-deps --no-build-isolation -e . | $(TOLD)
	@touch $(STAMP)
	@echo "set up: $$(du -sh $(VENV) | cut -f1) in $(VENV)"

# requirements.lock from what is installed, and from it the lock of each image.
lock:
	$(BIN)/python images/locks.py freeze
