# Only Python >= 3.11 and make are assumed; everything else goes into $(VENV).
PYTHON ?= python3
VENV   ?= .venv
DEMO   ?= build/demo
BUDGET ?= 60%
ARGS   ?=
BIN     = $(VENV)/bin
PIP     = $(BIN)/python -m pip --disable-pip-version-check -qq
DIGITS  = examples/digits

.PHONY: help demo test check links bench clean
help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' Makefile

# The stamps let pip run again only when pyproject.toml has changed.
$(VENV)/.repsimc: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "repsimc needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo "installing repsimc into $(VENV) ..."
	@$(PIP) install -e .
	@touch $@

$(VENV)/.repsimc-dev: pyproject.toml | $(VENV)/.repsimc
	@echo "installing what tests and checks need into $(VENV) ..."
	@$(PIP) install -e '.[dev]'
	@touch $(VENV)/.repsimc $@

demo: $(VENV)/.repsimc ## compile, verify and bench the shipped example
	$(BIN)/repsimc compile $(DIGITS)/*.onnx --calib $(DIGITS)/frames.npz --budget $(BUDGET) \
		--output $(DEMO) --overwrite
	$(BIN)/repsimc verify $(DEMO) --data $(DIGITS)/labelled.npz \
		--labels digit=digit_label --labels digit_deep=digit_label --labels parity=parity_label
	$(BIN)/repsimc bench $(DEMO)

test: $(VENV)/.repsimc-dev ## the whole test suite (ARGS="-k word" for a part)
	$(BIN)/python -m pytest -n auto $(ARGS)

check: $(VENV)/.repsimc-dev links ## lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

links: ## symlinks that let type checkers see the package under its installed name
	@mkdir -p build/links/repsimc
	@ln -sfn ../../../compiler build/links/repsimc/compiler
	@ln -sfn ../../../passes build/links/repsimc/passes
	@ln -sfn ../../../runtime build/links/repsimc/runtime
	@ln -sfn ../../../repsimc/__init__.py build/links/repsimc/__init__.py
	@ln -sfn ../../../repsimc/py.typed build/links/repsimc/py.typed

bench: $(VENV)/.repsimc ## the figures of the README, the short round (ARGS="--json FILE")
	$(BIN)/python benchmarks/sharing.py --quick $(ARGS)

clean: ## everything that was built, but not $(VENV)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path "./.venv/*" -prune -exec rm -rf {} +
