# Each target makes its own .venv when there is none. PYTHON may be overridden.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test test-all test-browser check nano twins clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/evalkit run --tasks docvqa,refcoco

test: $(STAMP)
	$(BIN)/python -m pytest

test-all: $(STAMP)
	$(BIN)/python -m pytest -m 'not browser'

# The report in headless Chromium: Debian's package, installed when there is none (CHROMIUM=path names another).
test-browser: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[browser]'
	test -n "$$CHROMIUM" || command -v chromium > /dev/null || { apt-get update -q && apt-get install -y -q --no-install-recommends chromium; }
	$(BIN)/python -m pytest -m browser

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy evalkit
	$(BIN)/mypy tasks model_adapters

# Trains the shipped checkpoint from its seed (hours on a laptop; repeat to resume) and the twins behind results/twins.
nano: $(STAMP)
	$(BIN)/evalkit train nano --out build/nano
	$(BIN)/evalkit train nano_more --start build/nano/model --out build/nano_more
	$(BIN)/evalkit train nano_last --start build/nano_more/model --out build/nano_last

twins: $(STAMP)
	for name in position position_short resolution stages; do $(BIN)/evalkit twins $$name --out build/twins || exit 1; done

clean:
	rm -rf .venv build dist *.egg-info
