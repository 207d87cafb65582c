# make demo: a Figure 9 of real searches in minutes (a second time: what is left of it, then the table again).
# make test: the default test suite.  Both set themselves up.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test setup lint

demo: setup
	if [ -e runs/digits_noise ]; then $(BIN)/dastune resume runs/digits_noise; \
	else $(BIN)/dastune run search_spaces/digits_noise.yaml; fi

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: .venv/installed

# Remade only when the project's dependencies change.
.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "dastune needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
