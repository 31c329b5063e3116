# make repro | test | check | help. PYTHON=python3.12 chooses the interpreter (3.11 to 3.13);
# TORCH=cpu takes PyTorch's CPU wheels from TORCH_INDEX, a third of the size (in a fresh .venv, or an image).
PYTHON ?= python3
TORCH ?= cuda
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
IMAGE ?= drtune:$(TORCH)
BASE ?= python:3.11-slim-bookworm
CMD ?= dvc repro
REVISION ?= HEAD
$(if $(filter cuda cpu,$(TORCH)),,$(error TORCH is '$(TORCH)'; known: cuda, cpu))
BIN := .venv/bin
READY := .venv/ready-$(shell cat requirements.lock pyproject.toml Makefile | cksum | cut -d' ' -f1)
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1
# threads that sleep, not spin, while they wait: see docs/log.md
export OMP_WAIT_POLICY := PASSIVE
export DOCKER_BUILDKIT := 1

# The folder keeps its path inside, so that MLflow finds the files of a run on either side.
IN_IMAGE = docker run --rm --user "$$(id -u):$$(id -g)" --volume "$(CURDIR):$(CURDIR)" --workdir "$(CURDIR)" \
  --shm-size 2g --stop-timeout 30 --env USER --env MLFLOW_TRACKING_URI \
  --env DRTUNE_IMAGE="$$(docker image inspect --format '{{.Id}}' $(IMAGE))" $(DOCKER_FLAGS) $(IMAGE)

.PHONY: audit sbom help repro test crash-check check in-step report pretrain lock clean docker-build docker-run docker-report docker-verify image
help: ## what each target does
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

repro: $(READY) ## data, bank, DR-Tune model, metrics, plots and MLflow runs (dvc repro)
	@drtune check
	@dvc repro

test: $(READY) ## the whole test suite
	@python -m pytest

crash-check: $(READY) ## crash at every write of every stage and command, go on, compare; hours, needs cc
	@python tests/crash/check.py

check: $(READY) ## ruff and mypy
	@ruff check . && ruff format --check . && mypy

in-step: $(READY) ## fail unless dvc.lock belongs to this code and these settings; needs no data
	@said=$$(dvc repro --allow-missing --dry 2>&1); code=$$?; echo "$$said"; \
	  test $$code = 0 && ! echo "$$said" | grep -q "^Running stage"

report: $(READY) ## Markdown: parameters, metrics, curves of this folder against REVISION
	@.ci/report $(REVISION)

docker-build: ## the image drtune:cuda; TORCH=cpu makes drtune:cpu, without CUDA
	@docker build --tag $(IMAGE) --build-arg BASE=$(BASE) --build-arg TORCH=$(TORCH) \
	  --build-arg TORCH_INDEX=$(TORCH_INDEX) --build-arg COMMIT="$$(git describe --always --abbrev=40 --dirty)" .
	@docker image inspect --format '{{.Size}}' $(IMAGE) | awk '{printf "$(IMAGE): %.2f GB\n", $$1 / 1e9}'

image:
	@docker image inspect $(IMAGE) >/dev/null 2>&1 || { echo "there is no image $(IMAGE): run make docker-build"; exit 1; }

docker-run: image ## dvc repro in the image, on this folder; CMD='drtune check', DOCKER_FLAGS='--gpus all'
	@$(IN_IMAGE) $(CMD)

docker-report: image ## make report in the image
	@$(IN_IMAGE) .ci/report $(REVISION)

docker-verify: image $(READY) ## the pipeline outside and inside the image: the same bytes on CPU
	@python docker/verify.py $(IMAGE)

pretrain: $(READY) ## make assets/ anew; needs the images that pretrain/params.yaml names
	@cd pretrain && dvc repro && cp encoder.safetensors ../assets/omniglot_resnet10t.safetensors

lock: $(READY) ## resolve requirements.lock anew from pyproject.toml
	@pip install --quiet uv && uv pip compile --quiet --universal --python-version 3.11 --no-header \
	  --no-annotate --no-emit-index-url --no-emit-find-links --upgrade --extra test --extra lint \
	  pyproject.toml --output-file requirements.lock
	@uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url \
	  --no-emit-find-links --upgrade --constraint requirements.lock docker/requirements.in \
	  | grep -vxFf requirements.lock > docker/requirements.lock
	@$(MAKE) --no-print-directory numbers.lock

numbers.lock: requirements.lock # the pins that can move a number; the stages depend on them
	@grep -E '^(torch|torchvision|timm|numpy|pillow[a-z-]*|scipy|scikit-learn|safetensors|accelerate|pyarrow|peft)==' \
	  $< > $@

audit: ## known vulnerabilities of the pinned packages (pip-audit)
	@$(PYTHON) -m venv .venv-audit && .venv-audit/bin/pip install --quiet pip-audit
	@.venv-audit/bin/pip-audit --no-deps --disable-pip --requirement requirements.lock \
	  --requirement docker/requirements.lock

sbom: image ## sbom.json: what is in the image, in CycloneDX's form
	@$(PYTHON) -m venv .venv-audit && .venv-audit/bin/pip install --quiet cyclonedx-bom
	@docker run --rm --entrypoint sh --user root $(IMAGE) -c 'pip --python /opt/venv/bin/python freeze --all' > .venv-audit/image.txt
	@.venv-audit/bin/cyclonedx-py requirements .venv-audit/image.txt --output-file sbom.json

clean: ## remove the environment; data, cache and runs stay
	rm -rf .venv

# The stamp comes last, so an interrupted installation is taken up again by the next call.
$(READY):
	@command -v git >/dev/null || { echo "git is missing: install it, DVC works inside a git repository"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else \
	  f"{sys.executable} is Python {v[0]}.{v[1]}; 3.11 to 3.13 are supported: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@echo "setting up .venv ($(if $(filter cpu,$(TORCH)),about 2 GB,about 6 GB with PyTorch's CUDA libraries); once)"
	@$(PYTHON) -m venv .venv
ifeq ($(TORCH),cpu)
	@python -m pip install --quiet --disable-pip-version-check --no-deps --index-url $(TORCH_INDEX) \
	  $$(grep -E '^torch(vision)?==' requirements.lock)
	@grep -vE '^(cuda-|nvidia-|triton==)' requirements.lock > .venv/requirements.lock
else
	@cp requirements.lock .venv/
endif
	@grep '^psycopg' docker/requirements.lock >> .venv/requirements.lock  # for the tests against PostgreSQL
	@python -m pip install --quiet --disable-pip-version-check --requirement .venv/requirements.lock
	@python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@rm -f .venv/ready-* && touch $(READY)
