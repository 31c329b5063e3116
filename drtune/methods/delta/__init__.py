"""DELTA; see `method.py`."""
