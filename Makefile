# make serve, make test: everything else is a convenience. `make help` lists it.
# On Debian 12 and Ubuntu 24.04 nothing but git, make and python3 has to be there before.

VENV := .venv
BIN := $(VENV)/bin
DATA ?= ./data
LISTEN ?= 127.0.0.1:5000
ARGS ?=
BENCH_ARGS ?=
RELEASE ?= bookworm
# `clients` also installs docker, podman and skopeo for the tests that use them.
TEST_PACKAGES ?= test

# Tests wait for disks and processes: one more than there are processors keeps these busy. tests/conftest.py says what
# stays together. ARGS=-n0: one at a time.
TEST_PROCESSES ?= $(shell expr $$(nproc) + 1)
PYTEST_PARALLEL ?= --numprocesses=$(TEST_PROCESSES) --maxprocesses=4 --dist=loadscope --no-loadscope-reorder --durations=15

PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
ENGINE_SOURCES := $(wildcard native/include/*.h native/src/*.c native/src/*.h) native/build_engine.py setup.py

.DEFAULT_GOAL := help
# Hours of the tests that CI runs for seconds. The seed is printed; SEED=... repeats a soak.
SEED ?= $(shell date +%s)
FUZZ ?= 100
SOAK_CRASH_POINTS ?= 1000000
FUZZ_SECONDS ?= 3600
SOAK_KILL_ROUNDS ?= 2000
SOAK_UPLOAD_KILLS ?= 500
SOAK_LAYER_MIB ?= 2048
SOAK_ORACLE_EXAMPLES ?= 5000

.PHONY: help serve test lint bench fuzz-engine coverage soak fuzz test-minimal dist clean
.DELETE_ON_ERROR:

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: $(VENV)/.serve ## Set up what is missing and run the embedded registry (DATA=./data LISTEN=127.0.0.1:5000)
	@exec $(BIN)/speedy serve --data $(DATA) --listen $(LISTEN) $(ARGS)

test: $(VENV)/.test ## Set up what is missing, check style and types, run all tests (ARGS="-k name")
	@status=0; $(MAKE) --no-print-directory lint || status=1; \
	$(BIN)/python -m pytest $(PYTEST_PARALLEL) $(ARGS) || status=1; exit $$status

lint: $(VENV)/.test ## Check style (ruff) and types (mypy --strict)
	$(BIN)/ruff check .
	$(BIN)/mypy --strict

bench: $(VENV)/.serve ## Measure push and pull of a running registry (BENCH_ARGS="--target name=url")
	$(BIN)/python -m benchmarks.registry $(BENCH_ARGS)

soak: $(VENV)/.test ## Fault tests for hours: 1,000,000 power cuts, failing calls, kills of the engine and under uploads (SEED=1)
	@echo "SEED=$(SEED)"
	SPEEDY_SEED=$(SEED) SPEEDY_CRASH_POINTS=$(SOAK_CRASH_POINTS) SPEEDY_KILL_ROUNDS=$(SOAK_KILL_ROUNDS) \
	SPEEDY_ORACLE_EXAMPLES=$(SOAK_ORACLE_EXAMPLES) SPEEDY_FAULT_STRIDE=1 \
	$(BIN)/python -m pytest -s $(addprefix tests/native/test_,simulated.py kill.py oracle.py engine_c.py) $(ARGS)
	SPEEDY_SEED=$(SEED) SPEEDY_UPLOAD_KILLS=$(SOAK_UPLOAD_KILLS) SPEEDY_LAYER_MIB=$(SOAK_LAYER_MIB) \
	$(BIN)/python -m pytest -s -o timeout=0 tests/cluster/test_resume.py $(ARGS)

fuzz: $(VENV)/.test ## The routes' fuzz tests with 100 times as many examples as in CI (FUZZ=, ARGS="--hypothesis-seed=1")
	SPEEDY_SOAK=$(FUZZ) $(BIN)/python -m pytest -o timeout=0 tests/hostile $(ARGS)

fuzz-engine: $(VENV)/.test ## libFuzzer on each of the engine's files for FUZZ_SECONDS=3600 (clang, libclang-rt-14-dev)
	SPEEDY_SEED=$(SEED) SPEEDY_FUZZ_S=$(FUZZ_SECONDS) SPEEDY_TEST_REQUIRE_ALL=1 \
	$(BIN)/python -m pytest -s tests/native/test_fuzz.py $(ARGS)

coverage: $(VENV)/.test ## Which lines of the engine the tests reach, and which not (COVERAGE.md says why)
	$(BIN)/python -m tests.native.coverage

test-minimal: ## As root: `make serve` in a system that holds only git, make and python3 (RELEASE=bookworm or noble)
	bash tests/packaging/minimal_system.sh serve $(RELEASE)

dist: $(VENV)/.test ## Build sdist and wheel into ./dist
	$(BIN)/python -m build

clean: ## Remove what was built; ./data stays
	rm -rf $(VENV) build dist *.egg-info native/_engine*.so native/_engine.c native/_engine.o
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# The stamps keep a second start off the network: what they depend on says when the set-up has to run again.
# The engine's own build tools live in the environment, so that a change in C is rebuilt without network too.
$(VENV)/.serve: setup.cfg pyproject.toml constraints.txt $(ENGINE_SOURCES) scripts/system-packages.sh
	@python=$$(scripts/find-python.sh) && \
	scripts/system-packages.sh "$$python" serve && \
	echo "Setting up $(VENV) with $$python (the first time takes about a minute)" && \
	{ [ -x $(BIN)/python ] && $(BIN)/python -c '' 2>/dev/null || "$$python" -m venv --clear $(VENV); }
	@$(PIP) 'setuptools>=68' wheel cffi
	@$(PIP) --no-build-isolation --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.serve
	@scripts/system-packages.sh $(BIN)/python $(TEST_PACKAGES)
	@$(PIP) --no-build-isolation --editable '.[test,lint]'
	@touch $@
