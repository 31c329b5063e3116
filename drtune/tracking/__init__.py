"""What a run was, written down: records, stage keys, MLflow."""
