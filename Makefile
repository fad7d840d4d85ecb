# Everything runs in .venv; each target installs what it needs and is quick when nothing changed.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SELDOM := /(tests?|testing|pip|setuptools|moto|cfnlint|fontTools|networkx|_inductor)/
export PYTHONPATH := $(CURDIR)

.PHONY: demo test check proto format bench-checks clean

$(STAMP): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/pip install -q --no-compile -e ".[server,examples,dev]"
	@# On all processors, which pip does not do, and without what hardly anything imports; a package's broken example must not fail
	@# the install.
	@$(BIN)/python -m compileall -q -j 0 -x '$(SELDOM)' $(VENV)/lib > /dev/null 2>&1 || true
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m examples.demo

test: $(STAMP)
	@# Two at once; more threads in each would only wait for each other.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n 2 --dist worksteal --durations=15

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m protos.generate --check
	$(BIN)/python -m protos.compatibility
	$(BIN)/hadolint deploy/Dockerfile

proto: $(STAMP)
	$(BIN)/python -m protos.generate

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench-checks: $(STAMP)
	$(BIN)/python -m benchmarks.harness checks

bench-%: $(STAMP)
	$(BIN)/python -m benchmarks.harness $(subst -,_,$*)

clean:
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
