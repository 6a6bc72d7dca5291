# make demo | make test | make check | make bench
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin

.PHONY: links
links: ## symlinks that let type checkers see the package under its installed name
	@mkdir -p build/links/repsimc
	@ln -sfn ../../../compiler build/links/repsimc/compiler
	@ln -sfn ../../../passes build/links/repsimc/passes
	@ln -sfn ../../../runtime build/links/repsimc/runtime
	@ln -sfn ../../../repsimc/__init__.py build/links/repsimc/__init__.py
	@ln -sfn ../../../repsimc/py.typed build/links/repsimc/py.typed
