# make demo    the demo bot, on an embedded Redis (ARGS="--help" for its options)
# make test    all tests, on every server
# make docs    the documentation site, in build/docs
# make check   what CI runs: lint, types, docs, tests, the built wheel
# make check-versions   tests on each Python here, and with the lowest releases that pyproject.toml allows
# make soak    a million calls under faults (some minutes)
# make bench   compares with other ways to keep sessions (ARGS="--quick" for a look)
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: demo test check check-versions soak bench lint format types docs wheel clean

demo: $(VENV)/.installed-demo
	@$(BIN)/botsession demo $(ARGS) || [ $$? -eq 130 ] # Ctrl-C is how it is left

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(ARGS)

check: lint types docs test wheel

check-versions: $(VENV)/.installed-dev
	$(BIN)/python -m tests.check_versions $(ARGS)

soak: $(VENV)/.installed-dev
	SOAK_OPERATIONS=$${SOAK_OPERATIONS:-1000000} $(BIN)/python -m pytest tests/faults/test_soak.py $(ARGS)

# In an environment of its own: what is compared must not decide what is developed with.
bench: $(VENV)-bench/.installed-bench
	$(VENV)-bench/bin/python -m benchmarks.compare $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

docs: $(VENV)/.installed-dev
	$(BIN)/sphinx-build -E -q -W --keep-going -b html docs build/docs

wheel: $(VENV)/.installed-dev
	$(BIN)/python -m tests.check_wheel

clean:
	rm -rf $(VENV) $(VENV)-bench $(VENV)-versions build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python $(VENV)-bench/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "redis-botsession needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) -V 2>&1)." >&2; \
		echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(@D)/..

# Installing must not eat the standard input: it may be the demo's.
define install
	@echo "installing redis-botsession[$*] into $(@D) ..." >&2
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]" </dev/null
	@touch $@
endef

$(VENV)/.installed-%: pyproject.toml | $(VENV)/bin/python
	$(install)

$(VENV)-bench/.installed-%: pyproject.toml | $(VENV)-bench/bin/python
	$(install)
