# Every target sets up what it needs by itself, in .venv; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := . plugins/det_models plugins/det_backbones plugins/det_datasets
READY := $(VENV)/.ready
QUICKSTART := work_dirs/quickstart
# Two test processes of one thread each use two cores better than two processes that fight for both.
TEST_ENV := OMP_NUM_THREADS=1
JOBS ?= 2

.PHONY: help quickstart test test-all lint bench clean

help:
	@echo "make quickstart   draw a small data set, train on it, evaluate, show predictions (minutes, CPU)"
	@echo "make test         the quick tests        make test-all   the slow ones too"
	@echo "make lint         ruff and mypy          make bench      side-by-side measurements"

$(READY): pyproject.toml $(wildcard plugins/*/pyproject.toml)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --group dev $(addprefix -e ,$(PACKAGES))
	@touch $(READY)

quickstart: $(READY)
	$(BIN)/detcore data make-shapes $(QUICKSTART)/data --num-train 400 --num-val 80 --seed 0
	$(BIN)/detcore run configs/shapes/retinanet_r18_fpn_shapes.py --work-dir $(QUICKSTART)/run --seed 0 \
		--cfg-options data_root=$(QUICKSTART)/data/
	$(BIN)/detcore test $(QUICKSTART)/run/config.py $(QUICKSTART)/run/last.pth
	$(BIN)/detcore predict $(QUICKSTART)/data/val --config $(QUICKSTART)/run/config.py \
		--checkpoint $(QUICKSTART)/run/last.pth --out-dir $(QUICKSTART)/predictions

test: $(READY)
	$(TEST_ENV) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow" -q

test-all: $(READY)
	$(TEST_ENV) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -q

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY)
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) work_dirs .pytest_cache .mypy_cache .ruff_cache .hypothesis
