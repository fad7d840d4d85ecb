# Everything runs in .venv; each target installs what it needs and is quick when nothing changed.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PACKAGES := paretopress hw_models techniques search service
export PYTHONPATH := $(CURDIR)

.PHONY: demo test check proto format bench-checks clean

$(STAMP): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/pip install -q -e ".[server,examples,dev]"
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m examples.demo

test: $(STAMP)
	$(BIN)/python -m pytest tests --durations=15

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m protos.generate --check
	$(BIN)/python -m protos.compatibility

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
