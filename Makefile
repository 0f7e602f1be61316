# Everything happens in .venv and .cache inside this folder; `make` alone lists the targets.

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format bench soak docs notebooks lock clean

PYTHON ?=
PYTEST_ARGS ?= -n 2 --dist loadgroup
CACHE := $(CURDIR)/.cache
STAMP := .venv/.complete

# The interpreter behind the one found, which may be that of an environment, if it is new enough.
BASE := import sys; print(sys._base_executable) if sys.version_info >= (3, 11) else sys.exit(1)

# Packages of the machine or of its user must not leak into the environment.
unexport PYTHONPATH PYTHONHOME
export PYTHONNOUSERSITE := 1
export PIP_USER := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Libraries that keep settings and caches in the home folder keep them here instead. Not for the set-up: the
# installer's own cache serves all clones.
LOCAL := XDG_CACHE_HOME='$(CACHE)' XDG_CONFIG_HOME='$(CACHE)/config' XDG_DATA_HOME='$(CACHE)/data' \
	MPLCONFIGDIR='$(CACHE)/matplotlib' IPYTHONDIR='$(CACHE)/ipython' \
	JUPYTER_CONFIG_DIR='$(CACHE)/jupyter' JUPYTER_DATA_DIR='$(CACHE)/jupyter' JUPYTER_RUNTIME_DIR='$(CACHE)/jupyter' \
	JAXREG_CACHE_DIR='$(CACHE)/jaxreg'
RUN := mkdir -p '$(CACHE)' && $(LOCAL) .venv/bin/python

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) ## Make the environment in .venv from the locked requirements (again when they change)

# The stamp is the last thing written and the first removed: an environment without one was cut short and is made anew.
$(STAMP): requirements/dev.txt pyproject.toml
	@set -e; \
	if [ -e $@ ]; then rm $@; else \
	  for candidate in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python); do \
	    base=$$("$$candidate" -c '$(BASE)' 2>/dev/null) && break || base=; \
	  done; \
	  if [ -z "$$base" ]; then \
	    echo "jaxreg needs Python 3.11 or newer, and $(or $(PYTHON),python3) is not; name one with: make setup PYTHON=path/to/python3" >&2; \
	    exit 1; \
	  fi; \
	  rm -rf .venv; \
	  "$$base" -m venv .venv || { rm -rf .venv; \
	    echo "$$base cannot make virtual environments; install its venv module (on Debian and Ubuntu: python3-venv)" >&2; exit 1; }; \
	fi; \
	echo "Installing the locked requirements into .venv (a minute or two)"; \
	.venv/bin/python -m pip install -qq --no-compile --require-hashes -r requirements/dev.txt; \
	.venv/bin/python -m pip install -qq --no-build-isolation --no-deps --editable .; \
	touch $@

demo: $(STAMP) ## Train five losses on noisy digits and write a report with pictures
	@$(RUN) -m experiments label_noise --preset demo

test: $(STAMP) ## Run all tests, doctests included
	@$(RUN) -m pytest --basetemp='$(CACHE)/pytest' $(PYTEST_ARGS)

lint: $(STAMP) ## Check style, formatting and types
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m basedpyright

format: $(STAMP) ## Format the code and mend what the linter can mend
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

bench: $(STAMP) ## Time the losses against optax, side by side
	@$(RUN) -m benchmarks.losses

soak: $(STAMP) ## Kill and resume a run 50 times and compare the results
	@$(RUN) -m experiments.soak --kills 50

docs: $(STAMP) ## Build the documentation into docs/_build
	@$(RUN) -m sphinx -q -W -b html docs docs/_build/html && echo "docs/_build/html/index.html"

notebooks: $(STAMP) ## Make the notebooks in colab/ from their scripts, with the repository's address
	@$(RUN) colab/make_notebooks.py

lock: $(STAMP) ## Choose the newest allowed versions and write them to requirements/
	@.venv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate --extra dev pyproject.toml --output-file requirements/dev.txt

clean: ## Remove the environment, caches and build products (runs stay)
	rm -rf .venv .cache .pytest_cache .ruff_cache .hypothesis build dist docs/_build docs/_made
