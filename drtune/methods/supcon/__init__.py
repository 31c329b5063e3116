"""Supervised contrast; see `method.py`."""
