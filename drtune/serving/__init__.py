"""Finished models as MLflow models: from encoded images to classes and probabilities."""
