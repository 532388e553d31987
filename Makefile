# What one types in a checkout; `make help` lists it. Everything is made from nothing when it is first needed, and
# again only when what it is made from has changed. ARGS='…' passes flags on to the program behind a target.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
COMPILE := $(BIN)/uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev
FUZZ := $(VENV)/.fuzz
LOCKS := requirements.lock requirements-build.lock requirements-dev.lock

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test test-k8s test-fast e2e lint format goldens bench soak fuzz lock deb apt-repo image clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(RUNTIME) ## run a small mesh on this machine and show it working (ARGS='--duration 10s --json')
	@$(BIN)/meshd demo $(ARGS)

test: $(DEV) ## every test; those whose peers cannot be had are skipped and say so (ARGS='-k pools')
	@scripts/setup-system test
	@scripts/test $(ARGS)

test-k8s: $(DEV) ## the mesh and discovery at a real cluster: KUBECONFIG=FILE IMAGE=NAME, of meshd, for its nodes to pull
	@test -r "$(KUBECONFIG)" && test "$(IMAGE)" || { \
		echo "make test-k8s KUBECONFIG=FILE IMAGE=NAME: the cluster to test at, and meshd's image" >&2; exit 2; }
	MESHD_TEST_KUBECONFIG="$(abspath $(KUBECONFIG))" MESHD_TEST_IMAGE="$(IMAGE)" $(BIN)/python -m pytest $(ARGS) \
		-k 'applications or kubernetes' tests/integration/test_applications.py \
		tests/integration/test_discovery_kubernetes.py tests/integration/test_discovery_backends.py

test-fast: $(DEV) ## the tests that open no socket to speak of: seconds
	$(BIN)/python -m pytest -q tests/unit $(ARGS)

e2e: $(DEV) ## the tests on booted hosts, which are among `make test`; as root (SUITE=trixie: on such ones, too)
	@scripts/setup-system test
	MESHD_TEST_SUITE=$(SUITE) $(BIN)/python -m pytest tests/e2e $(ARGS)

lint: $(DEV) ## style, types and the import arrows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV) ## lay the code out as lint expects it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

goldens: $(DEV) ## write anew what install and inject are expected to print, for somebody to read what became different
	$(BIN)/python -m tests.support.installs
	$(BIN)/python -m tests.support.injections

bench: $(DEV) ## compare the proxy with others on this machine (ARGS='--rounds 9 http1')
	@scripts/setup-system bench
	$(BIN)/python -m bench $(ARGS)

soak: $(DEV) ## traffic of every kind while processes are killed and come back (ARGS='--duration 30m --json')
	@$(BIN)/python -m tests.soak $(ARGS)

fuzz: $(FUZZ) ## look for inputs that a codec gets wrong (ARGS='http1_request --seconds 60'; ARGS=-h lists them)
	@$(BIN)/python -m fuzz $(ARGS)

lock: $(DEV) ## write the locks anew from pyproject.toml (ARGS=--upgrade for the newest versions)
	$(COMPILE) pyproject.toml -o requirements.lock $(ARGS)
	$(COMPILE) pyproject.toml --extra dev -c requirements.lock -o requirements-dev.lock $(ARGS)
	$(COMPILE) --group fuzz -c requirements-dev.lock -o requirements-fuzz.lock $(ARGS)
	$(COMPILE) --group build -c requirements-dev.lock -o requirements-build.lock $(ARGS)

deb: $(DEV) ## the Debian package, into dist/, for this machine's release, or into dist/SUITE (SUITE=trixie)
	@packaging/deb/build $(if $(SUITE),-s $(SUITE) -o dist/$(SUITE)) $(ARGS)

apt-repo: ## an apt repository with the packages in dist/, signed: KEY=FINGERPRINT (SUITE=trixie)
	@packaging/deb/apt-repo -k "$(KEY)" $(if $(SUITE),-s $(SUITE)) $(ARGS)

image: $(DEV) ## the image for clusters, with buildah or docker (ARGS='-t NAME:TAG -b BASE')
	@packaging/image/build $(ARGS)

clean: ## remove everything that was made here, the environment too
	rm -rf $(VENV) build dist bench/results/tmp .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .fuzz
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment ------------------------------------------------------------------------------------------------
# In two steps, since what a demo needs comes in a tenth of the bytes. A stamp lies in the environment that it speaks of,
# so that it goes when the environment does; that is also why the interpreter is an order-only prerequisite.

$(BIN)/python:
	@PYTHON=$(PYTHON) scripts/setup-system venv
	@echo "setting up $(VENV): once, and again when the locks change"
	@$(PYTHON) -m venv --clear $(VENV)

$(RUNTIME): requirements.lock requirements-build.lock pyproject.toml | $(BIN)/python
	@echo "installing what meshd needs to run"
	@$(PIP) --require-hashes -r requirements.lock -r requirements-build.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): requirements-dev.lock $(RUNTIME)
	@echo "installing what tests, lints and benchmarks need"
	@$(PIP) --require-hashes -r requirements-dev.lock
	@touch $@

$(FUZZ): requirements-fuzz.lock $(DEV)
	@echo "installing the fuzzer"
	@$(PIP) --require-hashes -r requirements-fuzz.lock
	@touch $@
