"""LP-FT; see `method.py`."""
