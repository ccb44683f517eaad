# Each target makes its own .venv when there is none. PYTHON may be overridden.
PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
STAMP := .venv/.installed
PIP := install --quiet --disable-pip-version-check

.PHONY: demo test test-all test-browser test-lmms test-ray test-optional test-oldest test-newest check audit fuzz docs nano twins clean

$(STAMP): pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip $(PIP) -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/evalkit run --tasks docvqa,refcoco
	$(BIN)/evalkit run --tasks video_qa,multilingual_ocr

# A process a core, one thread each: small operations share a core badly.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-all: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m 'not browser and not lmms and not ray and not optional'

# The report in headless Chromium: Debian's package, installed when there is none (CHROMIUM=path names another).
test-browser: $(STAMP)
	$(BIN)/pip $(PIP) -c constraints.txt -e '.[browser]'
	test -n "$$CHROMIUM" || command -v chromium > /dev/null || { apt-get update -q && apt-get install -y -q --no-install-recommends chromium; }
	$(BIN)/python -m pytest -m browser

# evalkit's model inside the real lmms-eval, in an environment of its own: lmms-eval brings many packages.
test-lmms:
	$(PYTHON) -m venv build/lmms
	build/lmms/bin/pip $(PIP) -e '.[dev,lmms]'
	# PyPI's torchvision is linked to CUDA; beside a torch without it, it can't be imported, and transformers fails with it.
	# Nothing that is tested here needs it.
	build/lmms/bin/python -c 'import torchvision' 2> /dev/null || build/lmms/bin/pip uninstall -q -y torchvision
	build/lmms/bin/python -m pytest -m lmms

# Runs over a Ray cluster of three nodes on this machine, one of which is killed.
test-ray: $(STAMP)
	$(BIN)/pip $(PIP) -c constraints.txt -e '.[ray]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m ray

# Packages that one feature each needs: scores sent to W&B and MLflow, both without a server, LoRA folders, the OCR engine.
test-optional: $(STAMP)
	$(BIN)/pip $(PIP) -c constraints.txt -e '.[wandb,mlflow,peft,ocr]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m optional

# The lowest releases that pyproject.toml allows, and the newest ones, each in an environment of its own.
test-oldest:
	$(PYTHON) -m venv build/oldest
	sed -n '/^dependencies/,/^]/s/.*"\([A-Za-z_0-9]*\)>=\([0-9.]*\).*/\1==\2/p' pyproject.toml > build/oldest/pins.txt
	build/oldest/bin/pip $(PIP) -c build/oldest/pins.txt -e '.[dev]'
	build/oldest/bin/python -m pytest

test-newest:
	$(PYTHON) -m venv build/newest
	build/newest/bin/pip $(PIP) --upgrade -e '.[dev]'
	build/newest/bin/python -m pytest

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy evalkit
	$(BIN)/mypy tasks model_adapters
	git ls-files | xargs $(BIN)/codespell
	@$(MAKE) --no-print-directory audit

# Known vulnerabilities of the pinned packages. Without a network it says so and passes.
audit: $(STAMP)
	@mkdir -p build; rm -f build/audit.json
	@$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip --progress-spinner off \
		--timeout 15 --format json --output build/audit.json > build/audit.log 2>&1; code=$$?; \
	if ! test -s build/audit.json; then echo "pip-audit: not audited: $$(tail -n 1 build/audit.log)"; \
	elif test $$code -ne 0; then cat build/audit.json; exit 1; \
	else echo "pip-audit: no known vulnerabilities; of $$(grep -c '==' constraints.txt) packages" \
		"the index does not know $$(grep -o skip_reason build/audit.json | wc -l)"; fi

# A minute or two of strange input for every parser; SEED=n repeats one.
fuzz: $(STAMP)
	@seed=$(or $(SEED),$$(date +%s)); echo "make fuzz SEED=$$seed"; \
		EVALKIT_FUZZ=500 $(BIN)/python -m pytest tests/test_fuzz.py --hypothesis-seed=$$seed

docs: $(STAMP)
	$(BIN)/pip $(PIP) -e '.[docs]'
	$(BIN)/mkdocs build --strict

# Trains the shipped checkpoint from its seed, run by run (a night on a laptop, minutes a run on a GPU; repeat to resume).
nano: $(STAMP)
	$(BIN)/evalkit train nano --output build/nano
	$(BIN)/evalkit train nano_more --start build/nano/model --output build/nano_more
	$(BIN)/evalkit train nano_last --start build/nano_more/model --output build/nano_last
	$(BIN)/evalkit train nano_contrasts --start build/nano_last/model --output build/nano_contrasts
	$(BIN)/evalkit train nano_look --start build/nano_contrasts/model --output build/nano_look
	$(BIN)/evalkit train nano_again --start build/nano_look/model --output build/nano_again
	$(BIN)/evalkit train nano_deep --start build/nano_again/model --output build/nano_deep --workers $(WORKERS)

# Trains the twins behind results/twins.
twins: $(STAMP)
	for name in position position_short resolution stages; do $(BIN)/evalkit twins $$name --output build/twins || exit 1; done

clean:
	rm -rf .venv build dist *.egg-info
