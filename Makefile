# make demo | play | test | test-browser | check | bench: each sets up its own environment in .venv first.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: demo play test test-browser check bench
.SECONDARY:

demo: $(VENV)/.demo
	$(RUN) tools/demo.py

play: $(VENV)/.play
	$(RUN) tools/play.py

test: $(VENV)/.test
	$(RUN) -m pytest

test-browser: $(VENV)/.browser
	$(RUN) -m pytest -m browser

check: $(VENV)/.check
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

bench: $(VENV)/.test
	$(RUN) tools/bench.py data

$(VENV)/.%: setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make $@ PYTHON=python3.11")'
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -e '.[$*]'
	@touch $@
