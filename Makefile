# make demo            neuroglancer with a sample; SAMPLE=path.npz shows that one, PORT=n, ARGS="..." more options
# make test            everything that continuous integration checks; also make lint, make torture, make bench
# Each does its own set-up: a virtual environment in .venv, Debian packages where that is allowed.

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
DECLARED := pyproject.toml constraints.txt
READY_FOR_DEMO := $(VENV)/.ready-for-demo
READY_FOR_TEST := $(VENV)/.ready-for-test
BENCH_PORT ?= 8765
SAMPLE ?=
PORT ?=
ARGS ?=

.PHONY: help demo test lint torture torture-journals bench warm browser

help:
	@sed -n 's/^# \(make\)/\1/p' Makefile

demo: $(READY_FOR_DEMO)
	@$(BIN)/dvid-cloud demo $(if $(SAMPLE),--sample "$(SAMPLE)") $(if $(PORT),--port $(PORT)) $(ARGS)

test: browser lint warm
	@$(BIN)/python -m pytest -m "not torture"

lint: $(READY_FOR_TEST)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

torture: warm
	@$(BIN)/python -m pytest -m torture

torture-journals: warm
	@$(BIN)/python -m pytest -m torture --journals small

bench: warm
	@set -e; folder=$$(mktemp -d); \
	DVID_ADMIN_TOKEN=bench $(BIN)/dvid-cloud serve --store "$$folder" --port $(BENCH_PORT) & server=$$!; \
	trap 'kill $$server; wait $$server || true; rm -rf "$$folder"' EXIT; \
	until $(BIN)/python -c 'import urllib.request as u; u.urlopen("http://127.0.0.1:$(BENCH_PORT)/readyz")' 2>/dev/null; \
	do kill -0 $$server || exit 1; sleep 0.2; done; \
	$(BIN)/python -m benchmarks run http://127.0.0.1:$(BENCH_PORT) --admin bench $(ARGS)

# Compiled kernels are kept beside their modules, so that no test or request waits for the compiler.
warm: $(READY_FOR_TEST)
	@$(BIN)/python -m app.kernels.warm

browser:
	@command -v chromium >/dev/null || .ci/packages chromium fonts-dejavu-core || \
	echo "Chromium is not installed: the tests that drive a browser will be skipped"

$(READY_FOR_DEMO): $(DECLARED)
	.ci/venv $(VENV)
	$(INSTALL) --editable '.[demo]'
	@touch $@

$(READY_FOR_TEST): $(DECLARED)
	.ci/venv $(VENV)
	$(INSTALL) --editable '.[test]'
	@touch $@ $(READY_FOR_DEMO)
