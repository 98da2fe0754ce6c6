# make demo       install, fetch Fashion-MNIST, run `mmreg` at laptop scale, end in a report
# make demo-full  the same, and on to Stage C: what diffusion gains (goes on after `make demo`)
# make test       install, check format, lint and types, run the tests
# make setup      only install (everything, for development)
# make audit      compare the pinned versions with the known vulnerabilities (asks the network)
# make site       the documentation as a site, in build/site; a dead link is an error
# make lint type bench docs clean

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CODE := src tests benchmarks docs

# Tests run in several processes; OpenMP threads that wait for each other beside other busy
# processes are many times slower than one thread.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: demo demo-full test setup lint type bench docs site audit clean
.DELETE_ON_ERROR:

demo: $(VENV)/.core
	$(BIN)/latentsmith run mmreg scale=laptop --until measure

demo-full: $(VENV)/.core
	$(BIN)/latentsmith run mmreg scale=laptop

test: lint type
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

setup: $(VENV)/.dev

lint: $(VENV)/.dev
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)

type: $(VENV)/.dev
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/.dev
	for file in benchmarks/*.py; do echo "== $$file"; $(ONE_THREAD) $(BIN)/python "$$file"; done

# Pages are Markdown, read where they lie. This writes docs/reference/ from the code and checks links
# and the commands shown in all pages; `site` makes a site of them.
docs: $(VENV)/.dev
	$(ONE_THREAD) $(BIN)/python docs/build.py

site: $(VENV)/.dev
	$(BIN)/python docs/make_site.py build/site

# In an environment of its own: pip-audit is no dependency of anything here. It asks a database on
# the network, so it is not part of `make test`.
audit:
	test -x .audit/bin/pip-audit || $(PYTHON) -m venv .audit
	.audit/bin/python -m pip install --quiet pip-audit
	.audit/bin/pip-audit --no-deps --disable-pip -r constraints.txt

# torch goes first and alone: left to the resolver beside other packages, pip may pick a build
# with gigabytes of CUDA libraries. --no-compile: bytecode is written at a module's first import, and
# most modules of these packages never have one; half of the time of an install.
$(VENV)/.torch: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "latentsmith needs Python 3.11 or newer; give one with make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --no-compile "$$(grep '^torch==' constraints.txt)"
	touch $@

$(VENV)/.core: $(VENV)/.torch pyproject.toml
	$(PIP) install --quiet --no-compile -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(PIP) install --quiet --no-compile -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.core

clean:
	rm -rf $(VENV) .audit build dist .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +
