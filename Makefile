PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-long lint bench browser

demo: .venv/installed
	$(BIN)/regionssl demo --out demo-out

test: lint browser
	$(BIN)/python -m pytest -n 2 -m "not long"

test-long: .venv/installed-dev
	$(BIN)/python -m pytest -m long

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The browser that tests open the pages with; without one they are skipped.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	test -n "$$REGIONSSL_BROWSER" || \
	{ test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
	  { apt-get install -y -qq chromium || { apt-get update -qq && apt-get install -y -qq chromium; }; } >/dev/null 2>&1; } || \
	echo "no browser: its tests will be skipped; install one (apt-get install chromium) or name it in REGIONSSL_BROWSER"

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
