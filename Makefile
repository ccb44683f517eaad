# Each target makes its own .venv when there is none. PYTHON may be overridden.
PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test test-all test-browser check nano twins clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/evalkit run --tasks docvqa,refcoco
	$(BIN)/evalkit run --tasks video_qa,multilingual_ocr

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

# Trains the shipped checkpoint from its seed, leg by leg (a night on a laptop, minutes a leg on a GPU; repeat to resume).
nano: $(STAMP)
	$(BIN)/evalkit train nano --out build/nano
	$(BIN)/evalkit train nano_more --start build/nano/model --out build/nano_more
	$(BIN)/evalkit train nano_last --start build/nano_more/model --out build/nano_last
	$(BIN)/evalkit train nano_contrasts --start build/nano_last/model --out build/nano_contrasts
	$(BIN)/evalkit train nano_look --start build/nano_contrasts/model --out build/nano_look
	$(BIN)/evalkit train nano_again --start build/nano_look/model --out build/nano_again
	$(BIN)/evalkit train nano_deep --start build/nano_again/model --out build/nano_deep --workers $(WORKERS)

# Trains the twins behind results/twins.
twins: $(STAMP)
	for name in position position_short resolution stages; do $(BIN)/evalkit twins $$name --out build/twins || exit 1; done

clean:
	rm -rf .venv build dist *.egg-info
