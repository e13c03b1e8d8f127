# Every target sets up what it needs by itself, in .venv; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := . plugins/det_models plugins/det_backbones plugins/det_datasets plugins/det_mmdet det_timm det_semi
READY := $(VENV)/.ready
QUICKSTART := work_dirs/quickstart
# Two test processes of one thread each use two cores better than two processes that fight for both.
TEST_ENV := OMP_NUM_THREADS=1
JOBS ?= 2

.PHONY: help quickstart test test-all parity lint bench clean

help:
	@echo "make quickstart   draw a small data set, train on it, evaluate, show predictions (minutes, CPU)"
	@echo "make test         the quick tests        make test-all   the slow ones too"
	@echo "make lint         ruff and mypy          make bench      side-by-side measurements"
	@echo "make parity       the comparisons with MMDetection and mmengine, whose wheels it fetches once"

$(READY): pyproject.toml $(wildcard plugins/*/pyproject.toml)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --group dev $(addprefix -e ,$(PACKAGES))
	@touch $(READY)

quickstart: $(READY)
	$(BIN)/detcore data make-shapes $(QUICKSTART)/data --num-train 400 --num-val 80 --seed 0
	rm -rf $(QUICKSTART)/run $(QUICKSTART)/predictions
	$(BIN)/detcore run configs/shapes/retinanet_r18_fpn_shapes.py --work-dir $(QUICKSTART)/run --seed 0 \
		--device cpu --cfg-options data_root=$(QUICKSTART)/data/
	$(BIN)/detcore test $(QUICKSTART)/run/retinanet_r18_fpn_shapes.py $$(cat $(QUICKSTART)/run/last_checkpoint) \
		--device cpu --work-dir $(QUICKSTART)/test
	$(BIN)/detcore predict $(QUICKSTART)/data/val --checkpoint $$(cat $(QUICKSTART)/run/last_checkpoint) \
		--device cpu --batch-size 8 --out-dir $(QUICKSTART)/predictions
	@echo
	@echo "Trained, evaluated, and painted: look at $(QUICKSTART)/predictions/vis/."
	@echo "What next:"
	@echo "  your own data     copy configs/shapes/retinanet_r18_fpn_shapes.py, set data_root, ann_file, classes, num_classes"
	@echo "  what a config is  $(BIN)/detcore config show configs/shapes/retinanet_r18_fpn_shapes.py"
	@echo "  how it went       $(QUICKSTART)/run/log.jsonl; stop a run and go on exactly there with --resume auto"
	@echo "  parts of yours    README.md, 'Write your own part'"

test: $(READY)
	$(TEST_ENV) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow" -q

test-all: $(READY)
	$(TEST_ENV) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -q

parity: $(READY)
	DETCORE_PARITY_FETCH=1 $(TEST_ENV) $(BIN)/python -m pytest tests/parity -m parity -q

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY)
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) work_dirs .pytest_cache .mypy_cache .ruff_cache .hypothesis
