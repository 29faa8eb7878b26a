# Every target does its own set-up: a machine with Python >= 3.11, git and make is enough.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help
.PHONY: help demo test lint bench soak lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-7s %s\n", $$1, $$2}'

# Two stamps on one environment: what the product needs, and what developing it needs on top.
$(VENV)/.python: 
	$(PYTHON) -m venv $(VENV)
	@touch $@
$(VENV)/.run: $(VENV)/.python requirements.lock pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
$(VENV)/.dev: $(VENV)/.run requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

demo: $(VENV)/.run ## the main job, end to end, on this machine: tokens, answers, cost
	$(BIN)/stockpot demo

test: $(VENV)/.dev ## the whole suite, against real Valkey and PostgreSQL
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.dev ## linters, strict types, the import contract, container and compose files
	$(BIN)/python -m tests.lint

bench: $(VENV)/.dev ## the benchmarks with their peers; writes ops/bench/RESULTS.md
	$(BIN)/python -m ops.bench $(BENCH_ARGS)

soak: $(VENV)/.dev ## the long seeded fault run: make soak MINUTES=60 SEED=7
	$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),5) $(if $(SEED),--seed $(SEED))

lock: ## resolve the dependencies again (needs uv)
	uv pip compile -q pyproject.toml --all-extras --group build --universal --python-version 3.11 --generate-hashes -o requirements.lock
	uv pip compile -q pyproject.toml --all-extras --group build --group test --group lint --group bench --universal --python-version 3.11 --generate-hashes -o requirements-dev.lock

clean: ## remove the environment and what runs left behind
	rm -rf $(VENV) var .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
