# Two commands: `make demo` builds every model for a board, `make test` runs the tests.
# Both set up .venv first; a second run installs nothing.

SHELL := /bin/sh
.SHELLFLAGS := -eu -c
MAKEFLAGS += --no-builtin-rules
.SUFFIXES:
.DEFAULT_GOAL := help

TARGET ?= rpi5
PYTHON ?= $(shell sh tools/find_python.sh)
WORKERS ?= 2
PYTEST_ARGS ?=
BENCH_ARGS ?=
BIN := .venv/bin
READY := .venv/.edgekit-ready

.PHONY: help demo test test-slow lint docs check-install check-mappings clean system-packages
help:
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F'\t' '{printf "  make %-15s %s\n", $$1, $$2}'
	@for f in benchmarks/*.py; do test -f "$$f" && printf '  make bench-%-9s %s\n' "$$(basename $$f .py)" "$$(sed -n '1s/^"""//p' $$f)" || true; done

$(READY): pyproject.toml constraints.txt tools/find_python.sh tools/set_up.py tools/install_torch.py
	@python='$(PYTHON)'; test -n "$$python" || exit 4; "$$python" tools/set_up.py

demo: $(READY) ## Build every model for TARGET (rpi5): a table, signed bundles and reports in dist/
	@$(BIN)/edgekit build --target $(TARGET)

system-packages: $(READY)
	@$(BIN)/python tools/system_packages.py

test: system-packages ## Run the tests (minutes)
	@$(BIN)/python -m pytest -n $(WORKERS) -m "not slow" -rs $(PYTEST_ARGS)

test-slow: system-packages ## Run the tests that take over a minute each
	@$(BIN)/python -m pytest -n $(WORKERS) -m slow -rs $(PYTEST_ARGS)

lint: $(READY) ## Check style, types and the layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy --allow-subclassing-any tools/*.py
	@$(BIN)/lint-imports

docs: $(READY) ## Write docs/reference from the code
	@$(BIN)/python tools/make_reference.py

check-install: $(READY) ## Measure installed sizes and the start-up time
	@$(BIN)/python tools/check_install.py

check-mappings: $(READY) ## Try the mappings against a real Home Assistant and Sparkplug host
	@$(BIN)/python tools/check_mappings.py

bench-%: $(READY)
	@test -f benchmarks/$*.py || { echo "error: no benchmark named $*; there are: $$(cd benchmarks && ls *.py | sed 's/\.py$$//' | tr '\n' ' ')" >&2; exit 2; }
	@$(BIN)/python benchmarks/$*.py $(BENCH_ARGS)

clean: ## Remove .venv, dist and caches of this folder (not the download cache: edgekit cache clear)
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find edgekit tests tools models examples -name __pycache__ -type d -prune -exec rm -rf {} +
