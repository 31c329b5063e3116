"""Batch spectral shrinkage; see `method.py`."""
