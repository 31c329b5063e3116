"""Bi-tuning; see `method.py`."""
