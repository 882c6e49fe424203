# make demo | play | test | test-launchers | test-wheel | test-gpu | test-browser | fuzz | soak | coverage | check | docs | audit | licences | bench: each sets up its own environment in .venv first.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# Processes that share the tests, one thread each: make test WORKERS=8
WORKERS ?= 2
# All tests but those of test-gpu run on the CPU, whatever the machine has: two ranks of a test would need two GPUs.
HIDE_GPUS := CUDA_VISIBLE_DEVICES= DS_ACCELERATOR=cpu

.PHONY: demo play test test-launchers test-wheel test-gpu test-browser fuzz soak coverage check docs audit licences bench
.SECONDARY:

demo: $(VENV)/.demo
	$(VENV)/bin/latentdebias demo

play: $(VENV)/.play
	$(VENV)/bin/latentdebias play

test: $(VENV)/.test
	$(HIDE_GPUS) OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS) --dist loadfile -m "not launcher and not wheel and not gpu and not browser"

test-launchers: $(VENV)/.test
	$(HIDE_GPUS) $(RUN) -m pytest -m launcher

test-wheel: $(VENV)/.test
	$(HIDE_GPUS) $(RUN) -m pytest -m wheel

test-gpu: $(VENV)/.test
	$(RUN) -m pytest tests/gpu -m gpu

test-browser: $(VENV)/.browser
	$(RUN) -m pytest -m browser

# Faults strike at random from the seed for so many minutes; the undisturbed run that follows takes up to as long.
SOAK_MINUTES ?= 60
SOAK_SEED ?= 0
soak: $(VENV)/.test
	$(HIDE_GPUS) OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR):tests/helpers $(RUN) tests/soak/soak.py --minutes $(SOAK_MINUTES) --seed $(SOAK_SEED)

coverage: $(VENV)/.test
	$(HIDE_GPUS) OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS) --dist loadfile -m "not launcher and not wheel and not gpu and not browser" \
		--cov --cov-report=term:skip-covered

audit: $(VENV)/.check
	$(RUN) -m pip install -q pip-audit
	$(RUN) -m pip_audit --local --skip-editable

licences: $(VENV)/.check
	$(RUN) .ci/licences.py > docs/dependencies.md

check: $(VENV)/.check
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

# An hour for each reader of other people's files: make fuzz SECONDS=3600
SECONDS ?= 10
fuzz: $(VENV)/.test
	$(HIDE_GPUS) OMP_NUM_THREADS=1 $(RUN) tests/fuzz --seconds $(SECONDS)

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

bench: $(VENV)/.test
	$(VENV)/bin/latentdebias bench data

$(VENV)/.%: setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make $@ PYTHON=python3.11")'
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -e '.[$*]'
	@touch $@
