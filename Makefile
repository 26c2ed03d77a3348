# make demo    the demo bot, on an embedded Redis (ARGS="--help" for its options)
# make test    all tests, on every server
# make check   what CI runs: lint, types, tests, the built wheel
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: demo test check lint format types wheel clean

demo: $(VENV)/.installed-demo
	@$(BIN)/botsession demo $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(ARGS)

check: lint types test wheel

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

wheel: $(VENV)/.installed-dev
	$(BIN)/python -m tests.check_wheel

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV)

# Installing must not eat the standard input: it may be the demo's.
$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	@echo "installing redis-botsession[$*] into $(VENV) ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]" </dev/null
	@touch $@
