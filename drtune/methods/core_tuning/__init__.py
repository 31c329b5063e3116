"""Core-tuning; see `method.py`."""
