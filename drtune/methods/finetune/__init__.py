"""Plain fine-tuning; see `method.py`."""
