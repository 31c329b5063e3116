"""The SP family; see `method.py`."""
