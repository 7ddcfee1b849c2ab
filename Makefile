# Run `make` to see what there is.

VENV ?= .venv
PYTHON ?= python3
# Another index for torch, e.g. https://download.pytorch.org/whl/cpu. Empty: pip's own choice.
TORCH_INDEX ?=
# INSTALL=no: VENV already holds everything, as an active environment may.
INSTALL ?= yes
# Test processes; each uses one thread.
WORKERS ?= 2
# For `make embedded`: FROM=shipped warm-starts from the shipped weights, HOURS bounds the time.
# SHIP=yes puts the result into the package. DEVICE=cuda SHAPE=large trains the larger shape on one GPU.
FROM ?=
HOURS ?=
SHIP ?=
DEVICE ?=
SHAPE ?=

BIN := $(VENV)/bin
READY := $(if $(filter no,$(INSTALL)),,$(VENV)/.installed)
ONE_THREAD := OMP_NUM_THREADS=1
PYTEST := $(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS)

.DEFAULT_GOAL := help
.PHONY: help install demo test check check-full lint embedded clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install -c constraints.txt --index-url $(TORCH_INDEX) torch)
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	touch $@

install: $(READY) ## install semblant and its tools into VENV (default .venv), once

demo: $(READY) ## fit one portrait on the embedded base, sample, measure, write demo/report.html
	$(BIN)/semblant demo --out demo

test: lint ## everything CI runs: the checks and every test
	$(PYTEST)

check: lint ## format, lint, types, import contracts and the fast tests
	$(PYTEST) -m "not slow"

check-full: $(READY) ## the laws on a base of true size (860 million weights): half an hour, 20 GB of memory
	SEMBLANT_FULL=1 $(BIN)/python -m pytest tests/full

lint: $(READY) ## format, lint, types and import contracts alone
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

embedded: $(READY) ## train the embedded base and its judges from nothing (FROM=shipped HOURS=4 SHIP=yes)
	$(BIN)/python -m semblant.embedded.train $(if $(FROM),--from $(FROM)) $(if $(HOURS),--hours $(HOURS)) $(if $(SHIP),--ship) \
		$(if $(DEVICE),--device $(DEVICE)) $(if $(SHAPE),--shape $(SHAPE))

clean: ## remove caches, build products and demo/; VENV stays
	rm -rf build dist demo semblant.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find semblant tests -type d -name __pycache__ -prune -exec rm -rf {} +
