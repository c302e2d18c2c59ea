# Each verb makes what it needs: a fresh clone and Python 3.11 are enough.
PYTHON ?= python3
BIN := .venv/bin

MINUTES ?= 10
RUNS ?= 100
WORKERS ?= $(shell expr 1 + $$(getconf _NPROCESSORS_ONLN))

.PHONY: demo test test-all fuzz torture lint format types bench web clean

demo: $(BIN)/siam            ## train on the built-in shapes, in minutes on two cores
	$(BIN)/siam pretrain

test: $(BIN)/.dev            ## the fast tests
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

test-all: $(BIN)/.dev        ## the slow ones too; one worker more than cores, because some mostly wait
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

fuzz: $(BIN)/.dev            ## mutated files of every kind; make fuzz MINUTES=30 SEED=7
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

torture: $(BIN)/.dev         ## faults at random moments of every verb; make torture RUNS=100 SEED=7
	$(BIN)/python -m tests.torture --runs $(RUNS) $(if $(SEED),--seed $(SEED))

lint: $(BIN)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: $(BIN)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(BIN)/.dev
	$(BIN)/mypy

bench: $(BIN)/.dev           ## speed, side by side with what people use: some minutes
	$(BIN)/python benchmarks/views.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/end_to_end.py
	$(BIN)/python benchmarks/embed.py --images 240
	$(BIN)/python benchmarks/knn.py

web: siam/atlas/web/node_modules  ## the page of siam explore, after a change of its sources; needs Node.js
	cd siam/atlas/web && npm run --silent build

siam/atlas/web/node_modules: siam/atlas/web/package-lock.json
	cd siam/atlas/web && npm ci --silent --no-audit --no-fund
	touch $@

clean:
	rm -rf .venv runs

$(BIN)/python:
	$(PYTHON) -m venv .venv

# Modules are compiled when they are first imported: pip would compile 270 MB of source, most of it never used.
$(BIN)/siam: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable .
	touch $@

$(BIN)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	touch $(BIN)/siam $@
