# Only Python >= 3.11 and make are assumed; everything else goes into $(VENV).
PYTHON ?= python3
VENV   ?= .venv
DEMO   ?= build/demo
BUDGET ?= 60%
ARGS   ?=
BIN     = $(VENV)/bin
PIP     = $(BIN)/python -m pip --disable-pip-version-check -qq
DIGITS  = examples/digits
WHEELS ?= build/wheels
RTX     = tensorrt-rtx==1.7.1.116
BINDINGS = tensorrt_bindings==8.6.1 tensorrt_cu12_bindings==10.3.0 \
	tensorrt_cu12_bindings==10.13.3.9 tensorrt_cu12_bindings==10.16.1.11 \
	tensorrt_cu12_bindings==11.4.0.106

.PHONY: help demo test test-tensorrt check links bench clean
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' Makefile

# The stamps let pip run again only when pyproject.toml has changed.
$(VENV)/.repsimc: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "repsimc needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo "installing repsimc into $(VENV) ..."
	@$(PIP) install -e '.[compile]'
	@touch $@

$(VENV)/.repsimc-dev: pyproject.toml | $(VENV)/.repsimc
	@echo "installing what tests and checks need into $(VENV) ..."
	@$(PIP) install -e '.[compile,dev]'
	@touch $(VENV)/.repsimc $@

demo: $(VENV)/.repsimc ## compile, verify and bench the shipped example
	$(BIN)/repsimc compile $(DIGITS)/*.onnx --calib $(DIGITS)/frames.npz --budget $(BUDGET) \
		--output $(DEMO) --overwrite
	$(BIN)/repsimc verify $(DEMO) --data $(DIGITS)/labelled.npz \
		--labels digit=digit_label --labels digit_deep=digit_label --labels parity=parity_label
	$(BIN)/repsimc bench $(DEMO)

test: $(VENV)/.repsimc-dev ## the whole test suite (ARGS="-k word" for a part)
	$(BIN)/python -m pytest -n auto $(ARGS)

# What `pip` can fetch of TensorRT: bindings without their libraries, and all of TensorRT-RTX. What
# it can't is told by the tests that are skipped for it.
test-tensorrt: $(VENV)/.repsimc-dev ## TensorRT-RTX compile gate, and the API of TensorRT 8.6 to 11.4
	@mkdir -p $(WHEELS)
	@for wheel in $(BINDINGS); do \
		$(PIP) download --no-deps --only-binary=:all: -d $(WHEELS) $$wheel >/dev/null 2>&1 \
			|| echo "cannot be had here: $$wheel" >&2; \
	done
	@test -d $(WHEELS)/rtx/tensorrt_rtx \
		|| $(PIP) install --target $(WHEELS)/rtx $(RTX) >/dev/null 2>&1 \
		|| echo "cannot be had here: $(RTX)" >&2
	REPSIMC_WHEELS=$(abspath $(WHEELS)) $(BIN)/python -m pytest -n auto -rs \
		tests/runtime/tensorrt/test_api.py tests/runtime/tensorrt/test_gate.py $(ARGS)

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
