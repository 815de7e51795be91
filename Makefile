# Two commands on a fresh machine: make demo, make test. Each makes .venv and installs first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export TOKENIZERS_PARALLELISM = false
# two processes of one thread each: more threads than cores wait for each other
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: demo test test-all families lint format install dev clean

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

# the stamps depend on the files that name the dependencies, so that a change reinstalls
$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev,eval,data,video]"
	touch $@ $(VENV)/installed

install: $(VENV)/installed
dev: $(VENV)/installed-dev

demo: $(VENV)/installed
	$(BIN)/mmdpo demo --out $(or $(OUT),runs/demo)

test: $(VENV)/installed-dev
	$(TEST)

# the default suite, then what takes minutes
test-all: test
	$(TEST) -m "slow and not gpu" --timeout 900

# every check of every family, and the table that ships and docs/families.md from what they found
families: $(VENV)/installed-dev
	$(BIN)/python -m pytest tests/families -n 2 --dist worksteal -m "" --ignore tests/families/test_table.py --write-matrix

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache
