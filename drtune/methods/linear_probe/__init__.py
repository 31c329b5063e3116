"""Linear probe; see `method.py`."""
