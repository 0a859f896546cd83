PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-long lint docs bench

demo: .venv/installed
	$(BIN)/regionssl demo --out demo-out

test: lint
	$(BIN)/python -m pytest -n 2 -m "not long"

test-long: .venv/installed-dev
	$(BIN)/python -m pytest -m long

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mkdocs build --quiet

docs: .venv/installed-dev
	$(BIN)/mkdocs serve

bench: .venv/installed-dev
	$(BIN)/pip install --quiet --editable ".[dev,bench]"
	$(BIN)/python -m benchmarks.cpu

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@
