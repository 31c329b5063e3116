# One image for the pipeline, the MLflow server and the workers of a study; docs/deploy.md shows its uses.
#   docker build -t drtune:cuda .                          CUDA packages, exactly requirements.lock
#   docker build -t drtune:cpu --build-arg TORCH=cpu .     PyTorch's CPU wheels, a third of the size
ARG BASE=python:3.11-slim-bookworm

# hadolint ignore=DL3006
FROM ${BASE} AS base
# Debian's mirrors keep one version of each: the base decides which.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends git tini \
 && rm -rf /var/lib/apt/lists/* \
 && git config --system --add safe.directory '*' \
 && git config --system user.name drtune \
 && git config --system user.email drtune@localhost

# The dependencies alone, so that another edit of pyproject.toml leaves the packages in Docker's cache.
FROM base AS wanted
COPY pyproject.toml /wanted/
RUN python -c 'import tomllib; print(*tomllib.load(open("/wanted/pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
    > /wanted/packages.txt

FROM base AS packages
ARG TORCH=cuda
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /wanted
COPY --from=wanted /wanted/packages.txt ./
COPY docker/requirements.lock docker.lock
COPY requirements.lock ./
RUN python -m venv --without-pip /opt/venv \
 && case "$TORCH" in \
      cuda) ;; \
      cpu) grep -E '^torch(vision)?==' requirements.lock > torch.txt \
        && pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --index-url "$TORCH_INDEX" --requirement torch.txt ;; \
      *) echo "TORCH is '$TORCH'; known: cuda, cpu" >&2; exit 1 ;; \
    esac \
 && pip --python /opt/venv/bin/python install --no-cache-dir \
      --constraint requirements.lock --requirement docker.lock --requirement packages.txt

# The workspace for a container without a mount: any user id may write, and DVC does without git. What the
# package says of itself stands apart, because the code is that of the current folder, mounted or baked.
FROM packages AS project
WORKDIR /workspace
COPY . .
RUN mkdir /opt/project \
 && /opt/venv/bin/python -c 'import setuptools.build_meta as b; b.prepare_metadata_for_build_wheel("/opt/project")' \
 && rm -r /opt/project/*.egg-info \
 && printf '[core]\n    no_scm = true\n' > .dvc/config.local \
 && chmod -R a+rwX .

FROM base
# Any user id may write here, and a volume starts with the rights of the folder that it is mounted on.
RUN mkdir --mode=1777 /artifacts /cache /home/drtune \
 && mkdir --mode=777 /workspace
COPY --from=packages /opt/venv /opt/venv
COPY docker/entrypoint.py /usr/local/bin/entrypoint
COPY docker/drtune /usr/local/bin/drtune
COPY --from=project /opt/project /opt/project
COPY --from=project /workspace /workspace
# SHELL: bash makes way for a stage's command, which is then dvc's own child and ends with it; dash stays between.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/workspace:/opt/project \
    PYTHONUNBUFFERED=1 \
    HOME=/home/drtune \
    USER=drtune \
    DO_NOT_TRACK=1 \
    DVC_NO_ANALYTICS=1 \
    GIT_PYTHON_REFRESH=quiet \
    MLFLOW_DISABLE_TELEMETRY=true \
    MLFLOW_HOST=0.0.0.0 \
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
    MLFLOW_WORKERS=1 \
    OMP_WAIT_POLICY=PASSIVE \
    SHELL=/bin/bash
WORKDIR /workspace
# Another user id is given at run time: docker run --user "$(id -u):$(id -g)".
USER 1000:1000
ENTRYPOINT ["tini", "--", "entrypoint"]
CMD ["dvc", "repro"]

# `docker run --env DRTUNE_IMAGE=` with the image's digest replaces this in the tags of the runs.
ARG COMMIT=""
ARG TORCH=cuda
ENV GIT_COMMIT=$COMMIT \
    DRTUNE_IMAGE="$TORCH image of commit $COMMIT"
LABEL org.opencontainers.image.title="DR-Tune Pipeline" \
      org.opencontainers.image.description="Fine-tune a pretrained vision model with DR-Tune; DVC, MLflow, Optuna" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="$COMMIT"
