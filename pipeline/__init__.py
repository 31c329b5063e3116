"""The four stages of dvc.yaml, and all that knows file names, DVC and the life of a run."""

import os

# OpenMP's threads spin while they wait for each other; beside any other busy process that makes the many
# small steps of a training ten times slower. It is read once, when PyTorch is loaded, which comes later.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
