"""The four stages of dvc.yaml, one a file, which imports science alone: `python -m pipeline STAGE`."""
