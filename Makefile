# Every target does everything, environment included. `make classic` has its own, .venv-classic.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -W ignore::UserWarning
PYTEST := $(VENV)/bin/python -m pytest -q -n auto --dist loadfile --durations=5
# Wheels of mmcv with compiled operators, kept across clones: one takes 11 to 30 minutes to build.
WHEELS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/bvit_mm
DEMO := configs/demo/deit-digits_recommended-b25.py
DEMO_DIR := work_dirs/demo

# The original OpenMMLab packages. torch 2.1 needs Python 3.11 or older. Three tests are left out: two
# compare with timm and mmdet, which are not installed there, one uses a later torch.export.
CLASSIC_PYTHON ?= python3.11
CLASSIC := .venv-classic
CLASSIC_RUN := $(CLASSIC)/bin/python -W ignore::UserWarning
CLASSIC_DIR := work_dirs/classic
CLASSIC_DEMO := configs/demo/deit-digits_bvit-b50.py
CLASSIC_TESTS := $(patsubst %,tests/test_%.py,environment plan training_stages schedulers laws growth \
	swin pvtv2 loop_and_hook resume analysis redundancy_hook gradmatch subset matching subset_runs \
	budget recipes doors) \
	-k 'not test_equals_timm and not test_equals_mmdet and not test_exporting'
CLASSIC_SHORT := --cfg-options train_cfg.budget=None train_cfg.epochs=[1,1,1]

.PHONY: demo tour test test-core laws lint bench gpu ops classic

demo: $(VENV)/ready
	$(RUN) tools/make_digits.py data/digits
	$(RUN) tools/plan.py $(DEMO)
	$(RUN) tools/train.py $(DEMO) --work-dir $(DEMO_DIR) --resume
	$(RUN) tools/test.py $(DEMO) $$(cat $(DEMO_DIR)/last_checkpoint) --work-dir $(DEMO_DIR)
	$(RUN) tools/plan.py $(DEMO) --plot $(DEMO_DIR)/plan.png --run $(DEMO_DIR)
	$(RUN) .dev_scripts/demo_beside_whole.py

tour: $(VENV)/ops
	$(RUN) tools/tour.py work_dirs/tour

test: $(VENV)/ops lint
	$(PYTEST)

# Without mmcv's compiled operators: everything but detectors.
test-core: $(VENV)/ready lint
	$(PYTEST) -m 'not ops'

# An answer within two minutes: the laws of backbones, planner, growth and house.
laws: $(VENV)/ready lint
	$(PYTEST) -m laws

lint: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: $(VENV)/ready
	$(RUN) benchmarks/step_time.py deit-small
	$(RUN) benchmarks/step_time.py swin-small --batch 8
	$(RUN) benchmarks/step_time.py pvtv2-b2-linear --batch 8

# All that a CPU cannot show, in nine minutes. Without a GPU it says so, and that is no failure.
gpu: $(VENV)/ready
	$(RUN) -m benchmarks.gpu results/gpu.json; status=$$?; \
	$(RUN) .dev_scripts/gpu_page.py docs/gpu.md && exit $$status

classic: $(CLASSIC)/ready
	$(CLASSIC)/bin/python -m pytest -q $(CLASSIC_TESTS)
	$(CLASSIC_RUN) tools/make_digits.py data/digits
	$(CLASSIC_RUN) tools/train.py $(CLASSIC_DEMO) --work-dir $(CLASSIC_DIR) $(CLASSIC_SHORT)
	$(CLASSIC_RUN) tools/test.py $(CLASSIC_DEMO) $(CLASSIC_DIR)/epoch_3.pth --work-dir $(CLASSIC_DIR)

# The environment, made once and again when what it is made from changes.
$(VENV)/ready: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "bvit_mm needs Python 3.10 or newer; this is %s. Give another: make PYTHON=python3.11" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -c constraints.txt -e '.[onedl,downstream,demo,dev]'
	touch $@

# Detectors need mmcv's compiled operators. pip's own cache confuses a wheel that has them with one
# that has none, so the wheel lies in a folder that names what it was built for.
ops: $(VENV)/ops
$(VENV)/ops: $(VENV)/ready
	$(VENV)/bin/pip install ninja psutil wheel 'setuptools>=80,<82'
	@set -e; \
	kept="$(WHEELS)/$$($(VENV)/bin/python -c 'import platform, sys, torch; \
	    from importlib.metadata import version; \
	    print("mmcv", version("onedl-mmcv"), "torch", torch.__version__, sys.implementation.cache_tag, \
	          platform.machine(), *["cuda"] * torch.cuda.is_available(), sep="-")')"; \
	test -d "$$kept" || { \
	    rm -rf "$$kept.partial"; \
	    $(VENV)/bin/python tools/compile_ops.py "$$kept.partial" -c constraints.txt; \
	    mv "$$kept.partial" "$$kept"; }; \
	$(VENV)/bin/pip install --force-reinstall --no-deps "$$kept"/*.whl
	$(VENV)/bin/python -c 'import torch, mmcv._ext'
	touch $@

# mmcv-lite and mmpretrain come as sources whose set-up needs torch and an old setuptools.
$(CLASSIC)/ready: setup.cfg pyproject.toml constraints-classic.txt
	$(CLASSIC_PYTHON) -m venv $(CLASSIC)
	$(CLASSIC)/bin/pip install -c constraints-classic.txt torch torchvision 'setuptools>=64' wheel
	$(CLASSIC)/bin/pip install -c constraints-classic.txt --no-build-isolation -e '.[classic]' \
		hypothesis mlxtend pytest
	touch $@
