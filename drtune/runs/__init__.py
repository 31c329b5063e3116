"""The life of a run: runner, record, key, MLflow, restore, verify, upkeep."""
