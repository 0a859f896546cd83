PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-long test-lowest wheel audit lint docs bench browser

demo: .venv/installed
	$(BIN)/regionssl demo --out demo-out

test: lint browser
	$(BIN)/python -m pytest -n 2 -m "not long"

test-long: .venv/installed-dev
	$(BIN)/python -m pytest -m long

# The same tests with the oldest direct dependencies that pyproject.toml allows.
test-lowest: .venv-lowest/installed
	.venv-lowest/bin/python -m pytest -n 2 -m "not long"

# The wheel, installed by itself, runs the demo outside the repository.
wheel: .venv/installed
	rm -rf build/wheel build/outside
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir build/wheel .
	$(PYTHON) -m venv build/outside
	build/outside/bin/pip install --quiet build/wheel/regionssl-*.whl
	cd build/outside && bin/regionssl demo

# Known vulnerabilities of what is installed, and everyone's licence. Fails too where the database cannot be asked.
audit: .venv/installed
	$(BIN)/pip install --quiet pip-audit pip-licenses
	$(BIN)/pip-licenses --order=license
	$(BIN)/pip-audit --local --skip-editable --strict

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

docs: .venv/installed-dev
	$(BIN)/mkdocs serve

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

.venv-lowest/installed: pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct --editable ".[dev]"
	touch $@
