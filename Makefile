# Everything happens in .venv; nothing outside this folder is changed, but for the browser that the tests of the report
# need: where none is found and root runs `make test`, apt-get installs one. `make` alone lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install demo smoke test test-fast browser fuzz soak compat check clean

PYTHON ?= python3
MUTANTS ?= 100000
SEED ?= 1
FAULTS ?= 50
export PIP_NO_INPUT := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

bin := .venv/bin
stamp := .venv/.installed

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/make \1\t\2/p' Makefile | expand -t 16

install: $(stamp) ## install mixvec and all it needs into .venv

demo: $(stamp) ## pretrain, fine-tune, publish and transcribe on synthetic speech
	$(bin)/python -m tools.demo

smoke: $(stamp) ## the demo's path in its quickest form, to see that it runs
	$(bin)/python -m tools.demo --smoke

test: $(stamp) browser ## run the tests, as many at a time as there are cores (at most 4)
	OMP_NUM_THREADS=1 $(bin)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

test-fast: $(stamp) ## the tests that take no processes of their own and a second or two each
	OMP_NUM_THREADS=1 $(bin)/python -m pytest -n auto --maxprocesses 4 --dist worksteal -m "not slow and not soak"

browser: $(stamp) ## find a Chromium for the tests of the report, or install one
	@$(bin)/python -m tests.browser

fuzz: $(stamp) ## read damaged files; MUTANTS=100000 SEED=1 are how many and which, runs/fuzz keeps those that do harm
	$(bin)/python -m tests.fuzz --mutants $(MUTANTS) --seed $(SEED) --keep runs/fuzz

soak: $(stamp) ## kill runs FAULTS=50 times over; they must end as if left alone (5 minutes on 2 cores)
	own=$$(unshare --user --map-root-user --mount true 2>/dev/null && echo unshare --user --map-root-user --mount || true); \
	FAULTS=$(FAULTS) SEED=$(SEED) OMP_NUM_THREADS=1 $$own $(bin)/python -m pytest -m soak tests/soak

compat: $(stamp) ## load published models in clean environments: mixvec, transformers, onnxruntime, fairseq2, SpeechBrain
	OMP_NUM_THREADS=1 $(bin)/python -m tests.compat

check: $(stamp) ## lint, formatting and types
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy --strict mixvec pretrain finetune tools

clean: ## remove caches and build artefacts (keeps .venv and runs/)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

# The stamp is newer than both files, so an install runs again only when one of them changes.
$(stamp): pyproject.toml constraints.txt
	@usable() { "$$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }; \
	found=; for python in "$(PYTHON)" python3.11 python3.12 python3.10; do \
	  if usable "$$python"; then found=$$python; break; fi; done; \
	if [ -z "$$found" ]; then \
	  echo "error: '$(PYTHON)' is not Python 3.10, 3.11 or 3.12, which fairseq2 needs; install one, then: make PYTHON=python3.11 install" >&2; exit 1; fi; \
	if ! "$$found" -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "error: $$found cannot make virtual environments: ensurepip is missing; on Debian or Ubuntu: sudo apt install python3-venv" >&2; exit 1; fi; \
	echo "installing into .venv with $$found"; \
	"$$found" -m venv .venv
	$(bin)/python -m pip install --quiet uv
	$(bin)/uv pip install --python $(bin)/python -c constraints.txt -e '.[dev]'
	echo "$(CURDIR)" > "$$($(bin)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/mixvec-checkout.pth"
	@touch $@
