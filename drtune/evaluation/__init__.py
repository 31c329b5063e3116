"""Measures, pictures and reports of a finished model."""
