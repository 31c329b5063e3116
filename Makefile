# make repro | test | check | help. PYTHON=python3.12 chooses the interpreter (3.11 to 3.13).
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready-$(shell cat requirements.lock pyproject.toml Makefile | cksum | cut -d' ' -f1)
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1
# threads that sleep, not spin, while they wait: see docs/log.md
export OMP_WAIT_POLICY := PASSIVE

.PHONY: help repro test check pretrain lock clean
help: ## what each target does
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

repro: $(READY) ## data, bank, DR-Tune model, metrics, plots and MLflow runs (dvc repro)
	@drtune check
	@dvc repro

test: $(READY) ## the whole test suite
	@python -m pytest

check: $(READY) ## ruff and mypy
	@ruff check . && ruff format --check . && mypy

pretrain: $(READY) ## make assets/ anew; needs the images that pretrain/params.yaml names
	@cd pretrain && dvc repro && cp encoder.safetensors ../assets/omniglot_resnet10t.safetensors

lock: $(READY) ## resolve requirements.lock anew from pyproject.toml
	@pip install --quiet uv && uv pip compile --quiet --universal --python-version 3.11 --no-header \
	  --no-annotate --no-emit-index-url --no-emit-find-links --upgrade --extra test --extra lint \
	  pyproject.toml --output-file requirements.lock

clean: ## remove the environment; data, cache and runs stay
	rm -rf .venv

# The stamp comes last, so an interrupted installation is taken up again by the next call.
$(READY):
	@command -v git >/dev/null || { echo "git is missing: install it, DVC works inside a git repository"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else \
	  f"{sys.executable} is Python {v[0]}.{v[1]}; 3.11 to 3.13 are supported: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@echo "setting up .venv (about 6 GB with PyTorch's CUDA libraries; once)"
	@$(PYTHON) -m venv .venv
	@python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@rm -f .venv/ready-* && touch $(READY)
