# `make demo` and `make test` do everything, environment included; they share .venv.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -W ignore::UserWarning
DEMO := configs/demo/deit-digits_bvit-b50.py
DEMO_DIR := work_dirs/demo

.PHONY: demo test bench

demo: $(VENV)/ready
	$(RUN) tools/make_digits.py data/digits
	$(RUN) tools/plan.py $(DEMO)
	$(RUN) tools/train.py $(DEMO) --work-dir $(DEMO_DIR) --resume
	$(RUN) tools/test.py $(DEMO) $$(cat $(DEMO_DIR)/last_checkpoint) --work-dir $(DEMO_DIR)
	$(RUN) tools/plan.py $(DEMO) --plot $(DEMO_DIR)/plan.png --run $(DEMO_DIR)

test: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/python -m pytest -q --durations=5

bench: $(VENV)/ready
	$(RUN) benchmarks/step_time.py deit-small
	$(RUN) benchmarks/step_time.py swin-small --batch 8
	$(RUN) benchmarks/step_time.py pvtv2-b2-linear --batch 8

# The environment, made once and again when what it is made from changes.
$(VENV)/ready: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "bvit_mm needs Python 3.10 or newer; this is %s. Give another: make PYTHON=python3.11" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -c constraints.txt -e '.[onedl,downstream,demo,dev]'
	touch $@
