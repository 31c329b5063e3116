"""Optuna studies of the settings: space, workers, winner."""
