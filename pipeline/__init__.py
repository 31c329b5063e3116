"""The four stages of dvc.yaml, and all that knows file names, DVC and the life of a run."""
