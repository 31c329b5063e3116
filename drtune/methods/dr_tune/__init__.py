"""DR-Tune; see `method.py`."""
