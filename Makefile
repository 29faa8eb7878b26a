# Every target does its own set-up: a machine with Python >= 3.11, git and make is enough. No compiler, no root.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Wheels only: a package without one for this platform should say so, not look for a compiler.
LOCKED := $(PIP) --only-binary :all: --require-hashes

# `python3` may be an old one, and a name on PATH may be a shim with nothing behind it: the first that runs and is new
# enough is taken. `make PYTHON=/path/to/python` overrides.
CANDIDATES := python3.13 python3.12 python3.11 python3.14 python3 python
PYTHON = $(shell for one in $(CANDIDATES); do \
	"$$one" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$one"; break; }; \
	done)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-long test-encrypted test-floors test-image lint bench soak screens screenshots lock sbom audit clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

# Two stamps on one environment: what the product needs, and what developing it needs on top.
$(VENV)/.python:
	@test -n "$(PYTHON)" || { \
		echo "stockpot needs Python 3.11 or newer with the venv module; none of these is one: $(CANDIDATES)" >&2; \
		echo "Install one (on Debian and Ubuntu also the package python3-venv), or name it: make PYTHON=/path/to/python" >&2; \
		exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@
$(VENV)/.run: $(VENV)/.python requirements.lock pyproject.toml
	@echo "Installing what Stockpot needs into $(VENV)"
	@$(LOCKED) -r requirements.lock
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@
$(VENV)/.dev: $(VENV)/.run requirements-dev.lock
	@echo "Installing what its tests and linters need"
	@$(LOCKED) -r requirements-dev.lock
	@touch $@

demo: $(VENV)/.run ## the main job, end to end, on this machine: tokens, answers, cost
	@$(BIN)/stockpot demo

# Three at a time on two cores: a fault test mostly waits for what it broke. A test has its own limit of time (pyproject.toml),
# which one that holds the interpreter's lock for ever does not hear of; its process ends, and the test has failed.
HANGS := -o faulthandler_timeout=900 -o faulthandler_exit_on_timeout=true
test: $(VENV)/.dev ## the whole suite, against real Valkey and PostgreSQL (PYTEST_ARGS="-k name" for a part)
ifdef PYTEST_ARGS
	$(BIN)/python -m pytest $(PYTEST_ARGS)
else
	$(BIN)/python -m pytest -n 3 --dist worksteal -m "not long" $(HANGS)
endif

test-long: $(VENV)/.dev ## the long variants of fault tests that `make test` leaves out
	$(BIN)/python -m pytest -m long

test-encrypted: $(VENV)/.dev ## the suite with payloads encrypted at rest, by default for every test
	TESTS_ENCRYPTED=1 $(BIN)/python -m pytest -n 3 --dist worksteal -m "not long" $(HANGS) $(PYTEST_ARGS)

# The lowest versions that pyproject.toml allows, in an environment of their own: units, and a real worker on both databases.
# Left out: a comparison with openai 3, which asks for a newer anyio. It is no part of `make test`, which has one environment:
# this one costs a minute to make and more than another to run, and only a change of pyproject.toml or of a lock can break it alone.
FLOORS := $(VENV)-floors
$(FLOORS)/.done: requirements-floors.lock pyproject.toml
	@$(PYTHON) -m venv --clear $(FLOORS)
	@$(FLOORS)/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r requirements-floors.lock
	@$(FLOORS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
ON_FLOORS := tests/unit $(addprefix tests/integration/test_, producer_submit.py producer_sse.py producer_follow.py light_producer.py \
	callers_transaction.py db_claim.py db_settle.py redis_neighbours.py engine_outcomes.py gateway_chat.py)
test-floors: $(FLOORS)/.done ## the lowest versions that are allowed: units, a worker on both databases, streams, the gateway
	$(FLOORS)/bin/python -m pytest -n 2 -m "not long" --ignore tests/unit/test_accumulate_chat.py $(ON_FLOORS)

test-image: $(VENV)/.dev ## the image built and run as nobody on a read-only root (root, Debian's buildah, mmdebstrap and bubblewrap)
	$(BIN)/python -m pytest tests/journey/test_image_run.py -rs

lint: $(VENV)/.dev ## linters, strict types, the import contract, container and compose files
	@$(BIN)/python -m tests.lint

bench: $(VENV)/.dev ## the benchmarks with their peers; writes ops/bench/RESULTS.md (BENCH_ARGS=--quick: ten minutes)
	$(BIN)/python -m ops.bench $(BENCH_ARGS)

soak: $(VENV)/.dev ## the long seeded fault run: make soak MINUTES=60 SEED=7
	$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),5) $(if $(SEED),--seed $(SEED))

screens: $(VENV)/.dev ## accept what the commands show now: tests/integration/screens is written anew
	rm -f tests/integration/screens/*.txt
	TESTS_ACCEPT_SCREENS=1 $(BIN)/python -m pytest -q tests/integration/test_cli_at_80_columns.py
	git diff --stat -- tests/integration/screens

screenshots: $(VENV)/.dev ## pictures of every page of the dashboard, into build/screenshots (needs Chromium)
	$(BIN)/python -m tests.screenshots

RESOLVE := uv pip compile --quiet pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes --group build
lock: ## resolve the dependencies again (needs uv)
	$(RESOLVE) -o requirements.lock
	$(RESOLVE) --group test --group lint --group bench -o requirements-dev.lock
	$(RESOLVE) --group floors --resolution lowest-direct --only-binary :all: -o requirements-floors.lock

AUDIT := $(VENV)-audit/bin
$(VENV)-audit/.done: Makefile
	@$(PYTHON) -m venv --clear $(VENV)-audit
	@$(AUDIT)/python -m pip install --quiet --disable-pip-version-check cyclonedx-bom==7.5.0 pip-audit==2.10.1
	@touch $@

sbom: $(VENV)-audit/.done ## what the image is built with, as CycloneDX: build/sbom.cdx.json
	@mkdir -p build && $(AUDIT)/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml --output-reproducible -o build/sbom.cdx.json
	@echo build/sbom.cdx.json

# Without --strict what the feed does not know is left out, and the audit of nothing is a success.
audit: $(VENV)-audit/.done ## known weaknesses of the locked dependencies (needs PyPI's or OSV's advisory feed: AUDIT_ARGS="-s osv")
	@$(AUDIT)/pip-audit --strict --progress-spinner off --disable-pip --require-hashes -r requirements.lock $(AUDIT_ARGS) || { \
		echo "Not passed. Where no weakness is listed above, the advisory feed could not be asked, and nothing was audited." >&2; exit 1; }

clean: ## remove the environment and what runs left behind
	rm -rf $(VENV) $(VENV)-audit $(VENV)-floors var .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
