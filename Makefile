# Two commands do all the set-up: `make demo` and `make test`. Everything is made once and kept:
# the environment in .venv, binaries and images in ${XDG_CACHE_HOME:-~/.cache}/trainyard.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/trainyard
# Not the one of the environment itself, which is removed when that is made anew.
UV := $(or $(filter-out $(CURDIR)/.venv/bin/uv,$(shell command -v uv)),$(CACHE)/uv/bin/uv)
PYTHON := .venv/bin/python
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: demo
demo: .venv ## Start a cluster, install Trainyard, and watch a job of each kind train
	@$(PYTHON) -m tests.demo up

.PHONY: demo-down
demo-down: .venv ## End the demo's cluster
	@$(PYTHON) -m tests.demo down

.PHONY: test
test: check test-all ## Run the checks and the tests, against a real cluster

.PHONY: test-all
test-all: .venv
	@$(PYTHON) -m tools.localcluster prepare
	@$(PYTHON) -m pytest

# MINUTES selects a random sample of that duration, by SEED; without it all of them run.
.PHONY: test-long
test-long: .venv ## Run what takes hours, or is built on first use
	@$(PYTHON) -m tools.localcluster prepare
	@$(PYTHON) -m pytest -m long $(if $(MINUTES),--long-minutes $(MINUTES) --long-seed '$(SEED)')

.PHONY: test-quick
test-quick: .venv ## Run the tests that need no cluster
	@$(PYTHON) -m pytest tests/unit

.PHONY: check
check: .venv ## Lint, types, and the dependencies between packages
	@ruff check .
	@ruff format --check .
	@mypy
	@lint-imports --no-logo

.PHONY: audit
audit: $(UV) ## Look up known vulnerabilities of the pinned dependencies (needs pypi.org)
	@$(UV) tool run pip-audit==2.10.1 --strict --no-deps --disable-pip -r constraints.txt

.PHONY: cluster
cluster: .venv ## Start the local cluster with the images loaded
	@$(PYTHON) -m tools.localcluster up
	@$(PYTHON) -m tools.localcluster load-image trainyard-operator:0.1.0 trainyard-trainer:0.1.0

.PHONY: cluster-down
cluster-down: .venv ## End the local cluster
	@$(PYTHON) -m tools.localcluster down

.PHONY: manifests
manifests: .venv ## Write plain manifests to dist/trainyard.yaml, with IMAGE as the operator's
	@mkdir -p dist
	@$(PYTHON) -m tools.localcluster helm template trainyard manifests/charts/trainyard \
		--namespace trainyard-system --set namespace.create=true \
		$(if $(IMAGE),--set image.repository=$(IMAGE)) > dist/trainyard.yaml
	@echo "dist/trainyard.yaml"

.PHONY: constraints
constraints: $(UV) ## Pin the newest versions of all dependencies
	@$(UV) pip compile pyproject.toml --upgrade --extra operator --extra trainer --extra data \
		--extra test --extra bench --python-version 3.11 --no-annotate --no-header -q -o constraints.txt

.venv: pyproject.toml constraints.txt | $(UV)
	@echo "Making the Python environment (.venv)"
	@$(UV) venv -q --clear --python "$$(command -v python3)" .venv
	@$(UV) pip install -q --python $(PYTHON) -c constraints.txt -e '.[operator,trainer,data,test,bench]' \
		|| { rm -rf .venv; exit 1; }  # else it would pass for made
	@touch .venv

$(CACHE)/uv/bin/uv:
	@echo "Installing uv, which makes environments in seconds"
	@mkdir -p $(CACHE)
	@python3 -m venv $(CACHE)/uv || { echo "python3-venv is missing: on Debian, apt-get install python3-venv"; exit 1; }
	@$(CACHE)/uv/bin/pip install -q uv
