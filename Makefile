# Everything a newcomer runs. `make` alone explains; every target installs what it needs and nothing twice.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
CONFIG ?= configs/demo.toml
OUT ?= runs/demo
.DEFAULT_GOAL := help
.PHONY: help install test demo serve clean

help:  ## Show this list
	@echo "Triptych: raw media in, served and ranked items out."
	@echo
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  PYTHON=/path/to/python3.12 make install   choose the interpreter (3.11, 3.12 or 3.13)"

install: $(VENV)/.installed  ## Create .venv and install the pinned requirements (about 3.2 GB on disk, some minutes)
	@echo "Ready: $(BIN)/python"

test: $(VENV)/.installed-dev $(VENV)/.browser  ## Lint, import contract, types and all tests
	@echo "ruff: lint"
	@$(BIN)/ruff check --quiet . || $(call hint,mend the lines above; '$(BIN)/ruff check --fix .' mends the simple ones)
	@echo "import-linter: who imports whom"
	@report=$$($(BIN)/lint-imports --no-logo 2>&1) || { echo "$$report"; \
		$(call hint,an import crosses a wall: the contracts and their reasons are in pyproject.toml); }
	@echo "mypy: types"
	@$(BIN)/mypy --no-error-summary || $(call hint,mend the types above)
	@echo "pytest: tests and the examples in docstrings"
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations=10 || $(call hint,run one test again: '$(BIN)/python -m pytest -q PATH::NAME')

demo: $(VENV)/.installed  ## The whole path on a generated record shop: train, index, export, serve, answer two requests
	@$(BIN)/python -m pipeline demo || \
		$(call hint,the stage named last failed; 'make demo' again goes on where it stopped)

serve: $(VENV)/.installed  ## Serve the newest release of OUT (default runs/demo) until Ctrl-C
	@$(BIN)/python -m pipeline serve --config $(CONFIG) --out $(OUT) || \
		$(call hint,is there a release in $(OUT)? 'make demo' makes one; is a port taken? see '$(BIN)/python -m pipeline serve --help')

clean:  ## Remove .venv, runs/ and every cache
	@rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is newer than the list it stands for, so a second call does nothing.
$(VENV)/.installed: requirements.txt requirements-encoders.txt | $(VENV)/.created
	@echo "Installing requirements.txt and requirements-encoders.txt (minutes the first time)"
	@$(call pip,-r requirements.txt)
	@$(call pip,--no-deps -r requirements-encoders.txt)
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	@echo "Installing requirements-dev.txt"
	@$(call pip,-r requirements-dev.txt)
	@touch $@

# The tests of the pages skip, and say so, where no browser can be had.
$(VENV)/.browser: $(VENV)/.installed-dev
	@$(BIN)/python -m tests.serving.browser
	@touch $@

# An interpreter counts when it runs, is of a supported version and can make environments (Debian splits ensurepip off).
$(VENV)/.created:
	@set -e; \
	probe='import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; \
	if $(BIN)/python -c "$$probe" 2>/dev/null && $(BIN)/python -m pip --version >/dev/null 2>&1; then touch $@; exit 0; fi; \
	for candidate in $(if $(PYTHON),"$(PYTHON)",python3 python3.11 python3.12 python3.13); do \
		if "$$candidate" -c "$$probe" >/dev/null 2>&1; then chosen=$$candidate; break; fi; \
	done; \
	if [ -z "$${chosen:-}" ]; then \
		$(call hint,no Python 3.11 to 3.13 with venv was found$(if $(PYTHON), at '$(PYTHON)'); install one or name it: 'make install PYTHON=/path/to/python3.12'); \
	fi; \
	echo "Creating $(VENV) with $$("$$chosen" --version)"; \
	"$$chosen" -m venv --clear $(VENV) || $(call hint,the environment could not be made: is the disk full or the folder read-only?); \
	touch $@

hint = { echo "make $(or $(MAKECMDGOALS),$@): $(1)" >&2; exit 1; }
pip = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(1) || \
	$(call hint,pip could not install the pinned packages: check the network and the message above; 'make clean' starts over)
