"""The four stages of dvc.yaml, one a file, which imports science alone; run with `python -m pipeline STAGE`."""
