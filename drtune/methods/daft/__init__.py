"""DAFT; see `method.py`."""
